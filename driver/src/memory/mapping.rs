//! Memory of this process as the kernel gives it: a memfd (hugepages where there are any), mapped once.
//!
//! Owns the system calls. A [`Mapping`] is complete or does not exist: every page is present when it is returned, so
//! that a missing hugepage is an error here and never a SIGBUS later. Under Miri it is plain heap memory.

#![expect(unsafe_code, reason = "maps and unmaps memory")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use super::PageKind;

/// Base of pool memory is aligned to this at least; device servers register memory in such units.
pub(crate) const ALIGN: usize = if cfg!(miri) { 4096 } else { 2 << 20 };

/// Memory that is mapped into this process until this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    file: Option<(OwnedFd, u64)>,
    /// Whether dropping frees it: memory of the application is not ours to unmap.
    owned: bool,
}

// SAFETY: a Mapping is an address range and its file; it holds no reference into the range, and unmapping works from
// any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` only reads the address, the length and the descriptor.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory of the application: `len` bytes at `base`, which it keeps mapped.
    pub(crate) fn foreign(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len, file: None, owned: false }
    }

    /// First byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The file behind the memory, and the offset of the first byte in it.
    pub(crate) fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        use std::os::fd::AsFd;
        self.file.as_ref().map(|(file, offset)| (file.as_fd(), *offset))
    }
}

#[cfg(not(miri))]
mod kernel {
    use std::ffi::c_void;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::ptr;

    use super::*;

    impl Mapping {
        /// New zeroed memory of `len` bytes, a multiple of the page of `pages` and of [`ALIGN`], on `node` if it can
        /// be had there.
        pub(crate) fn create(len: usize, pages: PageKind, node: Option<u32>) -> io::Result<Self> {
            let huge = match pages {
                PageKind::Huge1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
                PageKind::Huge2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
                PageKind::Ordinary => 0,
            };
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge;
            // SAFETY: the name is a C string; the call creates a descriptor and touches no memory of ours.
            let fd = check(unsafe { libc::memfd_create(c"doorbell".as_ptr(), flags) })?;
            // SAFETY: the descriptor is new and nobody else owns it.
            let file = unsafe { OwnedFd::from_raw_fd(fd) };
            let file = File::from(file);
            file.set_len(len as u64)?;
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            // SAFETY: a call on our own descriptor with an integer argument.
            check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
            let mapping = Self::map(file.into(), 0, len, pages.bytes().max(ALIGN))?;
            if pages == PageKind::Ordinary {
                // Transparent hugepages where the system has them for shared memory; a wish, so failure is nothing.
                let _ = mapping.advise(libc::MADV_HUGEPAGE);
            }
            if let Some(node) = node {
                mapping.prefer(node);
            }
            mapping.populate(true)?;
            Ok(mapping)
        }

        /// `len` bytes of `file` from `offset`, both multiples of a page.
        pub(crate) fn of_file(file: OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
            let file = File::from(file);
            let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
            if file.metadata()?.len() < end {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the file has {} bytes, not {end}", file.metadata()?.len()),
                ));
            }
            let mapping = Self::map(file.into(), offset, len, ALIGN)?;
            mapping.populate(false)?;
            Ok(mapping)
        }

        fn map(file: OwnedFd, offset: u64, len: usize, align: usize) -> io::Result<Self> {
            let base = reserve_and_map(&file, offset, len, align)?;
            let mapping = Self { base, len, file: Some((file, offset)), owned: true };
            // A child would otherwise share pages that a device writes, and keep them after we are gone.
            mapping.advise(libc::MADV_DONTFORK)?;
            Ok(mapping)
        }

        /// Keeps the memory out of children of this process.
        pub(crate) fn advise(&self, advice: libc::c_int) -> io::Result<()> {
            // SAFETY: the range is mapped and ours; the advices used here change neither contents nor protection.
            check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) }).map(drop)
        }

        /// Asks for pages of `node`; a wish, so failure is nothing.
        fn prefer(&self, node: u32) {
            let mask: libc::c_ulong = 1 << node;
            // SAFETY: the range is ours, and the mask is one word with one more bit than the kernel reads.
            let _ = unsafe {
                libc::syscall(
                    libc::SYS_mbind,
                    self.base.as_ptr(),
                    self.len,
                    libc::MPOL_PREFERRED,
                    ptr::from_ref(&mask),
                    libc::c_ulong::BITS as usize,
                    0,
                )
            };
        }

        /// Makes every page present, or fails.
        fn populate(&self, fresh: bool) -> io::Result<()> {
            match self.advise(libc::MADV_POPULATE_WRITE) {
                // Linux before 5.14. Memory of a file that others filled is left to be faulted in.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && fresh => {
                    self.allocate()
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                other => other,
            }
        }

        fn allocate(&self) -> io::Result<()> {
            let Some((file, _)) = self.file() else { return Ok(()) };
            // SAFETY: a call on our own descriptor with integer arguments.
            check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, self.len as i64) })?;
            for offset in (0..self.len).step_by(4096) {
                // SAFETY: inside the mapping; the page exists, holds zeroes, and nobody has seen it yet.
                unsafe { self.base.as_ptr().add(offset).write_volatile(0) };
            }
            Ok(())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            if self.owned {
                // SAFETY: the range was mapped by `map` for this value alone; whoever drops it has made sure that
                // neither a buffer nor a device uses it (memory.rs, `release`).
                unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
            }
        }
    }

    /// Maps `file` at an address that is a multiple of `align`.
    ///
    /// First wherever the kernel likes: hugepages are aligned by nature, and a lack of them shows here, where nothing
    /// has to be taken back. Only then inside a reservation.
    fn reserve_and_map(
        file: &OwnedFd,
        offset: u64,
        len: usize,
        align: usize,
    ) -> io::Result<NonNull<u8>> {
        let out_of_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let anywhere = mapped(unsafe {
            let (place, fd) = (ptr::null_mut(), file.as_raw_fd());
            libc::mmap(place, len, protection, libc::MAP_SHARED, fd, offset)
        })?;
        if (anywhere.as_ptr() as usize).is_multiple_of(align) {
            return Ok(anywhere);
        }
        // SAFETY: the mapping made above, which nobody has seen.
        unsafe { libc::munmap(anywhere.as_ptr().cast(), len) };
        let span = len.checked_add(align).ok_or_else(out_of_memory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new reservation at an address of the kernel's choice.
        let reserved =
            mapped(unsafe { libc::mmap(ptr::null_mut(), span, libc::PROT_NONE, flags, -1, 0) })?;
        let start = reserved.as_ptr() as usize;
        let head = start.next_multiple_of(align) - start;
        // SAFETY: `head < align`, so the target lies inside the reservation made above, which is ours to replace.
        let result = mapped(unsafe {
            let target = reserved.as_ptr().add(head).cast::<c_void>();
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            libc::mmap(target, len, protection, flags, file.as_raw_fd(), offset)
        });
        // On failure the target stays as it is: the kernel may have removed the reservation there, and another thread
        // may have been given the addresses since. Addresses are plentiful; memory of others is not ours to unmap.
        let tail = align - head;
        if head > 0 {
            // SAFETY: the unused part of the reservation before the mapping.
            unsafe { libc::munmap(reserved.as_ptr().cast(), head) };
        }
        if tail > 0 {
            // SAFETY: the unused part of the reservation behind the mapping.
            unsafe { libc::munmap(reserved.as_ptr().add(head + len).cast(), tail) };
        }
        result
    }

    fn check(result: libc::c_int) -> io::Result<libc::c_int> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn mapped(address: *mut c_void) -> io::Result<NonNull<u8>> {
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

#[cfg(miri)]
mod heap {
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::*;

    impl Mapping {
        pub(crate) fn create(len: usize, pages: PageKind, _: Option<u32>) -> io::Result<Self> {
            if pages != PageKind::Ordinary {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let layout = layout(len).ok_or(io::ErrorKind::OutOfMemory)?;
            // SAFETY: the layout has a size above zero (memory.rs rounds up to a region).
            let base = NonNull::new(unsafe { alloc_zeroed(layout) });
            let base = base.ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base, len, file: None, owned: true })
        }

        pub(crate) fn of_file(_: OwnedFd, _: u64, _: usize) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            if let Some(layout) = layout(self.len).filter(|_| self.owned) {
                // SAFETY: allocated by `create` with the same layout.
                unsafe { dealloc(self.base.as_ptr(), layout) };
            }
        }
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len, ALIGN).ok()
    }
}
