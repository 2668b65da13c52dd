//! Device-side rings: where submissions are fetched and completions are posted.
//!
//! Owns positions and phases; the entries lie in host memory. Doorbells are host memory as well, so that every value is
//! checked here before it is used (DB-4). A completion is only begun where there is room for it (CQ-2).

use std::sync::atomic::{Ordering, fence};

use doorbell_spec::completion::{Cqe, StatusField};
use doorbell_spec::status::Status;

use crate::doorbells::DoorbellPage;
use crate::memory::{HostMemory, Ring};

/// A doorbell value that the rules of the queue do not allow (RST-8).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadDoorbell;

/// Shadow and event index of one doorbell, in host memory (Doorbell Buffer Config).
#[derive(Clone, Copy)]
pub(crate) struct Shadow {
    pub(crate) value: u64,
    pub(crate) event: u64,
}

/// One doorbell: the register, or its shadow once the host has configured that.
pub(crate) struct Doorbell {
    index: usize,
    shadow: Option<Shadow>,
    /// The value that was refused last, so that it is reported once.
    refused: Option<u32>,
}

impl Doorbell {
    pub(crate) fn new(index: usize) -> Self {
        Self { index, shadow: None, refused: None }
    }

    #[inline]
    fn read(&self, page: &DoorbellPage, memory: &HostMemory, unmapped: u32) -> u32 {
        match self.shadow {
            None => page.load(self.index),
            Some(shadow) => memory.load(shadow.value).unwrap_or(unmapped),
        }
    }

    #[cold]
    fn refuse(&mut self, value: u32) -> Result<(), BadDoorbell> {
        if self.refused == Some(value) {
            return Ok(());
        }
        self.refused = Some(value);
        Err(BadDoorbell)
    }

    /// The host stores from now on into the shadow, which begins with what the register holds now.
    pub(crate) fn attach(&mut self, shadow: Shadow, now: u32, memory: &HostMemory) -> bool {
        self.shadow = Some(shadow);
        memory.store(shadow.value, now) && memory.store(shadow.event, now)
    }

    pub(crate) fn has_shadow(&self) -> bool {
        self.shadow.is_some()
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Asks the host to ring the register once it passes `now`, as we stop looking (DB-1). The caller looks once more
    /// afterwards.
    fn park(&self, memory: &HostMemory, now: u32) {
        if let Some(shadow) = self.shadow {
            memory.store(shadow.event, now);
            fence(Ordering::SeqCst);
        }
    }
}

/// A submission queue.
pub(crate) struct SubmissionQueue {
    pub(crate) id: u16,
    pub(crate) cqid: u16,
    pub(crate) size: u32,
    pub(crate) head: u32,
    tail: u32,
    pub(crate) ring: Ring,
    pub(crate) doorbell: Doorbell,
    /// Whether the event index says where we stopped.
    parked: bool,
}

impl SubmissionQueue {
    pub(crate) fn new(id: u16, cqid: u16, size: u32, ring: Ring, doorbell: Doorbell) -> Self {
        Self { id, cqid, size, head: 0, tail: 0, ring, doorbell, parked: false }
    }

    /// Reads the tail doorbell. One load where nothing has changed.
    #[inline]
    pub(crate) fn look(
        &mut self,
        page: &DoorbellPage,
        memory: &HostMemory,
    ) -> Result<(), BadDoorbell> {
        let value = self.doorbell.read(page, memory, self.tail);
        if value != self.tail {
            if value >= self.size {
                return self.doorbell.refuse(value);
            }
            // The entries up to the tail were stored before it (both kinds of doorbell are loaded to acquire).
            self.tail = value;
            self.doorbell.refused = None;
            self.parked = false;
        } else if self.doorbell.has_shadow() && !self.parked && self.head == self.tail {
            self.parked = true;
            self.doorbell.park(memory, self.tail);
            return self.look(page, memory);
        }
        Ok(())
    }

    /// Entries between head and tail.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        distance(self.head, self.tail, self.size)
    }

    /// The value of the doorbell register at which there is nothing to do; `None` where the register does not tell.
    #[inline]
    pub(crate) fn quiet_at(&self) -> Option<u32> {
        (self.head == self.tail && !self.doorbell.has_shadow()).then_some(self.tail)
    }

    /// The entry after `index`.
    #[inline]
    pub(crate) fn next(&self, index: u32) -> u32 {
        let next = index + 1;
        if next == self.size { 0 } else { next }
    }

    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }
}

/// What a completion says, less what the queue adds.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) sqid: u16,
    pub(crate) sqhd: u16,
    pub(crate) cid: u16,
    pub(crate) status: Status,
    pub(crate) result: u64,
}

/// A completion queue.
pub(crate) struct CompletionQueue {
    size: u32,
    head: u32,
    tail: u32,
    phase: bool,
    ring: Ring,
    pub(crate) doorbell: Doorbell,
    /// The interrupt vector, where interrupts are enabled.
    pub(crate) vector: Option<u16>,
    /// Submission queues that complete here.
    pub(crate) users: u32,
    /// Entries were posted since the vector was signalled.
    pub(crate) posted: bool,
}

impl CompletionQueue {
    pub(crate) fn new(size: u32, ring: Ring, doorbell: Doorbell, vector: Option<u16>) -> Self {
        Self {
            size,
            head: 0,
            tail: 0,
            phase: true,
            ring,
            doorbell,
            vector,
            users: 0,
            posted: false,
        }
    }

    /// Entries that can be posted, as far as known.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.size - 1 - distance(self.head, self.tail, self.size)
    }

    /// Entries that can be posted. The doorbell is read only where what is known falls short of `want`.
    #[inline]
    pub(crate) fn room(
        &mut self,
        want: u32,
        page: &DoorbellPage,
        memory: &HostMemory,
    ) -> Result<u32, BadDoorbell> {
        if self.free() < want {
            self.look(page, memory)?;
        }
        Ok(self.free())
    }

    /// Reads the head doorbell.
    pub(crate) fn look(
        &mut self,
        page: &DoorbellPage,
        memory: &HostMemory,
    ) -> Result<(), BadDoorbell> {
        let value = self.doorbell.read(page, memory, self.head);
        if value == self.head {
            return Ok(());
        }
        let posted = distance(self.head, self.tail, self.size);
        if value >= self.size || distance(self.head, value, self.size) > posted {
            return self.doorbell.refuse(value);
        }
        // The host has read the entries that are overwritten now.
        self.head = value;
        self.doorbell.refused = None;
        Ok(())
    }

    /// Posts a completion, for which there is room; false where host memory cannot be reached (TGT-6).
    #[inline]
    pub(crate) fn post(&mut self, memory: &HostMemory, answer: &Answer) -> bool {
        debug_assert!(self.free() > 0, "posting needs room");
        let entry = self.entry(answer);
        self.put(memory, entry)
    }

    /// The entry that `answer` is at the tail.
    #[inline]
    pub(crate) fn entry(&self, answer: &Answer) -> [u64; 2] {
        let entry = Cqe {
            dw0: answer.result as u32,
            dw1: (answer.result >> 32) as u32,
            sqhd: answer.sqhd,
            sqid: answer.sqid,
            cid: answer.cid,
            status: StatusField::new(answer.status, self.phase),
        };
        entry.to_words()
    }

    /// Writes an entry at the tail, and goes on to the next one.
    #[inline]
    pub(crate) fn put(&mut self, memory: &HostMemory, entry: [u64; 2]) -> bool {
        let written = self.ring.write_entry(memory, self.tail, entry);
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase = !self.phase;
        }
        self.posted = true;
        written
    }

    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// What stands at the tail; `None` where that is not mapped.
    pub(crate) fn peek(&self, memory: &HostMemory) -> Option<[u64; 2]> {
        self.ring.read_words(memory, self.tail)
    }

    /// Writes the entry at `index` once more.
    pub(crate) fn rewrite(&mut self, memory: &HostMemory, index: u32, entry: [u64; 2]) -> bool {
        self.ring.write_entry(memory, index, entry)
    }
}

/// How far it is from `from` forward to `to` in a ring of `size`; both are below it.
#[inline]
fn distance(from: u32, to: u32, size: u32) -> u32 {
    if to >= from { to - from } else { to + size - from }
}

#[cfg(test)]
mod tests;
