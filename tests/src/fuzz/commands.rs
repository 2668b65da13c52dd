//! The controller, and what a host may put into its queues, registers and doorbells.
//!
//! Input: a byte of modes, and a list of steps: commands with some fields made plausible, commands of 64 bytes as they
//! are, guest memory, lists of pages, doorbells, registers, time. Whatever comes, the controller touches no memory that
//! it was not given, is done after so many rounds, completes what it was sent and that once, and works again after a
//! reset.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin;
use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::register::{Aqa, Cc, Csts, offset};
use doorbell_subsystem::{
    Controller, ControllerConfig, DoorbellMemory, InProcess, NamespaceSpec, Subsystem,
};

use super::Input;
use crate::ram::{PAGE, Ram};

/// Where data are mapped.
const DATA: u64 = 0x4000_0000;
/// Pages of them.
const DATA_PAGES: u64 = 24;
/// Where the rings are mapped: nothing but an address written out leads there.
const RINGS: u64 = 0x5e3a_91c7_d000;
/// Entries of each ring.
const ENTRIES: u16 = 16;
/// Rounds after which a controller is done, whatever it was sent.
const ROUNDS: u32 = 10_000;

const ADMIN: [u8; 20] = [
    0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x10, 0x11, 0x14, 0x15, 0x18,
    0x7c, 0x80, 0x84, 0xc0,
];
const IO: [u8; 10] = [0x00, 0x01, 0x02, 0x04, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x15];

/// One pair of queues as the host sees it: ring pages `2 * qid` and `2 * qid + 1`.
#[derive(Default)]
struct Pair {
    tail: u16,
    head: u16,
    /// The controller's head, as it last said.
    taken: u16,
    lap: bool,
    /// Commands sent and not completed, by identifier.
    open: HashMap<u16, u32>,
}

struct Guest {
    port: InProcess,
    data: Arc<Ram>,
    rings: Arc<Ram>,
    pairs: [Pair; 2],
    now: Duration,
    next: u16,
    /// Queues were changed, or doorbells written, by the input: completions may be of anything.
    wild: bool,
    /// The input knows where the rings are.
    overwritten: bool,
}

impl Guest {
    fn new(mode: u8, overwritten: bool) -> Self {
        let namespace = |spec: &str| {
            let spec: NamespaceSpec = spec.parse().expect("a namespace");
            spec.open().expect("memory")
        };
        let builder = Subsystem::builder().namespace(namespace("memory:128KiB"));
        let builder = if mode & 1 == 0 {
            builder.namespace(namespace("memory:64KiB,block=4096"))
        } else {
            builder.namespace(namespace("null:1TiB"))
        };
        let settings = ControllerConfig {
            max_io_queues: 3,
            vectors: 4,
            mqes_z: 63,
            mdts: 1 + (mode >> 1 & 3),
            dstrd: mode >> 3 & 1,
            doorbells: DoorbellMemory::Heap,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(builder.build(), settings).expect("a controller");
        let port = InProcess::stepped(controller);
        let (data, rings) = (Ram::new(DATA_PAGES as usize), Ram::new(4));
        data.map(&port, DATA).expect("mapped");
        rings.map(&port, RINGS).expect("mapped");
        let (pairs, now) = (Default::default(), Duration::ZERO);
        let mut guest = Self { port, data, rings, pairs, now, next: 0, wild: false, overwritten };
        guest.enable();
        guest
    }

    /// Resets the controller and sets its queues up. Works whatever was before.
    fn enable(&mut self) {
        let write = |at, width, value| self.port.write(at, width, value);
        write(offset::CC, 4, 0);
        self.port.step(self.now);
        assert!(!self.csts().rdy(), "{:?} after a reset", self.csts());
        for pair in 0..2 {
            self.rings.write((2 * pair + 1) * PAGE, &[0; ENTRIES as usize * size_of::<Cqe>()]);
        }
        self.pairs = Default::default();
        let aqa = Aqa::new().with_asqs_z(ENTRIES - 1).with_acqs_z(ENTRIES - 1);
        write(offset::AQA, 4, aqa.into_bits().into());
        write(offset::ASQ, 8, RINGS);
        write(offset::ACQ, 8, RINGS + PAGE as u64);
        let cc = Cc::new().with_css(Cc::CSS_NVM).with_iosqes(6).with_iocqes(4).with_en(true);
        write(offset::CC, 4, cc.into_bits().into());
        self.settle();
        assert!(self.csts().rdy() && !self.csts().cfs(), "{:?} once enabled", self.csts());
        let (sq, cq) = (RINGS + 2 * PAGE as u64, RINGS + 3 * PAGE as u64);
        self.must(admin::create_io_cq(1, ENTRIES - 1, None).with_prp(cq, 0));
        self.must(admin::create_io_sq(1, ENTRIES - 1, 1, 0).with_prp(sq, 0));
        self.wild = false;
    }

    fn csts(&self) -> Csts {
        Csts::from_bits(self.port.read(offset::CSTS, 4) as u32)
    }

    /// An admin command that succeeds.
    fn must(&mut self, sqe: Sqe) {
        let cid = self.next;
        self.send(0, sqe.with_cid(cid));
        self.settle();
        let last = self.reap(0);
        let done = last.is_some_and(|cqe| cqe.cid == cid && cqe.status().is_success());
        assert!(done || self.overwritten, "{last:?} for {sqe:?}");
    }

    /// Rounds until nothing is left to do.
    fn settle(&mut self) {
        let taken = (0..ROUNDS).find(|_| self.port.step(self.now) == 0);
        assert!(taken.is_some(), "the controller is never done");
    }

    fn doorbell(&self, qid: u16, completion: bool) -> usize {
        usize::from(2 * qid + u16::from(completion)) << self.port.config().dstrd
    }

    /// Sends a command as it is, if there is room.
    fn send(&mut self, qid: u16, sqe: Sqe) {
        let bell = self.doorbell(qid, false);
        let pair = &mut self.pairs[usize::from(qid)];
        let tail = (pair.tail + 1) % ENTRIES;
        if tail == pair.taken {
            return;
        }
        let bytes = sqe.to_words().map(u64::to_le_bytes).concat();
        let at = usize::from(2 * qid) * PAGE + usize::from(pair.tail) * size_of::<Sqe>();
        self.rings.write(at, &bytes);
        *pair.open.entry(sqe.cid()).or_default() += 1;
        pair.tail = tail;
        self.next = self.next.wrapping_add(1);
        // What comes of other queues, or of this one set up anew, is not known here.
        let queues = [0x00, 0x01, 0x04, 0x05, 0x7c];
        self.wild |= qid == 0 && queues.contains(&sqe.opcode());
        self.port.doorbells().store(bell, tail.into());
    }

    /// Takes what a queue has completed; the last of it.
    fn reap(&mut self, qid: u16) -> Option<Cqe> {
        let bell = self.doorbell(qid, true);
        let known = !self.wild && !self.overwritten;
        let mut last = None;
        for _ in 0..2 * ENTRIES {
            let pair = &mut self.pairs[usize::from(qid)];
            let mut bytes = [0; size_of::<Cqe>()];
            let at = usize::from(2 * qid + 1) * PAGE + usize::from(pair.head) * bytes.len();
            self.rings.read(at, &mut bytes);
            let (low, high) = bytes.split_at(8);
            let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("8 bytes"));
            let cqe = Cqe::from_words([word(low), word(high)]);
            if cqe.phase() == pair.lap {
                break;
            }
            pair.head = (pair.head + 1) % ENTRIES;
            pair.lap ^= pair.head == 0;
            if known {
                assert_eq!(cqe.sqid, qid, "{cqe:?}");
                assert!(cqe.sqhd < ENTRIES, "{cqe:?}");
                let open = pair.open.get_mut(&cqe.cid).filter(|open| **open > 0);
                *open.unwrap_or_else(|| panic!("{cqe:?} of nothing that was sent")) -= 1;
            }
            if cqe.sqid == qid {
                pair.taken = cqe.sqhd % ENTRIES;
            }
            last = Some(cqe);
        }
        self.port.doorbells().store(bell, self.pairs[usize::from(qid)].head.into());
        last
    }
}

/// An address that a host would give, and now and then one that it would not.
fn address(input: &mut Input<'_>) -> u64 {
    let byte = input.byte();
    let page = u64::from(byte & 0x1f);
    let within = if byte & 0x20 != 0 { u64::from(input.half() & 0xfff) } else { 0 };
    match byte >> 6 {
        3 => u64::from(input.half()) << 32 | u64::from(input.half()) << 16 | within,
        _ if page > DATA_PAGES => 0,
        // The page behind the last is not mapped.
        _ => DATA + page * PAGE as u64 + within,
    }
}

/// A command that says something.
fn command(input: &mut Input<'_>, opcodes: &[u8]) -> Sqe {
    let opcode = opcodes[usize::from(input.byte()) % opcodes.len()];
    let which = input.byte();
    let nsid = [1, 2, 0, u32::MAX][usize::from(which & 3)];
    let mut sqe = Sqe::new(opcode).with_nsid(nsid).with_prp(address(input), address(input));
    sqe.cdw10 = u32::from(input.half());
    if which & 4 != 0 {
        sqe.cdw10 |= u32::from(input.half()) << 16;
    }
    if which & 8 != 0 {
        sqe.cdw11 = u32::from(input.half()) | u32::from(input.half()) << 16;
    }
    sqe.cdw12 = u32::from(input.half());
    if which & 16 != 0 {
        sqe.cdw12 |= u32::from(input.half()) << 16;
        sqe.cdw13 = input.half().into();
        sqe.cdw14 = input.half().into();
    }
    sqe
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    // Two bytes of the rings' address, however they get into a list.
    let overwritten = bytes.windows(2).any(|pair| pair == [0x3a, 0x5e]);
    let mut input = Input(bytes);
    let mut guest = Guest::new(input.byte(), overwritten);
    while !input.0.is_empty() {
        let step = input.byte();
        let qid = u16::from(step >> 4 & 1);
        match step & 15 {
            0..=7 => {
                let opcodes = if qid == 0 { &ADMIN[..] } else { &IO[..] };
                let cid = guest.next;
                guest.send(qid, command(&mut input, opcodes).with_cid(cid));
                // Several at once, where the next ones follow without a pause.
                if step & 0x20 != 0 {
                    continue;
                }
            }
            8 => {
                let mut raw = [0; size_of::<Sqe>()];
                let given = input.bytes(raw.len());
                raw[..given.len()].copy_from_slice(given);
                let word = |at: usize| std::array::from_fn(|byte| raw[8 * at + byte]);
                let words = std::array::from_fn(|at| u64::from_le_bytes(word(at)));
                guest.send(qid, Sqe::from_words(words));
            }
            9 => {
                let (page, at) = (usize::from(input.byte()), usize::from(input.half()));
                let count = usize::from(input.byte());
                let at = (page % DATA_PAGES as usize) * PAGE + at % (PAGE - 256);
                guest.data.write(at, input.bytes(count));
            }
            10 => {
                // A list of pages, from an entry on.
                let (page, first) = (usize::from(input.byte()) % DATA_PAGES as usize, input.half());
                let (from, step) = (u64::from(input.byte()), u64::from(input.byte() & 3));
                for index in usize::from(first) % 512..512 {
                    let entry = DATA + (from + index as u64 * step) % DATA_PAGES * PAGE as u64;
                    guest.data.write(page * PAGE + index * 8, &entry.to_le_bytes());
                }
            }
            11 => {
                let (bell, value) = (usize::from(input.byte() & 15), u32::from(input.half()));
                let value = if step & 0x20 != 0 { value << 16 } else { value % 20 };
                guest.wild = true;
                guest.port.doorbells().store(bell, value);
            }
            12 => {
                guest.now += Duration::from_millis(100 * u64::from(input.byte()));
            }
            13 => {
                // A register, or what is none.
                guest.wild = true;
                let (at, value) = (u64::from(input.byte()), u64::from(input.half()));
                let value = value | u64::from(input.half()) << 16;
                guest.port.write(at & !3, 4, value);
            }
            14 if step & 0xe0 == 0 => guest.port.reset(),
            14 => {}
            _ => guest.enable(),
        }
        guest.settle();
        if step & 0x40 == 0 {
            guest.reap(0);
            guest.reap(1);
            guest.settle();
        }
        if step & 15 == 14 {
            guest.enable();
        }
    }
    for at in (0..0x70).step_by(4) {
        guest.port.read(at, 4);
        guest.port.read(at & !7, 8);
    }
    let around = [&guest.data, &guest.rings];
    assert!(around.iter().all(|ram| ram.is_whole()), "memory that it was not given");
    // Whatever was, a reset ends it.
    guest.enable();
    guest.must(admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(DATA, 0));
    let mut vendor = [0; 2];
    guest.data.read(0, &mut vendor);
    assert_eq!(u16::from_le_bytes(vendor), guest.port.config().vid);
}
