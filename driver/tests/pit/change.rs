//! Namespaces that come, go and change under I/O, firmware that is activated under I/O, and warnings: events that say so,
//! and handles of what has changed that can do no harm.

use std::time::Duration;

use doorbell::clock::Clock;
use doorbell::controller::Event;
use doorbell::queue::Invalid;
use doorbell::spec::admin::{self, AdminOpcode, FormatCdw10};
use doorbell::spec::command::NSID_ALL;
use doorbell::spec::feature::Fid;
use doorbell::spec::log::ChangedNamespaceList;
use doorbell::spec::nvm::NvmOpcode;
use doorbell::spec::status::Status;
use doorbell::{Outcome, Reason};
use doorbell_subsystem::NamespaceSpec;
use doorbell_subsystem::fault::{Commands, Rule};
use zerocopy::IntoBytes;

use crate::bench::{Load, small};

/// Polls controller and queue until no more events come.
fn events(load: &mut Load) -> Vec<Event> {
    let mut events = Vec::new();
    let mut quiet = 0;
    while quiet < 40 {
        quiet += 1;
        if load.controller.poll(|event| events.push(event)) != 0 {
            quiet = 0;
        }
        load.ledger.poll(&mut load.queue);
        load.bench.clock.pause(16, Duration::from_millis(1));
    }
    events
}

fn watched(depth: u16) -> Load {
    let mut load = Load::new(depth);
    assert_eq!(events(&mut load), []);
    load
}

fn namespace(spec: &str) -> doorbell_subsystem::Namespace {
    spec.parse::<NamespaceSpec>().expect(spec).open().expect(spec)
}

/// A pattern behind every buffer of the pool: what the controller writes there shows.
struct Canaries(Vec<doorbell::Buffer>);

impl Canaries {
    /// Around buffers for `use_them`: every other one of many is a canary.
    fn new(load: &Load) -> (Self, Vec<doorbell::Buffer>) {
        let all = (0..128).map(|_| load.controller.buffer(4096).expect("memory"));
        let (mut canaries, mut free) = (Vec::new(), Vec::new());
        for (at, mut buffer) in all.enumerate() {
            if at % 2 == 0 {
                free.push(buffer);
            } else {
                buffer.fill(0xc7);
                canaries.push(buffer);
            }
        }
        (Self(canaries), free)
    }

    fn sing(&self) {
        assert!(self.0.iter().all(|canary| canary.iter().all(|&byte| byte == 0xc7)));
    }
}

#[test]
fn namespaces_come_go_and_grow_under_load() {
    let mut load = watched(4);
    let subsystem = load.bench.device.port().subsystem().clone();
    load.send(4);
    assert_eq!(subsystem.add(namespace("memory:1MiB")), Ok(3));
    subsystem.resize(1, 1 << 20).expect("smaller");
    let changes = events(&mut load);
    let expected =
        [Event::NamespaceResized { nsid: 1, blocks: 2048 }, Event::NamespaceAdded { nsid: 3 }];
    assert_eq!(changes, expected);
    // A handle of another size goes on; what lies beyond is for the controller to refuse.
    load.settle();
    let tags = load.send(3);
    let buffer = load.controller.buffer(512).expect("memory");
    let beyond = load.ledger.submit(&mut load.queue, load.namespace.read(2048, buffer));
    load.settle();
    assert!(tags.iter().all(|tag| load.ledger.of(*tag).0.is_success()));
    assert!(load.ledger.of(beyond).0.is(Status::LBA_OUT_OF_RANGE));
    // Never asked for: nothing is known of what it was.
    subsystem.resize(2, 1 << 20).expect("smaller");
    assert_eq!(events(&mut load), [Event::NamespaceChanged { nsid: 2 }]);
    // Gone, with commands on their way to it.
    load.send(4);
    subsystem.remove(1).expect("a namespace");
    assert_eq!(events(&mut load), [Event::NamespaceRemoved { nsid: 1 }]);
    load.settle();
    let buffer = load.controller.buffer(512).expect("memory");
    let rejected = load.queue.stage(load.namespace.read(0, buffer)).expect_err("it is gone");
    assert_eq!(rejected.reason, Reason::Invalid(Invalid::Reformatted { nsid: 1 }));
    assert!(rejected.io.into_buffer().is_some());
    assert!(load.controller.namespace(1).is_err());
    // Back, and the same: a new handle, and only that.
    subsystem.add_as(1, namespace("memory:4MiB")).expect("a place");
    assert_eq!(events(&mut load), [Event::NamespaceAdded { nsid: 1 }]);
    let buffer = load.controller.buffer(512).expect("memory");
    assert!(load.queue.stage(load.namespace.read(0, buffer)).is_err());
    load.namespace = load.controller.namespace(1).expect("a namespace");
    load.resumes();
    load.close();
}

#[test]
fn a_format_by_another_host_makes_handles_stale_once_it_is_known() {
    let mut load = watched(8);
    let other = load.controller.namespace(2).expect("a namespace");
    let (canaries, mut free) = Canaries::new(&load);
    let mut buffer = || free.pop().expect("a buffer");
    let io = load.namespace.read(0, buffer());
    let subsystem = load.bench.device.port().subsystem().clone();
    subsystem.format(1, 4096).expect("a format");
    assert_eq!(events(&mut load), [Event::NamespaceReformatted { nsid: 1 }]);
    let stale = Reason::Invalid(Invalid::Reformatted { nsid: 1 });
    // Made before, made now; read, written, deallocated, compared, or without data: by no way.
    assert_eq!(load.queue.stage(io).expect_err("stale").reason, stale);
    for io in [
        load.namespace.read(0, buffer()),
        load.namespace.write(0, buffer()),
        load.namespace.compare(0, buffer()),
        load.namespace.write_zeroes(0, 8),
        load.namespace.verify(0, 8),
        load.namespace.deallocate(&[(0, 8)], buffer()),
    ] {
        assert_eq!(load.queue.stage(io).expect_err("stale").reason, stale);
    }
    assert!(load.queue.run(load.namespace.read(0, buffer())).is_err());
    // A handle of another namespace is as good as before, and so is a queue made since.
    let mut queue = load.controller.queue(small(4)).expect("a queue");
    load.queue.run(other.read(0, buffer())).expect("as ever");
    queue.run(other.read(0, buffer())).expect("as ever");
    assert!(queue.run(load.namespace.read(0, buffer())).is_err());
    canaries.sing();
    load.namespace = load.controller.namespace(1).expect("a namespace");
    assert_eq!(load.namespace.block_size(), 4096);
    load.queue.run(load.namespace.read(0, buffer())).expect("a read");
    // And nobody takes the format for another drive when the controller is reset.
    load.controller.reset().expect("a reset");
    drop((queue, other, canaries, free));
    load.resumes_with(4096);
    assert_eq!(events(&mut load), [Event::Reset]);
    load.close();
}

#[test]
fn a_format_through_the_driver_comes_between_no_two_commands() {
    let mut load = watched(8);
    let (canaries, mut free) = Canaries::new(&load);
    let mut second = load.controller.queue(small(4)).expect("a queue");
    // In every state that a command can be in: in flight, staged without a doorbell, waiting as part of a long one, and
    // still with its caller.
    let tags = load.send(3);
    let staged = load.namespace.read(0, free.pop().expect("a buffer")).tag(7);
    second.stage(staged).expect("room");
    let long = load.controller.buffer(2 << 20).expect("memory");
    let long = load.ledger.submit(&mut load.queue, load.namespace.read(0, long));
    let unsent = load.namespace.read(0, free.pop().expect("a buffer"));
    let format = admin::format_nvm(1, FormatCdw10::new().with_lbafl(1));
    load.controller.admin(format, None).expect("a format");
    // What one-eyed handles would do: 8 blocks of 4 KiB into 4 KiB.
    second.ring();
    assert!(second.stage(unsent).is_err());
    load.settle();
    for tag in tags {
        let (status, outcome) = load.ledger.of(tag);
        let aborted = status.is(Status::ABORTED_SQ_DELETION);
        assert!(status.is_success() || aborted || outcome == Outcome::Indeterminate, "{status}");
    }
    assert!(!load.ledger.of(long).0.is_success());
    let mut ended = 0;
    let start = load.bench.now();
    while ended == 0 && load.bench.now() - start < Duration::from_secs(1) {
        second.poll(|done| {
            assert_eq!(done.tag, 7);
            assert!(!done.status.is_success() && done.buffer.is_some());
            ended += 1;
        });
        load.bench.clock.settle();
    }
    assert_eq!(ended, 1, "the one that was staged and never rung for");
    canaries.sing();
    assert_eq!(load.controller.recovery().resets, 0, "queues were deleted, no more");
    // Both queues go on, with a handle of the new format.
    load.namespace = load.controller.namespace(1).expect("a namespace");
    assert_eq!(load.namespace.block_size(), 4096);
    second.run(load.namespace.read(0, free.pop().expect("a buffer"))).expect("a read");
    drop((second, canaries, free));
    let buffer = load.controller.buffer(4096).expect("memory");
    load.queue.run(load.namespace.read(0, buffer)).expect("a read");
    load.close();
}

#[test]
fn a_format_whose_queues_do_not_go_resets_the_controller_first() {
    for (lost, resets) in [(AdminOpcode::DELETE_IO_SQ, 1), (AdminOpcode::FORMAT_NVM, 1)] {
        let mut load = watched(4);
        load.bench.inject([Rule::command(Commands::admin(lost)).lose().nth(1)]);
        let tags = load.send(3);
        let format = admin::format_nvm(NSID_ALL, FormatCdw10::new().with_lbafl(1));
        let result = load.controller.admin_within(format, None, Duration::from_secs(2));
        assert_eq!(result.is_ok(), lost == AdminOpcode::DELETE_IO_SQ);
        load.settle();
        for tag in tags {
            let _whatever_became_of_it = load.ledger.of(tag);
        }
        assert_eq!(load.controller.recovery().resets, resets);
        let buffer = load.controller.buffer(512).expect("memory");
        assert!(load.queue.stage(load.namespace.read(0, buffer)).is_err(), "whatever became of it");
        load.namespace = load.controller.namespace(1).expect("a namespace");
        let len = load.namespace.block_size() as usize;
        let buffer = load.controller.buffer(len).expect("memory");
        load.queue.run(load.namespace.read(0, buffer)).expect("a read");
        load.close();
    }
}

#[test]
fn a_list_that_says_all_of_them() {
    let mut load = watched(4);
    let subsystem = load.bench.device.port().subsystem().clone();
    let mut list = ChangedNamespaceList::from_ids([]);
    list.nsids[0].set(u32::MAX);
    let log = Commands::admin(AdminOpcode::GET_LOG_PAGE).selector(4);
    load.bench.inject([Rule::reply(log, move |page| page.copy_from_slice(list.as_bytes()))]);
    subsystem.remove(2).expect("a namespace");
    subsystem.add_as(9, namespace("memory:1MiB")).expect("a place");
    subsystem.format(1, 4096).expect("a format");
    let mut changes = events(&mut load);
    changes.sort_by_key(|event| format!("{event:?}"));
    let expected = [
        Event::NamespaceAdded { nsid: 9 },
        Event::NamespaceReformatted { nsid: 1 },
        Event::NamespaceRemoved { nsid: 2 },
    ];
    assert_eq!(changes, expected);
    load.namespace = load.controller.namespace(1).expect("a namespace");
    load.resumes_with(4096);
    load.close();
}

#[test]
fn what_changed_during_a_reset_is_found_after_it() {
    let mut load = watched(4);
    let subsystem = load.bench.device.port().subsystem().clone();
    subsystem.remove(2).expect("a namespace");
    subsystem.add_as(5, namespace("memory:1MiB")).expect("a place");
    load.controller.reset().expect("a reset");
    let expected =
        [Event::Reset, Event::NamespaceRemoved { nsid: 2 }, Event::NamespaceAdded { nsid: 5 }];
    assert_eq!(events(&mut load), expected);
    load.resumes();
    load.close();
}

#[test]
#[cfg_attr(miri, ignore = "thousands of polls")]
fn firmware_is_activated_under_load() {
    let mut load = watched(4);
    let subsystem = load.bench.device.port().subsystem().clone();
    load.bench.inject([Rule::command(Commands::any_io()).lose().times(0).named("seen")]);
    subsystem.activate_firmware("NEW", Duration::from_millis(700));
    let mut came = Vec::new();
    let tags = load.send(3);
    let start = load.bench.now();
    let (mut refused, mut sent) = (0, None);
    while !came.contains(&Event::FirmwareActivated { slot: 1 }) {
        load.controller.poll(|event| came.push(event));
        load.ledger.poll(&mut load.queue);
        let buffer = load.controller.buffer(512).expect("memory");
        let io = load.namespace.read(0, buffer);
        if !came.is_empty() && !load.ledger.try_submit(&mut load.queue, io) {
            refused += 1;
        }
        if !came.is_empty() && load.bench.now() - start < Duration::from_millis(650) {
            let commands = load.queue.counters().commands;
            assert_eq!(*sent.get_or_insert(commands), commands, "none is sent meanwhile");
        }
        load.bench.clock.pause(16, Duration::from_millis(1));
        assert!(load.bench.now() - start < Duration::from_secs(5));
    }
    assert_eq!(came, [Event::FirmwareActivating, Event::FirmwareActivated { slot: 1 }]);
    assert!(refused > 100, "no command was sent meanwhile: {refused}");
    assert!(load.bench.now() - start >= Duration::from_millis(700));
    load.settle();
    assert!(tags.iter().all(|tag| load.ledger.of(*tag).0.is_success()));
    // 700 ms are seven times what a command may take here: nobody took it for a fault.
    let recovery = load.controller.recovery();
    assert_eq!((recovery.overdue, recovery.aborts, recovery.resets), (0, 0, 0));
    load.resumes();
    load.close();
}

#[test]
#[cfg_attr(miri, ignore = "thousands of polls")]
fn a_queue_alone_finds_out_that_firmware_has_been_activated() {
    let mut load = watched(4);
    let subsystem = load.bench.device.port().subsystem().clone();
    subsystem.activate_firmware("NEW", Duration::from_millis(300));
    let mut came = Vec::new();
    while came.is_empty() {
        load.controller.poll(|event| came.push(event));
        load.bench.clock.settle();
    }
    // Nobody polls the controller any more; a blocking call waits for its turn.
    let buffer = load.controller.buffer(512).expect("memory");
    let read = load.namespace.read(0, buffer);
    let done = load.queue.run_within(read, Duration::from_secs(2)).expect("in time");
    assert!(done.status.is_success());
    drop(done);
    assert_eq!(events(&mut load), [Event::FirmwareActivated { slot: 1 }]);
    load.close();
}

#[test]
#[cfg_attr(miri, ignore = "thousands of polls")]
fn firmware_that_takes_longer_than_it_may_ends_in_a_reset() {
    let bench = crate::bench::Bench::faulty([Rule::identify_controller(|page| page.mtfa.set(20))]);
    let mut load = Load::with(bench, 4);
    events(&mut load);
    let subsystem = load.bench.device.port().subsystem().clone();
    subsystem.activate_firmware("NEW", Duration::from_secs(3600));
    let start = load.bench.now();
    load.send(2);
    let mut came = Vec::new();
    while !came.contains(&Event::Reset) {
        load.controller.poll(|event| came.push(event));
        load.ledger.poll(&mut load.queue);
        load.bench.clock.pause(16, Duration::from_millis(1));
        assert!(load.bench.now() - start < Duration::from_secs(10), "{came:?}");
    }
    assert!(load.bench.now() - start >= Duration::from_secs(2), "MTFA is 2 s");
    load.settle();
    assert_eq!(load.controller.recovery().resets, 1);
    load.resumes();
    load.close();
}

#[test]
fn a_warning_says_what_is_critical() {
    let mut load = watched(4);
    // Below the temperature that it has: 40 C.
    for kelvin in [300, 310] {
        load.controller.set_feature(Fid::TEMPERATURE_THRESHOLD, 0, kelvin).expect("set");
        let came = events(&mut load);
        let [Event::Health { warning }] = came[..] else { panic!("{came:?}") };
        assert!(warning.ttc() && !warning.ndr(), "{warning:?}");
    }
    load.resumes();
    load.close();
}

#[test]
fn an_operation_under_way_does_not_go_on_in_blocks_of_another_size() {
    let mut load = watched(2);
    // Sixteen parts, two at once: the format comes when some have gone out.
    let slow = Rule::completion(Commands::io(NvmOpcode::READ)).delay(Duration::from_millis(20));
    load.bench.inject([slow]);
    let long = load.controller.buffer(2 << 20).expect("memory");
    let long = load.ledger.submit(&mut load.queue, load.namespace.read(0, long));
    load.bench.clock.settle();
    load.bench.device.port().subsystem().format(1, 4096).expect("a format");
    let start = load.bench.now();
    let mut came = Vec::new();
    while came.is_empty() {
        load.controller.poll(|event| came.push(event));
        load.bench.clock.pause(16, Duration::from_micros(100));
        assert!(load.bench.now() - start < Duration::from_millis(15));
    }
    let commands = load.queue.counters().commands;
    load.settle();
    assert_eq!(load.ledger.of(long), (Status::ABORTED_BY_HOST, Outcome::Indeterminate));
    assert_eq!(load.queue.counters().commands, commands, "no part was sent since");
    load.namespace = load.controller.namespace(1).expect("a namespace");
    load.bench.behave();
    load.resumes_with(4096);
    load.close();
}
