//! Submission and completion rings in DMA memory (NVM Express Base 2.1, 3.3.1).
//!
//! The only code that touches what the device reads and writes behind the driver's back. Entries are moved as aligned
//! 64-bit words with atomic loads and stores, so that a device on another core is no data race; no reference to them
//! is ever made.

#![expect(unsafe_code, reason = "rings are memory shared with a device")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use doorbell_spec::command::Sqe;

use super::doorbell::Doorbell;
use crate::memory::Buffer;

mod entry;

/// What entries are read with.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    /// The device may be another processor: on ARM an acquiring load orders only within the inner domain.
    #[inline(always)]
    pub(super) fn barrier() {
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a barrier touches no memory.
        unsafe {
            std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
        }
    }
}

const SQE_WORDS: usize = size_of::<Sqe>() / 8;
const CQE_WORDS: usize = 2;

/// A ring of entries of `WORDS` words each, and a place in it. Kept as pointers: the next entry costs no arithmetic.
struct Place<const WORDS: usize> {
    first: NonNull<AtomicU64>,
    next: NonNull<AtomicU64>,
    end: NonNull<AtomicU64>,
    size: u32,
    memory: Buffer,
}

impl<const WORDS: usize> Place<WORDS> {
    /// The beginning of a ring of `size` entries, all zero, at the start of `memory`, which is long enough.
    fn new(mut memory: Buffer, size: u32) -> Self {
        let words = size as usize * WORDS;
        assert!(memory.len() >= words * 8, "ring memory is too short");
        assert!(memory.as_mut_ptr().cast::<AtomicU64>().is_aligned(), "ring memory is misaligned");
        memory.fill(0);
        let first = memory.base().cast();
        // SAFETY: one past the last of the words that were just checked to lie in `memory`.
        let end = unsafe { first.add(words) };
        Self { first, next: first, end, size, memory }
    }

    /// Word `index`, below `WORDS`, of the entry at this place.
    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < WORDS);
        // SAFETY: `next` is always the beginning of an entry before `end`, in memory that this value owns; it moves in
        // `advance` only.
        unsafe { self.next.add(index).as_ref() }
    }

    /// Moves to the next entry; true at the wrap.
    #[inline(always)]
    fn advance(&mut self) -> bool {
        // SAFETY: from the beginning of an entry before `end` to the next one, or to `end`.
        self.next = unsafe { self.next.add(WORDS) };
        let wrapped = self.next == self.end;
        if wrapped {
            self.next = self.first;
        }
        wrapped
    }

    /// Entries from the beginning of the ring.
    #[inline(always)]
    fn index(&self) -> u32 {
        let bytes = self.next.as_ptr() as usize - self.first.as_ptr() as usize;
        (bytes / (WORDS * 8)) as u32
    }

    /// Entries from `from` forward to `to`, both below the size.
    #[inline(always)]
    fn distance(&self, from: u32, to: u32) -> u32 {
        let straight = to.wrapping_sub(from);
        if to >= from { straight } else { straight.wrapping_add(self.size) }
    }
}

/// Host side of a submission queue: the tail, and the head as the device last told it.
pub(super) struct Submission {
    tail: Place<SQE_WORDS>,
    /// Entries that can be written before the head has to be looked at again.
    room: u32,
    /// The head that room is reckoned from.
    head: u32,
    /// The head in the newest completion; checked when room is needed, before anything rests on it.
    reported: u32,
    /// A report that could not be true, with the head and tail that it does not fit.
    lie: Option<(u16, u16, u16)>,
    /// The tail that the device knows.
    rung: u32,
    doorbell: Doorbell,
}

// SAFETY: the pointers lead into memory that the value owns.
unsafe impl Send for Submission {}

impl Submission {
    /// A ring of `size` entries at the start of `memory`, which is long enough.
    pub(super) fn new(memory: Buffer, size: u32, doorbell: Doorbell) -> Self {
        let tail = Place::new(memory, size);
        Self { tail, room: size - 1, head: 0, reported: 0, lie: None, rung: 0, doorbell }
    }

    pub(super) fn iova(&self) -> u64 {
        self.tail.memory.iova()
    }

    pub(super) fn bytes(&self) -> usize {
        self.tail.memory.len()
    }

    /// Writes `command` at the tail; false, with nothing written, if the ring is full.
    #[inline(always)]
    pub(super) fn push(&mut self, command: Sqe) -> bool {
        if self.room == 0 && !self.make_room() {
            return false;
        }
        // In place, by eight stores: an entry built elsewhere and copied would stall on store forwarding.
        for (index, word) in command.to_words().into_iter().enumerate() {
            self.tail.word(index).store(word, Ordering::Relaxed);
        }
        self.tail.advance();
        self.room -= 1;
        true
    }

    /// Takes the last report of the device for true, unless it lies outside what was submitted (CQ-10), and reckons
    /// room from it.
    #[cold]
    fn make_room(&mut self) -> bool {
        let (head, tail) = (self.reported, self.tail.index());
        let told = self.tail.distance(self.head, self.rung);
        if head >= self.tail.size || self.tail.distance(self.head, head) > told {
            self.lie = Some((head as u16, self.head as u16, tail as u16));
            return false;
        }
        self.head = head;
        // A ring of n entries holds n - 1 (CQ-1).
        self.room = self.tail.size - 1 - self.tail.distance(head, tail);
        self.room > 0
    }

    /// Tells the device the tail, if it does not know it. True if the doorbell register was written.
    #[inline(always)]
    pub(super) fn ring(&mut self) -> bool {
        let tail = self.tail.index();
        if tail == self.rung {
            return false;
        }
        let written = self.doorbell.write(self.rung, tail);
        self.rung = tail;
        written
    }

    /// Notes the device's word for how far it has fetched; nothing rests on it yet.
    #[inline(always)]
    pub(super) fn report(&mut self, head: u16) {
        self.reported = u32::from(head);
    }

    /// A report that could not be true, with the head and tail that it does not fit.
    #[inline(always)]
    pub(super) fn lie(&self) -> Option<(u16, u16, u16)> {
        self.lie
    }
}

/// What stands at the head of a completion queue.
pub(super) enum Arrival {
    Nothing,
    /// A new entry, copied.
    Entry([u64; 2]),
    /// A new entry of another submission queue.
    Foreign(u16),
}

/// Host side of a completion queue.
pub(super) struct Completions {
    head: Place<CQE_WORDS>,
    /// What the bits under [`Self::FIXED`] of a new entry are: the phase of this pass, and the submission queue.
    expected: u64,
    /// The head at the end of the last round.
    before: NonNull<AtomicU64>,
    /// The head that the device knows.
    announced: u32,
    /// Entries that may be consumed before the device has to know.
    lazy: u32,
    doorbell: Doorbell,
}

// SAFETY: the pointers lead into memory that the value owns.
unsafe impl Send for Completions {}

impl Completions {
    /// Phase tag: bit 16 of dword 3, in the upper word of the entry.
    const PHASE: u64 = 1 << 48;
    /// Phase tag and submission queue identifier, bits 31:16 of dword 2.
    const FIXED: u64 = Self::PHASE | 0xffff_0000;

    /// A ring of `size` entries at the start of `memory` for submission queue `sqid`, at most `lazy` of which may be
    /// consumed unannounced.
    pub(super) fn new(memory: Buffer, size: u32, sqid: u16, lazy: u32, doorbell: Doorbell) -> Self {
        let head = Place::new(memory, size);
        let expected = Self::PHASE | u64::from(sqid) << 16;
        Self { before: head.next, head, expected, announced: 0, lazy, doorbell }
    }

    pub(super) fn iova(&self) -> u64 {
        self.head.memory.iova()
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.memory.len()
    }

    /// The next entry, if it is new.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Arrival {
        let upper = match entry::upper(self.head.word(1), self.expected, Self::FIXED) {
            Ok(upper) => upper,
            Err((differs, upper)) => {
                return match differs & Self::PHASE {
                    0 => Arrival::Foreign((upper >> 16) as u16),
                    _ => Arrival::Nothing,
                };
            }
        };
        let lower = entry::lower(self.head.word(0));
        if self.head.advance() {
            self.expected ^= Self::PHASE;
        }
        Arrival::Entry([lower, upper])
    }

    /// Whether entries have been consumed since the last call.
    #[inline(always)]
    pub(super) fn end_round(&mut self) -> bool {
        let consumed = self.head.next != self.before;
        self.before = self.head.next;
        consumed
    }

    /// Tells the device what was consumed, once that is more than it can do without. True if the doorbell register was
    /// written.
    #[inline(always)]
    pub(super) fn announce(&mut self) -> bool {
        let head = self.head.index();
        if self.head.distance(self.announced, head) <= self.lazy {
            return false;
        }
        let written = self.doorbell.write(self.announced, head);
        self.announced = head;
        written
    }
}

/// Lists of PRP entries: one area per slot, a slice only while the slot is idle.
pub(super) struct Lists {
    memory: Option<Buffer>,
    stride: usize,
}

impl Lists {
    /// Areas of `stride` bytes (a multiple of 8) each.
    pub(super) fn new(memory: Option<Buffer>, stride: usize) -> Self {
        Self { memory, stride }
    }

    /// The list of `slot`, which is idle, and its I/O address.
    #[inline]
    pub(super) fn of(&mut self, slot: u16) -> Option<(&mut [u64], u64)> {
        let memory = self.memory.as_mut()?;
        let from = usize::from(slot) * self.stride;
        if from + self.stride > memory.len() {
            return None;
        }
        // SAFETY: the area was just checked to lie in `memory`, which is page aligned. The device reads the lists of
        // commands in flight only, and this slot's is not: no other area is covered by the slice.
        let list = unsafe {
            let area = memory.as_mut_ptr().add(from).cast::<u64>();
            std::slice::from_raw_parts_mut(area, self.stride / 8)
        };
        Some((list, memory.iova() + from as u64))
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len())
    }
}
