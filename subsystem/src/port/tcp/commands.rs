//! What the capsules of a connection ask for.
//!
//! Commands run as on PCIe, over the bytes of the connection's buffers: data of writes where it was received, data of
//! reads where it is sent from. A command whose data does not fit at once is carried out as several, block for block.

use std::sync::{Arc, Mutex};

use doorbell_spec::admin::{AbortCdw10, AdminOpcode};
use doorbell_spec::command::{Direction, Sqe};
use doorbell_spec::fabrics::command::{ConnectCdw10, Fctype};
use doorbell_spec::fabrics::connect::{ConnectData, ConnectResult};
use doorbell_spec::fabrics::header::{Layout, Violation};
use doorbell_spec::fabrics::pdu::{CapsuleCommand, PduFlags, PduType, R2T};
use doorbell_spec::fabrics::sgl::SglId;
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use super::buffer::Buffer;
use super::connection::{ADMIN_IN_CAPSULE, BUFFER, Connection, End, MAX_H2C_DATA, RESERVE};
use super::queue::{Queue, Source, check_pointer, source, suits};
use super::reply::Reply;
use super::transfer::{Header, MAX_GRANTED, MAX_WHOLE, Pending, Request, Transfers};
use crate::controller::core::{Outcome, Transfer};
use crate::controller::identify::ACL_Z;
use crate::controller::io_command::BOUNCE;
use crate::fabrics::association::{Abort, Association};
use crate::fabrics::connect::Refused;
use crate::fabrics::lock;
use crate::fault::state::Faults;

/// Of Abort, DW0: the command goes on, or has ended otherwise (Immediate Abort Not Performed).
const NOT_ABORTED: u64 = 1;

/// The data of an admin command: what came with it, what goes back.
struct AdminData<'a> {
    sqe: &'a Sqe,
    came: &'a [u8],
    back: Option<Vec<u8>>,
    faults: Option<&'a Mutex<Faults>>,
}

impl Transfer for AdminData<'_> {
    fn give(&mut self, data: &[u8], len: usize) -> Result<(), Status> {
        let sgl = self.sqe.sgl();
        check_pointer(self.sqe, SglId::TRANSPORT)?;
        if (sgl.length as usize) < len {
            return Err(Status::INVALID_DATA_SGL_LENGTH.with_dnr());
        }
        let mut bytes = data.to_vec();
        bytes.resize(len, 0);
        if let Some(faults) = self.faults {
            lock(faults).reply(self.sqe, &mut bytes);
        }
        self.back = Some(bytes);
        Ok(())
    }

    fn take(&mut self, data: &mut [u8]) -> Result<(), Status> {
        let came = self.came.get(..data.len());
        data.copy_from_slice(came.ok_or(Status::INVALID_DATA_SGL_LENGTH.with_dnr())?);
        Ok(())
    }
}

impl Connection {
    /// Takes a command.
    #[inline]
    pub(super) fn capsule(
        &mut self,
        sqe: &Sqe,
        layout: &Layout,
        intact: bool,
    ) -> Result<(), Violation> {
        if let Some(queue) = &mut self.queue {
            queue.fetched();
        }
        if self.faults.is_some() && !self.fetched_badly(sqe) {
            return Ok(());
        }
        let Some(queue) = &mut self.queue else {
            self.without_queue(sqe, layout, intact);
            return Ok(());
        };
        if queue.transfers.holds(sqe.cid()) {
            self.fail(sqe, Status::COMMAND_ID_CONFLICT.with_dnr());
        } else if sqe.is_fabrics() {
            self.fabrics_command(sqe);
        } else if queue.qid == 0 {
            return self.admin_capsule(sqe, layout, intact);
        } else {
            return self.io_capsule(sqe, layout, intact);
        }
        Ok(())
    }

    fn without_queue(&mut self, sqe: &Sqe, layout: &Layout, intact: bool) {
        if !sqe.is_fabrics() || sqe.fctype() != Fctype::CONNECT {
            return self.respond(sqe.cid(), Status::COMMAND_SEQUENCE_ERROR.with_dnr(), 0);
        }
        let dw0 = match self.connect(sqe, layout, intact) {
            Ok(dw0) => dw0,
            Err(Refused { status, dw0 }) => {
                return self.respond(sqe.cid(), status, u64::from(dw0));
            }
        };
        self.respond(sqe.cid(), Status::SUCCESS, u64::from(dw0));
    }

    fn connect(&mut self, sqe: &Sqe, layout: &Layout, intact: bool) -> Result<u32, Refused> {
        let refused = |status: Status| Refused { status, dw0: 0 };
        let (at, len) = match source(sqe, layout).map_err(refused)? {
            Source::Capsule(at, len) => (at, len),
            // Its data comes in the capsule, always.
            Source::Host(_) => return Err(Status::INVALID_SGL_TYPE.into()),
        };
        if !intact {
            return Err(refused(Status::TRANSIENT_TRANSPORT_ERROR));
        }
        let bytes = self.input.part(layout.data_at as usize + at, len);
        let Ok(data) = ConnectData::read_from_bytes(bytes) else {
            return Err(Status::INVALID_DATA_SGL_LENGTH.into());
        };
        let memory = self.most_memory(ConnectCdw10::from_bits(sqe.cdw10).qid());
        let connected = self.target.connect(sqe, &data, &mut self.share, memory, self.now)?;
        let result = ConnectResult::new().with_cntlid(connected.association.cntlid());
        let in_capsule = match connected.qid {
            0 => ADMIN_IN_CAPSULE,
            _ => self.target.limits().in_capsule,
        };
        self.rules.max_in_capsule = in_capsule;
        let mut queue = Queue::new(&self.target, connected, self.maxr2t_z);
        queue.fetched();
        queue.association.hear(self.now);
        self.queue = Some(Box::new(queue));
        Ok(result.into_bits())
    }

    /// Bytes that a queue of a connection may hold at most, but for what does not depend on its host.
    fn most_memory(&self, qid: u16) -> u64 {
        let kept = MAX_GRANTED as u64 * MAX_WHOLE;
        // The data of one admin command goes out of memory of its own.
        let reply = if qid == 0 { 4096 << self.target.limits().mdts.clamp(1, 16) } else { 0 };
        2 * BUFFER as u64 + BOUNCE as u64 + kept + reply
    }

    fn fabrics_command(&mut self, sqe: &Sqe) {
        let Some(queue) = &self.queue else { return };
        let admin = queue.qid == 0;
        let result = match sqe.fctype() {
            Fctype::PROPERTY_GET if admin => {
                let value = queue.association.property_get(sqe);
                if self.faults.is_some() {
                    value.map(|value| self.read_badly(sqe, value))
                } else {
                    value
                }
            }
            Fctype::PROPERTY_SET if admin => {
                if self.faults.is_some() {
                    self.set_property_badly(sqe).map(|()| 0)
                } else {
                    queue.association.property_set(sqe).map(|()| 0)
                }
            }
            Fctype::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()),
            Fctype::DISCONNECT if !admin && sqe.cdw10 & 0xffff != 0 => {
                Err(Status::FABRICS_INCOMPATIBLE_FORMAT.with_dnr())
            }
            Fctype::DISCONNECT if !admin => {
                self.respond(sqe.cid(), Status::SUCCESS, 0);
                return self.finish(End::Disconnected);
            }
            Fctype::PROPERTY_GET | Fctype::PROPERTY_SET | Fctype::DISCONNECT => {
                Err(Status::FABRICS_INVALID_QUEUE_TYPE.with_dnr())
            }
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        };
        match result {
            Ok(value) => self.respond(sqe.cid(), Status::SUCCESS, value),
            Err(status) => self.fail(sqe, status),
        }
    }

    fn admin_capsule(&mut self, sqe: &Sqe, layout: &Layout, intact: bool) -> Result<(), Violation> {
        if sqe.direction() != Direction::ToController || sqe.sgl().length == 0 {
            self.admin_command(sqe, &[]);
            return Ok(());
        }
        match source(sqe, layout) {
            Ok(Source::Capsule(..)) if !intact => {
                self.fail(sqe, Status::TRANSIENT_TRANSPORT_ERROR);
            }
            Ok(Source::Capsule(at, len)) => {
                let data = self.input.part(layout.data_at as usize + at, len).to_vec();
                self.admin_command(sqe, &data);
            }
            Ok(Source::Host(len)) if u64::from(len) <= MAX_WHOLE => {
                return self.await_data(sqe, len, None);
            }
            Ok(Source::Host(_)) => self.fail(sqe, Status::INVALID_DATA_SGL_LENGTH.with_dnr()),
            Err(status) => self.fail(sqe, status),
        }
        Ok(())
    }

    fn admin_command(&mut self, sqe: &Sqe, came: &[u8]) {
        let Some(queue) = &mut self.queue else { return };
        let association = Arc::clone(&queue.association);
        if AdminOpcode(sqe.opcode()) == AdminOpcode::ABORT && association.epoch() != 0 {
            return self.abort(sqe, &association);
        }
        let spared = association.is_discovery();
        let plan = self.faults().filter(|_| !spared).cloned();
        let mut data = AdminData { sqe, came, back: None, faults: plan.as_deref() };
        let outcome = association.admin_command(&self.target, self.local, sqe, &mut data, self.now);
        match (outcome, data.back) {
            (Ok(Outcome::Done(result)), Some(bytes)) => {
                let reply = Reply::Bytes { cid: sqe.cid(), bytes, done: 0, result };
                if let Some(queue) = &mut self.queue {
                    queue.reply = Some(reply);
                }
                self.go_on();
            }
            (Ok(Outcome::Done(result)), None) => self.respond(sqe.cid(), Status::SUCCESS, result),
            (Ok(Outcome::Held), _) => {}
            (Err(status), _) => self.fail(sqe, status),
        }
        // The command may have brought about what a request waits for.
        self.report_events();
    }

    fn abort(&mut self, sqe: &Sqe, association: &Association) {
        let Some(queue) = &mut self.queue else { return };
        if queue.aborts.len() > usize::from(ACL_Z) {
            return self.fail(sqe, Status::ABORT_LIMIT_EXCEEDED.with_dnr());
        }
        let target = AbortCdw10::from_bits(sqe.cdw10);
        if target.sqid() == 0 && self.abort_held(target.cid()) {
            return self.respond(sqe.cid(), Status::SUCCESS, 0);
        }
        let Some(queue) = &mut self.queue else { return };
        match association.abort(sqe) {
            Abort::Event(cid) => {
                self.respond(cid, Status::ABORTED_BY_REQUEST, 0);
                self.respond(sqe.cid(), Status::SUCCESS, 0);
            }
            Abort::Asked(asked) => queue.aborts.push((sqe.cid(), asked)),
            Abort::None => self.respond(sqe.cid(), Status::SUCCESS, NOT_ABORTED),
        }
    }

    /// Ends those commands of an I/O queue that are to be aborted and can be.
    pub(super) fn end_aborted(&mut self) {
        let Some(queue) = &self.queue else { return };
        for asked in queue.take_aborts() {
            let Some(queue) = &mut self.queue else { return };
            let room = self.output.make_room(RESERVE);
            let ended = room.then(|| queue.transfers.abort(asked.cid)).flatten();
            if let Some(sqe) = &ended {
                self.fail(sqe, Status::ABORTED_BY_REQUEST);
            }
            asked.answer(ended.is_some() || room && self.abort_held(asked.cid));
        }
    }

    /// Reports events to an admin queue whose host asked for them, and what came of its Aborts.
    pub(super) fn report_events(&mut self) {
        let Some(queue) = self.queue.as_mut().filter(|queue| queue.qid == 0) else { return };
        let association = Arc::clone(&queue.association);
        let mut aborts = std::mem::take(&mut queue.aborts);
        aborts.retain(|(cid, asked)| {
            let answer = asked.answered().filter(|_| self.output.make_room(RESERVE));
            if let Some(aborted) = answer {
                let result = if aborted { 0 } else { NOT_ABORTED };
                self.respond(*cid, Status::SUCCESS, result);
            }
            answer.is_none()
        });
        if let Some(queue) = &mut self.queue {
            queue.aborts = aborts;
        }
        while self.output.make_room(RESERVE)
            && let Some((cid, event)) = association.event(&self.target)
        {
            self.respond(cid, Status::SUCCESS, u64::from(event.into_bits()));
        }
    }

    #[inline]
    fn io_capsule(&mut self, sqe: &Sqe, layout: &Layout, intact: bool) -> Result<(), Violation> {
        match NvmOpcode(sqe.opcode()) {
            NvmOpcode::READ => {
                self.read(sqe, layout);
                Ok(())
            }
            NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::DATASET_MANAGEMENT => {
                self.write(sqe, layout, intact)
            }
            opcode => {
                let Some(queue) = &mut self.queue else { return Ok(()) };
                let status = queue.execute(sqe, &mut []);
                if opcode == NvmOpcode::VERIFY {
                    self.spent += u32::from(sqe.nlb_z()) / 4;
                }
                self.conclude(sqe, status);
                Ok(())
            }
        }
    }

    #[inline]
    fn read(&mut self, sqe: &Sqe, layout: &Layout) {
        let Some(queue) = &mut self.queue else { return };
        match queue.read_span(sqe) {
            Ok((len, block)) => {
                prefetch_next(queue, &self.input, layout);
                // Nearly always all of it; what is left becomes the queue's reply.
                if !self.show(sqe, len) && self.send_blocks(*sqe, len, block, 0) {
                    self.go_on();
                }
            }
            Err(status) => self.fail(sqe, status),
        }
    }

    #[inline]
    fn write(&mut self, sqe: &Sqe, layout: &Layout, intact: bool) -> Result<(), Violation> {
        let source = source(sqe, layout);
        let Some(queue) = &mut self.queue else { return Ok(()) };
        match source {
            Ok(Source::Capsule(..)) if !intact => {
                self.fail(sqe, Status::TRANSIENT_TRANSPORT_ERROR);
            }
            Ok(Source::Capsule(at, len)) => {
                prefetch_next(queue, &self.input, layout);
                let data = self.input.part(layout.data_at as usize + at, len);
                let status = match &self.faults {
                    None => queue.execute(sqe, data),
                    Some(faults) => faults.execute(queue, sqe, 0, None, data),
                };
                self.conclude(sqe, status);
            }
            Ok(Source::Host(given)) => match queue.expected(sqe) {
                Ok((len, block)) if suits(sqe, given.into(), len) => {
                    return self.await_data(sqe, given, block);
                }
                Ok(_) => self.fail(sqe, Status::INVALID_DATA_SGL_LENGTH.with_dnr()),
                Err(status) => self.fail(sqe, status),
            },
            Err(status) => self.fail(sqe, status),
        }
        Ok(())
    }

    /// Asks the host for the data of a command.
    fn await_data(&mut self, sqe: &Sqe, len: u32, block: Option<u32>) -> Result<(), Violation> {
        let Some(queue) = &mut self.queue else { return Ok(()) };
        let mut requests = Requests::default();
        queue.transfers.begin(*sqe, len, block, &mut |request| requests.push(request))?;
        self.send_requests(&requests);
        Ok(())
    }

    /// Takes the data of an H2CData.
    pub(super) fn host_data(
        &mut self,
        header: &Header,
        layout: &Layout,
        intact: bool,
    ) -> Result<(), Violation> {
        // Without a queue no R2T was sent.
        let nowhere = Violation::field(doorbell_spec::fabrics::pdu::offset::TTAG);
        let Some(queue) = &mut self.queue else { return Err(nowhere) };
        let mut transfers =
            std::mem::replace(&mut queue.transfers, Transfers::new(0, 0, MAX_H2C_DATA));
        let result = transfers.place(header);
        let mut requests = Requests::default();
        let finished = match result {
            Ok(place) => {
                let data = self.input.part(layout.data_at as usize, layout.data as usize);
                transfers.take(place, data, intact, |sqe, at, bytes| {
                    let (at, block) = (u64::from(at), queue.block(sqe));
                    match &self.faults {
                        None => queue.execute_part(sqe, at, block, bytes),
                        Some(faults) => faults.execute(queue, sqe, at, Some(block), bytes),
                    }
                });
                transfers.advance(place, &mut |request| requests.push(request))
            }
            Err(_) => None,
        };
        queue.transfers = transfers;
        result?;
        self.spent += layout.data >> 14;
        self.send_requests(&requests);
        if let Some(pending) = finished {
            self.complete(pending);
        }
        Ok(())
    }

    /// A command has all of its data, or has failed.
    fn complete(&mut self, mut pending: Pending) {
        let sqe = pending.sqe;
        let Some(queue) = &mut self.queue else { return };
        if !pending.status.is_success() {
            return self.fail(&sqe, pending.status);
        }
        if queue.qid == 0 {
            return self.admin_command(&sqe, &pending.whole);
        }
        let status = if sqe.opcode() == NvmOpcode::DATASET_MANAGEMENT.0 {
            queue.execute(&sqe, &mut pending.whole)
        } else {
            queue.seal(&sqe)
        };
        self.conclude(&sqe, status);
    }

    fn send_requests(&mut self, requests: &Requests) {
        for request in requests.list() {
            let common = self.framing.header(PduType::R2T, PduFlags::new(), 0);
            let Request { cid, ttag, offset, len } = *request;
            self.put(R2T::new(common, cid, ttag, offset, len).as_bytes());
        }
    }
}

/// Has the storage fetched that the next command of the input will want.
#[inline]
fn prefetch_next(queue: &mut Queue, input: &Buffer, layout: &Layout) {
    let next = input.filled().get(layout.total as usize..).unwrap_or_default();
    if let Ok((capsule, _)) = CapsuleCommand::read_from_prefix(next)
        && capsule.common.pdu_type == PduType::CAPSULE_COMMAND
    {
        queue.io(&Sqe::default(), &mut [], false).prefetch(&capsule.sqe);
    }
}

/// The R2Ts that one PDU can bring about.
#[derive(Default)]
struct Requests {
    list: [Option<Request>; 16],
    count: usize,
}

impl Requests {
    fn push(&mut self, request: Request) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = Some(request);
            self.count += 1;
        }
    }

    fn list(&self) -> impl Iterator<Item = &Request> {
        self.list.iter().flatten()
    }
}
