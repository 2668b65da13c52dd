//! A controller across a network: its association, properties as commands, Keep Alive, and the way back after a loss.
//!
//! No thread does any of it: whoever polls one of the controller's queues, or the controller, does it on the way, a few
//! times a second, and none of them waits for an answer. An attempt to connect again takes one step at a poll
//! ([`reconnect`]), each within `Config::exchange_timeout`. Only what a caller waits for anyway blocks: attaching, admin
//! commands, making a queue.

mod loss;
mod reconnect;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use doorbell_spec::admin as commands;
use doorbell_spec::fabrics::command::{property_get, property_set};
use doorbell_spec::fabrics::connect::CNTLID_DYNAMIC;
use doorbell_spec::identify::IdentifyController;
use doorbell_spec::status::Status;

use self::loss::Stopping;
use self::reconnect::{Back, Failed, Known, judge};
use super::bringup::{Capabilities, Registers};
use super::recovery::Recovery;
use super::removal::Notices;
use super::setup::{Introduction, enable_retry_delays, set_up};
use super::{AttachError, Config, Controller, Event, Inner, Limits, lock};
use crate::clock::{Clock, Deadline};
use crate::device::{DeviceError, Properties, Width};
use crate::error::CommandError;
use crate::memory::DmaMemory;
use crate::queue::{Io, Queue};
use crate::quirk::Quirks;
use crate::transport::tcp::association::{Association, KeepAlive, Policy, Pulse, Standing};
use crate::transport::tcp::attempt::{Attempt, next_turn, turn_of, wait};
use crate::transport::tcp::target::{Link, Shape, Target};
use crate::transport::tcp::{Keeper, LinkError, Reconnection, Socket, Tcp, TcpError};
use crate::transport::{Any, Violation};

/// Keep Alive Timeout where the address gives none.
const KATO: Duration = Duration::from_secs(5);
/// From a loss to the first attempt where the address gives none, and how long attempts are made.
const RECONNECT: Duration = Duration::from_secs(1);
const LOSS: Duration = Duration::from_secs(600);
/// How long commands in flight may still be carried out by a controller that watches over no time-out.
const QUIESCE_WITHOUT_KATO: Duration = Duration::from_secs(10);
/// How long a target may take to give up a queue of the same identifier, whose connection has just been closed.
const HANDOVER: Duration = Duration::from_secs(2);
/// Tag of the driver's own Keep Alive on the admin queue.
pub(super) const KEEP_ALIVE_TAG: u64 = u64::MAX;
/// Tag of the driver's own Abort.
pub(super) const ABORT_TAG: u64 = u64::MAX - 2;
/// Tags of what stops a controller whose association has been lost: CC.EN=0, and the look at CSTS.
pub(super) const STOP_TAG: u64 = u64::MAX - 3;
pub(super) const STOPPED_TAG: u64 = u64::MAX - 4;

/// What a controller across a network needs beyond its admin queue.
pub(super) struct Fabric {
    target: Target,
    kato: Duration,
    state: Mutex<State>,
    /// The attempt to make a new association that is under way.
    attempt: Mutex<Option<Attempt<Result<Back, Failed>>>>,
}

struct State {
    association: Association,
    keep_alive: KeepAlive,
    cntlid: u16,
    /// Commands that an abort has been sent for, by queue and command identifier, and when.
    aborted: BTreeMap<(u16, u16), Duration>,
    /// The connections of the association, to be ended with it; that of the admin queue, and those of the others.
    admin: Weak<Socket>,
    sockets: Vec<Weak<Socket>>,
    /// How far a lost association has come to its end.
    stopping: Option<Stopping>,
}

/// An admin queue on which a controller has been brought up.
struct Up {
    admin: Queue,
    cntlid: u16,
    socket: Weak<Socket>,
    capabilities: Capabilities,
    identity: Box<IdentifyController>,
    limits: Limits,
}

/// The properties of a controller, through its admin queue.
struct AdminProperties<'a> {
    admin: Mutex<&'a mut Queue>,
    address: &'a str,
    timeout: Duration,
}

impl AdminProperties<'_> {
    fn run(&self, what: &str, command: doorbell_spec::command::Sqe) -> Result<u64, DeviceError> {
        let failed = |error: CommandError| DeviceError::Gone {
            address: self.address.to_owned(),
            what: format!("{what}: {error}"),
        };
        let done = lock(&self.admin).run_within(Io::internal(command), self.timeout);
        done.map(|done| done.result).map_err(failed)
    }
}

impl Properties for AdminProperties<'_> {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let size = if width == Width::Qword { 8 } else { 4 };
        self.run("Property Get", property_get(offset as u32, size))
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let size = if width == Width::Qword { 8 } else { 4 };
        self.run("Property Set", property_set(offset as u32, size, value)).map(drop)
    }
}

/// Does something with the registers behind `admin`.
fn with_registers<T>(
    admin: &mut Queue,
    address: &str,
    timeout: Duration,
    clock: &dyn Clock,
    act: impl FnOnce(&Registers<'_>) -> T,
) -> T {
    let properties = AdminProperties { admin: Mutex::new(admin), address, timeout };
    act(&Registers { properties: &properties, address, device: None, clock })
}

impl Fabric {
    /// Connects and brings the controller up.
    pub(super) fn attach(
        target: Target,
        config: &Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Controller, AttachError> {
        let options = &target.options;
        let discovery = target.nqn == doorbell_spec::fabrics::DISCOVERY_NQN;
        let kato = options.kato.unwrap_or(if discovery { Duration::ZERO } else { KATO });
        let queues = options.queues.unwrap_or(config.io_queues);
        let memory = DmaMemory::without_device(&target.address, config.memory.clone())?;
        let timeout = config.admin_timeout;
        let up = bring_up(&target, kato, queues, config, &memory, &clock)?;
        let traffic_based = up.identity.ctratt().tbkas();
        let policy = Policy {
            reconnect: options.reconnect.unwrap_or(RECONNECT),
            loss: options.loss.unwrap_or(LOSS),
            fast_fail: options.fast_fail.unwrap_or(Duration::MAX),
            quiesce: options.quiesce.unwrap_or_else(|| quiesce(kato, &up.identity)),
        };
        let state = State {
            association: Association::new(policy),
            keep_alive: KeepAlive::new(kato, traffic_based, clock.now()),
            cntlid: up.cntlid,
            aborted: BTreeMap::new(),
            admin: up.socket,
            sockets: Vec::new(),
            stopping: None,
        };
        let address = target.address.clone();
        let fabric = Self { target, kato, state: Mutex::new(state), attempt: Mutex::default() };
        Ok(Controller::assemble(Inner {
            admin: Mutex::new(up.admin),
            identity: up.identity,
            capabilities: up.capabilities,
            limits: up.limits,
            queue_ids: Mutex::new((1..=up.limits.max_io_queues).collect()),
            link: super::Link::Tcp(Box::new(fabric)),
            address,
            memory,
            clock,
            admin_timeout: timeout,
            ended: Mutex::new(false),
            events: Mutex::default(),
            notices: Notices::default(),
            recovery: Recovery::new(config.recovery.clone()),
            gate: Arc::default(),
        }))
    }

    /// A connection for an I/O queue in the association that there is now. Never blocks.
    async fn open(&self, shape: &Shape, clock: &dyn Clock) -> Result<(Link, u64), TcpError> {
        let (cntlid, epoch) = {
            let state = lock(&self.state);
            (state.cntlid, state.association.epoch())
        };
        let deadline = Deadline::after(clock, HANDOVER);
        let (link, _) = loop {
            match self.target.connect(shape, cntlid, Duration::ZERO, clock).await {
                Err(TcpError::Refused { status, .. })
                    if is_taken(status) && !deadline.passed(clock) =>
                {
                    next_turn().await;
                }
                other => break other?,
            }
        };
        let mut state = lock(&self.state);
        state.sockets.retain(|socket| socket.strong_count() > 0);
        state.sockets.push(Arc::downgrade(link.socket()));
        if state.association.epoch() != epoch || !is_up(&mut state, clock.now()) {
            // Lost meanwhile: the connection must not outlive its association.
            link.socket().abort();
        }
        Ok((link, epoch))
    }

    /// Whether the controller can no longer be reached.
    pub(super) fn is_down(&self, now: Duration) -> bool {
        !is_up(&mut lock(&self.state), now)
    }

    /// Does something with the controller's registers.
    pub(super) fn with_registers<T>(
        &self,
        admin: &mut Queue,
        clock: &dyn Clock,
        act: impl FnOnce(&Registers<'_>) -> T,
    ) -> T {
        with_registers(admin, &self.target.address, self.target.timeout, clock, act)
    }

    /// Ends it for good.
    pub(super) fn end(&self, error: LinkError) {
        lock(&self.state).association.end(error);
    }

    pub(super) fn answered(&self) {
        lock(&self.state).keep_alive.answered();
    }
}

fn is_up(state: &mut State, now: Duration) -> bool {
    matches!(state.association.standing(now), Standing::Up(_))
}

/// Statuses of a Connect for a queue that the target has not let go of yet.
fn is_taken(status: Status) -> bool {
    [Status::COMMAND_SEQUENCE_ERROR, Status::INVALID_QUEUE_ID, Status::FABRICS_CONTROLLER_BUSY]
        .iter()
        .any(|taken| status.is(*taken))
}

/// How long after a loss the controller may carry out what it has (Base 2.1, 9.6 "Communication Loss Handling", which came
/// by TP4129): until it has noticed, which takes up to 2 x KATO with command based Keep Alive and 3 x KATO with traffic
/// based, and CQT beyond.
fn quiesce(kato: Duration, identity: &IdentifyController) -> Duration {
    if identity.cntrltype == IdentifyController::CNTRLTYPE_DISCOVERY {
        return Duration::ZERO;
    }
    if kato.is_zero() {
        return QUIESCE_WITHOUT_KATO;
    }
    let times = if identity.ctratt().tbkas() { 3 } else { 2 };
    kato * times + Duration::from_millis(identity.cqt.get().into())
}

fn bring_up(
    target: &Target,
    kato: Duration,
    queues: u16,
    config: &Config,
    memory: &Arc<DmaMemory>,
    clock: &Arc<dyn Clock>,
) -> Result<Up, AttachError> {
    let timeout = config.admin_timeout;
    let shape = Shape::admin(Controller::ADMIN_DEPTH, Controller::ADMIN_TRANSFER, timeout);
    let connecting = target.connect(&shape, CNTLID_DYNAMIC, kato, &**clock);
    let (link, connected) = wait(&**clock, connecting)?;
    let socket = Arc::downgrade(link.socket());
    let transport = Tcp::new(link, shape, clock.clone(), None, 0);
    let mut admin =
        Queue::new(Any::Tcp(Box::new(transport)), memory.home(), clock.clone(), timeout);
    let address = &target.address;
    let capabilities = with_registers(&mut admin, address, target.timeout, &**clock, |registers| {
        let capabilities = registers.inspect(Quirks::NONE, config.ready_limit)?;
        registers.disable(&capabilities)?;
        registers.enable(&capabilities, None)?;
        Ok::<_, AttachError>(capabilities)
    });
    // The link's own story is the better one.
    let capabilities = capabilities.map_err(|error| link_error(&admin, target, error))?;
    let (identity, limits) = set_up(&mut admin, memory, &capabilities, queues, address)
        .map_err(|error| link_error(&admin, target, error))?;
    let unusable = |what: String| AttachError::Unusable { address: address.clone(), what };
    let discovery = identity.cntrltype == IdentifyController::CNTRLTYPE_DISCOVERY;
    if identity.icdoff.get() != 0 && !discovery {
        return Err(unusable(format!("ICDOFF is {}; this driver puts data at 0", identity.icdoff)));
    }
    if identity.ioccsz.get() < 4 && !discovery {
        return Err(unusable(format!("IOCCSZ is {}: no command fits", identity.ioccsz)));
    }
    admin.limit_transfer(limits.max_transfer);
    if !discovery {
        enable_retry_delays(&mut admin, memory, &identity)
            .map_err(|source| AttachError::Command {
                address: address.clone(),
                what: Introduction::WHAT,
                source,
            })
            .map_err(|error| link_error(&admin, target, error))?;
    }
    Ok(Up { admin, cntlid: connected.cntlid(), socket, capabilities, identity, limits })
}

/// If the connection was lost, that rather than what it made fail.
fn link_error(admin: &Queue, target: &Target, error: AttachError) -> AttachError {
    match admin.failure() {
        Some(Violation::Lost(source)) => {
            let during = "bringing the controller up";
            TcpError::Link { address: target.address.clone(), during, source }.into()
        }
        _ => error,
    }
}

impl Inner {
    /// An I/O queue over a connection of its own.
    pub(super) fn connect_queue(
        self: &Arc<Self>,
        fabric: &Fabric,
        qid: u16,
        depth: u16,
        max_transfer: usize,
        timeout: Duration,
    ) -> Result<Any, TcpError> {
        let max_in_capsule = self.identity.max_in_capsule() as usize;
        let disconnect = self.identity.ofcs.get() & IdentifyController::OFCS_DISCONNECT != 0;
        let shape = Shape { qid, depth, max_transfer, max_in_capsule, disconnect, timeout };
        let (link, epoch) = self.open_in_time(fabric, &shape)?;
        let keeper: Arc<dyn Keeper> = self.clone();
        let transport = Tcp::new(link, shape, self.clock.clone(), Some(keeper), epoch);
        Ok(Any::Tcp(Box::new(transport)))
    }

    /// A connection for a new queue, whose maker waits for an association that is about to come back.
    fn open_in_time(&self, fabric: &Fabric, shape: &Shape) -> Result<(Link, u64), TcpError> {
        let clock = &*self.clock;
        let deadline = Deadline::after(clock, shape.timeout);
        let lost = |source| {
            let (address, during) = (fabric.target.address.clone(), "waiting to connect again");
            TcpError::Link { address, during, source }
        };
        let mut round = 0;
        loop {
            match self.tend(false) {
                Standing::Up(epoch) => match wait(clock, fabric.open(shape, clock)) {
                    // What was opened in an association that is lost by now is of no use.
                    result if self.tend(false) == Standing::Up(epoch) => return result,
                    _ => {}
                },
                Standing::Over(error) => return Err(lost(error)),
                Standing::Down { failing, .. } => {
                    if failing || deadline.passed(clock) {
                        let what = "the attempts to connect again";
                        return Err(lost(LinkError::TimedOut { what, after: deadline.after }));
                    }
                    clock.pause(round, Duration::from_millis(1));
                    round += 1;
                }
            }
        }
    }

    /// Tends the association, through an admin queue that nobody else uses now.
    fn tend_admin(&self, fabric: &Fabric, admin: &mut Queue, traffic: bool) {
        let now = self.clock.now();
        if *lock(&self.ended) {
            fabric.end(LinkError::ShutDown);
            return;
        }
        let (up, due) = {
            let state = &mut *lock(&fabric.state);
            (is_up(state, now), state.is_due(now))
        };
        if due {
            // Whether or not the controller has said that it stopped: long enough has been waited.
            lock(&fabric.state).stop_ends();
            return self.recover(fabric, admin);
        }
        *lock(&fabric.attempt) = None;
        if !up {
            return self.see_it_stop(fabric, admin);
        }
        self.take_events(admin);
        let epoch = lock(&fabric.state).association.epoch();
        if let Some(Violation::Lost(error)) = admin.failure() {
            return fabric.lost(epoch, error, now, false);
        }
        let pulse = lock(&fabric.state).keep_alive.check(traffic, now);
        match pulse {
            Pulse::Wait => {}
            Pulse::Send => {
                let io = Io::internal(commands::keep_alive()).tag(KEEP_ALIVE_TAG);
                if admin.submit(io).is_err() {
                    lock(&fabric.state).keep_alive.not_sent();
                }
            }
            Pulse::Lost => {
                let error = LinkError::TimedOut { what: "Keep Alive", after: fabric.kato };
                fabric.lost(epoch, error, now, false);
            }
        }
    }

    /// One step of an attempt to make a new association.
    fn recover(&self, fabric: &Fabric, admin: &mut Queue) {
        let mut attempt = lock(&fabric.attempt);
        let known = || Known {
            target: fabric.target.clone(),
            kato: fabric.kato,
            identity: *self.identity,
            capabilities: self.capabilities,
            limits: self.limits,
            admin_timeout: self.admin_timeout,
            memory: self.memory.clone(),
            clock: self.clock.clone(),
        };
        let step = attempt.get_or_insert_with(|| reconnect::attempt(known()));
        let Some(result) = turn_of(step) else { return };
        *attempt = None;
        let now = self.clock.now();
        let state = &mut *lock(&fabric.state);
        match result {
            Ok(back) => {
                let traffic_based = self.identity.ctratt().tbkas();
                state.keep_alive = KeepAlive::new(fabric.kato, traffic_based, now);
                state.cntlid = back.cntlid;
                state.aborted.clear();
                state.admin = back.socket;
                state.sockets.clear();
                state.association.up();
                *admin = back.admin;
                lock(&self.events).restart(Event::Reconnected);
                self.recovery.count(|counters| &mut counters.reconnections);
            }
            Err((error, for_good)) => state.association.failed(error, for_good, now),
        }
    }
}

impl Keeper for Inner {
    fn tend(&self, traffic: bool) -> Standing {
        let super::Link::Tcp(fabric) = &self.link else {
            return Standing::Over(LinkError::ShutDown);
        };
        // Whoever finds the admin queue in use leaves it to the one who uses it.
        let mut admin = self.admin.try_lock().ok();
        self.part(fabric, admin.as_deref_mut());
        if let Some(admin) = &mut admin {
            self.tend_admin(fabric, admin, traffic);
        }
        lock(&fabric.state).association.standing(self.clock.now())
    }

    fn lost(&self, epoch: u64, error: LinkError) {
        let super::Link::Tcp(fabric) = &self.link else { return };
        fabric.lost(epoch, error, self.clock.now(), true);
        self.part(fabric, self.admin.try_lock().ok().as_deref_mut());
    }

    fn reconnect(self: Arc<Self>, shape: Shape) -> Reconnection {
        Box::pin(async move {
            let super::Link::Tcp(fabric) = &self.link else { return None };
            let epoch = lock(&fabric.state).association.epoch();
            match fabric.open(&shape, &*self.clock).await {
                Ok(opened) => Some(opened),
                Err(error) => {
                    let (error, _) = judge(&error.into());
                    Keeper::lost(&*self, epoch, error);
                    None
                }
            }
        })
    }

    fn abort(&self, shape: &Shape, cid: u16) -> bool {
        let super::Link::Tcp(fabric) = &self.link else { return false };
        let (qid, now) = (shape.qid, self.clock.now());
        let first = {
            let aborted = &mut lock(&fabric.state).aborted;
            // What was aborted long ago has ended since, and its identifier is another command's.
            aborted.retain(|_, at| now.saturating_sub(*at) < shape.timeout * 3);
            aborted.insert((qid, cid), now).is_none()
        };
        // Not waited for where somebody else uses the admin queue: the command's own answer is what counts.
        if first {
            self.recovery.count(|counters| &mut counters.overdue);
        }
        if first && let Ok(mut admin) = self.admin.try_lock() {
            let abort = Io::internal(commands::abort(qid, cid)).tag(ABORT_TAG);
            if admin.submit(abort).is_ok() {
                self.recovery.count(|counters| &mut counters.aborts);
            }
        }
        first
    }

    fn closed(&self, qid: u16) {
        if let super::Link::Tcp(fabric) = &self.link {
            lock(&fabric.state).aborted.retain(|&(queue, _), _| queue != qid);
        }
        lock(&self.queue_ids).insert(qid);
    }
}
