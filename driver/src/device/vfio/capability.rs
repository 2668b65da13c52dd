//! Answers of VFIO that end in a chain of capabilities, parsed from bytes.
//!
//! Owns no state and no system call. The kernel writes these chains, but nothing here relies on that: offsets are
//! checked against the bytes that came, and a chain has an end even where it is a ring.

use std::mem::offset_of;
use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio as abi;

use crate::device::IovaLimits;

/// Capabilities looked at in one chain.
const MAX_CAPABILITIES: usize = 64;
/// Entries looked at in one array.
const MAX_AREAS: usize = 4096;

/// Ranges of a kernel too old to report them (before 5.4): 39 bits, without the window of interrupt messages.
const OLD_RANGES: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
/// Mappings of a container where nobody says otherwise.
const DEFAULT_MAPPINGS: u32 = 65_535;

/// A region of the device: a BAR, or configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) flags: u32,
    pub(super) size: u64,
    /// Offset of its first byte in the device's file.
    pub(super) offset: u64,
    /// The parts that can be mapped, where only parts can.
    pub(super) sparse: Option<Vec<(u64, u64)>>,
}

impl Region {
    /// The answer to VFIO_DEVICE_GET_REGION_INFO.
    pub(super) fn parse(answer: &[u8]) -> Option<Self> {
        let mut region = Self {
            flags: u32_at(answer, offset_of!(abi::vfio_region_info, flags))?,
            size: u64_at(answer, offset_of!(abi::vfio_region_info, size))?,
            offset: u64_at(answer, offset_of!(abi::vfio_region_info, offset))?,
            sparse: None,
        };
        if region.flags & abi::VFIO_REGION_INFO_FLAG_CAPS != 0 {
            let first = u32_at(answer, offset_of!(abi::vfio_region_info, cap_offset))?;
            let mut sparse = chain(answer, first).filter(|capability| {
                u32::from(capability.id) == abi::VFIO_REGION_INFO_CAP_SPARSE_MMAP
            });
            region.sparse = sparse.next().map(|capability| {
                type Layout = abi::vfio_region_info_cap_sparse_mmap;
                let areas = offset_of!(Layout, areas);
                capability.pairs(offset_of!(Layout, nr_areas), areas).collect()
            });
        }
        Some(region)
    }

    /// Whether the `len` bytes from `offset` of the region can be mapped; otherwise why not.
    pub(super) fn mappable(&self, offset: u64, len: u64) -> Result<(), String> {
        if self.flags & abi::VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Err("no part of it".into());
        }
        let Some(sparse) = &self.sparse else { return Ok(()) };
        let holds = |&(start, size): &(u64, u64)| {
            let end = start.checked_add(size).zip(offset.checked_add(len));
            start <= offset && end.is_some_and(|(area, wanted)| wanted <= area)
        };
        if sparse.iter().any(holds) {
            return Ok(());
        }
        let areas: Vec<String> =
            sparse.iter().take(8).map(|(at, n)| format!("{n:x}h at {at:x}h")).collect();
        Err(format!("only {}", areas.join(", ")))
    }
}

/// The answer to VFIO_IOMMU_GET_INFO; `entry_limit` is the kernel module's setting.
pub(super) fn iova_limits(answer: &[u8], entry_limit: Option<u32>) -> Option<IovaLimits> {
    type Info = abi::vfio_iommu_type1_info;
    let flags = u32_at(answer, offset_of!(Info, flags))?;
    let page_sizes = match flags & abi::VFIO_IOMMU_INFO_PGSIZES {
        0 => 4096,
        _ => u64_at(answer, offset_of!(Info, iova_pgsizes))?,
    };
    let mut limits = IovaLimits {
        ranges: OLD_RANGES.into(),
        page_size: 1_u64.checked_shl(page_sizes.trailing_zeros()).unwrap_or(4096).max(4096),
        max_mappings: Some(entry_limit.unwrap_or(DEFAULT_MAPPINGS)),
    };
    if flags & abi::VFIO_IOMMU_INFO_CAPS == 0 {
        return Some(limits);
    }
    let first = u32_at(answer, offset_of!(Info, cap_offset))?;
    for capability in chain(answer, first) {
        match u32::from(capability.id) {
            abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                type Layout = abi::vfio_iommu_type1_info_cap_iova_range;
                let ranges = offset_of!(Layout, iova_ranges);
                let pairs = capability.pairs(offset_of!(Layout, nr_iovas), ranges);
                limits.ranges = pairs.map(|(start, end)| start..=end).collect();
                limits.ranges.sort_unstable_by_key(|range| *range.start());
            }
            abi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                let avail = offset_of!(abi::vfio_iommu_type1_info_dma_avail, avail);
                limits.max_mappings = capability.u32_at(avail).or(limits.max_mappings);
            }
            _ => {}
        }
    }
    Some(limits)
}

/// One capability: its identifier, and the answer from its header on.
struct Capability<'a> {
    id: u16,
    bytes: &'a [u8],
}

impl Capability<'_> {
    fn u32_at(&self, offset: usize) -> Option<u32> {
        u32_at(self.bytes, offset)
    }

    /// Pairs of numbers: their count stands at `count`, they begin at `first`. Those that did not come are left out.
    fn pairs(&self, count: usize, first: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let count = self.u32_at(count).unwrap_or(0) as usize;
        (0..count.min(MAX_AREAS)).map_while(move |index| {
            let at = first + index * 16;
            Some((u64_at(self.bytes, at)?, u64_at(self.bytes, at + 8)?))
        })
    }
}

/// The capabilities of the chain that begins at `first`, an offset in `answer`; 0 ends it.
fn chain(answer: &[u8], first: u32) -> impl Iterator<Item = Capability<'_>> {
    type Header = abi::vfio_info_cap_header;
    let mut next = first;
    std::iter::from_fn(move || {
        if next == 0 {
            return None;
        }
        let bytes = answer.get(next as usize..)?;
        next = u32_at(bytes, offset_of!(Header, next))?;
        let id = bytes.get(offset_of!(Header, id)..)?.first_chunk().copied()?;
        Some(Capability { id: u16::from_le_bytes(id), bytes })
    })
    .take(MAX_CAPABILITIES)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
}

// Safe code on strings and bytes: nothing that Miri would see, and slow there.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    const MMAP_AND_CAPS: u32 = abi::VFIO_REGION_INFO_FLAG_MMAP | abi::VFIO_REGION_INFO_FLAG_CAPS;

    #[test]
    fn a_region_with_a_hole() {
        // argsz flags index cap_offset size offset; capability 3, then sparse mmap of two areas.
        let answer = words(&[
            88,
            MMAP_AND_CAPS,
            0,
            32,
            0x4000,
            0,
            0,
            0, //
            3 | 1 << 16,
            40, //
            1 | 1 << 16,
            0,
            2,
            0, //
            0,
            0,
            0x2000,
            0,
            0x3000,
            0,
            0x1000,
            0,
        ]);
        let region = Region::parse(&answer).unwrap();
        assert_eq!(region.sparse, Some(vec![(0, 0x2000), (0x3000, 0x1000)]));
        assert_eq!(region.mappable(0x1000, 0x1000), Ok(()));
        assert_eq!(region.mappable(0x1000, 0x1001), Err("only 2000h at 0h, 1000h at 3000h".into()));
        assert!(region.mappable(u64::MAX, 2).is_err());
    }

    #[test]
    fn a_region_without_capabilities() {
        let answer = words(&[32, 7, 0, 0, 0x4000, 0, 0, 16]);
        let region = Region::parse(&answer).unwrap();
        assert_eq!((region.size, region.offset), (0x4000, 16 << 32));
        assert_eq!(region.mappable(0x1000, 0x3000), Ok(()));
        assert!(Region { flags: 3, ..region }.mappable(0, 1).is_err());
        assert_eq!(Region::parse(&answer[..31]), None);
    }

    #[test]
    fn an_emulated_intel_iommu() {
        let mut answer = words(&[
            84,
            3,
            0x4020_1000,
            0,
            24,
            0, // page sizes 4 KiB, 2 MiB, 1 GiB; capabilities from 24
            1 | 1 << 16,
            72,
            2,
            0, // two ranges, next capability at 72
            0,
            0,
            0xfedf_ffff,
            0, //
            0xfef0_0000,
            0,
            0xffff_ffff,
            0x7f, //
            3 | 1 << 16,
            0,
            1000,
        ]);
        let limits = iova_limits(&answer, Some(5)).unwrap();
        assert_eq!(limits.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]);
        assert_eq!((limits.page_size, limits.max_mappings), (4096, Some(1000)));
        // Without capabilities: what is safe everywhere, and the module's limit.
        answer[4] = 1;
        let limits = iova_limits(&answer, Some(5)).unwrap();
        assert_eq!((limits.ranges.as_slice(), limits.max_mappings), (&OLD_RANGES[..], Some(5)));
    }

    #[test]
    fn chains_that_do_not_end() {
        // A capability that names itself as the next one.
        let ring = words(&[40, MMAP_AND_CAPS, 0, 32, 0x4000, 0, 0, 0, 9, 32]);
        assert_eq!(chain(&ring, 32).count(), MAX_CAPABILITIES);
        assert_eq!(Region::parse(&ring).unwrap().sparse, None);
        // Areas that are promised and do not come.
        let short = words(&[56, MMAP_AND_CAPS, 0, 32, 0x4000, 0, 0, 0, 1, 0, u32::MAX, 0]);
        assert_eq!(Region::parse(&short).unwrap().sparse, Some(vec![]));
        assert!(Region::parse(&short).unwrap().mappable(0x1000, 8).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Region::parse(&answer).map(|region| region.mappable(0x1000, 0x1000));
            let _ = iova_limits(&answer, None);
        }

        #[test]
        fn no_chain_panics(
            mut answer in proptest::collection::vec(0..64u32, 10..60),
            first in 0..300u32,
        ) {
            answer[1] = u32::MAX;
            answer[3] = first;
            let mut bytes = words(&answer);
            let _ = Region::parse(&bytes);
            bytes[16..20].copy_from_slice(&first.to_le_bytes());
            let limits = iova_limits(&bytes, None).unwrap();
            prop_assert!(limits.page_size.is_power_of_two());
        }
    }
}
