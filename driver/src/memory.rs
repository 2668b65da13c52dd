//! DMA memory: what this process and its device both reach, mapped once and handed out as [`Buffer`]s.
//!
//! [`DmaMemory`] owns the regions (a memfd each, `mapping`), their I/O addresses (`iova`) and their free parts
//! (`extents`). It relies on [`Device::map_dma`], where there is a device, and is relied on by queues for rings and by everybody for buffers.
//! Allocation and release take a lock and are meant for set-up; the I/O path moves buffers and calls nothing here.
//!
//! - Regions grow in powers of two, from 4 MiB; one that is empty is released as soon as another empty one exists.
//! - A large buffer has a region of its own, released with it.
//! - Memory of the application is mapped by `register*` and released when the last piece of the buffer is dropped.
//! - Memory whose unmapping the device refused is kept for good, and counted.

#![expect(unsafe_code, reason = "offers memory to devices and hands it out")]

mod buffer;
mod config;
mod error;
mod extents;
mod iova;
mod mapping;
mod numa;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::{Device, DeviceError, DmaRange, IovaLimits};

pub use buffer::Buffer;
pub use config::{MemoryConfig, MemoryStats, PageKind};
pub use error::MemoryError;
use extents::{Alignment, Extents};
use iova::IovaSpace;
use mapping::Mapping;
use state::{Region, State, Use};

/// Granule of buffers, in bytes. Every buffer begins at a multiple of it.
pub const PAGE: u64 = 4096;

/// Regions are multiples of this, base and length; device servers register memory in such units.
const REGION_UNIT: u64 = if cfg!(miri) { 64 << 10 } else { 2 << 20 };
/// Length of the first region.
const FIRST_REGION: u64 = 2 * REGION_UNIT;
/// Regions grow up to this; longer buffers have a region of their own.
const LARGEST_REGION: u64 = 32 * REGION_UNIT;

/// DMA memory of one device. Shared by everything that uses the device; unmapped when the last user is gone.
pub struct DmaMemory {
    state: Mutex<State>,
    config: MemoryConfig,
    node: Option<u32>,
    /// Who it serves, for errors.
    address: String,
    needs_descriptor: bool,
    // Last: the regions must be unmapped before the device closes.
    device: Option<Arc<dyn Device>>,
}

impl DmaMemory {
    /// Memory for `device`. Nothing is taken from the system before the first buffer.
    ///
    /// # Errors
    /// [`MemoryError::PageSize`] if the limits that the device reports make no sense.
    pub fn new(device: Arc<dyn Device>, config: MemoryConfig) -> Result<Arc<Self>, MemoryError> {
        let info = device.info();
        Ok(Arc::new(Self {
            state: Mutex::new(State::new(IovaSpace::new(&info.iova)?)),
            node: numa::preferred(config.numa_node.or(info.numa_node)),
            config,
            address: info.address.clone(),
            needs_descriptor: info.needs_descriptor,
            device: Some(device),
        }))
    }

    /// Memory for a controller that reaches none of it by itself, such as one across a network, at `address`. The I/O
    /// address of a byte is its address in this process.
    ///
    /// # Errors
    /// None yet; the signature is that of [`new`](Self::new).
    pub fn without_device(address: &str, config: MemoryConfig) -> Result<Arc<Self>, MemoryError> {
        // No address is taken from the space; it says how large a page is.
        let anywhere = IovaLimits { ranges: Vec::new(), page_size: PAGE, max_mappings: None };
        Ok(Arc::new(Self {
            state: Mutex::new(State::new(IovaSpace::new(&anywhere)?)),
            node: numa::preferred(config.numa_node),
            config,
            address: address.to_owned(),
            needs_descriptor: false,
            device: None,
        }))
    }

    /// Tells this memory from that of other controllers while it is alive; never 0. I/O addresses mean something only
    /// to the device that they are mapped for.
    pub(crate) fn home(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// A buffer of `len` bytes that begins at a multiple of [`DmaMemory::page_size`].
    ///
    /// # Errors
    /// [`MemoryError`]; nothing is taken then.
    pub fn allocate(self: &Arc<Self>, len: usize) -> Result<Buffer, MemoryError> {
        self.allocate_aligned(len, self.page_size() as usize)
    }

    /// A buffer of `len` bytes whose I/O address is a multiple of `align`, a power of two up to 2 MiB.
    ///
    /// # Errors
    /// [`MemoryError`]; nothing is taken then.
    pub fn allocate_aligned(
        self: &Arc<Self>,
        len: usize,
        align: usize,
    ) -> Result<Buffer, MemoryError> {
        if !align.is_power_of_two() || align as u64 > REGION_UNIT {
            return Err(MemoryError::Alignment { align });
        }
        if len == 0 || len > isize::MAX as usize / 2 {
            return Err(MemoryError::Length { len });
        }
        let units = (len as u64).div_ceil(PAGE);
        let alignment = Alignment::to((align as u64).div_ceil(PAGE));
        let mut state = self.lock();
        if state.withdrawn {
            return Err(MemoryError::Withdrawn { address: self.address.clone() });
        }
        let found = match state.cut(units, alignment) {
            Some(found) => found,
            None => {
                self.grow(&mut state, units * PAGE)?;
                // The new region is aligned to REGION_UNIT and long enough, so this cannot fail.
                let len = units * PAGE;
                state.cut(units, alignment).ok_or(MemoryError::Addresses { len, free: 0 })?
            }
        };
        state.stats.in_use += units * PAGE;
        drop(state);
        // SAFETY: `cut` took the extent out of the free ones of a region that lives until the extent is released.
        Ok(unsafe { Buffer::new(found.0, found.1, len, Arc::clone(self)) })
    }

    /// Registers memory that the caller mapped, for as long as any piece of the buffer lives. Pages of it are no
    /// longer inherited by child processes.
    ///
    /// # Errors
    /// [`MemoryError::Boundary`] unless it begins and ends at a page; [`MemoryError::NoDescriptor`] where the device
    /// is another process.
    pub fn register(self: &Arc<Self>, mut memory: memmap2::MmapMut) -> Result<Buffer, MemoryError> {
        let len = memory.len();
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(MemoryError::Length { len })?;
        #[cfg(not(miri))]
        memory.advise(memmap2::Advice::DontFork).map_err(|source| MemoryError::System {
            what: "keeping memory from child processes".into(),
            hint: "register a mapping of its own",
            source,
        })?;
        // SAFETY: the mapping stays where it is while its value, the owner, lives, and moving the value into the
        // region leaves nobody else with access to it.
        unsafe { self.register_raw(base, len, Box::new(memory)) }
    }

    /// Registers `len` bytes at `base`, which `owner` keeps allocated. `owner` is dropped when the last piece of the
    /// buffer has been dropped and the device has let go.
    ///
    /// A process that forks should keep such memory from its children (`MADV_DONTFORK`): copy-on-write may otherwise
    /// leave the device writing to pages that only the child still sees.
    ///
    /// # Errors
    /// As [`DmaMemory::register`].
    ///
    /// # Safety
    /// The range is valid for reads and writes until `owner` is dropped, its bytes are initialised, and nothing but
    /// the returned buffer accesses it in that time.
    pub unsafe fn register_raw(
        self: &Arc<Self>,
        base: NonNull<u8>,
        len: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Buffer, MemoryError> {
        if self.needs_descriptor {
            return Err(MemoryError::NoDescriptor { address: self.address.clone() });
        }
        let address = base.as_ptr() as u64;
        self.check_boundaries("the address", address, len)?;
        self.attach(Mapping::foreign(base, len), Some(owner))
    }

    /// Maps `len` bytes of `file` from `offset`, and registers them.
    ///
    /// # Errors
    /// [`MemoryError::Boundary`] unless offset and length are multiples of a page; [`MemoryError::System`] if the
    /// file is shorter or cannot be mapped.
    ///
    /// # Safety
    /// Nobody else, in this process or another one, writes to that part of the file or shortens the file while any
    /// piece of the buffer lives; the device apart.
    pub unsafe fn register_file(
        self: &Arc<Self>,
        file: OwnedFd,
        offset: u64,
        len: usize,
    ) -> Result<Buffer, MemoryError> {
        self.check_boundaries("the offset", offset, len)?;
        let mapping =
            Mapping::of_file(file, offset, len).map_err(|source| MemoryError::System {
                what: format!("mapping {len} bytes of a file from offset {offset}"),
                hint: "give a memfd or a file in memory that is as long",
                source,
            })?;
        self.attach(mapping, None)
    }

    /// Granule of the beginnings of buffers, and of memory to register.
    pub fn page_size(&self) -> u64 {
        self.lock().addresses.page()
    }

    /// Where it stands.
    pub fn stats(&self) -> MemoryStats {
        let state = self.lock();
        MemoryStats { mappings: state.addresses.mappings(), ..state.stats }
    }

    /// What the user should know, one sentence each: no hugepages, memory that had to be kept.
    pub fn notices(&self) -> Vec<String> {
        self.lock().notices.clone()
    }

    /// The device that reaches this memory, if one does.
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        self.device.as_ref()
    }

    /// Takes back the part of a dropped buffer.
    fn release(&self, iova: u64, len: usize) {
        let mut state = self.lock();
        if state.withdrawn {
            return;
        }
        let region = state.give_back(iova, len).and_then(|first| self.detach(&mut state, first));
        drop(state);
        // Outside the lock: the owner's own drop may do anything, allocate from here included.
        drop(region);
    }

    fn note_leak(&self, len: usize) {
        self.lock().leaked(len as u64, "it was given up while the device might still write to it");
    }

    /// Adds a region with room for `len` bytes.
    fn grow(&self, state: &mut State, len: u64) -> Result<(), MemoryError> {
        let unit = |len: u64| len.next_multiple_of(REGION_UNIT);
        let dedicated = len > LARGEST_REGION;
        let least = unit(len);
        let room =
            self.config.limit.map_or(u64::MAX, |most| most.saturating_sub(state.stats.reserved));
        if let Some(limit) = self.config.limit.filter(|_| least > room) {
            return Err(MemoryError::Limit { len: least, limit });
        }
        let next = state.stats.reserved.next_power_of_two().clamp(FIRST_REGION, LARGEST_REGION);
        let mut want =
            if dedicated { least } else { least.max(next).min(room / REGION_UNIT * REGION_UNIT) };
        // As much as growing in powers wants; where that cannot be had, down to what is needed.
        loop {
            let result = self.add_region(state, want, dedicated);
            let for_want_of_room = matches!(
                result,
                Err(MemoryError::Addresses { .. }
                    | MemoryError::System { .. }
                    | MemoryError::Device(DeviceError::Refused { .. } | DeviceError::Vfio { .. }))
            );
            if !for_want_of_room || want <= least {
                return result;
            }
            want = unit(want / 2).max(least);
        }
    }

    fn add_region(&self, state: &mut State, len: u64, dedicated: bool) -> Result<(), MemoryError> {
        let (mapping, pages) = self.create(state, len)?;
        let len = mapping.len() as u64;
        let huge = pages != PageKind::Ordinary;
        let free = Extents::of(0, len / PAGE);
        let align = REGION_UNIT.max(pages.bytes() as u64);
        let region = Region { mapping, use_: Use::Pool { free, huge, dedicated } };
        self.map(state, region, (align, 0)).map_err(|(error, _region)| error)?;
        state.stats.reserved += len;
        state.stats.huge += if huge { len } else { 0 };
        Ok(())
    }

    /// Memory from the system, of the kind that the configuration names, or of the best that can be had.
    fn create(&self, state: &mut State, len: u64) -> Result<(Mapping, PageKind), MemoryError> {
        let create = |pages: PageKind| {
            let len = len.next_multiple_of(pages.bytes() as u64);
            let too_long = |_| io::Error::from(io::ErrorKind::OutOfMemory);
            let len = usize::try_from(len).map_err(too_long)?;
            Mapping::create(len, pages, self.node).map(|mapping| (mapping, pages))
        };
        let hint = match self.config.pages {
            Some(PageKind::Huge1G | PageKind::Huge2M) => {
                "reserve hugepages: ./hugepages.sh reserve"
            }
            _ => "free memory, or use smaller or fewer buffers",
        };
        let failed = |source| MemoryError::System {
            what: format!("{len} bytes of DMA memory"),
            hint,
            source,
        };
        let room =
            self.config.limit.map_or(u64::MAX, |most| most.saturating_sub(state.stats.reserved));
        let fits = |pages: &PageKind| len.next_multiple_of(pages.bytes() as u64) <= room;
        if let Some(pages) = self.config.pages {
            if let Some(limit) = self.config.limit.filter(|_| !fits(&pages)) {
                return Err(MemoryError::Limit { len: pages.bytes() as u64, limit });
            }
            return create(pages).map_err(failed);
        }
        // One page of 1 GiB is a good fit only for lengths near it; otherwise it is the second choice.
        let order = if len >= PageKind::Huge1G.bytes() as u64 {
            [PageKind::Huge1G, PageKind::Huge2M]
        } else {
            [PageKind::Huge2M, PageKind::Huge1G]
        };
        if let Some(found) = order.into_iter().filter(fits).find_map(|pages| create(pages).ok()) {
            return Ok(found);
        }
        let found = create(PageKind::Ordinary).map_err(failed)?;
        if !std::mem::replace(&mut state.warned_of_pages, true) {
            state.notices.push(
                "DMA memory uses ordinary pages, because no hugepages are free; they cost more address \
                 translations: ./hugepages.sh reserve"
                    .into(),
            );
        }
        Ok(found)
    }

    /// Registers a mapping that the pool does not cut.
    fn attach(
        self: &Arc<Self>,
        mapping: Mapping,
        owner: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Buffer, MemoryError> {
        let (base, len) = (mapping.base(), mapping.len());
        let region = Region { mapping, use_: Use::Registered { held: len as u64, _owner: owner } };
        let mut state = self.lock();
        let mapped = self.map(&mut state, region, (REGION_UNIT, base.as_ptr() as u64));
        state.stats.registered += if mapped.is_ok() { len as u64 } else { 0 };
        drop(state);
        // Outside the lock: on failure the owner is dropped here, and its drop may do anything.
        let iova = mapped.map_err(|(error, _region)| error)?;
        // SAFETY: the whole of a mapping that lives in the region until the buffer is released.
        Ok(unsafe { Buffer::new(base, iova, len, Arc::clone(self)) })
    }

    /// Gives the region an I/O address at the device, equal to `like` modulo `align`, and keeps it. On failure the
    /// region comes back, if it may be freed.
    fn map(
        &self,
        state: &mut State,
        region: Region,
        (align, like): (u64, u64),
    ) -> Result<u64, (MemoryError, Option<Box<Region>>)> {
        let (base, len) = (region.mapping.base(), region.mapping.len() as u64);
        let Some(device) = &self.device else {
            let iova = base.as_ptr() as u64;
            state.regions.insert(iova, region);
            return Ok(iova);
        };
        let iova = match state.addresses.take(len, align, like) {
            Ok(iova) => iova,
            Err(error) => return Err((error, Some(Box::new(region)))),
        };
        let range = DmaRange { base, len, iova, file: region.mapping.file() };
        // SAFETY: the region is kept, mapped, until `detach` has unmapped it; buffers cut from it are referenced only
        // while no command names them (`Buffer`).
        match unsafe { device.map_dma(range) } {
            Ok(()) => {
                state.regions.insert(iova, region);
                Ok(iova)
            }
            Err(error @ DeviceError::TimedOut { .. }) => {
                // The answer may still come: neither the addresses nor the memory may serve anything else.
                std::mem::forget(region);
                state.leaked(len, "the device did not answer when it was mapped");
                Err((error.into(), None))
            }
            Err(error) => {
                state.addresses.give(iova, len);
                Err((error.into(), Some(Box::new(region))))
            }
        }
    }

    /// Unmaps a region that nothing uses. Where that fails, it is kept for good.
    fn detach(&self, state: &mut State, iova: u64) -> Option<Region> {
        let region = state.regions.remove(&iova)?;
        let len = region.mapping.len() as u64;
        match &region.use_ {
            Use::Pool { huge, .. } => {
                state.stats.reserved -= len;
                state.stats.huge -= if *huge { len } else { 0 };
            }
            Use::Registered { .. } => state.stats.registered -= len,
        }
        let Some(device) = &self.device else { return Some(region) };
        match device.unmap_dma(iova, len) {
            // A device that is gone touches nothing.
            Ok(()) | Err(DeviceError::Gone { .. }) => {
                state.addresses.give(iova, len);
                Some(region)
            }
            Err(error) => {
                std::mem::forget(region);
                state.leaked(len, &error.to_string());
                None
            }
        }
    }

    /// Keeps all of it mapped, and the device open, until the process ends: the device could not be stopped and may
    /// still write to it.
    pub(crate) fn withdraw(self: &Arc<Self>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.withdrawn, true) {
            return;
        }
        let len = state.stats.reserved + state.stats.registered;
        state.leaked(len, "the controller could not be stopped and might still write to it");
        drop(state);
        std::mem::forget(Arc::clone(self));
    }

    fn check_boundaries(
        &self,
        what: &'static str,
        place: u64,
        len: usize,
    ) -> Result<(), MemoryError> {
        let page = self.page_size();
        let whole = |value: u64| value.is_multiple_of(page);
        match (place, len as u64) {
            (place, _) if !whole(place) => Err(MemoryError::Boundary { what, value: place, page }),
            (_, value) if value == 0 || !whole(value) => {
                Err(MemoryError::Boundary { what: "the length", value, page })
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No invariant is broken half way by a panic here; a poisoned lock must not leak every buffer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        // No buffer is left, for each of them holds an Arc of this.
        let mut state = self.lock();
        let all: Vec<u64> = state.regions.keys().copied().collect();
        let regions: Vec<_> = all.into_iter().map(|iova| self.detach(&mut state, iova)).collect();
        drop(state);
        drop(regions);
    }
}

impl std::fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DmaMemory")
            .field("device", &self.address)
            .field("stats", &self.stats())
            .finish()
    }
}
