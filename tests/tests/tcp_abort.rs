//! Abort between our host and our port, while commands wait: what the port still holds is aborted, once and with its
//! buffer, and nothing else suffers; what it does not hold ends otherwise.
//!
//! The port ends at once what it has asked no data for. A command whose data it has asked for ends when they have come:
//! until then the host may be sending them.
//!
//! What decides is the order of messages, which a proxy holds back. Of the host's time only that counts which it looks at,
//! in steps of a millisecond at most: a machine that stops for a while lets no time-out pass.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::clock::{Clock, SystemClock};
use doorbell::{
    Address, Buffer, CommandError, Config, Controller, Done, Event, Namespace, Outcome, Queue,
    QueueConfig,
};
use doorbell_spec::fabrics::pdu::PduType;
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::fault::{Counters, Pdus, Plan, Rule};
use doorbell_subsystem::port::Running;
use doorbell_subsystem::port::tcp::Server;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::proxy::{self, Proxy, Trouble, Way};
use doorbell_tests::rig::{NQN, within};

const LONGEST: Duration = Duration::from_secs(120);
/// When a command is overdue; after as long again it costs the association.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Data that come by R2T.
const LARGE: usize = 256 << 10;
const SMALL: usize = 4096;
const OPTIONS: [&str; 2] = ["", ",hdgst,ddgst"];

/// Time that somebody has looked at.
struct Looked {
    clock: SystemClock,
    /// When, by the system's clock, and what it was then.
    last: Mutex<(Duration, Duration)>,
}

impl Clock for Looked {
    fn now(&self) -> Duration {
        let (now, mut last) = (self.clock.now(), self.last.lock().expect("no panic"));
        let step = now.saturating_sub(last.0).min(Duration::from_millis(1));
        *last = (now, last.1 + step);
        last.1
    }

    fn pause(&self, round: u32, longest: Duration) {
        self.clock.pause(round, longest);
    }
}

/// Our port, with a fault; a proxy; our host, with one queue.
struct Rig {
    target: Arc<Target>,
    counters: Counters,
    proxy: Proxy,
    namespace: Namespace,
    queue: Queue,
    controller: Controller,
    _running: Running,
}

impl Rig {
    fn new(options: &str, plan: Plan) -> Self {
        let namespace = NamespaceSpec::memory(16 << 20, 512).open().expect("memory");
        let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
        let target = Target::new(subsystem, Limits::default()).expect("a target");
        let counters = plan.counters();
        let server = Server::bind(Arc::clone(&target), &[([127, 0, 0, 1], 0).into()], 1);
        let server = server.expect("a port").with_faults(plan);
        let proxy = Proxy::start(server.addresses()[0]);
        let running = server.spawn().expect("a thread");
        let options = format!("kato=60s,reconnect=10ms,quiesce=0{options}");
        let address = format!("tcp://{}/{NQN},{options}", proxy.address);
        let Ok(Address::Tcp(options)) = address.parse() else { panic!("an address") };
        let clock = Looked { clock: SystemClock::new(), last: Mutex::default() };
        let controller = Controller::attach_tcp(&options, Config::default(), Arc::new(clock));
        let controller = controller.expect("attaches");
        let namespace = controller.namespace(1).expect("a namespace");
        let mut shape = QueueConfig::with_depth(128);
        shape.timeout = TIMEOUT;
        shape.max_transfer = LARGE;
        let queue = controller.queue(shape).expect("a queue");
        Self { target, counters, proxy, namespace, queue, controller, _running: running }
    }

    /// Messages that have gone that way on a connection: 0 is the admin queue's, 1 the queue's.
    fn passed(&self, connection: usize, way: Way) -> usize {
        let passed = self.proxy.passed().into_iter();
        passed.filter(|it| (it.connection, it.way) == (connection, way)).count()
    }

    /// Holds the queue's messages of a way, from the `nth` that is still to come, counted from 0.
    fn hold(&self, way: Way, nth: usize) {
        let message = self.passed(1, way) + nth;
        let plan = proxy::Plan { connection: 1, way, message, after: 0, trouble: Trouble::Hold };
        self.proxy.arm(plan);
    }

    fn filled(&self, seed: usize, len: usize) -> Buffer {
        let mut buffer = self.controller.buffer(len).expect("memory");
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 512 + at + seed) as u8);
        buffer
    }

    /// Polls until `count` commands have ended, which they do once; by tag. What is held is released once the port has
    /// answered something on the admin queue: the Abort.
    fn ends(&mut self, count: usize) -> Vec<Done> {
        let before = self.passed(0, Way::ToHost);
        let (started, mut ended) = (Instant::now(), Vec::<Done>::new());
        while ended.len() < count {
            assert!(started.elapsed() < LONGEST, "{} of {count} have ended", ended.len());
            self.queue.poll(|done| ended.push(done));
            if self.passed(0, Way::ToHost) > before {
                self.proxy.release();
            }
            thread::yield_now();
        }
        for _ in 0..100 {
            self.queue.poll(|done| panic!("after the end: {done:?}"));
        }
        ended.sort_by_key(|done| done.tag);
        ended
    }

    /// A write and a read of the same blocks, on the queue and in the association that there were.
    fn goes_on(&mut self) {
        let data = self.filled(77, LARGE);
        let expected = data.to_vec();
        let written = self.queue.run(self.namespace.write(0, data)).expect("writes");
        let mut buffer = written.buffer.expect("a buffer");
        buffer.fill(0);
        let read = self.queue.run(self.namespace.read(0, buffer)).expect("reads");
        assert!(read.buffer.as_deref() == Some(&expected[..]), "other data");
        self.controller.poll(|event| assert_ne!(event, Event::Reconnected));
        assert_eq!(self.proxy.connections(), 2, "the association was lost");
    }
}

fn aborted(done: &Done, len: usize) {
    assert!(done.outcome == Outcome::Aborted && done.status.is(Status::ABORTED_BY_REQUEST));
    assert_eq!(done.buffer.as_ref().map(|buffer| buffer.len()), Some(len));
}

#[test]
fn an_overdue_write_whose_data_are_on_their_way_is_aborted_and_its_neighbours_are_not() {
    within(LONGEST, || {
        for options in OPTIONS {
            let mut rig = Rig::new(options, Plan::new(1));
            // Its H2CData, behind three capsules.
            rig.hold(Way::ToPort, 3);
            let (first, second) = (rig.filled(1, LARGE), rig.filled(2, SMALL));
            let third = rig.controller.buffer(SMALL).expect("memory");
            rig.queue.stage(rig.namespace.write(0, first).tag(0)).expect("room");
            rig.queue.stage(rig.namespace.write(4096, second).tag(1)).expect("room");
            rig.queue.stage(rig.namespace.read(8192, third).tag(2)).expect("room");
            rig.queue.ring();
            let ended = rig.ends(3);
            aborted(&ended[0], LARGE);
            assert!(ended[1..].iter().all(|done| done.outcome == Outcome::Completed), "{ended:?}");
            rig.goes_on();
        }
    });
}

#[test]
fn a_blocking_call_says_that_its_write_was_aborted_and_gives_the_buffer_back() {
    within(LONGEST, || {
        let mut rig = Rig::new("", Plan::new(1));
        rig.hold(Way::ToPort, 1);
        let before = rig.passed(0, Way::ToHost);
        let write = rig.namespace.write(0, rig.filled(1, LARGE));
        let Rig { queue, proxy, .. } = &mut rig;
        let answers = || {
            let passed = proxy.passed().into_iter();
            passed.filter(|it| (it.connection, it.way) == (0, Way::ToHost)).count()
        };
        let result = thread::scope(|scope| {
            let call = scope.spawn(|| queue.run_within(write, TIMEOUT * 4));
            while answers() == before && !call.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            proxy.release();
            call.join().expect("no panic")
        });
        let error = result.expect_err("is aborted");
        assert_eq!(error.outcome(), Outcome::Aborted, "{error}");
        assert_eq!(error.into_buffer().map(|buffer| buffer.len()), Some(LARGE));
        rig.goes_on();
    });
}

#[test]
fn an_abort_that_comes_too_late_changes_nothing() {
    within(LONGEST, || {
        for options in OPTIONS {
            let mut rig = Rig::new(options, Plan::new(1));
            // Carried out long ago; only the answer does not get through.
            rig.hold(Way::ToHost, 0);
            let buffer = rig.controller.buffer(SMALL).expect("memory");
            rig.queue.submit(rig.namespace.read(0, buffer)).expect("room");
            assert_eq!(rig.ends(1)[0].outcome, Outcome::Completed);
            rig.goes_on();
        }
    });
}

/// R2Ts that the port has outstanding on a connection; the writes behind them wait for their turn.
const GRANTED: u16 = 64;

#[test]
fn the_caller_aborts_writes_that_wait_for_their_turn() {
    within(LONGEST, || {
        const WAITING: u16 = 6;
        let plan = Plan::new(1).rule(Rule::pdu(Pdus::of(PduType::R2T)).lose());
        let mut rig = Rig::new(",hdgst,ddgst", plan);
        // Identifiers of a new queue count from 0.
        for cid in 0..GRANTED + WAITING {
            let write = rig.namespace.write(0, rig.filled(1, 4 * SMALL)).tag(cid.into());
            rig.queue.stage(write).expect("room");
        }
        rig.queue.ring();
        let started = Instant::now();
        while rig.counters.total() < GRANTED.into() {
            assert!(started.elapsed() < LONGEST, "{} R2Ts", rig.counters.total());
            rig.queue.poll(|done| panic!("{done:?}"));
            thread::yield_now();
        }
        let abort = |cid: u16| rig.controller.abort(1, cid).expect("answered");
        assert!(!rig.controller.abort(2, GRANTED).expect("answered"), "there is no queue 2");
        assert!(!abort(GRANTED - 1), "its data have been asked for");
        assert!(!abort(GRANTED + WAITING), "there is no such command");
        for cid in GRANTED..GRANTED + WAITING {
            assert!(abort(cid), "{cid}");
            assert!(!abort(cid), "{cid} has ended");
        }
        let ended = rig.ends(WAITING.into());
        for (done, cid) in ended.iter().zip(GRANTED..) {
            assert_eq!(done.tag, u64::from(cid));
            aborted(done, 4 * SMALL);
        }
        assert_eq!(rig.queue.outstanding(), usize::from(GRANTED));
        assert_eq!(rig.target.usage().controllers, 1, "nothing was lost");
    });
}

#[test]
fn a_command_that_never_came_to_the_port_costs_the_association() {
    within(LONGEST, || {
        // The first capsule with data in it behind those of Connect.
        let rule = Rule::pdu(Pdus::of(PduType::CAPSULE_COMMAND)).lose();
        let idle = Rig::new("", Plan::new(1).rule(rule.times(0)));
        let before = idle.counters.iter().next().expect("a rule").matched;
        drop(idle);
        let rule = Rule::pdu(Pdus::of(PduType::CAPSULE_COMMAND)).lose().nth(before + 1);
        let mut rig = Rig::new("", Plan::new(1).rule(rule));
        let write = rig.namespace.write(0, rig.filled(1, SMALL));
        let error = rig.queue.run_within(write, TIMEOUT * 8).expect_err("is lost");
        let CommandError::Lost { outcome, buffer: Some(_) } = error else { panic!("{error}") };
        assert_eq!((outcome, rig.counters.total()), (Outcome::Indeterminate, 1));
        let started = Instant::now();
        let mut back = false;
        while !back {
            assert!(started.elapsed() < LONGEST, "it does not come back");
            rig.queue.poll(|done| panic!("nothing was sent: {done:?}"));
            rig.controller.poll(|event| back |= event == Event::Reconnected);
        }
        let read = rig.namespace.read(0, rig.controller.buffer(SMALL).expect("memory"));
        let done = rig.queue.run_within(read, TIMEOUT * 8).expect("reads");
        assert_eq!(done.outcome, Outcome::Completed);
    });
}
