//! A connection against a controller that the test scripts: bytes split everywhere, digests, R2Ts, lies, losses.

use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use doorbell_spec::completion::Cqe;
use doorbell_spec::fabrics::pdu::{C2HData, CapsuleResponse, Fes, IcResp, R2T, offset};
use doorbell_spec::nvm;
use zerocopy::FromBytes;

use super::*;
use crate::memory::tests::any_memory;
use crate::memory::{Buffer, DmaMemory};
use crate::transport::Data;

/// A PDU of the host, taken apart.
#[derive(Debug, Clone, PartialEq)]
struct Pdu {
    kind: PduType,
    header: Vec<u8>,
    data: Vec<u8>,
}

/// The controller's end, as far as the tests need one.
struct Peer {
    rules: Rules,
    framing: Framing,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

const MAXH2CDATA: u32 = 4096;

impl Peer {
    fn new(digests: Digests, cpda_z: u8, hpda_z: u8) -> Self {
        let framing = |pda_z: u8| Framing {
            header_digest: digests.header(),
            data_digest: digests.data(),
            alignment: 4 * (u32::from(pda_z) + 1),
        };
        let rules = Rules {
            sender: Side::Host,
            initialized: false,
            framing: framing(cpda_z),
            max_in_capsule: 8192,
            max_data: MAXH2CDATA,
        };
        Self { rules, framing: framing(hpda_z), inbox: Vec::new(), outbox: Vec::new() }
    }

    /// The next PDU of the host, checked by the rules for controllers.
    fn take(&mut self) -> Option<Pdu> {
        let (common, _) = CommonHeader::read_from_prefix(&self.inbox).ok()?;
        let layout = self.rules.check(&common).expect("the host keeps to the rules");
        if self.inbox.len() < layout.total as usize {
            return None;
        }
        let pdu: Vec<u8> = self.inbox.drain(..layout.total as usize).collect();
        let (header, rest) = pdu.split_at(layout.header as usize);
        if layout.header_digest {
            assert_eq!(rest[..4], digest::crc32c(header).to_le_bytes());
        }
        let (from, to) = (layout.data_at as usize, (layout.data_at + layout.data) as usize);
        if layout.data_digest {
            assert_eq!(pdu[to..], digest::crc32c(&pdu[from..to]).to_le_bytes());
        }
        self.rules.initialized = true;
        Some(Pdu { kind: layout.pdu_type, header: header.to_vec(), data: pdu[from..to].to_vec() })
    }

    fn send(&mut self, common: CommonHeader, header: &[u8], data: &[u8]) {
        let start = self.outbox.len();
        self.outbox.extend(header);
        if common.flags.hdgst() {
            self.outbox.extend(digest::crc32c(header).to_le_bytes());
        }
        if !data.is_empty() {
            self.outbox.resize(start + usize::from(common.pdo), 0);
            self.outbox.extend(data);
            if common.flags.ddgst() {
                self.outbox.extend(digest::crc32c(data).to_le_bytes());
            }
        }
        assert_eq!(self.outbox.len() - start, common.plen.get() as usize);
    }

    fn initialize(&mut self, digests: Digests, cpda_z: u8) {
        let response = IcResp::new(digests, cpda_z, MAXH2CDATA);
        self.outbox.extend(response.as_bytes());
    }

    fn data(&mut self, cid: u16, from: u32, data: &[u8], flags: PduFlags) {
        let common = self.framing.header(PduType::C2H_DATA, flags, data.len() as u32);
        let header = C2HData::new(common, cid, from, data.len() as u32);
        self.send(common, header.as_bytes(), data);
    }

    fn respond(&mut self, cid: u16, status: Status) {
        let common = self.framing.header(PduType::CAPSULE_RESPONSE, PduFlags::new(), 0);
        let status = doorbell_spec::completion::StatusField::new(status, false);
        let cqe = Cqe { cid, status, ..Cqe::default() };
        self.send(common, CapsuleResponse { common, cqe }.as_bytes(), &[]);
    }

    fn request(&mut self, cid: u16, ttag: u16, from: u32, len: u32) {
        let common = self.framing.header(PduType::R2T, PduFlags::new(), 0);
        self.send(common, R2T::new(common, cid, ttag, from, len).as_bytes(), &[]);
    }
}

struct Pair {
    host: Connection,
    peer: Peer,
    digests: Digests,
    cpda_z: u8,
    /// Bytes moved at once, either way.
    step: usize,
    done: Vec<Completion>,
}

fn parameters(digests: Digests, hpda_z: u8) -> Parameters {
    Parameters { depth: 4, digests, hpda_z, maxr2t_z: 3, max_in_capsule: 8192, input: 8192 }
}

fn pair(digests: Digests, cpda_z: u8, hpda_z: u8, step: usize) -> Pair {
    let host = Connection::new(parameters(digests, hpda_z));
    let peer = Peer::new(digests, cpda_z, hpda_z);
    let mut pair = Pair { host, peer, digests, cpda_z, step, done: Vec::new() };
    pair.deliver().unwrap();
    assert_eq!(pair.peer.take().map(|pdu| pdu.kind), Some(PduType::IC_REQ));
    pair.peer.initialize(pair.digests, pair.cpda_z);
    pair.deliver().unwrap();
    assert!(pair.host.is_initialized());
    pair
}

impl Pair {
    /// Moves what waits, both ways, until nothing does.
    fn deliver(&mut self) -> Result<(), LinkError> {
        loop {
            let mut moved = false;
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.host.output(&mut slices);
            let sent: Vec<u8> =
                slices[..count].iter().flat_map(|it| it.iter().copied()).take(self.step).collect();
            if !sent.is_empty() {
                self.peer.inbox.extend(&sent);
                self.host.sent(sent.len());
                moved = true;
            }
            while let Some(completion) = self.host.next()? {
                self.done.push(completion);
            }
            let (first, second) = self.host.space();
            let count = self.peer.outbox.len().min(self.step).min(first.len() + second.len());
            let mut bytes = self.peer.outbox.drain(..count);
            for (to, from) in first.iter_mut().chain(second).zip(&mut bytes) {
                *to = from;
            }
            drop(bytes);
            if count > 0 {
                self.host.received(count);
                moved = true;
            }
            if !moved && !self.host.has_output() {
                return Ok(());
            }
        }
    }

    fn stage(&mut self, slot: u16, sqe: Sqe, buffer: &Buffer) -> u16 {
        let cid = slot | 4;
        self.host.stage(slot, cid, sqe, Piece::of(Data::of(buffer)), true);
        cid
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn buffer(len: usize, seed: u8) -> Buffer {
    static MEMORY: OnceLock<Arc<DmaMemory>> = OnceLock::new();
    let mut buffer = MEMORY.get_or_init(any_memory).allocate(len).unwrap();
    buffer.copy_from_slice(&pattern(len, seed));
    buffer
}

fn every_digest() -> Vec<Digests> {
    let bits: &[u8] = if cfg!(miri) { &[0, 3] } else { &[0, 1, 2, 3] };
    bits.iter().copied().map(Digests::from_bits).collect()
}

const LAST: PduFlags = PduFlags::new().with_last(true);
const SUCCESS: PduFlags = PduFlags::new().with_last(true).with_success(true);

/// Bytes of a long read; fewer where each takes a thousand times as long.
const LONG: usize = if cfg!(miri) { 4_000 } else { 40_000 };

#[test]
fn reads_arrive_whole_however_the_bytes_are_split() {
    for digests in every_digest() {
        for (step, hpda_z) in [(1, 0), (3, 0), (24, 7), (100, 31), (4096, 0), (1 << 20, 3)] {
            if cfg!(miri) && step != 4096 {
                continue;
            }
            let mut pair = pair(digests, 0, hpda_z, step);
            let (small, large) = (buffer(512, 0), buffer(LONG, 0));
            let first = pair.stage(0, nvm::read(1, 0, 0), &small);
            let second = pair.stage(1, nvm::read(1, 8, 0), &large);
            pair.deliver().unwrap();
            assert_eq!(pair.peer.take().unwrap().kind, PduType::CAPSULE_COMMAND);
            let capsule = pair.peer.take().unwrap();
            let sqe = Sqe::read_from_bytes(&capsule.header[8..]).unwrap();
            assert_eq!((sqe.cid(), sqe.sgl()), (second, Sgl::transport(LONG as u32)));
            let (data, more) = (pattern(LONG, 9), pattern(512, 7));
            pair.peer.data(second, 0, &data[..LONG - 500], PduFlags::new());
            pair.peer.data(first, 0, &more, SUCCESS);
            pair.peer.data(second, (LONG - 500) as u32, &data[LONG - 500..], LAST);
            pair.peer.respond(second, Status::SUCCESS);
            pair.deliver().unwrap();
            let cids: Vec<u16> = pair.done.iter().map(|done| done.cid).collect();
            assert_eq!(cids, [first, second], "{digests:?} step {step}");
            assert!(pair.done.iter().all(|done| done.status.is_success()));
            assert!(*small == more && *large == data);
        }
    }
}

#[test]
fn writes_leave_whole_in_capsule_and_by_request() {
    // More than a capsule carries; where its data are divided.
    let (long, split) = if cfg!(miri) { (9_000, 6_000) } else { (30_000, 20_000) };
    for digests in every_digest() {
        for (step, cpda_z) in [(1, 0), (7, 1), (4096, 31), (1 << 20, 0)] {
            if cfg!(miri) && step != 4096 {
                continue;
            }
            let mut pair = pair(digests, cpda_z, 0, step);
            let (small, large) = (buffer(8192, 1), buffer(long, 2));
            let first = pair.stage(0, nvm::write(1, 0, 0), &small);
            let second = pair.stage(1, nvm::write(1, 8, 0), &large);
            pair.deliver().unwrap();
            let capsule = pair.peer.take().unwrap();
            assert_eq!(capsule.data, *small);
            assert!(pair.peer.take().unwrap().data.is_empty(), "too long for the capsule");
            // Two R2Ts at once, the later part first.
            pair.peer.request(second, 7, split as u32, (long - split) as u32);
            pair.peer.request(second, 8, 0, split as u32);
            pair.deliver().unwrap();
            let mut written = vec![0; long];
            let mut lasts = 0;
            while let Some(pdu) = pair.peer.take() {
                let header = H2CData::read_from_bytes(&pdu.header).unwrap();
                assert_eq!(header.cccid.get(), second);
                let from = header.datao.get() as usize;
                assert_eq!(header.ttag.get(), if from >= split { 7 } else { 8 });
                assert!(pdu.data.len() <= MAXH2CDATA as usize);
                written[from..from + pdu.data.len()].copy_from_slice(&pdu.data);
                lasts += u32::from(header.common.flags.last());
            }
            let differs = written.iter().zip(large.iter()).position(|(a, b)| a != b);
            assert_eq!((differs, lasts), (None, 2), "{digests:?} step {step}");
            pair.peer.respond(first, Status::SUCCESS);
            pair.peer.respond(second, Status::CAPACITY_EXCEEDED);
            pair.deliver().unwrap();
            assert!(pair.done[0].status.is_success());
            assert!(pair.done[1].status.is(Status::CAPACITY_EXCEEDED));
        }
    }
}

#[test]
fn a_buffer_comes_back_only_when_its_bytes_have_left() {
    let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
    let data = buffer(30_000, 2);
    let cid = pair.stage(0, nvm::write(1, 8, 0), &data);
    pair.deliver().unwrap();
    pair.peer.request(cid, 7, 0, 30_000);
    // The controller gives the command up while the host still sends.
    pair.peer.respond(cid, Status::INTERNAL_ERROR);
    let bytes = std::mem::take(&mut pair.peer.outbox);
    let (_, space) = pair.host.space();
    space[..bytes.len()].copy_from_slice(&bytes);
    pair.host.received(bytes.len());
    assert_eq!(pair.host.next(), Ok(None), "the data still wait in the outbox");
    let mut slices = [IoSlice::new(&[]); 64];
    let count = pair.host.output(&mut slices);
    let all: usize = slices[..count].iter().map(|slice| slice.len()).sum();
    pair.host.sent(all - 1);
    assert_eq!(pair.host.next(), Ok(None));
    pair.host.sent(1);
    assert!(pair.host.next().unwrap().is_some_and(|done| done.cid == cid));
    assert!(!pair.host.is_busy());
}

#[test]
fn data_with_a_wrong_digest_fail_their_command_alone() {
    let mut pair = pair(Digests::new().with_data(true), 0, 0, 1 << 20);
    let (bad, good) = (buffer(512, 0), buffer(512, 0));
    let first = pair.stage(0, nvm::read(1, 0, 0), &bad);
    let second = pair.stage(1, nvm::read(1, 0, 0), &good);
    pair.deliver().unwrap();
    pair.peer.data(first, 0, &pattern(512, 1), SUCCESS);
    *pair.peer.outbox.last_mut().unwrap() ^= 1;
    pair.peer.data(second, 0, &pattern(512, 1), LAST);
    pair.peer.respond(second, Status::SUCCESS);
    pair.deliver().unwrap();
    assert!(pair.done[0].status.is(Status::TRANSIENT_TRANSPORT_ERROR));
    assert!(pair.done[1].status.is_success());
}

#[test]
fn success_with_too_little_data_is_none() {
    let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
    let data = buffer(512, 0);
    let cid = pair.stage(0, nvm::read(1, 0, 0), &data);
    pair.deliver().unwrap();
    pair.peer.data(cid, 0, &pattern(508, 1), SUCCESS);
    pair.deliver().unwrap();
    assert!(pair.done[0].status.is(Status::DATA_TRANSFER_ERROR));
}

/// What the target does, and what the TermReq says of it: `None` where there is none.
fn lie(tell: impl FnOnce(&mut Pair, u16, u16)) -> (LinkError, Option<(Fes, u32)>) {
    let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
    let (read, write) = (buffer(512, 0), buffer(16_384, 0));
    let cids =
        (pair.stage(0, nvm::read(1, 0, 0), &read), pair.stage(1, nvm::write(1, 0, 0), &write));
    pair.deliver().unwrap();
    tell(&mut pair, cids.0, cids.1);
    let error = pair.deliver().expect_err("a lie");
    let said = pair.host.termination().map(|bytes| {
        let (request, _) = TermReq::read_from_prefix(&bytes).unwrap();
        assert_eq!(request.common.pdu_type, PduType::H2C_TERM_REQ);
        assert_eq!(request.common.plen.get() as usize, bytes.len());
        assert!(bytes.len() > 24 && bytes.len() <= 152);
        (request.violation().fes, request.violation().fei)
    });
    (error, said)
}

#[test]
fn every_lie_of_the_target_is_told_from_the_truth() {
    let said = |tell: fn(&mut Pair, u16, u16)| lie(tell).1;
    let out_of_range = Some((Fes::OUT_OF_RANGE, 0));
    assert_eq!(said(|pair, read, _| pair.peer.data(read, 4, &[0; 8], LAST)), out_of_range, "a gap");
    assert_eq!(said(|pair, read, _| pair.peer.data(read, 0, &[0; 513], LAST)), out_of_range);
    assert_eq!(said(|pair, read, _| pair.peer.data(read, u32::MAX, &[0; 8], LAST)), out_of_range);
    assert_eq!(said(|pair, _, write| pair.peer.data(write, 0, &[0; 8], LAST)), out_of_range);
    assert_eq!(said(|pair, read, _| pair.peer.request(read, 1, 0, 512)), out_of_range);
    assert_eq!(said(|pair, _, write| pair.peer.request(write, 1, 0, 0)), out_of_range);
    assert_eq!(said(|pair, _, write| pair.peer.request(write, 1, 16_380, 8)), out_of_range);
    assert_eq!(said(|pair, _, write| pair.peer.request(write, 1, u32::MAX, 8)), out_of_range);
    let twice = |pair: &mut Pair, _, write| {
        pair.peer.request(write, 1, 0, 16_384);
        pair.peer.request(write, 2, 0, 4);
    };
    assert_eq!(said(twice), out_of_range, "more than there is");
    let length = |pair: &mut Pair, read, _| {
        pair.peer.data(read, 0, &[0; 8], LAST);
        pair.peer.outbox[16] = 4;
    };
    assert_eq!(said(length), Some((Fes::INVALID_HEADER_FIELD, offset::DATAL)));
    let success = |pair: &mut Pair, read, _| {
        pair.peer.data(read, 0, &[0; 512], PduFlags::new().with_success(true));
    };
    assert_eq!(said(success), Some((Fes::INVALID_HEADER_FIELD, offset::FLAGS)), "without LAST");
    let offset_of_data = |pair: &mut Pair, read, _| {
        pair.peer.data(read, 0, &[0; 512], LAST);
        pair.peer.outbox[3] = 23;
    };
    assert_eq!(said(offset_of_data), Some((Fes::INVALID_HEADER_FIELD, offset::PDO)));
    let again = |pair: &mut Pair, _, _| pair.peer.initialize(Digests::new(), 0);
    assert_eq!(said(again), Some((Fes::SEQUENCE, 0)));

    let unknown =
        |tell: fn(&mut Pair, u16, u16)| matches!(lie(tell).0, LinkError::UnknownCommand { .. });
    assert!(unknown(|pair, read, _| pair.peer.respond(read ^ 4, Status::SUCCESS)), "a generation");
    assert!(unknown(|pair, _, _| pair.peer.respond(3, Status::SUCCESS)), "an idle slot");
    assert!(unknown(|pair, _, _| pair.peer.data(0xffff, 0, &[0; 8], LAST)));
    assert!(unknown(|pair, _, _| pair.peer.request(3, 0, 0, 8)));
    assert!(unknown(|pair, read, _| {
        pair.peer.respond(read, Status::SUCCESS);
        pair.peer.respond(read, Status::SUCCESS);
    }));
}

#[test]
#[cfg_attr(miri, ignore = "megabytes, byte by byte")]
fn more_requests_than_were_offered_end_the_connection() {
    let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
    let data = buffer(4 << 20, 0);
    let cid = pair.stage(1, nvm::write(1, 0, 0), &data);
    pair.deliver().unwrap();
    // The first takes more than the outbox holds, so that it and what follows stay outstanding.
    pair.peer.request(cid, 0, 0, 3 << 20);
    for ttag in 1..=4 {
        pair.peer.request(cid, ttag, u32::from(ttag) * 8, 8);
    }
    let bytes = std::mem::take(&mut pair.peer.outbox);
    pair.host.space().1[..bytes.len()].copy_from_slice(&bytes);
    pair.host.received(bytes.len() - 24);
    assert_eq!(pair.host.next(), Ok(None), "four were offered");
    pair.host.received(24);
    assert_eq!(pair.host.next(), Err(LinkError::Protocol(Violation::LIMIT)));
}

#[test]
fn refusals_of_the_connection_are_told() {
    let reply = |digests: Digests, response: IcResp| {
        let mut host = Connection::new(parameters(digests, 0));
        let (_, space) = host.space();
        space[..128].copy_from_slice(response.as_bytes());
        host.received(128);
        host.next().unwrap_err()
    };
    let asked = Digests::new().with_header(true);
    assert_eq!(reply(asked, IcResp::new(Digests::new(), 0, 4096)), LinkError::Digests);
    assert_eq!(reply(Digests::new(), IcResp::new(asked, 0, 4096)), LinkError::Digests);
    let field = |at| LinkError::Protocol(Violation::field(at));
    assert_eq!(reply(asked, IcResp::new(asked, 32, 4096)), field(offset::PDA));
    assert_eq!(reply(asked, IcResp::new(asked, 0, 4095)), field(offset::MAX));
    let mut host = Connection::new(parameters(asked, 0));
    let request = TermReq::new(PduType::C2H_TERM_REQ, Violation::field(offset::PFV), 0);
    host.space().1[..24].copy_from_slice(request.as_bytes());
    host.received(24);
    assert_eq!(host.next(), Err(LinkError::Terminated(Violation::field(offset::PFV))));
}

#[test]
fn no_byte_changed_on_the_way_passes_for_good_data() {
    let digests = Digests::new().with_header(true).with_data(true);
    let data = pattern(64, 3);
    let script = |pair: &mut Pair, read: u16| {
        pair.peer.data(read, 0, &data[..32], PduFlags::new());
        pair.peer.data(read, 32, &data[32..], LAST);
        pair.peer.respond(read, Status::SUCCESS);
    };
    let mut sample = pair(digests, 0, 0, 1 << 20);
    let room = buffer(64, 0);
    let read = sample.stage(0, nvm::read(1, 0, 0), &room);
    sample.deliver().unwrap();
    script(&mut sample, read);
    let bits = sample.peer.outbox.len() * 8;
    let mut failed = 0;
    let step = if cfg!(miri) { 97 } else { 1 };
    let mut tried = 0;
    for bit in (0..bits).step_by(step) {
        tried += 1;
        let mut pair = pair(digests, 0, 0, 1 << 20);
        let room = buffer(64, 0);
        let read = pair.stage(0, nvm::read(1, 0, 0), &room);
        pair.deliver().unwrap();
        script(&mut pair, read);
        pair.peer.outbox[bit / 8] ^= 1 << (bit % 8);
        let ended = pair.deliver();
        let passed = pair.done.iter().any(|done| done.status.is_success());
        // A bit beyond the PDU's own length leaves the rest waiting for more.
        failed += u32::from(ended.is_err() || !passed);
        assert!(!passed || *room == data, "bit {bit}");
    }
    assert_eq!(failed, tried, "every bit is covered by a digest or a rule");
}

#[test]
fn what_became_of_a_command_is_what_the_socket_took_of_it() {
    for taken in (0..=3 * 72).step_by(if cfg!(miri) { 35 } else { 1 }) {
        let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
        let data = buffer(512, 0);
        let cids = [0, 1, 2].map(|slot| pair.stage(slot, nvm::read(1, 0, 0), &data));
        pair.host.sent(taken);
        let mut ended = Vec::new();
        while let Some(done) = pair.host.give_up() {
            ended.push((done.cid, done.outcome));
        }
        let expected = |index: usize| match taken > index * 72 {
            true => Outcome::Indeterminate,
            false => Outcome::NotSent,
        };
        let expected: Vec<_> =
            cids.iter().enumerate().map(|(index, &cid)| (cid, expected(index))).collect();
        assert_eq!(ended, expected, "{taken} bytes taken: each command once");
    }
}

#[test]
fn a_command_that_was_aborted_is_told_from_one_that_failed() {
    for (status, outcome) in [
        (Status::ABORTED_BY_REQUEST, Outcome::Aborted),
        (Status::ABORTED_SQ_DELETION, Outcome::Completed),
        (Status::LBA_OUT_OF_RANGE, Outcome::Completed),
    ] {
        let mut pair = pair(Digests::new(), 0, 0, 1 << 20);
        let cid = pair.stage(0, nvm::flush(1), &buffer(512, 0));
        pair.deliver().unwrap();
        pair.peer.respond(cid, status);
        pair.deliver().unwrap();
        let ended: Vec<_> = pair.done.iter().map(|done| (done.status, done.outcome)).collect();
        assert_eq!(ended, [(status, outcome)]);
    }
}
