//! PIT-54 to PIT-56: events without number, without end, and of no known kind.

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
        let now = load.controller.poll(|event| assert!(matches!(event, Event::Reported(_))));
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

#[test]
fn pit_55_an_event_at_every_request() {
    let bench = Bench::new();
    let event = AsyncEvent::new().with_aet(AsyncEvent::TYPE_NOTICE);
    let storm = Rule::command(requests()).answer(Status::SUCCESS, event.into_bits().into());
    let counters = bench.inject([storm.named("requests")]);
    let mut load = Load::with(bench, 4);
    let memory = load.controller.memory().stats().in_use;
    let came = poll(&load, 500);
    assert!((400..=500).contains(&came), "{came}");
    assert!(sent(&counters) <= 501, "one request for each call, and no loop");
    assert_eq!(load.controller.memory().stats().in_use, memory);
    // I/O and admin commands get through in between.
    load.send(4);
    load.settle();
    assert!(load.ledger.ended().all(|(status, _)| status.is_success()));
    assert!(load.controller.identify_namespace(1).is_ok());
    // Refused requests are not sent over and over either.
    let refuse = Rule::command(requests()).answer(Status::INTERNAL_ERROR, 0);
    let counters = load.bench.inject([refuse.named("requests")]);
    poll(&load, 100);
    assert!(sent(&counters) <= 2, "{} requests", sent(&counters));
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
    for _ in 0..5 {
        load.bench.clock.settle();
        load.controller.poll(|event| events.push(event));
    }
    assert_eq!(events.len(), 2);
    let Event::Reported(notice) = events[1] else { panic!("{:?}", events[1]) };
    assert_eq!(notice.aei(), AsyncEvent::NOTICE_NAMESPACE_CHANGED);
    load.resumes();
    load.close();
}
