//! A queue: command slots, the buffers in flight, and the way in and out.
//!
//! Owned by one thread at a time (`Send`, not `Sync`), so the I/O path needs no lock and no atomic. A command's buffer
//! belongs to its slot from [`Queue::stage`] to its completion; nothing the caller drops frees memory that the device
//! may still reach.

mod counters;
mod gate;
mod io;
mod ladder;
mod mailbox;
mod operations;
mod recovery;
mod retry;
mod run;
mod shared;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use self::counters::Counters;
pub(crate) use self::gate::Gate;
pub use self::io::{Done, Invalid, Io, Reason, Rejected};
pub(crate) use self::io::{Extent, Kind};
use self::ladder::Ladder;
pub(crate) use self::ladder::Steps;
pub use self::mailbox::{Mailbox, Reply, Sender, Served};
use self::operations::Operations;
use self::recovery::Watch;
pub use self::retry::Retries;
pub use self::shared::{Pending, SharedQueue};
use self::slots::{Holder, Slots, Taken};
use crate::clock::Clock;
use crate::memory::Buffer;
use crate::transport::pcie::prp;
use crate::transport::{Any, Completion, Data, Handling, Transport, Violation};

/// In the tag of a part of an operation: the operation's index, above the blocks that came before the part.
const PART_SHIFT: u32 = 48;

/// What a staged command is known by inside the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticket {
    Command(u16),
    Operation(u16),
}

/// One submission and completion queue pair.
///
/// # Stage, ring, poll
/// [`stage`](Queue::stage) writes a command into the ring, [`ring`](Queue::ring) tells the device of all that were
/// staged, [`poll`](Queue::poll) hands out what has completed. [`run`](Queue::run) does all three for one command.
///
/// # Dropping
/// Deletes the queue on the device first; buffers in flight return to their pool after that.
pub struct Queue<T: Transport = Any> {
    transport: T,
    slots: Slots,
    max_transfer: usize,
    /// Whose queue it is: the memory of its controller, which the transport keeps alive. Only ever compared.
    home: usize,
    gate: Arc<Gate>,
    /// Something other than completions asks for the poller: completions kept back, operations waiting, a failure.
    attention: bool,
    operations: Operations,
    /// Completions that arrived while [`Queue::run`] waited for another.
    kept: VecDeque<(Ticket, Done)>,
    failure: Option<Violation>,
    divided: u64,
    strays: u64,
    violations: u64,
    /// Times that everything in flight was ended.
    lost: u64,
    retries: Retries,
    /// What the controller means by its delays 1 to 3 (CRDT).
    delays: [Duration; 3],
    retried: u64,
    watch: Watch,
    ladder: Option<Box<Ladder>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl<T: Transport> Queue<T> {
    /// Operations of several commands that can be under way at once.
    const OPERATIONS: u16 = 64;

    /// A queue over `transport` for namespaces of the controller whose memory is `home`, and for buffers of that memory; for
    /// any buffer, if the transport is not direct.
    pub(crate) fn new(transport: T, home: usize, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self::behind(Arc::default(), transport, home, clock, timeout)
    }

    /// The same behind the `gate` of its controller.
    pub(crate) fn behind(
        gate: Arc<Gate>,
        transport: T,
        home: usize,
        clock: Arc<dyn Clock>,
        timeout: Duration,
    ) -> Self {
        let limits = transport.limits();
        let operations = limits.depth.min(Self::OPERATIONS);
        Self {
            slots: Slots::new(limits.depth),
            max_transfer: limits.max_transfer,
            home,
            gate,
            attention: false,
            operations: Operations::new(operations, limits.max_transfer),
            kept: VecDeque::new(),
            failure: None,
            divided: 0,
            strays: 0,
            violations: 0,
            lost: 0,
            retries: Retries::never(),
            delays: [Duration::ZERO; 3],
            retried: 0,
            watch: Watch::new(timeout),
            ladder: None,
            clock,
            timeout,
            transport,
        }
    }

    /// Stages a command: it is in the ring, and the device learns of it with the next [`ring`](Queue::ring).
    ///
    /// Data longer than one command can carry, or across a boundary that the namespace names, go out as several
    /// commands with one completion.
    ///
    /// # Errors
    /// [`Rejected`] gives command and buffer back: the queue is full, or the command cannot be sent at all.
    #[inline(always)]
    pub fn stage(&mut self, io: Io) -> Result<(), Rejected> {
        self.enter(io, |_| ())
    }

    #[inline(always)]
    fn enter<R>(&mut self, io: Io, known_by: impl Fn(Ticket) -> R) -> Result<R, Rejected> {
        // Taken apart before the first branch, and put together again only on the slow ones: what has its address
        // taken on any path lives in memory on all of them.
        let Io { command, buffer, tag, kind, extent } = io;
        'slow: {
            // A transport that is called for it would have what is live here moved out of its way.
            if !self.transport.limits().direct {
                let io = Io { command, buffer, tag, kind, extent };
                return self.enter_by_call(io).map(known_by);
            }
            let Some(memory) = &buffer else { break 'slow };
            if memory.home() != self.home || extent.home != self.home {
                break 'slow;
            }
            if extent.made != self.gate.word() {
                break 'slow;
            }
            let data = Data::of(memory);
            // No data at all wraps, and is too long.
            if data.len.wrapping_sub(1) >= self.max_transfer {
                break 'slow;
            }
            match kind {
                Kind::Blocks => {
                    // At most 32 MiB: no more blocks than a command can say.
                    if extent.is_partial(data.len) || extent.crosses(command.slba()) {
                        break 'slow;
                    }
                }
                Kind::Whole => {}
                Kind::Raw | Kind::Internal | Kind::Invalid(_) => break 'slow,
            }
            let Some(vacancy) = self.slots.vacancy() else { break 'slow };
            let cid = vacancy.cid();
            if self.transport.stage(vacancy.index(), cid, command, data).is_err() {
                break 'slow;
            }
            vacancy.fill(cid, buffer, tag, Holder::Caller);
            return Ok(known_by(Ticket::Command(cid)));
        }
        self.enter_slowly(Io { command, buffer, tag, kind, extent }).map(known_by)
    }

    #[cold]
    fn full(&self, io: Io) -> Rejected {
        let reason = self.failure.map_or(Reason::Full, Reason::Failed);
        Rejected { reason, io }
    }

    #[cold]
    #[inline(never)]
    fn enter_slowly(&mut self, io: Io) -> Result<Ticket, Rejected> {
        self.enter_checked(io)
    }

    /// The same where it is the usual way.
    #[inline(never)]
    fn enter_by_call(&mut self, io: Io) -> Result<Ticket, Rejected> {
        self.enter_checked(io)
    }

    #[inline(always)]
    fn enter_checked(&mut self, mut io: Io) -> Result<Ticket, Rejected> {
        if self.failure.is_some() || self.gate.is_closed() {
            return Err(self.full(io));
        }
        if io.extent.home != 0 && io.extent.home != self.home {
            return Err(Rejected { reason: Invalid::Elsewhere.into(), io });
        }
        if io.extent.made != self.gate.word()
            && matches!(io.kind, Kind::Blocks | Kind::Whole)
            && !self.gate.is_current(io.command.nsid, io.extent.made)
        {
            let nsid = io.command.nsid;
            return Err(Rejected { reason: Invalid::Reformatted { nsid }.into(), io });
        }
        // The device would take the I/O address for one of its own. Over a network there are none.
        let foreign = |buffer: &Buffer| buffer.home() != self.home;
        if self.transport.limits().direct && io.buffer.as_ref().is_some_and(foreign) {
            return Err(Rejected { reason: Reason::Foreign, io });
        }
        let len = io.buffer.as_ref().map_or(0, |buffer| buffer.len());
        let (handling, holder) = match io.kind {
            Kind::Blocks => match io.invalid() {
                Some(why) => return Err(Rejected { reason: why.into(), io }),
                None if io.extent.fits_one(io.command.slba()) && len <= self.max_transfer => {
                    (Handling::Exact, Holder::Caller)
                }
                None => return self.begin(io),
            },
            Kind::Invalid(why) => return Err(Rejected { reason: why.into(), io }),
            Kind::Internal => (Handling::AsGiven, Holder::Caller),
            Kind::Whole | Kind::Raw if len > self.max_transfer => {
                let reason = Reason::TooLong { len, max: self.max_transfer };
                return Err(Rejected { reason, io });
            }
            Kind::Whole => (Handling::Exact, Holder::Caller),
            Kind::Raw => match self.guard_second_page(&mut io) {
                Some(reason) => return Err(Rejected { reason, io }),
                None => (Handling::Guarded, Holder::Raw),
            },
        };
        let data = Data { handling, ..io.buffer.as_ref().map_or(Data::NONE, Data::of) };
        let Some(vacancy) = self.slots.vacancy() else { return Err(self.full(io)) };
        let cid = vacancy.cid();
        if self.transport.stage(vacancy.index(), cid, io.command, data).is_err() {
            self.watch.stuck |= self.slots.in_flight() == 0;
            return Err(self.full(io));
        }
        vacancy.fill(cid, io.buffer, io.tag, holder);
        Ok(Ticket::Command(cid))
    }

    fn begin(&mut self, io: Io) -> Result<Ticket, Rejected> {
        // The first command goes out with the call, so that a full queue is told from the start.
        if self.slots.idle() == 0 {
            return Err(self.full(io));
        }
        let index = self.operations.begin(io).map_err(|io| self.full(io))?;
        self.divided += 1;
        self.pump();
        Ok(Ticket::Operation(index))
    }

    /// Stages commands of operations that wait, while there is room.
    fn pump(&mut self) {
        while let Some(index) = self.operations.turn() {
            if self.gate.is_closed() {
                break;
            }
            let Some(part) = self.operations.next_part(index) else { break };
            if !self.gate.is_current(part.command.nsid, part.made) {
                if let Some(done) = self.operations.refuse(index) {
                    self.keep(Ticket::Operation(index), done);
                }
                continue;
            }
            let Some(vacancy) = self.slots.vacancy() else { break };
            let cid = vacancy.cid();
            if self.transport.stage(vacancy.index(), cid, part.command, part.data).is_err() {
                break;
            }
            let tag = u64::from(index) << PART_SHIFT | self.operations.position(index);
            vacancy.fill(cid, None, tag, Holder::Part);
            self.operations.staged(index);
        }
        self.attend();
    }

    fn attend(&mut self) {
        self.attention =
            self.operations.waiting() || !self.kept.is_empty() || self.failure.is_some();
        if self.attention {
            self.watch.hurry();
        }
    }

    /// A controller that moves more than two pages takes the second for a list of addresses (see
    /// [`Handling::Guarded`]): where it writes there, it must find zeros.
    fn guard_second_page(&self, io: &mut Io) -> Option<Reason> {
        let opcode = io.command.cdw0.opc();
        let (to_controller, from_controller) = (opcode & 1 != 0, opcode & 2 != 0);
        let page = self.transport.limits().page;
        let buffer = io.buffer.as_mut()?;
        let prp::Shape::Two(second) = prp::shape(buffer.iova(), buffer.len(), page) else {
            return None;
        };
        if !from_controller {
            return None;
        }
        if to_controller {
            let what = "a command that moves two pages of data both ways";
            return Some(Invalid::Reserved { what }.into());
        }
        let from = (second - buffer.iova()) as usize;
        buffer.get_mut(from..)?.fill(0);
        None
    }

    /// Tells the device of everything staged: one doorbell.
    #[inline(always)]
    pub fn ring(&mut self) {
        self.transport.ring();
    }

    /// [`stage`](Queue::stage) and [`ring`](Queue::ring).
    ///
    /// # Errors
    /// As [`stage`](Queue::stage).
    #[inline(always)]
    pub fn submit(&mut self, io: Io) -> Result<(), Rejected> {
        self.stage(io)?;
        self.ring();
        Ok(())
    }

    /// Hands every completion that has arrived to `sink`; returns how many.
    ///
    /// Never blocks. Commands of divided operations that found no room before are sent now.
    #[inline(always)]
    pub fn poll(&mut self, mut sink: impl FnMut(Done)) -> usize {
        let mut count = 0;
        if self.attention {
            while let Some(done) = self.reap_kept() {
                count += 1;
                sink(done);
            }
        }
        // Ends: each completion empties a slot, and nothing is staged meanwhile.
        while self.take(|_, done| sink(done)) {
            count += 1;
        }
        count
    }

    /// The next completion that has arrived. The caller may stage commands between calls.
    #[inline(always)]
    pub fn reap(&mut self) -> Option<Done> {
        if self.attention
            && let Some(done) = self.reap_kept()
        {
            return Some(done);
        }
        let mut reaped = None;
        self.take(|_, done| reaped = Some(done));
        reaped
    }

    #[cold]
    fn reap_kept(&mut self) -> Option<Done> {
        let kept = self.kept.pop_front();
        self.attend();
        kept.map(|(_, done)| done)
    }

    /// Hands the next completion from the transport to `sink`, with what it was staged as; false if there is none.
    #[inline(always)]
    fn take(&mut self, sink: impl FnOnce(Ticket, Done)) -> bool {
        let Completion { cid, status, result, outcome } = match self.transport.next() {
            Ok(Some(completion)) => completion,
            Ok(None) => {
                // What asks for attention makes the round its last.
                self.watch.rounds -= 1;
                if self.watch.rounds == 0 {
                    self.attend_to_operations();
                }
                return false;
            }
            Err(violation) => {
                self.violated(violation);
                return false;
            }
        };
        if let Some(slot) = self.slots.complete_callers(cid) {
            let buffer = slot.buffer.take();
            let done = Done { tag: slot.tag, status, result, outcome, buffer };
            sink(Ticket::Command(cid), done);
            return true;
        }
        match self.take_slowly(Completion { cid, status, result, outcome }) {
            Some((ticket, done)) => {
                sink(ticket, done);
                true
            }
            None => false,
        }
    }

    /// The next completion, by value.
    fn take_one(&mut self) -> Option<(Ticket, Done)> {
        let mut taken = None;
        self.take(|ticket, done| taken = Some((ticket, done)));
        taken
    }

    #[cold]
    #[inline(never)]
    fn attend_to_operations(&mut self) {
        if self.watch.is_due() {
            self.look();
        }
        self.pump();
        self.transport.ring();
    }

    /// A completion that is not simply the caller's, and those after it until one is somebody's, or none is left. The
    /// device cannot make the round longer than the queue is deep.
    #[cold]
    #[inline(never)]
    fn take_slowly(&mut self, mut completion: Completion) -> Option<(Ticket, Done)> {
        for _ in 0..self.slots.depth() {
            match self.slots.complete(completion.cid) {
                Some((slot, taken)) => {
                    if let Some(whole) = self.complete_slowly(slot, taken, completion) {
                        return Some(whole);
                    }
                }
                None => self.stray(completion.cid),
            }
            completion = match self.transport.next() {
                Ok(Some(completion)) => completion,
                Ok(None) => {
                    self.attend_to_operations();
                    return None;
                }
                Err(violation) => {
                    self.violated(violation);
                    return None;
                }
            };
        }
        // The last one taken off the ring is not forgotten.
        match self.slots.complete(completion.cid) {
            Some((slot, taken)) => self.complete_slowly(slot, taken, completion),
            None => {
                self.stray(completion.cid);
                None
            }
        }
    }

    #[cold]
    fn complete_slowly(
        &mut self,
        slot: u16,
        taken: Taken,
        completion: Completion,
    ) -> Option<(Ticket, Done)> {
        let Completion { cid, status, result, outcome } = completion;
        match taken.holder {
            Holder::Part => {
                let index = (taken.tag >> PART_SHIFT) as u16;
                let began = taken.tag & ((1 << PART_SHIFT) - 1);
                let done = self.operations.completed(index, began, completion);
                self.attend();
                done.map(|done| (Ticket::Operation(index), done))
            }
            Holder::Abandoned => {
                self.transport.release(slot);
                None
            }
            Holder::Raw | Holder::Caller => {
                self.transport.release(slot);
                let done = Done { tag: taken.tag, status, result, outcome, buffer: taken.buffer };
                Some((Ticket::Command(cid), done))
            }
        }
    }

    #[cold]
    fn stray(&mut self, cid: u16) {
        if self.slots.issued_before(cid) {
            self.strays += 1;
        } else {
            self.violated(Violation::UnknownCommand { cid });
        }
    }

    /// Fails, unless something can be done about it.
    #[cold]
    fn violated(&mut self, violation: Violation) {
        if self.watch.lost {
            // What stands in rings that the controller has forgotten: all that counts is that there are new ones.
            self.look();
        } else if self.failure.is_none() {
            self.violations += 1;
            self.fail(violation);
            self.look();
        }
    }

    #[cold]
    fn fail(&mut self, violation: Violation) {
        self.failure.get_or_insert(violation);
        self.slots.close();
        self.attend();
    }

    /// Commands that can be staged now.
    #[inline]
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.slots.idle()
    }

    /// Commands with the device; a divided operation counts each of its commands.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Commands and operations begun whose completion has not been handed out.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.in_flight() + self.operations.count() + self.kept.len()
    }

    /// Commands that can be in flight at once.
    #[inline]
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.depth()
    }

    /// Bytes one command can carry; longer data are divided.
    #[must_use]
    pub fn max_transfer(&self) -> usize {
        self.max_transfer
    }

    /// Why the queue takes no more commands, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Violation> {
        self.failure
    }

    /// Bytes of memory the queue holds: rings, lists and slots.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.transport.usage().bytes
            + self.slots.bytes()
            + self.operations.bytes()
            + self.watch.bytes()
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The device turned out to carry less than was planned for.
    pub(crate) fn limit_transfer(&mut self, bytes: usize) {
        self.max_transfer = self.max_transfer.min(bytes);
    }

    /// From now on blocking calls send commands again as `retries` says.
    pub(crate) fn retry(&mut self, retries: Retries, delays: [Duration; 3]) {
        (self.retries, self.delays) = (retries, delays);
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

impl<T: Transport> Drop for Queue<T> {
    fn drop(&mut self) {
        // Only after this may the buffers in the slots go back to their pool. Where it fails, the memory behind them
        // has been withdrawn for good by whoever could not end the queue, so that returning them is harmless.
        let _ended = self.transport.close();
    }
}
