//! An association is lost with one of its connections. What the target had answered on the others, and nobody had read
//! yet, still counts.
//!
//! The order of events is that of calls on one thread: only polls look after an association. The clock stands still where
//! time must not matter.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use doorbell::clock::{Clock, SystemClock};
use doorbell::{Address, Config, Controller, Event, Outcome, Queue, QueueConfig};
use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::proxy::{Plan, Proxy, Trouble, Way};
use doorbell_tests::rig::{NQN, Port, within};

const LONGEST: Duration = Duration::from_secs(120);
const BLOCK: usize = 512;
/// Commands whose answers are there when the association is lost: as many reads as writes.
const COMMANDS: u64 = 8;

/// The system's clock, until it is stopped.
struct Watch {
    clock: SystemClock,
    stopped: OnceLock<Duration>,
}

impl Clock for Watch {
    fn now(&self) -> Duration {
        self.stopped.get().copied().unwrap_or_else(|| self.clock.now())
    }

    fn pause(&self, round: u32, longest: Duration) {
        self.clock.pause(round, longest);
    }
}

/// A target behind a proxy, a controller, and queues over connections of their own.
struct Rig {
    port: Port,
    proxy: Proxy,
    controller: Controller,
    watch: Arc<Watch>,
}

/// A queue, and which of the proxy's connections it has.
struct Line {
    queue: Queue,
    connection: usize,
}

impl Rig {
    fn new(options: &str) -> Self {
        let namespace = NamespaceSpec::memory(1 << 20, BLOCK as u32).open().expect("memory");
        let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
        let port = Port::serve(subsystem, Limits::default(), ([127, 0, 0, 1], 0).into());
        let proxy = Proxy::start(port.socket);
        let address = format!("tcp://{}/{NQN},kato=30s{options}", proxy.address);
        let Ok(Address::Tcp(options)) = address.parse() else { panic!("an address") };
        let watch = Arc::new(Watch { clock: SystemClock::new(), stopped: OnceLock::new() });
        let controller = Controller::attach_tcp(&options, Config::default(), watch.clone());
        Self { port, proxy, controller: controller.expect("attaches"), watch }
    }

    /// From now on, no time passes.
    fn stop_time(&self) {
        self.watch.stopped.set(self.watch.now()).expect("once");
    }

    fn line(&self) -> Line {
        let queue = self.controller.queue(QueueConfig::with_depth(16)).expect("a queue");
        Line { queue, connection: self.proxy.connections() - 1 }
    }

    /// Bytes that have gone to the host on a connection.
    fn told(&self, connection: usize) -> usize {
        let passed = self.proxy.passed().into_iter();
        let told = passed.filter(|it| (it.connection, it.way) == (connection, Way::ToHost));
        told.map(|it| it.len).sum()
    }

    /// Sends commands on `line`, and waits until the kernel has all their answers, which nobody reads: so many bytes.
    fn answered(&self, line: &mut Line) -> usize {
        let namespace = self.controller.namespace(1).expect("a namespace");
        let before = self.told(line.connection);
        for tag in 0..COMMANDS {
            let mut buffer = self.controller.buffer(BLOCK).expect("memory");
            buffer.fill(tag as u8);
            let io = match tag % 2 {
                0 => namespace.write(tag, buffer),
                _ => namespace.read(tag, buffer),
            };
            line.queue.stage(io.tag(tag)).expect("room");
        }
        line.queue.ring();
        let least = COMMANDS as usize / 2 * (24 + 24 + BLOCK);
        let started = Instant::now();
        loop {
            let told = self.told(line.connection) - before;
            if told >= least && self.proxy.unread().contains(&told) {
                return told;
            }
            assert!(started.elapsed() < LONGEST, "{told} bytes of answers");
            std::thread::yield_now();
        }
    }

    /// Has the target reset the connection of `line` at its next answer; returns when its queue has noticed.
    fn lose(&self, line: &mut Line) {
        let passed = self.proxy.passed().into_iter();
        let of_line = |it: (usize, Way)| it == (line.connection, Way::ToHost);
        let message = passed.filter(|it| of_line((it.connection, it.way))).count();
        let (connection, way, trouble) = (line.connection, Way::ToHost, Trouble::Reset);
        self.proxy.arm(Plan { connection, way, message, after: 0, trouble });
        let namespace = self.controller.namespace(1).expect("a namespace");
        let buffer = self.controller.buffer(BLOCK).expect("memory");
        line.queue.submit(namespace.write(100, buffer)).expect("room");
        assert_eq!(ends(&mut line.queue, 1)[&0], Outcome::Indeterminate);
    }
}

/// Polls until `count` commands have ended, each once; how.
fn ends(queue: &mut Queue, count: usize) -> BTreeMap<u64, Outcome> {
    let (started, mut ended) = (Instant::now(), BTreeMap::new());
    while ended.len() < count {
        assert!(started.elapsed() < LONGEST, "{} of {count} have ended", ended.len());
        queue.poll(|done| {
            assert_eq!(done.outcome == Outcome::Completed, done.status.is_success());
            assert!(done.buffer.is_some(), "the buffer comes back");
            assert!(ended.insert(done.tag, done.outcome).is_none(), "twice");
        });
    }
    ended
}

fn completed(ended: &BTreeMap<u64, Outcome>) -> bool {
    ended.len() == COMMANDS as usize && ended.values().all(|it| *it == Outcome::Completed)
}

#[test]
fn what_has_arrived_counts_though_another_queue_finds_the_association_lost() {
    within(LONGEST, || {
        for options in ["", ",reconnect=off", ",hdgst,ddgst", ",quiesce=0,reconnect=10ms"] {
            let rig = Rig::new(options);
            let (mut one, mut other, mut third) = (rig.line(), rig.line(), rig.line());
            rig.answered(&mut other);
            rig.answered(&mut third);
            rig.stop_time();
            rig.lose(&mut one);
            let ended = ends(&mut other.queue, COMMANDS as usize);
            assert!(completed(&ended), "'{options}': {ended:?}");
            let ended = ends(&mut third.queue, COMMANDS as usize);
            assert!(completed(&ended), "'{options}': {ended:?}");
        }
    });
}

#[test]
fn what_has_arrived_counts_when_the_target_is_gone() {
    within(LONGEST, || {
        for options in ["", ",reconnect=off", ",hdgst,ddgst"] {
            let rig = Rig::new(options);
            let mut lines = [rig.line(), rig.line(), rig.line()];
            for line in &mut lines {
                rig.answered(line);
            }
            rig.proxy.cut();
            for line in &mut lines {
                let ended = ends(&mut line.queue, COMMANDS as usize);
                assert!(completed(&ended), "'{options}': {ended:?}");
            }
        }
    });
}

/// A queue that nobody polls cannot read, and must not keep a connection that an old command could still leave by.
#[test]
fn a_queue_that_nobody_polls_is_cut_before_the_next_association() {
    within(LONGEST, || {
        let rig = Rig::new(",quiesce=0,reconnect=1ms");
        let (mut one, mut other) = (rig.line(), rig.line());
        let left = rig.answered(&mut other);
        rig.lose(&mut one);
        let (started, mut back) = (Instant::now(), false);
        while !back {
            assert!(started.elapsed() < LONGEST, "it does not come back");
            one.queue.poll(|done| panic!("nothing was sent: {done:?}"));
            rig.controller.poll(|event| back |= event == Event::Reconnected);
        }
        // Its connection has gone, and what had come with it.
        assert!(!rig.proxy.unread().contains(&left));
        let ended = ends(&mut other.queue, COMMANDS as usize);
        let unknown = ended.values().all(|it| *it == Outcome::Indeterminate);
        assert!(unknown && ended.len() == COMMANDS as usize, "{ended:?}");
        // And works again.
        let namespace = rig.controller.namespace(1).expect("a namespace");
        let read = namespace.read(0, rig.controller.buffer(BLOCK).expect("memory"));
        assert_eq!(other.queue.run(read).expect("reads").outcome, Outcome::Completed);
        assert_eq!(rig.port.target.usage().controllers, 1);
    });
}
