//! Quirks: each fails without its row, and passes with it or with an override.

use std::time::Duration;

use doorbell::quirk::Quirks;
use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::identify::Cns;
use doorbell::spec::nvm::NvmOpcode;
use doorbell::spec::register::{Cap, Csts, offset};
use doorbell::spec::status::Status;
use doorbell::{Address, Controller, Reason};
use doorbell_subsystem::ControllerConfig;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Load, settings, small};

/// A drive of this identity, that misbehaves by `rules`.
fn drive(vid: u16, did: u16, rules: impl IntoIterator<Item = Rule>) -> Bench {
    let config = ControllerConfig { vid, did, ..settings() };
    let bench = Bench::with(config, &["memory:4MiB", "memory:4MiB"]);
    bench.inject(rules);
    bench
}

/// The same rules on a drive that nobody knows, on one that has the quirk by its row, on one that is said to have it, and
/// on one that is said not to: `works` tells.
#[track_caller]
fn each(
    id: (u16, u16),
    quirk: &str,
    rules: impl Fn() -> Vec<Rule>,
    works: impl Fn(&Bench) -> bool,
) {
    assert!(!works(&drive(0xd00b, 1, rules())), "the fault shows");
    assert!(works(&drive(id.0, id.1, rules())), "the row helps");
    let mut told = drive(0xd00b, 1, rules());
    told.config.quirks = quirk.parse().expect("a quirk");
    assert!(works(&told), "the override helps");
    let mut denied = drive(id.0, id.1, rules());
    denied.config.quirks = format!("^{quirk}").parse().expect("a quirk");
    assert!(!works(&denied), "the override takes it away");
}

#[test]
fn mqes_zero() {
    let rules = || vec![Rule::capabilities(Cap::new().with_mqes_z(0xffff), Cap::new())];
    each((0x144d, 0xa821), "mqes-zero", rules, |bench| {
        let Ok(controller) = bench.attach() else { return false };
        assert_eq!(controller.limits().max_queue_entries, 64);
        Load::reads(bench, &controller)
    });
}

#[test]
fn no_lists() {
    let lists = || {
        let list = Commands::admin(AdminOpcode::IDENTIFY).selector(Cns::ACTIVE_NAMESPACES.0);
        vec![
            Rule::command(list).answer(Status::INVALID_FIELD.with_dnr(), 0),
            Rule::identify_controller(|page| page.nn.set(2)),
        ]
    };
    each((0x8086, 0x5845), "no-lists", lists, |bench| {
        let controller = bench.attach().expect("a controller");
        controller.namespaces().is_ok_and(|all| all.len() == 2)
    });
}

#[test]
fn no_descriptors() {
    let rules = || {
        let list = Commands::admin(AdminOpcode::IDENTIFY).selector(Cns::NAMESPACE_DESCRIPTORS.0);
        vec![Rule::command(list).answer(Status::INVALID_FIELD.with_dnr(), 0)]
    };
    each((0x1b4b, 0x1092), "no-descriptors", rules, |bench| {
        let controller = bench.attach().expect("a controller");
        controller.identify_descriptors(1).is_ok()
    });
}

#[test]
fn bogus_ids() {
    let other = || vec![Rule::identify_namespace(1, |page| page.nguid = [3; 16]).after(1)];
    each((0x10ec, 0x5763), "bogus-ids", other, |bench| {
        let controller = bench.attach().expect("a controller");
        let _used = controller.namespace(1).expect("a namespace");
        controller.reset().is_ok()
    });
}

#[test]
fn ignore_subnqn() {
    let same = || {
        vec![Rule::identify_controller(|page| page.set_nqn("nqn.2020-01.com.example:all-alike"))]
    };
    each((0x8086, 0xf1a6), "ignore-subnqn", same, |bench| {
        let controller = bench.attach().expect("a controller");
        controller.nqn().contains("PIT")
    });
}

#[test]
fn no_write_zeroes() {
    // Says that it has done it, and has not.
    let rules =
        || vec![Rule::command(Commands::io(NvmOpcode::WRITE_ZEROES)).answer(Status::SUCCESS, 0)];
    each((0x15b7, 0x2001), "no-write-zeroes", rules, |bench| {
        let controller = bench.attach().expect("a controller");
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(small(4)).expect("a queue");
        match queue.stage(namespace.write_zeroes(0, 8)) {
            Err(rejected) => {
                assert!(matches!(rejected.reason, Reason::Invalid(_)), "{rejected}");
                assert!(rejected.to_string().contains("Write Zeroes does not work"), "{rejected}");
                true
            }
            Ok(()) => false,
        }
    });
}

#[test]
fn stripe() {
    let rules = || vec![Rule::identify_controller(|page| page.mdts = 2)];
    each((0x8086, 0x0a55), "stripe", rules, |bench| {
        let controller = bench.attach().expect("a controller");
        let namespace = controller.namespace(1).expect("a namespace");
        let mut queue = controller.queue(small(4)).expect("a queue");
        // 16 KiB across a multiple of 16 KiB.
        let buffer = controller.buffer(16 << 10).expect("memory");
        queue.run(namespace.read(24, buffer)).expect("read");
        queue.counters().commands == 2
    });
}

#[test]
fn no_shutdown_status() {
    let shst = u64::from(Csts::new().with_shst(3).into_bits());
    let rules = move || vec![Rule::read(offset::CSTS).clear_bits(shst)];
    each((0x15ad, 0x07f0), "no-shutdown-status", rules, |bench| {
        let controller = bench.attach().expect("a controller");
        let start = bench.now();
        controller.shutdown().is_ok() && bench.now() - start < Duration::from_secs(1)
    });
}

#[test]
fn depth_one() {
    each((0x106b, 0x2001), "depth-one", Vec::new, |bench| {
        let controller = bench.attach().expect("a controller");
        controller.queue(small(4)).expect("a queue").depth() == 1
    });
}

#[test]
fn delay_ready() {
    each((0x1c58, 0x0003), "delay-ready", Vec::new, |bench| {
        let controller = bench.attach().expect("a controller");
        assert!(controller.reset().is_ok());
        // To enable it, to disable it, to enable it again.
        bench.now() >= Duration::from_millis(3 * 2300)
    });
}

#[test]
fn delay_after_reset() {
    let rules = || vec![Rule::write(offset::CC).having(1, 0).lose().nth(3)];
    each((0x8086, 0x0953), "delay-after-reset", rules, |bench| {
        let controller = bench.attach().expect("a controller");
        let before = bench.now();
        assert!(controller.reset().is_ok());
        assert_eq!(controller.recovery().function_resets, 1);
        // The time to become idle is waited for in any case: 10 s.
        bench.now() - before >= Duration::from_secs(12)
    });
}

#[test]
fn an_address_says_so_too() {
    let controller =
        doorbell::attach("embedded:size=4MiB,quirks=no-write-zeroes").expect("attached");
    assert_eq!(controller.quirks(), Quirks::NO_WRITE_ZEROES);
    assert_eq!(controller.address(), "embedded:size=4MiB,quirks=no-write-zeroes");
    let address: Address = controller.address().parse().expect("an address");
    drop(controller);
    assert!(Controller::attach(&address, Default::default()).is_ok());
}
