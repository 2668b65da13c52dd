//! Memory of a client, mapped into this process.
//!
//! Owns the mapping and takes it back when dropped. The client shares the file and can write every byte at any time;
//! it is reached through `memory` only, by copies. It could also shorten the file, after which touching the lost pages
//! raises SIGBUS: the file is sealed against that where it lets itself be sealed.

#![expect(unsafe_code, reason = "mmap and munmap")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::{FileType, SealFlags};

use crate::controller::Controller;
use crate::memory::MapError;

/// What the client lets the controller do with its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Only read. What the controller writes all the same goes to pages of its own, as with a ROM.
    Read,
    /// Read and write.
    ReadWrite,
}

/// A mapped part of a client's file.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and hands out nothing but its address.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` of `file`.
    pub(super) fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        access: Access,
    ) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        let end = offset.checked_add(len as u64);
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            // Only a memory file can be sealed, and only if its maker lets it.
            let _ = rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK);
            let size = rustix::fs::fstat(file)?.st_size.max(0) as u64;
            if end.is_none_or(|end| end > size) {
                return Err(io::Error::from_raw_os_error(libc::EFBIG));
            }
        }
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // A shared mapping reserves: hugepages that the client has no claim to are refused now, and not at a touch.
        let sharing = match access {
            Access::Read => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            Access::ReadWrite => libc::MAP_SHARED,
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping, at an address of the kernel's choice; nothing of ours is replaced.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, sharing, fd, offset) };
        match NonNull::new(base.cast()) {
            Some(address) if base != libc::MAP_FAILED => Ok(Self { base: address, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; its users hold this value. A failure would leak it, no more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Lets `controller` reach `mapping` at `address`, until it is unmapped there.
pub(super) fn map_into(
    controller: &mut Controller,
    address: u64,
    mapping: Mapping,
) -> Result<(), MapError> {
    let (base, len) = (mapping.base, mapping.len);
    // SAFETY: the mapping is readable and writable for as long as the controller holds its owner, and no reference to
    // it is ever made.
    unsafe { controller.map(address, base, len, Some(Arc::new(mapping))) }
}
