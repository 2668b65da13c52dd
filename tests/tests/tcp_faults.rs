//! Faults of PDUs between our host and our port: each command ends once, what succeeds is right, and the next session works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::{Address, Config, Controller, Outcome, QueueConfig};
use doorbell_spec::fabrics::pdu::PduType;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::fault::{AtPdu, Counters, Pdus, Plan, Rule};
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
        let (next, injected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(&(kind, nth, (name, fault))) =
                        cases.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let what = format!("{name} {kind:?} {nth}");
                        let watch = Watch(what);
                        let port = port(fault(Rule::pdu(Pdus::of(kind))).nth(nth));
                        let _troubled = session(&port.address);
                        injected.fetch_add(port.counters.total() as usize, Ordering::Relaxed);
                        assert!(session(&port.address), "works again");
                        drop(watch);
                    }
                });
            }
        });
        let injected = injected.into_inner();
        println!("{injected} faults in {} cases", cases.len());
        assert!(injected * 10 >= cases.len() * 9, "{injected} of {}", cases.len());
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

/// Names the case of a session that panics.
struct Watch(String);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("at: {}", self.0);
        }
    }
}
