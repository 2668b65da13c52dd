//! Where a plan of faults gets at the controller: fetching, completing, registers, replies.
//!
//! Everything here runs only while there is a plan. Commands are then taken one at a time, which is slower and shows
//! the same to a host as long as no rule picks anything.

use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::status::Status;

use super::io_command::{Io, Prps};
use super::queue::{Answer, CompletionQueue};
use super::{BURST, Controller};
use crate::fault::Plan;
use crate::fault::act::Delivery;
use crate::fault::held::{BEHIND, Held, LateWrite, Until, Withheld};
use crate::fault::state::{self, Faults, Verdict};

/// A plan at work in a controller.
pub(super) struct Troubled {
    pub(super) plan: Faults,
    withheld: Withheld,
    /// The controller has vanished for good.
    vanished: bool,
    /// The admin command fetched last.
    admin: Sqe,
    /// Entries of which only the phase has been written: completion queue, place, entry.
    halves: Vec<(u16, u32, [u64; 2])>,
}

impl Troubled {
    fn new(plan: Plan) -> Self {
        let (plan, withheld) = (Faults::new(plan), Withheld::default());
        Self { plan, withheld, vanished: false, admin: Sqe::new(0), halves: Vec::new() }
    }

    /// What a Controller Reset clears. What the registers were told late stays.
    pub(super) fn reset(&mut self) {
        self.withheld.completions.clear();
        self.halves.clear();
    }

    /// Entries of a completion queue that held completions will need.
    pub(super) fn held_for(&self, cqid: u16) -> u32 {
        self.withheld.held_for(cqid)
    }

    fn hold(&mut self, until: Until, cqid: u16, answer: Answer) {
        self.withheld.completions.push(Held { until, cqid, answer });
    }
}

impl Controller {
    /// Misbehaves from now on as `plan` says, or not any more. Completions that the plan before held back are lost; a
    /// controller that had vanished is there again, as after power on.
    pub fn set_faults(&mut self, plan: Option<Plan>) {
        let vanished = self.faults.as_ref().is_some_and(|faults| faults.vanished);
        self.faults = plan.map(|plan| Box::new(Troubled::new(plan)));
        if vanished {
            self.reset();
        }
    }

    /// Whether the controller has vanished.
    pub(super) fn vanished(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.vanished)
    }

    /// Lets what was decided about the whole controller happen; true where that was its end.
    fn meet_fate(&mut self) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        let fate = faults.plan.fate();
        if fate.vanish {
            faults.vanished = true;
            self.running = false;
        }
        if fate.fatal {
            self.fail();
        }
        fate.vanish || fate.fatal
    }

    /// Does what has become due; returns how much that was.
    pub(super) fn poll_faults(&mut self) -> usize {
        let mut count = 0;
        while let Some(write) =
            self.faults.as_mut().and_then(|faults| faults.withheld.due_write(self.core.now))
        {
            self.write_register(write.at, write.value);
            count += 1;
        }
        if !self.running {
            return count;
        }
        let Some(faults) = &mut self.faults else { return count };
        for (cqid, at, words) in std::mem::take(&mut faults.halves) {
            if let Some(completion) = self.queues.completion(cqid) {
                // Unreachable memory would have shown when the first half was written.
                completion.rewrite(&self.memory, at, words);
                count += 1;
            }
        }
        let now = self.core.now;
        let due = |held: &Held| match held.until {
            Until::Time(time) | Until::Next(time) => time <= now,
            Until::Abort => false,
        };
        while let Some(held) = self.faults.as_mut().and_then(|faults| faults.withheld.release(due))
        {
            self.post_held(&held);
            count += 1;
        }
        count
    }

    fn post_held(&mut self, held: &Held) {
        let Some(completion) = self.queues.completion(held.cqid) else { return };
        if completion.free() == 0 {
            return;
        }
        let reachable = completion.post(&self.memory, &held.answer);
        self.queues.signals |= completion.vector.is_some();
        if !reachable {
            self.fail();
        }
    }

    /// Takes commands of one I/O submission queue, one after another.
    #[cold]
    pub(super) fn poll_io_faulty(&mut self, at: usize) -> usize {
        let mut taken = 0;
        while taken < BURST && self.running {
            let Some(faults) = &mut self.faults else { break };
            let Some((submission, completions)) = self.queues.io_queue(at) else { break };
            if submission.look(&self.doorbells, &self.memory).is_err() {
                self.core.bad_doorbell_value();
                break;
            }
            let (sqid, cqid) = (submission.id, submission.cqid);
            let completion = completions.get_mut(usize::from(cqid)).and_then(Option::as_mut);
            let Some(completion) = completion else { break };
            if submission.waiting() == 0 {
                break;
            }
            // What is held back will need room as well.
            let want = faults.held_for(cqid) + 1;
            match completion.room(want, &self.doorbells, &self.memory) {
                Ok(room) if room >= want => {}
                Ok(_) => break,
                Err(_) => {
                    self.core.bad_doorbell_value();
                    break;
                }
            }
            let Some(words) = submission.ring.read_entry(&self.memory, submission.head) else {
                self.fail();
                break;
            };
            submission.head = submission.next(submission.head);
            taken += 1;
            let sqe = Sqe::from_words(words);
            let sqhd = submission.head as u16;
            let mut answer =
                Answer { sqid, sqhd, cid: sqe.cid(), status: Status::SUCCESS, result: 0 };
            match faults.plan.command(sqid, &sqe) {
                Verdict::Lose => {
                    self.meet_fate();
                    continue;
                }
                Verdict::Hang => {
                    self.hang(cqid, answer);
                    continue;
                }
                Verdict::Answer(status, result) => {
                    (answer.status, answer.result) = (status, result)
                }
                Verdict::Proceed(fault) => {
                    let mut io = Io {
                        data: Prps {
                            memory: &self.memory,
                            page_shift: self.page_shift,
                            pieces: &mut self.pieces,
                        },
                        slots: &self.core.namespaces,
                        max_bytes: self.core.max_bytes(),
                        write_through: !self.core.features.write_cache,
                        bounce: &mut self.bounce,
                        counters: &mut self.core.counters,
                    };
                    answer.status = match fault {
                        None => io.execute(&sqe),
                        Some(fault) => io.execute_badly(&sqe, &fault),
                    };
                    if !answer.status.is_success() {
                        answer.status = self.core.errors.record(sqid, &sqe, answer.status);
                    }
                }
            }
            self.post_faulty(cqid, &sqe, answer);
        }
        taken
    }

    fn hang(&mut self, cqid: u16, answer: Answer) {
        if let Some(faults) = &mut self.faults {
            let answer = Answer { status: Status::ABORTED_BY_REQUEST, ..answer };
            faults.hold(Until::Abort, cqid, answer);
        }
    }

    /// An admin command was fetched; whether it is to be carried out.
    #[cold]
    pub(super) fn admin_fetched(&mut self, sqe: &Sqe) -> bool {
        let Some(faults) = &mut self.faults else { return true };
        faults.admin = *sqe;
        let verdict = faults.plan.command(0, sqe);
        match verdict {
            Verdict::Proceed(_) => return true,
            Verdict::Lose => {
                self.meet_fate();
            }
            Verdict::Hang => {
                let sqhd = self.queues.admin().map_or(0, |(submission, _)| submission.head as u16);
                let status = Status::SUCCESS;
                self.hang(0, Answer { sqid: 0, sqhd, cid: sqe.cid(), status, result: 0 });
            }
            Verdict::Answer(status, result) => self.complete(sqe.cid(), status, result),
        }
        false
    }

    /// Posts the completion of an admin command, or not.
    #[cold]
    pub(super) fn complete_faulty(&mut self, answer: Answer) {
        let Some(faults) = &self.faults else { return };
        // Beside the command just fetched, only event requests end.
        let sqe = if faults.admin.cid() == answer.cid {
            faults.admin
        } else {
            Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0).with_cid(answer.cid)
        };
        self.post_faulty(0, &sqe, answer);
    }

    fn post_faulty(&mut self, cqid: u16, sqe: &Sqe, mut answer: Answer) {
        let Some(faults) = &mut self.faults else { return };
        let delivery = faults.plan.completion(sqe, &mut answer);
        if self.meet_fate() {
            return;
        }
        let now = self.core.now;
        let Some(faults) = &mut self.faults else { return };
        let Some(completion) = self.queues.completion(cqid) else { return };
        let mut hold = |until| faults.hold(until, cqid, answer);
        let memory = &self.memory;
        let reachable = match delivery {
            Delivery::Lost => return,
            Delivery::Delayed(by) => return hold(Until::Time(now.saturating_add(by))),
            Delivery::Behind => return hold(Until::Next(now.saturating_add(BEHIND))),
            Delivery::Normal => completion.post(memory, &answer),
            Delivery::Twice => {
                let reachable = completion.post(memory, &answer);
                if completion.free() > faults.held_for(cqid) {
                    reachable && completion.post(memory, &answer)
                } else {
                    faults.plan.delivered_once();
                    reachable
                }
            }
            Delivery::WrongPhase => {
                let [low, high] = completion.entry(&answer);
                completion.put(memory, [low, high ^ Cqe::PHASE_BIT])
            }
            Delivery::Halves => {
                let (at, whole) = (completion.tail(), completion.entry(&answer));
                let before = completion.peek(memory);
                faults.halves.push((cqid, at, whole));
                before.is_some_and(|before| completion.put(memory, state::half(before, whole)))
            }
            Delivery::Rewritten => {
                let other = Answer { cid: !answer.cid, ..answer };
                faults.halves.push((cqid, completion.tail(), completion.entry(&other)));
                completion.post(memory, &answer)
            }
            Delivery::Flood => flood(completion, memory, &answer),
        };
        self.queues.signals |= completion.vector.is_some();
        if !reachable {
            self.fail();
        }
        let behind = |held: &Held| held.cqid == cqid && matches!(held.until, Until::Next(_));
        while let Some(held) =
            self.faults.as_mut().and_then(|faults| faults.withheld.release(behind))
        {
            self.post_held(&held);
        }
    }

    /// Ends a command that was held back, because it is aborted; false where there is none.
    pub(super) fn abort_held(&mut self, sqid: u16, cid: u16) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        let target = |held: &Held| held.answer.sqid == sqid && held.answer.cid == cid;
        let Some(mut held) = faults.withheld.release(target) else { return false };
        held.answer.status = Status::ABORTED_BY_REQUEST;
        self.post_held(&held);
        true
    }

    /// Ends the commands of a submission queue that were held back, because it is deleted (TGT-4).
    pub(super) fn end_held(&mut self, sqid: u16) {
        let of_queue = |held: &Held| held.answer.sqid == sqid;
        while let Some(mut held) =
            self.faults.as_mut().and_then(|faults| faults.withheld.release(of_queue))
        {
            if held.until == Until::Abort {
                held.answer.status = Status::ABORTED_SQ_DELETION;
            }
            self.post_held(&held);
        }
    }

    /// The dword of a register, which holds `value`, as it is read.
    #[cold]
    pub(super) fn read_faulty(&mut self, at: u64, value: u32) -> u32 {
        let Some(faults) = &mut self.faults else { return value };
        if faults.vanished {
            return u32::MAX;
        }
        let shown = faults.plan.read(at, value);
        match self.meet_fate() {
            // Seen at once by the read that brought it about.
            true => {
                let now = self.registers.read(at);
                if self.vanished() { u32::MAX } else { now }
            }
            false => shown,
        }
    }

    /// A register is written; whether that takes effect now.
    #[cold]
    pub(super) fn written(&mut self, at: u64, value: u32) -> bool {
        let now = self.core.now;
        let Some(faults) = &mut self.faults else { return true };
        if faults.vanished {
            return false;
        }
        let late = faults.plan.write(at, value);
        if let Some(by) = late.filter(|by| *by != Duration::ZERO) {
            faults.withheld.writes.push(LateWrite { due: now.saturating_add(by), at, value });
        }
        !self.meet_fate() && late == Some(Duration::ZERO)
    }

    /// A function level reset is asked for; whether it takes effect.
    pub(super) fn resettable(&mut self) -> bool {
        match &mut self.faults {
            Some(faults) => !faults.vanished && faults.plan.function_reset(),
            None => true,
        }
    }
}

fn flood(
    completion: &mut CompletionQueue,
    memory: &crate::memory::HostMemory,
    answer: &Answer,
) -> bool {
    (0..completion.size()).all(|_| {
        let words = completion.entry(answer);
        completion.put(memory, words)
    })
}
