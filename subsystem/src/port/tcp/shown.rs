//! Large reads, which go out from where the blocks are stored: the copy that the socket makes is the only one.
//!
//! A backend shows its bytes and keeps them still for as long as one call to the socket takes. Where that takes the
//! first part of a block only, the rest of it is copied in the same moment, so that the host gets each block as one write
//! left it.

use std::io::IoSlice;
use std::sync::Arc;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::pdu::{C2HData, PduFlags, PduType};
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use super::connection::{Connection, End, RESERVE};
use super::reply::Reply;
use crate::namespace::Namespace;

/// The least data that is sent so: a call to the socket for each must be worth it.
pub(super) const LEAST: u64 = 32 << 10;
/// The largest block.
const BLOCK: usize = 4096;

/// A read that is being sent.
pub(super) struct Shown {
    pub(super) sqe: Sqe,
    pub(super) namespace: Arc<Namespace>,
    /// The range of the backend, which is the data of one PDU.
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Bytes of it that the socket has, or the output.
    pub(super) done: u32,
    /// The header has been put into the output.
    pub(super) begun: bool,
}

impl Connection {
    /// Takes a read that is to be sent from where it is stored; false where it has to be copied.
    #[inline]
    pub(super) fn show(&mut self, sqe: &Sqe, len: u64) -> bool {
        // A digest would have to be taken of what may change before it is sent.
        if len < LEAST || self.framing.data_digest || self.faults.is_some() {
            return false;
        }
        let Some(queue) = &mut self.queue else { return false };
        let Some((namespace, offset)) = queue.begin_shown(sqe) else { return false };
        let (sqe, len) = (*sqe, len as u32);
        queue.reply =
            Some(Reply::Shown(Shown { sqe, namespace, offset, len, done: 0, begun: false }));
        self.spent += len >> 14;
        true
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        let shown = self.queue.as_ref().and_then(|queue| queue.reply.as_ref());
        self.output.len() != 0 || matches!(shown, Some(Reply::Shown(_)))
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
        // A call ends with the rest of a block behind what the socket has not taken.
        if self.output.make_room(RESERVE + BLOCK)
            && let Some(queue) = &mut self.queue
            && let Some(Reply::Shown(shown)) =
                queue.reply.take_if(|reply| matches!(reply, Reply::Shown(_)))
        {
            return self.transmit_shown(shown, send);
        }
        if self.output.len() == 0 {
            return Ok(0);
        }
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
        send: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let flow_control = self.queue.as_ref().is_some_and(|queue| queue.flow_control);
        let (mut send, mut result) = (Some(send), Ok(0));
        let namespace = Arc::clone(&shown.namespace);
        let block = namespace.block_size() as usize;
        let (at, left) = (shown.offset + u64::from(shown.done), (shown.len - shown.done) as usize);
        let seen = namespace.backend().show(at, left, &mut |bytes| {
            let Some(send) = send.take() else { return };
            if !shown.begun {
                self.open_data_pdu(shown.sqe.cid(), shown.len, !flow_control);
                shown.begun = true;
            }
            let head = self.output.filled();
            result = send(&[IoSlice::new(head), IoSlice::new(bytes)]);
            let Ok(count) = result else { return };
            let head = head.len().min(count);
            self.output.consume(head);
            let data = (count - head).min(bytes.len());
            let whole = data.next_multiple_of(block).min(bytes.len());
            self.output.put(bytes.get(data..whole).unwrap_or_default());
            shown.done += whole as u32;
        });
        match seen {
            Err(_) if shown.begun => self.finish(End::Unreadable),
            Err(error) => {
                let status = self.queue.as_mut().map(|queue| queue.unreadable(error));
                self.fail(&shown.sqe, status.unwrap_or(Status::INTERNAL_ERROR));
            }
            Ok(()) if shown.done < shown.len => {
                if let Some(queue) = &mut self.queue {
                    queue.reply = Some(Reply::Shown(shown));
                }
            }
            Ok(()) if flow_control => self.respond(shown.sqe.cid(), Status::SUCCESS, 0),
            Ok(()) => {}
        }
        result
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
