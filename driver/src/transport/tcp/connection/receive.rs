//! The receiving half: from bytes to completions.

use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Layout, Violation};
use doorbell_spec::fabrics::pdu::{
    C2HData, CapsuleResponse, CommonHeader, IcResp, PduFlags, PduType, R2T, TermReq, offset,
};
use doorbell_spec::status::Status;
use zerocopy::FromBytes;

use super::command::{Phase, Transfer};
use super::{Connection, LinkError};
use crate::transport::tcp::piece::Piece;
use crate::transport::{Completion, Outcome};

/// Bytes received and not yet looked at. What is left over at the end of a round is less than a header.
pub(super) struct Input {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
    /// Where the PDU begins that is being looked at.
    pdu: usize,
    /// Payloads are large: little is taken beyond them, so that the next one can go where it belongs as well.
    large: bool,
}

/// Where the data of a C2HData begin that has no digests and no padding.
const PLAIN_HEADER: usize = size_of::<C2HData>();
/// Payloads from this size on are received in place.
const LARGE: usize = 32 << 10;
/// Bytes received beyond a large payload.
const BEYOND: usize = 4096;

impl Input {
    pub(super) fn new(len: usize) -> Self {
        let bytes = vec![0; len.max(2 * BEYOND)].into_boxed_slice();
        Self { bytes, from: 0, to: 0, pdu: 0, large: false }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn available(&self) -> &[u8] {
        self.bytes.get(self.from..self.to).unwrap_or_default()
    }

    /// The PDU being looked at, as far as it is there.
    pub(super) fn pdu(&self) -> &[u8] {
        self.bytes.get(self.pdu..self.to).unwrap_or_default()
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.from += count;
    }

    #[inline]
    fn space(&mut self) -> &mut [u8] {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.from > 0 {
            self.bytes.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        self.pdu = 0;
        let end =
            if self.large { (self.to + BEYOND).min(self.bytes.len()) } else { self.bytes.len() };
        self.bytes.get_mut(self.to..end).unwrap_or_default()
    }
}

/// The data of the C2HData that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    cid: u16,
    /// Where all of it goes, and the part that has not come yet.
    whole: Piece,
    rest: Piece,
    flags: PduFlags,
}

impl Connection {
    /// Where the next bytes from the socket belong: first in the one, then in the other. Call it when
    /// [`next`](Self::next) has nothing more.
    #[inline]
    pub(in super::super) fn space(&mut self) -> (&mut [u8], &mut [u8]) {
        let payload = match &mut self.payload {
            Some(payload) => payload.rest.bytes_mut(),
            None => &mut [],
        };
        (payload, self.input.space())
    }

    /// `count` bytes have come into [`space`](Self::space).
    #[inline]
    pub(in super::super) fn received(&mut self, count: usize) {
        let mut left = count;
        if let Some(payload) = &mut self.payload {
            let direct = payload.rest.len().min(left);
            let rest = payload.rest.len() - direct;
            payload.rest = payload.rest.part(direct, rest).unwrap_or(Piece::NONE);
            left -= direct;
        }
        self.input.to = (self.input.to + left).min(self.input.bytes.len());
    }

    /// The next completion in what has come; `None` where more must come first.
    ///
    /// # Errors
    /// [`LinkError`]: the connection is of no more use.
    #[inline]
    pub(in super::super) fn next(&mut self) -> Result<Option<Completion>, LinkError> {
        if !self.held.is_empty()
            && let Some(completion) = self.take_held()
        {
            return Ok(Some(completion));
        }
        // Ends: each round consumes bytes that have come.
        loop {
            if self.payload.is_some() {
                match self.take_payload() {
                    Progress::More => return Ok(None),
                    Progress::Done(None) => {}
                    Progress::Done(Some(completion)) => return Ok(Some(completion)),
                }
            }
            let available = self.input.available();
            let Ok((common, _)) = CommonHeader::read_from_prefix(available) else {
                return Ok(None);
            };
            let have = available.len();
            if self.is_plain_data(&common) {
                if have < PLAIN_HEADER {
                    return Ok(None);
                }
                self.input.pdu = self.input.from;
                let data = common.plen.get() - PLAIN_HEADER as u32;
                let payload = self.begin_payload(common.flags, data)?;
                self.input.consume(PLAIN_HEADER);
                if have - PLAIN_HEADER < data as usize {
                    self.payload = Some(payload);
                } else if let Some(completion) = self.take_whole(payload) {
                    return Ok(Some(completion));
                }
                continue;
            }
            self.input.pdu = self.input.from;
            let layout = match self.rules.check(&common) {
                Ok(layout) => layout,
                Err(violation) => return Err(self.blame(violation)),
            };
            let needed = match layout.pdu_type {
                PduType::C2H_DATA => layout.data_at,
                _ => layout.total,
            };
            if have < needed as usize {
                return Ok(None);
            }
            if layout.header_digest {
                self.check_header_digest(&layout)?;
            }
            match layout.pdu_type {
                PduType::C2H_DATA => {
                    let payload = self.begin_payload(common.flags, layout.data)?;
                    self.payload = Some(payload);
                }
                PduType::CAPSULE_RESPONSE => {
                    let response: CapsuleResponse = self.header()?;
                    self.input.consume(needed as usize);
                    if let Some(completion) = self.respond(&response)? {
                        return Ok(Some(completion));
                    }
                    continue;
                }
                PduType::R2T => {
                    let request: R2T = self.header()?;
                    self.request(&request)?;
                }
                PduType::IC_RESP => {
                    let response: IcResp = self.header()?;
                    self.initialize(&response)?;
                }
                // Nothing else comes from a controller (`Rules`).
                _ => {
                    let request: TermReq = self.header()?;
                    return Err(LinkError::Terminated(request.violation()));
                }
            }
            self.input.consume(needed as usize);
        }
    }

    #[inline]
    fn header<T: FromBytes>(&mut self) -> Result<T, LinkError> {
        match T::read_from_prefix(self.input.available()) {
            Ok((header, _)) => Ok(header),
            // All of it is there.
            Err(_) => Err(self.blame(Violation::field(offset::HLEN))),
        }
    }

    fn check_header_digest(&mut self, layout: &Layout) -> Result<(), LinkError> {
        let available = self.input.available();
        let (Some(header), Some(sent)) = (
            available.get(..layout.header as usize),
            available.get(layout.header as usize..).and_then(|rest| rest.first_chunk()),
        ) else {
            return Ok(());
        };
        let sent = u32::from_le_bytes(*sent);
        if digest::crc32c(header) == sent {
            return Ok(());
        }
        Err(self.blame(Violation::header_digest(sent)))
    }

    #[inline]
    fn begin_payload(&mut self, flags: PduFlags, data: u32) -> Result<Payload, LinkError> {
        let header: C2HData = self.header()?;
        let cid = header.cccid.get();
        let (from, len) = (header.datao.get(), header.datal.get());
        if len != data {
            return Err(self.blame(Violation::field(offset::DATAL)));
        }
        let command = self.find(cid)?;
        // In order and without gaps, as every target sends them.
        let inside = command.to_host && from == command.received;
        let Some(whole) = command.data.part(from as usize, len as usize).filter(|_| inside) else {
            return Err(self.blame(Violation::RANGE));
        };
        self.input.large = whole.len() >= LARGE;
        Ok(Payload { cid, whole, rest: whole, flags })
    }

    /// Whether this is the header of a C2HData in its plainest form, to which the rules would say nothing else. By far
    /// the most frequent one: the rules in full take a while.
    #[inline(always)]
    fn is_plain_data(&self, header: &CommonHeader) -> bool {
        const ENDINGS: u8 = PduFlags::new().with_last(true).with_success(true).into_bits();
        const SUCCESS: u8 = PduFlags::new().with_success(true).into_bits();
        let flags = header.flags.into_bits();
        self.plain
            && header.pdu_type == PduType::C2H_DATA
            && usize::from(header.hlen) == PLAIN_HEADER
            && usize::from(header.pdo) == PLAIN_HEADER
            && flags & !ENDINGS == 0
            // Success is the last one's to say.
            && flags != SUCCESS
            && header.plen.get() as usize > PLAIN_HEADER
    }

    /// Moves a payload that is there in full, and has no digest.
    #[inline(always)]
    fn take_whole(&mut self, payload: Payload) -> Option<Completion> {
        let Payload { cid, mut whole, flags, .. } = payload;
        let count = whole.len();
        if let Some(from) = self.input.available().get(..count) {
            whole.bytes_mut().copy_from_slice(from);
        }
        self.input.consume(count);
        let command = self.commands.get_mut(usize::from(cid & self.mask))?;
        command.received += count as u32;
        if !flags.success() {
            return None;
        }
        self.complete(cid, Status::SUCCESS, 0)
    }

    /// Moves what has come of the payload to its place.
    #[inline]
    fn take_payload(&mut self) -> Progress {
        let Some(mut payload) = self.payload else { return Progress::Done(None) };
        let available = self.input.available();
        let count = payload.rest.len().min(available.len());
        if count > 0 {
            if let (Some(to), Some(from)) =
                (payload.rest.bytes_mut().get_mut(..count), available.get(..count))
            {
                to.copy_from_slice(from);
            }
            let rest = payload.rest.len() - count;
            payload.rest = payload.rest.part(count, rest).unwrap_or(Piece::NONE);
            self.input.consume(count);
            self.payload = Some(payload);
        }
        if payload.rest.len() > 0 {
            return Progress::More;
        }
        let mut intact = true;
        if payload.flags.ddgst() {
            let Some(sent) = self.input.available().first_chunk() else { return Progress::More };
            intact = digest::crc32c(payload.whole.bytes()) == u32::from_le_bytes(*sent);
            self.input.consume(digest::SIZE);
        }
        self.payload = None;
        let Payload { cid, whole, flags, .. } = payload;
        let Ok(command) = self.find(cid) else { return Progress::Done(None) };
        command.received += whole.len() as u32;
        command.corrupt |= !intact;
        if !flags.success() {
            return Progress::Done(None);
        }
        Progress::Done(self.complete(cid, Status::SUCCESS, 0))
    }

    #[inline]
    fn respond(&mut self, response: &CapsuleResponse) -> Result<Option<Completion>, LinkError> {
        let cqe = &response.cqe;
        self.find(cqe.cid)?;
        Ok(self.complete(cqe.cid, cqe.status(), cqe.result()))
    }

    /// The command `cid`, which is in flight, has been answered. `None` if its data have not all left yet.
    #[inline]
    fn complete(&mut self, cid: u16, status: Status, result: u64) -> Option<Completion> {
        let sent = self.outbox.position();
        let command = self.commands.get_mut(usize::from(cid & self.mask))?;
        let status = match status.is_success() {
            true if command.corrupt => Status::TRANSIENT_TRANSPORT_ERROR,
            true if command.exact
                && command.to_host
                && (command.received as usize) < command.data.len() =>
            {
                Status::DATA_TRANSFER_ERROR
            }
            _ => status,
        };
        let completion = Completion { cid, status, result, outcome: Outcome::of(status) };
        if sent < command.busy_until {
            // The socket may still read the buffer: it goes back when it cannot.
            command.phase = Phase::Answered;
            self.held.push(completion);
            return None;
        }
        command.phase = Phase::Idle;
        command.data = Piece::NONE;
        Some(completion)
    }

    #[cold]
    fn take_held(&mut self) -> Option<Completion> {
        let sent = self.outbox.position();
        let free = |cid: u16| {
            let command = self.commands.get(usize::from(cid & self.mask));
            command.is_none_or(|command| sent >= command.busy_until)
        };
        let index = self.held.iter().position(|completion| free(completion.cid))?;
        let completion = self.held.swap_remove(index);
        self.finish(completion.cid);
        Some(completion)
    }

    fn request(&mut self, request: &R2T) -> Result<(), LinkError> {
        let most = u32::from(self.parameters.maxr2t_z) + 1;
        let (from, len) = (request.r2to.get(), request.r2tl.get());
        let cid = request.cccid.get();
        let command = self.find(cid)?;
        if u32::from(command.requests) >= most {
            return Err(self.blame(Violation::LIMIT));
        }
        let requested = command.requested.checked_add(len);
        let fits = requested.is_some_and(|all| all as usize <= command.data.len())
            && command.data.part(from as usize, len as usize).is_some();
        if len == 0 || !fits || !command.by_request {
            return Err(self.blame(Violation::RANGE));
        }
        command.requests += 1;
        command.requested += len;
        self.transfers.push_back(Transfer {
            cid,
            ttag: request.ttag.get(),
            offset: from,
            left: len,
        });
        self.answer_requests();
        Ok(())
    }
}

/// What became of a payload.
enum Progress {
    /// More must come.
    More,
    /// It is complete, and perhaps its command.
    Done(Option<Completion>),
}
