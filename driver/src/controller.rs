//! A controller: bring-up, admin commands, namespaces, queues, events, shutdown.

mod admin;
mod bringup;
mod config;
mod event;
mod fabrics;
mod format;
mod recovery;
mod removal;
mod setup;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use doorbell_spec::identify::IdentifyController;
use doorbell_spec::register;

pub use self::admin::LogPage;
pub use self::bringup::BringUpError;
use self::bringup::{AdminRings, Capabilities, Registers};
pub use self::config::{Config, QueueConfig};
pub use self::event::Event;
use self::event::Events;
use self::fabrics::Fabric;
pub(crate) use self::recovery::Gone;
use self::recovery::Recovery;
pub use self::recovery::{RecoveryConfig, RecoveryCounters, ResetError};
use self::removal::Notices;
use self::setup::{Introduction, retry_delays, set_up};
use crate::address::{Address, TcpOptions};
use crate::clock::{Clock, SystemClock};
use crate::device::{Device, Doorbells, open};
use crate::discovery;
use crate::error::{AttachError, CommandError, QueueError};
use crate::memory::{Buffer, DmaMemory, MemoryError};
use crate::queue::{Gate, Io, Queue};
use crate::quirk::{Override, Quirks};
use crate::transport::pcie::{Layout, Pcie, ShadowDoorbells};
use crate::transport::tcp::LinkError;
use crate::transport::tcp::target::Target;
use crate::transport::{Any, CloseError, Transport, Trouble};

/// Who creates queues on the device and ends them: what a queue pair needs of its controller.
pub(crate) trait QueueOwner: Send + Sync {
    /// Deletes both queues `qid`. After `Ok` the device touches none of their memory.
    fn delete(&self, qid: u16) -> Result<(), CloseError>;

    /// Does something about `trouble` with the queues `qid` that were created at `epoch`; true if they do not exist any
    /// more while the controller goes on.
    fn rescue(&self, qid: u16, epoch: u64, trouble: Trouble) -> bool;

    /// Creates the queues `qid`, which do not exist any more, over new rings; nothing yet while the controller is being
    /// reset.
    fn claim(&self, qid: u16) -> Result<Option<Box<Pcie>>, Gone>;
}

/// What a controller can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of data in one command (MDTS), or `usize::MAX`.
    pub max_transfer: usize,
    /// Bytes that one Write Zeroes clears (WZSL), or `usize::MAX`.
    pub max_write_zeroes: usize,
    /// Bytes that one Verify reads (VSL), or `usize::MAX`.
    pub max_verify: usize,
    /// Entries of a queue (CAP.MQES + 1); it holds one command less.
    pub max_queue_entries: u32,
    /// I/O queues that can exist at once.
    pub max_io_queues: u16,
    /// Memory page size in bytes (CC.MPS).
    pub page_size: usize,
}

/// One NVMe controller, enabled and ready. Clones are handles to the same one.
///
/// The last handle to go, queues included, shuts it down: queues deleted, CC.SHN, CC.EN=0, then memory and device are
/// given back. Buffers may outlive it.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped in this order: the admin queue before the memory it lies in, the device last.
    admin: Mutex<Queue>,
    identity: Box<IdentifyController>,
    capabilities: Capabilities,
    limits: Limits,
    queue_ids: Mutex<BTreeSet<u16>>,
    memory: Arc<DmaMemory>,
    link: Link,
    /// Address that opens the controller again.
    address: String,
    clock: Arc<dyn Clock>,
    admin_timeout: Duration,
    events: Mutex<Events>,
    notices: Notices,
    recovery: Recovery,
    gate: Arc<Gate>,
    /// The controller has been disabled or has gone; nothing is sent to it any more.
    /// Held while that is done: whoever finds it true may rely on it.
    ended: Mutex<bool>,
}

/// The way to the controller.
enum Link {
    /// A function of this machine, or what looks like one.
    Device(Function),
    /// A network.
    Tcp(Box<Fabric>),
}

/// A PCIe function, or what looks like one.
struct Function {
    device: Arc<dyn Device>,
    doorbells: Doorbells,
    introduction: Introduction,
    /// Where else the controller looks for doorbells; its own until it is disabled.
    shadows: Mutex<Option<Arc<ShadowDoorbells>>>,
}

/// A panic elsewhere leaves these locks' data whole: every update is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller {
    /// Commands in flight on the admin queue at most.
    const ADMIN_DEPTH: u16 = 31;
    /// Bytes one admin command carries at most: the largest log page that is worth one command.
    const ADMIN_TRANSFER: usize = 128 << 10;

    /// Opens the device at `address` and brings its controller up.
    ///
    /// # Errors
    /// [`AttachError`], which says what to do about it.
    pub fn attach(address: &Address, config: Config) -> Result<Self, AttachError> {
        let clock = Arc::new(SystemClock::new());
        match address {
            Address::Quirky { address, quirks } => {
                Self::attach(address, Config { quirks: *quirks, ..config })
            }
            Address::Tcp(options) => Self::attach_tcp(options, config, clock),
            _ => Self::attach_device(open(address, &config)?, config, clock),
        }
    }

    /// Connects to the subsystem that `options` name, with time from `clock`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_tcp(
        options: &TcpOptions,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AttachError> {
        let Some(nqn) = options.nqn.clone() else {
            let mut ways = discovery::only_subsystem(options, &config, &clock)?.into_iter();
            let attach = |way: TcpOptions| Self::attach_tcp(&way, config.clone(), clock.clone());
            let Some(first) = ways.next() else { unreachable!("there is a way at least") };
            // The place that the user gave is nearer than what the target takes for its own address.
            return attach(first)
                .or_else(|error| ways.find_map(|way| attach(way).ok()).ok_or(error));
        };
        let target = Target::new(options, nqn, config.exchange_timeout)?;
        Fabric::attach(target, &config, clock)
    }

    fn assemble(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Brings up the controller of `device`, with time from `clock`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_device(
        device: Arc<dyn Device>,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AttachError> {
        let registers = Registers {
            properties: &*device,
            address: &device.info().address,
            device: Some(&*device),
            clock: &*clock,
        };
        let known = Quirks::of_function(device.info().pci);
        let mut capabilities = registers.inspect(config.quirks.apply(known), config.ready_limit)?;
        registers.disable(&capabilities)?;

        let memory = DmaMemory::new(device.clone(), config.memory.clone())?;
        let (doorbells, doorbell_queues) =
            map_doorbells(&*device, &capabilities, config.io_queues)?;
        let layout = Layout::plan(
            0,
            Self::ADMIN_DEPTH,
            register::Aqa::MAX_ENTRIES,
            Self::ADMIN_TRANSFER,
            capabilities.page_shift,
            capabilities.cap.dstrd(),
        );
        let recovery = Recovery::new(config.recovery.clone());
        let mut rings = Pcie::allocate(layout, &memory, &doorbells, None)?;
        rings.leased(recovery.lease());
        let admin_rings = AdminRings {
            asq: (rings.sq_iova(), layout.sq_size),
            acq: (rings.cq_iova(), layout.cq_size),
        };
        let mut admin =
            Queue::new(Any::Pcie(rings), memory.home(), clock.clone(), config.admin_timeout);
        if let Err(error) = registers.enable(&capabilities, Some(admin_rings)) {
            // The controller has seen the admin rings: they go only when it is disabled for certain.
            if registers.disable(&capabilities).is_err() {
                memory.withdraw();
            }
            return Err(error.into());
        }

        let introduction = Introduction::of(&config, device.info());
        let mut shadows = None;
        let page = 1 << capabilities.page_shift;
        let address = &device.info().address;
        let set_up = set_up(&mut admin, &memory, &capabilities, doorbell_queues, address).and_then(
            |(identity, limits)| {
                let known = capabilities.quirks.and(Quirks::of_drive(&identity));
                capabilities.quirks = config.quirks.apply(known);
                admin.limit_transfer(limits.max_transfer);
                shadows = introduction.shadows(&memory, &identity, page, capabilities.quirks);
                let told = introduction.tell(&mut admin, &memory, &identity, shadows.as_deref());
                let refused = |source| AttachError::Command {
                    address: address.clone(),
                    what: Introduction::WHAT,
                    source,
                };
                Ok((identity, limits, told.map_err(refused)?))
            },
        );
        let (identity, limits, shadowed) = match set_up {
            Ok(set_up) => set_up,
            Err(error) => {
                if registers.disable(&capabilities).is_err() {
                    memory.withdraw();
                }
                return Err(error);
            }
        };
        let shadows = shadows.filter(|_| shadowed);
        let RecoveryConfig { automatic, abort, admin_abort, .. } = config.recovery;
        if automatic && abort && !admin_abort.is_zero() {
            let device = device.clone();
            admin.abort_overdue(admin_abort, move || bringup::is_sound(&*device));
        }
        Ok(Self::assemble(Inner {
            admin: Mutex::new(admin),
            identity,
            capabilities,
            limits,
            queue_ids: Mutex::new((1..=limits.max_io_queues).collect()),
            memory,
            address: with_quirks(&device.info().address, config.quirks),
            notices: Notices::of(&*device, config.detach_on_request),
            link: Link::Device(Function {
                device,
                doorbells,
                introduction,
                shadows: Mutex::new(shadows),
            }),
            clock,
            admin_timeout: config.admin_timeout,
            events: Mutex::default(),
            recovery,
            gate: Arc::default(),
            ended: Mutex::new(false),
        }))
    }

    /// A queue pair of its own for the caller's thread.
    ///
    /// # Errors
    /// [`QueueError`]: no queue identifier is left, no memory, or the controller refuses.
    pub fn queue(&self, config: QueueConfig) -> Result<Queue, QueueError> {
        let inner = &self.inner;
        self.open_queue(&config, |qid, max_transfer| match &inner.link {
            Link::Device(function) => {
                self.create_rings(function, qid, config.depth, max_transfer).map(Any::Pcie)
            }
            Link::Tcp(fabric) => {
                let most = inner.limits.max_queue_entries.saturating_sub(1).clamp(1, 0xffff);
                let depth = config.depth.clamp(1, most as u16);
                Ok(inner.connect_queue(fabric, qid, depth, max_transfer, config.timeout)?)
            }
        })
    }

    /// [`queue`](Self::queue) for callers who know that the controller has rings, as over `pcie:`, `vfio-user:` and
    /// `embedded:`. The compiler then knows it too, which saves a few instructions a command.
    ///
    /// # Errors
    /// [`QueueError`]; [`QueueError::NoRings`] over a network.
    pub fn pcie_queue(&self, config: QueueConfig) -> Result<Queue<Pcie>, QueueError> {
        let Link::Device(function) = &self.inner.link else {
            return Err(QueueError::NoRings { address: self.address().into() });
        };
        self.open_queue(&config, |qid, max_transfer| {
            self.create_rings(function, qid, config.depth, max_transfer)
        })
    }

    /// Tells this controller from others, as its memory does.
    pub(crate) fn home(&self) -> usize {
        self.inner.memory.home()
    }

    /// A queue over what `open` makes of an identifier and the most bytes of a command.
    fn open_queue<T: Transport>(
        &self,
        config: &QueueConfig,
        open: impl FnOnce(u16, usize) -> Result<T, QueueError>,
    ) -> Result<Queue<T>, QueueError> {
        let inner = &self.inner;
        let Some(qid) = lock(&inner.queue_ids).pop_first() else {
            return Err(QueueError::NoneLeft {
                address: self.address().into(),
                max: inner.limits.max_io_queues,
            });
        };
        let page = inner.limits.page_size;
        let max_transfer = config.max_transfer.clamp(page, QueueConfig::MAX_TRANSFER);
        let max_transfer = max_transfer.min(inner.limits.max_transfer) & !(page - 1);
        let transport = open(qid, max_transfer).inspect_err(|_| {
            lock(&inner.queue_ids).insert(qid);
        })?;
        let (gate, clock) = (inner.gate.clone(), inner.clock.clone());
        let mut queue = Queue::behind(gate, transport, self.home(), clock, config.timeout);
        queue.retry(config.retries.clone(), retry_delays(&inner.identity));
        Ok(queue)
    }

    fn create_rings(
        &self,
        function: &Function,
        qid: u16,
        depth: u16,
        max_transfer: usize,
    ) -> Result<Pcie, QueueError> {
        let inner = &self.inner;
        let Capabilities { cap, page_shift, .. } = inner.capabilities;
        let depth = if self.quirks().has(Quirks::DEPTH_ONE) { 1 } else { depth };
        let layout = Layout::plan(
            qid,
            depth,
            inner.limits.max_queue_entries,
            max_transfer,
            page_shift,
            cap.dstrd(),
        );
        let mut rings = inner.create_for_caller(layout, function)?;
        rings.owned_by(inner.clone());
        Ok(rings)
    }

    /// Address that opens this controller again.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// What the controller says of itself.
    #[must_use]
    pub fn identify(&self) -> &IdentifyController {
        &self.inner.identity
    }

    /// NVMe Qualified Name of the subsystem; one made up of its identity if it reports none that is valid (INIT-14).
    #[must_use]
    pub fn nqn(&self) -> String {
        let identity = self.identify();
        let nqn = identity.nqn().filter(|_| !self.quirks().has(Quirks::IGNORE_SUBNQN));
        nqn.map_or_else(
            || {
                let (vid, ssvid) = (identity.vid.get(), identity.ssvid.get());
                let (serial, model) = (identity.serial(), identity.model());
                format!("nqn.2014.08.org.nvmexpress:{vid:04x}{ssvid:04x}{serial}{model}")
            },
            |nqn| nqn.to_string(),
        )
    }

    /// Version of the specification that the controller implements.
    #[must_use]
    pub fn version(&self) -> register::Vs {
        self.inner.capabilities.vs
    }

    /// CAP, as read at bring-up.
    #[must_use]
    pub fn capabilities(&self) -> register::Cap {
        self.inner.capabilities.cap
    }

    /// What is known to be wrong with it.
    #[must_use]
    pub fn quirks(&self) -> Quirks {
        self.inner.capabilities.quirks
    }

    /// What the controller can carry.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// The device below, if there is one.
    #[must_use]
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        match &self.inner.link {
            Link::Device(function) => Some(&function.device),
            Link::Tcp(_) => None,
        }
    }

    /// Where this controller's buffers come from.
    #[must_use]
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.inner.memory
    }

    /// A buffer of `len` bytes that the device can reach.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn buffer(&self, len: usize) -> Result<Buffer, MemoryError> {
        self.inner.memory.allocate(len)
    }

    /// Shuts the controller down, and says how that went.
    ///
    /// # Errors
    /// [`ShutdownError::InUse`] while other handles or queues exist: it goes on, and the last of them shuts it down.
    pub fn shutdown(self) -> Result<(), ShutdownError> {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner.shut_down(),
            Err(inner) => Err(ShutdownError::InUse { address: inner.address.clone() }),
        }
    }
}

/// Why [`Controller::shutdown`] did not go as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Others still use the controller.
    #[error("{address}: other handles or queues of this controller exist; drop them first")]
    InUse {
        /// Address as the user gave it.
        address: String,
    },
    /// The controller did not obey. It has been reset, or its memory is kept for good.
    #[error(transparent)]
    Failed(#[from] BringUpError),
}

/// The address that opens a controller again with the same quirks.
fn with_quirks(address: &str, quirks: Override) -> String {
    if quirks == Override::default() {
        return address.to_owned();
    }
    format!("{address},quirks={quirks}")
}

/// Maps the doorbells of as many I/O queues as BAR0 has room for (REG-1), `wanted` at most.
fn map_doorbells(
    device: &dyn Device,
    capabilities: &Capabilities,
    wanted: u16,
) -> Result<(Doorbells, u16), AttachError> {
    let dstrd = capabilities.cap.dstrd();
    let bar_len = device.info().bar_len;
    let fits = |queues: u16| register::bar_size(queues, dstrd) <= bar_len;
    if !fits(0) {
        return Err(AttachError::BarTooShort {
            address: device.info().address.clone(),
            len: bar_len,
            dstrd,
        });
    }
    // Bisection: the largest number that fits.
    let (mut low, mut high) = (0, wanted);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    let len = register::bar_size(low, dstrd) - register::offset::DOORBELLS;
    Ok((device.doorbells(len)?, low))
}

impl Inner {
    /// RTD3E is in microseconds; 0 says nothing.
    fn shutdown_wait(&self) -> Duration {
        let reported = Duration::from_micros(u64::from(self.identity.rtd3e.get()));
        reported.clamp(Duration::from_secs(5), Duration::from_secs(60))
    }

    /// Does something with the controller's registers.
    fn with_registers<T>(&self, act: impl FnOnce(&Registers<'_>) -> T) -> T {
        match &self.link {
            Link::Device(Function { device, .. }) => act(&Registers {
                properties: &**device,
                address: &self.address,
                device: Some(&**device),
                clock: &*self.clock,
            }),
            Link::Tcp(fabric) => fabric.with_registers(&mut lock(&self.admin), &*self.clock, act),
        }
    }

    /// What is left where the controller does not obey. True if it reaches no memory any more, which its status has to
    /// confirm: there are resets without effect.
    fn function_reset(&self) -> bool {
        match &self.link {
            Link::Device(Function { device, .. }) => {
                let idle = |registers: &Registers<'_>| match registers.status() {
                    Ok(csts) => !csts.rdy(),
                    Err(error) => matches!(error, BringUpError::Absent { .. }),
                };
                device.reset().is_ok() && self.with_registers(idle)
            }
            // It never did reach any.
            Link::Tcp(_) => true,
        }
    }

    /// One of the driver's own admin commands, without data that the queue would have to own.
    fn internal(&self, command: doorbell_spec::command::Sqe) -> Result<u64, CommandError> {
        let mut admin = lock(&self.admin);
        let result = admin.run(Io::internal(command)).map(|done| done.result);
        self.recovery.took(admin.steps());
        result
    }

    fn shut_down(&self) -> Result<(), ShutdownError> {
        let mut ended = lock(&self.ended);
        if std::mem::replace(&mut *ended, true) {
            return Ok(());
        }
        if let Link::Tcp(fabric) = &self.link {
            let down = fabric.is_down(self.clock.now());
            fabric.end(LinkError::ShutDown);
            if down {
                return Ok(());
            }
        }
        self.stop_for_good()
    }

    /// RST-5, but for the deletion of queues: a shutdown, and CC.EN=0.
    fn stop_for_good(&self) -> Result<(), ShutdownError> {
        let (shut_down, disabled) = self.with_registers(|registers| {
            let shut_down = if self.capabilities.quirks.has(Quirks::NO_SHUTDOWN_STATUS) {
                let _never_reported = registers.shut_down(Duration::ZERO);
                Ok(())
            } else {
                registers.shut_down(self.shutdown_wait())
            };
            // EN=0 whatever came of it: some controllers never report the end of a shutdown.
            (shut_down, registers.disable(&self.capabilities))
        });
        if !self.is_harmless(&disabled) {
            self.memory.withdraw();
        }
        shut_down?;
        Ok(disabled?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is left to tell; memory has been withdrawn where the device could not be stopped.
        let _ended = self.shut_down();
    }
}
