//! What a queue does about commands that do not complete: it notices, has its transport do something, and ends them.
//!
//! Costs the I/O path nothing: every [`LOOK_EVERY`] rounds the queue looks at the clock, and four times in a time-out it
//! looks through its slots. A command that has stood there since the fourth look back is overdue, so that it is found
//! between one time-out and one and a quarter after it was sent. What is done about it, and in which order, is the
//! transport's business; here every command in flight ends exactly once, whatever that is.

use std::time::Duration;

use doorbell_spec::status::Status;

use super::{Done, Queue, Ticket};
use crate::transport::{Completion, Condition, Outcome, Transport, Trouble, Violation};

/// Rounds between two looks.
const LOOK_EVERY: u32 = 64;
/// Looks through all slots in one time-out.
const SWEEPS: u8 = 4;

/// What was seen of a slot: the command, and at how many looks in a row.
#[derive(Clone, Copy, Default)]
struct Seen {
    cid: u16,
    times: u8,
}

/// How far a queue has looked.
pub(super) struct Watch {
    /// Rounds until the queue is attended to: until the next look, or one.
    pub(super) rounds: u32,
    /// Rounds until the next look, beyond those.
    later: u32,
    /// Commands in flight longer than this are overdue.
    pub(super) timeout: Duration,
    next_sweep: Duration,
    /// By slot; made at the first sweep.
    seen: Box<[Seen]>,
    /// Completions at the last sweep.
    completions: u64,
    /// The ring had no room although nothing is in flight: the controller does not say what it has fetched.
    pub(super) stuck: bool,
    /// What was in flight has ended, and the transport cannot be used yet.
    pub(super) lost: bool,
}

impl Watch {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            rounds: LOOK_EVERY,
            later: 0,
            timeout,
            next_sweep: Duration::ZERO,
            seen: Box::default(),
            completions: 0,
            stuck: false,
            lost: false,
        }
    }

    /// The queue is to be attended to at the end of this round. One countdown for both spares a test in each.
    pub(super) fn hurry(&mut self) {
        self.later += self.rounds.saturating_sub(1);
        self.rounds = 1;
    }

    /// Whether it is time for a look; if not, but no rounds are left, the queue goes on with those put off.
    pub(super) fn is_due(&mut self) -> bool {
        if self.rounds == 0 {
            self.rounds = std::mem::take(&mut self.later);
        }
        self.rounds == 0
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.seen)
    }
}

impl<T: Transport> Queue<T> {
    /// Sees to it that nothing waits for ever. At the end of a round, or after a violation.
    #[cold]
    #[inline(never)]
    pub(super) fn look(&mut self) {
        (self.watch.rounds, self.watch.later) = (LOOK_EVERY, 0);
        let mut trouble = match self.failure {
            Some(Violation::Ended) => return,
            Some(_) => Trouble::Violated,
            None => self.sweep(),
        };
        // Lost, then renewed; each once at most.
        for _ in 0..3 {
            match self.transport.tend(std::mem::replace(&mut trouble, Trouble::None)) {
                Condition::Same => return,
                Condition::Lost => self.lose(),
                Condition::Renewed => self.renew(),
                Condition::Ended => return self.end(),
            }
        }
    }

    /// Looks through the slots, if it is time.
    fn sweep(&mut self) -> Trouble {
        let (_, completions) = self.slots.totals();
        if self.gate.is_closed() {
            // Nothing is overdue where nothing is processed.
            self.watch.next_sweep = Duration::ZERO;
            return Trouble::Paused;
        }
        if self.slots.in_flight() == 0 || self.watch.lost {
            self.watch.next_sweep = Duration::ZERO;
            let stuck = std::mem::take(&mut self.watch.stuck) && !self.watch.lost;
            return if stuck { Trouble::Violated } else { Trouble::None };
        }
        let now = self.clock.now();
        let interval = self.watch.timeout / u32::from(SWEEPS);
        if self.watch.next_sweep == Duration::ZERO {
            // The first commands after a quiet time: they are seen from here on.
            self.watch.next_sweep = now + interval;
            self.watch.completions = completions;
            if self.watch.seen.is_empty() {
                self.watch.seen = vec![Seen::default(); self.slots.depth()].into();
            }
            self.watch.seen.fill(Seen::default());
            self.slots.each_in_flight(|index, cid| {
                if let Some(seen) = self.watch.seen.get_mut(index) {
                    *seen = Seen { cid, times: 1 };
                }
            });
            return Trouble::None;
        }
        if now < self.watch.next_sweep {
            return Trouble::None;
        }
        self.watch.next_sweep = now + interval;
        let mut overdue = None;
        let mut present = vec![false; self.slots.depth()];
        self.slots.each_in_flight(|index, cid| {
            let (Some(seen), Some(here)) = (self.watch.seen.get_mut(index), present.get_mut(index))
            else {
                return;
            };
            *here = true;
            if seen.times == 0 || seen.cid != cid {
                *seen = Seen { cid, times: 1 };
            } else if seen.times <= SWEEPS {
                seen.times += 1;
            }
            if seen.times > SWEEPS && overdue.is_none() {
                // One more time-out for what is done about it.
                seen.times = 1;
                overdue = Some(cid);
            }
        });
        for (seen, here) in self.watch.seen.iter_mut().zip(present) {
            if !here {
                seen.times = 0;
            }
        }
        let stalled = std::mem::replace(&mut self.watch.completions, completions) == completions;
        match overdue {
            Some(cid) => Trouble::Overdue { cid },
            None if stalled => Trouble::Stalled,
            None => Trouble::None,
        }
    }

    /// Nothing in flight completes any more: takes what had completed before, and ends the rest.
    fn lose(&mut self) {
        if self.failure.take().is_some() {
            // Nothing that is left in the ring can be believed.
            self.slots.reopen();
        } else {
            for _ in 0..self.slots.depth() {
                let Ok(Some(completion)) = self.transport.next() else { break };
                self.finish(completion);
            }
        }
        let mut cids = Vec::with_capacity(self.slots.in_flight());
        self.slots.each_in_flight(|_, cid| cids.push(cid));
        for cid in cids {
            let (status, outcome) = (Status::ABORTED_BY_HOST, Outcome::Indeterminate);
            self.finish(Completion { cid, status, result: 0, outcome });
        }
        self.slots.close();
        self.watch.lost = true;
        self.lost += 1;
        self.attend();
    }

    fn finish(&mut self, completion: Completion) {
        let Some((slot, taken)) = self.slots.complete(completion.cid) else { return };
        if let Some((ticket, done)) = self.complete_slowly(slot, taken, completion) {
            self.keep(ticket, done);
        }
    }

    /// The transport is as new.
    fn renew(&mut self) {
        self.slots.reopen();
        self.watch.lost = false;
        self.watch.stuck = false;
        self.watch.next_sweep = Duration::ZERO;
        self.pump();
        self.transport.ring();
    }

    /// There will be no transport any more.
    fn end(&mut self) {
        if !self.watch.lost {
            self.lose();
        }
        self.fail(Violation::Ended);
        for (index, done) in self.operations.give_up() {
            self.keep(Ticket::Operation(index), done);
        }
    }

    /// Takes the completion of `ticket` out of those kept back, where it has been ended.
    pub(super) fn take_kept(&mut self, ticket: Ticket) -> Option<Done> {
        if let Ticket::Command(cid) = ticket
            && self.slots.holds(cid)
        {
            return None;
        }
        // The newest: identifiers come round.
        let at = self.kept.iter().rposition(|(kept, _)| *kept == ticket)?;
        let (_, done) = self.kept.remove(at)?;
        self.attend();
        Some(done)
    }

    /// The transport, to be changed.
    pub(crate) fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Whether a command that found no room may find some now.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.idle() != 0 && !self.gate.is_closed()
    }

    /// Goes on with another transport: everything in flight ends, and what comes now goes there.
    pub(crate) fn replace(&mut self, transport: T) {
        self.lose();
        self.transport = transport;
        self.renew();
    }

    /// Ends everything in flight, and takes no more.
    pub(crate) fn give_up(&mut self) {
        self.end();
    }
}
