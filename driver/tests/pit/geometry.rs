//! PIT-33 to PIT-42: sizes, formats and limits that lie.

use std::time::Duration;

use doorbell::spec::identify::{IdentifyNamespace, LbaFormat};
use doorbell::{Controller, NamespaceError};
use doorbell_subsystem::fault::Rule;

use crate::bench::{Bench, Ledger, settings, small};

fn namespace(edit: impl Fn(&mut IdentifyNamespace) + Send + Sync + 'static) -> (Bench, Controller) {
    let bench = Bench::faulty([Rule::identify_namespace(1, edit)]);
    let controller = bench.attach().expect("a controller");
    (bench, controller)
}

/// The namespace is refused with a reason that names `part`, and the other one works.
#[track_caller]
fn refused(part: &str, edit: impl Fn(&mut IdentifyNamespace) + Send + Sync + 'static) {
    let (bench, controller) = namespace(edit);
    let error = controller.namespace(1).expect_err("no namespace").to_string();
    assert!(error.contains(part), "{error}");
    let usable: Vec<u32> =
        controller.namespaces().expect("a list").iter().map(|name| name.id()).collect();
    assert_eq!(usable, [2]);
    reads(&bench, &controller, 2);
    bench.close(controller);
}

/// Reads a little from the namespace.
#[track_caller]
fn reads(bench: &Bench, controller: &Controller, nsid: u32) {
    let namespace = controller.namespace(nsid).expect("a namespace");
    let mut queue = controller.queue(small(4)).expect("a queue");
    let mut ledger = Ledger::default();
    for lba in 0..4 {
        let buffer = controller.buffer(namespace.block_size() as usize).expect("memory");
        ledger.submit(&mut queue, namespace.read(lba, buffer));
    }
    ledger.settle(bench, &mut queue, Duration::from_secs(1));
    assert!(ledger.ended().all(|(status, _)| status.is_success()));
}

#[test]
fn pit_33_no_limit_on_transfers() {
    let bench = Bench::faulty([Rule::identify_controller(|page| page.mdts = 0)]);
    let controller = bench.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = controller.queue(small(4)).expect("a queue");
    assert_eq!(queue.max_transfer(), 128 << 10, "the driver's own limit");
    let buffer = controller.buffer(1 << 20).expect("memory");
    queue.run(namespace.read(0, buffer)).expect("read");
    assert_eq!(queue.counters().commands, 8);
    drop((queue, namespace));
    bench.close(controller);
}

#[test]
fn pit_34_limits_beyond_any_number() {
    for mdts in [40, 51, 52, 53, 63, 64, 128, 255] {
        let bench = Bench::faulty([Rule::identify_controller(move |page| page.mdts = mdts)]);
        let controller = bench.attach().expect("a controller");
        assert!(controller.limits().max_transfer >= 1 << 40);
        reads(&bench, &controller, 1);
        bench.close(controller);
    }
}

#[test]
fn pit_35_blocks_that_no_command_can_move() {
    let bench = Bench::faulty([
        Rule::identify_controller(|page| page.mdts = 1),
        Rule::identify_namespace(1, |page| page.lbaf[0] = LbaFormat::new(14)),
    ]);
    let controller = bench.attach().expect("a controller");
    let error = controller.namespace(1).expect_err("no namespace").to_string();
    assert!(error.contains("16384 bytes") && error.contains("moves 8192"), "{error}");
    reads(&bench, &controller, 2);
    bench.close(controller);
}

#[test]
fn pit_36_no_size_or_no_capacity() {
    for edit in [
        (|page| page.nsze.set(0)) as fn(&mut IdentifyNamespace),
        |page| page.ncap.set(0),
        |page| *page = zerocopy::FromZeros::new_zeroed(),
    ] {
        let (bench, controller) = namespace(edit);
        let absent = controller.namespace(1);
        assert!(matches!(absent, Err(NamespaceError::Absent { .. })));
        reads(&bench, &controller, 2);
        bench.close(controller);
    }
}

#[test]
fn pit_37_block_sizes_that_are_none() {
    for lbads in [0, 1, 8, 32, 63, 64, 255] {
        refused("LBA format", move |page| page.lbaf[0] = LbaFormat::new(lbads));
    }
}

#[test]
fn pit_38_formats_that_do_not_exist() {
    refused("LBA format", |page| page.flbas = 2);
    refused("LBA format", |page| (page.nlbaf_z, page.flbas) = (0, 0x60 | 0xf));
    refused("LBA format", |page| (page.nlbaf_z, page.flbas) = (255, 0x60 | 0xf));
}

#[test]
fn pit_39_more_bytes_than_64_bits_count() {
    refused("2^64", |page| {
        page.nsze.set(1 << 55);
        page.ncap.set(1 << 55);
    });
    refused("2^64", |page| {
        page.nsze.set(u64::MAX);
        page.ncap.set(u64::MAX);
    });
}

#[test]
fn pit_40_capacity_beyond_size_is_no_obstacle() {
    let (bench, controller) = namespace(|page| {
        page.ncap.set(page.nsze.get() + 1);
        page.nuse.set(u64::MAX);
    });
    reads(&bench, &controller, 1);
    bench.close(controller);
}

#[test]
fn pit_41_four_billion_namespaces_allowed() {
    let bench = Bench::faulty([Rule::identify_controller(|page| page.nn.set(u32::MAX))]);
    let controller = bench.attach().expect("a controller");
    let before = bench.now();
    assert_eq!(controller.namespaces().expect("a list").len(), 2);
    assert!(bench.now() - before < Duration::from_secs(1));
    reads(&bench, &controller, 1);
    bench.close(controller);
}

#[test]
fn pit_42_no_namespaces_at_all() {
    let bench = Bench::with(settings(), &[]);
    bench.inject([Rule::identify_controller(|page| page.nn.set(0))]);
    let controller = bench.attach().expect("a controller");
    assert!(controller.namespaces().expect("a list").is_empty());
    assert!(matches!(
        controller.namespace(1),
        Err(NamespaceError::Absent { .. } | NamespaceError::Command { .. })
    ));
    assert!(controller.queue(small(4)).is_ok());
    assert!(!controller.identify().serial().is_empty());
    bench.close(controller);
}
