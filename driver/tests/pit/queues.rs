//! PIT-50 to PIT-53: queues that the controller does not take, does not give, or does not give back.

use std::time::Duration;

use doorbell::Io;
use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::command::Sqe;
use doorbell::spec::register::{Cap, offset};
use doorbell::spec::status::Status;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Ledger, small};
use crate::spy::Event;

fn admin(opcode: AdminOpcode) -> Commands {
    Commands::admin(opcode)
}

fn disables(bench: &Bench) -> usize {
    bench.spy.count(|event| matches!(event, Event::Write(offset::CC, cc) if cc & 1 == 0))
}

#[test]
fn pit_50_entries_of_another_size() {
    for (sqes, cqes) in [(0x77, 0x44), (0x55, 0x44), (0x66, 0x55), (0x66, 0x33), (0, 0)] {
        let bench = Bench::faulty([Rule::identify_controller(move |page| {
            (page.sqes, page.cqes) = (sqes, cqes);
        })]);
        let error = bench.refused();
        assert!(error.contains("SQES"), "{error}");
    }
    let bench =
        Bench::faulty([Rule::identify_controller(|page| (page.sqes, page.cqes) = (0xf0, 0xf0))]);
    assert!(bench.attach().is_ok(), "a range that holds both is fine");
}

#[test]
fn pit_51_more_queues_than_were_asked_for() {
    for (granted, usable) in
        [(0xffff_ffff, 4), (0x0000_ffff, 1), (0x0001_0000, 1), (0x0063_0063, 4), (0, 1)]
    {
        let bench =
            Bench::faulty([Rule::completion(admin(AdminOpcode::SET_FEATURES)).result(granted)]);
        let controller = bench.attach().expect("a controller");
        assert_eq!(controller.limits().max_io_queues, usable, "{granted:#x}");
        let queues: Vec<_> =
            (0..usable).map(|_| controller.queue(small(4)).expect("a queue")).collect();
        assert!(controller.queue(small(4)).is_err());
        drop(queues);
        bench.close(controller);
    }
    let bench = Bench::faulty([
        Rule::completion(admin(AdminOpcode::SET_FEATURES)).status(Status::INTERNAL_ERROR)
    ]);
    let controller = bench.attach().expect("good for admin commands");
    assert_eq!(controller.limits().max_io_queues, 0);
    bench.close(controller);
}

#[test]
fn pit_52_a_completion_queue_without_its_submission_queue() {
    let bench = Bench::new();
    let controller = bench.attach().expect("a controller");
    let counters = bench.inject([
        Rule::command(admin(AdminOpcode::CREATE_IO_SQ))
            .answer(Status::INVALID_QUEUE_SIZE, 0)
            .times(5),
        Rule::command(admin(AdminOpcode::DELETE_IO_CQ)).lose().times(0).named("deleted"),
    ]);
    let held = controller.memory().stats().in_use;
    for round in 1..=5 {
        let error = controller.queue(small(4)).err().expect("no queue").to_string();
        assert!(error.contains("create the submission queue 1"), "{error}");
        let deleted = counters.iter().find(|count| count.name == "deleted").expect("a rule");
        assert_eq!(deleted.matched, round);
        assert_eq!(controller.memory().stats().in_use, held, "nothing leaks");
    }
    // Some queues made, and then no more: those that there are work.
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = controller.queue(small(4)).expect("a queue");
    bench.inject([
        Rule::command(admin(AdminOpcode::CREATE_IO_SQ)).answer(Status::INTERNAL_ERROR, 0)
    ]);
    assert!(controller.queue(small(4)).is_err());
    bench.behave();
    let mut ledger = Ledger::default();
    let tag = ledger.submit(&mut queue, namespace.read(0, controller.buffer(512).expect("memory")));
    ledger.settle(&bench, &mut queue, Duration::from_secs(1));
    assert!(ledger.of(tag).0.is_success());
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn pit_53_queues_that_are_not_deleted() {
    let refuse = |opcode| Rule::command(admin(opcode)).answer(Status::INTERNAL_ERROR, 0);
    let lose = |opcode| Rule::command(admin(opcode)).lose();
    for rule in [
        refuse(AdminOpcode::DELETE_IO_SQ),
        refuse(AdminOpcode::DELETE_IO_CQ),
        lose(AdminOpcode::DELETE_IO_SQ),
        lose(AdminOpcode::DELETE_IO_CQ),
    ] {
        let label = format!("{rule:?}");
        let bench = Bench::new();
        let controller = bench.attach().expect("a controller");
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(small(4)).expect("a queue");
        bench.inject([rule]);
        for lba in 0..4 {
            queue
                .stage(namespace.write(lba, controller.buffer(512).expect("memory")))
                .expect("room");
        }
        queue.ring();
        let before = (disables(&bench), bench.now());
        drop(queue);
        assert!(disables(&bench) > before.0, "{label}: a reset ends what deletion did not");
        assert!(bench.now() - before.1 < Duration::from_secs(30), "{label}");
        bench.behave();
        let mut ledger = Ledger::default();
        let mut queue = controller.queue(small(4)).expect("the identifier is free again");
        let tag =
            ledger.submit(&mut queue, namespace.read(0, controller.buffer(512).expect("memory")));
        ledger.settle(&bench, &mut queue, Duration::from_secs(1));
        assert!(ledger.of(tag).0.is_success(), "{label}");
        drop((queue, namespace));
        bench.close(controller);
    }
}

#[test]
fn a_creation_without_an_answer_resets_the_controller_before_its_memory_is_given_back() {
    for opcode in [AdminOpcode::CREATE_IO_CQ, AdminOpcode::CREATE_IO_SQ] {
        for automatic in [true, false] {
            let mut bench = Bench::new();
            bench.config.recovery.automatic = automatic;
            let controller = bench.attach().expect("a controller");
            // Carried out, and never said: the controller has the rings.
            bench.inject([Rule::completion(admin(opcode)).lose().times(1)]);
            let (held, before) = (controller.memory().stats().in_use, disables(&bench));
            let error = controller.queue(small(4)).err().expect("no queue").to_string();
            assert!(error.contains("no completion within"), "{error}");
            assert_eq!(
                disables(&bench),
                before + 1 + usize::from(automatic),
                "disabled before the rings went back"
            );
            assert_eq!(bench.device.port().is_running(), automatic);
            assert_eq!(controller.memory().stats().in_use, held);
            assert_eq!(controller.queue(small(4)).is_ok(), automatic);
            bench.close(controller);
        }
    }
}

#[test]
fn raw_commands_are_guarded_in_the_pages_that_the_controller_has() {
    for mpsmin in [0u8, 1, 3] {
        let larger =
            Rule::capabilities(Cap::new().with_mpsmin(0xf), Cap::new().with_mpsmin(mpsmin));
        let bench = Bench::faulty([larger]);
        let controller = bench.attach().expect("a controller");
        let page = controller.limits().page_size;
        assert_eq!(page, 4096 << mpsmin);
        let mut queue = controller.queue(small(4)).expect("a queue");
        // One that moves more than it was given would take the second of two pages for a list of addresses.
        for len in [page + 512, 2 * page] {
            let mut buffer = controller.buffer(len).expect("memory");
            buffer.fill(0xff);
            let raw = Io::raw(Sqe::new(0xc2).with_nsid(1), Some(buffer));
            let error = queue.run(raw).expect_err("no such command");
            assert!(error.status().is_some_and(|status| status.is(Status::INVALID_OPCODE)));
            let buffer = error.into_buffer().expect("the buffer");
            assert!(buffer[..page].iter().all(|&byte| byte == 0xff), "{len} bytes, {page} a page");
            assert!(buffer[page..].iter().all(|&byte| byte == 0), "{len} bytes, {page} a page");
        }
        let both_ways = controller.buffer(2 * page).expect("memory");
        assert!(queue.stage(Io::raw(Sqe::new(0xc3).with_nsid(1), Some(both_ways))).is_err());
        drop(queue);
        bench.close(controller);
    }
}
