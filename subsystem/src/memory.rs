//! Host memory as the controller sees it: I/O addresses onto ranges of this process, reached by copies only.
//!
//! Owns the map from I/O addresses to pointers. Relies on whoever calls [`Controller::map`] for the memory to exist
//! until it is unmapped. The host, often another process, may change every byte at any time: no reference to it is
//! ever formed, and what must be checked is copied out once.
//!
//! Submission entries are read with volatile loads, so that no compiler may look at them twice; completion entries are
//! two aligned stores, the half with the phase last and with Release (CQ-5).

#![expect(unsafe_code, reason = "raw copies from and to memory that the host shares")]

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::controller::Controller;
use crate::port::in_process::InProcess;

/// What keeps a mapped range alive.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// Ranges that one controller will hold; a peer that asks for more is refused.
pub const MAX_REGIONS: usize = 65_536;

/// Why a range of host memory was not mapped or not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The range is empty, wraps around, or is not aligned to 4 KiB.
    #[error(
        "I/O addresses {iova:#x} + {len:#x}: empty, wrapping or not aligned to 4 KiB; map whole pages"
    )]
    Misaligned {
        /// First I/O address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Part of the range is mapped already.
    #[error("I/O addresses {iova:#x} + {len:#x} overlap what is mapped; unmap that first")]
    Overlaps {
        /// First I/O address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Nothing is mapped there, or the range would cut a mapping in two.
    #[error(
        "I/O addresses {iova:#x} + {len:#x} are no whole number of mappings; unmap what was mapped"
    )]
    NotMapped {
        /// First I/O address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Too many ranges.
    #[error("{MAX_REGIONS} ranges are mapped already; map fewer, larger ones")]
    TooMany,
    /// The controller's thread has ended.
    #[error("the controller is gone")]
    Gone,
}

/// A piece of host memory, contiguous in this process. It can be copied from and to, and nothing else.
#[derive(Clone, Copy)]
pub struct HostBytes<'a> {
    base: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a piece can only be copied, which any thread may do as long as `'a` lasts.
unsafe impl Send for HostBytes<'_> {}

impl<'a> HostBytes<'a> {
    /// Memory of ours in the place of the host's, so that a backend can fill it.
    pub(crate) fn of(bytes: &'a mut [u8]) -> Self {
        Self { base: NonNull::from(&mut *bytes).cast(), len: bytes.len(), memory: PhantomData }
    }

    /// Bytes in the piece.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the piece has no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the piece begins, for system calls that read or write it. The host may change it at any time.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The first `at` bytes and the rest; both are cut at the end of the piece.
    #[inline]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        // SAFETY: `at` is at most `len`, so the pointer stays within or just past the range of `self`.
        let rest = unsafe { self.base.add(at) };
        (Self { len: at, ..self }, Self { base: rest, len: self.len - at, ..self })
    }

    /// Copies into `to` what the host wrote, as far as both reach.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) {
        let len = self.len.min(to.len());
        // SAFETY: whoever mapped the range keeps it readable while `'a` lasts; `to` is memory of ours, so the two do
        // not overlap.
        unsafe { copy(self.base.as_ptr(), to.as_mut_ptr(), len) }
    }

    /// Gives the host the bytes of `from`, as far as both reach.
    #[inline]
    pub fn copy_from(&self, from: &[u8]) {
        let len = self.len.min(from.len());
        // SAFETY: whoever mapped the range keeps it writable while `'a` lasts; `from` is memory of ours, so the two
        // do not overlap.
        unsafe { copy(from.as_ptr(), self.base.as_ptr(), len) }
    }

    /// Gives the host zeroes.
    #[inline]
    pub fn zero(&self) {
        // SAFETY: whoever mapped the range keeps it writable while `'a` lasts.
        unsafe { ptr::write_bytes(self.base.as_ptr(), 0, self.len) }
    }
}

impl std::fmt::Debug for HostBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

/// From this length on the processor copies better by itself than any loop: less for it to decode and predict while it
/// waits for memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_COPY: usize = 1024;

/// Copies `len` bytes.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`], except that others may write to either range meanwhile.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= STRING_COPY {
        // SAFETY: reads and writes what the caller allows; the direction flag is clear, as everywhere.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from, to, len) }
}

/// Lines fetched ahead for reading and for writing: enough for the processor to see where it is going. Stores have to
/// wait longer, for the line has to become ours alone.
const AHEAD: [usize; 2] = [16, 32];

/// Asks for the first lines at `address`, which are read or written soon. Any address is allowed.
#[inline]
pub(crate) fn prefetch(address: usize, write: bool) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..AHEAD[usize::from(write)] {
        let at = address.wrapping_add(line * 64);
        // SAFETY: hints, which never fault and change nothing.
        unsafe {
            if write {
                std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags));
            } else {
                std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nostack, preserves_flags));
            }
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (address, write, AHEAD);
}

#[derive(Clone, Copy)]
struct Region {
    iova: u64,
    len: u64,
    base: NonNull<u8>,
}

impl Region {
    fn end(&self) -> u64 {
        self.iova + (self.len - 1)
    }
}

/// The map from I/O addresses to memory of this process.
#[derive(Default)]
pub(crate) struct HostMemory {
    /// Ascending, disjoint.
    regions: Vec<Region>,
    /// In the order of `regions`.
    owners: Vec<Option<Owner>>,
    /// The region found last: most lookups end there.
    last: Cell<usize>,
    /// Counts the changes, so that a [`Ring`] knows when its pointer is stale.
    generation: u64,
}

// SAFETY: the pointers name memory that `owners`, or the caller of `map`, keeps alive wherever the map goes; nothing
// in it belongs to a thread.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Maps `len` bytes at `base` as I/O address `iova`.
    ///
    /// # Safety
    /// As for [`Controller::map`].
    unsafe fn map(
        &mut self,
        iova: u64,
        base: NonNull<u8>,
        len: usize,
        owner: Option<Owner>,
    ) -> Result<(), MapError> {
        let len = len as u64;
        let Some(end) = checked_end(iova, len) else {
            return Err(MapError::Misaligned { iova, len });
        };
        if self.regions.len() >= MAX_REGIONS {
            return Err(MapError::TooMany);
        }
        let at = self.regions.partition_point(|region| region.end() < iova);
        if self.regions.get(at).is_some_and(|next| next.iova <= end) {
            return Err(MapError::Overlaps { iova, len });
        }
        self.regions.insert(at, Region { iova, len, base });
        self.owners.insert(at, owner);
        self.generation += 1;
        Ok(())
    }

    /// Forgets the mappings that make up `len` bytes at `iova`.
    pub(crate) fn unmap(&mut self, iova: u64, len: usize) -> Result<(), MapError> {
        let len = len as u64;
        let Some(end) = checked_end(iova, len) else {
            return Err(MapError::Misaligned { iova, len });
        };
        let first = self.regions.partition_point(|region| region.end() < iova);
        let past = self.regions.partition_point(|region| region.iova <= end);
        match self.regions.get(first..past) {
            Some([head, .., tail]) if head.iova >= iova && tail.end() <= end => {}
            Some([only]) if only.iova >= iova && only.end() <= end => {}
            _ => return Err(MapError::NotMapped { iova, len }),
        }
        self.regions.drain(first..past);
        self.owners.drain(first..past);
        self.generation += 1;
        Ok(())
    }

    /// Forgets every mapping.
    pub(crate) fn clear(&mut self) {
        self.regions.clear();
        self.owners.clear();
        self.generation += 1;
    }

    #[inline]
    fn find(&self, iova: u64) -> Option<(usize, &Region)> {
        let last = self.last.get();
        if let Some(region) = self.regions.get(last)
            && iova.wrapping_sub(region.iova) < region.len
        {
            return Some((last, region));
        }
        let at = self.regions.partition_point(|region| region.end() < iova);
        let region = self.regions.get(at).filter(|region| region.iova <= iova)?;
        self.last.set(at);
        Some((at, region))
    }

    /// As much of `len` bytes at `iova` as one mapping holds; `None` where the first byte is not mapped. The number
    /// names the mapping.
    #[inline]
    pub(crate) fn piece(&self, iova: u64, len: usize) -> Option<(usize, HostBytes<'_>)> {
        let (index, region) = self.find(iova)?;
        let offset = iova - region.iova;
        let len = (region.len - offset).min(len as u64) as usize;
        // SAFETY: `find` returned a region with `iova` inside, so `offset` is below its length.
        let base = unsafe { region.base.add(offset as usize) };
        Some((index, HostBytes { base, len, memory: PhantomData }))
    }

    /// The piece that continues `piece` by `len` bytes, if `more` lies directly behind it in the same mapping.
    #[inline]
    pub(crate) fn join<'a>(
        piece: (usize, HostBytes<'a>),
        more: (usize, HostBytes<'a>),
    ) -> Option<HostBytes<'a>> {
        let adjacent = piece.0 == more.0
            && piece.1.base.as_ptr().addr() + piece.1.len == more.1.base.as_ptr().addr();
        adjacent.then_some(HostBytes { len: piece.1.len + more.1.len, ..piece.1 })
    }

    /// Copies `into.len()` bytes at `iova`; false where some of them are not mapped.
    pub(crate) fn read(&self, mut iova: u64, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            let Some((_, piece)) = self.piece(iova, into.len()) else { return false };
            let (now, later) = into.split_at_mut(piece.len());
            piece.copy_to(now);
            into = later;
            iova = iova.wrapping_add(piece.len() as u64);
        }
        true
    }

    /// The dword at `iova`, which is aligned; `None` where it is not mapped.
    pub(crate) fn load(&self, iova: u64) -> Option<u32> {
        self.dword(iova).map(|dword| dword.load(Ordering::Acquire))
    }

    /// Stores the dword at `iova`, which is aligned; false where it is not mapped.
    pub(crate) fn store(&self, iova: u64, value: u32) -> bool {
        self.dword(iova).map(|dword| dword.store(value, Ordering::Release)).is_some()
    }

    fn dword(&self, iova: u64) -> Option<&AtomicU32> {
        let (_, piece) = self.piece(iova, 4)?;
        if piece.len() < 4 || piece.as_ptr().addr() % 4 != 0 {
            return None;
        }
        // SAFETY: four mapped, aligned bytes; an atomic may be shared with whoever else writes them.
        Some(unsafe { AtomicU32::from_ptr(piece.as_ptr().cast()) })
    }
}

fn checked_end(iova: u64, len: u64) -> Option<u64> {
    let aligned = (iova | len).is_multiple_of(4096) && len != 0;
    if aligned { iova.checked_add(len - 1) } else { None }
}

/// The memory of one queue: contiguous in I/O addresses, and nearly always in this process too.
///
/// A ring is used with the [`HostMemory`] it was made for; it notices by itself when that changes.
pub(crate) struct Ring {
    iova: u64,
    bytes: u64,
    generation: u64,
    /// Set while one mapping holds the whole ring.
    base: Option<NonNull<u8>>,
}

// SAFETY: the pointer is a copy of one in the `HostMemory` of the same controller and is not used once that changed.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring of `bytes` bytes at `iova`. Whether it is mapped shows when it is used.
    pub(crate) fn new(memory: &HostMemory, iova: u64, bytes: u64) -> Self {
        let mut ring = Self { iova, bytes, generation: 0, base: None };
        ring.refresh(memory);
        ring
    }

    #[cold]
    fn refresh(&mut self, memory: &HostMemory) {
        self.generation = memory.generation;
        let whole = usize::try_from(self.bytes).ok().and_then(|len| memory.piece(self.iova, len));
        self.base = whole
            .filter(|(_, piece)| {
                piece.len() as u64 == self.bytes && piece.as_ptr().addr() % 16 == 0
            })
            .map(|(_, piece)| piece.base);
    }

    /// Where the `size` bytes of entry `index` lie. `size` divides the length of the ring and 4096.
    #[inline]
    fn entry(&mut self, memory: &HostMemory, index: u32, size: usize) -> Option<NonNull<u8>> {
        let offset = u64::from(index) * size as u64;
        if offset >= self.bytes {
            return None;
        }
        if self.generation != memory.generation {
            self.refresh(memory);
        }
        if let Some(base) = self.base {
            // SAFETY: `base` begins `bytes` mapped bytes, checked by `refresh` for the map as it is now, and `offset`
            // is below `bytes`.
            return Some(unsafe { base.add(offset as usize) });
        }
        // The ring crosses mappings. They are whole 4 KiB pages, so that an entry never does.
        let (_, piece) = memory.piece(self.iova.wrapping_add(offset), size)?;
        (piece.len() == size && piece.as_ptr().addr() % 16 == 0).then_some(piece.base)
    }

    /// Copies out the submission entry `index`.
    #[inline]
    pub(crate) fn read_entry(&mut self, memory: &HostMemory, index: u32) -> Option<[u64; 8]> {
        let entry = self.entry(memory, index, 64)?;
        // SAFETY: `entry` begins 64 mapped bytes, aligned to 16. Volatile: read once, whatever is done with the copy.
        Some(unsafe { entry.cast::<[u64; 8]>().read_volatile() })
    }

    /// Copies out the completion entry `index`.
    pub(crate) fn read_words(&self, memory: &HostMemory, index: u32) -> Option<[u64; 2]> {
        let mut bytes = [0; 16];
        let iova = self.iova.wrapping_add(u64::from(index) * 16);
        let [low, high] = zerocopy::transmute!({
            if !memory.read(iova, &mut bytes) {
                return None;
            }
            bytes
        });
        Some([low, high])
    }

    /// Writes the completion entry `index`; false where it is not mapped.
    #[inline]
    pub(crate) fn write_entry(&mut self, memory: &HostMemory, index: u32, words: [u64; 2]) -> bool {
        let Some(entry) = self.entry(memory, index, 16) else { return false };
        let entry = entry.cast::<u64>().as_ptr();
        // SAFETY: the first of two mapped words, aligned to 16; an atomic may be shared with the host.
        let low = unsafe { AtomicU64::from_ptr(entry) };
        // SAFETY: the second of the two words.
        let next = unsafe { entry.add(1) };
        // SAFETY: as for the first word.
        let high = unsafe { AtomicU64::from_ptr(next) };
        low.store(words[0], Ordering::Relaxed);
        high.store(words[1], Ordering::Release);
        true
    }
}

impl Controller {
    /// Lets the controller read and write `len` bytes at `base` under the I/O address `iova`. Address and length are
    /// multiples of 4 KiB. `owner` is dropped once the range is unmapped.
    ///
    /// # Errors
    /// [`MapError`]; nothing is mapped then.
    ///
    /// # Safety
    /// The memory stays readable and writable until it is unmapped or the controller is dropped, and holds no value
    /// that a reference of Rust is used for while a command that names it is in flight.
    pub unsafe fn map(
        &mut self,
        iova: u64,
        base: NonNull<u8>,
        len: usize,
        owner: Option<Owner>,
    ) -> Result<(), MapError> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.memory.map(iova, base, len, owner) }
    }
}

impl InProcess {
    /// As [`Controller::map`].
    ///
    /// # Errors
    /// [`MapError`]; nothing is mapped then.
    ///
    /// # Safety
    /// As for [`Controller::map`].
    pub unsafe fn map(
        &self,
        iova: u64,
        base: NonNull<u8>,
        len: usize,
        owner: Option<Owner>,
    ) -> Result<(), MapError> {
        self.with(|controller| {
            // SAFETY: the caller's promise, passed on.
            unsafe { controller.map(iova, base, len, owner) }
        })
        .unwrap_or(Err(MapError::Gone))
    }
}

#[cfg(test)]
pub(crate) mod tests;
