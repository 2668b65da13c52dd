//! PIT-16 to PIT-26: completions that were never asked for, that come twice, that lie, or that do not come.

use doorbell::spec::status::Status;
use doorbell::{Outcome, Reason};
use doorbell_subsystem::fault::{AtCompletion, Commands, Rule};

use crate::bench::Load;

fn io() -> AtCompletion {
    Rule::completion(Commands::any_io())
}

fn ended_by_reset(status: Status, outcome: Outcome) -> bool {
    status == Status::ABORTED_BY_HOST && outcome == Outcome::Indeterminate
}

/// One completion of four breaks the rules: the queue says so, the controller is reset, everything ends once and I/O goes
/// on. Nothing that comes in after the broken one is believed.
#[track_caller]
fn breaks_the_rules(depth: u16, rule: Rule) {
    let mut load = Load::new(depth);
    load.bench.inject([rule.nth(2)]);
    load.send(4);
    load.settle();
    let reset = load.ledger.count(ended_by_reset);
    let whole =
        load.ledger.count(|status, outcome| status.is_success() && outcome == Outcome::Completed);
    assert_eq!((whole, reset), (1, 3));
    let counters = load.queue.counters();
    assert_eq!((counters.violations, counters.lost), (1, 1));
    let steps = load.controller.recovery();
    assert_eq!((steps.violations, steps.resets, steps.given_up), (1, 1, 0));
    load.resumes();
    load.close();
}

#[test]
fn pit_16_completion_for_an_unknown_identifier() {
    for cid in [0x7ff3, 0xffff, 0x8001] {
        breaks_the_rules(4, io().cid(cid));
    }
}

#[test]
fn pit_17_completion_for_an_identifier_beyond_the_table() {
    // Five slots: 5, 6 and 7 are within the mask and beyond the table.
    for cid in [5, 6, 7, 0xfff7] {
        breaks_the_rules(5, io().cid(cid));
    }
}

#[test]
fn pit_18_a_completion_twice() {
    let mut load = Load::new(4);
    load.bench.inject([io().duplicate()]);
    for _ in 0..50 {
        load.send(3);
        load.settle();
    }
    assert!(
        load.ledger
            .ended()
            .all(|(status, outcome)| status.is_success() && outcome == Outcome::Completed)
    );
    let counters = load.queue.counters();
    assert_eq!(counters.violations, 0);
    assert!(counters.strays >= 100, "{counters:?}");
    assert_eq!(load.controller.recovery().resets, 0);
    load.resumes();
    load.close();
}

#[test]
fn pit_19_an_identifier_of_an_older_generation() {
    let mut load = Load::new(4);
    let first = load.send(1);
    load.settle();
    assert!(load.ledger.of(first[0]).0.is_success());
    // The slot is used again, one generation on; what comes says the old one: four slots, two bits.
    load.bench.inject([io().flip_cid(1 << 2).nth(1)]);
    let second = load.send(1);
    load.settle();
    let counters = load.queue.counters();
    assert_eq!((counters.strays, counters.violations), (1, 0), "dropped and counted");
    let (status, outcome) = load.ledger.of(second[0]);
    assert!(ended_by_reset(status, outcome), "its own completion never came: {status} {outcome}");
    load.resumes();
    load.close();
}

#[test]
fn pit_20_a_completion_of_another_queue() {
    for sqid in [0, 2, 0x7fff, 0xffff] {
        breaks_the_rules(4, io().sqid(sqid));
    }
}

#[test]
fn pit_21_a_head_beyond_the_tail() {
    for sqhd in [64, 100, 0xffff] {
        let mut load = Load::new(4);
        load.send(4);
        load.settle();
        load.bench.inject([io().sqhd(sqhd)]);
        // Nothing rests on the head until the ring, of 64 entries, has been filled once.
        let mut rounds = 0;
        while load.queue.counters().violations == 0 {
            rounds += 1;
            assert!(rounds < 100, "the lie was believed");
            load.send_some(4);
            load.settle();
            load.ledger.poll(&mut load.queue);
        }
        let steps = load.controller.recovery();
        assert_eq!((steps.violations, steps.resets), (1, 1));
        load.resumes();
        load.close();
    }
}

#[test]
fn pit_22_a_head_that_never_moves() {
    let mut load = Load::new(4);
    load.bench.inject([io().sqhd(0)]);
    let mut sent = 0;
    let full = loop {
        let buffer = load.controller.buffer(512).expect("memory");
        let io = load.namespace.read(0, buffer);
        match load.queue.stage(io) {
            Ok(()) => load.queue.ring(),
            Err(rejected) => break rejected,
        }
        sent += 1;
        assert!(sent < 64, "an entry that was not fetched has been overwritten");
        load.bench.clock.settle();
        load.queue.poll(|done| assert!(done.status.is_success()));
    };
    assert_eq!((sent, full.reason), (63, Reason::Full), "the ring is full, as far as is known");
    assert_eq!(load.queue.in_flight(), 0);
    drop(full);
    // Whoever polls gets a queue that works again.
    for _ in 0..1000 {
        load.queue.poll(|_| panic!("nothing is in flight"));
    }
    assert_eq!(load.controller.recovery().resets, 1);
    load.resumes();
    load.close();
}

#[test]
fn pit_23_a_phase_that_does_not_turn() {
    let mut load = Load::new(4);
    load.bench.inject([io().wrong_phase()]);
    let before = load.bench.now();
    load.send(4);
    load.settle();
    assert_eq!(load.ledger.count(ended_by_reset), 4);
    assert!(load.bench.now() - before >= std::time::Duration::from_millis(100));
    let steps = load.controller.recovery();
    assert!(steps.overdue >= 2 && steps.aborts >= 1, "{steps:?}");
    assert_eq!((steps.recreations, steps.resets), (1, 0), "a new queue is enough");
    load.resumes();
    load.close();
}

#[test]
fn pit_24_every_entry_of_the_queue_at_once() {
    let mut load = Load::new(4);
    load.bench.inject([io().flood().nth(1)]);
    load.send(1);
    load.bench.clock.settle();
    let mut polls = 0;
    let mut before = 0;
    while load.queue.counters().strays < 255 {
        load.ledger.poll(&mut load.queue);
        let strays = load.queue.counters().strays;
        assert!(strays - before <= 5, "{} entries in one call", strays - before);
        before = strays;
        polls += 1;
        assert!(polls < 1000);
    }
    load.settle();
    assert_eq!(load.ledger.count(|status, _| status.is_success()), 1);
    load.resumes();
    load.close();
}

#[test]
fn pit_25_a_phase_before_the_rest() {
    // In the first pass zeros stand under it: identifier 0, which is in flight, of queue 0.
    breaks_the_rules(4, io().half_written());
    // Later the completion that stood there a pass before: of an older generation.
    let mut load = Load::new(4);
    for _ in 0..128 {
        load.send(2);
        load.settle();
    }
    load.bench.inject([io().half_written().nth(1)]);
    let tags = load.send(2);
    load.settle();
    assert!(ended_by_reset(load.ledger.of(tags[0]).0, load.ledger.of(tags[0]).1));
    assert!(load.ledger.count(ended_by_reset) <= 2);
    load.resumes();
    load.close();
}

#[test]
fn pit_26_an_entry_that_changes_once_it_is_there() {
    let mut load = Load::new(4);
    load.bench.inject([io().rewritten()]);
    let mut seen = 0;
    for lba in 0..600 {
        let buffer = load.controller.buffer(512).expect("memory");
        load.queue.submit(load.namespace.read(lba % 8, buffer).tag(lba)).expect("room");
        load.bench.device.port().step(load.bench.now());
        load.queue.poll(|done| {
            // The device overwrites the entry while the caller has its copy.
            load.bench.clock.settle();
            assert_eq!((done.tag, done.status), (lba, Status::SUCCESS));
            seen += 1;
        });
    }
    assert_eq!(seen, 600);
    let counters = load.queue.counters();
    assert_eq!((counters.strays, counters.violations), (0, 0));
    load.resumes();
    load.close();
}
