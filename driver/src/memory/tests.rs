//! The pool against a device that records what is mapped, and fails on demand.

#![expect(unsafe_code, reason = "implements and calls the unsafe methods under test")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::device::{DeviceInfo, Doorbells, Interrupt, IovaLimits, PciId, Properties, Width};

/// SplitMix64; the seed is printed, so that a failure can be repeated with `DOORBELL_SEED`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn from_env() -> Self {
        let time = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as u64)
        };
        let given = std::env::var("DOORBELL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| if cfg!(miri) { 1 } else { time() });
        println!("seed: DOORBELL_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Default)]
struct Script {
    /// I/O address to length.
    maps: BTreeMap<u64, u64>,
    calls: u32,
    /// Calls of `map_dma` that fail, counted from 1, and how.
    fail_map: Option<(u32, fn() -> DeviceError)>,
    fail_unmap: Option<fn() -> DeviceError>,
    has_file: Vec<bool>,
}

struct Mock {
    info: DeviceInfo,
    script: Mutex<Script>,
}

fn mock(change: impl FnOnce(&mut DeviceInfo)) -> Arc<Mock> {
    let mut info = DeviceInfo {
        address: "mock:".into(),
        pci: PciId::default(),
        numa_node: Some(0),
        iova: IovaLimits { ranges: vec![0..=(1 << 39) - 1], page_size: 4096, max_mappings: None },
        bar_len: 0x4000,
        vectors: 0,
        resettable: false,
        needs_descriptor: false,
        traps: false,
    };
    change(&mut info);
    Arc::new(Mock { info, script: Mutex::default() })
}

fn timed_out() -> DeviceError {
    let after = std::time::Duration::from_secs(1);
    DeviceError::TimedOut { address: "mock:".into(), what: "mapping".into(), after }
}

fn refused() -> DeviceError {
    let source = io::Error::from(io::ErrorKind::OutOfMemory);
    DeviceError::Refused {
        address: "mock:".into(),
        what: "mapping".into(),
        hint: String::new(),
        source,
    }
}

fn gone() -> DeviceError {
    DeviceError::Gone { address: "mock:".into(), what: "test".into() }
}

impl Mock {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn mapped(&self) -> u64 {
        self.script().maps.values().sum()
    }
}

impl Properties for Mock {
    fn read(&self, _: u64, _: Width) -> Result<u64, DeviceError> {
        Err(gone())
    }

    fn write(&self, _: u64, _: Width, _: u64) -> Result<(), DeviceError> {
        Err(gone())
    }
}

impl Device for Mock {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn doorbells(&self, _: u64) -> Result<Doorbells, DeviceError> {
        Err(gone())
    }

    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        let mut script = self.script();
        script.calls += 1;
        if let Some((call, error)) = script.fail_map
            && call == script.calls
        {
            return Err(error());
        }
        assert!(
            range.iova > 0 && range.iova.is_multiple_of(4096) && range.len.is_multiple_of(4096)
        );
        assert!(
            self.info
                .iova
                .ranges
                .iter()
                .any(|r| r.contains(&range.iova) && r.contains(&(range.iova + range.len - 1)))
        );
        for (&iova, &len) in &script.maps {
            assert!(range.iova + range.len <= iova || iova + len <= range.iova, "overlap");
        }
        script.maps.insert(range.iova, range.len);
        script.has_file.push(range.file.is_some());
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        let mut script = self.script();
        if let Some(error) = script.fail_unmap {
            return Err(error());
        }
        assert_eq!(script.maps.remove(&iova), Some(len));
        Ok(())
    }

    fn interrupt(&self, _: Interrupt, _: Option<OwnedFd>) -> Result<(), DeviceError> {
        Err(gone())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        Err(gone())
    }
}

fn memory(device: &Arc<Mock>) -> Arc<DmaMemory> {
    // The arithmetic of these tests is that of ordinary pages, whatever the machine has reserved.
    let pages = Some(PageKind::Ordinary);
    DmaMemory::new(device.clone(), MemoryConfig { pages, ..MemoryConfig::default() }).unwrap()
}

#[test]
fn random_buffers_never_overlap_and_all_come_back() {
    let mut random = Random::from_env();
    let device = mock(|_| ());
    let memory = memory(&device);
    let mut held: Vec<(Buffer, u64)> = Vec::new();
    // 100,000 operations on the extents themselves are in `extents`; here each touches memory.
    for round in 0..if cfg!(miri) { 60 } else { 20_000 } {
        if held.len() < 200 && random.below(100) < 55 {
            let magnitude = 8 + random.below(if cfg!(miri) { 6 } else { 12 });
            let len = 1 + random.below(1 << magnitude);
            let align = 4096 << random.below(4);
            let mut buffer = memory.allocate_aligned(len as usize, align as usize).unwrap();
            assert_eq!((buffer.iova() % align, buffer.len() as u64), (0, len));
            assert!(!cfg!(miri) || (buffer.as_ptr() as u64).is_multiple_of(4096));
            // The first and last byte of every page carry the round; an overlap would be seen when freed.
            stamp(&mut buffer, round);
            held.push((buffer, round));
        } else if !held.is_empty() {
            let (buffer, stamped) = held.swap_remove(random.below(held.len() as u64) as usize);
            assert!(is_stamped(&buffer, stamped), "{buffer:?}");
        }
        let stats = memory.stats();
        assert_eq!(stats.reserved, device.mapped());
        let in_use = held.iter().map(|(b, _)| (b.len() as u64).next_multiple_of(PAGE)).sum::<u64>();
        assert_eq!(stats.in_use, in_use);
    }
    held.clear();
    let stats = memory.stats();
    assert_eq!((stats.in_use, stats.mappings, stats.leaked), (0, 1, 0));
    for region in memory.lock().regions.values() {
        let Use::Pool { free, .. } = &region.use_ else { panic!("only the pool is used here") };
        assert_eq!(free.fragments(), 1);
    }
    drop(memory);
    assert_eq!(device.mapped(), 0);
}

fn stamp(buffer: &mut Buffer, round: u64) {
    for page in buffer.chunks_mut(4096) {
        page[0] = round as u8;
        *page.last_mut().unwrap() = round as u8;
    }
}

fn is_stamped(buffer: &Buffer, round: u64) -> bool {
    buffer.chunks(4096).all(|page| page[0] == round as u8 && page[page.len() - 1] == round as u8)
}

#[test]
fn a_new_pool_is_zero_and_regions_grow() {
    let device = mock(|_| ());
    let memory = memory(&device);
    let quarter = FIRST_REGION as usize / 4;
    let buffers: Vec<_> = (0..12).map(|_| memory.allocate(quarter).unwrap()).collect();
    assert!(buffers.iter().all(|buffer| buffer.iter().step_by(4096).all(|&byte| byte == 0)));
    // 4 and 4 and 8 MiB: doubling, never one region per buffer.
    assert_eq!(memory.stats().mappings, 3);
    assert_eq!(memory.stats().reserved, 4 * FIRST_REGION);
    drop(buffers);
    // One empty region stays, whatever its size.
    assert_eq!(memory.stats().mappings, 1);
}

#[test]
fn a_large_buffer_has_its_own_region_and_gives_it_back() {
    let device = mock(|_| ());
    let memory = memory(&device);
    let small = memory.allocate(1).unwrap();
    let reserved = memory.stats().reserved;
    let large = memory.allocate(LARGEST_REGION as usize + 1).unwrap();
    assert_eq!(memory.stats().reserved, reserved + LARGEST_REGION + REGION_UNIT);
    assert_eq!(large.iova() % REGION_UNIT, 0);
    drop(large);
    assert_eq!((memory.stats().reserved, device.mapped()), (reserved, reserved));
    drop(small);
}

#[test]
fn lengths_alignments_and_limits_are_checked() {
    let device = mock(|_| ());
    let limit = Some(FIRST_REGION);
    let pages = Some(PageKind::Ordinary);
    let config = MemoryConfig { limit, pages, ..MemoryConfig::default() };
    let memory = DmaMemory::new(device, config).unwrap();
    assert!(matches!(memory.allocate(0), Err(MemoryError::Length { len: 0 })));
    assert!(matches!(memory.allocate(usize::MAX), Err(MemoryError::Length { .. })));
    for align in [0, 3, REGION_UNIT as usize * 2] {
        let result = memory.allocate_aligned(1, align);
        assert!(matches!(result, Err(MemoryError::Alignment { .. })), "{align}");
    }
    let all = memory.allocate(FIRST_REGION as usize).unwrap();
    assert!(matches!(memory.allocate(1), Err(MemoryError::Limit { .. })));
    assert!(memory.allocate(1 << 40).unwrap_err().to_string().contains("limit"));
    drop(all);
    memory.allocate(1).unwrap();
}

#[test]
fn a_failed_map_leaves_nothing_and_the_next_one_works() {
    for failing in 1..5 {
        let device = mock(|_| ());
        let memory = memory(&device);
        device.script().fail_map = Some((failing, gone));
        let mut buffers = Vec::new();
        let mut failures = 0;
        for _ in 0..5 {
            // Each fills what there is, so each needs a region.
            match memory.allocate(memory.stats().reserved.max(FIRST_REGION) as usize) {
                Ok(buffer) => buffers.push(buffer),
                Err(MemoryError::Device(DeviceError::Gone { .. })) => failures += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((failures, buffers.len()), (1, 4));
        let stats = memory.stats();
        assert_eq!((stats.reserved, stats.leaked, stats.mappings), (device.mapped(), 0, 4));
        drop((buffers, memory));
        assert_eq!(device.mapped(), 0);
    }
}

#[test]
fn a_refused_region_is_tried_smaller() {
    let device = mock(|_| ());
    let memory = memory(&device);
    device.script().fail_map = Some((1, refused));
    memory.allocate(1).unwrap();
    assert_eq!(memory.stats().reserved, FIRST_REGION / 2);
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose, which Miri reports")]
fn memory_that_may_still_be_written_is_kept_and_said() {
    let device = mock(|_| ());
    let memory = memory(&device);
    device.script().fail_map = Some((1, timed_out));
    memory.allocate(1).unwrap_err();
    assert_eq!(memory.stats().leaked, FIRST_REGION);
    let kept = memory.allocate(1).unwrap();
    device.script().fail_unmap = Some(refused);
    let large = memory.allocate(LARGEST_REGION as usize + 1).unwrap();
    drop(large);
    assert_eq!(memory.stats().leaked, FIRST_REGION + LARGEST_REGION + REGION_UNIT);
    kept.leak();
    assert_eq!(memory.stats().leaked, FIRST_REGION + LARGEST_REGION + REGION_UNIT + 1);
    assert!(memory.notices().iter().filter(|notice| notice.contains("kept")).count() == 3);
}

#[test]
fn a_device_that_is_gone_keeps_nothing() {
    let device = mock(|_| ());
    let memory = memory(&device);
    device.script().fail_unmap = Some(gone);
    drop(memory.allocate(LARGEST_REGION as usize + 1).unwrap());
    assert_eq!((memory.stats().leaked, memory.stats().reserved), (0, 0));
}

#[test]
fn buffers_keep_memory_and_device_alive() {
    let device = mock(|_| ());
    let watch = Arc::downgrade(&device);
    let memory = memory(&device);
    let mut buffer = memory.allocate(10_000).unwrap();
    drop((memory, device));
    buffer.fill(7);
    assert!(watch.upgrade().is_some());
    let other =
        std::thread::spawn(move || buffer.iter().all(|&byte| byte == 7) && buffer.len() == 10_000);
    assert!(other.join().unwrap());
    assert!(watch.upgrade().is_none());
}

/// Page-aligned memory of the "application", which notes when it is dropped.
struct Owner {
    pages: NonNull<[Page]>,
    dropped: Arc<AtomicBool>,
    memory: Arc<DmaMemory>,
}

// SAFETY: owns its pages as a Box would.
unsafe impl Send for Owner {}
// SAFETY: as above; `&Owner` does nothing.
unsafe impl Sync for Owner {}

#[repr(align(4096))]
#[derive(Clone)]
struct Page(#[expect(dead_code, reason = "read through the buffer")] [u8; 4096]);

impl Drop for Owner {
    fn drop(&mut self) {
        // An owner may use the pool while it is dropped.
        assert_eq!(self.memory.stats().registered, 0);
        self.dropped.store(true, Ordering::Relaxed);
        // SAFETY: made by `Box::into_raw` below.
        drop(unsafe { Box::from_raw(self.pages.as_ptr()) });
    }
}

fn register(
    memory: &Arc<DmaMemory>,
    pages: usize,
    skew: usize,
) -> (Result<Buffer, MemoryError>, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let boxed = Box::into_raw(vec![Page([1; 4096]); pages].into_boxed_slice());
    let owner = Owner {
        pages: NonNull::new(boxed).unwrap(),
        dropped: dropped.clone(),
        memory: memory.clone(),
    };
    // SAFETY: inside the allocation, which has at least one page.
    let base = unsafe { owner.pages.cast::<u8>().add(skew) };
    // SAFETY: the owner keeps the pages, and nobody else touches them.
    (unsafe { memory.register_raw(base, pages * 4096, Box::new(owner)) }, dropped)
}

#[test]
fn registered_memory_is_split_and_released_with_its_last_piece() {
    let device = mock(|_| ());
    let memory = memory(&device);
    let (buffer, dropped) = register(&memory, 4, 0);
    let buffer = buffer.unwrap();
    assert_eq!((buffer.len(), memory.stats().registered, device.mapped()), (16384, 16384, 16384));
    assert!(buffer.iter().all(|&byte| byte == 1));
    let buffer = buffer.split_at(100).unwrap_err();
    let buffer = buffer.split_at(16384).unwrap_err();
    let (first, rest) = buffer.split_at(4096).unwrap();
    let (mut second, third) = rest.split_at(8192).unwrap();
    second.fill(2);
    assert_eq!((second.iova(), third.iova()), (first.iova() + 4096, first.iova() + 3 * 4096));
    drop((first, third));
    assert!(!dropped.load(Ordering::Relaxed));
    drop(second);
    assert!(dropped.load(Ordering::Relaxed));
    assert_eq!(device.mapped(), 0);
}

#[test]
fn memory_that_cannot_be_registered_is_given_back_to_its_owner() {
    let device = mock(|_| ());
    let pool = memory(&device);
    let (result, dropped) = register(&pool, 1, 512);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("the address is 0x"), "{error}");
    assert!(dropped.load(Ordering::Relaxed));
    device.script().fail_map = Some((1, refused));
    let (result, dropped) = register(&pool, 1, 0);
    assert!(matches!(result, Err(MemoryError::Device(DeviceError::Refused { .. }))));
    assert!(dropped.load(Ordering::Relaxed));

    let other_process = memory(&mock(|info| info.needs_descriptor = true));
    let (result, _) = register(&other_process, 1, 0);
    assert!(matches!(result, Err(MemoryError::NoDescriptor { .. })));
}

#[test]
fn a_split_buffer_of_the_pool_comes_back_in_pieces() {
    let device = mock(|_| ());
    let memory = memory(&device);
    let (low, high) = memory.allocate(10_000).unwrap().split_at(4096).unwrap();
    assert_eq!((low.len(), high.len()), (4096, 10_000 - 4096));
    drop(low);
    assert_eq!(memory.stats().in_use, 8192);
    drop(high);
    assert_eq!(memory.stats().in_use, 0);
}

#[cfg(not(miri))]
mod kernel {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    /// Flags of the mapping that begins at `address`, from /proc/self/smaps.
    fn smaps_flags(address: usize) -> String {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{address:08x}-");
        let entry = smaps.lines().skip_while(|line| !line.starts_with(&start));
        entry.skip(1).find_map(|line| line.strip_prefix("VmFlags:")).unwrap_or_default().to_owned()
    }

    #[test]
    fn memory_is_shared_sealed_present_and_kept_from_children() {
        let device = mock(|info| info.needs_descriptor = true);
        let memory = memory(&device);
        let buffer = memory.allocate(1).unwrap();
        assert_eq!(device.script().has_file, [true]);
        let state = memory.lock();
        let mapping = &state.regions.values().next().unwrap().mapping;
        let base = mapping.base().as_ptr() as usize;
        assert_eq!((base % (2 << 20), mapping.len() % (2 << 20)), (0, 0));
        let flags = smaps_flags(base);
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "no MADV_DONTFORK: {flags}");
        assert!(flags.split_whitespace().any(|flag| flag == "sh"), "not shared: {flags}");
        let (file, offset) = mapping.file().unwrap();
        // SAFETY: asks about our own descriptor.
        let (seals, cloexec) = unsafe {
            (
                libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS),
                libc::fcntl(file.as_raw_fd(), libc::F_GETFD),
            )
        };
        assert_eq!(seals, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL);
        assert_eq!((cloexec, offset), (libc::FD_CLOEXEC, 0));
        let mut resident = vec![0u8; mapping.len() / 4096];
        // SAFETY: the range is mapped, and the vector has a byte per page.
        let result = unsafe { libc::mincore(base as *mut _, mapping.len(), resident.as_mut_ptr()) };
        assert!(result == 0 && resident.iter().all(|page| page & 1 == 1), "not populated");
        drop(state);
        drop(buffer);
    }

    #[test]
    fn released_regions_leave_neither_mapping_nor_descriptor() {
        let count = || {
            fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let target = entry.as_ref().map(|entry| fs::read_link(entry.path()));
            matches!(target, Ok(Ok(path)) if path.to_string_lossy().contains("memfd:doorbell"))
        }).count()
        };
        let device = mock(|_| ());
        let memory = memory(&device);
        let large = memory.allocate(LARGEST_REGION as usize * 2).unwrap();
        let base = large.as_ptr() as usize;
        assert!(count() > 0 && !smaps_flags(base).is_empty());
        drop(large);
        assert!(smaps_flags(base).is_empty());
    }

    #[test]
    fn hugepages_where_there_are_some_and_one_notice_otherwise() {
        let pool = DmaMemory::new(mock(|_| ()), MemoryConfig::default()).unwrap();
        let _buffers: Vec<_> = (0..3).map(|_| pool.allocate(8 << 20).unwrap()).collect();
        if pool.stats().huge == pool.stats().reserved {
            assert!(pool.notices().is_empty());
        } else {
            assert_eq!(pool.notices().len(), 1, "{:?}", pool.notices());
            assert!(pool.notices()[0].contains("./hugepages.sh"));
        }
    }

    #[test]
    fn hugepages_that_are_demanded_and_missing_are_an_error() {
        let config = MemoryConfig { pages: Some(PageKind::Huge1G), ..MemoryConfig::default() };
        let pool = DmaMemory::new(mock(|_| ()), config).unwrap();
        match pool.allocate(1) {
            Ok(buffer) => assert_eq!((buffer[0], pool.stats().huge), (0, 1 << 30)),
            Err(error) => assert!(error.to_string().contains("hugepages.sh"), "{error}"),
        }
    }

    #[test]
    fn mappings_and_files_of_the_application() {
        let device = mock(|_| ());
        let memory = memory(&device);
        let mut own = memmap2::MmapMut::map_anon(8192).unwrap();
        own[5000] = 5;
        let address = own.as_ptr();
        let buffer = memory.register(own).unwrap();
        assert_eq!((buffer.as_ptr(), buffer[5000], device.mapped()), (address, 5, 8192));
        // Congruent modulo 2 MiB, so that large pages of the memory are large pages of the IOMMU.
        assert_eq!(buffer.iova() % (2 << 20), address as u64 % (2 << 20));
        drop(buffer);

        // SAFETY: the name is a C string, and the new descriptor has no other owner.
        let file = unsafe {
            use std::os::fd::FromRawFd;
            fs::File::from_raw_fd(libc::memfd_create(c"application".as_ptr(), libc::MFD_CLOEXEC))
        };
        file.set_len(16384).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"here", 4096).unwrap();
        let clone = || OwnedFd::from(file.try_clone().unwrap());
        // SAFETY: nobody writes to the file while the buffers live.
        unsafe {
            let mut buffer = memory.register_file(clone(), 4096, 8192).unwrap();
            assert_eq!(&buffer[..4], b"here");
            buffer[0] = b'H';
            drop(buffer);
            let error = memory.register_file(clone(), 4096, 16384).unwrap_err();
            assert!(error.to_string().contains("16384 bytes"), "{error}");
            assert!(matches!(
                memory.register_file(clone(), 1, 4096),
                Err(MemoryError::Boundary { .. })
            ));
            assert!(matches!(
                memory.register_file(clone(), 0, 0),
                Err(MemoryError::Boundary { .. })
            ));
        }
        let mut back = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 4096).unwrap();
        assert_eq!(&back, b"Here");
        assert_eq!(device.mapped(), 0);
    }
}

#[test]
fn memory_without_a_device_is_where_this_process_has_it() {
    let config = MemoryConfig { pages: Some(PageKind::Ordinary), ..MemoryConfig::default() };
    let memory = DmaMemory::without_device("tcp://there", config).unwrap();
    // The largest has a region of its own.
    let lengths = if cfg!(miri) { [1, 4096] } else { [5 << 20, 100 << 20] };
    let held = lengths.map(|len| memory.allocate(len).unwrap());
    assert!(held.iter().all(|buffer| buffer.iova() == buffer.as_ptr() as u64));
    drop(held);
    assert_eq!((memory.stats().in_use, memory.stats().mappings), (0, 0));
}

/// Memory for tests of what lies above.
pub(crate) fn any_memory() -> Arc<DmaMemory> {
    let config = MemoryConfig { pages: Some(PageKind::Ordinary), ..MemoryConfig::default() };
    DmaMemory::new(mock(|_| ()), config).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "leaks on purpose")]
fn memory_of_a_device_that_does_not_stop_is_neither_reused_nor_unmapped() {
    let device = mock(|_| ());
    let memory = memory(&device);
    let buffer = memory.allocate(8192).unwrap();
    let mapped = device.mapped();
    memory.withdraw();
    memory.withdraw();
    drop(buffer);
    assert!(matches!(memory.allocate(4096), Err(MemoryError::Withdrawn { .. })));
    assert_eq!(memory.stats().leaked, mapped);
    assert_eq!(memory.notices().iter().filter(|notice| notice.contains("kept until")).count(), 1);
    drop(memory);
    assert_eq!(device.mapped(), mapped, "still mapped, for as long as the process lives");
}
