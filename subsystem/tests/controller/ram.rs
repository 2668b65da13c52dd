//! Memory of a host, which a controller can be given.

#![expect(unsafe_code, reason = "owns the memory that the controller is given")]

use std::alloc::Layout;
use std::any::Any;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doorbell_subsystem::{Controller, InProcess, MapError};

/// I/O address at which tests usually map it.
pub(crate) const BASE: u64 = 0x4000_0000;
/// Alignment of the memory: the largest page.
pub(crate) const ALIGN: usize = 64 << 10;

/// Memory of the host.
pub(crate) struct Ram {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain bytes, accessed by copies only.
unsafe impl Send for Ram {}
// SAFETY: as above; tests are single-threaded about the bytes themselves.
unsafe impl Sync for Ram {}

impl Ram {
    pub(crate) fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len, ALIGN).expect("layout");
        // SAFETY: not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Self { base: NonNull::new(base).expect("memory"), len }
    }

    /// Gives `len` bytes from `offset` on to a controller, as `iova`.
    pub(crate) fn map(
        self: &Arc<Self>,
        controller: &mut Controller,
        offset: usize,
        iova: u64,
        len: usize,
    ) -> Result<(), MapError> {
        let (base, owner) = self.part(offset, len);
        // SAFETY: the owner keeps the memory; it is accessed by copies only.
        unsafe { controller.map(iova, base, len, Some(owner)) }
    }

    /// As [`Ram::map`], through the port.
    pub(crate) fn map_port(self: &Arc<Self>, port: &InProcess, iova: u64) -> Result<(), MapError> {
        let (base, owner) = self.part(0, self.len);
        // SAFETY: the owner keeps the memory; it is accessed by copies only.
        unsafe { port.map(iova, base, self.len, Some(owner)) }
    }

    fn part(
        self: &Arc<Self>,
        offset: usize,
        len: usize,
    ) -> (NonNull<u8>, Arc<dyn Any + Send + Sync>) {
        assert!(offset + len <= self.len);
        // SAFETY: within the allocation, as just checked.
        (unsafe { self.base.add(offset) }, self.clone())
    }

    fn at(&self, iova: u64, len: usize) -> *mut u8 {
        let offset = iova.checked_sub(BASE).expect("host address") as usize;
        assert!(offset + len <= self.len, "host address {iova:#x} + {len:#x}");
        // SAFETY: within the allocation, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    pub(crate) fn read(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: `at` checked the range; `bytes` is apart from it.
        unsafe { ptr::copy_nonoverlapping(self.at(iova, len), bytes.as_mut_ptr(), len) };
        bytes
    }

    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) {
        // SAFETY: `at` checked the range; `bytes` is apart from it.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(iova, bytes.len()), bytes.len())
        };
    }

    /// Stores a word.
    pub(crate) fn set_word(&self, iova: u64, value: u64) {
        assert_eq!(iova % 8, 0);
        // SAFETY: `at` checked the range, and the address is aligned.
        unsafe { AtomicU64::from_ptr(self.at(iova, 8).cast()) }.store(value, Ordering::Release);
    }

    /// The word at an address.
    pub(crate) fn word(&self, iova: u64) -> u64 {
        assert_eq!(iova % 8, 0);
        // SAFETY: `at` checked the range, and the address is aligned.
        unsafe { AtomicU64::from_ptr(self.at(iova, 8).cast()) }.load(Ordering::Acquire)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len, ALIGN).expect("layout");
        // SAFETY: allocated by `new` with the same layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
    }
}
