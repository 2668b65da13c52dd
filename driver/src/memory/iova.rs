//! I/O addresses: which are free, within what the IOMMU (or the serving process) said it can map.
//!
//! Owns the device's address space and the count of its mappings. The limits may come from another process, so they
//! are checked and never trusted. An address is never derived from a virtual address: an IOMMU may have 39 bits, and
//! holes. The lowest 2 MiB are never given out, so that an address of zero, or a small offset to it, always faults.

use crate::device::IovaLimits;

use super::extents::{Alignment, Extents};
use super::{MemoryError, PAGE};

/// Addresses below this are never used.
const LOWEST: u64 = 2 << 20;
/// Ranges looked at; a server that sends more has sent nonsense.
const MAX_RANGES: usize = 4096;

/// The free I/O addresses of one device.
#[derive(Debug)]
pub(crate) struct IovaSpace {
    extents: Extents,
    page: u64,
    mappings: u32,
    max_mappings: Option<u32>,
}

impl IovaSpace {
    /// The space that `limits` leaves.
    pub(crate) fn new(limits: &IovaLimits) -> Result<Self, MemoryError> {
        if !limits.page_size.is_power_of_two() || limits.page_size > super::REGION_UNIT {
            return Err(MemoryError::PageSize { page: limits.page_size });
        }
        let page = limits.page_size.max(PAGE);
        let mut extents = Extents::default();
        let mut next = LOWEST.max(page);
        for range in limits.ranges.iter().take(MAX_RANGES) {
            let Some(start) = (*range.start()).max(next).checked_next_multiple_of(page) else {
                break;
            };
            // The end is exclusive from here on; the last page of the 64-bit space is given up for that.
            let end = range.end().checked_add(1).unwrap_or(u64::MAX) & !(page - 1);
            if start < end {
                extents.give(start / PAGE, (end - start) / PAGE);
                next = end;
            }
        }
        Ok(Self { extents, page, mappings: 0, max_mappings: limits.max_mappings })
    }

    /// Granule of addresses and lengths.
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// Bytes of free addresses.
    pub(crate) fn free(&self) -> u64 {
        self.extents.free().saturating_mul(PAGE)
    }

    /// Takes addresses for one mapping of `len` bytes, a multiple of the page; `like` and the result are equal
    /// modulo `align`, so that the IOMMU can use its large pages.
    pub(crate) fn take(&mut self, len: u64, align: u64, like: u64) -> Result<u64, MemoryError> {
        if let Some(limit) = self.max_mappings.filter(|&limit| self.mappings >= limit) {
            return Err(MemoryError::Mappings { limit });
        }
        let phase = like & (align - 1) & !(self.page - 1);
        let wish = Alignment { align: align / PAGE, phase: phase / PAGE };
        let start = self
            .extents
            .take(len / PAGE, wish)
            .or_else(|| self.extents.take(len / PAGE, Alignment::to(self.page / PAGE)))
            .ok_or(MemoryError::Addresses { len, free: self.free() })?;
        self.mappings += 1;
        Ok(start * PAGE)
    }

    /// Gives the addresses of one mapping back.
    pub(crate) fn give(&mut self, iova: u64, len: u64) {
        self.extents.give(iova / PAGE, len / PAGE);
        self.mappings = self.mappings.saturating_sub(1);
    }

    /// Mappings that exist.
    pub(crate) fn mappings(&self) -> u32 {
        self.mappings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Random;
    use std::ops::RangeInclusive;

    const MIB: u64 = 1 << 20;

    fn space(ranges: &[RangeInclusive<u64>]) -> IovaSpace {
        IovaSpace::new(&limits(ranges)).unwrap()
    }

    fn limits(ranges: &[RangeInclusive<u64>]) -> IovaLimits {
        IovaLimits { ranges: ranges.to_vec(), page_size: 4096, max_mappings: None }
    }

    #[test]
    fn emulated_intel_iommu_39_bits_with_a_hole() {
        let ranges = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        let mut space = space(&ranges);
        let mut total = 0;
        // Miri would take minutes for all of it.
        let enough = if cfg!(miri) { 8 << 30 } else { u64::MAX };
        while let Some(iova) =
            (total < enough).then(|| space.take(64 * MIB, 2 * MIB, 0).ok()).flatten()
        {
            assert_eq!(iova % (2 * MIB), 0);
            assert!(iova >= 2 * MIB);
            assert!(
                ranges.iter().any(|r| r.contains(&iova) && r.contains(&(iova + 64 * MIB - 1))),
                "{iova:#x}"
            );
            total += 64 * MIB;
        }
        assert!(cfg!(miri) || total > (1 << 39) - 200 * MIB, "{total:#x}");
    }

    #[test]
    fn hostile_limits_neither_panic_nor_yield_addresses_outside() {
        assert!(space(&[]).take(4096, 4096, 0).is_err());
        assert!(space(&[0..=0]).take(4096, 4096, 0).is_err());
        let (start, end) = (5, 4);
        assert!(space(&[start..=end]).take(4096, 4096, 0).is_err());
        assert!(space(&[u64::MAX - 10..=u64::MAX]).take(4096, 4096, 0).is_err());
        assert_eq!(space(&[0..=u64::MAX]).take(4096, 4096, 0).unwrap(), LOWEST);
        // Overlapping and descending ranges count once.
        let mut twice = space(&[0..=4 * MIB - 1, 0..=4 * MIB - 1, 0..=3 * MIB]);
        assert_eq!(twice.free(), 2 * MIB);
        assert_eq!(twice.take(2 * MIB, 4096, 0).unwrap(), 2 * MIB);
        assert!(twice.take(4096, 4096, 0).is_err());
        for page_size in [0, 3, 4097, 1 << 40] {
            let limits = IovaLimits { page_size, ..limits(&[0..=u64::MAX]) };
            assert!(matches!(IovaSpace::new(&limits), Err(MemoryError::PageSize { .. })));
        }
    }

    #[test]
    fn larger_iommu_pages_round_ranges_inwards() {
        let limits = IovaLimits { page_size: 65536, ..limits(&[2 * MIB + 5..=4 * MIB + 70_000]) };
        let mut space = IovaSpace::new(&limits).unwrap();
        assert_eq!(space.page(), 65536);
        assert_eq!(space.take(65536, 65536, 0).unwrap(), 2 * MIB + 65536);
        assert_eq!(space.free(), 2 * MIB - 65536);
    }

    #[test]
    fn mappings_are_counted_against_the_limit() {
        let mut space =
            IovaSpace::new(&IovaLimits { max_mappings: Some(2), ..limits(&[0..=u64::MAX]) })
                .unwrap();
        let first = space.take(4096, 4096, 0).unwrap();
        let _second = space.take(4096, 4096, 0).unwrap();
        assert!(matches!(space.take(4096, 4096, 0), Err(MemoryError::Mappings { limit: 2 })));
        space.give(first, 4096);
        assert_eq!(space.take(4096, 4096, 0).unwrap(), first);
        assert_eq!(space.mappings(), 2);
    }

    #[test]
    fn addresses_follow_the_memory_modulo_large_pages() {
        let mut space = space(&[0..=u64::MAX]);
        let iova = space.take(8192, 2 * MIB, 0x7f12_3456_7000).unwrap();
        assert_eq!(iova % (2 * MIB), 0x7f12_3456_7000 % (2 * MIB));
    }

    #[test]
    fn random_ranges_leave_nothing_behind() {
        let mut random = Random::from_env();
        for _ in 0..if cfg!(miri) { 1 } else { 200 } {
            let mut ranges = Vec::new();
            let mut at = random.below(1 << 30);
            for _ in 0..1 + random.below(6) {
                let len = 1 + random.below(1 << 26);
                ranges.push(at..=at + len - 1);
                at += len + random.below(1 << 24);
            }
            let mut space = space(&ranges);
            let free = space.free();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for _ in 0..if cfg!(miri) { 20 } else { 100 } {
                let len = 4096 * (1 + random.below(2048));
                if let Ok(iova) =
                    space.take(len, 1 << (12 + random.below(10)), random.below(1 << 40))
                {
                    assert!(iova >= LOWEST);
                    assert!(
                        ranges.iter().any(|r| r.contains(&iova) && r.contains(&(iova + len - 1)))
                    );
                    assert!(held.iter().all(|&(h, l)| iova + len <= h || h + l <= iova));
                    held.push((iova, len));
                }
                if !held.is_empty() && random.below(2) == 0 {
                    let (iova, len) = held.swap_remove(random.below(held.len() as u64) as usize);
                    space.give(iova, len);
                }
            }
            for (iova, len) in held {
                space.give(iova, len);
            }
            assert_eq!((space.free(), space.mappings()), (free, 0));
        }
    }
}
