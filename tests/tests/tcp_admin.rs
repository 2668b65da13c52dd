//! What goes over the admin queue of a host by itself: Keep Alive when nothing else has been heard of it, and a discovery
//! log page that is read again where it has changed meanwhile.
//!
//! Time is the test's; the order of messages is a proxy's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::clock::{Clock, SystemClock};
use doorbell::{Address, Config, Controller, Namespace, Queue, QueueConfig};
use doorbell_spec::fabrics::DISCOVERY_NQN;
use doorbell_subsystem::fabrics::{Limits, Referral};
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::proxy::{Plan, Proxy, Trouble, Way};
use doorbell_tests::rig::{NQN, Port, within};

const LONGEST: Duration = Duration::from_secs(120);

/// Time that passes when the test says so.
#[derive(Default)]
struct Still {
    millis: AtomicU64,
    system: SystemClock,
}

impl Still {
    fn pass(&self, seconds: u64) {
        self.creep(seconds * 1000);
    }

    fn creep(&self, millis: u64) {
        self.millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    fn pause(&self, round: u32, longest: Duration) {
        self.system.pause(round, longest);
    }
}

/// Our port, a proxy, our host.
struct Rig {
    port: Port,
    proxy: Proxy,
    controller: Controller,
    clock: Arc<Still>,
}

impl Rig {
    fn new(nqn: &str, options: &str) -> Self {
        let namespace = NamespaceSpec::memory(1 << 20, 512).open().expect("memory");
        let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
        let port = Port::serve(subsystem, Limits::default(), ([127, 0, 0, 1], 0).into());
        let proxy = Proxy::start(port.socket);
        let address = format!("tcp://{}/{nqn}{options}", proxy.address);
        let Ok(Address::Tcp(options)) = address.parse() else { panic!("an address") };
        let clock = Arc::new(Still::default());
        let controller = Controller::attach_tcp(&options, Config::default(), clock.clone());
        Self { port, proxy, controller: controller.expect("attaches"), clock }
    }

    /// Messages of the admin queue that went that way.
    fn admin(&self, way: Way) -> usize {
        let passed = self.proxy.passed().into_iter();
        passed.filter(|it| (it.connection, it.way) == (0, way)).count()
    }

    /// Holds what comes to the host on the admin queue, from the `nth` message that is still to come.
    fn hold(&self, nth: usize) {
        let (way, trouble) = (Way::ToHost, Trouble::Hold);
        let message = self.admin(way) + nth;
        self.proxy.arm(Plan { connection: 0, way, message, after: 0, trouble });
    }

    /// How many messages have gone to the port on the admin queue, once the proxy has seen all of them: they pass in order.
    fn settled(&self) -> usize {
        self.controller.namespace_ids().expect("a list");
        self.admin(Way::ToPort)
    }

    fn read(&self, queue: &mut Queue, namespace: &Namespace) {
        let buffer = self.controller.buffer(512).expect("memory");
        queue.run(namespace.read(0, buffer)).expect("reads");
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONGEST, "{what}");
        thread::yield_now();
    }
}

fn idle(queue: &mut Queue) {
    for _ in 0..4 {
        queue.poll(|done| panic!("nothing is in flight: {done:?}"));
    }
}

/// The port counts every command as a sign of life (CTRATT.TBKAS), and so does the host.
#[test]
fn keep_alive_is_sent_when_nothing_else_was_heard_and_only_then() {
    within(LONGEST, || {
        let rig = Rig::new(NQN, ",kato=100s,reconnect=off");
        assert!(rig.controller.identify().ctratt().tbkas(), "traffic counts");
        let mut queue = rig.controller.queue(QueueConfig::default()).expect("a queue");
        let namespace = rig.controller.namespace(1).expect("a namespace");
        rig.clock.pass(1);
        idle(&mut queue);
        let before = rig.settled();
        // Ten times the time-out.
        for _ in 0..100 {
            rig.clock.pass(10);
            rig.read(&mut queue, &namespace);
            idle(&mut queue);
        }
        // Three times the time-out without any: one whenever half of it has passed.
        let answered = rig.admin(Way::ToHost);
        for sent in 1..=5 {
            rig.clock.pass(60);
            wait_for("Keep Alive and its answer", || {
                rig.clock.creep(1);
                idle(&mut queue);
                rig.admin(Way::ToHost) == answered + sent
            });
            assert_eq!(rig.admin(Way::ToPort), before + sent, "more than needed");
        }
        rig.read(&mut queue, &namespace);
        assert_eq!(rig.proxy.connections(), 2, "the association was lost");

        // One that is not answered within the time-out.
        rig.clock.pass(1);
        idle(&mut queue);
        let before = rig.settled();
        rig.hold(0);
        rig.clock.pass(60);
        idle(&mut queue);
        wait_for("Keep Alive", || rig.admin(Way::ToPort) > before);
        rig.clock.pass(99);
        idle(&mut queue);
        assert!(queue.failure().is_none(), "not yet");
        rig.clock.pass(2);
        wait_for("the end", || {
            queue.poll(|done| panic!("nothing is in flight: {done:?}"));
            queue.failure().is_some()
        });
        let why = queue.failure().expect("failed").to_string();
        assert!(why.contains("no answer to Keep Alive within 100s"), "{why}");
    });
}

/// Wherever the page changes while it is read: what is returned is of one generation.
#[test]
fn a_discovery_log_that_changes_while_it_is_read_is_read_again() {
    within(LONGEST, || {
        let (mut changed, mut again) = (0, 0);
        for message in 0.. {
            let rig = Rig::new(DISCOVERY_NQN, "");
            let requests = rig.admin(Way::ToPort);
            let before = rig.controller.discovery_log().expect("a page");
            let undisturbed = rig.admin(Way::ToPort) - requests;
            rig.hold(message);
            let requests = rig.admin(Way::ToPort);
            let log = thread::scope(|scope| {
                let reader = scope.spawn(|| rig.controller.discovery_log().expect("a page"));
                wait_for("the page", || rig.proxy.tripped() || reader.is_finished());
                if rig.proxy.tripped() {
                    for last in 1..=3 {
                        let elsewhere = SocketAddr::from(([192, 0, 2, last], 8009));
                        rig.port.target.refer(Referral(elsewhere));
                    }
                }
                rig.proxy.release();
                reader.join().expect("no panic")
            });
            if !rig.proxy.tripped() {
                assert_eq!(log.entries.len(), before.entries.len());
                break;
            }
            if log.generation == before.generation {
                assert_eq!(log.entries.len(), before.entries.len(), "held message {message}");
            } else {
                assert_eq!(log.generation, rig.port.target.generation());
                assert_eq!(log.entries.len(), before.entries.len() + 3, "held message {message}");
                changed += 1;
            }
            again += usize::from(rig.admin(Way::ToPort) - requests > undisturbed);
        }
        assert!(changed >= 2 && again >= 2, "{changed} changes were seen, {again} read again");
    });
}
