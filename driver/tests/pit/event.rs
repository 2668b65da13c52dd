//! PIT-54 to PIT-56: events without number, without end, and of no known kind.

use std::time::Duration;

use doorbell::Outcome;
use doorbell::clock::Clock;
use doorbell::controller::Event;
use doorbell::spec::admin::{AdminOpcode, AsyncEvent};
use doorbell::spec::status::Status;
use doorbell_subsystem::NamespaceSpec;
use doorbell_subsystem::fault::{Commands, Counters, Rule};

use crate::bench::{Bench, Load};

fn requests() -> Commands {
    Commands::admin(AdminOpcode::ASYNC_EVENT_REQUEST)
}

fn sent(counters: &Counters) -> u64 {
    counters.iter().find(|count| count.name == "requests").expect("a rule").matched
}

/// Asks for events `times` times; how many came.
fn poll(load: &Load, times: usize) -> usize {
    let mut count = 0;
    for _ in 0..times {
        let now = load.controller.poll(|event| assert!(!matches!(event, Event::Reset)));
        assert!(now <= 1, "{now} in one call");
        count += now;
        load.bench.clock.settle();
    }
    count
}

#[test]
fn pit_54_requests_for_256_events() {
    let bench = Bench::new();
    let many = Rule::identify_controller(|page| page.aerl_z = 255);
    let lost = Rule::command(requests()).lose().times(0).named("requests");
    let counters = bench.inject([many, lost]);
    let mut load = Load::with(bench, 4);
    assert_eq!(poll(&load, 1000), 0);
    assert_eq!(sent(&counters), 1, "one, whatever the controller would take");
    load.resumes();
    load.close();
}

/// A controller that reports this event at every request; the rules count requests and all admin commands.
fn storm(event: AsyncEvent) -> (Load, Counters) {
    let bench = Bench::new();
    let storm = Rule::command(requests()).answer(Status::SUCCESS, event.into_bits().into());
    let all = Rule::command(Commands::any_admin()).lose().times(0).named("all");
    let counters = bench.inject([storm.named("requests"), all]);
    (Load::with(bench, 4), counters)
}

#[test]
#[cfg_attr(miri, ignore = "thousands of polls")]
fn pit_55_an_event_at_every_request() {
    // Of a kind that nothing is known of, and of those that something is looked up for.
    for (aet, aei) in [(5, 0), (AsyncEvent::TYPE_NOTICE, 0), (AsyncEvent::TYPE_SMART, 1), (0, 1)] {
        let (mut load, counters) = storm(AsyncEvent::new().with_aet(aet).with_aei(aei));
        let all = || counters.iter().last().expect("a rule").matched;
        let memory = load.controller.memory().stats().in_use;
        let (before, start) = (all(), load.bench.now());
        let mut came = poll(&load, 500);
        for _ in 0..100 {
            load.bench.clock.pause(16, Duration::from_millis(1));
            came += poll(&load, 10);
        }
        // A burst, and a hundred a second from there on, each with one command to find out more; and one that asked for
        // the namespaces.
        let took = load.bench.now() - start;
        let most = 2 + 16 + took.as_millis() as u64 / 10;
        let (asked, all) = (sent(&counters), all() - before);
        assert!((20..=most).contains(&asked), "{asked} requests in {took:?}");
        assert!(all <= 1 + 2 * asked, "{all} commands for {asked} requests");
        assert!(came as u64 <= asked && (aei == 0 || came > 16), "{came} of {asked}");
        assert_eq!(load.controller.memory().stats().in_use, memory);
        // I/O and admin commands get through in between.
        load.send(4);
        load.settle();
        assert!(load.ledger.ended().all(|(status, _)| status.is_success()));
        assert!(load.controller.identify_namespace(1).is_ok());
        // Refused requests are not sent over and over either.
        let refuse = Rule::command(requests()).answer(Status::INTERNAL_ERROR, 0);
        let counters = load.bench.inject([refuse.named("requests")]);
        for _ in 0..100 {
            load.bench.clock.pause(16, Duration::from_millis(1));
            poll(&load, 2);
        }
        assert!(sent(&counters) <= 2, "{} requests", sent(&counters));
        load.resumes();
        load.close();
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of polls")]
fn pit_55_events_that_nobody_asks_for() {
    let (mut load, counters) = storm(AsyncEvent::new().with_aet(5));
    for _ in 0..500 {
        load.send(1);
        load.settle();
    }
    assert_eq!(sent(&counters), 1, "the one of the beginning");
    load.resumes();
    load.close();
}

#[test]
fn pit_56_an_event_of_an_unknown_kind() {
    let bench = Bench::new();
    let strange = AsyncEvent::new().with_aet(5).with_aei(0xee).with_lid(0xdd);
    let once = Rule::command(requests()).answer(Status::SUCCESS, strange.into_bits().into()).nth(1);
    bench.inject([once]);
    let mut load = Load::with(bench, 4);
    let mut events = Vec::new();
    for _ in 0..5 {
        load.controller.poll(|event| events.push(event));
        load.bench.clock.settle();
    }
    assert_eq!(events, [Event::Reported(strange)]);
    // The next one comes all the same.
    let spec: NamespaceSpec = "memory:1MiB".parse().expect("a namespace");
    let subsystem = load.bench.device.port().subsystem();
    subsystem.add(spec.open().expect("a namespace")).expect("room");
    for _ in 0..8 {
        load.bench.clock.settle();
        load.controller.poll(|event| events.push(event));
    }
    assert_eq!(events[1..], [Event::NamespaceAdded { nsid: 3 }]);
    load.resumes();
    load.close();
}

/// A persistent internal error, reported once or at every request.
fn broken(bench: Bench, times: u64) -> (Load, Counters) {
    let event = AsyncEvent::new().with_aei(AsyncEvent::ERROR_PERSISTENT).with_lid(1);
    let rule = Rule::command(requests()).answer(Status::SUCCESS, event.into_bits().into());
    let held = Rule::command(Commands::any_io()).hang();
    let counters = bench.inject([rule.times(times).named("requests"), held.times(4)]);
    (Load::with(bench, 4), counters)
}

fn hear(load: &mut Load, rounds: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..rounds {
        load.controller.poll(|event| events.push(event));
        load.ledger.poll(&mut load.queue);
        load.bench.clock.settle();
    }
    events
}

#[test]
fn a_persistent_internal_error_is_told_and_ends_in_a_reset() {
    let (mut load, _) = broken(Bench::new(), 1);
    load.send(4);
    let events = hear(&mut load, 8);
    let told = |event: &Event| matches!(event, Event::Reported(event) if event.aei() == AsyncEvent::ERROR_PERSISTENT);
    assert_eq!(events.iter().filter(|event| told(event)).count(), 1, "{events:?}");
    let reset = events.iter().position(|event| *event == Event::Reset).expect("a reset");
    assert!(events[..reset].iter().any(told), "{events:?}");
    load.settle();
    let lost =
        |status, outcome| status == Status::ABORTED_BY_HOST && outcome == Outcome::Indeterminate;
    assert_eq!(load.ledger.count(lost), 4);
    let steps = load.controller.recovery();
    assert_eq!((steps.internal_errors, steps.resets, steps.fatal, steps.given_up), (1, 1, 0, 0));
    load.resumes();
    load.close();
}

#[test]
fn a_persistent_internal_error_is_only_told_where_that_is_wanted() {
    let choices: [fn(&mut Bench); 2] = [
        |bench| bench.config.recovery.internal_error = false,
        |bench| bench.config.recovery.automatic = false,
    ];
    for choose in choices {
        let mut bench = Bench::new();
        choose(&mut bench);
        let (mut load, _) = broken(bench, 1);
        let events = hear(&mut load, 8);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(load.controller.recovery(), Default::default());
        load.resumes();
        load.close();
    }
}

#[test]
fn one_that_is_broken_after_each_reset_is_given_up() {
    let (mut load, counters) = broken(Bench::new(), u64::MAX);
    let events = hear(&mut load, 200);
    let resets = events.iter().filter(|event| **event == Event::Reset).count();
    let steps = load.controller.recovery();
    assert_eq!((resets, steps.resets, steps.given_up), (5, 5, 1), "{events:?}");
    assert_eq!(steps.internal_errors, 6);
    assert_eq!(sent(&counters), 6, "one for each bring-up");
    load.close();
}
