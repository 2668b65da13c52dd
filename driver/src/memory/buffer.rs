//! A buffer: memory that the device can reach, owned by whoever holds the value.
//!
//! Ownership is the whole safety argument. A buffer is either idle, in somebody's hands, or in flight, inside the
//! command slot that it was moved into; references to its bytes exist only while it is idle.

#![expect(unsafe_code, reason = "turns the owned range into slices")]

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::DmaMemory;

/// DMA memory: bytes that this process and its device both reach. It knows its I/O address.
///
/// It comes from a pool and returns there when dropped. The pool, the mapping and the open device live as long as any
/// buffer of theirs. Bytes are zero when the pool got them from the kernel and hold what they last held afterwards:
/// the pool is private to one controller of one process.
///
/// A device writes where commands tell it to, and commands take buffers by value. A device that writes elsewhere
/// reaches at most the memory that is mapped for it; no type can prevent that part, only the IOMMU bounds it.
pub struct Buffer {
    base: NonNull<u8>,
    iova: u64,
    len: usize,
    owner: Arc<DmaMemory>,
}

const _: () = assert!(size_of::<Buffer>() == 32 && size_of::<Option<Buffer>>() == 32);

// SAFETY: a Buffer owns its range alone, like a boxed slice of bytes; the pool behind `owner` is Sync.
unsafe impl Send for Buffer {}
// SAFETY: `&Buffer` gives out `&[u8]` and nothing that writes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` bytes at `base`, which the device reaches at `iova`.
    ///
    /// # Safety
    /// The range is readable and writable until it is released to `owner`, and nothing else uses it.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        iova: u64,
        len: usize,
        owner: Arc<DmaMemory>,
    ) -> Self {
        Self { base, iova, len, owner }
    }

    /// Where the device finds the first byte. The I/O addresses of the bytes are contiguous.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Length in bytes, as asked for.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a buffer has at least one byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte, for ring code that may not form references to what the device writes.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// First byte, writable.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// First byte as a pointer that may be written through, by code that upholds exclusivity itself: rings, which
    /// both sides access by atomics.
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whose memory it is, as a number that is only ever compared; see [`DmaMemory::home`].
    #[inline(always)]
    pub(crate) fn home(&self) -> usize {
        Arc::as_ptr(&self.owner).addr()
    }

    /// The memory that it came from.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.owner
    }

    /// Divides the buffer at `at`, a multiple of [`super::PAGE`] within it; otherwise gives it back.
    ///
    /// So an application that registered one large area cuts its own buffers from it. The area is released when the
    /// last piece is dropped.
    ///
    /// # Errors
    /// The buffer itself, if `at` is zero, past the end, or not a multiple of the page.
    pub fn split_at(self, at: usize) -> Result<(Self, Self), Self> {
        if at == 0 || at >= self.len || !(at as u64).is_multiple_of(super::PAGE) {
            return Err(self);
        }
        // SAFETY: `at` is inside the range that this buffer owns.
        let base = unsafe { self.base.add(at) };
        // SAFETY: the upper part; the lower one shrinks to end where it begins.
        let upper = unsafe {
            Self::new(base, self.iova + at as u64, self.len - at, Arc::clone(&self.owner))
        };
        let mut lower = self;
        lower.len = at;
        Ok((lower, upper))
    }

    /// Gives the memory up for good, because a device may still write to it. It is counted in
    /// [`super::MemoryStats::leaked`], and the device stays open.
    pub fn leak(self) {
        self.owner.note_leak(self.len);
        mem::forget(self);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped while `owner` lives (release happens in Drop), initialised by the kernel, and
        // exclusively this buffer's. Whoever can call this holds the buffer, so that no command slot does: the device
        // has not been given the address, or has completed the command.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes other references.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.owner.release(self.iova, self.len);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes at I/O address {:#x})", self.len, self.iova)
    }
}
