//! Time, limits, events: what happens to connections without a command being wrong.

use std::time::Duration;

use doorbell_spec::admin::{self, AsyncEvent, LogRequest, async_event_request};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::feature::{AsyncEventConfig, Fid, Select};
use doorbell_spec::log::{ChangedNamespaceList, Lid};
use doorbell_spec::nvm;
use doorbell_spec::register::offset;
use doorbell_spec::status::Status;
use doorbell_subsystem::NamespaceSpec;
use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::port::tcp::{Connection, End};
use zerocopy::FromBytes;

use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, Pdu, attach, target};

#[test]
fn a_host_that_says_nothing_loses_its_connection() {
    let target = target(Limits::default());
    let mut mute = Link::new(&target, Options::default());
    mute.pass(Duration::from_millis(9_900));
    assert!(!mute.connection.is_ended());
    mute.pass(Duration::from_millis(200));
    assert!(mute.connection.is_ended());
    assert_eq!(mute.connection.end(), Some(End::Silent));
    // Half a PDU is nothing either.
    let mut slow = Link::open(&target, Options::default());
    slow.send(&[4, 0, 72]);
    slow.pass(Duration::from_millis(10_100));
    assert_eq!(slow.connection.end(), Some(End::Silent));
}

#[test]
fn the_keep_alive_timer_ends_a_silent_controller() {
    let target = target(Limits::default());
    let options = Options { kato: 2000, ..Options::default() };
    let (mut admin, mut io) = attach(&target, options);
    let kato = admin::get_features(Fid::KEEP_ALIVE_TIMER, 0, Select::CURRENT, 0);
    assert_eq!(admin.call(kato, &[]).0.dw0, 2000);
    // Any command keeps it alive, on any queue (TBKAS).
    for _ in 0..5 {
        admin.pass(Duration::from_millis(3900));
        io.pass(Duration::from_millis(3900));
        assert!(io.call(nvm::flush(1), &[]).0.status().is_success());
    }
    for _ in 0..5 {
        admin.pass(Duration::from_millis(3900));
        assert!(admin.call(admin::keep_alive(), &[]).0.status().is_success());
    }
    io.now = admin.now;
    admin.pass(Duration::from_millis(3900));
    assert!(!admin.connection.is_ended());
    admin.pass(Duration::from_millis(200));
    assert_eq!(admin.connection.end(), Some(End::Expired));
    // Its I/O queue does nothing more, whatever had been sent before.
    let write = nvm::write(1, 0, 0);
    let capsule = io.capsule(write, &[]);
    io.send(&capsule);
    assert_eq!(io.take(), []);
    assert_eq!(io.connection.end(), Some(End::Dissociated));
    assert_eq!(target.usage().controllers, 0);
}

#[test]
fn without_a_timer_silence_is_no_crime() {
    let target = target(Limits::default());
    let (mut admin, _io) = attach(&target, Options::default());
    admin.pass(Duration::from_secs(86_400));
    assert_eq!(admin.property(offset::CSTS, 4), 1);
    let set = admin::set_features(Fid::KEEP_ALIVE_TIMER, 0, 1000, false);
    assert!(admin.call(set, &[]).0.status().is_success());
    admin.pass(Duration::from_millis(2100));
    assert_eq!(admin.connection.end(), Some(End::Expired));
}

#[test]
fn a_controller_ends_with_its_admin_queue() {
    let target = target(Limits::default());
    let (admin, mut io) = attach(&target, Options::default());
    let mut late = io.capsule(nvm::write(1, 0, 0).with_cid(1), &[]);
    late.truncate(40);
    io.send(&late);
    drop(admin);
    io.run();
    assert_eq!(io.connection.end(), Some(End::Dissociated));
    let data = ConnectData::new(HOSTID, 1, NQN, HOSTNQN);
    let cqe = Link::open(&target, Options::default()).say_connect(1, 31, &data);
    assert_eq!((cqe.status().code(), cqe.dw0), (Status::FABRICS_CONNECT_INVALID.code(), 0x1_0010));
}

/// A host that comes back must not find its old commands still at work, on whatever thread they are.
#[test]
fn nothing_is_written_once_the_admin_queue_is_gone() {
    let rounds = if cfg!(miri) { 1 } else { 30 };
    for round in 0..rounds {
        let target = target(Limits::default());
        let (admin, mut io) = attach(&target, Options::default());
        let mut commands = Vec::new();
        for cid in 0..50 {
            let sqe = nvm::write(1, 0, 15).with_cid(cid).with_sgl(Sgl::in_capsule(8192));
            commands.push(io.capsule(sqe, &[cid as u8 + 1; 8192]));
        }
        let (started, wait) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            for commands in commands.chunks(10).cycle() {
                io.send(&commands.concat());
                let _ = started.send(());
                if io.connection.is_ended() {
                    return;
                }
            }
        });
        wait.recv().expect("a write");
        drop(admin);
        let look = || {
            let (_admin, mut io) = attach(&target, Options::default());
            io.read(nvm::read(1, 0, 15), 8192).1
        };
        let first = look();
        writer.join().expect("it ends by itself");
        assert!(first == look(), "round {round}: a write after the end");
    }
}

#[test]
fn limits_hold_and_are_given_back() {
    let limits = Limits { connections: 5, connections_per_host: 3, ..Limits::default() };
    let target = target(limits);
    let options = Options::default();
    let (admin, io) = attach(&target, options);
    let third = Link::connect(&target, options, 2, 1);
    let data = ConnectData::new(HOSTID, 1, NQN, HOSTNQN);
    let mut fourth = Link::open(&target, options);
    let cqe = fourth.say_connect(3, 31, &data);
    assert_eq!(cqe.status(), Status::FABRICS_CONTROLLER_BUSY, "and it may try again");
    let _fifth = Link::open(&target, options);
    let local = "127.0.0.1:4420".parse().expect("address");
    assert!(Connection::new(&target, local, Duration::ZERO).is_none());
    let usage = target.usage();
    assert_eq!((usage.connections, usage.hosts, usage.controllers), (5, 1, 1));
    let (buffers, log) = (832 << 10, 1 << 20);
    assert_eq!((usage.memory, usage.refused), (3 * buffers + log, 2));
    drop(third);
    assert!(fourth.say_connect(2, 31, &data).status().is_success());
    drop((admin, io, fourth));
    let usage = target.usage();
    assert_eq!((usage.connections, usage.hosts, usage.controllers, usage.memory), (1, 0, 0, 0));

    let target = crate::host::target(Limits { memory_per_host: 3 << 20, ..limits });
    let _admin = Link::connect(&target, options, 0, 0xffff);
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cqe = Link::open(&target, options).say_connect(0, 31, &data);
    assert!(cqe.status().is(Status::FABRICS_CONTROLLER_BUSY));
    let other = ConnectData::new(HOSTID, 0xffff, NQN, "nqn.2014-08.org.example:other");
    assert!(Link::open(&target, options).say_connect(0, 31, &other).status().is_success());
}

#[test]
fn namespaces_that_come_are_reported_and_served() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    let notices = AsyncEventConfig::new().with_nan(true).into_bits();
    admin.call(admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, notices, false), &[]);
    for cid in [700, 701, 702, 703] {
        let capsule = admin.capsule(async_event_request().with_cid(cid), &[]);
        admin.send(&capsule);
    }
    assert_eq!(admin.take(), []);
    let (cqe, _) = admin.call(async_event_request(), &[]);
    assert!(cqe.status().is(Status::EVENT_LIMIT_EXCEEDED));
    let spec: NamespaceSpec = "memory:1MiB".parse().expect("spec");
    assert_eq!(target.subsystem().add(spec.open().expect("open")), Ok(3));
    admin.pass(Duration::from_millis(100));
    let [Pdu::Response(cqe)] = admin.take()[..] else { panic!("an event") };
    let event = AsyncEvent::from_bits(cqe.dw0);
    assert_eq!((cqe.cid, cqe.dw0), (700, 0x0004_0002), "{event:?}");
    let log = admin::get_log_page(LogRequest::new(Lid::CHANGED_NAMESPACES, 1023));
    let (_, page) = admin.read(log, 4096);
    let page = ChangedNamespaceList::read_from_bytes(&page).expect("4096");
    assert_eq!(page.iter().collect::<Vec<_>>(), [3]);
    assert!(io.read(nvm::read(3, 0, 0), 512).0.status().is_success());
    // Abort ends a request, and finds nothing else to end.
    let capsule = admin.capsule(admin::abort(0, 702).with_cid(1), &[]);
    admin.send(&capsule);
    let [Pdu::Response(aborted), Pdu::Response(abort)] = admin.take()[..] else { panic!("two") };
    assert!(aborted.cid == 702 && aborted.status().is(Status::ABORTED_BY_REQUEST));
    assert_eq!((abort.cid, abort.dw0), (1, 0));
    // Of a queue that there is not.
    assert_eq!(admin.call(admin::abort(7, 5), &[]).0.dw0, 1);
}
