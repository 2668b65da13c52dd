//! What a server says of a region: how long it is, and which of its parts can be mapped from which file.
//!
//! Pure: reads the reply to DEVICE_GET_REGION_INFO, and finds the file and offset for a part. Three shapes are in use:
//! a file and no sparse areas (all of the region can be mapped), one file for all areas (libvfio-user), and one file
//! per area (SPDK's host reads that). In each, a byte of the region lies at its offset plus the region's in the file.

use std::fs::File;
use std::os::fd::OwnedFd;

use doorbell_spec::vfio_user::{CapabilityHeader, RegionInfo, SparseArea, SparseMmap};
use zerocopy::FromBytes;

/// Capabilities that are looked through; the list must advance, so this is never reached by an honest server.
const MAX_CAPABILITIES: usize = 64;

/// What a file is mapped in multiples of.
const PAGE: u64 = 4096;

/// One region of a device.
#[derive(Debug)]
pub(super) struct Region {
    /// Bytes.
    pub(super) size: u64,
    mappable: bool,
    offset: u64,
    /// `None` where the whole region can be mapped.
    areas: Option<Vec<SparseArea>>,
    files: Vec<File>,
}

impl Region {
    /// Reads the payload of the reply.
    pub(super) fn parse(payload: &[u8], fds: Vec<OwnedFd>) -> Result<Self, String> {
        let Ok((info, _)) = RegionInfo::read_from_prefix(payload) else {
            return Err(format!("a region's description of {} bytes", payload.len()));
        };
        let flags = info.flags.get();
        let areas = if flags & RegionInfo::CAPS == 0 {
            None
        } else {
            sparse_areas(payload, info.cap_offset.get())?
        };
        Ok(Self {
            size: info.size.get(),
            mappable: flags & RegionInfo::MMAP != 0,
            offset: info.offset.get(),
            areas,
            files: fds.into_iter().map(File::from).collect(),
        })
    }

    /// The file that holds `len` bytes from `offset` of the region, and where in it they begin.
    pub(super) fn file(&self, offset: u64, len: u64) -> Result<(&File, u64), String> {
        let range = || format!("{offset:x}h to {:x}h", offset.saturating_add(len));
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(format!("{} lies past its end at {:x}h", range(), self.size));
        };
        if !self.mappable || self.files.is_empty() {
            return Err(format!("the server lets no part of it be mapped, so not {}", range()));
        }
        let index = match &self.areas {
            None => 0,
            Some(areas) => {
                let covers = |area: &SparseArea| {
                    let start = area.offset.get();
                    let area_end = start.checked_add(area.size.get());
                    start <= offset && area_end.is_some_and(|area_end| area_end >= end)
                };
                let Some(index) = areas.iter().position(covers) else {
                    return Err(format!("none of the parts that can be mapped covers {}", range()));
                };
                if self.files.len() == areas.len() { index } else { 0 }
            }
        };
        let in_file = self.offset.checked_add(offset);
        let (Some(file), Some(in_file)) = (self.files.get(index), in_file) else {
            return Err(format!("its offset {:x}h in the file cannot be", self.offset));
        };
        // Only whole pages are mapped: doorbells elsewhere would not be aligned.
        if !in_file.is_multiple_of(PAGE) {
            return Err(format!(
                "{} would begin at {in_file:x}h of its file, within a page",
                range()
            ));
        }
        // Touching a page past the end of the file would be fatal. Only a memory file can be kept from becoming shorter, and
        // only if its maker lets it.
        #[cfg(not(miri))]
        let _best_effort = rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::SHRINK);
        let metadata = file.metadata().map_err(|error| format!("its file: {error}"))?;
        let file_len = metadata.len();
        let inside = in_file.checked_add(len).is_some_and(|end| end <= file_len);
        if metadata.is_file() && !inside {
            return Err(format!("{} lies past the end of its file of {file_len} bytes", range()));
        }
        Ok((file, in_file))
    }
}

/// The areas of the sparse mmap capability; `None` where there is no such capability.
fn sparse_areas(payload: &[u8], first: u32) -> Result<Option<Vec<SparseArea>>, String> {
    let mut at = first as usize;
    for _ in 0..MAX_CAPABILITIES {
        if at == 0 {
            return Ok(None);
        }
        let rest = payload.get(at..).unwrap_or_default();
        let Ok((header, rest)) = CapabilityHeader::read_from_prefix(rest) else {
            return Err(format!("a region capability at {at}, past the end of the message"));
        };
        if header.id.get() != CapabilityHeader::SPARSE_MMAP {
            let next = header.next.get() as usize;
            if next != 0 && next <= at {
                return Err(format!("region capabilities that go back from {at} to {next}"));
            }
            at = next;
            continue;
        }
        let Ok((sparse, rest)) = SparseMmap::read_from_prefix(rest) else {
            return Err("a sparse mmap capability cut short".into());
        };
        let count = sparse.nr_areas.get() as usize;
        if count > rest.len() / size_of::<SparseArea>() {
            return Err(format!("a sparse mmap capability of {count} areas, which do not fit"));
        }
        let areas = rest.chunks_exact(size_of::<SparseArea>()).take(count);
        return Ok(Some(areas.filter_map(|area| SparseArea::read_from_bytes(area).ok()).collect()));
    }
    Err("region capabilities without end".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zerocopy::IntoBytes;

    fn file(len: u64) -> OwnedFd {
        let mut file = tempfile();
        file.write_all(&[0]).unwrap();
        file.set_len(len).unwrap();
        file.into()
    }

    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!(
            "doorbell-region-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = File::create_new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file
    }

    #[test]
    #[cfg(not(miri))]
    fn a_memory_file_cannot_be_shortened_once_it_is_used() {
        use rustix::fs::MemfdFlags;
        for (flags, kept) in [(MemfdFlags::ALLOW_SEALING, true), (MemfdFlags::empty(), false)] {
            let memory = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC | flags).unwrap();
            let servers = File::from(memory.try_clone().unwrap());
            servers.set_len(0x14000).unwrap();
            let region = Region::parse(&info(RegionInfo::MMAP, &[]), vec![memory]).unwrap();
            region.file(0x1000, 0x1000).unwrap();
            assert_eq!(servers.set_len(0).is_err(), kept);
            // What is too short by then is refused.
            assert_eq!(region.file(0x1000, 0x1000).is_ok(), kept);
        }
    }

    fn info(flags: u32, areas: &[(u64, u64)]) -> Vec<u8> {
        let info = RegionInfo {
            flags: flags.into(),
            cap_offset: 32.into(),
            size: 0x4000.into(),
            offset: 0x10000.into(),
            ..RegionInfo::default()
        };
        let header = CapabilityHeader {
            id: CapabilityHeader::SPARSE_MMAP.into(),
            version: 1.into(),
            next: 0.into(),
        };
        let sparse = SparseMmap { nr_areas: (areas.len() as u32).into(), ..SparseMmap::default() };
        let mut bytes = [info.as_bytes(), header.as_bytes(), sparse.as_bytes()].concat();
        for (offset, size) in areas {
            let area = SparseArea { offset: (*offset).into(), size: (*size).into() };
            bytes.extend_from_slice(area.as_bytes());
        }
        bytes
    }

    const MMAP: u32 = RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP;
    const SPARSE: u32 = MMAP | RegionInfo::CAPS;

    #[test]
    fn a_file_without_areas_maps_everything() {
        let region = Region::parse(&info(MMAP, &[]), vec![file(0x20000)]).unwrap();
        assert_eq!(region.file(0x1000, 0x1000).unwrap().1, 0x11000);
        assert!(region.file(0x3000, 0x1001).unwrap_err().contains("past its end"));
        assert!(region.file(u64::MAX, 2).is_err());
    }

    #[test]
    fn one_file_for_all_areas_and_one_each() {
        let areas = [(0x0, 0x800), (0x1000, 0x1000)];
        let one = Region::parse(&info(SPARSE, &areas), vec![file(0x20000)]).unwrap();
        assert_eq!(one.file(0x1000, 0x1000).unwrap().1, 0x11000);
        assert!(one.file(0x1800, 0x1000).is_err());
        let each =
            Region::parse(&info(SPARSE, &areas), vec![file(0x10000), file(0x12000)]).unwrap();
        assert_eq!(each.file(0x1000, 0x1000).unwrap().0.metadata().unwrap().len(), 0x12000);
        assert!(each.file(0, 0x800).unwrap_err().contains("past the end of its file"));
    }

    #[test]
    fn what_cannot_be_mapped_says_so() {
        let trapped = Region::parse(&info(RegionInfo::READ, &[]), Vec::new()).unwrap();
        assert!(trapped.file(0x1000, 0x1000).unwrap_err().contains("no part"));
        let no_file = Region::parse(&info(MMAP, &[]), Vec::new()).unwrap();
        assert!(no_file.file(0x1000, 0x1000).is_err());
        let no_area = Region::parse(&info(SPARSE, &[]), vec![file(0x20000)]).unwrap();
        assert!(no_area.file(0x1000, 0x1000).unwrap_err().contains("none of the parts"));
        let mut within = info(MMAP, &[]);
        within[24] = 1;
        let within = Region::parse(&within, vec![file(0x20000)]).unwrap();
        assert!(within.file(0x1000, 0x1000).unwrap_err().contains("within a page"));
        let wraps = Region::parse(&info(SPARSE, &[(8, u64::MAX)]), vec![file(0x20000)]).unwrap();
        assert!(wraps.file(0x1000, 0x1000).is_err());
    }

    #[test]
    fn malformed_descriptions_are_refused() {
        let good = info(SPARSE, &[(0x1000, 0x1000)]);
        for len in 0..good.len() {
            assert!(Region::parse(&good[..len], Vec::new()).is_err(), "{len} bytes");
        }
        let mut many = good.clone();
        many[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Region::parse(&many, Vec::new()).unwrap_err().contains("do not fit"));
        let mut circle = good.clone();
        circle[32] = 9;
        circle[36..40].copy_from_slice(&32_u32.to_le_bytes());
        assert!(Region::parse(&circle, Vec::new()).unwrap_err().contains("go back"));
        let mut far = good;
        far[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Region::parse(&far, Vec::new()).is_err());
    }
}
