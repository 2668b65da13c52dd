//! A stepped device that misbehaves, and a ledger of what was sent to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::device::embedded::{Embedded, SteppedClock};
use doorbell::spec::status::Status;
use doorbell::{
    AttachError, Config, Controller, Io, Namespace, Outcome, Queue, QueueConfig, Reason,
};
use doorbell_subsystem::fault::{Counters, Plan, Rule};
use doorbell_subsystem::{
    Controller as Emulated, ControllerConfig, DoorbellMemory, InProcess, NamespaceSpec, Subsystem,
};

use crate::spy::{Event, Spy};

/// A device, its clock, and what it was asked to do.
pub(crate) struct Bench {
    pub(crate) device: Arc<Embedded>,
    pub(crate) spy: Arc<Spy>,
    pub(crate) clock: Arc<SteppedClock>,
    pub(crate) config: Config,
}

/// What the emulated controller is like unless a test says otherwise.
pub(crate) fn settings() -> ControllerConfig {
    ControllerConfig {
        max_io_queues: 4,
        vectors: 5,
        doorbells: DoorbellMemory::Heap,
        ..ControllerConfig::default()
    }
}

impl Bench {
    /// A device with two namespaces of 4 MiB.
    pub(crate) fn new() -> Self {
        Self::with(settings(), &["memory:4MiB", "memory:4MiB"])
    }

    pub(crate) fn with(settings: ControllerConfig, namespaces: &[&str]) -> Self {
        let mut builder = Subsystem::builder().serial("PIT");
        for spec in namespaces {
            let spec: NamespaceSpec = spec.parse().expect("a namespace");
            builder = builder.namespace(spec.open().expect("a namespace"));
        }
        let controller = Emulated::new(builder.build(), settings).expect("a controller");
        let port = InProcess::stepped(controller);
        let device = Arc::new(Embedded::over("embedded:".into(), port));
        let clock = Arc::new(SteppedClock::new(device.clone()));
        let spy = Arc::new(Spy::new(device.clone()));
        let mut config = Config::default();
        config.admin_timeout = Duration::from_secs(5);
        config.io_queues = 4;
        config.recovery.window = Duration::from_secs(10);
        Self { device, spy, clock, config }
    }

    /// A new device that misbehaves from the start.
    pub(crate) fn faulty(rules: impl IntoIterator<Item = Rule>) -> Self {
        let bench = Self::new();
        bench.inject(rules);
        bench
    }

    /// Misbehaves from now on, by these rules alone.
    pub(crate) fn inject(&self, rules: impl IntoIterator<Item = Rule>) -> Counters {
        let plan = rules.into_iter().fold(Plan::new(1), Plan::rule);
        let counters = plan.counters();
        self.device.port().set_faults(Some(plan));
        counters
    }

    /// Behaves from now on.
    pub(crate) fn behave(&self) {
        self.device.port().set_faults(None);
    }

    pub(crate) fn attach(&self) -> Result<Controller, AttachError> {
        Controller::attach_device(self.spy.clone(), self.config.clone(), self.clock.clone())
    }

    /// Attaches, which fails; returns the error's text. No memory was taken away from a controller that could reach it.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        let before = self.spy.events().len();
        let text = self.attach().map(|_| ()).expect_err("no controller").to_string();
        self.assert_unreachable_since(before);
        text
    }

    /// No memory was unmapped while the controller was enabled, since there had been so many events.
    #[track_caller]
    pub(crate) fn assert_unreachable_since(&self, events: usize) {
        let mut since = self.spy.events().into_iter().skip(events);
        let reachable = since.any(|event| event == Event::Unmap { reachable: true });
        assert!(!reachable, "memory was unmapped under an enabled controller");
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Ends what `controller` is; everything it held is back.
    #[track_caller]
    pub(crate) fn close(&self, controller: Controller) {
        let memory = controller.memory().clone();
        let before = self.spy.events().len();
        drop(controller);
        assert_eq!(memory.stats().in_use, 0, "everything is back in the pool");
        assert_eq!(memory.stats().leaked, 0);
        drop(memory);
        self.assert_unreachable_since(before);
    }
}

/// A small queue, whose commands are overdue after 100 ms.
pub(crate) fn small(depth: u16) -> QueueConfig {
    let mut config = QueueConfig::with_depth(depth);
    config.timeout = Duration::from_millis(100);
    config
}

/// Commands by tag: what was sent, and how each ended.
#[derive(Default)]
pub(crate) struct Ledger {
    open: BTreeMap<u64, usize>,
    ended: BTreeMap<u64, (Status, Outcome)>,
    next: u64,
}

impl Ledger {
    /// Submits a command with a buffer; returns its tag.
    pub(crate) fn submit(&mut self, queue: &mut Queue, io: Io) -> u64 {
        let tag = self.next;
        self.next += 1;
        queue.submit(io.tag(tag)).expect("room");
        self.open.insert(tag, 0);
        tag
    }

    /// Submits a command, unless the queue is full.
    pub(crate) fn try_submit(&mut self, queue: &mut Queue, io: Io) -> bool {
        let tag = self.next;
        let Err(rejected) = queue.submit(io.tag(tag)) else {
            self.next += 1;
            self.open.insert(tag, 0);
            return true;
        };
        assert_eq!(rejected.reason, Reason::Full);
        false
    }

    /// Takes what has completed: nothing twice, nothing that was not sent, each with its buffer.
    pub(crate) fn poll(&mut self, queue: &mut Queue) -> usize {
        queue.poll(|done| {
            assert!(self.open.remove(&done.tag).is_some(), "{done:?} was not open");
            assert!(done.buffer.is_some(), "{done:?} without its buffer");
            assert!(self.ended.insert(done.tag, (done.status, done.outcome)).is_none());
        })
    }

    /// Lets time pass until everything sent has ended, `longest` at most; memory stays with the queue until then.
    #[track_caller]
    pub(crate) fn settle(&mut self, bench: &Bench, queue: &mut Queue, longest: Duration) {
        let until = bench.now() + longest;
        let mut round = 0;
        while !self.open.is_empty() {
            self.poll(queue);
            assert!(bench.now() <= until, "{:?} still open after {longest:?}", self.open);
            bench.clock.pause(round, Duration::from_micros(50));
            round += 1;
        }
    }

    /// How the command `tag` ended.
    #[track_caller]
    pub(crate) fn of(&self, tag: u64) -> (Status, Outcome) {
        *self.ended.get(&tag).unwrap_or_else(|| panic!("command {tag} has not ended"))
    }

    /// Forgets what has not ended; returns how many these were. For a queue that is dropped with them.
    pub(crate) fn abandon(&mut self) -> usize {
        std::mem::take(&mut self.open).len()
    }

    pub(crate) fn ended(&self) -> impl Iterator<Item = (Status, Outcome)> {
        self.ended.values().copied()
    }

    /// How many ended so.
    pub(crate) fn count(&self, is: impl Fn(Status, Outcome) -> bool) -> usize {
        self.ended().filter(|&(status, outcome)| is(status, outcome)).count()
    }
}

/// Whatever a test is about: every command has ended, and by `poll` not twice.
impl Drop for Ledger {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.open.is_empty(), "{:?} never ended", self.open);
    }
}

/// A controller with a queue, under load.
pub(crate) struct Load {
    pub(crate) bench: Bench,
    pub(crate) controller: Controller,
    pub(crate) namespace: Namespace,
    pub(crate) queue: Queue,
    pub(crate) ledger: Ledger,
}

impl Load {
    /// A queue of `depth`; nothing is wrong yet.
    pub(crate) fn new(depth: u16) -> Self {
        Self::with(Bench::new(), depth)
    }

    pub(crate) fn with(bench: Bench, depth: u16) -> Self {
        let controller = bench.attach().expect("a controller");
        let namespace = controller.namespace(1).expect("a namespace");
        let queue = controller.queue(small(depth)).expect("a queue");
        Self { bench, controller, namespace, queue, ledger: Ledger::default() }
    }

    /// Whether reads through a new queue of `controller` succeed.
    pub(crate) fn reads(bench: &Bench, controller: &Controller) -> bool {
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(small(4)).expect("a queue");
        let mut ledger = Ledger::default();
        for lba in 0..4 {
            let buffer = controller.buffer(512).expect("memory");
            ledger.submit(&mut queue, namespace.read(lba, buffer));
        }
        ledger.settle(bench, &mut queue, Duration::from_secs(1));
        ledger.ended().all(|(status, _)| status.is_success())
    }

    /// Submits `count` reads; returns their tags.
    pub(crate) fn send(&mut self, count: u64) -> Vec<u64> {
        self.send_of(count, 512)
    }

    fn send_of(&mut self, count: u64, bytes: usize) -> Vec<u64> {
        (0..count)
            .map(|lba| {
                let buffer = self.controller.buffer(bytes).expect("memory");
                self.ledger.submit(&mut self.queue, self.namespace.read(lba, buffer))
            })
            .collect()
    }

    /// Submits as many reads as there is room for, at most `count`.
    pub(crate) fn send_some(&mut self, count: u64) {
        for lba in 0..count {
            let buffer = self.controller.buffer(512).expect("memory");
            let io = self.namespace.read(lba, buffer);
            if !self.ledger.try_submit(&mut self.queue, io) {
                return;
            }
        }
    }

    /// Lets time pass until everything has ended.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.ledger.settle(&self.bench, &mut self.queue, Duration::from_secs(20));
    }

    /// Behaves from now on: reads and writes go on as if nothing had been, on the same queue.
    #[track_caller]
    pub(crate) fn resumes(&mut self) {
        self.resumes_with(512);
    }

    /// The same for a namespace in blocks of `block` bytes, whose handle is new.
    #[track_caller]
    pub(crate) fn resumes_with(&mut self, block: usize) {
        self.bench.behave();
        // A queue learns of a reset when it is polled.
        for _ in 0..64 {
            self.ledger.poll(&mut self.queue);
        }
        for round in 0..3u8 {
            let mut data = self.controller.buffer(8192).expect("memory");
            data.fill(round ^ 0x5a);
            let expected = data.to_vec();
            self.queue.run(self.namespace.write(40, data)).expect("written");
            let back = self.controller.buffer(8192).expect("memory");
            let done = self.queue.run(self.namespace.read(40, back)).expect("read");
            assert_eq!(done.buffer.expect("a buffer")[..], expected[..]);
        }
        let tags = self.send_of(self.queue.depth() as u64, block);
        self.settle();
        assert!(tags.iter().all(|tag| self.ledger.of(*tag).0.is_success()));
        assert_eq!(self.queue.failure(), None);
    }

    /// Ends it all: everything is back, and came back once.
    #[track_caller]
    pub(crate) fn close(self) {
        let Self { bench, controller, namespace, queue, ledger } = self;
        assert!(ledger.open.is_empty(), "{:?} never ended", ledger.open);
        drop((queue, namespace));
        bench.close(controller);
    }
}
