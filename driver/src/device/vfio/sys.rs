//! The ioctls of VFIO, one safe function each.
//!
//! Owns the numbers and the pointers; decides nothing. `container` and `vfio` are the callers.

#![expect(unsafe_code, reason = "ioctl and getrlimit have no safe form")]

use std::ffi::{CStr, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use memmap2::MmapRaw;
use vfio_bindings::bindings::vfio as abi;

use crate::device::DmaRange;

/// VFIO's requests carry neither direction nor size: `_IO(';', 100 + n)`.
const fn request(n: c_ulong) -> c_ulong {
    (b';' as c_ulong) << 8 | (100 + n)
}

const GET_API_VERSION: c_ulong = request(0);
const CHECK_EXTENSION: c_ulong = request(1);
const SET_IOMMU: c_ulong = request(2);
const GROUP_GET_STATUS: c_ulong = request(3);
const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
const DEVICE_GET_INFO: c_ulong = request(7);
const DEVICE_GET_REGION_INFO: c_ulong = request(8);
const DEVICE_GET_IRQ_INFO: c_ulong = request(9);
const DEVICE_SET_IRQS: c_ulong = request(10);
const DEVICE_RESET: c_ulong = request(11);
const IOMMU_GET_INFO: c_ulong = request(12);
const IOMMU_MAP_DMA: c_ulong = request(13);
const IOMMU_UNMAP_DMA: c_ulong = request(14);

/// Longest answer taken; real ones have a few hundred bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The interface's version; 0 is the only one there is.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<i32> {
    integer(container, GET_API_VERSION, 0)
}

/// Whether the container knows an IOMMU of `kind`.
pub(super) fn has_extension(container: BorrowedFd<'_>, kind: u32) -> io::Result<bool> {
    integer(container, CHECK_EXTENSION, kind.into()).map(|answer| answer > 0)
}

/// Chooses the IOMMU; the container must hold a group.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    integer(container, SET_IOMMU, kind.into()).map(drop)
}

/// Flags of the group.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = abi::vfio_group_status {
        argsz: size_of::<abi::vfio_group_status>() as u32,
        ..Default::default()
    };
    exchange(group, GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags)
}

/// Puts the group into the container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut number: RawFd = container.as_raw_fd();
    exchange(group, GROUP_SET_CONTAINER, &mut number)
}

/// Opens a function of the group, by its place.
pub(super) fn device(group: BorrowedFd<'_>, place: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request reads a C string and returns a new descriptor.
    let fd =
        check(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD as _, place.as_ptr()) })?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Flags, regions and interrupt kinds of the device.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<abi::vfio_device_info> {
    let mut info = abi::vfio_device_info {
        argsz: size_of::<abi::vfio_device_info>() as u32,
        ..Default::default()
    };
    exchange(device, DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

/// The answer about region `index`, with its capabilities.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    answer(device, DEVICE_GET_REGION_INFO, size_of::<abi::vfio_region_info>(), index)
}

/// The answer about the container's IOMMU, with its capabilities.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    answer(container, IOMMU_GET_INFO, size_of::<abi::vfio_iommu_type1_info>(), 0)
}

/// How many interrupts there are of the kind `index`.
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let mut info = abi::vfio_irq_info {
        argsz: size_of::<abi::vfio_irq_info>() as u32,
        index,
        ..Default::default()
    };
    exchange(device, DEVICE_GET_IRQ_INFO, &mut info)?;
    let eventfds = info.flags & abi::VFIO_IRQ_INFO_EVENTFD != 0;
    Ok(if eventfds { info.count } else { 0 })
}

/// Connects the interrupts of kind `index` from `start` on with eventfds; `None` disconnects one.
pub(super) fn set_irqs(
    device: BorrowedFd<'_>,
    index: u32,
    start: u32,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> io::Result<()> {
    let flags = abi::VFIO_IRQ_SET_DATA_EVENTFD | abi::VFIO_IRQ_SET_ACTION_TRIGGER;
    irqs(device, [flags, index, start], eventfds)
}

/// Disables all interrupts of kind `index`.
pub(super) fn disable_irqs(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let flags = abi::VFIO_IRQ_SET_DATA_NONE | abi::VFIO_IRQ_SET_ACTION_TRIGGER;
    irqs(device, [flags, index, 0], &[])
}

fn irqs(
    device: BorrowedFd<'_>,
    [flags, index, start]: [u32; 3],
    eventfds: &[Option<BorrowedFd<'_>>],
) -> io::Result<()> {
    const { assert!(size_of::<abi::vfio_irq_set>() == 5 * 4) };
    let count = eventfds.len() as u32;
    let len = size_of::<abi::vfio_irq_set>() as u32 + 4 * count;
    let mut set: Vec<u32> = vec![len, flags, index, start, count];
    set.extend(eventfds.iter().map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()) as u32));
    // SAFETY: the vector is a vfio_irq_set of `argsz` bytes, aligned as one, which the request only reads.
    check(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS as _, set.as_ptr()) }).map(drop)
}

/// Resets the function.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    integer(device, DEVICE_RESET, 0).map(drop)
}

/// Maps memory of this process for the devices of the container.
///
/// # Safety
/// As [`crate::device::Device::map_dma`].
pub(super) unsafe fn map_dma(container: BorrowedFd<'_>, range: &DmaRange<'_>) -> io::Result<()> {
    let mut map = abi::vfio_iommu_type1_dma_map {
        argsz: size_of::<abi::vfio_iommu_type1_dma_map>() as u32,
        flags: abi::VFIO_DMA_MAP_FLAG_READ | abi::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: range.base.as_ptr() as u64,
        iova: range.iova,
        size: range.len,
    };
    exchange(container, IOMMU_MAP_DMA, &mut map)
}

/// Unmaps; the bytes that were unmapped.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> io::Result<u64> {
    let mut unmap = abi::vfio_iommu_type1_dma_unmap {
        argsz: size_of::<abi::vfio_iommu_type1_dma_unmap>() as u32,
        iova,
        size: len,
        ..Default::default()
    };
    exchange(container, IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}

/// Puts anonymous memory in the place of a mapping, in one step: a store by another thread reaches the one or the other.
pub(super) fn cover(mapping: &MmapRaw) -> io::Result<()> {
    let page = rustix::param::page_size();
    // What was mapped are whole pages, from the one with the first byte to the one with the last.
    let base = mapping.as_mut_ptr();
    let before = base.addr() % page;
    let len = (before + mapping.len()).next_multiple_of(page);
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
    );
    // SAFETY: replaces pages that `mapping` owns and unmaps in the end, of which it hands out a raw pointer only.
    let place = unsafe { libc::mmap(base.wrapping_sub(before).cast(), len, access, kind, -1, 0) };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The limit on locked memory in bytes; `None` where there is none.
pub(super) fn lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// A request with an answer of unknown length: asked with what is fixed, then again with what it says it needs.
fn answer(file: BorrowedFd<'_>, number: c_ulong, fixed: usize, index: u32) -> io::Result<Vec<u8>> {
    let mut len = fixed;
    for _ in 0..3 {
        // Words of eight bytes, so that it is aligned as any of the structures.
        let mut words = vec![0_u64; len.div_ceil(8)];
        // argsz, flags; then the index in a vfio_region_info, a zero in a vfio_iommu_type1_info.
        if let [first, second, ..] = words.as_mut_slice() {
            *first = len as u64;
            *second = index.into();
        }
        // SAFETY: the request writes at most `argsz` bytes, and the vector has that many.
        check(unsafe { libc::ioctl(file.as_raw_fd(), number as _, words.as_mut_ptr()) })?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take(len).collect();
        let needed = words.first().map_or(0, |first| *first as u32 as usize);
        if needed <= len {
            return Ok(bytes);
        }
        len = needed.min(MAX_ANSWER);
    }
    Err(io::Error::other("the kernel's answer keeps growing"))
}

/// A request whose argument is a number.
fn integer(file: BorrowedFd<'_>, number: c_ulong, argument: c_ulong) -> io::Result<i32> {
    // SAFETY: callers pass requests that take no pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number as _, argument) })
}

/// A request whose argument is a structure that the kernel reads, and writes up to its `argsz`.
fn exchange<T>(file: BorrowedFd<'_>, number: c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: callers pass the structure of that request, with `argsz` its size; GROUP_SET_CONTAINER only reads an int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number as _, std::ptr::from_mut(argument)) })
        .map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!((GET_API_VERSION, IOMMU_MAP_DMA), (0x3b64, 0x3b71));
    }

    #[test]
    fn covered_pages_take_stores_when_what_was_mapped_is_gone() {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::memfd_create("window", flags).unwrap());
        file.set_len(3 * 4096).unwrap();
        let mut options = memmap2::MmapOptions::new();
        let mapping = options.offset(4096).len(4096 + 8).map_raw(&file).unwrap();
        // SAFETY: within the mapping, in memory of this test's own.
        let store = |at: usize| unsafe { mapping.as_mut_ptr().add(at).write_volatile(0x5a) };
        store(0);
        // As when a BAR is taken away: the next store would end the process by SIGBUS.
        file.set_len(0).unwrap();
        cover(&mapping).unwrap();
        store(0);
        store(4096 + 7);
        file.set_len(3 * 4096).unwrap();
        store(1);
        let mut bytes = [1; 2];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 4096).unwrap();
        assert_eq!(bytes, [0, 0], "what is stored reaches the file no more");
    }

    /// A mapping of one page that somebody else can take away, and its file.
    fn window() -> (MmapRaw, std::fs::File) {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::memfd_create("window", flags).unwrap());
        file.set_len(4096).unwrap();
        (memmap2::MmapOptions::new().len(4096).map_raw(&file).unwrap(), file)
    }

    #[test]
    fn a_thread_that_stores_without_end_never_meets_a_page_that_is_not_there() {
        use std::sync::atomic::{AtomicU64, Ordering};
        for _ in 0..200 {
            let (mapping, file) = window();
            let stores = AtomicU64::new(0);
            let wait = |more: u64| {
                let until = stores.load(Ordering::Relaxed) + more;
                while stores.load(Ordering::Relaxed) < until {
                    std::thread::yield_now();
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while stores.fetch_add(1, Ordering::Relaxed) < u64::from(u32::MAX) {
                        // SAFETY: within the mapping, in memory of this test's own.
                        unsafe { mapping.as_mut_ptr().write_volatile(1) };
                    }
                });
                wait(10);
                cover(&mapping).unwrap();
                file.set_len(0).unwrap();
                wait(10);
                stores.store(u64::from(u32::MAX), Ordering::Relaxed);
            });
        }
    }

    #[test]
    #[ignore = "ends by SIGBUS; started by the test below"]
    fn not_covered() {
        let (mapping, file) = window();
        file.set_len(0).unwrap();
        println!("the page is gone");
        // SAFETY: within the mapping, in memory of this test's own.
        unsafe { mapping.as_mut_ptr().write_volatile(1) };
        println!("and nobody missed it");
    }

    #[test]
    fn a_store_to_a_page_that_is_not_there_ends_the_process() {
        use std::os::unix::process::ExitStatusExt;
        let name = "device::vfio::sys::tests::not_covered";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--ignored", "--nocapture"])
            // Sanitizers have handlers of their own.
            .env("ASAN_OPTIONS", "handle_sigbus=0")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("the page is gone") && !text.contains("nobody missed"), "{text}");
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{text}");
    }

    #[test]
    fn other_files_refuse() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        assert_eq!(api_version(fd).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert!(region_info(fd, 0).is_err() && iommu_info(fd).is_err() && device_info(fd).is_err());
        assert!(set_irqs(fd, 2, 0, &[Some(fd), None]).is_err() && disable_irqs(fd, 2).is_err());
        assert!(device(fd, c"0000:00:00.0").is_err() && unmap_dma(fd, 0, 4096).is_err());
    }
}
