//! PIT-60: a device that vanishes, at every register access and at every command.

use std::time::Duration;

use doorbell::spec::register::offset;
use doorbell::transport::Violation;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load};

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
fn pit_60_removal_at_every_write_of_the_configuration() {
    assert!(at_every(|| Rule::write(offset::CC).vanish()) >= 6);
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
