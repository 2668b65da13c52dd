//! PIT-14, PIT-15, PIT-28 to PIT-32 and PIT-47: commands that do not complete, step by step, and resets under load.

use std::time::Duration;

use doorbell::controller::{Event, RecoveryConfig};
use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::register::offset;
use doorbell::spec::status::Status;
use doorbell::transport::Violation;
use doorbell::{Outcome, Reason};
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load, small};

fn io() -> Commands {
    Commands::any_io()
}

fn abort() -> Commands {
    Commands::admin(AdminOpcode::ABORT)
}

fn by_reset(status: Status, outcome: Outcome) -> bool {
    status == Status::ABORTED_BY_HOST && outcome == Outcome::Indeterminate
}

fn with(change: impl Fn(&mut RecoveryConfig)) -> Load {
    let mut bench = Bench::new();
    change(&mut bench.config.recovery);
    Load::with(bench, 4)
}

#[test]
fn pit_14_fatal_status_during_io() {
    let mut load = Load::new(8);
    load.bench.inject([Rule::command(io()).fatal().nth(3)]);
    load.send(8);
    let before = load.bench.now();
    load.settle();
    let done =
        load.ledger.count(|status, outcome| status.is_success() && outcome == Outcome::Completed);
    assert_eq!((done, load.ledger.count(by_reset)), (2, 6));
    assert!(
        load.bench.now() - before < Duration::from_millis(100),
        "noticed before anything is overdue"
    );
    let steps = load.controller.recovery();
    assert_eq!((steps.fatal, steps.resets, steps.aborts), (1, 1, 0));
    load.resumes();
    load.close();
}

#[test]
fn pit_15_fatal_status_again_and_again() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).fatal()]);
    let mut rounds = 0;
    while load.queue.failure().is_none() {
        rounds += 1;
        assert!(rounds < 20, "no end");
        load.send(load.queue.free_slots() as u64);
        load.settle();
    }
    assert_eq!(load.queue.failure(), Some(Violation::Ended));
    let steps = load.controller.recovery();
    assert_eq!((steps.resets, steps.given_up), (5, 1));
    let buffer = load.controller.buffer(512).expect("memory");
    let rejected = load.queue.stage(load.namespace.read(0, buffer)).expect_err("dead");
    assert_eq!(rejected.reason, Reason::Failed(Violation::Ended));
    drop(rejected);
    assert!(load.controller.reset().is_err());
    assert!(load.controller.identify_namespace(1).is_err(), "at once");
    assert!(!load.bench.device.port().is_running());
    load.close();
}

#[test]
fn pit_28_a_completion_just_when_it_is_given_up() {
    for late in 95..150 {
        let mut load = Load::new(4);
        load.bench.inject([Rule::completion(io()).delay(Duration::from_millis(late)).nth(1)]);
        let tags = load.send(1);
        load.settle();
        let (status, outcome) = load.ledger.of(tags[0]);
        assert!(
            status.is_success() || status.is(Status::ABORTED_BY_REQUEST),
            "{late} ms: {status}"
        );
        let expected = if status.is_success() { Outcome::Completed } else { Outcome::Aborted };
        assert_eq!(outcome, expected, "{late} ms");
        let steps = load.controller.recovery();
        assert!(steps.overdue <= 1 && steps.recreations == 0, "{late} ms: {steps:?}");
        load.resumes();
        load.close();
    }
}

#[test]
fn pit_29_not_aborted_and_completed_later() {
    let mut load = Load::new(4);
    load.bench.inject([
        Rule::completion(io()).delay(Duration::from_millis(160)).nth(1),
        Rule::command(abort()).answer(Status::SUCCESS, 1),
    ]);
    let tags = load.send(1);
    load.settle();
    assert_eq!(load.ledger.of(tags[0]), (Status::SUCCESS, Outcome::Completed));
    let steps = load.controller.recovery();
    assert_eq!((steps.overdue, steps.aborts, steps.aborted, steps.recreations), (1, 1, 0, 0));
    load.resumes();
    load.close();
}

#[test]
fn an_overdue_command_is_aborted() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).hang().nth(2)]);
    let tags = load.send(3);
    load.settle();
    assert_eq!(load.ledger.of(tags[1]), (Status::ABORTED_BY_REQUEST, Outcome::Aborted));
    assert_eq!(load.ledger.count(|status, _| status.is_success()), 2);
    let steps = load.controller.recovery();
    assert_eq!(
        (steps.overdue, steps.aborts, steps.aborted, steps.recreations, steps.resets),
        (1, 1, 1, 0, 0)
    );
    load.resumes();
    load.close();
}

#[test]
fn where_an_abort_does_not_help_the_queue_is_created_anew() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).lose().nth(2)]);
    let before = load.bench.now();
    let tags = load.send(3);
    load.settle();
    assert!(by_reset(load.ledger.of(tags[1]).0, load.ledger.of(tags[1]).1));
    assert_eq!(load.ledger.count(|status, _| status.is_success()), 2);
    let steps = load.controller.recovery();
    assert_eq!(
        (steps.overdue, steps.aborts, steps.aborted, steps.recreations, steps.resets),
        (2, 1, 0, 1, 0)
    );
    assert!(
        load.bench.now() - before < Duration::from_millis(300),
        "two time-outs and a quarter each"
    );
    load.resumes();
    load.close();
}

#[test]
fn steps_that_are_switched_off_are_left_out() {
    let lost = |load: &mut Load| {
        load.bench.inject([Rule::command(io()).lose().nth(1)]);
        load.send(2);
        load.settle();
        load.controller.recovery()
    };
    let mut load = with(|recovery| recovery.abort = false);
    let steps = lost(&mut load);
    assert_eq!((steps.aborts, steps.recreations, steps.resets), (0, 1, 0));
    load.resumes();
    load.close();
    let mut load = with(|recovery| (recovery.abort, recovery.recreate_queue) = (false, false));
    let steps = lost(&mut load);
    assert_eq!((steps.aborts, steps.recreations, steps.resets), (0, 0, 1));
    load.resumes();
    load.close();
    // Nothing at all: the command stays out, and its buffer with the queue, until that is dropped.
    let mut load = with(|recovery| recovery.automatic = false);
    load.bench.inject([Rule::command(io()).lose().nth(1)]);
    load.send(2);
    for round in 0..2000 {
        load.ledger.poll(&mut load.queue);
        doorbell::clock::Clock::pause(&*load.bench.clock, round, Duration::from_millis(1));
    }
    assert_eq!(load.queue.in_flight(), 1);
    assert_eq!(load.controller.recovery(), Default::default());
    assert_eq!(load.ledger.abandon(), 1);
    load.close();
}

#[test]
fn pit_30_an_abort_that_never_completes() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).hang(), Rule::command(abort()).lose()]);
    load.send(4);
    load.settle();
    assert_eq!(load.ledger.count(by_reset), 4);
    let steps = load.controller.recovery();
    assert_eq!((steps.aborts, steps.resets, steps.recreations), (1, 1, 0));
    load.resumes();
    load.close();
}

#[test]
fn pit_31_one_abort_at_a_time() {
    let bench = Bench::faulty([Rule::identify_controller(|page| page.acl_z = 0)]);
    let mut load = Load::with(bench, 4);
    assert_eq!(load.controller.identify().acl_z, 0);
    let counters = load.bench.inject([
        Rule::command(io()).hang(),
        Rule::command(abort()).answer(Status::ABORT_LIMIT_EXCEEDED, 0).nth(2),
        Rule::completion(abort()).delay(Duration::from_millis(3)).named("aborts"),
    ]);
    load.send(4);
    load.settle();
    let steps = load.controller.recovery();
    assert_eq!(counters.injected("aborts"), steps.aborts);
    // Each was answered before the next was sent, so that none but the one that the test refuses was refused.
    assert_eq!(steps.aborts - steps.aborted, 1, "{steps:?}");
    assert_eq!(steps.resets, 0);
    load.resumes();
    load.close();
}

#[test]
fn pit_32_completions_after_the_controller_was_told_to_stop() {
    let mut load = Load::new(4);
    load.bench.inject([
        Rule::completion(io()).delay(Duration::from_millis(10)).times(2),
        Rule::command(io()).hang().after(2),
        Rule::write(offset::CC).having(1, 0).delay(Duration::from_millis(50)),
    ]);
    load.send(4);
    load.bench.clock.settle();
    let held = load.controller.memory().stats().in_use;
    load.controller.reset().expect("a reset");
    assert!(
        load.controller.memory().stats().in_use >= held,
        "nothing was given back under the controller"
    );
    load.settle();
    // Those that came while it was stopping are completions like any other.
    assert_eq!(
        load.ledger.count(|status, outcome| status.is_success() && outcome == Outcome::Completed),
        2
    );
    assert_eq!(load.ledger.count(by_reset), 2);
    load.resumes();
    load.close();
}

#[test]
fn pit_32_completions_while_the_queue_itself_has_the_controller_reset() {
    let mut load = with(|recovery| (recovery.abort, recovery.recreate_queue) = (false, false));
    load.bench.inject([
        Rule::command(io()).lose().nth(1),
        // After the lost one is overdue, and before the controller has stopped.
        Rule::completion(io()).delay(Duration::from_millis(140)),
        Rule::write(offset::CC).having(1, 0).delay(Duration::from_millis(60)).nth(1),
    ]);
    let tags = load.send(2);
    load.settle();
    assert_eq!(load.controller.recovery().resets, 1);
    let (status, outcome) = load.ledger.of(tags[0]);
    assert!(by_reset(status, outcome));
    assert_eq!(
        load.ledger.of(tags[1]),
        (Status::SUCCESS, Outcome::Completed),
        "RST-2: reaped once more"
    );
    load.resumes();
    load.close();
}

#[test]
fn pit_47_other_namespaces_after_a_reset() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::identify_namespace(1, |page| page.nguid = [9; 16])]);
    load.send(4);
    let error = load.controller.reset().expect_err("another namespace").to_string();
    assert!(error.contains("namespace 1 is another one"), "{error}");
    load.settle();
    assert_eq!(
        load.queue.failure(),
        Some(Violation::Ended),
        "nothing is written to the wrong place"
    );
    load.close();

    let load = Load::new(4);
    load.bench.inject([Rule::identify_controller(|page| page.set_serial("OTHER"))]);
    let error = load.controller.reset().expect_err("another drive").to_string();
    assert!(error.contains("another drive"), "{error}");
    load.close();
}

#[test]
fn a_reset_by_the_caller_under_load() {
    let mut load = Load::new(8);
    let other = load.controller.queue(small(4)).expect("a queue");
    load.bench.inject([Rule::command(io()).hang().after(2)]);
    load.send(8);
    load.bench.clock.settle();
    load.controller.reset().expect("a reset");
    // Two had completed before; the queue has not been polled in between.
    load.settle();
    let done =
        load.ledger.count(|status, outcome| status.is_success() && outcome == Outcome::Completed);
    assert_eq!((done, load.ledger.count(by_reset)), (2, 6));
    assert_eq!(load.queue.counters().lost, 1);
    let mut events = Vec::new();
    load.controller.poll(|event| events.push(event));
    assert_eq!(events, [Event::Reset]);
    load.resumes();
    // A queue that was not polled meanwhile works as well once it is.
    load.queue = other;
    for _ in 0..100 {
        load.queue.poll(|_| panic!("nothing was sent"));
    }
    load.resumes();
    load.close();
}

#[test]
fn a_divided_operation_ends_once() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).fatal().nth(3)]);
    let buffer = load.controller.buffer(1 << 20).expect("memory");
    let tag = load.ledger.submit(&mut load.queue, load.namespace.read(0, buffer));
    load.settle();
    assert_eq!(load.ledger.of(tag), (Status::ABORTED_BY_HOST, Outcome::Indeterminate));
    load.resumes();
    load.close();
}

#[test]
fn a_blocking_call_ends_with_the_reset() {
    let mut load = Load::new(4);
    load.bench.inject([Rule::command(io()).fatal().nth(1)]);
    let buffer = load.controller.buffer(512).expect("memory");
    let write = load.namespace.write(0, buffer);
    let error = load.queue.run_within(write, Duration::from_secs(1)).expect_err("lost");
    assert!(error.to_string().contains("indeterminate"), "{error}");
    assert!(error.into_buffer().is_some(), "the controller is done with it");
    load.resumes();
    load.close();
}

#[test]
fn an_admin_command_without_an_answer_resets_the_controller() {
    let mut load = Load::new(4);
    load.bench.inject([
        Rule::command(Commands::admin(AdminOpcode::IDENTIFY)).lose().nth(1),
        Rule::command(io()).hang(),
    ]);
    load.send(2);
    assert!(load.controller.identify_namespace(1).is_err());
    assert_eq!(load.controller.recovery().resets, 1);
    assert!(load.controller.identify_namespace(1).is_ok());
    load.settle();
    assert_eq!(load.ledger.count(by_reset), 2);
    load.resumes();
    load.close();
}

#[test]
fn a_reset_that_needs_the_function_reset_or_does_not_succeed() {
    // Deaf to CC.EN=0: the function level reset helps.
    let mut load = Load::new(4);
    load.bench.inject([Rule::write(offset::CC).having(1, 0).lose().times(1)]);
    load.send(2);
    load.controller.reset().expect("a reset");
    assert_eq!(load.controller.recovery().function_resets, 1);
    load.settle();
    load.resumes();
    load.close();
    // Comes up at the third attempt, and not at all.
    for (failures, comes) in [(4, true), (1000, false)] {
        let mut load = Load::new(4);
        load.bench.inject([Rule::write(offset::CC).having(1, 1).fatal().times(failures)]);
        load.send(2);
        assert_eq!(load.controller.reset().is_ok(), comes);
        load.settle();
        if comes {
            load.resumes();
        } else {
            assert_eq!(load.queue.failure(), Some(Violation::Ended));
        }
        load.close();
    }
    // Cannot be stopped by anything: its memory is kept for good.
    let mut load = Load::new(4);
    load.bench.inject([Rule::write(offset::CC).having(1, 0).lose(), Rule::function_reset()]);
    load.send(2);
    load.bench.clock.settle();
    let memory = load.controller.memory().clone();
    assert!(load.controller.reset().is_err());
    load.settle();
    assert!(memory.stats().leaked > 0 && !memory.notices().is_empty());
    let events = load.bench.spy.events().len();
    drop((load.queue, load.namespace, load.controller, memory));
    load.bench.assert_unreachable_since(events);
    assert!(load.bench.device.port().is_running());
}

#[test]
fn ten_thousand_resets_leak_nothing() {
    let rounds = if cfg!(miri) { 3 } else { 10_000 };
    let mut load = Load::new(4);
    let mut settled = None;
    for round in 0..rounds {
        let sent = load.send(3);
        if round % 3 == 0 {
            load.bench.clock.settle();
        }
        load.controller.reset().expect("a reset");
        assert_eq!(load.queue.failure(), None, "{:?}", load.controller.recovery());
        if round % 5 != 0 {
            // Otherwise the next reset comes before the queue has found its rings.
            load.settle();
            assert!(sent.iter().all(|tag| load.ledger.of(*tag).0.is_success() == (round % 3 == 0)));
        } else {
            load.settle();
        }
        load.send(1);
        load.settle();
        let stats = load.controller.memory().stats();
        let before = *settled.get_or_insert(stats);
        assert_eq!(stats, before, "after {round} resets");
    }
    assert_eq!(load.controller.recovery().resets, rounds);
    load.resumes();
    load.close();
}
