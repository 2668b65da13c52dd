//! Where a plan of faults gets at a connection's commands: as they come, at their data, as they are answered, and where
//! they read and write registers.
//!
//! Everything here runs only while there is a plan. A read is then answered by a capsule of its own, which a rule for its
//! completion can pick, and goes out of the connection's buffer.

use std::sync::{Arc, Mutex};

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{ConnectCdw10, Property, property_set};
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::register::{Cc, offset};
use doorbell_spec::status::Status;

use super::connection::{Connection, End, RESERVE};
use super::queue::Queue;
use crate::controller::queue::Answer;
use crate::fabrics::lock;
use crate::fault::act::{DataFault, Delivery};
use crate::fault::held::{BEHIND, Held, LateWrite, Until, Withheld};
use crate::fault::state::{Fate, Faults, Verdict};

/// The plan at work in all connections of a target, and what it holds back in this one.
pub(super) struct Faulty {
    plan: Arc<Mutex<Faults>>,
    /// Commands that have not been answered, and what is wrong with their data.
    commands: Vec<(Sqe, Option<DataFault>)>,
    withheld: Withheld,
}

impl Faulty {
    pub(super) fn new(plan: Arc<Mutex<Faults>>) -> Self {
        Self { plan, commands: Vec::new(), withheld: Withheld::default() }
    }

    fn hold(&mut self, until: Until, answer: Answer) {
        self.withheld.completions.push(Held { until, cqid: answer.sqid, answer });
    }

    fn data_fault(&self, cid: u16) -> Option<&DataFault> {
        let of = |(sqe, _): &&(Sqe, _)| sqe.cid() == cid;
        self.commands.iter().rev().find(of).and_then(|(_, fault)| fault.as_ref())
    }

    /// What of the data of a read is sent, of `portion` bytes that begin at byte `done` and are the last ones or not: how
    /// many bytes, and whether they are the last ones.
    pub(super) fn shorten(&self, cid: u16, done: u64, portion: usize, last: bool) -> (usize, bool) {
        match self.data_fault(cid) {
            Some(DataFault::Short(bytes)) if *bytes as u64 <= done + portion as u64 => {
                ((*bytes as u64).saturating_sub(done) as usize, true)
            }
            _ => (portion, last),
        }
    }

    /// Carries out a part of a command, or all of it, whose data begin at byte `at` of it.
    pub(super) fn execute(
        &self,
        queue: &mut Queue,
        sqe: &Sqe,
        at: u64,
        part: Option<u32>,
        bytes: &mut [u8],
    ) -> Status {
        let fault = match self.data_fault(sqe.cid()) {
            // What is read is all there; less of it is sent.
            Some(DataFault::Short(_)) if sqe.opcode() == NvmOpcode::READ.0 => None,
            Some(DataFault::Short(moved)) => {
                Some(DataFault::Short((*moved as u64).saturating_sub(at) as usize))
            }
            Some(DataFault::Corrupt(from, flip)) => {
                let (from, before) =
                    ((*from as u64).checked_sub(at), at.saturating_sub(*from as u64));
                let flip = flip.get(before as usize..).unwrap_or_default().to_vec();
                Some(DataFault::Corrupt(from.unwrap_or(0) as usize, flip))
            }
            None => None,
        };
        match (part, fault) {
            (None, None) => queue.execute(sqe, bytes),
            (Some(block), None) => queue.execute_part(sqe, at, block, bytes),
            (part, Some(fault)) => {
                let block = part.unwrap_or_else(|| queue.block(sqe));
                queue.execute_part_badly(sqe, at, block, bytes, Some(&fault))
            }
        }
    }
}

impl Connection {
    /// The plan that it is under.
    pub(super) fn faults(&self) -> Option<&Arc<Mutex<Faults>>> {
        self.faults.as_ref().map(|faults| &faults.plan)
    }

    /// Whether something is held back that time alone sends.
    pub fn is_holding(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| {
            let timed = |held: &Held| held.until != Until::Abort;
            !faults.withheld.writes.is_empty() || faults.withheld.completions.iter().any(timed)
        })
    }

    /// Whether the rules for commands and registers hold for this connection.
    fn is_spared(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.association.is_discovery())
    }

    /// A command has come; whether it is to be carried out.
    #[cold]
    pub(super) fn fetched_badly(&mut self, sqe: &Sqe) -> bool {
        if self.is_spared() {
            return true;
        }
        let (qid, entries, failed) = match &self.queue {
            Some(queue) => (queue.qid, queue.entries, queue.association.is_failed()),
            None => (ConnectCdw10::from_bits(sqe.cdw10).qid(), 1, false),
        };
        // Properties are the way out.
        if failed && !sqe.is_fabrics() {
            return false;
        }
        let Some(faults) = &mut self.faults else { return true };
        let (verdict, fate) = {
            let mut plan = lock(&faults.plan);
            (plan.command(qid, sqe), plan.fate())
        };
        if self.meet(fate) {
            return false;
        }
        let Some(faults) = &mut self.faults else { return true };
        match verdict {
            Verdict::Lose => false,
            // Hosts that send more than their queue holds are not kept account of.
            Verdict::Hang if faults.withheld.completions.len() >= entries as usize => false,
            Verdict::Hang => {
                let answer = self.answer(sqe.cid(), Status::ABORTED_BY_REQUEST, 0);
                if let Some(faults) = &mut self.faults {
                    faults.hold(Until::Abort, answer);
                }
                false
            }
            Verdict::Answer(status, result) => {
                faults.commands.push((*sqe, None));
                self.respond(sqe.cid(), status, result);
                false
            }
            Verdict::Proceed(fault) => {
                faults.commands.push((*sqe, fault));
                true
            }
        }
    }

    /// Lets what was decided about the whole controller happen; true where that was its end.
    fn meet(&mut self, fate: Fate) -> bool {
        let association = self.queue.as_ref().map(|queue| Arc::clone(&queue.association));
        if fate.vanish {
            if let Some(association) = &association {
                association.end();
            }
            self.vanish();
        } else if let (true, Some(association)) = (fate.fatal, &association) {
            association.fail();
        }
        fate != Fate::default()
    }

    /// An answer goes out, or not.
    #[cold]
    pub(super) fn respond_badly(&mut self, mut answer: Answer) {
        let Some(faults) = self.faults.as_mut().filter(|_| self.end.is_none()) else { return };
        let of = |(sqe, _): &(Sqe, _)| sqe.cid() == answer.cid;
        // Of two with one identifier the second is refused at once.
        let known = faults.commands.iter().rposition(of).map(|at| faults.commands.remove(at));
        let Some((sqe, _)) = known else { return self.send_answer(&answer) };
        let entries = self.queue.as_ref().map_or(1, |queue| queue.entries);
        let (delivery, fate) = {
            let mut plan = lock(&faults.plan);
            let qid = if self.queue.is_none() {
                ConnectCdw10::from_bits(sqe.cdw10).qid()
            } else {
                answer.sqid
            };
            let sqid = std::mem::replace(&mut answer.sqid, qid);
            let delivery = plan.completion(&sqe, &mut answer);
            // As it was, unless a rule has another one.
            if answer.sqid == qid {
                answer.sqid = sqid;
            }
            (delivery, plan.fate())
        };
        if self.meet(fate) {
            return;
        }
        let Some(faults) = &mut self.faults else { return };
        // Of a host that sends more than its queue holds, no more is held back.
        let room = faults.withheld.completions.len() < entries as usize;
        match delivery {
            Delivery::Lost => return,
            Delivery::Delayed(by) if room => {
                return faults.hold(Until::Time(self.now.saturating_add(by)), answer);
            }
            Delivery::Behind if room => {
                return faults.hold(Until::Next(self.now.saturating_add(BEHIND)), answer);
            }
            Delivery::Twice => (0..2).for_each(|_| self.send_answer(&answer)),
            Delivery::Flood => {
                for _ in 0..entries {
                    if self.output.make_room(RESERVE) {
                        self.send_answer(&answer);
                    }
                }
            }
            // Rings alone have phases and entries.
            Delivery::Normal
            | Delivery::Delayed(_)
            | Delivery::Behind
            | Delivery::WrongPhase
            | Delivery::Halves
            | Delivery::Rewritten => self.send_answer(&answer),
        }
        self.release(|held| matches!(held.until, Until::Next(_)));
    }

    /// Sends completions that were held back; returns how many.
    fn release(&mut self, which: impl Fn(&Held) -> bool) -> u32 {
        let mut count = 0;
        while self.output.make_room(RESERVE)
            && let Some(faults) = &mut self.faults
            && let Some(held) = faults.withheld.release(&which)
        {
            self.send_answer(&held.answer);
            count += 1;
        }
        count
    }

    /// Does what has become due.
    #[cold]
    pub(super) fn poll_faults(&mut self) {
        let now = self.now;
        while let Some(write) =
            self.faults.as_mut().and_then(|faults| faults.withheld.due_write(now))
        {
            // Nobody waits for what it says.
            let _ = self.set_property(&property_set(write.at as u32, 4, write.value.into()));
            self.spent += 1;
        }
        self.spent += self.release(|held| match held.until {
            Until::Time(time) | Until::Next(time) => time <= now,
            Until::Abort => false,
        });
    }

    /// Ends a command that was held back, because it is aborted; false where there is none.
    pub(super) fn abort_held(&mut self, cid: u16) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        let Some(mut held) = faults.withheld.release(|held| held.answer.cid == cid) else {
            return false;
        };
        held.answer.status = Status::ABORTED_BY_REQUEST;
        self.send_answer(&held.answer);
        true
    }

    /// What a register, which holds `value`, reads as.
    #[cold]
    pub(super) fn read_badly(&mut self, sqe: &Sqe, value: u64) -> u64 {
        let Some(faults) = self.faults.as_ref().filter(|_| !self.is_spared()) else { return value };
        let Property { offset: at, size, .. } = Property::of(sqe);
        let at = u64::from(at);
        let mut plan = lock(&faults.plan);
        let low = plan.read(at, value as u32);
        let high = if size == Some(8) { plan.read(at + 4, (value >> 32) as u32) } else { 0 };
        let fate = plan.fate();
        drop(plan);
        if !self.meet(fate) {
            return u64::from(low) | u64::from(high) << 32;
        }
        // Seen at once by the read that brought it about.
        let queue = self.queue.as_ref();
        queue.and_then(|queue| queue.association.property_get(sqe).ok()).unwrap_or(value)
    }

    /// A register is written: now, later or not at all.
    #[cold]
    pub(super) fn set_property_badly(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let spared = self.is_spared();
        let entries = self.queue.as_ref().map_or(1, |queue| queue.entries);
        let Some(faults) = self.faults.as_mut().filter(|_| !spared) else {
            return self.set_property(sqe);
        };
        let property = Property::of(sqe);
        let (at, value) = (u64::from(property.offset), property.value as u32);
        let (late, fate) = {
            let mut plan = lock(&faults.plan);
            (plan.write(at, value), plan.fate())
        };
        let room = faults.withheld.writes.len() < entries as usize;
        match late {
            Some(by) if room && !by.is_zero() => {
                let due = self.now.saturating_add(by);
                faults.withheld.writes.push(LateWrite { due, at, value });
            }
            Some(_) => return self.set_property(sqe),
            None => {}
        }
        self.meet(fate);
        Ok(())
    }

    /// Writes a register. What a Controller Reset ends is not answered any more.
    fn set_property(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let Some(queue) = &self.queue else { return Ok(()) };
        queue.association.property_set(sqe)?;
        let property = Property::of(sqe);
        let cc = Cc::from_bits(property.value as u32);
        let disabled = u64::from(property.offset) == offset::CC && !cc.en();
        if let Some(faults) = self.faults.as_mut().filter(|_| disabled) {
            faults.withheld.completions.clear();
            faults.commands.retain(|(sqe, _)| sqe.is_fabrics());
        }
        Ok(())
    }

    /// Ends without another byte.
    fn vanish(&mut self) {
        self.finish(End::Vanished);
        self.output.consume(usize::MAX / 2);
        self.closed();
    }
}
