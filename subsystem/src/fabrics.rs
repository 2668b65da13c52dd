//! The controller side of NVMe over Fabrics, whatever carries it: who may connect, to what, and how much they may take.
//!
//! ```text
//!   port::tcp  (connections)
//!       |
//!    Target  ---  Discovery                which ports and referrals there are
//!       |
//!   Association                            one host's controller: properties, admin commands, keep alive
//!       |
//!    controller::core, io_command          the commands themselves, as on PCIe
//! ```
//!
//! A [`Target`] is shared by every port and every thread. What it holds is looked at when a host connects and when it
//! asks for the discovery log, never for a read or a write.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use doorbell_spec::fabrics::{DISCOVERY_NQN, NqnError, check_nqn};

use crate::controller::{ControllerConfig, ControllerError};
use crate::fault::Plan;
use crate::fault::state::Faults;
use crate::subsystem::Subsystem;

pub(crate) mod association;
pub(crate) mod connect;
pub(crate) mod discovery;

pub use discovery::{Referral, ReferralError};

use association::Association;

/// What a [`Target`] grants its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all hosts together.
    pub connections: u32,
    /// Connections of one host, by its NQN.
    pub connections_per_host: u32,
    /// Bytes that the connections of one host may hold.
    pub memory_per_host: u64,
    /// I/O queues of one controller.
    pub io_queues: u16,
    /// Entries of a queue, minus one (CAP.MQES).
    pub mqes_z: u16,
    /// MDTS: bytes of one transfer, as `4096 << mdts`.
    pub mdts: u8,
    /// Bytes of data in the capsule of an I/O command (IOCCSZ).
    pub in_capsule: u32,
    /// Where the data of what hosts send begins (CPDA): at a multiple of `4 * (cpda_z + 1)` bytes, up to 31. Linux takes
    /// nothing but 0.
    pub cpda_z: u8,
    /// Time for a connection to become a queue.
    pub introduction: Duration,
}

impl Limits {
    /// The most data in the capsule of an I/O command.
    pub const MOST_IN_CAPSULE: u32 = 64 << 10;
    /// The largest [`cpda_z`](Self::cpda_z).
    pub const MOST_CPDA_Z: u8 = 31;
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections, connections_per_host, io_queues, in_capsule, .. } = self;
        let (memory, entries) = (self.memory_per_host >> 20, u32::from(self.mqes_z) + 1);
        write!(
            f,
            "{connections} connections, of one host {connections_per_host} with {memory} MiB, "
        )?;
        write!(
            f,
            "{io_queues} I/O queues of {entries} entries, {in_capsule} bytes in a capsule, "
        )?;
        write!(f, "{:?} for Connect", self.introduction)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_host: 512,
            memory_per_host: 1 << 30,
            io_queues: 128,
            mqes_z: 1023,
            mdts: 8,
            in_capsule: 8192,
            cpda_z: 0,
            introduction: Duration::from_secs(10),
        }
    }
}

/// What a [`Target`] has given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections, with those that have not introduced themselves.
    pub connections: u32,
    /// Hosts with a connection.
    pub hosts: u32,
    /// Controllers, those for discovery included.
    pub controllers: u32,
    /// Bytes that connections may hold.
    pub memory: u64,
    /// Connections that were turned away because of a limit.
    pub refused: u64,
}

/// A subsystem and its discovery service, as hosts see them over a fabric.
pub struct Target {
    subsystem: Arc<Subsystem>,
    /// Hands out the identifiers of discovery controllers; has no namespaces.
    discovery: Arc<Subsystem>,
    limits: Limits,
    /// Counts the changes of what the discovery log shows.
    genctr: AtomicU64,
    visible: RwLock<Visible>,
    associations: Mutex<BTreeMap<Key, Arc<Association>>>,
    hosts: Mutex<Hosts>,
    /// The plan of faults of all controllers, at work.
    faults: Mutex<Option<Arc<Mutex<Faults>>>>,
}

/// Discovery controllers have identifiers of their own: whether it is one, and its identifier.
type Key = (bool, u16);

/// What the discovery log is made of.
#[derive(Debug, Default)]
struct Visible {
    ports: Vec<SocketAddr>,
    referrals: Vec<Referral>,
    /// NQNs of the hosts that may connect; `None` lets in every host.
    allowed: Option<Vec<String>>,
}

#[derive(Debug, Default)]
struct Hosts {
    by_nqn: BTreeMap<String, (u32, u64)>,
    connections: u32,
    refused: u64,
}

/// A connection's share of the limits, given back when it is dropped.
pub(crate) struct Share {
    target: Arc<Target>,
    host: Option<(String, u64)>,
}

impl Target {
    /// Serves `subsystem`, to every host until [`Target::allow`] says otherwise.
    ///
    /// # Errors
    /// [`NqnError`] where the subsystem's NQN is none that hosts can ask for.
    pub fn new(subsystem: Arc<Subsystem>, limits: Limits) -> Result<Arc<Self>, NqnError> {
        let limits = Limits {
            // IOCCSZ counts in units of 16 bytes.
            in_capsule: limits.in_capsule.min(Limits::MOST_IN_CAPSULE) & !15,
            cpda_z: limits.cpda_z.min(Limits::MOST_CPDA_Z),
            ..limits
        };
        check_nqn(subsystem.nqn())?;
        if subsystem.nqn() == DISCOVERY_NQN {
            return Err(NqnError::Reserved);
        }
        let discovery = Subsystem::builder()
            .nqn(DISCOVERY_NQN)
            .serial(subsystem.serial())
            .model(subsystem.model())
            .firmware(subsystem.firmware())
            .max_namespaces(1)
            .build();
        Ok(Arc::new(Self {
            subsystem,
            discovery,
            limits,
            genctr: AtomicU64::new(1),
            visible: RwLock::default(),
            associations: Mutex::default(),
            hosts: Mutex::default(),
            faults: Mutex::default(),
        }))
    }

    /// The subsystem.
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.subsystem
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What of the limits is in use.
    pub fn usage(&self) -> Usage {
        let controllers = lock(&self.associations).len() as u32;
        let hosts = lock(&self.hosts);
        Usage {
            connections: hosts.connections,
            hosts: hosts.by_nqn.len() as u32,
            controllers,
            memory: hosts.by_nqn.values().map(|(_, bytes)| bytes).sum(),
            refused: hosts.refused,
        }
    }

    /// Lets in these hosts alone, or with `None` all of them. Controllers of a host that is not among them any more end.
    ///
    /// # Errors
    /// [`NqnError`] for a name that no host can have; nothing changes then.
    pub fn allow(&self, hosts: Option<Vec<String>>) -> Result<(), NqnError> {
        hosts.iter().flatten().try_for_each(|nqn| check_nqn(nqn))?;
        self.change(|visible| visible.allowed = hosts);
        for association in lock(&self.associations).values() {
            if !association.is_discovery() && !self.is_allowed(association.hostnqn()) {
                association.end();
            }
        }
        Ok(())
    }

    /// Whether the host with this NQN may connect.
    pub fn is_allowed(&self, hostnqn: &str) -> bool {
        let visible = self.visible.read().unwrap_or_else(PoisonError::into_inner);
        visible.allowed.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host == hostnqn))
    }

    /// Shows the port at `address` in the discovery log.
    pub fn add_port(&self, address: SocketAddr) {
        self.change(|visible| visible.ports.push(address));
    }

    /// Shows the port at `address` no more.
    pub fn remove_port(&self, address: SocketAddr) {
        self.change(|visible| visible.ports.retain(|port| *port != address));
    }

    /// Points hosts to another discovery service.
    pub fn refer(&self, referral: Referral) {
        self.change(|visible| visible.referrals.push(referral));
    }

    /// Takes the pointers to that discovery service back.
    pub fn unrefer(&self, referral: &Referral) {
        self.change(|visible| visible.referrals.retain(|known| known != referral));
    }

    /// GENCTR of the discovery log.
    pub fn generation(&self) -> u64 {
        self.genctr.load(Ordering::Acquire)
    }

    /// Connections that are made from now on misbehave as `plan` says, or not any more: their PDUs, their commands, the
    /// registers of their controllers. All controllers are counted together; those for discovery lose PDUs at most.
    pub fn set_faults(&self, plan: Option<Plan>) {
        *lock(&self.faults) = plan.map(|plan| Arc::new(Mutex::new(Faults::of_fabrics(plan))));
    }

    /// The plan that new connections are under.
    pub(crate) fn faults(&self) -> Option<Arc<Mutex<Faults>>> {
        lock(&self.faults).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Visible)) {
        let mut visible = self.visible.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut visible);
        self.genctr.fetch_add(1, Ordering::Release);
    }

    /// The settings of a controller's core.
    fn controller(&self) -> ControllerConfig {
        ControllerConfig {
            max_io_queues: self.limits.io_queues.max(1),
            mqes_z: self.limits.mqes_z.max(1),
            mdts: self.limits.mdts.clamp(1, 16),
            mpsmax: 0,
            ..ControllerConfig::default()
        }
    }

    fn associate(
        &self,
        make: impl FnOnce() -> Result<Association, ControllerError>,
    ) -> Option<Arc<Association>> {
        let association = Arc::new(make().ok()?);
        lock(&self.associations).insert(association.key(), Arc::clone(&association));
        Some(association)
    }

    /// The controller `cntlid` of the subsystem, while its host is there.
    fn association(&self, cntlid: u16) -> Option<Arc<Association>> {
        lock(&self.associations).get(&(false, cntlid)).filter(|known| !known.is_ended()).cloned()
    }

    /// Ends an association: its connections notice at their next step, and none of them is in the middle of one when
    /// this returns.
    pub(crate) fn dissociate(&self, association: &Arc<Association>) {
        association.end();
        association.quiesce();
        let mut associations = lock(&self.associations);
        let key = association.key();
        if associations.get(&key).is_some_and(|known| Arc::ptr_eq(known, association)) {
            associations.remove(&key);
        }
    }

    /// A share for a new connection; `None` where there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Share> {
        let mut hosts = lock(&self.hosts);
        if hosts.connections >= self.limits.connections {
            hosts.refused += 1;
            return None;
        }
        hosts.connections += 1;
        Some(Share { target: Arc::clone(self), host: None })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Usage { connections, hosts, controllers, memory, refused } = self;
        write!(
            f,
            "{connections} connections of {hosts} hosts to {controllers} controllers, {} KiB, ",
            memory >> 10
        )?;
        write!(f, "{refused} turned away by a limit")
    }
}

impl Share {
    /// Charges the connection, which takes up to `bytes`, to a host; false where that is more than the host may have.
    pub(crate) fn charge(&mut self, hostnqn: &str, bytes: u64) -> bool {
        self.release();
        let limits = self.target.limits;
        let mut hosts = lock(&self.target.hosts);
        let (connections, taken) = hosts.by_nqn.get(hostnqn).copied().unwrap_or_default();
        if connections >= limits.connections_per_host || taken + bytes > limits.memory_per_host {
            hosts.refused += 1;
            return false;
        }
        hosts.by_nqn.insert(hostnqn.to_owned(), (connections + 1, taken + bytes));
        self.host = Some((hostnqn.to_owned(), bytes));
        true
    }
}

impl Share {
    fn release(&mut self) {
        let mut hosts = lock(&self.target.hosts);
        if let Some((nqn, bytes)) = self.host.take()
            && let Some((connections, taken)) = hosts.by_nqn.get_mut(&nqn)
        {
            *connections -= 1;
            *taken -= bytes;
            if *connections == 0 {
                hosts.by_nqn.remove(&nqn);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
        lock(&self.target.hosts).connections -= 1;
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("subsystem", &self.subsystem).finish_non_exhaustive()
    }
}

/// A thread that panicked while it held one of these has left a list that is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
