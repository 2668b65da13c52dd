//! Faults behind our port, as our host meets them: of PDUs, of commands and completions, of registers. Each command ends
//! once, what succeeds is right, and the next session works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::controller::Event;
use doorbell::{Address, Config, Controller, Outcome, QueueConfig};
use doorbell_spec::admin::{AdminOpcode, AsyncEvent};
use doorbell_spec::fabrics::command::Fctype;
use doorbell_spec::fabrics::pdu::PduType;
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::register::{Cap, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::fault::{AtPdu, Commands, Counters, Pdus, Plan, Rule};
use doorbell_subsystem::port::Running;
use doorbell_subsystem::port::tcp::Server;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::rig::within;

const NQN: &str = "nqn.2014-08.org.example:faults";
/// A session, on a machine that is busy with others.
const DEADLINE: Duration = Duration::from_secs(60);
const SMALL: usize = 4096;
const LARGE: usize = 256 << 10;

const KINDS: [PduType; 7] = [
    PduType::IC_REQ,
    PduType::IC_RESP,
    PduType::CAPSULE_COMMAND,
    PduType::CAPSULE_RESPONSE,
    PduType::H2C_DATA,
    PduType::C2H_DATA,
    PduType::R2T,
];

type Fault = (&'static str, fn(AtPdu) -> Rule);

/// Each fault. Fields are those by which nobody could take a PDU for another that is right: its lengths and the generation
/// of its command.
const FAULTS: [Fault; 13] = [
    ("lose", AtPdu::lose),
    ("delay", |at| at.delay(Duration::from_millis(50))),
    ("duplicate", AtPdu::duplicate),
    ("reorder", AtPdu::reorder),
    ("corrupt the header", |at| at.corrupt(6, [0x40])),
    ("corrupt what follows", |at| at.corrupt(130, [0x80])),
    ("field HLEN", |at| at.field(2, [0x08])),
    ("field PLEN", |at| at.field(4, [0x04])),
    ("wrong digest", AtPdu::wrong_digest),
    ("truncate", |at| at.truncate(20)),
    ("half-written", |at| at.half_written(20, Duration::from_millis(50))),
    ("close", |at| at.close(0)),
    ("close within", |at| at.close(20)),
];

struct Port {
    address: String,
    counters: Counters,
    _running: Running,
}

fn port(rule: Rule) -> Port {
    let namespace = NamespaceSpec::memory(16 << 20, 512).open().expect("memory");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let target = Target::new(subsystem, Limits::default()).expect("a target");
    let plan = Plan::new(7).rule(rule);
    let counters = plan.counters();
    let server = Server::bind(Arc::clone(&target), &[([127, 0, 0, 1], 0).into()], 1);
    let server = server.expect("a port").with_faults(plan);
    let socket = server.addresses()[0];
    let options = "hdgst,ddgst,kato=3s,reconnect=10ms,quiesce=0,loss=20s";
    let address = format!("tcp://{socket}/{NQN},{options}");
    Port { address, counters, _running: server.spawn().expect("a thread") }
}

fn pattern(lba: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (lba as usize * 31 + at / 512 * 7 + at) as u8).collect()
}

/// Attaches, writes and reads; true if all of it went well. Whatever came, each command ended once and with its buffer.
fn session(address: &str) -> bool {
    let address: Address = address.parse().expect("an address");
    let mut config = Config::default();
    config.exchange_timeout = Duration::from_secs(2);
    config.admin_timeout = Duration::from_secs(5);
    let Ok(controller) = Controller::attach(&address, config) else { return false };
    let mut shape = QueueConfig::with_depth(8);
    shape.timeout = Duration::from_millis(500);
    shape.max_transfer = LARGE;
    let (Ok(namespace), Ok(mut queue)) = (controller.namespace(1), controller.queue(shape)) else {
        return false;
    };
    let places = [(0, SMALL), (64, LARGE), (1024, SMALL), (2048, LARGE)];
    let mut well = true;
    for reads in [false, true] {
        let commands = places.iter().map(|&(lba, len)| {
            let mut buffer = controller.buffer(len).expect("memory");
            if reads {
                buffer.fill(0);
                namespace.read(lba, buffer).tag(lba)
            } else {
                buffer.copy_from_slice(&pattern(lba, len));
                namespace.write(lba, buffer).tag(lba)
            }
        });
        let mut sent = 0;
        for command in commands {
            match queue.stage(command) {
                Ok(()) => sent += 1,
                Err(_) => well = false,
            }
        }
        queue.ring();
        let started = Instant::now();
        let mut ended = BTreeMap::new();
        while ended.len() < sent {
            assert!(started.elapsed() < DEADLINE, "{} of {sent} have ended", ended.len());
            queue.poll(|done| {
                assert!(done.buffer.is_some(), "{done:?}");
                assert!(ended.insert(done.tag, done).is_none(), "ended twice");
            });
            controller.poll(|_| ());
            thread::yield_now();
        }
        for _ in 0..16 {
            queue.poll(|done| panic!("after the end: {done:?}"));
        }
        for (lba, done) in ended {
            let success = done.status.is_success();
            assert!(done.outcome == Outcome::Completed || !success, "{done:?}");
            // Data that are said to have come have come; if they had been written.
            if reads && success && well {
                let buffer = done.buffer.expect("a buffer");
                assert!(buffer[..] == pattern(lba, buffer.len())[..], "wrong data at block {lba}");
            }
            well &= success;
        }
    }
    drop((queue, namespace));
    let memory = controller.memory().clone();
    drop(controller);
    assert_eq!((memory.stats().in_use, memory.stats().leaked), (0, 0));
    well
}

#[test]
fn every_fault_of_every_pdu_ends_every_command_once() {
    within(Duration::from_secs(300), || {
        // How many of each there are where nothing is wrong.
        let cases: Vec<_> = KINDS
            .into_iter()
            .flat_map(|kind| {
                let port = port(Rule::pdu(Pdus::of(kind)).lose().times(0));
                assert!(session(&port.address), "nothing is wrong");
                let count = port.counters.iter().next().expect("a rule").matched;
                assert!(count > 0, "{kind:?} does not occur");
                // One during bring-up, if there are any then, and one under load.
                let mut places = vec![1, count.saturating_sub(2).max(1)];
                places.dedup();
                places
                    .into_iter()
                    .flat_map(move |nth| FAULTS.iter().map(move |&fault| (kind, nth, fault)))
            })
            .collect();
        all(&cases, |(kind, nth, (name, fault))| {
            (format!("{name} {kind:?} {nth}"), fault(Rule::pdu(Pdus::of(*kind))).nth(*nth))
        });
    });
}

/// Tries cases side by side: a session under each one's rule, and one after it. Nearly all of them must have met theirs.
fn all<T: Sync>(cases: &[T], rule: impl Fn(&T) -> (String, Rule) + Sync) {
    let (next, injected) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (what, rule) = rule(case);
                    let watch = Watch(what);
                    let port = port(rule);
                    let _troubled = session(&port.address);
                    injected.fetch_add(usize::from(port.counters.total() != 0), Ordering::Relaxed);
                    assert!(session(&port.address), "works again");
                    drop(watch);
                }
            });
        }
    });
    let injected = injected.into_inner();
    println!("{injected} faults in {} cases", cases.len());
    assert!(injected * 10 >= cases.len() * 9, "{injected} of {}", cases.len());
}

type CommandFault = (&'static str, fn(Commands) -> Rule);

/// What a controller behind the port can do to a command or its completion, but for wrong data, which nobody could tell
/// from right ones.
const COMMAND_FAULTS: [CommandFault; 19] = [
    ("command lost", |which| Rule::command(which).lose()),
    ("hangs", |which| Rule::command(which).hang()),
    ("answered, not done", |which| Rule::command(which).answer(Status::INTERNAL_ERROR, 7)),
    ("short", |which| Rule::command(which).short(700)),
    ("fatal", |which| Rule::command(which).fatal()),
    ("vanishes", |which| Rule::command(which).vanish()),
    ("completion lost", |which| Rule::completion(which).lose()),
    ("delayed", |which| Rule::completion(which).delay(Duration::from_millis(50))),
    ("duplicate", |which| Rule::completion(which).duplicate()),
    ("behind", |which| Rule::completion(which).reorder()),
    ("flood", |which| Rule::completion(which).flood()),
    ("other status", |which| {
        Rule::completion(which).status(Status::NAMESPACE_NOT_READY.with_crd(1))
    }),
    ("other CID", |which| Rule::completion(which).cid(0xfffe)),
    ("other generation", |which| Rule::completion(which).flip_cid(0x8000)),
    ("other SQID", |which| Rule::completion(which).sqid(9)),
    ("other SQHD", |which| Rule::completion(which).sqhd(0xfff0)),
    ("other result", |which| Rule::completion(which).result(u64::MAX)),
    ("fatal at the end", |which| Rule::completion(which).fatal()),
    ("vanishes at the end", |which| Rule::completion(which).vanish()),
];

fn reads() -> Commands {
    Commands::io(NvmOpcode::READ)
}

fn same(one: &Commands, other: &Commands) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

#[test]
fn every_fault_of_commands_ends_every_command_once() {
    within(Duration::from_secs(300), || {
        let kinds: [fn() -> Commands; 5] = [
            || Commands::fabrics(Fctype::CONNECT),
            || Commands::fabrics(Fctype::PROPERTY_GET),
            Commands::any_admin,
            || Commands::io(NvmOpcode::WRITE),
            reads,
        ];
        let cases: Vec<_> = kinds
            .into_iter()
            .flat_map(|kind| [1, 2].map(|nth| (kind, nth)))
            .flat_map(|(kind, nth)| COMMAND_FAULTS.map(|(name, fault)| (kind, nth, name, fault)))
            // Of what is cut short a host sees nothing but missing data, of a read.
            .filter(|(kind, _, name, _)| *name != "short" || same(&kind(), &reads()))
            .collect();
        all(&cases, |(kind, nth, name, fault)| {
            (format!("{name} {:?} {nth}", kind()), fault(kind()).nth(*nth))
        });
    });
}

#[test]
fn every_fault_of_registers_ends_in_an_error_or_passes() {
    within(Duration::from_secs(300), || {
        let (read, write) = (Rule::read, Rule::write);
        let rules: [(&str, &(dyn Fn() -> Rule + Sync)); 13] = [
            ("CAP all ones", &|| read(offset::CAP).all_ones().nth(1)),
            ("CAP zero", &|| read(offset::CAP).value(0).times(2)),
            ("CAP.MQES", &|| {
                Rule::capabilities(Cap::new().with_mqes_z(0xffff), Cap::new()).times(2)
            }),
            ("VS all ones", &|| read(offset::VS).all_ones().times(1)),
            ("CSTS all ones", &|| read(offset::CSTS).all_ones().nth(1)),
            ("CSTS all ones later", &|| read(offset::CSTS).all_ones().nth(2)),
            ("CSTS.CFS", &|| read(offset::CSTS).set_bits(2).nth(1)),
            ("CSTS fatal", &|| read(offset::CSTS).fatal().nth(1)),
            ("CSTS vanishes", &|| read(offset::CSTS).vanish().nth(2)),
            ("CC lost", &|| write(offset::CC).lose().nth(1)),
            ("CC late", &|| write(offset::CC).delay(Duration::from_millis(100)).nth(1)),
            ("CC fatal", &|| write(offset::CC).fatal().nth(1)),
            ("CC vanishes", &|| write(offset::CC).vanish().nth(1)),
        ];
        all(&rules, |(name, rule)| ((*name).to_owned(), rule()));
    });
}

/// What no host can see it does not; what comes back is what the rule made of it.
#[test]
fn wrong_data_arrive_as_the_plan_has_them() {
    within(Duration::from_secs(60), || {
        let port = port(Rule::command(Commands::io(NvmOpcode::READ)).corrupt(5, [0x80]).nth(1));
        let address: Address = port.address.parse().expect("an address");
        let controller = Controller::attach(&address, Config::default()).expect("attach");
        let namespace = controller.namespace(1).expect("namespace");
        let mut queue = controller.queue(QueueConfig::with_depth(8)).expect("queue");
        let mut read = || {
            let buffer = controller.buffer(SMALL).expect("memory");
            queue.run(namespace.read(0, buffer)).expect("read").buffer.expect("a buffer").to_vec()
        };
        let mut wrong = vec![0; SMALL];
        wrong[5] = 0x80;
        assert!(read() == wrong);
        assert!(read() == [0; SMALL]);
    });
}

#[test]
fn storms_of_faults_end_every_command_once() {
    within(Duration::from_secs(120), || {
        thread::scope(|scope| {
            for (name, fault) in FAULTS {
                scope.spawn(move || {
                    let watch = Watch(format!("storm of: {name}"));
                    let port = port(fault(Rule::pdu(Pdus::any())).probability(0.02));
                    for _ in 0..3 {
                        let _troubled = session(&port.address);
                    }
                    drop(watch);
                });
            }
        });
    });
}

/// What has the controller reset on this machine makes a new association here.
#[test]
fn a_persistent_internal_error_makes_a_new_association() {
    within(Duration::from_secs(60), || {
        let requests = Commands::admin(AdminOpcode::ASYNC_EVENT_REQUEST);
        let broken = AsyncEvent::new().with_aei(AsyncEvent::ERROR_PERSISTENT);
        let rule = Rule::command(requests).answer(Status::SUCCESS, broken.into_bits().into());
        let port = port(rule.nth(1));
        let address: Address = port.address.parse().expect("an address");
        let controller = Controller::attach(&address, Config::default()).expect("attach");
        let namespace = controller.namespace(1).expect("namespace");
        let mut queue = controller.queue(QueueConfig::with_depth(8)).expect("queue");
        let mut events = Vec::new();
        while !events.contains(&Event::Reconnected) {
            controller.poll(|event| events.push(event));
            queue.poll(|_| ());
            thread::yield_now();
        }
        assert_eq!(events[0], Event::Reported(broken), "{events:?}");
        let steps = controller.recovery();
        assert_eq!((steps.internal_errors, steps.reconnections, steps.resets), (1, 1, 0));
        let buffer = controller.buffer(SMALL).expect("memory");
        queue.run(namespace.read(0, buffer)).expect("read");
        assert_eq!(port.counters.total(), 1);
    });
}

#[test]
fn a_command_that_hangs_is_aborted_across_the_network() {
    within(Duration::from_secs(60), || {
        let port = port(Rule::command(Commands::any_io()).hang().nth(2));
        let address: Address = port.address.parse().expect("an address");
        let controller = Controller::attach(&address, Config::default()).expect("attach");
        let namespace = controller.namespace(1).expect("namespace");
        let mut shape = QueueConfig::with_depth(8);
        shape.timeout = Duration::from_millis(200);
        let mut queue = controller.queue(shape).expect("queue");
        for tag in 0..4 {
            let buffer = controller.buffer(SMALL).expect("memory");
            queue.submit(namespace.read(0, buffer).tag(tag)).expect("room");
        }
        let mut ended = BTreeMap::new();
        while ended.len() < 4 {
            queue.poll(|done| assert!(ended.insert(done.tag, done.outcome).is_none()));
            controller.poll(|event| panic!("{event:?}"));
            thread::yield_now();
        }
        let expected =
            [Outcome::Completed, Outcome::Aborted, Outcome::Completed, Outcome::Completed];
        assert_eq!(ended.into_values().collect::<Vec<_>>(), expected);
        while controller.recovery().aborted == 0 {
            controller.poll(|event| panic!("{event:?}"));
        }
        let steps = controller.recovery();
        assert_eq!((steps.overdue, steps.aborts, steps.reconnections), (1, 1, 0), "{steps:?}");
        assert_eq!(queue.failure(), None);
    });
}

/// Names the case of a session that panics.
struct Watch(String);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("at: {}", self.0);
        }
    }
}
