//! One NVMe/TCP connection as a state machine: bytes in, bytes out. No socket, no clock, no waiting.
//!
//! Relies on the rules for headers that both sides share (`doorbell_spec::fabrics`), and holds the target to them:
//! every identifier, offset and length is checked before it is used. Whoever owns the socket moves
//! [`output`](Connection::output) into it and what it yields into [`space`](Connection::space).

mod command;
mod receive;

use std::collections::VecDeque;
use std::io::IoSlice;

use doorbell_spec::command::{Direction, Sqe};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Rules, Side, Violation};
use doorbell_spec::fabrics::pdu::{
    C2HData, CapsuleCommand, CommonHeader, Digests, H2CData, IcReq, IcResp, PduFlags, PduType,
    TermReq,
};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use self::command::{Command, Phase, Transfer};
use self::receive::{Input, Payload};
use super::error::LinkError;
use super::outbox::Outbox;
use super::piece::Piece;
use crate::transport::{Completion, Outcome};

/// What this side asks for and can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    /// Commands in flight at most.
    pub(super) depth: u16,
    /// Digests to ask for.
    pub(super) digests: Digests,
    /// HPDA: where the data of C2HData may begin, in dwords, minus one.
    pub(super) hpda_z: u8,
    /// MAXR2T: R2Ts outstanding for one command, minus one.
    pub(super) maxr2t_z: u8,
    /// The most in-capsule data of a command.
    pub(super) max_in_capsule: usize,
    /// Bytes to receive in one go.
    pub(super) input: usize,
}

/// One connection, from ICReq on.
pub(super) struct Connection {
    parameters: Parameters,
    /// What the target is held to.
    rules: Rules,
    /// How this side frames.
    framing: Framing,
    maxh2cdata: u32,
    /// Neither headers nor data have digests, and nothing needs padding.
    plain: bool,
    /// The header of a capsule without data.
    capsule: CommonHeader,
    commands: Box<[Command]>,
    mask: u16,
    outbox: Outbox,
    /// R2Ts that are not answered in full, in turn.
    transfers: VecDeque<Transfer>,
    input: Input,
    payload: Option<Payload>,
    /// Completions of commands some of whose data have not left yet.
    held: Vec<Completion>,
    /// Slots that have been given up.
    given_up: usize,
    /// What the target did wrong, and the header in which it did.
    fault: Option<(Violation, Vec<u8>)>,
}

/// The data of a PDU.
enum Source<'a> {
    Piece(Piece),
    Bytes(&'a [u8]),
}

/// Data of H2CData that wait in the outbox before more are put there: the headers of the rest are made later.
const ENOUGH_WAITING: u64 = 1 << 20;
/// The most data of one C2HData: as much as a command may have.
const MAX_DATA: u32 = u32::MAX;

impl Connection {
    /// A connection that begins with ICReq.
    pub(super) fn new(parameters: Parameters) -> Self {
        let slots = parameters.depth.checked_next_power_of_two().unwrap_or(u16::MAX);
        let mut outbox = Outbox::default();
        let request = IcReq::new(parameters.digests, parameters.hpda_z, parameters.maxr2t_z.into());
        outbox.header(request.as_bytes());
        Self {
            rules: Rules {
                sender: Side::Controller,
                initialized: false,
                framing: Framing::BARE,
                max_in_capsule: 0,
                max_data: MAX_DATA,
            },
            framing: Framing::BARE,
            maxh2cdata: 4096,
            plain: false,
            capsule: CommonHeader::bare(PduType::CAPSULE_COMMAND),
            commands: (0..parameters.depth).map(|_| Command::IDLE).collect(),
            // With more than 32,768 commands all of the identifier is the slot's.
            mask: if slots == u16::MAX { slots } else { slots - 1 },
            outbox,
            transfers: VecDeque::new(),
            input: Input::new(parameters.input),
            payload: None,
            held: Vec::new(),
            given_up: 0,
            fault: None,
            parameters,
        }
    }

    /// Whether ICResp has come, so that commands can be staged.
    pub(super) fn is_initialized(&self) -> bool {
        self.rules.initialized
    }

    /// Queues one command. `slot` is idle and below the depth, and the low part of `cid`. `exact`: it moves as much as
    /// `data` has, or fails.
    #[inline]
    pub(super) fn stage(&mut self, slot: u16, cid: u16, sqe: Sqe, data: Piece, exact: bool) {
        let direction = match sqe.is_fabrics() {
            true => Direction::of_opcode(sqe.fctype().0),
            false => sqe.direction(),
        };
        let (out, to_host) = match direction {
            Direction::None => (false, false),
            Direction::ToController => (true, false),
            Direction::FromController => (false, true),
            Direction::Bidirectional => (true, true),
        };
        let data = if out || to_host { data } else { Piece::NONE };
        let len = data.len() as u32;
        let in_capsule = out && data.len() <= self.parameters.max_in_capsule;
        let sgl = match in_capsule && len > 0 {
            true => Sgl::in_capsule(len),
            false => Sgl::transport(len),
        };
        let inline = if in_capsule { len } else { 0 };
        let common = match inline {
            0 => self.capsule,
            _ => self.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), inline),
        };
        let begins = self.outbox.end();
        let capsule = CapsuleCommand { common, sqe: sqe.with_cid(cid).with_sgl(sgl) };
        if inline == 0 && !common.flags.hdgst() {
            // By far the most frequent one, and nothing but its header.
            self.outbox.header(capsule.as_bytes());
        } else {
            let inline = if in_capsule { data } else { Piece::NONE };
            self.queue(&common, capsule.as_bytes(), Source::Piece(inline));
        }
        let Some(command) = self.commands.get_mut(usize::from(slot)) else { return };
        let ends = self.outbox.end();
        *command = Command {
            cid,
            phase: Phase::Sent,
            to_host,
            by_request: out && !in_capsule,
            exact,
            corrupt: false,
            requests: 0,
            received: 0,
            requested: 0,
            data,
            begins,
            ends,
            busy_until: ends,
        };
    }

    /// Queues a Connect for slot 0, with a copy of its data.
    pub(super) fn stage_connect(&mut self, sqe: Sqe, data: &ConnectData) {
        let bytes = data.as_bytes();
        let len = bytes.len() as u32;
        let common = self.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), len);
        let begins = self.outbox.end();
        let sqe = sqe.with_cid(0).with_sgl(Sgl::in_capsule(len));
        self.queue(&common, CapsuleCommand { common, sqe }.as_bytes(), Source::Bytes(bytes));
        let ends = self.outbox.end();
        if let Some(command) = self.commands.first_mut() {
            *command =
                Command { phase: Phase::Sent, begins, ends, busy_until: ends, ..Command::IDLE };
        }
    }

    /// Queues a PDU: header, its digest, padding, data, their digest, as `common` says.
    #[inline]
    fn queue(&mut self, common: &CommonHeader, header: &[u8], data: Source<'_>) {
        self.outbox.header(header);
        if common.flags.hdgst() {
            self.outbox.header(&digest::crc32c(header).to_le_bytes());
        }
        let bytes = match &data {
            Source::Piece(piece) => piece.bytes(),
            Source::Bytes(bytes) => bytes,
        };
        if bytes.is_empty() {
            return;
        }
        let head = header.len() + if common.flags.hdgst() { digest::SIZE } else { 0 };
        let padding = usize::from(common.pdo).saturating_sub(head);
        if padding > 0 {
            self.outbox.header([0; 255].get(..padding).unwrap_or_default());
        }
        let digest = common.flags.ddgst().then(|| digest::crc32c(bytes).to_le_bytes());
        match data {
            Source::Piece(piece) => self.outbox.data(piece),
            Source::Bytes(bytes) => self.outbox.header(bytes),
        }
        if let Some(digest) = digest {
            self.outbox.header(&digest);
        }
    }

    /// Answers R2Ts in turn, one H2CData each, while not too much waits already.
    fn answer_requests(&mut self) {
        while self.outbox.waiting() < ENOUGH_WAITING {
            let Some(mut transfer) = self.transfers.pop_front() else { break };
            let slot = usize::from(transfer.cid & self.mask);
            let Some(command) = self.commands.get(slot).filter(|it| it.is_sent(transfer.cid))
            else {
                continue;
            };
            let len = transfer.left.min(self.maxh2cdata);
            // Inside: checked when the R2T came.
            let Some(data) = command.data.part(transfer.offset as usize, len as usize) else {
                continue;
            };
            let last = len == transfer.left;
            let common =
                self.framing.header(PduType::H2C_DATA, PduFlags::new().with_last(last), len);
            let header = H2CData::new(common, transfer.cid, transfer.ttag, transfer.offset, len);
            self.queue(&common, header.as_bytes(), Source::Piece(data));
            let ends = self.outbox.end();
            if let Some(command) = self.commands.get_mut(slot) {
                command.busy_until = ends;
                command.requests -= u8::from(last);
            }
            if !last {
                transfer.offset += len;
                transfer.left -= len;
                self.transfers.push_back(transfer);
            }
        }
    }

    /// The next bytes to send; returns how many of `slices` were filled.
    #[inline]
    pub(super) fn output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.outbox.fill(slices)
    }

    /// Whether anything waits to be sent.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.outbox.waiting() > 0
    }

    /// The socket has taken `bytes` more of the output.
    #[inline]
    pub(super) fn sent(&mut self, bytes: usize) {
        self.outbox.advance(bytes);
        if !self.transfers.is_empty() {
            self.answer_requests();
        }
    }

    /// Whether commands are in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.commands.iter().any(|command| command.phase != Phase::Idle)
    }

    /// Bytes of memory it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.commands) + self.input.bytes() + self.outbox.bytes()
    }

    /// H2CTermReq for what the target did wrong, if it did.
    pub(super) fn termination(&mut self) -> Option<Vec<u8>> {
        let (violation, mut header) = self.fault.take()?;
        header.truncate(TermReq::MAX_DATA);
        let request = TermReq::new(PduType::H2C_TERM_REQ, violation, header.len());
        let mut bytes = request.as_bytes().to_vec();
        bytes.append(&mut header);
        Some(bytes)
    }

    /// What became of the next command in flight, now that the socket is closed: nothing is sent or received any more.
    /// Gives each command once.
    pub(super) fn give_up(&mut self) -> Option<Completion> {
        if let Some(completion) = self.held.pop() {
            self.finish(completion.cid);
            return Some(completion);
        }
        let sent = self.outbox.position();
        let rest = self.commands.get_mut(self.given_up..)?;
        let Some(index) = rest.iter().position(|command| command.phase != Phase::Idle) else {
            self.given_up = self.commands.len();
            return None;
        };
        self.given_up += index + 1;
        let command = rest.get_mut(index)?;
        let outcome =
            if sent <= command.begins { Outcome::NotSent } else { Outcome::Indeterminate };
        let cid = command.cid;
        *command = Command::IDLE;
        Some(Completion { cid, status: Status::HOST_PATHING_ERROR, result: 0, outcome })
    }

    /// The command that `cid` names, if it is in flight and all of its capsule has left.
    #[inline]
    fn find(&mut self, cid: u16) -> Result<&mut Command, LinkError> {
        let sent = self.outbox.position();
        self.commands
            .get_mut(usize::from(cid & self.mask))
            .filter(|command| command.is_sent(cid) && sent >= command.ends)
            .ok_or(LinkError::UnknownCommand { cid })
    }

    #[inline]
    fn finish(&mut self, cid: u16) {
        if let Some(command) = self.commands.get_mut(usize::from(cid & self.mask)) {
            command.phase = Phase::Idle;
            command.data = Piece::NONE;
        }
    }

    fn initialize(&mut self, response: &IcResp) -> Result<(), LinkError> {
        if let Err(violation) = response.check() {
            return Err(self.blame(violation));
        }
        let asked = self.parameters.digests;
        if response.dgst.header() != asked.header() || response.dgst.data() != asked.data() {
            return Err(LinkError::Digests);
        }
        let framing = |pda_z: u8| Framing {
            header_digest: asked.header(),
            data_digest: asked.data(),
            alignment: 4 * (u32::from(pda_z) + 1),
        };
        self.framing = framing(response.cpda_z);
        self.rules.framing = framing(self.parameters.hpda_z);
        self.rules.initialized = true;
        let digests = asked.header() || asked.data();
        let header = size_of::<C2HData>() as u32;
        self.plain = !digests && header.is_multiple_of(self.rules.framing.alignment);
        self.capsule = self.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), 0);
        self.maxh2cdata = response.maxh2cdata.get();
        Ok(())
    }

    #[cold]
    fn blame(&mut self, violation: Violation) -> LinkError {
        self.fault = Some((violation, self.input.pdu().to_vec()));
        LinkError::Protocol(violation)
    }
}

#[cfg(all(test, feature = "embedded", not(miri)))]
mod pair;
#[cfg(test)]
mod tests;
