//! Submission and completion rings in DMA memory, and their doorbells (NVM Express Base 2.1, 3.3.1).
//!
//! The only code that touches what the device reads and writes behind the driver's back. Entries are moved as aligned
//! 64-bit words with atomic loads and stores, so that a device on another core is no data race; no reference to them
//! is ever made.

#![expect(unsafe_code, reason = "rings and doorbells are memory shared with a device")]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use doorbell_spec::command::Sqe;
use doorbell_spec::register::{self, offset};

use crate::device::Doorbells;
use crate::memory::Buffer;

const SQE_WORDS: usize = size_of::<Sqe>() / 8;
const CQE_WORDS: usize = 2;

/// One doorbell register.
pub(super) struct Doorbell {
    register: NonNull<AtomicU32>,
    /// Keeps the mapping.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the register is reached by atomic stores only, and the mapping lives as long as `_owner`.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// The doorbell at `offset` in BAR0; `None` if it lies outside what is mapped.
    pub(super) fn at(doorbells: &Doorbells, offset: u64) -> Option<Self> {
        let within = offset.checked_sub(offset::DOORBELLS)?;
        if within % 4 != 0 || within.checked_add(4)? > doorbells.len {
            return None;
        }
        // SAFETY: `Doorbells` promises `len` accessible bytes from `base`; the four at `within` were just checked.
        let register = unsafe { doorbells.base.byte_add(usize::try_from(within).ok()?) };
        Some(Self { register: register.cast(), _owner: doorbells.owner.clone() })
    }

    /// Submission queue tail doorbell of queue `qid`.
    pub(super) fn submission(doorbells: &Doorbells, qid: u16, dstrd: u8) -> Option<Self> {
        Self::at(doorbells, register::sq_tail_doorbell(qid, dstrd))
    }

    /// Completion queue head doorbell of queue `qid`.
    pub(super) fn completion(doorbells: &Doorbells, qid: u16, dstrd: u8) -> Option<Self> {
        Self::at(doorbells, register::cq_head_doorbell(qid, dstrd))
    }

    /// Writes the doorbell, after everything stored before.
    #[inline(always)]
    pub(super) fn write(&self, value: u32) {
        // A store barrier towards the device: ring entries are ordinary memory, the doorbell may be device memory.
        // On x86 stores are seen in order, whatever the memory type, unless one of them is non-temporal: none is.
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a barrier touches no memory.
        unsafe {
            std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
        }
        // SAFETY: `at` checked that the register lies in the mapping, which `_owner` keeps.
        unsafe { self.register.as_ref() }.store(value, Ordering::Release);
    }
}

/// Host side of a submission queue: entries, tail, and the head as the device last told it.
pub(super) struct Submission {
    entries: NonNull<AtomicU64>,
    /// Entries in the ring.
    size: u32,
    tail: u32,
    /// The head that room is reckoned from.
    head: u32,
    /// The head in the newest completion; checked when room is needed, before anything rests on it.
    reported: u32,
    lie: Option<(u16, u16, u16)>,
    /// The tail that the device knows.
    rung: u32,
    doorbell: Doorbell,
    memory: Buffer,
}

// SAFETY: `entries` points into `memory`, which this value owns.
unsafe impl Send for Submission {}

impl Submission {
    /// A ring of `size` entries at the start of `memory`, which is long enough.
    pub(super) fn new(mut memory: Buffer, size: u32, doorbell: Doorbell) -> Self {
        assert!(memory.len() >= size as usize * size_of::<Sqe>(), "ring memory is too short");
        assert!(memory.as_mut_ptr().cast::<AtomicU64>().is_aligned(), "ring memory is misaligned");
        memory.fill(0);
        let entries = NonNull::new(memory.as_mut_ptr()).expect("a buffer has an address").cast();
        Self { entries, size, tail: 0, head: 0, reported: 0, lie: None, rung: 0, doorbell, memory }
    }

    pub(super) fn iova(&self) -> u64 {
        self.memory.iova()
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Writes `command` at the tail; false, with nothing written, if the ring is full.
    #[inline(always)]
    pub(super) fn push(&mut self, command: Sqe) -> bool {
        let mut next = self.tail + 1;
        if next == self.size {
            next = 0;
        }
        if next == self.head && !self.has_room(next) {
            return false;
        }
        let words = command.to_words();
        let first = self.tail as usize * SQE_WORDS;
        // In place, by eight stores: an entry built elsewhere and copied would stall on store forwarding.
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: `tail < size` always, and `new` checked that `size` entries fit in `memory`.
            unsafe { self.entries.add(first + index).as_ref() }.store(word, Ordering::Relaxed);
        }
        self.tail = next;
        true
    }

    /// Full by the head taken for true; there may be a newer report.
    #[cold]
    fn has_room(&mut self, next: u32) -> bool {
        self.accept_report() && next != self.head
    }

    /// Tells the device the tail, if it does not know it. True if the doorbell was written.
    #[inline(always)]
    pub(super) fn ring(&mut self) -> bool {
        if self.tail == self.rung {
            return false;
        }
        self.doorbell.write(self.tail);
        self.rung = self.tail;
        true
    }

    /// Notes the device's word for how far it has fetched; nothing rests on it yet.
    #[inline(always)]
    pub(super) fn report(&mut self, head: u16) {
        self.reported = u32::from(head);
    }

    /// Takes the last report for true, unless it lies outside what was submitted (CQ-10).
    fn accept_report(&mut self) -> bool {
        let head = self.reported;
        // Distances from the old head, modulo the ring.
        if head >= self.size || self.distance(head) > self.distance(self.rung) {
            self.lie = Some((head as u16, self.head as u16, self.tail as u16));
            return false;
        }
        self.head = head;
        true
    }

    /// A report that could not be true, with the head and tail that it does not fit.
    #[inline(always)]
    pub(super) fn lie(&self) -> Option<(u16, u16, u16)> {
        self.lie
    }

    #[inline(always)]
    fn distance(&self, to: u32) -> u32 {
        let straight = to.wrapping_sub(self.head);
        if to >= self.head { straight } else { straight.wrapping_add(self.size) }
    }
}

/// Host side of a completion queue.
pub(super) struct Completions {
    entries: NonNull<AtomicU64>,
    size: u32,
    head: u32,
    /// The phase of an entry that is new, at its place in the upper word of the entry.
    phase: u64,
    /// The head that the device knows.
    announced: u32,
    /// The head at the end of the last round.
    before: u32,
    /// Entries that may be consumed before the device has to know.
    lazy: u32,
    doorbell: Doorbell,
    memory: Buffer,
}

// SAFETY: `entries` points into `memory`, which this value owns.
unsafe impl Send for Completions {}

impl Completions {
    /// Phase tag: bit 16 of dword 3, in the upper half of the entry.
    const PHASE: u64 = 1 << 48;

    /// A ring of `size` entries at the start of `memory`, at most `lazy` of which may be consumed unannounced.
    pub(super) fn new(mut memory: Buffer, size: u32, lazy: u32, doorbell: Doorbell) -> Self {
        assert!(memory.len() >= size as usize * CQE_WORDS * 8, "ring memory is too short");
        assert!(memory.as_mut_ptr().cast::<AtomicU64>().is_aligned(), "ring memory is misaligned");
        memory.fill(0);
        let entries = NonNull::new(memory.as_mut_ptr()).expect("a buffer has an address").cast();
        Self {
            entries,
            size,
            head: 0,
            phase: Self::PHASE,
            announced: 0,
            before: 0,
            lazy,
            doorbell,
            memory,
        }
    }

    pub(super) fn iova(&self) -> u64 {
        self.memory.iova()
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// The next new entry as two words, copied: the half with the phase first, by an acquiring load (CQ-4).
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<[u64; 2]> {
        let at = self.head as usize * CQE_WORDS;
        // SAFETY: `head < size` always, and `new` checked that `size` entries fit in `memory`.
        let upper = unsafe { self.entries.add(at + 1).as_ref() }.load(Ordering::Acquire);
        if upper & Self::PHASE != self.phase {
            return None;
        }
        // The device may be another processor: on ARM an acquiring load orders only within the inner domain.
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a barrier touches no memory.
        unsafe {
            std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
        }
        // SAFETY: as above.
        let lower = unsafe { self.entries.add(at).as_ref() }.load(Ordering::Relaxed);
        self.head += 1;
        if self.head == self.size {
            self.head = 0;
            self.phase ^= Self::PHASE;
        }
        Some([lower, upper])
    }

    /// Whether entries have been consumed since the last call.
    #[inline(always)]
    pub(super) fn end_round(&mut self) -> bool {
        let consumed = self.head != self.before;
        self.before = self.head;
        consumed
    }

    /// Tells the device what was consumed, once that is more than it can do without. True if the doorbell was written.
    #[inline(always)]
    pub(super) fn announce(&mut self) -> bool {
        let straight = self.head.wrapping_sub(self.announced);
        let consumed =
            if self.head >= self.announced { straight } else { straight.wrapping_add(self.size) };
        if consumed <= self.lazy {
            return false;
        }
        self.doorbell.write(self.head);
        self.announced = self.head;
        true
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
