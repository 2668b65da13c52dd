//! Sixty devices that misbehave, PIT-01 to PIT-60: the whole driver over a stepped device with a plan of faults.
//!
//! Time is virtual and everything runs on one thread, so each test is the same every time. [`bench::Bench`] holds what
//! they share; its ledger says, at the latest when it is dropped, that every command completed exactly once, and its device
//! that memory stayed with it as long as it could reach that. So every test says so, whatever else it is about.

mod admin;
mod bench;
mod bringup;
mod change;
mod completion;
mod dropped;
mod event;
mod geometry;
mod identity;
mod probe;
mod queues;
mod quirk;
mod recovery;
mod removal;
mod retry;
mod spy;

/// Where the sixty are; those that need no device among the tests of the queue.
const SOURCES: [&str; 10] = [
    include_str!("../../src/queue/tests.rs"),
    include_str!("completion.rs"),
    include_str!("event.rs"),
    include_str!("geometry.rs"),
    include_str!("identity.rs"),
    include_str!("probe.rs"),
    include_str!("queues.rs"),
    include_str!("recovery.rs"),
    include_str!("removal.rs"),
    include_str!("retry.rs"),
];

#[test]
fn all_sixty_have_a_test_named_after_them() {
    let has = |number: u32| {
        let name = format!("fn pit_{number:02}_");
        SOURCES.iter().any(|source| source.contains(&name))
    };
    let missing: Vec<u32> = (1..=60).filter(|&number| !has(number)).collect();
    assert!(missing.is_empty(), "PIT without a test: {missing:?}");
}
