//! The doorbell page: what BAR0 holds from offset 1000h, as memory that host and controller share.
//!
//! Owns the memory: an anonymous file that another process can map, or plain heap where that cannot be had. The host
//! stores into it and the controller polls it, so a doorbell costs neither side a call. The host may write any value
//! to any dword at any time; the queues judge what they read (DB-4).

#![expect(unsafe_code, reason = "maps shared memory and hands out atomics in it")]

use std::alloc::Layout;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

const PAGE: usize = 4096;

/// Where in their file the doorbells begin: where they are in BAR0, so that the file can stand for BAR0. The part
/// before them is a hole.
pub const FILE_OFFSET: u64 = doorbell_spec::register::offset::DOORBELLS;

/// What the doorbells are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoorbellMemory {
    /// A memory file, which can be mapped by another process.
    #[default]
    Shared,
    /// Heap of this process.
    Heap,
}

/// Shared dwords that the host writes and the controller polls.
pub struct DoorbellPage {
    base: NonNull<AtomicU32>,
    len: usize,
    file: Option<OwnedFd>,
}

// SAFETY: the memory holds atomics only and belongs to this value until it is dropped.
unsafe impl Send for DoorbellPage {}
// SAFETY: as above.
unsafe impl Sync for DoorbellPage {}

impl DoorbellPage {
    /// Zeroed doorbells of `len` bytes, rounded up to whole pages of 4 KiB.
    ///
    /// # Errors
    /// What the kernel said where a memory file could not be made or mapped.
    pub fn new(len: usize, memory: DoorbellMemory) -> io::Result<Self> {
        let len = len.max(1).next_multiple_of(PAGE);
        match memory {
            DoorbellMemory::Shared if !cfg!(miri) => Self::shared(len),
            _ => Ok(Self::heap(len)),
        }
    }

    fn heap(len: usize) -> Self {
        let layout = heap_layout(len);
        // SAFETY: `len` is at least one page, so the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { std::alloc::handle_alloc_error(layout) };
        Self { base: base.cast(), len, file: None }
    }

    fn shared(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a valid C string; the call touches nothing else of ours.
        let fd = unsafe {
            libc::memfd_create(c"doorbells".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel just gave us and nobody else has.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let end = FILE_OFFSET as usize + len;
        // SAFETY: plain call on a descriptor of ours.
        if unsafe { libc::ftruncate(file.as_raw_fd(), end as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A host that shares the file could otherwise shorten it, and the next poll would raise SIGBUS.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: as above.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                FILE_OFFSET as libc::off_t,
            )
        };
        match NonNull::new(base.cast()) {
            Some(address) if base != libc::MAP_FAILED => {
                Ok(Self { base: address, len, file: Some(file) })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first doorbell (BAR0 offset 1000h).
    pub fn as_ptr(&self) -> NonNull<u32> {
        self.base.cast()
    }

    /// Bytes; a multiple of 4 KiB.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The file behind the doorbells, which begin at [`FILE_OFFSET`] of it; `None` where they are heap.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// The dword `index`; zero where there is none. What the host stored before it is seen by whoever sees it.
    #[inline]
    pub fn load(&self, index: usize) -> u32 {
        self.dwords().get(index).map_or(0, |dword| dword.load(Ordering::Acquire))
    }

    /// Stores the dword `index`, as a host does; nothing happens where there is none.
    #[inline]
    pub fn store(&self, index: usize, value: u32) {
        if let Some(dword) = self.dwords().get(index) {
            dword.store(value, Ordering::Release);
        }
    }

    /// Zeroes every doorbell.
    pub(crate) fn clear(&self) {
        for dword in self.dwords() {
            dword.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn dwords(&self) -> &[AtomicU32] {
        // SAFETY: `len` bytes of zeroed or host-written memory, mapped until `self` is dropped; any bits are a dword,
        // and everyone who shares it accesses it as atomics or through another mapping.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len / 4) }
    }
}

fn heap_layout(len: usize) -> Layout {
    Layout::from_size_align(len, PAGE).expect("doorbells end below 16 GiB + 4 KiB (REG-3)")
}

impl std::fmt::Debug for DoorbellPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoorbellPage")
            .field("len", &self.len)
            .field("shared", &self.file.is_some())
            .finish_non_exhaustive()
    }
}

impl Drop for DoorbellPage {
    fn drop(&mut self) {
        if self.file.is_some() {
            // SAFETY: the mapping that `shared` made; nobody else unmaps it. A failure would leak it, no more.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        } else {
            // SAFETY: allocated by `heap` with the same layout.
            unsafe { std::alloc::dealloc(self.base.as_ptr().cast(), heap_layout(self.len)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_start_zeroed_and_hold_what_is_stored() {
        for kind in [DoorbellMemory::Heap, DoorbellMemory::Shared] {
            let page = DoorbellPage::new(5000, kind).expect("doorbells");
            assert_eq!(page.len(), 8192);
            assert_eq!(page.load(2047), 0);
            page.store(2047, 7);
            page.store(2048, 9);
            assert_eq!((page.load(2047), page.load(2048)), (7, 0));
            page.clear();
            assert_eq!(page.load(2047), 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn shared_doorbells_have_a_file() {
        let page = DoorbellPage::new(4096, DoorbellMemory::Shared).expect("doorbells");
        assert!(page.fd().is_some());
    }
}
