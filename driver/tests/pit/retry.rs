//! PIT-58: errors without end, and delays without measure.

use std::time::Duration;

use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::feature::Fid;
use doorbell::spec::nvm::NvmOpcode;
use doorbell::spec::status::Status;
use doorbell::{Outcome, Queue, Retries};
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load, small};

const MINUTE: Duration = Duration::from_secs(60);

fn load(retries: Retries) -> (Load, Queue) {
    let delays = Rule::identify_controller(|page| {
        page.crdt1.set(3);
        page.crdt2.set(0);
        page.crdt3.set(0xffff);
    });
    let load = Load::with(Bench::faulty([delays]), 4);
    let mut config = small(4);
    config.retries = retries;
    let queue = load.controller.queue(config).expect("a queue");
    (load, queue)
}

/// Runs a read that always fails with `status`: attempts and time.
fn fails(retries: Retries, status: Status) -> (u64, Duration) {
    let (load, mut queue) = load(retries);
    let read = Commands::io(NvmOpcode::READ);
    let counters = load.bench.inject([Rule::command(read).answer(status, 0).named("failed")]);
    let start = load.bench.now();
    let buffer = load.controller.buffer(512).expect("memory");
    let error = queue.run_within(load.namespace.read(0, buffer), 10 * MINUTE).expect_err("failed");
    assert_eq!(error.status(), Some(status));
    assert!(error.into_buffer().is_some());
    let (attempts, took) = (counters.injected("failed"), load.bench.now() - start);
    assert_eq!(queue.counters().retried, attempts - 1);
    drop(queue);
    load.close();
    (attempts, took)
}

#[test]
fn pit_58_errors_for_ever_and_delays_of_109_minutes() {
    let error = Status::UNRECOVERED_READ_ERROR;
    let (attempts, took) = fails(Retries::default(), error);
    assert_eq!(attempts, 4, "bounded");
    assert!(took < Duration::from_millis(50));
    let (attempts, _) = fails(Retries::default(), error.with_dnr());
    assert_eq!(attempts, 1, "the controller says that it is no use");
    let (attempts, took) = fails(Retries::default(), error.with_crd(1));
    assert_eq!(attempts, 4);
    assert!((900..1000).contains(&took.as_millis()), "300 ms each: {took:?}");
    let (attempts, took) = fails(Retries::default(), error.with_crd(3));
    assert_eq!(attempts, 4);
    assert!((3000..3500).contains(&took.as_millis()), "1 s each at most: {took:?}");
    let (attempts, _) = fails(Retries::never(), error);
    assert_eq!(attempts, 1);
}

#[test]
fn the_deadline_of_the_call_holds_whatever_is_tried() {
    let (load, mut queue) = load(Retries::default());
    let status = Status::UNRECOVERED_READ_ERROR.with_crd(3);
    load.bench.inject([Rule::command(Commands::any_io()).answer(status, 0)]);
    let start = load.bench.now();
    let buffer = load.controller.buffer(512).expect("memory");
    let read = load.namespace.read(0, buffer);
    let error = queue.run_within(read, Duration::from_millis(1500)).expect_err("failed");
    assert_eq!(error.status(), Some(status));
    assert!(load.bench.now() - start < Duration::from_millis(1600));
    drop((error, queue));
    load.close();
}

#[test]
fn what_changes_something_is_sent_again_only_where_that_is_wanted() {
    for (not_idempotent, attempts) in [(false, 1), (true, 4)] {
        let mut retries = Retries::default();
        retries.not_idempotent = not_idempotent;
        let (load, mut queue) = load(retries);
        let failing = Rule::command(Commands::any_io()).answer(Status::WRITE_FAULT, 0);
        let counters = load.bench.inject([failing.named("failed")]);
        let buffer = load.controller.buffer(512).expect("memory");
        assert!(queue.run(load.namespace.write(0, buffer)).is_err());
        assert_eq!(counters.injected("failed"), attempts);
        assert!(queue.run(load.namespace.write_zeroes(0, 1)).is_err());
        assert_eq!(counters.injected("failed"), 2 * attempts);
        assert!(queue.run(load.namespace.flush()).is_err());
        assert_eq!(counters.injected("failed"), 2 * attempts + 4, "flushing twice does no harm");
        drop(queue);
        load.close();
    }
}

#[test]
fn a_read_that_a_reset_ended_is_sent_again() {
    let (load, mut queue) = load(Retries::default());
    load.bench.inject([Rule::command(Commands::any_io()).fatal().nth(1)]);
    let buffer = load.controller.buffer(512).expect("memory");
    let done = queue.run_within(load.namespace.read(0, buffer), MINUTE).expect("at last");
    assert_eq!((done.status, done.outcome), (Status::SUCCESS, Outcome::Completed));
    assert_eq!((queue.counters().retried, load.controller.recovery().resets), (1, 1));
    drop((done, queue));
    load.close();
}

#[test]
fn the_controller_is_told_that_its_delays_are_kept_where_it_has_any() {
    let told = |crdt| {
        let bench = Bench::new();
        let feature = Commands::admin(AdminOpcode::SET_FEATURES).selector(Fid::HOST_BEHAVIOR.0);
        let counters = bench.inject([
            Rule::identify_controller(move |page| page.crdt1.set(crdt)),
            Rule::command(feature).lose().times(0).named("told"),
        ]);
        let mut load = Load::with(bench, 4);
        load.controller.reset().expect("a reset");
        load.resumes();
        let told = counters.iter().find(|count| count.name == "told").expect("a rule").matched;
        load.close();
        told
    };
    assert_eq!((told(0), told(1)), (0, 2), "at bring-up and after a reset");
}

#[test]
fn futures_are_sent_again_as_blocking_calls_are() {
    let crd = |crd| Status::UNRECOVERED_READ_ERROR.with_crd(crd);
    // Status, attempts, milliseconds at least: CRDT1 is 300 ms, CRDT3 is cut to a second.
    let dnr = Status::UNRECOVERED_READ_ERROR.with_dnr();
    for (status, attempts, least) in
        [(crd(0), 4, 0), (crd(1), 4, 900), (crd(3), 4, 3000), (dnr, 1, 0)]
    {
        let (load, queue) = load(Retries::default());
        let rule = Rule::command(Commands::io(NvmOpcode::READ)).answer(status, 0).named("failed");
        let counters = load.bench.inject([rule]);
        let start = load.bench.now();
        let queue = queue.into_shared();
        let buffer = load.controller.buffer(512).expect("memory");
        let read = queue.submit(load.namespace.read(0, buffer).tag(9));
        let error = queue.block_on(read).expect_err("failed");
        assert_eq!(error.status(), Some(status));
        assert!(error.into_buffer().is_some());
        let took = load.bench.now() - start;
        assert_eq!(counters.injected("failed"), attempts);
        assert_eq!(queue.counters().retried, attempts - 1);
        assert!((least..least + 200).contains(&took.as_millis()), "{took:?}");
        // Once it goes well, it has; a write is not sent again.
        load.bench.inject([
            Rule::command(Commands::io(NvmOpcode::READ)).answer(crd(0), 0).times(2),
            Rule::command(Commands::io(NvmOpcode::WRITE)).answer(crd(0), 0).named("write"),
        ]);
        let buffer = load.controller.buffer(512).expect("memory");
        let read = queue.submit(load.namespace.read(0, buffer).tag(9));
        assert_eq!(queue.block_on(read).expect("at last").tag, 9);
        let buffer = load.controller.buffer(512).expect("memory");
        let before = queue.counters().retried;
        assert!(queue.block_on(queue.submit(load.namespace.write(0, buffer))).is_err());
        assert_eq!(queue.counters().retried, before);
        drop(queue);
        load.close();
    }
}
