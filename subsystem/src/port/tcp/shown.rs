//! Large reads, which go out from where the blocks are stored: the copy that the socket makes is the only one.
//!
//! A backend shows its bytes and keeps them still for as long as one call to the socket takes. As many reads as have come go
//! out in one call: what the kernel does besides copying, it then does once for all of them. Where it takes the first part of a
//! block only, the rest of it is copied in the same moment, so that the host gets each block as one write left it.

use std::io::IoSlice;
use std::sync::Arc;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::pdu::{C2HData, CapsuleCommand, CapsuleResponse, PduFlags, PduType};
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use super::connection::{Connection, End, RESERVE, check_header};
use crate::backend::{MediaError, TOGETHER};
use crate::namespace::Namespace;

/// The least data that is sent so: a call to the socket for each must be worth it.
const LEAST: u64 = 16 << 10;
/// Bytes after which no further read goes with those that wait: a write to the same storage waits for their call.
const MOST: u32 = 1 << 20;
/// The largest block.
const BLOCK: usize = 4096;
/// What comes before the data of a read at most: the answer to the one before it, a header, digests, and padding.
const HEAD: usize =
    size_of::<CapsuleResponse>() + size_of::<C2HData>() + 2 * digest::SIZE + u8::MAX as usize;

/// A read that waits; its data is that of one PDU.
struct Read {
    sqe: Sqe,
    offset: u64,
    len: u32,
}

/// Reads that are sent next, in turn, all of one namespace.
#[derive(Default)]
pub(super) struct Shown {
    namespace: Option<Arc<Namespace>>,
    reads: Vec<Read>,
    bytes: u32,
    /// Bytes of the first one's data that the socket has, or the output.
    done: u32,
    /// The first one's header has been put into the output.
    begun: bool,
}

impl Shown {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Whether reads wait that another can go with.
    fn has_room(&self) -> bool {
        !self.is_empty() && !self.begun && self.reads.len() < TOGETHER && self.bytes < MOST
    }

    /// Whether a read of this namespace does.
    #[inline]
    pub(super) fn takes(&self, namespace: &Arc<Namespace>) -> bool {
        self.is_empty() || self.namespace.as_ref().is_some_and(|it| Arc::ptr_eq(it, namespace))
    }

    #[inline]
    pub(super) fn push(&mut self, namespace: &Arc<Namespace>, sqe: Sqe, offset: u64, len: u32) {
        if self.is_empty() {
            self.namespace = Some(Arc::clone(namespace));
        }
        self.bytes += len;
        self.reads.push(Read { sqe, offset, len });
    }

    /// Takes the first `count` out.
    fn drop_first(&mut self, count: usize) {
        self.bytes -= self.reads.drain(..count).map(|read| read.len).sum::<u32>();
        if self.is_empty() {
            self.namespace = None;
        }
    }

    /// What is asked of the backend.
    fn ranges(&self) -> [(u64, usize); TOGETHER] {
        let mut ranges = [(0, 0); TOGETHER];
        for (read, range) in self.reads.iter().zip(&mut ranges) {
            *range = (read.offset, read.len as usize);
        }
        let (offset, len) = &mut ranges[0];
        *offset += u64::from(self.done);
        *len -= self.done as usize;
        ranges
    }
}

impl Connection {
    /// Takes a read that is to be sent from where it is stored; false where it has to be copied.
    #[inline]
    pub(super) fn show(&mut self, sqe: &Sqe, len: u64) -> bool {
        // A digest would have to be taken of what may change before it is sent.
        if len < LEAST || self.framing.data_digest || self.faults.is_some() {
            return false;
        }
        let taken = self.queue.as_mut().is_some_and(|queue| queue.show(sqe, len as u32));
        if taken {
            self.spent += len as u32 >> 14;
        }
        taken
    }

    /// While reads wait to be sent, takes the next command as well if it can go with them; false where it is taken after
    /// them, or has not come.
    pub(super) fn follow(&mut self) -> bool {
        if !self.queue.as_ref().is_some_and(|queue| queue.shown.has_room()) {
            return false;
        }
        let Some((sqe, total)) = self.next_read() else { return false };
        let Some(queue) = &mut self.queue else { return false };
        if !queue.read_span(&sqe).is_ok_and(|(len, _)| self.show(&sqe, len)) {
            return false;
        }
        if let Some(queue) = &mut self.queue {
            queue.fetched();
        }
        self.input.consume(total as usize);
        self.spent += 1;
        true
    }

    /// The next command if it is a read, and the bytes of its PDU.
    fn next_read(&self) -> Option<(Sqe, u32)> {
        let layout = self.look().ok()??;
        let head = self.input.filled().get(..layout.head() as usize)?;
        if layout.pdu_type != PduType::CAPSULE_COMMAND
            || layout.header_digest && check_header(head).is_err()
        {
            return None;
        }
        let (CapsuleCommand { sqe, .. }, _) = CapsuleCommand::read_from_prefix(head).ok()?;
        let queue = self.queue.as_ref().filter(|queue| queue.qid != 0)?;
        let read = sqe.opcode() == NvmOpcode::READ.0 && !queue.transfers.holds(sqe.cid());
        read.then_some((sqe, layout.total))
    }

    /// Whether reads wait to be sent from where they are stored.
    pub fn has_shown(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.shown.is_empty())
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        self.output.len() != 0 || self.has_shown()
    }

    /// Has `send` take what is to be sent next. It gets it in pieces, in order, and says how many of their bytes it took.
    /// Storage may be locked meanwhile. Returns what it took; 0 without asking where there is nothing.
    ///
    /// # Errors
    /// What `send` returns; nothing has been sent then.
    pub fn transmit<E>(
        &mut self,
        send: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let mut send = Some(send);
        // A call ends with the rest of a block behind what the socket has not taken.
        while self.has_shown()
            && self.output.make_room(RESERVE + TOGETHER * HEAD + BLOCK)
            && let Some(queue) = &mut self.queue
        {
            let shown = std::mem::take(&mut queue.shown);
            let result = self.transmit_shown(shown, &mut send);
            // A read whose data are not shown has been answered otherwise.
            if send.is_none() {
                return result;
            }
        }
        let Some(send) = send.filter(|_| self.output.len() != 0) else { return Ok(0) };
        let count = send(&[IoSlice::new(self.output.filled())])?;
        self.sent(count);
        Ok(count)
    }

    /// As [`Connection::transmit`], into memory: at most `most` bytes.
    pub fn transmit_to(&mut self, sink: &mut Vec<u8>, most: usize) -> usize {
        let taken = self.transmit(|pieces| {
            let before = sink.len();
            for piece in pieces {
                let left = most - (sink.len() - before);
                sink.extend_from_slice(piece.get(..left).unwrap_or(piece));
            }
            Ok::<_, std::convert::Infallible>(sink.len() - before)
        });
        taken.unwrap_or(0)
    }

    fn transmit_shown<E>(
        &mut self,
        mut shown: Shown,
        send: &mut Option<impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>>,
    ) -> Result<usize, E> {
        let Some(namespace) = shown.namespace.clone() else { return Ok(0) };
        let mut result = Ok(0);
        let (ranges, count) = (shown.ranges(), shown.reads.len().min(TOGETHER));
        let ranges = ranges.get(..count).unwrap_or(&ranges);
        let seen = namespace.backend().show(ranges, &mut |pieces| {
            // What a host has been promised it gets, whatever a backend gives: as much as was asked for, and without a gap.
            let mut whole = [&[][..]; TOGETHER];
            let mut count = 0;
            for ((whole, piece), &(_, len)) in whole.iter_mut().zip(pieces).zip(ranges) {
                *whole = piece.get(..len).unwrap_or(piece);
                count += usize::from(!whole.is_empty());
                if whole.len() < len {
                    break;
                }
            }
            if count != 0
                && let Some(send) = send.take()
            {
                let block = namespace.block_size() as usize;
                let pieces = whole.get(..count).unwrap_or(&whole);
                result = self.transmit_pieces(&mut shown, pieces, block, send);
            }
        });
        let unseen = send.is_some();
        let error = seen.err().or(unseen.then_some(MediaError::Unreadable));
        match (error, shown.reads.first()) {
            // What has been shown, or begun, cannot be taken back.
            (Some(_), _) if shown.begun || !unseen => self.finish(End::Unreadable),
            (Some(error), Some(&Read { sqe, .. })) => {
                let status = self.queue.as_mut().map(|queue| queue.unreadable(error));
                self.fail(&sqe, status.unwrap_or(Status::INTERNAL_ERROR));
                shown.drop_first(1);
            }
            _ => {}
        }
        if let Some(queue) = &mut self.queue {
            queue.shown = shown;
        }
        result
    }

    /// Has `send` take the data of the first reads, with what comes before each.
    fn transmit_pieces<E>(
        &mut self,
        shown: &mut Shown,
        pieces: &[&[u8]],
        block: usize,
        send: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let flow_control = self.queue.as_ref().is_some_and(|queue| queue.flow_control);
        let mut ends = [0; TOGETHER];
        let mut before = None;
        for (read, end) in shown.reads.iter().zip(&mut ends).take(pieces.len()) {
            if let Some(cid) = before.replace(read.sqe.cid()).filter(|_| flow_control) {
                self.respond(cid, Status::SUCCESS, 0);
            }
            if !std::mem::take(&mut shown.begun) {
                self.open_data_pdu(read.sqe.cid(), read.len, !flow_control);
            }
            *end = self.output.len();
        }
        shown.begun = true;
        let mut slices = [IoSlice::new(&[]); 2 * TOGETHER];
        let (mut at, output) = (0, self.output.filled());
        for ((slices, piece), end) in slices.as_chunks_mut().0.iter_mut().zip(pieces).zip(ends) {
            *slices = [IoSlice::new(output.get(at..end).unwrap_or_default()), IoSlice::new(piece)];
            at = end;
        }
        let sent = send(slices.get(..2 * pieces.len()).unwrap_or(&slices));
        let Ok(mut left) = sent else {
            self.output.truncate(ends[0]);
            return sent;
        };

        // How far that went. What comes before data that were not reached is made anew when they are.
        let (mut at, mut over, mut kept, mut rest) = (0, 0_usize, None, &[][..]);
        shown.begun = false;
        for ((read, piece), end) in shown.reads.iter().zip(pieces).zip(ends) {
            if left == 0 && over != 0 {
                break;
            }
            if left < end - at {
                kept = Some((at + left, end));
                shown.begun = true;
                break;
            }
            left -= end - at;
            at = end;
            let data = left.min(piece.len());
            left -= data;
            let whole = data.next_multiple_of(block).min(piece.len());
            rest = piece.get(data..whole).unwrap_or_default();
            shown.done += whole as u32;
            if shown.done < read.len {
                shown.begun = true;
                break;
            }
            shown.done = 0;
            over += 1;
            if !rest.is_empty() {
                break;
            }
        }
        let (from, to) = kept.unwrap_or_default();
        self.output.truncate(to);
        self.output.consume(from);
        self.output.put(rest);
        let last = shown.reads.get(over.wrapping_sub(1)).map(|read| read.sqe.cid());
        if let Some(cid) = last.filter(|_| flow_control && !shown.begun) {
            self.respond(cid, Status::SUCCESS, 0);
        }
        shown.drop_first(over);
        sent
    }

    /// Puts what comes before the data of a C2HData into the output.
    fn open_data_pdu(&mut self, cid: u16, len: u32, success: bool) {
        let flags = PduFlags::new().with_last(true).with_success(success);
        let common = self.framing.header(PduType::C2H_DATA, flags, len);
        let header = C2HData::new(common, cid, 0, len);
        let padding = usize::from(common.pdo)
            - size_of::<C2HData>()
            - if common.flags.hdgst() { digest::SIZE } else { 0 };
        self.put(header.as_bytes());
        self.output.put([0; u8::MAX as usize].get(..padding).unwrap_or_default());
    }
}
