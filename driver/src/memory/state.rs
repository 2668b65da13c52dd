//! The regions of one device's memory, and which parts of them are free.
//!
//! Owns the bookkeeping only: whoever holds the lock decides what is mapped and unmapped (`memory`).

#![expect(unsafe_code, reason = "addresses parts of regions")]

use std::any::Any;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use super::extents::{Alignment, Extents};
use super::iova::IovaSpace;
use super::mapping::Mapping;
use super::{MemoryStats, PAGE};

/// What the lock of a [`super::DmaMemory`] guards.
pub(super) struct State {
    pub(super) addresses: IovaSpace,
    /// By I/O address of the first byte.
    pub(super) regions: BTreeMap<u64, Region>,
    pub(super) stats: MemoryStats,
    pub(super) notices: Vec<String>,
    pub(super) warned_of_pages: bool,
    /// The device could not be stopped: what it may write to is neither handed out again nor unmapped.
    pub(super) withdrawn: bool,
}

/// Memory that is mapped at the device as one piece.
pub(super) struct Region {
    pub(super) mapping: Mapping,
    pub(super) use_: Use,
}

/// What a region is for.
pub(super) enum Use {
    /// Buffers are cut from it.
    Pool { free: Extents, huge: bool, dedicated: bool },
    /// Memory of the application: bytes in buffers, and what keeps it alive.
    Registered { held: u64, _owner: Option<Box<dyn Any + Send + Sync>> },
}

impl Region {
    fn is_unused(&self) -> bool {
        match &self.use_ {
            Use::Pool { free, .. } => free.free() == self.mapping.len() as u64 / PAGE,
            Use::Registered { held, .. } => *held == 0,
        }
    }

    fn is_spare(&self) -> bool {
        matches!(self.use_, Use::Pool { dedicated: false, .. }) && self.is_unused()
    }
}

impl State {
    /// No memory yet, and these addresses for it.
    pub(super) fn new(addresses: IovaSpace) -> Self {
        Self {
            addresses,
            regions: BTreeMap::new(),
            stats: MemoryStats::default(),
            notices: Vec::new(),
            warned_of_pages: false,
            withdrawn: false,
        }
    }

    /// Cuts `units` pages from the first region that has them: its address here, and at the device.
    pub(super) fn cut(&mut self, units: u64, alignment: Alignment) -> Option<(NonNull<u8>, u64)> {
        self.regions.iter_mut().find_map(|(&iova, region)| {
            let Use::Pool { free, .. } = &mut region.use_ else { return None };
            let offset = free.take(units, alignment)? * PAGE;
            // SAFETY: extents lie inside the region.
            let base = unsafe { region.mapping.base().add(offset as usize) };
            Some((base, iova + offset))
        })
    }

    /// Returns the part of a buffer to its region; the region's address, if it is to be released.
    pub(super) fn give_back(&mut self, iova: u64, len: usize) -> Option<u64> {
        let spares = self.regions.values().filter(|region| region.is_spare()).count();
        let (&first, region) = self.regions.range_mut(..=iova).next_back()?;
        let units = (len as u64).div_ceil(PAGE);
        match &mut region.use_ {
            Use::Pool { free, .. } => {
                free.give((iova - first) / PAGE, units);
                self.stats.in_use -= units * PAGE;
            }
            Use::Registered { held, .. } => *held -= len as u64,
        }
        let region_is_needed = !region.is_unused() || (region.is_spare() && spares == 0);
        (!region_is_needed).then_some(first)
    }

    /// Counts memory that is kept for good, and says why.
    pub(super) fn leaked(&mut self, len: u64, why: &str) {
        self.stats.leaked += len;
        self.notices
            .push(format!("{len} bytes of DMA memory are kept until the process ends: {why}"));
    }
}
