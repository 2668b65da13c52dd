//! How controllers and queues are set up.

use std::time::Duration;

use super::recovery::RecoveryConfig;
use crate::memory::MemoryConfig;
use crate::queue::Retries;
use crate::quirk::Override;

/// How a controller is attached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// I/O queues to ask the controller for; it may grant fewer. Default 64.
    pub io_queues: u16,
    /// How long an admin command may take. Default 60 s.
    pub admin_timeout: Duration,
    /// How long a controller may take to become ready or idle, whatever it asks for. One may ask for nine hours (CRTO), by
    /// mistake or not. Default 128 s: as much as CAP.TO can ask for, which is more than drives do that need it after a loss
    /// of power.
    pub ready_limit: Duration,
    /// How long one exchange with a vfio-user server may take. Default 5 s.
    pub exchange_timeout: Duration,
    /// Where DMA memory comes from.
    pub memory: MemoryConfig,
    /// Whether [`Controller::poll`](super::Controller::poll) detaches the controller when whoever provides the device
    /// asks for it: a drive about to be unplugged. Default no: the caller is told
    /// ([`Event::RemovalAsked`](super::Event::RemovalAsked)), and the drive stays until the caller lets go of it.
    pub detach_on_request: bool,
    /// What is done about commands that do not complete.
    pub recovery: RecoveryConfig,
    /// Quirks beside those that the tables have for the drive, and instead of them.
    pub quirks: Override,
    /// Host Identifier that a PCIe controller is told, for reservations; all zero is not told. Default: that of this
    /// machine (/etc/nvme/hostid, or made of its identity). Addresses over TCP have their own.
    pub host_id: Option<[u8; 16]>,
    /// Keep doorbells in memory for every controller that offers it (Doorbell Buffer Config), and not only behind VFIO,
    /// where it spares an emulated controller most register writes. Default: no.
    pub shadow_doorbells: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            io_queues: 64,
            admin_timeout: Duration::from_secs(60),
            ready_limit: Duration::from_secs(128),
            exchange_timeout: Duration::from_secs(5),
            memory: MemoryConfig::default(),
            detach_on_request: false,
            recovery: RecoveryConfig::default(),
            quirks: Override::default(),
            host_id: None,
            shadow_doorbells: false,
        }
    }
}

/// How a queue is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Commands in flight at most, 1 to 65,534; fewer if the controller's queues are shorter. Default 128.
    pub depth: u16,
    /// Bytes one command carries at most, 4 KiB to 32 MiB; less if the controller says so. Longer reads and writes are
    /// divided. Costs 8 bytes of memory for each 4 KiB and slot. Default 128 KiB.
    pub max_transfer: usize,
    /// How long [`Queue::run`](crate::Queue::run) waits, and after how long any command of the queue is overdue (see
    /// [`RecoveryConfig`]). Default 30 s.
    pub timeout: Duration,
    /// Which commands [`Queue::run`](crate::Queue::run) and futures send again.
    pub retries: Retries,
}

impl QueueConfig {
    /// Largest [`max_transfer`](Self::max_transfer).
    pub const MAX_TRANSFER: usize = 32 << 20;

    /// The default with another depth.
    #[must_use]
    pub fn with_depth(depth: u16) -> Self {
        Self { depth, ..Self::default() }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            depth: 128,
            max_transfer: 128 << 10,
            timeout: Duration::from_secs(30),
            retries: Retries::default(),
        }
    }
}
