//! The way back to a target over TCP, step by step: nobody waits for it who polls, and each step has its deadline.
//!
//! That nobody waits is told by the number of polls, not by the clock: machines that run tests are busy.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::clock::{Clock, SystemClock};
use doorbell::{Address, CommandError, Config, Controller, Event, Outcome, Queue, QueueConfig};
use doorbell_spec::fabrics::pdu::CapsuleResponse;
use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::proxy::{Plan, Proxy, Trouble, Way};
use doorbell_tests::rig::{NQN, Port, within};

const LONGEST: Duration = Duration::from_secs(120);
/// How long a host waits for one answer.
const STEP: Duration = Duration::from_millis(200);
/// Polls while one answer does not come: a hundredth of what an idle machine makes.
const MANY: u64 = 200;

fn port() -> Port {
    let namespace = NamespaceSpec::memory(1 << 20, 512).open().expect("memory");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    Port::serve(subsystem, Limits::default(), ([127, 0, 0, 1], 0).into())
}

fn attach(socket: SocketAddr, options: &str) -> Controller {
    let mut config = Config::default();
    config.exchange_timeout = STEP;
    let address: Address = format!("tcp://{socket}/{NQN}{options}").parse().expect("an address");
    Controller::attach(&address, config).expect("attaches")
}

fn read(controller: &Controller, queue: &mut Queue) -> Result<doorbell::Done, CommandError> {
    let namespace = controller.namespace(1).expect("a namespace");
    queue.run(namespace.read(0, controller.buffer(512).expect("memory")))
}

/// Polls until `done`; how many times.
fn polls_until(queue: &mut Queue, mut done: impl FnMut(&mut Queue) -> bool) -> u64 {
    let (started, mut polls) = (Instant::now(), 0);
    while !done(queue) {
        assert!(started.elapsed() < LONGEST, "nothing happens");
        queue.poll(|done| panic!("nothing was sent: {done:?}"));
        polls += 1;
        thread::yield_now();
    }
    polls
}

#[test]
fn a_target_that_takes_connections_and_stays_silent_keeps_nobody_waiting() {
    within(LONGEST, || {
        let port = port();
        let options = ",kato=500ms,reconnect=20ms,loss=2s,quiesce=0";
        let controller = attach(port.socket, options);
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        let (_target, address) = port.end();
        let listener = TcpListener::bind(address).expect("the same port");
        listener.set_nonblocking(true).expect("a socket");
        let lost = Instant::now();
        let mut taken = Vec::new();
        let mut attempts = |_: &mut Queue| {
            taken.extend(listener.accept());
            taken.len() >= 2
        };
        polls_until(&mut queue, &mut attempts);
        // The second attempt ends for want of an answer, and a third is made.
        let polls = polls_until(&mut queue, |_| {
            taken.extend(listener.accept());
            taken.len() >= 3
        });
        assert!(polls > MANY, "{polls} polls while ICReq was not answered");
        // Attempts end with the loss time-out, and say why.
        let polls = polls_until(&mut queue, |queue| queue.failure().is_some());
        assert!(polls > MANY && lost.elapsed() >= Duration::from_secs(2), "{polls} polls");
        let why = queue.failure().expect("failed").to_string();
        assert!(why.contains("no answer to ICReq within 200ms"), "{why}");
    });
}

/// The answers of one attempt: ICResp, Connect, CAP, CC, CSTS, Identify (data, and response unless it is left out), the
/// number of queues. Each is withheld once; the next attempt succeeds.
#[test]
fn an_answer_that_does_not_come_keeps_nobody_waiting_at_any_step() {
    within(LONGEST, || {
        let port = port();
        let mut withheld = 0;
        for message in 0.. {
            let proxy = Proxy::start(port.socket);
            let controller = attach(proxy.address, ",kato=30s,reconnect=10ms,quiesce=0");
            let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
            read(&controller, &mut queue).expect("reads");
            let connection = proxy.connections();
            let (way, trouble) = (Way::ToHost, Trouble::Stall);
            proxy.arm(Plan { connection, way, message, after: 0, trouble });
            proxy.cut();
            let mut back = false;
            let polls = polls_until(&mut queue, |_| {
                controller.poll(|event| back |= event == Event::Reconnected);
                back
            });
            if !proxy.tripped() {
                break;
            }
            withheld += 1;
            assert!(polls > MANY, "{polls} polls while answer {message} was withheld");
            let done = read(&controller, &mut queue).expect("reads again");
            assert_eq!(done.outcome, Outcome::Completed);
        }
        assert!(withheld >= 7, "an attempt has {withheld} answers");
    });
}

#[test]
fn a_queue_that_connects_again_keeps_nobody_waiting_either() {
    within(LONGEST, || {
        let port = port();
        for message in 0..2 {
            let proxy = Proxy::start(port.socket);
            let controller = attach(proxy.address, ",kato=30s,reconnect=10ms,quiesce=0");
            let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
            read(&controller, &mut queue).expect("reads");
            // The one after the admin queue's.
            let connection = proxy.connections() + 1;
            let (way, trouble) = (Way::ToHost, Trouble::Stall);
            proxy.arm(Plan { connection, way, message, after: 0, trouble });
            proxy.cut();
            let mut back = 0;
            let polls = polls_until(&mut queue, |_| {
                controller.poll(|event| back += u32::from(event == Event::Reconnected));
                // Its silence ends the association, so that there is another one.
                back == 2
            });
            assert!(proxy.tripped() && polls > MANY, "{polls} polls at answer {message}");
            assert_eq!(read(&controller, &mut queue).expect("again").outcome, Outcome::Completed);
        }
    });
}

#[test]
fn a_controller_that_can_be_asked_to_stop_is_back_before_its_time_is_over() {
    within(LONGEST, || {
        let port = port();
        let proxy = Proxy::start(port.socket);
        // Nobody knows for 20 s and more what a controller does that does not answer.
        let controller = attach(proxy.address, ",kato=10s,reconnect=10ms");
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        read(&controller, &mut queue).expect("reads");
        let started = Instant::now();
        // The queue's connection alone is lost, at its next completion.
        let (connection, way, trouble) = (proxy.connections() - 1, Way::ToHost, Trouble::Reset);
        let passed = proxy.passed().into_iter();
        let message = passed.filter(|it| (it.connection, it.way) == (connection, way)).count();
        proxy.arm(Plan { connection, way, message, after: 0, trouble });
        let namespace = controller.namespace(1).expect("a namespace");
        let buffer = controller.buffer(512).expect("memory");
        // Of a write nobody knows; a read would be sent again.
        let error = queue.run(namespace.write(0, buffer)).expect_err("the link was lost");
        assert!(matches!(error, CommandError::Lost { outcome: Outcome::Indeterminate, .. }));
        let mut back = false;
        polls_until(&mut queue, |_| {
            controller.poll(|event| back |= event == Event::Reconnected);
            back
        });
        read(&controller, &mut queue).expect("reads again");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    });
}

/// The end of a write that the host has given up is delivered when the next write to the same blocks has long completed.
#[test]
fn a_write_of_before_the_loss_changes_nothing_after_it() {
    within(LONGEST, || {
        let port = port();
        let proxy = Proxy::start(port.socket);
        let controller = attach(proxy.address, ",kato=500ms,reconnect=10ms");
        let namespace = controller.namespace(1).expect("a namespace");
        let filled = |byte: u8| {
            let mut buffer = controller.buffer(512).expect("memory");
            buffer.fill(byte);
            buffer
        };
        // Cut inside the header of the capsule, inside its data, and before the last byte.
        for (round, after) in [4, 80, 72 + 511].into_iter().enumerate() {
            let mut config = QueueConfig::default();
            config.timeout = STEP;
            let mut queue = controller.queue(config).expect("a queue");
            read(&controller, &mut queue).expect("reads");
            let (connection, way) = (proxy.connections() - 1, Way::ToPort);
            let passed = proxy.passed().into_iter();
            let message = passed.filter(|it| (it.connection, it.way) == (connection, way)).count();
            proxy.arm(Plan { connection, way, message, after, trouble: Trouble::Stall });
            let (stale, fresh) = (2 * round as u8 + 1, 2 * round as u8 + 2);
            queue.stage(namespace.write(0, filled(stale)).tag(7)).expect("room");
            queue.ring();
            let mut outcome = None;
            let started = Instant::now();
            while outcome.is_none() {
                assert!(started.elapsed() < LONGEST, "nothing happens");
                controller.poll(|_| ());
                queue.poll(|done| outcome = Some(done.outcome));
                thread::yield_now();
            }
            assert_eq!(outcome, Some(Outcome::Indeterminate));
            let write = |queue: &mut Queue| queue.run(namespace.write(0, filled(fresh)));
            while let Err(error) = write(&mut queue) {
                assert!(started.elapsed() < LONGEST, "{error}");
                controller.poll(|_| ());
            }
            assert!(proxy.deliver_late(LONGEST), "the port keeps the old connection");
            let done = read(&controller, &mut queue).expect("reads");
            assert!(done.buffer.expect("a buffer").iter().all(|byte| *byte == fresh), "{after}");
        }
    });
}

/// A port that is forwarded has another address there than here, and the discovery log shows the one there.
#[test]
fn a_forwarded_port_is_attached_without_a_name_and_without_end() {
    within(LONGEST, || {
        let port = port();
        let proxy = Proxy::start(port.socket);
        let address: Address = format!("tcp://{}", proxy.address).parse().expect("an address");
        // On as much stack as threads have that nobody asked for.
        let attached = thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let controller = Controller::attach(&address, Config::default()).expect("attaches");
            (controller.nqn(), controller.address().to_owned())
        });
        let (nqn, address) = attached.expect("a thread").join().expect("no overflow");
        assert_eq!(nqn, NQN);
        // Where the user said, and not where the target thinks it is.
        assert!(address.contains(&proxy.address.to_string()), "{address}");
    });
}

#[test]
fn a_queue_made_while_the_target_is_away_waits_for_it() {
    within(LONGEST, || {
        let port = port();
        let controller = attach(port.socket, ",kato=500ms,reconnect=20ms,quiesce=0");
        let mut first = controller.queue(QueueConfig::default()).expect("a queue");
        read(&controller, &mut first).expect("reads");
        let (target, address) = port.end();
        // For as long as the queue's commands may take, and no longer.
        let mut hasty = QueueConfig::default();
        hasty.timeout = Duration::from_millis(300);
        let error = controller.queue(hasty).err().expect("the target is away").to_string();
        assert!(error.contains("waiting to connect again") && error.contains("300ms"), "{error}");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut queue = controller.queue(QueueConfig::default()).expect("waits");
                read(&controller, &mut queue).expect("reads").outcome
            });
            thread::sleep(Duration::from_millis(100));
            let again = Port::again(target.clone(), address);
            assert_eq!(waiting.join().expect("no panic"), Outcome::Completed);
            drop(first);
            drop(again);
        });
    });
}

/// The system's clock, and how far it is ahead.
struct Ahead {
    clock: SystemClock,
    by: AtomicU64,
}

impl Ahead {
    /// Nobody polls for so long.
    fn skip(&self, by: Duration) {
        self.by.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Duration {
        self.clock.now() + Duration::from_nanos(self.by.load(Ordering::Relaxed))
    }

    fn pause(&self, round: u32, longest: Duration) {
        self.clock.pause(round, longest);
    }
}

/// A host that was away while its target answered and left: the answers count, and what it sends next, having read them,
/// waits for the next association.
#[test]
fn what_is_staged_when_the_last_answers_have_been_read_waits_for_the_next_association() {
    within(LONGEST, || {
        let port = port();
        let proxy = Proxy::start(port.socket);
        let clock = Arc::new(Ahead { clock: SystemClock::new(), by: AtomicU64::new(0) });
        let options = "kato=30s,reconnect=10ms,quiesce=0";
        let address = format!("tcp://{}/{NQN},{options}", proxy.address);
        let Ok(Address::Tcp(options)) = address.parse() else { panic!("an address") };
        let controller = Controller::attach_tcp(&options, Config::default(), clock.clone());
        let controller = controller.expect("attaches");
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        for _ in 0..4 {
            clock.skip(STEP);
            assert_eq!(queue.poll(|done| panic!("nothing was sent: {done:?}")), 0);
        }

        const ANSWERS: u64 = 4;
        let write = |queue: &mut Queue, tag| {
            let buffer = controller.buffer(512).expect("memory");
            queue.submit(namespace.write(tag, buffer).tag(tag)).expect("room");
        };
        (0..ANSWERS).for_each(|tag| write(&mut queue, tag));
        let answers = ANSWERS as usize * size_of::<CapsuleResponse>();
        while !proxy.unread().contains(&answers) {
            thread::yield_now();
        }
        proxy.cut();
        clock.skip(STEP);

        let (mut polls, mut ended) = (0, Vec::new());
        while ended.len() < 2 * ANSWERS as usize {
            let mut read = 0;
            queue.poll(|done| {
                assert_eq!(done.outcome, Outcome::Completed, "of {}", done.tag);
                read += u64::from(done.tag < ANSWERS);
                ended.push(done.tag);
            });
            assert!(polls > 0 || read == ANSWERS, "{read} answers at once");
            (0..read).for_each(|at| write(&mut queue, ANSWERS + at));
            polls += 1;
            thread::yield_now();
        }
        ended.sort_unstable();
        assert_eq!(ended, (0..2 * ANSWERS).collect::<Vec<_>>());
    });
}
