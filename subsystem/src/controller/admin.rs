//! Admin commands: dispatch, and those that make and unmake queues.
//!
//! Which of several errors is reported is the controller's choice; the order here is that of QEMU and of SPDK's
//! compliance tests where they agree.

use doorbell_spec::admin::{
    AbortCdw10, AdminOpcode, CreateCqCdw11, CreateQueueCdw10, CreateSqCdw11,
};
use doorbell_spec::command::Sqe;
use doorbell_spec::status::Status;

use super::core::{Outcome, Transfer};
use super::io_command::{Data, Prps, check_form, give, pointer, take};
use super::prp::{self, DataPointer};
use super::queue::{Answer, CompletionQueue, Doorbell, Shadow, SubmissionQueue};
use super::{BURST, Controller};
use crate::fault::state::Faults;
use crate::memory::Ring;

/// Shadow doorbells and event indices, one page each (Doorbell Buffer Config).
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorbellBuffer {
    shadow: u64,
    events: u64,
}

/// Data of an admin command behind its PRP entries.
struct PrpTransfer<'a> {
    sqe: &'a Sqe,
    prps: Prps<'a>,
    faults: Option<&'a mut Faults>,
}

impl Transfer for PrpTransfer<'_> {
    fn give(&mut self, data: &[u8], len: usize) -> Result<(), Status> {
        let mut edited = Vec::new();
        let data = match &mut self.faults {
            None => data,
            Some(faults) => {
                edited.extend_from_slice(data);
                edited.resize(len, 0);
                faults.reply(self.sqe, &mut edited);
                &edited
            }
        };
        self.prps.with(self.sqe, len, |pieces| give(pieces, data))
    }

    fn take(&mut self, data: &mut [u8]) -> Result<(), Status> {
        self.prps.with(self.sqe, data.len(), |pieces| take(pieces, data))
    }
}

impl Controller {
    /// Reports events and takes up to [`BURST`] admin commands.
    pub(super) fn poll_admin(&mut self) -> usize {
        let mut taken = 0;
        while taken < BURST {
            let Some((submission, completion)) = self.queues.admin() else { break };
            if submission.look(&self.doorbells, &self.memory).is_err() {
                self.core.bad_doorbell_value();
                break;
            }
            let waiting = submission.waiting() != 0;
            if !waiting && !self.core.events.deliverable() {
                break;
            }
            let want = 1 + self.faults.as_ref().map_or(0, |faults| faults.held_for(0));
            match completion.room(want, &self.doorbells, &self.memory) {
                Ok(room) if room < want => break,
                Ok(_) => {}
                Err(_) => {
                    self.core.bad_doorbell_value();
                    break;
                }
            }
            if let Some((cid, event)) = self.core.events.deliver() {
                self.complete(cid, Status::SUCCESS, u64::from(event.into_bits()));
                continue;
            }
            let Some(words) = submission.ring.read_entry(&self.memory, submission.head) else {
                self.fail();
                break;
            };
            submission.head = submission.next(submission.head);
            taken += 1;
            let sqe = Sqe::from_words(words);
            if self.faults.is_some() && !self.admin_fetched(&sqe) {
                if self.running { continue } else { break }
            }
            match self.admin_command(&sqe) {
                Ok(Outcome::Done(result)) => self.complete(sqe.cid(), Status::SUCCESS, result),
                Ok(Outcome::Held) => {}
                Err(status) => {
                    let status = self.core.errors.record(0, &sqe, status);
                    self.complete(sqe.cid(), status, 0);
                }
            }
            if !self.running {
                break;
            }
        }
        taken
    }

    fn admin_command(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        // Event requests are the only commands that stay, so they are the only identifiers in use (TGT-5).
        if self.core.events.holds(sqe.cid()) {
            return Err(Status::COMMAND_ID_CONFLICT.with_dnr());
        }
        check_form(sqe)?;
        let result = match AdminOpcode(sqe.opcode()) {
            AdminOpcode::DELETE_IO_SQ => self.delete_submission(sqe)?,
            AdminOpcode::CREATE_IO_SQ => self.create_submission(sqe)?,
            AdminOpcode::DELETE_IO_CQ => self.delete_completion(sqe)?,
            AdminOpcode::CREATE_IO_CQ => self.create_completion(sqe)?,
            AdminOpcode::ABORT => self.abort(sqe),
            AdminOpcode::DOORBELL_BUFFER_CONFIG => self.doorbell_buffer_config(sqe)?,
            _ => {
                self.core.io_queues = self.queues.has_io();
                let prps = Prps {
                    memory: &self.memory,
                    page_shift: self.page_shift,
                    pieces: &mut self.pieces,
                };
                let faults = self.faults.as_deref_mut().map(|faults| &mut faults.plan);
                return self.core.admin_command(sqe, &mut PrpTransfer { sqe, prps, faults });
            }
        };
        Ok(Outcome::Done(result))
    }

    fn create_completion(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let size = CreateQueueCdw10::from_bits(sqe.cdw10);
        let options = CreateCqCdw11::from_bits(sqe.cdw11);
        let id = size.qid();
        if id == 0
            || id > self.core.features.granted_completions()
            || self.queues.completion(id).is_some()
        {
            return Err(Status::INVALID_QUEUE_ID.with_dnr());
        }
        let entries = self.queue_size(size)?;
        self.queue_base(sqe)?;
        if options.iv() >= self.core.config.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR.with_dnr());
        }
        if !options.pc() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let ring = Ring::new(&self.memory, sqe.prp1, u64::from(entries) * 16);
        let doorbell = self.open_doorbell(id, true);
        let vector = options.ien().then_some(options.iv());
        self.queues.open_completion(id, CompletionQueue::new(entries, ring, doorbell, vector));
        Ok(0)
    }

    fn create_submission(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let size = CreateQueueCdw10::from_bits(sqe.cdw10);
        let options = CreateSqCdw11::from_bits(sqe.cdw11);
        let (id, cqid) = (size.qid(), options.cqid());
        if cqid == 0 || cqid > self.core.features.granted_completions() {
            return Err(Status::INVALID_QUEUE_ID.with_dnr());
        }
        if self.queues.completion(cqid).is_none() {
            return Err(Status::COMPLETION_QUEUE_INVALID.with_dnr());
        }
        if id == 0
            || id > self.core.features.granted_submissions()
            || self.queues.submission(id).is_some()
        {
            return Err(Status::INVALID_QUEUE_ID.with_dnr());
        }
        let entries = self.queue_size(size)?;
        self.queue_base(sqe)?;
        if !options.pc() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let ring = Ring::new(&self.memory, sqe.prp1, u64::from(entries) * 64);
        let doorbell = self.open_doorbell(id, false);
        self.queues.open_submission(SubmissionQueue::new(id, cqid, entries, ring, doorbell));
        Ok(0)
    }

    fn queue_size(&self, size: CreateQueueCdw10) -> Result<u32, Status> {
        self.entry_sizes_selected()?;
        if size.qsize_z() == 0 || size.qsize_z() > self.core.config.mqes_z {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr());
        }
        Ok(u32::from(size.qsize_z()) + 1)
    }

    fn queue_base(&self, sqe: &Sqe) -> Result<(), Status> {
        if sqe.prp1.trailing_zeros() < self.page_shift {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        Ok(())
    }

    /// The doorbell of a new queue, at zero.
    fn open_doorbell(&mut self, id: u16, completion: bool) -> Doorbell {
        let index = self.doorbell_index(id, completion);
        self.doorbells.store(index, 0);
        let mut doorbell = Doorbell::new(index);
        if let Some(buffer) = self.buffer {
            self.attach(&mut doorbell, buffer, 0);
        }
        doorbell
    }

    fn delete_submission(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let id = CreateQueueCdw10::from_bits(sqe.cdw10).qid();
        if id == 0 || self.queues.submission(id).is_none() {
            return Err(Status::INVALID_QUEUE_ID.with_dnr());
        }
        let Some(mut queue) = self.queues.close_submission(id) else {
            return Err(Status::INTERNAL_ERROR);
        };
        self.end_held(id);
        // What was not fetched is aborted: as many as there is room for are told so (TGT-4).
        let _ = queue.look(&self.doorbells, &self.memory);
        if let Some(completion) = self.queues.completion(queue.cqid) {
            let waiting = queue.waiting();
            let room = completion.room(waiting, &self.doorbells, &self.memory).unwrap_or(0);
            for _ in 0..waiting.min(room) {
                let Some(words) = queue.ring.read_entry(&self.memory, queue.head) else { break };
                queue.head = queue.next(queue.head);
                let answer = Answer {
                    sqid: id,
                    sqhd: queue.head as u16,
                    cid: Sqe::from_words(words).cid(),
                    status: Status::ABORTED_SQ_DELETION,
                    result: 0,
                };
                if !completion.post(&self.memory, &answer) {
                    self.fail();
                    break;
                }
            }
            self.queues.signals = true;
        }
        self.doorbells.store(queue.doorbell.index(), 0);
        Ok(0)
    }

    fn delete_completion(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let id = CreateQueueCdw10::from_bits(sqe.cdw10).qid();
        let queue = if id == 0 { None } else { self.queues.completion(id) };
        let Some(queue) = queue else { return Err(Status::INVALID_QUEUE_ID.with_dnr()) };
        if queue.users != 0 {
            return Err(Status::INVALID_QUEUE_DELETION.with_dnr());
        }
        let index = queue.doorbell.index();
        self.queues.close_completion(id);
        self.doorbells.store(index, 0);
        Ok(0)
    }

    /// Abort: every command but the event request is finished by the time that this one is looked at.
    fn abort(&mut self, sqe: &Sqe) -> u64 {
        const NOT_ABORTED: u64 = 1;
        let target = AbortCdw10::from_bits(sqe.cdw10);
        if self.abort_held(target.sqid(), target.cid()) {
            return 0;
        }
        // Two completions: the aborted request's, and this command's own.
        let Some((_, completion)) = self.queues.admin() else { return NOT_ABORTED };
        let room = completion.room(2, &self.doorbells, &self.memory).unwrap_or(0);
        if target.sqid() != 0 || room < 2 || !self.core.events.abort(target.cid()) {
            return NOT_ABORTED;
        }
        self.complete(target.cid(), Status::ABORTED_BY_REQUEST, 0);
        0
    }

    fn doorbell_buffer_config(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let DataPointer { prp1, prp2 } = pointer(sqe);
        let misaligned = |prp: u64| prp.trailing_zeros() < self.page_shift;
        if misaligned(prp1) || misaligned(prp2) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        if self.memory.load(prp1).is_none() || self.memory.load(prp2).is_none() {
            return Err(prp::unmapped());
        }
        let buffer = DoorbellBuffer { shadow: prp1, events: prp2 };
        self.buffer = Some(buffer);
        // The admin queue keeps its registers: hosts update nothing else for it (DB-2).
        let page = 1usize << self.page_shift;
        for (doorbell, now) in self.queues.io_doorbells() {
            let shadow = buffer.at(doorbell.index(), page);
            if let Some(shadow) = shadow {
                doorbell.attach(shadow, now, &self.memory);
            }
        }
        Ok(0)
    }

    fn attach(&self, doorbell: &mut Doorbell, buffer: DoorbellBuffer, now: u32) {
        if let Some(shadow) = buffer.at(doorbell.index(), 1 << self.page_shift) {
            doorbell.attach(shadow, now, &self.memory);
        }
    }
}

impl DoorbellBuffer {
    /// The entries of one doorbell; those that lie beyond the page have none and keep their register.
    fn at(self, index: usize, page: usize) -> Option<Shadow> {
        let offset = index * 4;
        let (value, event) = (self.shadow + offset as u64, self.events + offset as u64);
        (offset < page).then_some(Shadow { value, event })
    }
}
