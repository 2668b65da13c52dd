//! The link between host and port fails at every message of the protocol: it is closed, reset or goes dead, before a
//! message, within it, or behind it.
//!
//! Whatever happens, nothing waits past its deadline, every command ends exactly once, a command that has completed has
//! done what it says, and the port is left with nothing of a host that is gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::{Address, Config, Controller, Outcome, Queue, QueueConfig};
use doorbell_subsystem::fabrics::{Limits, Usage};
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::proxy::{Passed, Plan, Proxy, Trouble, Way};
use doorbell_tests::rig::{NQN, Port, within};

/// No test takes longer.
const LONGEST: Duration = Duration::from_secs(300);
/// Except where every byte is tried.
const WHOLE: Duration = Duration::from_secs(3600);
/// Nor does a host wait longer for what the other side will never do. Many times what it is told to wait, for machines
/// that are busy.
const DEADLINE: Duration = Duration::from_secs(20);
/// What it is told to wait for one answer.
const PATIENCE: Duration = Duration::from_millis(400);
/// Bytes of a command whose data do not fit its capsule.
const LARGE: usize = 64 << 10;
const BLOCK: usize = 512;

fn port() -> Port {
    let namespace = NamespaceSpec::memory(1 << 20, BLOCK as u32).open().expect("memory");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let limits = Limits { introduction: PATIENCE, ..Limits::default() };
    Port::serve(subsystem, limits, ([127, 0, 0, 1], 0).into())
}

fn config() -> Config {
    let mut config = Config::default();
    config.exchange_timeout = PATIENCE;
    config.admin_timeout = PATIENCE;
    config
}

/// What a host does, from the first message to the last: a controller and a queue, writes with and without data in the
/// capsule, reads, a flush. The first error ends it.
fn session(proxy: &Proxy, options: &str) -> Result<(), String> {
    let address = format!("tcp://{}/{NQN},kato=500ms{options}", proxy.address);
    let address: Address = address.parse().expect("an address");
    let controller = Controller::attach(&address, config()).map_err(|error| error.to_string())?;
    let namespace = controller.namespace(1).map_err(|error| error.to_string())?;
    let mut layout = QueueConfig::with_depth(8);
    layout.timeout = PATIENCE;
    let mut queue = controller.queue(layout).map_err(|error| error.to_string())?;
    let filled = |seed: usize, len: usize| {
        let mut buffer = controller.buffer(len).expect("memory");
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 7 + seed) as u8);
        buffer
    };
    let empty = |len: usize| controller.buffer(len).expect("memory");
    let far = (LARGE / BLOCK) as u64;
    run(&mut queue, [namespace.write(0, filled(1, 4096)), namespace.write(far, filled(2, LARGE))])?;
    let read = run(
        &mut queue,
        [namespace.read(0, empty(4096)), namespace.read(far, empty(LARGE)), namespace.flush()],
    )?;
    // Completed is completed.
    assert!(read[0][..] == filled(1, 4096)[..] && read[1][..] == filled(2, LARGE)[..]);
    drop((queue, namespace));
    controller.shutdown().map_err(|error| error.to_string())
}

/// Has commands carried out, all at once. Each ends once; the buffers come back, in order.
fn run<const N: usize>(
    queue: &mut Queue,
    commands: [doorbell::Io; N],
) -> Result<Vec<doorbell::Buffer>, String> {
    let mut refused = None;
    let mut staged = 0;
    for (command, tag) in commands.into_iter().zip(0..) {
        match queue.stage(command.tag(tag)) {
            Ok(()) => staged += 1,
            Err(rejected) => refused = Some(rejected.to_string()),
        }
    }
    queue.ring();
    let started = Instant::now();
    let mut ended = BTreeMap::new();
    while ended.len() < staged {
        assert!(
            started.elapsed() < DEADLINE,
            "{} of {staged} have ended, failure {:?}",
            ended.len(),
            queue.failure()
        );
        queue.poll(|done| {
            let completed = done.outcome == Outcome::Completed;
            assert!(completed || !done.status.is_success(), "{done:?}");
            assert!(ended.insert(done.tag, done).is_none(), "a command ended twice");
        });
        thread::yield_now();
    }
    // And not once more.
    queue.poll(|done| panic!("after the end: {done:?}"));
    if let Some(done) = ended.values().find(|done| !done.status.is_success()) {
        return Err(format!("{}, {}", done.status, done.outcome));
    }
    match refused {
        Some(reason) => Err(reason),
        None => Ok(ended.into_values().filter_map(|done| done.buffer).collect()),
    }
}

/// The port has nothing left of anybody.
fn is_clean(port: &Port) {
    let started = Instant::now();
    loop {
        let usage = port.target.usage();
        if usage == (Usage { refused: usage.refused, ..Usage::default() }) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "the port still holds {usage:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The messages of an undisturbed session: of which connection, which way, which one, how long.
fn messages(options: &str) -> Vec<(usize, Way, usize, Passed)> {
    let port = port();
    let proxy = Proxy::start(port.socket);
    session(&proxy, options).expect("nothing is wrong");
    is_clean(&port);
    let mut counts = BTreeMap::new();
    let number = |passed: Passed| {
        let count = counts.entry((passed.connection, passed.way == Way::ToPort)).or_insert(0);
        *count += 1;
        (passed.connection, passed.way, *count - 1, passed)
    };
    let all: Vec<_> = proxy.passed().into_iter().map(number).collect();
    let kinds: std::collections::BTreeSet<u8> =
        all.iter().map(|(.., passed)| passed.kind).collect();
    let every = [0, 1, 4, 5, 6, 7, 9];
    assert!(every.iter().all(|kind| kinds.contains(kind)), "some PDUs were not tried: {kinds:?}");
    all
}

/// Sessions with trouble, as many as there are plans, some side by side.
fn troubles(plans: &[Plan], options: &str, body: impl Fn(&Port, &Proxy, Plan) + Sync) {
    let next = AtomicUsize::new(0);
    let hits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let port = port();
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let proxy = Proxy::start(port.socket);
                    proxy.arm(*plan);
                    let watch = Watch(*plan);
                    body(&port, &proxy, *plan);
                    hits.fetch_add(usize::from(proxy.tripped()), Ordering::Relaxed);
                    drop(watch);
                }
            });
        }
    });
    // Timers may bring a message more or less.
    let hits = hits.into_inner();
    println!("{hits} of {} troubles came ({options})", plans.len());
    assert!(hits * 10 >= plans.len() * 9, "{hits} of {} troubles came", plans.len());
}

/// Names the plan of a session that panics.
struct Watch(Plan);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("at {:?}", self.0);
        }
    }
}

fn at(trouble: Trouble, places: &[usize]) -> impl FnOnce(&str) -> Vec<Plan> {
    move |options| plans(options, trouble, places)
}

fn plans(options: &str, trouble: Trouble, within: &[usize]) -> Vec<Plan> {
    let mut plans = Vec::new();
    for (connection, way, message, passed) in messages(options) {
        for &after in within {
            if after < passed.len || after == usize::MAX {
                plans.push(Plan { connection, way, message, after, trouble });
            }
        }
    }
    plans
}

/// A host that does not connect again: an error, or all is well where the trouble comes behind the last answer.
fn ends(options: &str, plans: impl FnOnce(&str) -> Vec<Plan>) {
    let options = &format!("{options},reconnect=off");
    troubles(&plans(options), options, |port, proxy, plan| {
        let started = Instant::now();
        let result = session(proxy, options);
        assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
        // Before anything of an answer, nothing can have succeeded.
        if proxy.tripped() && plan.message == 0 && plan.after == 0 {
            result.expect_err("without a connection");
        }
        is_clean(port);
    });
}

/// A host that connects again: after the trouble, of which there is one, everything works.
fn returns(options: &str, plans: impl FnOnce(&str) -> Vec<Plan>) {
    let options = &format!("{options},reconnect=10ms,quiesce=0");
    troubles(&plans(options), options, |port, proxy, _| {
        let started = Instant::now();
        let _interrupted = session(proxy, options);
        assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
        // What was stalled stays so, until the port gives up; others do not mind.
        session(proxy, options).expect("works again");
        proxy.cut();
        is_clean(port);
    });
}

/// Before the message, in its header, in what follows, behind it.
const PLACES: [usize; 4] = [0, 5, 30, usize::MAX];

/// Every byte of a message that is not longer than this; of others those up to here, and the last. Headers have 128
/// bytes at most, with their digest 132.
const EVERY: usize = 136;

/// One in so many of all the places where a link can be lost is tried, beginning with one that the seed picks:
/// `DOORBELL_LINK_STRIDE=1` tries all of them.
fn stride() -> (usize, usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let stride = number("DOORBELL_LINK_STRIDE").unwrap_or(97).max(1);
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
    let seed = number("DOORBELL_SEED").unwrap_or(clock as usize) % stride;
    println!("DOORBELL_LINK_STRIDE={stride} DOORBELL_SEED={seed}");
    (stride, seed)
}

/// Plans for every byte of every message, thinned out.
fn bytes(options: &str, trouble: Trouble) -> Vec<Plan> {
    let (stride, seed) = stride();
    let mut plans = Vec::new();
    for (connection, way, message, passed) in messages(options) {
        let last = (passed.len > EVERY).then_some(passed.len - 1);
        for after in (0..passed.len.min(EVERY)).chain(last).chain([usize::MAX]) {
            plans.push(Plan { connection, way, message, after, trouble });
        }
    }
    let all = plans.len();
    let plans: Vec<_> = plans.into_iter().skip(seed).step_by(stride).collect();
    println!("{} of {all} places", plans.len());
    plans
}

#[test]
fn closed_at_every_message() {
    within(LONGEST, || ends("", at(Trouble::Close, &PLACES)));
}

#[test]
fn reset_at_every_message_with_digests() {
    within(LONGEST, || ends(",hdgst,ddgst", at(Trouble::Reset, &PLACES)));
}

#[test]
fn dead_at_every_message() {
    within(LONGEST, || ends("", at(Trouble::Stall, &[0, 30])));
}

#[test]
fn closed_at_every_message_and_connected_again() {
    within(LONGEST, || returns(",hdgst,ddgst", at(Trouble::Close, &[5, usize::MAX])));
}

#[test]
fn dead_at_every_message_and_connected_again() {
    within(LONGEST, || returns("", at(Trouble::Stall, &[5])));
}

#[test]
fn closed_at_any_byte() {
    within(WHOLE, || ends("", |options| bytes(options, Trouble::Close)));
}

#[test]
fn reset_at_any_byte_and_connected_again_with_digests() {
    within(WHOLE, || returns(",hdgst,ddgst", |options| bytes(options, Trouble::Reset)));
}

#[test]
fn dead_at_any_byte() {
    within(WHOLE, || ends("", |options| bytes(options, Trouble::Stall)));
}
