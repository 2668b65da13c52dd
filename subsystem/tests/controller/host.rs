//! A small host: memory, rings and doorbells of its own, one thread, every step by hand.
//!
//! It knows what a driver knows and nothing of the controller's insides. Each wait ends after a number of polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin;
use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::register::{Aqa, Cc, Csts, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::{Controller, ControllerConfig, DoorbellMemory, Subsystem};

use crate::ram::{ALIGN, BASE, Ram};

const RAM: usize = if cfg!(miri) { 1 << 20 } else { 16 << 20 };
const POLLS: u32 = 1000;

/// A queue pair as the host sees it.
pub(crate) struct Pair {
    pub(crate) sq: u64,
    pub(crate) cq: u64,
    pub(crate) sq_size: u32,
    pub(crate) cq_size: u32,
    pub(crate) tail: u32,
    pub(crate) head: u32,
    pub(crate) phase: bool,
    /// Whether `reap` tells the controller how far it has come.
    pub(crate) lazy: bool,
}

/// The host.
pub(crate) struct Host {
    pub(crate) controller: Controller,
    pub(crate) ram: Arc<Ram>,
    pub(crate) pairs: BTreeMap<u16, Pair>,
    pub(crate) now: Duration,
    next: u64,
    cid: u16,
}

/// Settings for tests: doorbells on the heap, so that Miri runs them too.
pub(crate) fn config() -> ControllerConfig {
    ControllerConfig { doorbells: DoorbellMemory::Heap, max_io_queues: 8, ..Default::default() }
}

impl Host {
    /// A host whose controller is not enabled yet.
    pub(crate) fn new(subsystem: &Arc<Subsystem>, config: ControllerConfig) -> Self {
        let mut controller = Controller::new(Arc::clone(subsystem), config).expect("controller");
        let ram = Arc::new(Ram::new(RAM));
        ram.map(&mut controller, 0, BASE, RAM).expect("map");
        let pairs = BTreeMap::new();
        Self { controller, ram, pairs, now: Duration::ZERO, next: BASE, cid: 0 }
    }

    /// A host whose controller is ready.
    pub(crate) fn ready(subsystem: &Arc<Subsystem>, config: ControllerConfig) -> Self {
        let mut host = Self::new(subsystem, config);
        host.enable(32, 0);
        host
    }

    /// `count` pages of 4 KiB that nobody uses.
    pub(crate) fn pages(&mut self, count: usize) -> u64 {
        let at = self.next;
        self.next += count as u64 * 4096;
        assert!(self.next - BASE <= RAM as u64, "host memory used up");
        at
    }

    /// As [`Host::pages`], aligned to 64 KiB.
    pub(crate) fn aligned_pages(&mut self, count: usize) -> u64 {
        self.next = self.next.next_multiple_of(ALIGN as u64);
        self.pages(count)
    }

    pub(crate) fn csts(&mut self) -> Csts {
        Csts::from_bits(self.controller.read(offset::CSTS, 4) as u32)
    }

    pub(crate) fn cc(&self, mps: u8) -> Cc {
        Cc::new().with_mps(mps).with_css(Cc::CSS_ALL).with_iosqes(6).with_iocqes(4)
    }

    /// Sets up admin queues of `entries` and enables the controller with pages of `4096 << mps`.
    pub(crate) fn enable(&mut self, entries: u32, mps: u8) {
        let sq = self.aligned_pages((entries as usize * 64).div_ceil(4096));
        let cq = self.aligned_pages((entries as usize * 16).div_ceil(4096));
        let size = (entries - 1) as u16;
        let aqa = Aqa::new().with_asqs_z(size).with_acqs_z(size);
        self.controller.write(offset::AQA, 4, aqa.into_bits().into());
        self.controller.write(offset::ASQ, 8, sq);
        self.controller.write(offset::ACQ, 8, cq);
        let cc = self.cc(mps).with_en(true);
        self.controller.write(offset::CC, 4, cc.into_bits().into());
        assert!(self.csts().rdy() && !self.csts().cfs(), "{:?}", self.csts());
        self.pairs.insert(0, pair(sq, cq, entries, entries));
    }

    fn doorbell(&self, qid: u16, completion: bool) -> usize {
        let stride = 1usize << self.controller.config().dstrd;
        (2 * usize::from(qid) + usize::from(completion)) * stride
    }

    /// Puts a command into a queue without ringing; its identifier is returned.
    pub(crate) fn stage(&mut self, qid: u16, sqe: Sqe) -> u16 {
        self.cid = self.cid.wrapping_add(1);
        let cid = self.cid;
        self.stage_as(qid, sqe.with_cid(cid));
        cid
    }

    /// Puts a command into a queue as it is.
    pub(crate) fn stage_as(&mut self, qid: u16, sqe: Sqe) {
        let pair = self.pairs.get_mut(&qid).expect("queue");
        let words: Vec<u8> = sqe.to_words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.ram.write(pair.sq + u64::from(pair.tail) * 64, &words);
        pair.tail = (pair.tail + 1) % pair.sq_size;
    }

    pub(crate) fn ring(&mut self, qid: u16) {
        let tail = self.pairs.get(&qid).expect("queue").tail;
        self.ring_value(qid, false, tail);
    }

    /// Stores any value into a doorbell.
    pub(crate) fn ring_value(&mut self, qid: u16, completion: bool, value: u32) {
        self.controller.doorbells().store(self.doorbell(qid, completion), value);
    }

    /// One poll.
    pub(crate) fn poll(&mut self) -> usize {
        self.controller.poll(self.now)
    }

    /// The next completion of a queue, if it is there.
    pub(crate) fn reap(&mut self, qid: u16) -> Option<Cqe> {
        let pair = self.pairs.get_mut(&qid).expect("queue");
        let at = pair.cq + u64::from(pair.head) * 16;
        let high = self.ram.word(at + 8);
        let entry = Cqe::from_words([self.ram.word(at), high]);
        if entry.phase() != pair.phase {
            return None;
        }
        pair.head += 1;
        if pair.head == pair.cq_size {
            pair.head = 0;
            pair.phase = !pair.phase;
        }
        let (head, lazy) = (pair.head, pair.lazy);
        if !lazy {
            self.ring_value(qid, true, head);
        }
        Some(entry)
    }

    /// Polls until a queue has a completion.
    pub(crate) fn wait(&mut self, qid: u16) -> Cqe {
        for _ in 0..POLLS {
            if let Some(entry) = self.reap(qid) {
                return entry;
            }
            self.poll();
        }
        panic!("no completion on queue {qid} within {POLLS} polls, {:?}", self.csts());
    }

    /// Carries out one command.
    pub(crate) fn run(&mut self, qid: u16, sqe: Sqe) -> Cqe {
        let cid = self.stage(qid, sqe);
        self.ring(qid);
        let entry = self.wait(qid);
        assert_eq!((entry.cid, entry.sqid), (cid, qid));
        entry
    }

    /// Carries out an admin command that succeeds.
    #[track_caller]
    pub(crate) fn admin(&mut self, sqe: Sqe) -> Cqe {
        let entry = self.run(0, sqe);
        assert!(entry.status().is_success(), "{} from {sqe:?}", entry.status());
        entry
    }

    /// Carries out an admin command that fails with `status`.
    #[track_caller]
    pub(crate) fn refused(&mut self, sqe: Sqe, status: Status) {
        let entry = self.run(0, sqe);
        assert!(entry.status().is(status), "{} instead of {status}", entry.status());
    }

    /// Carries out an I/O command that ends with `status`.
    #[track_caller]
    pub(crate) fn expect(&mut self, qid: u16, sqe: Sqe, status: Status) {
        let entry = self.run(qid, sqe);
        assert!(entry.status().is(status), "{} instead of {status}", entry.status());
    }

    /// Creates a queue pair.
    pub(crate) fn pair(&mut self, qid: u16, sq_size: u32, cq_size: u32) {
        let cq = self.completion_queue(qid, cq_size);
        self.submission_queue(qid, qid, sq_size, cq, cq_size);
    }

    /// Creates a completion queue; returns where it is.
    pub(crate) fn completion_queue(&mut self, qid: u16, size: u32) -> u64 {
        let cq = self.aligned_pages((size as usize * 16).div_ceil(4096));
        self.admin(admin::create_io_cq(qid, (size - 1) as u16, None).with_prp(cq, 0));
        cq
    }

    /// Creates a submission queue that completes to `cqid`.
    pub(crate) fn submission_queue(
        &mut self,
        qid: u16,
        cqid: u16,
        size: u32,
        cq: u64,
        cq_size: u32,
    ) {
        let sq = self.aligned_pages((size as usize * 64).div_ceil(4096));
        self.admin(admin::create_io_sq(qid, (size - 1) as u16, cqid, 0).with_prp(sq, 0));
        self.pairs.insert(qid, pair(sq, cq, size, cq_size));
    }

    /// Identify, as bytes.
    pub(crate) fn identify(&mut self, cns: Cns, nsid: u32, cntid: u16, csi: Csi) -> Vec<u8> {
        let page = self.pages(1);
        self.admin(admin::identify(cns, nsid, cntid, csi).with_prp(page, 0));
        self.next -= 4096;
        self.ram.read(page, 4096)
    }
}

fn pair(sq: u64, cq: u64, sq_size: u32, cq_size: u32) -> Pair {
    Pair { sq, cq, sq_size, cq_size, tail: 0, head: 0, phase: true, lazy: false }
}
