//! What goes back to the host: completions, and data as far as there is room for it.
//!
//! Blocks are read straight into the buffer that is sent from. Where not all of a command's data fits, it is read and
//! sent in portions, and what follows it in the connection waits.

use doorbell_spec::command::Sqe;
use doorbell_spec::completion::{Cqe, StatusField};
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::pdu::{C2HData, CapsuleResponse, CommonHeader, PduFlags, PduType};
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use super::connection::{BUFFER, Connection, RESERVE};
use crate::controller::queue::Answer;

/// SQHD where there is no flow control (as Linux's target answers Connect).
const NO_SQHD: u16 = 0xffff;
/// The least data worth a PDU of its own, where more is to follow.
const PORTION: usize = 64 << 10;

/// Data for the host, and how much of it was sent.
pub(super) enum Reply {
    /// Blocks, which are read as they are sent.
    Blocks { sqe: Sqe, len: u64, block: u32, done: u64 },
    /// The data of an admin command, and its result.
    Bytes { cid: u16, bytes: Vec<u8>, done: usize, result: u64 },
}

impl Connection {
    /// Sends the data that is due, as far as there is room; false where there is more.
    #[inline]
    pub(super) fn go_on(&mut self) -> bool {
        match &self.queue {
            // It is for whoever has the socket to go on.
            Some(queue) if !queue.shown.is_empty() => false,
            Some(queue) if queue.reply.is_some() => self.send_reply(),
            _ => true,
        }
    }

    fn send_reply(&mut self) -> bool {
        while let Some(reply) = self.queue.as_mut().and_then(|queue| queue.reply.take()) {
            let sent = match reply {
                Reply::Blocks { sqe, len, block, done } => self.send_blocks(sqe, len, block, done),
                Reply::Bytes { cid, bytes, done, result } => {
                    self.send_bytes(cid, bytes, done, result)
                }
            };
            if !sent {
                return false;
            }
        }
        true
    }

    /// How much data fits now into one PDU; 0 where it is better to wait for room.
    #[inline]
    fn portion(&mut self, left: u64) -> usize {
        let most = BUFFER - 2 * RESERVE;
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        if self.output.make_room(left + RESERVE) {
            return left;
        }
        if left > PORTION && self.output.make_room(PORTION + RESERVE) { PORTION } else { 0 }
    }

    /// Sends the next portion of a read; false where it has to wait.
    #[inline]
    pub(super) fn send_blocks(&mut self, sqe: Sqe, len: u64, block: u32, done: u64) -> bool {
        let portion = self.portion(len - done);
        let portion = portion - portion % block as usize;
        let Some(queue) = &mut self.queue else { return true };
        if portion == 0 {
            queue.reply = Some(Reply::Blocks { sqe, len, block, done });
            return false;
        }
        let last = done + portion as u64 == len;
        let success = last && !queue.flow_control && self.faults.is_none();
        let flags = PduFlags::new().with_last(last).with_success(success);
        let mut common = self.framing.header(PduType::C2H_DATA, flags, portion as u32);
        let (at, mut total) = (usize::from(common.pdo), common.plen.get() as usize);
        let Some(pdu) = self.output.room().get_mut(..total) else { return false };
        let Some(data) = pdu.get_mut(at..at + portion) else { return false };
        let whole = done == 0 && last;
        let status = match &self.faults {
            Some(faults) => faults.execute(queue, &sqe, done, (!whole).then_some(block), data),
            None if whole => queue.execute(&sqe, data),
            None => queue.execute_part(&sqe, done, block, data),
        };
        self.spent += portion as u32 >> 14;
        if !status.is_success() {
            self.fail(&sqe, status);
            return true;
        }
        let (mut portion, mut last) = (portion, last);
        if let Some(faults) = &self.faults {
            (portion, last) = faults.shorten(sqe.cid(), done, portion, last);
            let flags = PduFlags::new().with_last(last);
            common = self.framing.header(PduType::C2H_DATA, flags, portion as u32);
            total = if portion == 0 { 0 } else { common.plen.get() as usize };
        }
        let header = C2HData::new(common, sqe.cid(), done as u32, portion as u32);
        if let Some(pdu) = pdu.get_mut(..total).filter(|pdu| !pdu.is_empty()) {
            close_data_pdu(pdu, header.as_bytes(), &common, portion);
            self.output.commit(total);
        }
        if !last {
            let done = done + portion as u64;
            if let Some(queue) = &mut self.queue {
                queue.reply = Some(Reply::Blocks { sqe, len, block, done });
            }
        } else if !success {
            self.respond(sqe.cid(), Status::SUCCESS, 0);
        }
        true
    }

    /// Sends the next portion of an admin command's data; false where it has to wait.
    fn send_bytes(&mut self, cid: u16, bytes: Vec<u8>, done: usize, result: u64) -> bool {
        let portion = self.portion((bytes.len() - done) as u64);
        let Some(queue) = &mut self.queue else { return true };
        if portion == 0 {
            queue.reply = Some(Reply::Bytes { cid, bytes, done, result });
            return false;
        }
        let last = done + portion == bytes.len();
        let success = last && !queue.flow_control && result == 0 && self.faults.is_none();
        let flags = PduFlags::new().with_last(last).with_success(success);
        let common = self.framing.header(PduType::C2H_DATA, flags, portion as u32);
        let (at, total) = (usize::from(common.pdo), common.plen.get() as usize);
        let Some(pdu) = self.output.room().get_mut(..total) else { return false };
        if let Some(from) = bytes.get(done..done + portion)
            && let Some(to) = pdu.get_mut(at..at + portion)
        {
            to.copy_from_slice(from);
        }
        let header = C2HData::new(common, cid, done as u32, portion as u32);
        close_data_pdu(pdu, header.as_bytes(), &common, portion);
        self.output.commit(total);
        if !last {
            let done = done + portion;
            if let Some(queue) = &mut self.queue {
                queue.reply = Some(Reply::Bytes { cid, bytes, done, result });
            }
        } else if !success {
            self.respond(cid, Status::SUCCESS, result);
        }
        true
    }

    /// Answers a command that is done.
    #[inline]
    pub(super) fn conclude(&mut self, sqe: &Sqe, status: Status) {
        if status.is_success() {
            self.respond(sqe.cid(), status, 0)
        } else {
            self.fail(sqe, status)
        }
    }

    /// Answers a command that failed, and keeps the error.
    #[cold]
    pub(super) fn fail(&mut self, sqe: &Sqe, status: Status) {
        let Some(queue) = &self.queue else { return };
        let status = queue.association.record(queue.qid, sqe, status);
        self.respond(sqe.cid(), status, 0);
    }

    #[inline]
    pub(super) fn respond(&mut self, cid: u16, status: Status, result: u64) {
        let answer = self.answer(cid, status, result);
        if self.faults.is_some() {
            return self.respond_badly(answer);
        }
        self.send_answer(&answer);
    }

    /// An answer, as the queue stands.
    #[inline]
    pub(super) fn answer(&self, cid: u16, status: Status, result: u64) -> Answer {
        let (sqid, sqhd) = match &self.queue {
            Some(queue) if queue.flow_control => (queue.qid, queue.head),
            Some(queue) => (queue.qid, NO_SQHD),
            None => (0, 0),
        };
        Answer { sqid, sqhd, cid, status, result }
    }

    #[inline]
    pub(super) fn send_answer(&mut self, answer: &Answer) {
        let &Answer { sqid, sqhd, cid, status, result } = answer;
        let (dw0, dw1) = (result as u32, (result >> 32) as u32);
        let cqe = Cqe { dw0, dw1, sqhd, sqid, cid, status: StatusField::new(status, false) };
        let common = self.framing.header(PduType::CAPSULE_RESPONSE, PduFlags::new(), 0);
        self.put(CapsuleResponse { common, cqe }.as_bytes());
    }
}

/// Puts header, digests and padding around the data of a PDU.
#[inline]
fn close_data_pdu(pdu: &mut [u8], header: &[u8], common: &CommonHeader, len: usize) {
    let at = usize::from(common.pdo);
    let Some((head, data)) = pdu.split_at_mut_checked(at) else { return };
    head.fill(0);
    if let Some(to) = head.get_mut(..header.len()) {
        to.copy_from_slice(header);
    }
    if common.flags.hdgst()
        && let Some(to) = head.get_mut(header.len()..header.len() + digest::SIZE)
    {
        to.copy_from_slice(&digest::crc32c(header).to_le_bytes());
    }
    if common.flags.ddgst()
        && let Some((data, tail)) = data.split_at_mut_checked(len)
        && let Some(to) = tail.get_mut(..digest::SIZE)
    {
        to.copy_from_slice(&digest::crc32c(data).to_le_bytes());
    }
}
