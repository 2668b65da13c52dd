//! INIT-11: what a controller is asked and told, in which order; doorbells in memory, taken or refused.

use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::feature::{Fid, Select};
use doorbell::spec::identify::Cns;
use doorbell::spec::status::Status;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load, settings};

fn identify(cns: Cns) -> (u8, u32) {
    (AdminOpcode::IDENTIFY.0, cns.0.into())
}

fn set(fid: Fid) -> (u8, u32) {
    (AdminOpcode::SET_FEATURES.0, fid.0.into())
}

/// A controller that offers everything there is to take.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.inject([Rule::identify_controller(|page| page.crdt1.set(1))]);
    bench.config.shadow_doorbells = true;
    bench.config.host_id = Some([7; 16]);
    bench
}

#[test]
fn init_11_the_order_of_bring_up_is_kept_after_a_reset_too() {
    let bench = bench();
    let controller = bench.attach().expect("a controller");
    let order = [
        identify(Cns::CONTROLLER),
        set(Fid::ASYNC_EVENT_CONFIG),
        (AdminOpcode::ASYNC_EVENT_REQUEST.0, 0),
        identify(Cns::IO_CONTROLLER),
        set(Fid::NUMBER_OF_QUEUES),
        set(Fid::HOST_BEHAVIOR),
        (AdminOpcode::DOORBELL_BUFFER_CONFIG.0, 0),
        set(Fid::HOST_IDENTIFIER),
    ];
    assert_eq!(bench.spy.admin_commands(), order);
    controller.reset().expect("a reset");
    assert_eq!(bench.spy.admin_commands(), order);
    bench.close(controller);
}

#[test]
fn the_host_says_who_it_is() {
    let bench = bench();
    let controller = bench.attach().expect("a controller");
    let get = doorbell::spec::admin::get_features(Fid::HOST_IDENTIFIER, 0, Select::CURRENT, 1);
    for reset in [false, true] {
        if reset {
            controller.reset().expect("a reset");
        }
        let buffer = controller.buffer(16).expect("memory");
        let done = controller.admin(get, Some(buffer)).expect("the feature");
        assert_eq!(done.buffer.as_deref(), Some(&[7; 16][..]));
    }
    bench.close(controller);
}

#[test]
fn doorbells_in_memory_spare_registers_and_lose_nothing() {
    let mut load = Load::with(bench(), 8);
    for _ in 0..2 {
        let before = load.queue.counters().doorbells;
        // The controller waits where it stopped, so the first command rings; it has not looked since, so no other does.
        load.send(1);
        assert_eq!(load.queue.counters().doorbells - before, 1);
        load.send(6);
        assert_eq!(load.queue.counters().doorbells - before, 1);
        load.settle();
        assert!(load.ledger.ended().all(|(status, _)| status.is_success()));
        // The pages of before the reset are not looked at any more; there are new ones.
        load.controller.reset().expect("a reset");
        load.resumes();
    }
    load.close();
}

#[test]
fn a_controller_that_refuses_doorbells_in_memory_or_has_the_quirk_is_rung() {
    let refuses = bench();
    let doorbells = Commands::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG);
    refuses.inject([Rule::command(doorbells).answer(Status::INTERNAL_ERROR, 0)]);
    let mut broken = bench();
    broken.config.quirks = "no-shadow-doorbells".parse().expect("a quirk");
    for bench in [refuses, broken] {
        let mut load = Load::with(bench, 8);
        let before = load.queue.counters().doorbells;
        load.send(7);
        assert_eq!(load.queue.counters().doorbells - before, 7);
        load.settle();
        load.resumes();
        load.close();
    }
}

#[test]
fn limits_of_commands_without_data_are_their_own() {
    // MDTS is 2 pages; Write Zeroes and Verify have no limit (CNS 06h is all zero).
    let small = doorbell_subsystem::ControllerConfig { mdts: 1, ..settings() };
    let mut load = Load::with(Bench::with(small, &["memory:4MiB", "memory:4MiB"]), 4);
    assert_eq!(load.controller.limits().max_transfer, 8192);
    for io in [load.namespace.write_zeroes(0, 8192), load.namespace.verify(0, 8192)] {
        let before = load.queue.counters().commands;
        load.queue.run(io).expect("no data, no limit");
        assert_eq!(load.queue.counters().commands - before, 1, "4 MiB in one command");
    }
    load.close();
}
