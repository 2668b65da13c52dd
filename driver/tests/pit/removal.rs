//! PIT-60: a device that vanishes, at every register access and at every command.

use std::time::Duration;

use doorbell::spec::register::offset;
use doorbell::transport::Violation;
use doorbell::{Outcome, Reason};
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load};
use crate::spy::Event;

/// Attach, I/O, a reset, I/O, shutdown, with a device that vanishes by `rule`; how far it came.
fn lives_until(rule: Rule) -> (u64, bool) {
    let bench = Bench::new();
    let counters = bench.inject([rule.named("vanish")]);
    let start = bench.now();
    let mut reached = 0;
    'gone: {
        let Ok(controller) = bench.attach() else { break 'gone };
        reached += 1;
        let memory = controller.memory().clone();
        'closed: {
            let Ok(namespace) = controller.namespace(1) else { break 'closed };
            let Ok(queue) = controller.queue(crate::bench::small(4)) else { break 'closed };
            reached += 1;
            let mut load = Load { bench, controller, namespace, queue, ledger: Default::default() };
            for round in 0..3 {
                load.send(load.queue.free_slots() as u64);
                if round == 1 && load.controller.reset().is_ok() {
                    reached += 1;
                }
                load.settle();
                if let Some(why) = load.queue.failure() {
                    assert_eq!(why, Violation::Ended);
                }
            }
            let vanished = counters.total() > 0;
            let bounded = load.bench.now() - start < Duration::from_secs(120);
            assert!(bounded, "{:?} for a device that is gone", load.bench.now() - start);
            load.close();
            return (reached, vanished || counters.total() > 0);
        }
        drop(controller);
        assert_eq!(memory.stats().in_use, 0);
    }
    (reached, counters.total() > 0)
}

/// Vanishes at the first, second, ... until it lives to the end.
fn at_every(rule: impl Fn() -> Rule) -> u64 {
    for n in 1..10_000 {
        if !lives_until(rule().nth(n)).1 {
            return n - 1;
        }
    }
    panic!("no end");
}

#[test]
fn pit_60_removal_at_every_read_of_the_status() {
    assert!(at_every(|| Rule::read(offset::CSTS).vanish()) > 10);
}

#[test]
fn pit_60_removal_at_every_read_of_other_registers() {
    assert!(at_every(|| Rule::read(offset::CAP).vanish()) >= 3);
    assert!(at_every(|| Rule::read(offset::VS).vanish()) >= 1);
    assert!(at_every(|| Rule::read(offset::CC).vanish()) >= 3);
    assert!(at_every(|| Rule::read(offset::CRTO).vanish()) >= 2);
}

#[test]
fn pit_60_removal_at_every_write_of_a_register() {
    assert!(at_every(|| Rule::write(offset::CC).vanish()) >= 6);
    for register in [offset::AQA, offset::ASQ, offset::ACQ] {
        assert!(at_every(|| Rule::write(register).vanish()) >= 2, "{register:#x}");
    }
}

#[test]
fn pit_60_removal_at_every_command() {
    let commands = at_every(|| Rule::command(Commands::any()).vanish());
    assert!(commands >= 20, "{commands}");
}

#[test]
fn pit_60_removal_at_every_completion() {
    let completions = at_every(|| Rule::completion(Commands::any()).vanish());
    assert!(completions >= 20, "{completions}");
}

#[test]
fn the_same_drive_comes_back() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(Commands::any_io()).vanish().nth(2)]);
    load.send(4);
    load.settle();
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    let Load { bench, controller, namespace, queue, .. } = load;
    drop((queue, namespace));
    bench.close(controller);
    bench.behave();
    let mut load = Load::with(bench, 4);
    load.resumes();
    load.close();
}

/// The device has been given back, by a controller that was disabled before.
fn given_back(load: &Load) -> usize {
    assert_eq!(load.bench.spy.count(|event| event == Event::GiveBack { enabled: true }), 0);
    load.bench.spy.count(|event| event == Event::GiveBack { enabled: false })
}

#[test]
fn asked_for_its_device_the_controller_says_so_and_goes_on() {
    let mut load = Load::new(4);
    load.bench.spy.ask_for_removal();
    let mut events = Vec::new();
    load.controller.poll(|event| events.push(event));
    assert_eq!(events, [doorbell::Event::RemovalAsked]);
    assert_eq!(load.controller.poll(|event| panic!("{event:?}")), 0, "said once");
    load.resumes();
    assert_eq!(given_back(&load), 0);
    load.close();
}

#[test]
fn an_error_of_the_bus_is_told_and_ends_nothing() {
    let mut bench = Bench::new();
    bench.spy.returnable();
    bench.config.detach_on_request = true;
    let mut load = Load::with(bench, 4);
    for _ in 0..3 {
        load.send(4);
        // However many there were since the last look.
        load.bench.spy.report_bus_error();
        load.bench.spy.report_bus_error();
        let mut events = Vec::new();
        load.controller.poll(|event| events.push(event));
        assert_eq!(events, [doorbell::Event::BusError]);
        load.settle();
        assert_eq!(load.ledger.count(|status, _| !status.is_success()), 0);
    }
    // Both at once: each is told, and the device goes back.
    load.bench.spy.report_bus_error();
    load.bench.spy.ask_for_removal();
    let mut events = Vec::new();
    load.controller.poll(|event| events.push(event));
    assert_eq!(events, [doorbell::Event::BusError, doorbell::Event::RemovalAsked]);
    assert_eq!(given_back(&load), 1);
    load.close();
}

#[test]
fn detached_under_load_everything_ends_once_and_the_drive_can_be_attached_again() {
    let mut load = Load::new(8);
    load.bench.spy.returnable();
    load.bench.inject([Rule::command(Commands::any_io()).hang().nth(3)]);
    let tags = load.send(8);
    load.controller.detach().expect("detached");
    assert_eq!(given_back(&load), 1);
    // The queue's thread knows nothing of it yet: what it stages and rings now reaches nobody, and ends.
    load.ledger.poll(&mut load.queue);
    let late = load.send(1);
    load.settle();
    assert_eq!(load.ledger.of(late[0]).1, Outcome::Indeterminate);
    // The one that hung was aborted with its submission queue, or has been lost with everything else.
    assert!(tags.iter().any(|tag| !load.ledger.of(*tag).0.is_success()));
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    let buffer = load.controller.buffer(512).expect("memory");
    let rejected = load.queue.submit(load.namespace.read(0, buffer)).expect_err("no queue");
    assert_eq!(rejected.reason, Reason::Failed(Violation::Ended));
    drop(rejected);
    assert!(load.controller.reset().is_err() && load.controller.detach().is_ok());

    let Load { bench, controller, namespace, queue, .. } = load;
    drop((queue, namespace));
    bench.close(controller);
    bench.behave();
    let mut load = Load::with(bench, 4);
    load.resumes();
    load.close();
}

#[test]
fn asked_for_its_device_the_controller_gives_it_back_where_it_is_told_to() {
    let mut bench = Bench::new();
    bench.spy.returnable();
    bench.config.detach_on_request = true;
    let mut load = Load::with(bench, 4);
    load.send(4);
    load.controller.poll(|event| panic!("{event:?}"));
    assert_eq!(given_back(&load), 0);
    load.bench.spy.ask_for_removal();
    let mut events = Vec::new();
    load.controller.poll(|event| events.push(event));
    assert_eq!(events, [doorbell::Event::RemovalAsked]);
    assert_eq!(given_back(&load), 1);
    load.settle();
    // A queue learns of it when it is polled.
    for _ in 0..64 {
        load.ledger.poll(&mut load.queue);
    }
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    load.close();
}

#[test]
fn a_drive_that_is_torn_out_is_given_back_before_anything_else_is_tried() {
    let mut load = Load::new(4);
    load.bench.spy.returnable();
    load.bench.inject([Rule::command(Commands::any_io()).vanish().nth(2)]);
    load.send(4);
    load.settle();
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    assert!(load.bench.spy.count(|event| matches!(event, Event::GiveBack { .. })) > 0);
    assert_eq!(load.bench.spy.count(|event| event == Event::Reset), 0, "there is nothing to reset");
    load.close();
}

/// Reads as all ones from now on, `times` times: one register alone, of a device that is there.
fn all_ones(register: u64, times: u64) -> Rule {
    Rule::read(register).all_ones().times(times)
}

#[test]
fn a_status_that_reads_as_all_ones_once_is_looked_at_again() {
    for read in 1..20 {
        let mut load = Load::new(4);
        let counters = load.bench.inject([
            Rule::read(offset::CSTS).all_ones().nth(read).named("ones"),
            Rule::command(Commands::any_io()).hang().nth(2),
        ]);
        load.send(4);
        load.settle();
        load.controller.reset().expect("a reset");
        load.resumes();
        assert_eq!(load.controller.recovery().given_up, 0, "read {read}");
        let seen = counters.total();
        load.close();
        if seen < 2 {
            assert!(read > 4, "only {read} reads");
            return;
        }
    }
    panic!("no end");
}

#[test]
fn a_status_that_stays_all_ones_is_a_failure_and_not_a_removal() {
    let mut load = Load::new(4);
    load.bench.spy.returnable();
    load.bench.inject([
        all_ones(offset::CSTS, u64::MAX),
        Rule::command(Commands::any_io()).hang().nth(2),
    ]);
    load.send(4);
    let error = load.controller.reset().expect_err("no status").to_string();
    assert!(error.contains("CSTS 0xffffffff"), "{error}");
    load.settle();
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    let steps = load.controller.recovery();
    assert_eq!(steps.given_up, 1);
    assert!(steps.function_resets > 0, "what is there is reset, not taken for gone: {steps:?}");
    load.close();
}

#[test]
fn a_version_that_reads_as_all_ones_says_nothing_alone() {
    let mut load = Load::new(4);
    load.bench.inject([all_ones(offset::VS, u64::MAX)]);
    load.controller.reset().expect("a reset");
    load.resumes();
    load.close();
}

#[test]
fn status_and_version_of_all_ones_are_a_removal() {
    let mut load = Load::new(4);
    load.bench.spy.returnable();
    load.bench.inject([all_ones(offset::CSTS, u64::MAX), all_ones(offset::VS, u64::MAX)]);
    let error = load.controller.reset().expect_err("gone").to_string();
    assert!(error.contains("all ones"), "{error}");
    assert_eq!(load.bench.spy.count(|event| event == Event::Reset), 0, "nothing to reset");
    assert!(load.bench.spy.count(|event| matches!(event, Event::GiveBack { .. })) > 0);
    load.settle();
    load.close();
}
