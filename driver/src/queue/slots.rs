//! Command slots: who owns what is in flight.
//!
//! The slot index is the low part of the command identifier, a generation the high part, so that a completion that is
//! late, repeated or made up is told from the one that is due (CQ-9).

use crate::memory::Buffer;

/// Whose command a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Holder {
    /// The caller's; its completion is the caller's. 0, so that what completes it is the bare identifier.
    Caller = 0,
    /// A raw command of the caller's, which the transport must be told of.
    Raw = 1 << 16,
    /// Part of an operation: the operation's index is the tag's upper half.
    Part = 2 << 16,
    /// Nobody's any more: the caller has stopped waiting.
    Abandoned = 3 << 16,
}

impl Holder {
    fn of(expected: u32) -> Self {
        match expected >> 16 {
            0 => Self::Caller,
            1 => Self::Raw,
            2 => Self::Part,
            _ => Self::Abandoned,
        }
    }
}

/// One command in flight, in one cache line.
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) buffer: Option<Buffer>,
    pub(super) tag: u64,
    /// The identifier that completes the slot, with a [`Holder`] above it; [`IDLE`] if nothing is in flight.
    expected: u32,
    /// The identifier of the next command.
    next: u16,
    /// The idle slot below this one, while this one is idle itself.
    below: u16,
}

/// No identifier of any holder.
const IDLE: u32 = u32::MAX;

/// The identifier in [`Slot::expected`], if there is one.
fn identifier(expected: u32) -> Option<u16> {
    (expected != IDLE).then_some(expected as u16)
}

/// All slots of a queue.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    /// Top of the stack of idle slots: the one used last, whose lines are warm. No slot's index if there is none.
    top: u16,
    index_mask: u16,
    generation_step: u16,
    filled: u64,
    completed: u64,
    depth: usize,
    /// Where the slots go when the queue has failed: nothing completes any more, and nothing is released.
    closed: Box<[Slot]>,
}

/// An idle slot about to be filled; still idle if dropped.
pub(super) struct Vacancy<'a> {
    slot: &'a mut Slot,
    top: &'a mut u16,
    filled: &'a mut u64,
}

impl Vacancy<'_> {
    #[inline(always)]
    pub(super) fn index(&self) -> u16 {
        *self.top
    }

    /// The identifier of the command that fills it.
    #[inline(always)]
    pub(super) fn cid(&self) -> u16 {
        self.slot.next
    }

    /// `cid` is [`cid`](Self::cid).
    #[inline(always)]
    pub(super) fn fill(self, cid: u16, buffer: Option<Buffer>, tag: u64, holder: Holder) {
        // An idle slot holds no buffer: nothing is lost by not dropping it.
        std::mem::forget(std::mem::replace(&mut self.slot.buffer, buffer));
        self.slot.tag = tag;
        self.slot.expected = u32::from(cid) | holder as u32;
        *self.top = self.slot.below;
        *self.filled += 1;
    }
}

/// What a completed slot held.
pub(super) struct Taken {
    pub(super) buffer: Option<Buffer>,
    pub(super) tag: u64,
    pub(super) holder: Holder,
}

impl Slots {
    /// Below the lowest idle slot: the index of none, as there are at most 65,535.
    const NONE: u16 = u16::MAX;

    pub(super) fn new(depth: u16) -> Self {
        let index_bits = u32::from(depth - 1).checked_ilog2().map_or(0, |bit| bit + 1);
        let slot = |index: u16| Slot {
            buffer: None,
            tag: 0,
            expected: IDLE,
            next: index,
            below: if index + 1 == depth { Self::NONE } else { index + 1 },
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            top: 0,
            index_mask: ((1u32 << index_bits) - 1) as u16,
            // With 65,535 slots nothing is left of 16 bits, and the step is 0.
            generation_step: (1u32 << index_bits) as u16,
            filled: 0,
            completed: 0,
            depth: usize::from(depth),
            closed: Box::default(),
        }
    }

    #[inline(always)]
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Slots with a command in flight; those of a failed queue stay so.
    #[inline(always)]
    pub(super) fn in_flight(&self) -> usize {
        (self.filled - self.completed) as usize
    }

    /// Slots that a command can take.
    #[inline(always)]
    pub(super) fn idle(&self) -> usize {
        if self.closed.is_empty() { self.depth - self.in_flight() } else { 0 }
    }

    /// Commands so far: (begun, completed).
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.filled, self.completed)
    }

    /// The slot that the next command takes.
    #[inline(always)]
    pub(super) fn vacancy(&mut self) -> Option<Vacancy<'_>> {
        let slot = self.slots.get_mut(usize::from(self.top))?;
        Some(Vacancy { slot, top: &mut self.top, filled: &mut self.filled })
    }

    /// Leaves the slot of the caller's command `cid` idle, if that is in flight and nothing but the caller's. The caller
    /// of this takes what is in the slot at once.
    #[inline(always)]
    pub(super) fn complete_callers(&mut self, cid: u16) -> Option<&mut Slot> {
        let index = cid & self.index_mask;
        let slot = self.slots.get_mut(usize::from(index))?;
        if slot.expected != u32::from(cid) {
            return None;
        }
        slot.expected = IDLE;
        slot.next = cid.wrapping_add(self.generation_step);
        slot.below = self.top;
        self.top = index;
        self.completed += 1;
        Some(slot)
    }

    /// Takes what the command `cid` held, whosever it is, if it is in flight.
    pub(super) fn complete(&mut self, cid: u16) -> Option<(u16, Taken)> {
        let index = cid & self.index_mask;
        let slot = self.slots.get_mut(usize::from(index))?;
        if identifier(slot.expected) != Some(cid) {
            return None;
        }
        let holder = Holder::of(slot.expected);
        slot.expected = u32::from(cid);
        let slot = self.complete_callers(cid)?;
        Some((index, Taken { buffer: slot.buffer.take(), tag: slot.tag, holder }))
    }

    /// Whether `cid` is the identifier that its slot used before the one it uses now or will use next.
    pub(super) fn issued_before(&self, cid: u16) -> bool {
        let step = u64::from(self.generation_step.max(1));
        // Before the first generation there was none, until they have come round.
        let come_round = self.filled >= (1 << 16) / step;
        self.slots.get(usize::from(cid & self.index_mask)).is_some_and(|slot| {
            let current = identifier(slot.expected).unwrap_or(slot.next);
            let before = current.wrapping_sub(self.generation_step);
            cid == before && (before < current || come_round)
        })
    }

    /// Hands out no more slots and completes none; those in flight keep their buffers.
    pub(super) fn close(&mut self) {
        self.top = Self::NONE;
        if self.closed.is_empty() {
            self.closed = std::mem::take(&mut self.slots);
        }
    }

    /// Hands slots out again after [`close`](Self::close): those that are idle.
    pub(super) fn reopen(&mut self) {
        if !self.closed.is_empty() {
            self.slots = std::mem::take(&mut self.closed);
        }
        self.top = Self::NONE;
        for (index, slot) in self.slots.iter_mut().enumerate().rev() {
            if slot.expected == IDLE {
                slot.below = self.top;
                self.top = index as u16;
            }
        }
    }

    /// Calls `f` with index and identifier of every command in flight.
    pub(super) fn each_in_flight(&self, mut f: impl FnMut(usize, u16)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(cid) = identifier(slot.expected) {
                f(index, cid);
            }
        }
    }

    /// Whether `cid` is in flight.
    pub(super) fn holds(&self, cid: u16) -> bool {
        let slot = self.slots.get(usize::from(cid & self.index_mask));
        slot.is_some_and(|slot| identifier(slot.expected) == Some(cid))
    }

    /// Nobody waits for `cid` any more; its buffer stays until it completes.
    pub(super) fn abandon(&mut self, cid: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(cid & self.index_mask))
            && identifier(slot.expected) == Some(cid)
        {
            slot.expected = u32::from(cid) | Holder::Abandoned as u32;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

const _: () = assert!(size_of::<Slot>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(slots: &mut Slots) -> u16 {
        let vacancy = slots.vacancy().expect("an idle slot");
        let cid = vacancy.cid();
        vacancy.fill(cid, None, u64::from(cid), Holder::Caller);
        cid
    }

    #[test]
    fn an_identifier_completes_once_and_changes_generation() {
        let mut slots = Slots::new(4);
        let first = fill(&mut slots);
        assert!(slots.complete(first ^ 4).is_none(), "PIT-19: another generation");
        assert_eq!(
            slots.complete(first).map(|(index, taken)| (index, taken.tag)),
            Some((first & 3, u64::from(first)))
        );
        assert!(slots.complete(first).is_none(), "PIT-18: once");
        let second = fill(&mut slots);
        assert_eq!(second & 3, first & 3, "the warm slot is used again");
        assert_ne!(second, first);
        assert!(slots.complete(first).is_none());
        assert!(slots.issued_before(first));
        assert!(!slots.issued_before(second));
    }

    #[test]
    fn identifiers_never_issued_complete_nothing() {
        let mut slots = Slots::new(5);
        for cid in (0..=u16::MAX).step_by(if cfg!(miri) { 97 } else { 1 }) {
            assert!(slots.complete(cid).is_none(), "PIT-16, PIT-17: {cid}");
        }
    }

    #[test]
    fn every_depth_hands_out_each_slot_once() {
        let depths: &[u16] =
            if cfg!(miri) { &[1, 2, 3, 65] } else { &[1, 2, 3, 64, 1000, 4096, u16::MAX] };
        for &depth in depths {
            let mut slots = Slots::new(depth);
            let mut cids: Vec<u16> = (0..depth).map(|_| fill(&mut slots)).collect();
            assert!(slots.vacancy().is_none());
            cids.sort_unstable();
            cids.dedup();
            assert_eq!(cids.len(), usize::from(depth));
            for cid in cids {
                assert!(slots.complete(cid).is_some());
            }
            assert_eq!(slots.idle(), usize::from(depth));
        }
    }

    #[test]
    fn closed_slots_open_again_with_what_they_held() {
        let mut slots = Slots::new(4);
        let held = fill(&mut slots);
        let gone = fill(&mut slots);
        assert!(slots.complete(gone).is_some());
        slots.close();
        assert!(slots.vacancy().is_none() && slots.complete(held).is_none());
        assert_eq!((slots.idle(), slots.in_flight()), (0, 1));
        slots.reopen();
        assert!(slots.holds(held) && !slots.holds(gone));
        let more: Vec<u16> = (0..3).map(|_| fill(&mut slots)).collect();
        assert!(slots.vacancy().is_none() && !more.contains(&held) && !more.contains(&gone));
        assert!(slots.complete(held).is_some());
    }

    #[test]
    fn generations_wrap() {
        let mut slots = Slots::new(2);
        for _ in 0..if cfg!(miri) { 100 } else { 100_000 } {
            let cid = fill(&mut slots);
            assert!(slots.complete(cid).is_some());
        }
    }
}
