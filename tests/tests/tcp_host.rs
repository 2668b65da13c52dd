//! The host over TCP against a target in this process: data, refusals, losses and the way back, discovery.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbell::clock::{Clock, SystemClock};
use doorbell::discovery::{Watch, discover};
use doorbell::queue::Queue;
use doorbell::spec::admin::{get_features, identify};
use doorbell::spec::feature::{Fid, Select};
use doorbell::spec::identify::{Cns, Csi};
use doorbell::{
    Address, AttachError, CommandError, Config, Controller, Event, Outcome, QueueConfig, Reason,
};
use doorbell_subsystem::fabrics::{Limits, Referral, Target};
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::rig::{Port, within};

const LONGEST: Duration = Duration::from_secs(120);
/// No wait after a loss: the backends of these tests are done when the target is.
const AT_ONCE: &str = ",kato=500ms,reconnect=10ms,quiesce=0";

/// A target on the loopback.
struct Served(Port);

impl Deref for Served {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.0
    }
}

impl Served {
    fn target(nqn: &str, mdts: u8) -> Arc<Target> {
        let namespace = NamespaceSpec::memory(64 << 20, 512).open().expect("memory");
        let subsystem = Subsystem::builder().nqn(nqn).namespace(namespace).build();
        Target::new(subsystem, Limits { mdts, ..Limits::default() }).expect("a target")
    }

    fn start(target: Arc<Target>, address: SocketAddr) -> Self {
        Self(Port::again(target, address))
    }

    fn new(nqn: &str) -> Self {
        Self::start(Self::target(nqn, 8), ([127, 0, 0, 1], 0).into())
    }

    /// Ends it; another may take its place.
    fn end(self) -> (Arc<Target>, SocketAddr) {
        self.0.end()
    }

    fn address(&self, rest: &str) -> String {
        format!("tcp://{}{rest}", self.socket)
    }
}

const NQN: &str = "nqn.2014-08.org.nvmexpress:uuid:0c0ffee0-0000-4000-8000-000000000001";

fn quick() -> Config {
    let mut config = Config::default();
    config.exchange_timeout = Duration::from_millis(500);
    config
}

fn attach(address: &str) -> Controller {
    let address: Address = address.parse().expect("an address");
    Controller::attach(&address, quick()).expect("attaches")
}

fn refused(address: &str) -> AttachError {
    let address: Address = address.parse().expect("an address");
    Controller::attach(&address, quick()).err().expect("refused")
}

/// Polls until `done` says so.
fn poll_until(queue: &mut Queue, mut done: impl FnMut(&mut Queue) -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !done(queue) {
        assert!(Instant::now() < deadline, "nothing happens");
        std::thread::yield_now();
    }
}

#[test]
fn data_of_every_size_with_every_digest_arrive() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        for options in
            ["", ",hdgst", ",ddgst", ",hdgst,ddgst", ",sqflow=on", ",hdgst,ddgst,sqflow=on"]
        {
            let controller = attach(&served.address(options));
            let namespace = controller.namespace(1).expect("a namespace");
            let mut layout = QueueConfig::with_depth(8);
            layout.max_transfer = 1 << 20;
            let mut queue = controller.queue(layout).expect("a queue");
            for blocks in [1, 2, 8, 15, 16, 17, 256, 2048, 5000] {
                let len = blocks * 512;
                let mut buffer = controller.buffer(len).expect("memory");
                for (index, byte) in buffer.iter_mut().enumerate() {
                    *byte = (index / 512 + index + blocks) as u8;
                }
                let expected = buffer.to_vec();
                let written = queue.run(namespace.write(7, buffer)).expect("writes");
                assert_eq!(written.outcome, Outcome::Completed);
                let mut buffer = written.buffer.expect("comes back");
                buffer.fill(0);
                let read = queue.run(namespace.read(7, buffer)).expect("reads");
                assert!(read.buffer.as_deref() == Some(&*expected), "{options} {blocks} blocks");
            }
            drop(queue);
            drop(namespace);
            controller.shutdown().expect("shuts down");
        }
    });
}

#[test]
fn a_host_identifies_itself_as_its_address_says() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let options = format!(",hostnqn=nqn.2014-08.org.example:h,hostid={id}");
        let controller = attach(&served.address(&options));
        // 128 bits (EXHID), which is what a host across a network has.
        let ask = get_features(Fid::HOST_IDENTIFIER, 0, Select::CURRENT, 1);
        let done = controller.admin(ask, Some(controller.buffer(16).expect("memory")));
        let buffer = done.expect("Get Features").buffer.expect("comes back");
        let digits: String = buffer.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits, id.replace('-', ""));
    });
}

#[test]
fn data_begin_where_the_target_wants_them() {
    within(LONGEST, || {
        for cpda_z in [1, 31] {
            let namespace = NamespaceSpec::memory(16 << 20, 512).open().expect("memory");
            let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
            let limits = Limits { cpda_z, in_capsule: 4096, ..Limits::default() };
            let served = Served(Port::serve(subsystem, limits, ([127, 0, 0, 1], 0).into()));
            for options in ["", ",hdgst", ",ddgst", ",hdgst,ddgst"] {
                let controller = attach(&served.address(options));
                let namespace = controller.namespace(1).expect("a namespace");
                let mut queue = controller.queue(QueueConfig::with_depth(8)).expect("a queue");
                for blocks in [1, 3, 8, 9, 700] {
                    let mut buffer = controller.buffer(blocks * 512).expect("memory");
                    let bytes = buffer.iter_mut().enumerate();
                    bytes.for_each(|(at, byte)| *byte = (at / 512 + at + blocks) as u8);
                    let expected = buffer.to_vec();
                    let mut buffer = queue
                        .run(namespace.write(5, buffer))
                        .expect("writes")
                        .buffer
                        .expect("back");
                    buffer.fill(0);
                    let read = queue.run(namespace.read(5, buffer)).expect("reads");
                    assert!(
                        read.buffer.as_deref() == Some(&*expected),
                        "{cpda_z} {options} {blocks}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_buffer_of_a_drive_serves_a_target_and_never_the_reverse() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let (local, remote) = (attach("embedded:size=16MiB"), attach(&served.address("")));
        let mut queue = remote.queue(QueueConfig::default()).expect("a queue");
        let namespace = remote.namespace(1).expect("a namespace");
        let mut buffer = local.buffer(4096).expect("memory");
        buffer.fill(0x5a);
        let done = queue.run(namespace.write(0, buffer)).expect("writes");
        let mut buffer = done.buffer.expect("comes back");
        buffer.fill(0);
        let done = queue.run(namespace.read(0, buffer)).expect("reads");
        assert!(done.buffer.expect("comes back").iter().all(|&byte| byte == 0x5a));

        // A drive would take the address for one of its own.
        let mut queue = local.queue(QueueConfig::default()).expect("a queue");
        let namespace = local.namespace(1).expect("a namespace");
        let foreign = remote.buffer(4096).expect("memory");
        let rejected = queue.stage(namespace.read(0, foreign)).unwrap_err();
        assert_eq!(rejected.reason, Reason::Foreign);
        let foreign = rejected.io.into_buffer();
        let error = local.admin(identify(Cns::CONTROLLER, 0, 0, Csi::NVM), foreign).unwrap_err();
        assert!(matches!(error, CommandError::Rejected(_)), "{error}");
    });
}

#[test]
fn a_target_is_found_by_name_and_by_ipv6() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let name = format!("tcp://localhost:{}/{NQN}", served.socket.port());
        assert_eq!(attach(&name).nqn(), NQN);
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            println!("this machine has no IPv6");
            return;
        }
        let served = Served::start(Served::target(NQN, 8), (Ipv6Addr::LOCALHOST, 0).into());
        let controller = attach(&served.address(""));
        assert!(controller.address().starts_with("tcp://[::1]:"), "{}", controller.address());
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        let buffer = controller.buffer(4096).expect("memory");
        queue.run(namespace.read(0, buffer)).expect("reads");
    });
}

#[test]
fn an_idle_queue_that_is_polled_stays_and_one_that_is_not_comes_back() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let controller = attach(&served.address(",kato=1s,reconnect=10ms,quiesce=0"));
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        let namespace = controller.namespace(1).expect("a namespace");
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            queue.poll(|_| panic!("nothing is in flight"));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(controller.poll(|event| panic!("{event:?}")), 0);
        let done = queue.run(namespace.read(0, controller.buffer(512).expect("memory")));
        assert_eq!(done.expect("still there").outcome, Outcome::Completed);

        // Nobody polls: the target gives this host up, which is found out and repaired by whoever polls next.
        let usage = || served.target.usage().controllers;
        let deadline = Instant::now() + Duration::from_secs(20);
        while usage() > 0 {
            assert!(Instant::now() < deadline, "the target keeps a silent host");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut reconnected = 0;
        poll_until(&mut queue, |queue| {
            queue.poll(|_| ());
            controller.poll(|event| reconnected += u32::from(event == Event::Reconnected));
            reconnected > 0
        });
        let done = queue.run(namespace.read(0, controller.buffer(512).expect("memory")));
        assert_eq!(done.expect("is back").outcome, Outcome::Completed);
    });
}

#[test]
fn every_command_ends_once_when_the_target_is_restarted_under_load() {
    within(LONGEST, || {
        let mut served = Served::new(NQN);
        let controller = attach(&served.address(AT_ONCE));
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(QueueConfig::with_depth(32)).expect("a queue");
        let mut buffers: Vec<_> =
            (0..32).map(|_| controller.buffer(16 << 10).expect("memory")).collect();
        let (mut staged, mut next) = (0u64, 0u64);
        let mut ended = std::collections::BTreeMap::new();
        for round in 0..4 {
            let mut completed = 0;
            let start = Instant::now();
            // At least so many, and at least so long, that the loss falls into the load.
            while completed < 200 {
                assert!(
                    start.elapsed() < LONGEST / 4,
                    "round {round}: the queue does not come back"
                );
                while let Some(buffer) = buffers.pop() {
                    let io = match next % 2 {
                        0 => namespace.write(next % 64 * 32, buffer),
                        _ => namespace.read(next % 64 * 32, buffer),
                    };
                    match queue.stage(io.tag(next)) {
                        Ok(()) => (staged, next) = (staged + 1, next + 1),
                        Err(rejected) => {
                            buffers.extend(rejected.io.into_buffer());
                            break;
                        }
                    }
                }
                queue.ring();
                queue.poll(|done| {
                    assert!(ended.insert(done.tag, done.outcome).is_none(), "twice: {}", done.tag);
                    assert_eq!(done.outcome == Outcome::Completed, done.status.is_success());
                    completed += u64::from(done.status.is_success());
                    buffers.push(done.buffer.expect("the buffer comes back"));
                });
            }
            if round < 3 {
                let (target, address) = served.end();
                served = Served::start(target, address);
            }
        }
        poll_until(&mut queue, |queue| {
            queue.poll(|done| {
                assert!(ended.insert(done.tag, done.outcome).is_none());
            });
            queue.outstanding() == 0
        });
        assert_eq!(ended.len() as u64, staged);
        let lost = ended.values().filter(|&&outcome| outcome != Outcome::Completed).count();
        assert!(lost > 0, "no restart fell into the load");
    });
}

#[test]
fn without_a_target_commands_wait_then_fail_then_the_queue_does() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let controller =
            attach(&served.address(",reconnect=20ms,fastfail=300ms,loss=1s,quiesce=0,kato=1s"));
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        let lost_at = Instant::now();
        let (target, address) = served.end();
        let failed = |result: Result<doorbell::Done, CommandError>| match result {
            Err(CommandError::Lost { outcome, buffer: Some(_) }) => outcome,
            other => panic!("{other:?}"),
        };
        let read = |queue: &mut Queue| {
            queue.run(namespace.read(0, controller.buffer(512).expect("memory")))
        };
        // Whether the loss is known already decides which of the two it is.
        let first = failed(read(&mut queue));
        assert!(matches!(first, Outcome::Indeterminate | Outcome::NotSent));
        assert_eq!(failed(read(&mut queue)), Outcome::NotSent);
        assert!(lost_at.elapsed() >= Duration::from_millis(250), "the second one waited");
        let at_once = Instant::now();
        assert_eq!(failed(read(&mut queue)), Outcome::NotSent);
        assert!(at_once.elapsed() < Duration::from_millis(250), "{:?}", at_once.elapsed());
        poll_until(&mut queue, |queue| {
            queue.poll(|_| panic!("nothing is in flight"));
            queue.failure().is_some()
        });
        assert!(lost_at.elapsed() >= Duration::from_secs(1));
        assert!(matches!(read(&mut queue), Err(CommandError::Rejected(_))));
        drop(queue);
        // A target that comes back finds a controller that has given up; another attach works.
        let served = Served::start(target, address);
        assert!(controller.namespace_ids().is_err());
        drop(attach(&served.address("")));
    });
}

#[test]
fn reconnect_off_ends_the_queue_with_the_connection() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let controller = attach(&served.address(",reconnect=off"));
        let mut queue = controller.queue(QueueConfig::default()).expect("a queue");
        drop(served);
        poll_until(&mut queue, |queue| {
            queue.poll(|_| panic!("nothing is in flight"));
            queue.failure().is_some()
        });
        let why = queue.failure().expect("failed").to_string();
        assert!(why.contains("closed the connection"), "{why}");
    });
}

#[test]
fn queues_can_be_dropped_and_made_again_without_pause() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let controller = attach(&served.address(",queues=2"));
        let namespace = controller.namespace(1).expect("a namespace");
        for round in 0..50 {
            let mut queue = controller.queue(QueueConfig::with_depth(4)).expect("a queue");
            for lba in 0..round % 4 {
                let buffer = controller.buffer(512).expect("memory");
                queue.submit(namespace.read(lba, buffer)).expect("room");
            }
        }
        let queues: Vec<_> =
            (0..2).map(|_| controller.queue(QueueConfig::default()).expect("a queue")).collect();
        let error = controller.queue(QueueConfig::default()).err().expect("no third");
        assert!(error.to_string().contains("all 2 I/O queues"), "{error}");
        drop(queues);
    });
}

#[test]
fn events_reach_the_host() {
    within(LONGEST, || {
        let served = Served::new(NQN);
        let controller = attach(&served.address(""));
        assert_eq!(controller.namespace_ids().expect("a list"), [1]);
        let more = NamespaceSpec::memory(1 << 20, 512).open().expect("memory");
        served.target.subsystem().add(more).expect("room");
        let mut reported = None;
        let deadline = Instant::now() + LONGEST;
        while reported.is_none() {
            assert!(Instant::now() < deadline, "no event");
            controller.poll(|event| reported = Some(event));
            std::thread::yield_now();
        }
        assert_eq!(reported, Some(Event::NamespaceAdded { nsid: 2 }));
        assert_eq!(controller.namespace_ids().expect("a list"), [1, 2]);
    });
}

#[test]
fn discovery_follows_referrals_once_and_finds_the_one_subsystem_or_lists_the_several() {
    within(LONGEST, || {
        let other = "nqn.2014-08.org.nvmexpress:uuid:0c0ffee0-0000-4000-8000-000000000002";
        let (first, second) = (Served::new(NQN), Served::new(other));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let Ok(Address::Tcp(options)) = first.address("").parse() else { panic!("an address") };
        assert!(attach(&first.address("")).address().contains(NQN));

        // In a circle, and to somewhere that is not there.
        first.target.refer(Referral(second.socket));
        second.target.refer(Referral(first.socket));
        let gone = Served::new(NQN).end().1;
        second.target.refer(Referral(gone));
        let search = discover(&options, &quick(), &clock).expect("a log");
        let mut found: Vec<_> =
            search.subsystems().filter_map(|(_, options)| options.nqn.clone()).collect();
        found.sort();
        assert_eq!(found, [NQN, other]);
        assert_eq!(search.failed.len(), 1, "{:?}", search.failed);
        let error = refused(&first.address(""));
        let message = error.to_string();
        assert!(message.contains(NQN) && message.contains(other), "{message}");
    });
}

#[test]
fn a_discovery_controller_that_stays_reports_changes() {
    within(LONGEST, || {
        let (first, second) = (Served::new(NQN), Served::new(NQN));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let Ok(Address::Tcp(options)) = first.address("").parse() else { panic!("an address") };
        let mut watch = Watch::attach(&options, &quick(), &clock).expect("attaches");
        let before = watch.poll().expect("reads").expect("the first time");
        assert!(watch.poll().expect("reads").is_none(), "nothing has changed");
        first.target.refer(Referral(second.socket));
        let deadline = Instant::now() + LONGEST;
        let after = loop {
            assert!(Instant::now() < deadline, "no event");
            if let Some(log) = watch.poll().expect("reads") {
                break log;
            }
            std::thread::yield_now();
        };
        assert_ne!(after.generation, before.generation);
        assert_eq!(after.entries.len(), before.entries.len() + 1);
    });
}
