//! A sparse backend in memory: chunks that exist once they are written.
//!
//! Owns its chunks, each behind a lock of its own. The lock is what makes blocks atomic between controllers; no block
//! crosses a chunk. A chunk is one huge page where the kernel has them, which matters more for random access than
//! anything else here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Backend, Cursor, MediaError, Properties, TOGETHER};
use crate::memory::{HostBytes, prefetch};

/// Bytes in a chunk: one huge page.
const CHUNK: usize = if cfg!(miri) { 64 << 10 } else { 2 << 20 };
const CHUNK_U64: u64 = CHUNK as u64;
/// What is shown of chunks that do not exist.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// The largest backend: its table of chunks takes 256 MiB.
const MAX_LEN: u64 = 16 << 40;

/// Storage in memory, taken on the first write and given back on deallocation.
pub struct Memory {
    len: u64,
    chunks: Box<[RwLock<Option<Chunk>>]>,
    /// Where each chunk is, as a hint that needs no lock; zero for none.
    addresses: Box<[AtomicUsize]>,
}

impl Memory {
    /// A backend of `len` bytes, all zero.
    ///
    /// # Errors
    /// [`MediaError::Full`] beyond 16 TiB, and where not even the table of chunks fits into memory.
    pub fn new(len: u64) -> Result<Self, MediaError> {
        if len > MAX_LEN {
            return Err(MediaError::Full);
        }
        let count = usize::try_from(len.div_ceil(CHUNK_U64)).map_err(|_| MediaError::Full)?;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| MediaError::Full)?;
        chunks.resize_with(count, || RwLock::new(None));
        let mut addresses = Vec::new();
        addresses.try_reserve_exact(count).map_err(|_| MediaError::Full)?;
        addresses.resize_with(count, || AtomicUsize::new(0));
        Ok(Self { len, chunks: chunks.into(), addresses: addresses.into() })
    }

    /// Bytes of storage that are taken now.
    pub fn allocated(&self) -> u64 {
        let taken = self.chunks.iter().filter(|chunk| lock(chunk).is_some()).count();
        taken as u64 * CHUNK_U64
    }

    /// The chunk around `offset`, and where in it that is.
    #[inline]
    fn chunk(&self, offset: u64) -> Result<(&RwLock<Option<Chunk>>, usize), MediaError> {
        let index = (offset / CHUNK_U64) as usize;
        let chunk = self.chunks.get(index).ok_or(MediaError::Unreadable)?;
        Ok((chunk, (offset % CHUNK_U64) as usize))
    }

    /// Zeroes a range; chunks that it covers whole are given back where `free` is set.
    fn clear(&self, mut offset: u64, mut len: u64, free: bool) -> Result<(), MediaError> {
        while len > 0 {
            let (chunk, start) = self.chunk(offset)?;
            let now = len.min(CHUNK_U64 - start as u64);
            let to_end = offset + now == self.len;
            // Most chunks of a sparse backend are holes, and the hint tells: whoever was told that a write is done reads
            // what was stored before.
            let hint = self.addresses.get((offset / CHUNK_U64) as usize);
            if hint.is_some_and(|hint| hint.load(Ordering::Relaxed) != 0) {
                let mut chunk = lock_mut(chunk);
                if free && start == 0 && (now == CHUNK_U64 || to_end) {
                    *chunk = None;
                    if let Some(hint) = hint {
                        hint.store(0, Ordering::Relaxed);
                    }
                } else if let Some(bytes) = chunk
                    .as_mut()
                    .and_then(|chunk| chunk.bytes_mut().get_mut(start..start + now as usize))
                {
                    bytes.fill(0);
                }
            }
            offset += now;
            len -= now;
        }
        Ok(())
    }
}

impl Backend for Memory {
    fn len(&self) -> u64 {
        self.len
    }

    fn properties(&self) -> Properties {
        Properties { volatile: false, thin: true, zeroes: true, prefetches: true, shows: true }
    }

    #[inline]
    fn read(&self, mut offset: u64, into: &[HostBytes<'_>]) -> Result<(), MediaError> {
        let mut cursor = Cursor::new(into);
        let mut left: usize = into.iter().map(HostBytes::len).sum();
        while left > 0 {
            let (chunk, mut start) = self.chunk(offset)?;
            let end = CHUNK.min(start + left);
            offset += (end - start) as u64;
            left -= end - start;
            let chunk = lock(chunk);
            while start < end
                && let Some(piece) = cursor.next(end - start)
            {
                match chunk.as_ref().and_then(|chunk| chunk.bytes().get(start..end)) {
                    Some(bytes) => piece.copy_from(bytes),
                    None => piece.zero(),
                }
                start += piece.len();
            }
        }
        Ok(())
    }

    fn show(
        &self,
        ranges: &[(u64, usize)],
        look: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), MediaError> {
        // The chunks of all ranges, each locked once; then what they hold.
        let mut locks = [const { None }; TOGETHER];
        let (mut locked, mut count) = (0, 0);
        for &(offset, _) in ranges.iter().take(TOGETHER) {
            let (index, Ok((chunk, _))) = (offset / CHUNK_U64, self.chunk(offset)) else { break };
            if !locks.iter().flatten().any(|(held, _)| *held == index) {
                // Whoever has a lock does not wait for another.
                let guard = if locked == 0 { Some(lock(chunk)) } else { chunk.try_read().ok() };
                let (Some(guard), Some(free)) = (guard, locks.get_mut(locked)) else { break };
                *free = Some((index, guard));
                locked += 1;
            }
            count += 1;
        }
        let mut pieces: [&[u8]; TOGETHER] = [&[]; TOGETHER];
        let mut shown = 0;
        for (&(offset, len), piece) in ranges.iter().take(count).zip(&mut pieces) {
            let start = (offset % CHUNK_U64) as usize;
            let end = CHUNK.min(start + len);
            let of = |(held, _): &&(u64, _)| *held == offset / CHUNK_U64;
            let chunk = locks.iter().flatten().find(of).and_then(|(_, guard)| guard.as_ref());
            let stored = chunk.and_then(|chunk| chunk.bytes().get(start..end));
            *piece = stored.unwrap_or(ZEROES.get(..end - start).unwrap_or(&ZEROES));
            shown += 1;
            if piece.len() < len {
                break;
            }
        }
        match pieces.get(..shown) {
            None | Some([]) => Err(MediaError::Unreadable),
            Some(pieces) => {
                look(pieces);
                Ok(())
            }
        }
    }

    #[inline]
    fn write(&self, mut offset: u64, from: &[HostBytes<'_>]) -> Result<(), MediaError> {
        let mut cursor = Cursor::new(from);
        let mut left: usize = from.iter().map(HostBytes::len).sum();
        while left > 0 {
            let (chunk, mut start) = self.chunk(offset)?;
            let end = CHUNK.min(start + left);
            offset += (end - start) as u64;
            left -= end - start;
            let mut chunk = lock_mut(chunk);
            if chunk.is_none() {
                let new = Chunk::new()?;
                let address = new.bytes().as_ptr().addr();
                *chunk = Some(new);
                if let Some(hint) = self.addresses.get(((offset - 1) / CHUNK_U64) as usize) {
                    hint.store(address, Ordering::Relaxed);
                }
            }
            let Some(chunk) = chunk.as_mut() else { return Err(MediaError::Full) };
            while start < end
                && let Some(piece) = cursor.next(end - start)
                && let Some(bytes) = chunk.bytes_mut().get_mut(start..end)
            {
                piece.copy_to(bytes);
                start += piece.len();
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, deallocate: bool) -> Result<(), MediaError> {
        self.clear(offset, len, deallocate)
    }

    fn deallocate(&self, offset: u64, len: u64) -> Result<(), MediaError> {
        self.clear(offset, len, true)
    }

    #[inline]
    fn prefetch(&self, offset: u64, write: bool) {
        let hint = self.addresses.get((offset / CHUNK_U64) as usize);
        let address = hint.map_or(0, |hint| hint.load(Ordering::Relaxed));
        if address != 0 {
            prefetch(address + (offset % CHUNK_U64) as usize, write);
        }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}

/// A thread that panicked with a chunk locked has left data that some write may leave, so the lock stays usable.
#[inline]
fn lock(chunk: &RwLock<Option<Chunk>>) -> RwLockReadGuard<'_, Option<Chunk>> {
    chunk.read().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
fn lock_mut(chunk: &RwLock<Option<Chunk>>) -> RwLockWriteGuard<'_, Option<Chunk>> {
    chunk.write().unwrap_or_else(PoisonError::into_inner)
}

/// [`CHUNK`] zeroed bytes, in one huge page where the kernel gives one.
#[cfg(not(miri))]
struct Chunk {
    map: memmap2::MmapMut,
    start: usize,
}

#[cfg(not(miri))]
impl Chunk {
    fn new() -> Result<Self, MediaError> {
        // Twice the size, so that an aligned chunk lies within; the rest is never touched and costs no memory.
        let mut map = memmap2::MmapMut::map_anon(2 * CHUNK).map_err(|_| MediaError::Full)?;
        let start = map.as_mut_ptr().align_offset(CHUNK).min(CHUNK);
        // Without huge pages it is slower, not wrong.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, start })
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.map.get(self.start..self.start + CHUNK).unwrap_or_default()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.start..self.start + CHUNK).unwrap_or_default()
    }
}

/// [`CHUNK`] zeroed bytes.
#[cfg(miri)]
struct Chunk(Box<[u8]>);

#[cfg(miri)]
impl Chunk {
    fn new() -> Result<Self, MediaError> {
        Ok(Self(vec![0; CHUNK].into_boxed_slice()))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests;
