//! A controller across a network: its association, properties as commands, Keep Alive, and the way back after a loss.
//!
//! No thread does any of it: whoever polls one of the controller's queues, or the controller, does it on the way, a few
//! times a second. While the association is up that is one command without waiting for its answer. An attempt to
//! connect again is made by one of them, and keeps that one for as long as it takes (`Config::exchange_timeout` for each
//! step at most); the others go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use doorbell_spec::admin as commands;
use doorbell_spec::fabrics::command::{property_get, property_set};
use doorbell_spec::fabrics::connect::CNTLID_DYNAMIC;
use doorbell_spec::identify::IdentifyController;
use doorbell_spec::status::Status;

use super::bringup::{Capabilities, Registers};
use super::recovery::Recovery;
use super::setup::{Introduction, enable_retry_delays, set_up};
use super::{AttachError, Config, Controller, Event, Inner, Limits, lock};
use crate::clock::{Clock, Deadline};
use crate::device::{DeviceError, Properties, Width};
use crate::error::CommandError;
use crate::memory::DmaMemory;
use crate::queue::{Io, Queue};
use crate::quirk::Quirks;
use crate::transport::tcp::association::{Association, KeepAlive, Policy, Pulse, Standing};
use crate::transport::tcp::target::{Link, Shape, Target};
use crate::transport::tcp::{Keeper, LinkError, Socket, Tcp, TcpError};
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
const ABORT_TAG: u64 = u64::MAX - 2;

/// What a controller across a network needs beyond its admin queue.
pub(super) struct Fabric {
    target: Target,
    kato: Duration,
    queues: u16,
    state: Mutex<State>,
}

struct State {
    association: Association,
    keep_alive: KeepAlive,
    cntlid: u16,
    /// Commands that an abort has been sent for, by queue and command identifier, and when.
    aborted: BTreeMap<(u16, u16), Duration>,
    /// Every connection of the association, to be ended with it.
    sockets: Vec<Weak<Socket>>,
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
        let up = bring_up(&target, kato, queues, timeout, &memory, &clock)?;
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
            sockets: vec![up.socket],
        };
        let address = target.address.clone();
        let fabric = Self { target, kato, queues, state: Mutex::new(state) };
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
            recovery: Recovery::new(config.recovery.clone()),
        }))
    }

    /// A connection for an I/O queue in the association that there is now.
    fn open(&self, shape: &Shape, clock: &dyn Clock) -> Result<(Link, u64), TcpError> {
        let (cntlid, epoch) = {
            let state = lock(&self.state);
            (state.cntlid, state.association.epoch())
        };
        let deadline = Deadline::after(clock, HANDOVER);
        let mut round = 0;
        let (link, _) = loop {
            match self.target.connect(shape, cntlid, Duration::ZERO, clock) {
                Err(TcpError::Refused { status, .. })
                    if is_taken(status) && !deadline.passed(clock) =>
                {
                    clock.pause(round, Duration::from_millis(1));
                    round += 1;
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

    fn lost(&self, epoch: u64, error: LinkError, now: Duration) {
        let mut state = lock(&self.state);
        if state.association.lost(epoch, error, now) {
            // Nothing that the kernel holds of any queue may reach the target from here on.
            for socket in state.sockets.drain(..).filter_map(|socket| socket.upgrade()) {
                socket.abort();
            }
        }
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

/// How long after a loss the controller may carry out what it has (Base 2.1, "Communication Loss Handling"): until it
/// has noticed by KATO, and CQT beyond.
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
    timeout: Duration,
    memory: &Arc<DmaMemory>,
    clock: &Arc<dyn Clock>,
) -> Result<Up, AttachError> {
    let shape = Shape::admin(Controller::ADMIN_DEPTH, Controller::ADMIN_TRANSFER, timeout);
    let (link, connected) = target.connect(&shape, CNTLID_DYNAMIC, kato, &**clock)?;
    let socket = Arc::downgrade(link.socket());
    let transport = Tcp::new(link, shape, clock.clone(), None, 0);
    let mut admin =
        Queue::new(Any::Tcp(Box::new(transport)), memory.home(), clock.clone(), timeout);
    let address = &target.address;
    let capabilities = with_registers(&mut admin, address, target.timeout, &**clock, |registers| {
        let capabilities = registers.inspect(Quirks::NONE)?;
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
        let (link, epoch) = fabric.open(&shape, &*self.clock)?;
        let keeper: Arc<dyn Keeper> = self.clone();
        let transport = Tcp::new(link, shape, self.clock.clone(), Some(keeper), epoch);
        Ok(Any::Tcp(Box::new(transport)))
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
            (is_up(state, now), state.association.is_due(now))
        };
        if due {
            return self.recover(fabric, admin);
        }
        if !up {
            return;
        }
        self.take_events(admin);
        let epoch = lock(&fabric.state).association.epoch();
        if let Some(Violation::Lost(error)) = admin.failure() {
            return fabric.lost(epoch, error, now);
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
                fabric.lost(epoch, error, now);
            }
        }
    }

    /// One attempt to make a new association.
    fn recover(&self, fabric: &Fabric, admin: &mut Queue) {
        let found = bring_up(
            &fabric.target,
            fabric.kato,
            fabric.queues,
            self.admin_timeout,
            &self.memory,
            &self.clock,
        );
        let now = self.clock.now();
        let failed = |error, for_good| lock(&fabric.state).association.failed(error, for_good, now);
        let up = match found {
            Ok(up) => up,
            Err(error) => {
                let (error, for_good) = judge(&error);
                return failed(error, for_good);
            }
        };
        // Queues, namespaces and buffers rest on what the controller said of itself before.
        let same = up.identity.serial() == self.identity.serial()
            && up.identity.model() == self.identity.model()
            && up.identity.subnqn == self.identity.subnqn
            && up.limits.max_transfer >= self.limits.max_transfer
            && up.limits.max_queue_entries >= self.limits.max_queue_entries
            && up.identity.max_in_capsule() == self.identity.max_in_capsule();
        if !same {
            return failed(LinkError::Changed, true);
        }
        {
            let state = &mut *lock(&fabric.state);
            let traffic_based = up.identity.ctratt().tbkas();
            state.keep_alive = KeepAlive::new(fabric.kato, traffic_based, now);
            state.cntlid = up.cntlid;
            state.aborted.clear();
            state.sockets = vec![up.socket];
            state.association.up();
        }
        *admin = up.admin;
        lock(&self.events).restart(Event::Reconnected);
    }
}

/// What an attempt that failed means for the next one.
fn judge(error: &AttachError) -> (LinkError, bool) {
    match error {
        AttachError::Tcp(TcpError::Link { source, .. }) => (*source, *source == LinkError::Digests),
        AttachError::Tcp(TcpError::Refused { status, .. }) => {
            (LinkError::Refused { status: *status }, status.dnr())
        }
        AttachError::Tcp(TcpError::Socket { source, .. }) => {
            (LinkError::Socket { errno: source.raw_os_error().unwrap_or(0) }, false)
        }
        AttachError::Tcp(TcpError::Resolve { .. }) => (LinkError::Unresolved, false),
        AttachError::Unusable { .. } => (LinkError::Changed, true),
        _ => (LinkError::NotUp, false),
    }
}

impl Keeper for Inner {
    fn tend(&self, traffic: bool) -> Standing {
        let super::Link::Tcp(fabric) = &self.link else {
            return Standing::Over(LinkError::ShutDown);
        };
        // Whoever finds the admin queue in use leaves it to the one who uses it.
        if let Ok(mut admin) = self.admin.try_lock() {
            self.tend_admin(fabric, &mut admin, traffic);
        }
        lock(&fabric.state).association.standing(self.clock.now())
    }

    fn lost(&self, epoch: u64, error: LinkError) {
        let super::Link::Tcp(fabric) = &self.link else { return };
        let now = self.clock.now();
        // A controller that can still be reached is asked to stop: then nothing old can happen any more.
        let alive = !fabric.is_down(now) && lock(&fabric.state).association.epoch() == epoch;
        let stopped = alive
            && self.admin.try_lock().is_ok_and(|mut admin| {
                admin.failure().is_none()
                    && fabric.with_registers(&mut admin, &*self.clock, |registers| {
                        registers.disable(&self.capabilities).is_ok()
                    })
            });
        fabric.lost(epoch, error, now);
        if stopped {
            lock(&fabric.state).association.is_quiet(self.clock.now());
        }
    }

    fn reconnect(&self, shape: &Shape) -> Option<(Link, u64)> {
        let super::Link::Tcp(fabric) = &self.link else { return None };
        let epoch = lock(&fabric.state).association.epoch();
        match fabric.open(shape, &*self.clock) {
            Ok(opened) => Some(opened),
            Err(error) => {
                let (error, _) = judge(&error.into());
                fabric.lost(epoch, error, self.clock.now());
                None
            }
        }
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
        if first && let Ok(mut admin) = self.admin.try_lock() {
            let abort = Io::internal(commands::abort(qid, cid)).tag(ABORT_TAG);
            let _sent = admin.submit(abort);
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
