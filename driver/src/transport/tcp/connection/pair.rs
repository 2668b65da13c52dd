//! Both ends of the protocol in virtual time: this connection and the subsystem's, without a socket between them.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::fabrics::command::{ConnectCdw11, connect, property_set};
use doorbell_spec::fabrics::connect::{CNTLID_DYNAMIC, ConnectResult};
use doorbell_spec::nvm;
use doorbell_spec::register::{Cc, offset};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp;
use doorbell_subsystem::{NamespaceSpec, Subsystem};

use super::*;
use crate::memory::tests::any_memory;
use crate::memory::{Buffer, DmaMemory};
use crate::transport::Data;

const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:0c0ffee0-0000-4000-8000-000000000003";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:0c0ffee0-0000-4000-8000-000000000004";

/// Bytes that pass at once, either way.
#[derive(Clone, Copy, Debug)]
enum Flow {
    Steps(usize),
    /// All but for one cut, so many bytes from the start of what the port sends.
    Cut(usize),
}

struct Wire {
    host: Connection,
    port: tcp::Connection,
    flow: Flow,
    /// Bytes that the port has sent.
    passed: usize,
}

fn memory(len: usize) -> Buffer {
    static MEMORY: OnceLock<Arc<DmaMemory>> = OnceLock::new();
    MEMORY.get_or_init(any_memory).allocate(len).unwrap()
}

fn target() -> Arc<Target> {
    let namespace = NamespaceSpec::memory(4 << 20, 512).open().unwrap();
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    Target::new(subsystem, Limits::default()).unwrap()
}

impl Wire {
    fn new(target: &Arc<Target>, digests: Digests, hpda_z: u8, flow: Flow) -> Self {
        let local: SocketAddr = ([127, 0, 0, 1], 4420).into();
        let port = tcp::Connection::new(target, local, Duration::ZERO).unwrap();
        let parameters = Parameters {
            depth: 8,
            digests,
            hpda_z,
            maxr2t_z: 3,
            max_in_capsule: 8192,
            input: 16 << 10,
        };
        Self { host: Connection::new(parameters), port, flow, passed: 0 }
    }

    /// Moves bytes until `count` completions have come.
    fn run(&mut self, count: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        let mut idle = 0;
        while done.len() < count {
            while let Some(completion) = self.host.next().expect("both keep to the protocol") {
                done.push(completion);
            }
            let step = match self.flow {
                Flow::Steps(step) => step,
                Flow::Cut(at) if self.passed < at => at - self.passed,
                Flow::Cut(_) => usize::MAX,
            };
            let mut slices = [IoSlice::new(&[]); 16];
            let pieces = self.host.output(&mut slices);
            let room = self.port.room();
            let mut sent = 0;
            for (to, from) in room
                .iter_mut()
                .zip(slices[..pieces].iter().flat_map(|slice| slice.iter()).take(step.min(1 << 20)))
            {
                *to = *from;
                sent += 1;
            }
            if sent > 0 {
                self.host.sent(sent);
                self.port.received(sent);
            }
            self.port.step(Duration::from_secs(1));
            let (first, second) = self.host.space();
            let mut crossing = Vec::new();
            let took = self.port.transmit_to(&mut crossing, step.min(first.len() + second.len()));
            for (to, from) in first.iter_mut().chain(second).zip(&crossing) {
                *to = *from;
            }
            self.host.received(took);
            self.passed += took;
            idle = if sent + took == 0 { idle + 1 } else { 0 };
            assert!(idle < 100, "nothing moves; {:?}", self.port.end());
        }
        assert_eq!(done.len(), count);
        done
    }

    fn connect(&mut self, qid: u16, cntlid: u16) -> ConnectResult {
        while !self.host.is_initialized() {
            self.exchange();
        }
        let command = connect(qid, ConnectCdw11::new().with_sqsize_z(8), 0);
        self.host.stage_connect(command, &ConnectData::new([7; 16], cntlid, NQN, HOST));
        let done = self.run(1)[0];
        assert!(done.status.is_success(), "{done:?}");
        ConnectResult::from_bits(done.result as u32)
    }

    /// Moves what there is once, for as long as no command is in flight.
    fn exchange(&mut self) {
        let mut slices = [IoSlice::new(&[]); 16];
        let pieces = self.host.output(&mut slices);
        let bytes: Vec<u8> = slices[..pieces].iter().flat_map(|it| it.iter().copied()).collect();
        self.port.room()[..bytes.len()].copy_from_slice(&bytes);
        self.port.received(bytes.len());
        self.host.sent(bytes.len());
        self.port.step(Duration::ZERO);
        let mut crossing = Vec::new();
        self.port.transmit_to(&mut crossing, usize::MAX);
        self.host.space().1[..crossing.len()].copy_from_slice(&crossing);
        self.host.received(crossing.len());
        assert_eq!(self.host.next(), Ok(None));
    }

    fn one(&mut self, sqe: Sqe, data: Option<&Buffer>) -> Completion {
        let data = data.map_or(Piece::NONE, |buffer| Piece::of(Data::of(buffer)));
        self.host.stage(1, 9, sqe, data, true);
        self.run(1)[0]
    }
}

/// An admin queue of an enabled controller, and an I/O queue of it whose bytes flow as `flow` says.
fn pair(target: &Arc<Target>, digests: Digests, hpda_z: u8, flow: Flow) -> (Wire, Wire) {
    let mut admin = Wire::new(target, digests, hpda_z, Flow::Steps(1 << 20));
    let cntlid = admin.connect(0, CNTLID_DYNAMIC).cntlid();
    let cc = Cc::new().with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16).with_en(true);
    let enable = property_set(offset::CC as u32, 4, u32::from(cc).into());
    assert!(admin.one(enable, None).status.is_success());
    let mut io = Wire::new(target, digests, hpda_z, flow);
    assert_eq!(io.connect(1, cntlid).cntlid(), cntlid);
    io.passed = 0;
    (admin, io)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|index| (index + index / 512 + seed) as u8).collect()
}

/// Writes and reads `len` bytes; both must succeed and agree.
fn there_and_back(io: &mut Wire, len: usize, seed: usize) {
    let mut buffer = memory(len);
    buffer.copy_from_slice(&pattern(len, seed));
    let blocks_z = (len / 512 - 1) as u16;
    let written = io.one(nvm::write(1, 3, blocks_z), Some(&buffer));
    assert!(written.status.is_success(), "{written:?}");
    buffer.fill(0);
    let read = io.one(nvm::read(1, 3, blocks_z), Some(&buffer));
    assert!(read.status.is_success(), "{read:?}");
    assert!(*buffer == pattern(len, seed), "{len} bytes, {:?}", io.flow);
}

#[test]
fn both_ends_agree_however_the_bytes_flow() {
    let target = target();
    for digests in [0, 1, 2, 3].map(Digests::from_bits) {
        for (step, hpda_z) in [(1, 0), (5, 31), (72, 3), (4095, 0), (1 << 20, 1)] {
            let (admin, mut io) = pair(&target, digests, hpda_z, Flow::Steps(step));
            for (seed, len) in [512, 8192, 8704, 40 << 10, 300 << 10].into_iter().enumerate() {
                // One byte at a time is for short ones.
                if len / step <= 20_000 {
                    there_and_back(&mut io, len, seed);
                }
            }
            drop(admin);
        }
    }
}

#[test]
fn both_ends_agree_wherever_the_answers_are_cut() {
    let target = target();
    for digests in [0, 3].map(Digests::from_bits) {
        let (admin, mut io) = pair(&target, digests, 0, Flow::Steps(1 << 20));
        there_and_back(&mut io, 9216, 0);
        let all = io.passed;
        for at in 0..all {
            // The data in the middle are alike.
            if (200..all - 200).contains(&at) && at % 61 != 0 {
                continue;
            }
            (io.flow, io.passed) = (Flow::Cut(at), 0);
            there_and_back(&mut io, 9216, at);
        }
        drop(admin);
    }
}

#[test]
fn many_at_once_end_each_once() {
    let target = target();
    let (admin, mut io) = pair(&target, Digests::new().with_data(true), 0, Flow::Steps(1000));
    let buffers: Vec<Buffer> = (0..8).map(|_| memory(32 << 10)).collect();
    for round in 0..20u16 {
        for slot in 0..8u16 {
            let lba = u64::from(slot) * 64;
            let sqe = match round % 2 {
                0 => nvm::write(1, lba, 63),
                _ => nvm::read(1, lba, 63),
            };
            let data = Piece::of(Data::of(&buffers[usize::from(slot)]));
            io.host.stage(slot, slot | round << 3, sqe, data, true);
        }
        let mut cids: Vec<u16> = io.run(8).iter().map(|done| done.cid).collect();
        cids.sort_unstable();
        assert_eq!(cids, (0..8).map(|slot| slot | round << 3).collect::<Vec<u16>>());
    }
    assert!(!io.host.is_busy());
    drop(admin);
}

#[test]
fn a_command_that_the_controller_refuses_fails_alone() {
    let target = target();
    let (admin, mut io) = pair(&target, Digests::new(), 0, Flow::Steps(100));
    // In-capsule, by request, and to the host; and an opcode of another kind of queue.
    for len in [512usize, 40 << 10] {
        let buffer = memory(len);
        let blocks_z = (len / 512 - 1) as u16;
        let beyond = 1 << 40;
        for sqe in [nvm::write(1, beyond, blocks_z), nvm::read(1, beyond, blocks_z)] {
            assert!(io.one(sqe, Some(&buffer)).status.is(Status::LBA_OUT_OF_RANGE));
        }
        assert!(!io.one(nvm::write(7, 0, blocks_z), Some(&buffer)).status.is_success());
        assert!(!io.one(Sqe::new(AdminOpcode::KEEP_ALIVE.0), None).status.is_success());
        there_and_back(&mut io, len, 1);
    }
    drop(admin);
}
