//! The NVM subsystem: what several controllers have in common.
//!
//! Owns the namespaces, which outlive any controller, and hands out controller identifiers. Namespaces come, change and go
//! while controllers run; each controller notices at its next poll, by a counter.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::backend::MediaError;
use crate::ids;
use crate::namespace::{Namespace, NamespaceError};

/// Namespace identifiers that are valid where nobody asked for more.
const DEFAULT_NN: u32 = 256;
/// The most namespace identifiers of a subsystem: one page of every list.
pub const MAX_NN: u32 = 1024;
/// The highest controller identifier that may be handed out (Base 2.1, CNTLID).
const MAX_CNTLID: u16 = 0xffef;

/// Slots of namespaces; the namespace with identifier `n` stands in slot `n - 1`.
pub(crate) type Slots = Vec<Option<Arc<Namespace>>>;

/// Why a namespace was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The identifier is zero or above the subsystem's limit.
    #[error("namespace identifier {nsid} is not valid here; use 1 to {max}")]
    Invalid {
        /// The identifier.
        nsid: u32,
        /// The highest valid one.
        max: u32,
    },
    /// A namespace with this identifier exists.
    #[error("namespace {0} exists; remove it first")]
    Taken(u32),
    /// No identifier is left.
    #[error("all {0} namespace identifiers are taken; remove a namespace first")]
    Full(u32),
}

/// Why a namespace was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no such namespace.
    #[error("there is no namespace {0}; add it")]
    Absent(u32),
    /// It cannot be as it was asked for.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// It has its new format, but what was stored could not be erased.
    #[error("namespace {nsid} could not be erased: {source}; format it again")]
    Erase {
        /// The identifier.
        nsid: u32,
        /// What the backend said.
        source: MediaError,
    },
}

/// An NVM subsystem.
pub struct Subsystem {
    nqn: String,
    serial: String,
    model: String,
    firmware: Mutex<Firmware>,
    nn: u32,
    /// Counts the changes of `namespaces` and of `firmware`.
    generation: AtomicU64,
    namespaces: RwLock<Slots>,
    controllers: Mutex<BTreeSet<u16>>,
}

/// The firmware that runs.
struct Firmware {
    revision: String,
    activations: u64,
    pause: Duration,
}

/// Collects what a [`Subsystem`] is made of.
#[derive(Debug, Default)]
pub struct SubsystemBuilder {
    nqn: Option<String>,
    serial: Option<String>,
    model: Option<String>,
    firmware: Option<String>,
    nn: Option<u32>,
    namespaces: Vec<Namespace>,
}

impl SubsystemBuilder {
    /// The NVMe Qualified Name, at most 223 bytes. Derived from the serial number where it is not given.
    #[must_use]
    pub fn nqn(mut self, nqn: impl Into<String>) -> Self {
        self.nqn = Some(nqn.into());
        self
    }

    /// The serial number, 20 characters.
    #[must_use]
    pub fn serial(mut self, serial: impl Into<String>) -> Self {
        self.serial = Some(serial.into());
        self
    }

    /// The model number, 40 characters.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// The firmware revision, 8 characters.
    #[must_use]
    pub fn firmware(mut self, firmware: impl Into<String>) -> Self {
        self.firmware = Some(firmware.into());
        self
    }

    /// The highest valid namespace identifier, at most [`MAX_NN`].
    #[must_use]
    pub fn max_namespaces(mut self, nn: u32) -> Self {
        self.nn = Some(nn);
        self
    }

    /// One more namespace, under the next identifier. Those beyond [`MAX_NN`] are dropped.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// The subsystem. Strings are cut to their length, and what is not printable ASCII becomes `?`.
    #[must_use]
    pub fn build(self) -> Arc<Subsystem> {
        let serial = ascii(self.serial.as_deref().unwrap_or("DOORBELL0001"), 20);
        let nqn = self.nqn.unwrap_or_else(|| {
            let uuid = ids::text(ids::uuid(&["subsystem", &serial], 0));
            format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}")
        });
        let firmware = self.firmware.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
        let wanted = u32::try_from(self.namespaces.len()).unwrap_or(MAX_NN);
        let nn = self.nn.unwrap_or(DEFAULT_NN).max(wanted).clamp(1, MAX_NN);
        let subsystem = Subsystem {
            nqn: ascii(&nqn, 223),
            serial,
            model: ascii(self.model.as_deref().unwrap_or("Doorbell emulated NVMe drive"), 40),
            firmware: Mutex::new(Firmware {
                revision: ascii(firmware, 8),
                activations: 0,
                pause: Duration::ZERO,
            }),
            nn,
            generation: AtomicU64::new(1),
            namespaces: RwLock::new(vec![None; nn as usize]),
            controllers: Mutex::new(BTreeSet::new()),
        };
        for namespace in self.namespaces {
            // Full only beyond MAX_NN, as documented.
            let _ = subsystem.add(namespace);
        }
        Arc::new(subsystem)
    }
}

impl Subsystem {
    /// Begins to describe a subsystem.
    pub fn builder() -> SubsystemBuilder {
        SubsystemBuilder::default()
    }

    /// The NVMe Qualified Name.
    pub fn nqn(&self) -> &str {
        &self.nqn
    }

    /// The serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The model number.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The firmware revision.
    pub fn firmware(&self) -> String {
        self.firmware.lock().unwrap_or_else(PoisonError::into_inner).revision.clone()
    }

    /// The highest valid namespace identifier.
    pub fn max_namespaces(&self) -> u32 {
        self.nn
    }

    /// Adds a namespace under the lowest free identifier, which is returned. Every controller reports the change.
    ///
    /// # Errors
    /// [`AddError::Full`].
    pub fn add(&self, namespace: Namespace) -> Result<u32, AddError> {
        let mut slots = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        let Some(free) = slots.iter().position(Option::is_none) else {
            return Err(AddError::Full(self.nn));
        };
        let nsid = free as u32 + 1;
        self.put(&mut slots, nsid, namespace)
    }

    /// Adds a namespace as `nsid`. Every controller reports the change.
    ///
    /// # Errors
    /// [`AddError::Invalid`] and [`AddError::Taken`].
    pub fn add_as(&self, nsid: u32, namespace: Namespace) -> Result<u32, AddError> {
        let mut slots = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        self.put(&mut slots, nsid, namespace)
    }

    fn put(&self, slots: &mut Slots, nsid: u32, mut namespace: Namespace) -> Result<u32, AddError> {
        let slot = (nsid as usize).checked_sub(1).and_then(|slot| slots.get_mut(slot));
        match slot {
            None => Err(AddError::Invalid { nsid, max: self.nn }),
            Some(Some(_)) => Err(AddError::Taken(nsid)),
            Some(slot) => {
                namespace.name(&self.nqn, &self.serial, nsid);
                *slot = Some(Arc::new(namespace));
                self.generation.fetch_add(1, Ordering::Release);
                Ok(nsid)
            }
        }
    }

    /// Removes the namespace `nsid`, if there is one. Commands that a controller has begun still finish; the
    /// namespace goes when the last of them has.
    pub fn remove(&self, nsid: u32) -> Option<Arc<Namespace>> {
        let mut slots = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        let slot = (nsid as usize).checked_sub(1)?;
        let removed = slots.get_mut(slot)?.take()?;
        self.generation.fetch_add(1, Ordering::Release);
        Some(removed)
    }

    /// Puts `namespace` in the place of `nsid`, under the names of the one that was there unless it has its own: that one
    /// has been resized, reformatted or exchanged, as every controller reports. Returns the old one; commands that a
    /// controller has begun still finish on it.
    ///
    /// # Errors
    /// [`ChangeError::Absent`].
    pub fn replace(
        &self,
        nsid: u32,
        mut namespace: Namespace,
    ) -> Result<Arc<Namespace>, ChangeError> {
        let mut slots = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        let slot = (nsid as usize).checked_sub(1).and_then(|slot| slots.get_mut(slot));
        let Some(Some(old)) = slot else { return Err(ChangeError::Absent(nsid)) };
        namespace.name_like(old);
        let old = std::mem::replace(old, Arc::new(namespace));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(old)
    }

    fn changed(
        &self,
        nsid: u32,
        to: impl FnOnce(&Namespace) -> Result<Namespace, NamespaceError>,
    ) -> Result<Arc<Namespace>, ChangeError> {
        let old = self.namespace(nsid).ok_or(ChangeError::Absent(nsid))?;
        self.replace(nsid, to(&old)?)
    }

    /// Gives the namespace `nsid` another size, up to that of its storage. Every controller reports the change.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing has changed then.
    pub fn resize(&self, nsid: u32, bytes: u64) -> Result<(), ChangeError> {
        self.changed(nsid, |old| old.resized(bytes)).map(drop)
    }

    /// Formats the namespace `nsid` in blocks of `block_size` bytes, 512 or 4096: what was stored is gone. Every
    /// controller reports the change.
    ///
    /// # Errors
    /// [`ChangeError`]; unless it is [`ChangeError::Erase`], nothing has changed.
    pub fn format(&self, nsid: u32, block_size: u32) -> Result<(), ChangeError> {
        let old = self.changed(nsid, |old| old.reformatted(block_size))?;
        old.erase().map_err(|source| ChangeError::Erase { nsid, source })
    }

    /// Activates firmware of another `revision`: every controller announces it to a host that wants to hear of it, and
    /// then processes no commands for `pause` (CSTS.PP), as a real drive does that activates without a reset.
    pub fn activate_firmware(&self, revision: &str, pause: Duration) {
        let mut firmware = self.firmware.lock().unwrap_or_else(PoisonError::into_inner);
        firmware.revision = ascii(revision, 8);
        firmware.pause = pause;
        firmware.activations += 1;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// How often firmware has been activated, and for how long that pauses.
    pub(crate) fn activations(&self) -> (u64, Duration) {
        let firmware = self.firmware.lock().unwrap_or_else(PoisonError::into_inner);
        (firmware.activations, firmware.pause)
    }

    /// The namespace `nsid`.
    pub fn namespace(&self, nsid: u32) -> Option<Arc<Namespace>> {
        let slots = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        slots.get((nsid as usize).checked_sub(1)?)?.clone()
    }

    /// Makes durable what every namespace has taken. Each is tried; the first failure is returned.
    ///
    /// # Errors
    /// What the backend said.
    pub fn flush(&self) -> Result<(), crate::backend::MediaError> {
        let slots = self.namespaces.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut result = Ok(());
        for namespace in slots.iter().flatten() {
            result = result.and(namespace.backend().flush());
        }
        result
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The namespaces as they are now, and the count that says so.
    pub(crate) fn snapshot(&self) -> (u64, Slots) {
        let slots = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        (self.generation(), slots.clone())
    }

    /// Takes a controller identifier.
    pub(crate) fn enter(&self) -> Option<u16> {
        let mut controllers = self.lock_controllers();
        let free = (1..=MAX_CNTLID).find(|id| !controllers.contains(id))?;
        controllers.insert(free);
        Some(free)
    }

    /// Gives a controller identifier back.
    pub(crate) fn leave(&self, cntlid: u16) {
        self.lock_controllers().remove(&cntlid);
    }

    /// The identifiers of the controllers from `first` on, ascending, at most `max`.
    pub(crate) fn controllers(&self, first: u16, max: usize) -> Vec<u16> {
        self.lock_controllers().range(first..).copied().take(max).collect()
    }

    fn lock_controllers(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Subsystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subsystem").field("nqn", &self.nqn).finish_non_exhaustive()
    }
}

fn ascii(text: &str, max: usize) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().map(printable).take(max).collect()
}
