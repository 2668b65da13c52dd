//! Operations: reads, writes and the like that one command cannot carry, as a run of commands with one completion.

use std::collections::VecDeque;

use doorbell_spec::command::Sqe;
use doorbell_spec::status::Status;

use super::io::{Done, Extent, Io};
use crate::memory::Buffer;
use crate::transport::{Completion, Data, Handling, Outcome};

/// One command of an operation.
pub(super) struct Part {
    pub(super) command: Sqe,
    pub(super) data: Data,
    /// As of [`Extent`].
    pub(super) made: u32,
}

struct Operation {
    buffer: Option<Buffer>,
    tag: u64,
    command: Sqe,
    extent: Extent,
    /// Blocks of `extent` for which a command has been staged.
    sent: u64,
    in_flight: u32,
    /// The failure at the lowest address, and where the command that failed began.
    failure: Option<(u64, Status)>,
    result: u64,
    /// A part has been completed by the controller; and the worst that became of one.
    completed: bool,
    worst: Outcome,
    abandoned: bool,
}

impl Operation {
    /// Blocks that the next command can carry.
    fn next_blocks(&self, max_transfer: usize) -> u64 {
        let Extent { blocks, block_shift, boundary, max_blocks, .. } = self.extent;
        let lba = self.command.slba();
        let left = blocks - self.sent;
        let mut count = left.min(u64::from(max_blocks));
        if self.buffer.is_some() {
            count = count.min((max_transfer >> block_shift) as u64);
        }
        if boundary != 0 {
            let boundary = u64::from(boundary);
            let to_boundary = boundary - ((lba + self.sent) & (boundary - 1));
            // A limit smaller than the boundary divides it evenly, or commands would be cut twice.
            count = count.min(to_boundary);
        }
        count
    }

    /// What became of the whole: as of its worst part, but where one was not sent and another carried out, nobody can say
    /// more than that it is indeterminate.
    fn outcome(&self) -> Outcome {
        match self.worst {
            Outcome::NotSent if self.completed => Outcome::Indeterminate,
            worst => worst,
        }
    }

    /// Its completion, if somebody waits for it.
    fn end(self) -> Option<Done> {
        let done = Done {
            tag: self.tag,
            status: self.failure.map_or(Status::SUCCESS, |(_, status)| status),
            result: self.result,
            outcome: self.outcome(),
            buffer: self.buffer,
        };
        (!self.abandoned).then_some(done)
    }

    fn finished(&self) -> bool {
        self.in_flight == 0 && (self.failure.is_some() || self.sent == self.extent.blocks)
    }
}

/// The operations of a queue that have begun and not completed.
pub(super) struct Operations {
    slots: Box<[Option<Operation>]>,
    /// Those with commands still to be staged, oldest first; each at most once.
    waiting: VecDeque<u16>,
    max_transfer: usize,
}

impl Operations {
    /// Room for `count` operations at once, whose commands carry `max_transfer` bytes.
    pub(super) fn new(count: u16, max_transfer: usize) -> Self {
        Self {
            slots: (0..count).map(|_| None).collect(),
            waiting: VecDeque::with_capacity(usize::from(count)),
            max_transfer,
        }
    }

    /// Begins an operation over the extent of `io`. Gives it back if there is no room.
    pub(super) fn begin(&mut self, io: Io) -> Result<u16, Io> {
        let Some(index) = self.slots.iter().position(Option::is_none) else { return Err(io) };
        let operation = Operation {
            buffer: io.buffer,
            tag: io.tag,
            command: io.command,
            extent: io.extent,
            sent: 0,
            in_flight: 0,
            failure: None,
            result: 0,
            completed: false,
            worst: Outcome::Completed,
            abandoned: false,
        };
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(operation);
        }
        let index = index as u16;
        self.waiting.push_back(index);
        Ok(index)
    }

    /// The operation whose turn it is to stage a command.
    pub(super) fn turn(&self) -> Option<u16> {
        self.waiting.front().copied()
    }

    /// The next command of operation `index`.
    pub(super) fn next_part(&self, index: u16) -> Option<Part> {
        let operation = self.slots.get(usize::from(index))?.as_ref()?;
        let count = operation.next_blocks(self.max_transfer);
        let offset = operation.sent << operation.extent.block_shift;
        let command = operation
            .command
            .with_slba(operation.command.slba() + operation.sent)
            .with_nlb_z((count.max(1) - 1) as u16);
        let data = match &operation.buffer {
            Some(buffer) => Data {
                iova: buffer.iova() + offset,
                // Inside the buffer: the extent was reckoned from its length.
                base: buffer.base().as_ptr().wrapping_add(offset as usize),
                len: (count << operation.extent.block_shift) as usize,
                handling: Handling::Exact,
            },
            None => Data::NONE,
        };
        Some(Part { command, data, made: operation.extent.made })
    }

    /// The command that [`next_part`](Self::next_part) gave has been staged.
    pub(super) fn staged(&mut self, index: u16) {
        let max_transfer = self.max_transfer;
        let Some(Some(operation)) = self.slots.get_mut(usize::from(index)) else { return };
        operation.sent += operation.next_blocks(max_transfer);
        operation.in_flight += 1;
        self.waiting.pop_front();
        // Operations take turns, so that a long one does not hold up a short one.
        if operation.sent < operation.extent.blocks {
            self.waiting.push_back(index);
        }
    }

    /// No further command of operation `index` may be sent. Returns the whole, if that ends it.
    pub(super) fn refuse(&mut self, index: u16) -> Option<Done> {
        self.waiting.retain(|&waiting| waiting != index);
        let slot = self.slots.get_mut(usize::from(index))?;
        let operation = slot.as_mut()?;
        operation.worst = operation.worst.max(Outcome::NotSent);
        operation.failure.get_or_insert((operation.sent, Status::ABORTED_BY_HOST));
        if operation.in_flight != 0 {
            return None;
        }
        slot.take().and_then(Operation::end)
    }

    /// A command of operation `index` that began `began` blocks into it has completed. Returns the whole, if this ends it.
    pub(super) fn completed(
        &mut self,
        index: u16,
        began: u64,
        completion: Completion,
    ) -> Option<Done> {
        let Completion { status, result, outcome, .. } = completion;
        let slot = self.slots.get_mut(usize::from(index))?;
        let operation = slot.as_mut()?;
        operation.in_flight = operation.in_flight.saturating_sub(1);
        operation.result = result;
        operation.completed |= outcome == Outcome::Completed;
        operation.worst = operation.worst.max(outcome);
        if !status.is_success() && operation.failure.is_none_or(|(lowest, _)| began < lowest) {
            operation.failure = Some((began, status));
            // What has not been sent will not be.
            self.waiting.retain(|&waiting| waiting != index);
        }
        if !operation.finished() {
            return None;
        }
        slot.take().and_then(Operation::end)
    }

    /// Ends all that are left, none of which has a command in flight.
    pub(super) fn give_up(&mut self) -> Vec<(u16, Done)> {
        self.waiting.clear();
        let begun = (0u16..).zip(self.slots.iter_mut());
        begun
            .filter_map(|(index, slot)| {
                let operation = slot.take()?;
                let outcome =
                    if operation.sent == 0 { Outcome::NotSent } else { Outcome::Indeterminate };
                let done = Done {
                    tag: operation.tag,
                    status: Status::ABORTED_BY_HOST,
                    result: operation.result,
                    outcome,
                    buffer: operation.buffer,
                };
                (!operation.abandoned).then_some((index, done))
            })
            .collect()
    }

    /// Blocks of operation `index` that have been sent: where its next command begins.
    pub(super) fn position(&self, index: u16) -> u64 {
        self.slots
            .get(usize::from(index))
            .and_then(Option::as_ref)
            .map_or(0, |operation| operation.sent)
    }

    /// Nobody waits for operation `index` any more. What has been sent keeps the buffer until it completes.
    pub(super) fn abandon(&mut self, index: u16) {
        self.waiting.retain(|&waiting| waiting != index);
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        if let Some(operation) = slot {
            operation.abandoned = true;
            operation.extent.blocks = operation.sent;
            if operation.in_flight == 0 {
                *slot = None;
            }
        }
    }

    /// Whether commands wait to be staged.
    pub(super) fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Operations begun and not completed.
    pub(super) fn count(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_some()).count()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + self.waiting.capacity() * size_of::<u16>()
    }
}
