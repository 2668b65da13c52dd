//! PIT-43 to PIT-49, PIT-57 and PIT-59: lists without end, names that are none, pages that are not filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use doorbell::spec::admin::AdminOpcode;
use doorbell::spec::identify::{Cns, IdentifierType, NamespaceDescriptorList, NamespaceList};
use doorbell::spec::status::Status;
use doorbell_subsystem::fault::{Commands, Rule};

use crate::bench::{Bench, Ledger, small};

fn active(edit: impl Fn(&mut NamespaceList) + Send + Sync + 'static) -> Vec<u32> {
    let rule = Rule::identify(Cns::ACTIVE_NAMESPACES, None, edit).named("lists");
    let bench = Bench::new();
    let counters = bench.inject([rule]);
    let controller = bench.attach().expect("a controller");
    let ids = controller.namespace_ids().expect("a list");
    assert!(
        counters.injected("lists") <= 65,
        "{} lists were asked for",
        counters.injected("lists")
    );
    assert!(ids.is_sorted_by(|a, b| a < b), "ascending, none twice");
    bench.close(controller);
    ids
}

#[test]
fn pit_43_lists_unsorted_repeating_or_without_end() {
    let list = |ids: &'static [u32]| {
        move |page: &mut NamespaceList| *page = NamespaceList::from_ids(ids.iter().copied())
    };
    assert_eq!(active(list(&[2, 1, 3])), [2], "ends where it does not ascend");
    assert_eq!(active(list(&[1, 1, 1])), [1]);
    assert_eq!(active(list(&[0, 1])), [0u32; 0]);
    // Always full, always the same: nothing above the last one ever comes.
    let full = |page: &mut NamespaceList| *page = NamespaceList::from_ids(1..=1024);
    assert_eq!(active(full).len(), 1024);
    // Always full, always more.
    let next = Arc::new(AtomicU32::new(1));
    let more = move |page: &mut NamespaceList| {
        let first = next.fetch_add(1024, Ordering::Relaxed);
        *page = NamespaceList::from_ids(first..first + 1024);
    };
    assert_eq!(active(more).len(), 65_536, "and no more");
    let top =
        |page: &mut NamespaceList| *page = NamespaceList::from_ids(u32::MAX - 1023..=u32::MAX);
    assert!(active(top).len() <= 1024);
}

/// The identifier types that are seen in a list of these bytes.
fn described(bytes: &'static [u8]) -> Vec<(IdentifierType, usize)> {
    let edit = move |page: &mut NamespaceDescriptorList| {
        page.bytes.fill(0);
        page.bytes[..bytes.len()].copy_from_slice(bytes);
    };
    let bench = Bench::faulty([Rule::identify(Cns::NAMESPACE_DESCRIPTORS, Some(1), edit)]);
    let controller = bench.attach().expect("a controller");
    let list = controller.identify_descriptors(1).expect("a list");
    let seen = list.iter().map(|descriptor| (descriptor.nidt, descriptor.nid.len())).collect();
    bench.close(controller);
    seen
}

#[test]
fn pit_44_descriptors_of_a_wrong_length_or_past_the_page() {
    let eui64 = (IdentifierType::EUI64, 8);
    let good = b"\x01\x08\0\0EUI64678";
    assert_eq!(described(good), [eui64]);
    assert_eq!(described(b"\x01\x08\0\0EUI64678\x02\x08\0\0short678\x04\x01\0\0\0"), [eui64]);
    // Type 9 is unknown, so its length is its own; the last one would reach past the page.
    static LONG: [u8; 4096] = {
        let mut page = [0; 4096];
        let mut at = 0;
        while at + 4 <= 4096 {
            page[at] = 9;
            page[at + 1] = 255;
            at += 259;
        }
        page
    };
    assert_eq!(described(&LONG).len(), 4096 / 259);
}

#[test]
fn pit_45_a_descriptor_without_length_ends_the_list() {
    let list = b"\x01\x08\0\0EUI64678\x03\0\0\0\x01\x08\0\0EUI64678";
    assert_eq!(described(list), [(IdentifierType::EUI64, 8)]);
}

#[test]
fn pit_46_namespaces_with_the_same_names_are_two() {
    let bench = Bench::faulty([1, 2].map(|nsid| {
        Rule::identify_namespace(nsid, |page| {
            page.nguid = [7; 16];
            page.eui64 = [7; 8];
        })
    }));
    let controller = bench.attach().expect("a controller");
    let namespaces = controller.namespaces().expect("a list");
    let mut queue = controller.queue(small(4)).expect("a queue");
    for namespace in &namespaces {
        let mut data = controller.buffer(512).expect("memory");
        data.fill(namespace.id() as u8);
        queue.run(namespace.write(0, data)).expect("written");
    }
    for namespace in &namespaces {
        let done = queue.run(namespace.read(0, controller.buffer(512).expect("memory")));
        let data = done.expect("read").buffer.expect("a buffer");
        assert_eq!(data[..], [namespace.id() as u8; 512], "by identifier, never by name");
    }
    assert_eq!(namespaces.len(), 2);
    drop((queue, namespaces));
    bench.close(controller);
}

#[test]
fn pit_48_names_that_are_no_text() {
    for junk in [0xff, 0x00, 0x1b, 0x80] {
        let bench = Bench::faulty([Rule::identify_controller(move |page| {
            page.sn.fill(junk);
            page.mn.fill(junk);
            page.fr.fill(junk);
            page.subnqn.fill(junk);
        })]);
        let controller = bench.attach().expect("a controller");
        let identify = controller.identify();
        for text in [
            identify.serial().to_string(),
            identify.model().to_string(),
            identify.firmware().to_string(),
            controller.nqn(),
        ] {
            assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{junk:#x}: {text:?}");
        }
        bench.close(controller);
    }
}

#[test]
fn pit_49_a_qualified_name_without_end() {
    let bench = Bench::faulty([Rule::identify_controller(|page| page.subnqn.fill(b'n'))]);
    let controller = bench.attach().expect("a controller");
    let nqn = controller.nqn();
    assert!(nqn.starts_with("nqn.2014.08.org.nvmexpress:") && nqn.contains("PIT"), "{nqn}");
    bench.close(controller);
}

#[test]
fn pit_57_sizes_of_logs_that_the_controller_says() {
    let bench = Bench::faulty([Rule::identify_controller(|page| page.elpe_z = 255)]);
    let controller = bench.attach().expect("a controller");
    let most = 256 * 64;
    let before = controller.memory().stats().in_use;
    let log = controller.error_log().expect("a log");
    assert!(log.len() <= 256);
    assert!(controller.memory().stats().in_use <= before + most);
    bench.close(controller);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of commands")]
fn pit_57_lists_of_changes_that_the_controller_makes_up() {
    // Every entry another one, up to the highest; over and over the same; none in order; no end.
    let lists: [fn(u32) -> u32; 4] =
        [|at| u32::MAX - 2 - at, |_| 1, |at| at.wrapping_mul(0x9e37_79b9) | 1, |at| at + 1];
    for list in lists {
        let mut load = crate::bench::Load::new(4);
        let subsystem = load.bench.device.port().subsystem().clone();
        load.controller.namespace_ids().expect("a list");
        let log = Commands::admin(AdminOpcode::GET_LOG_PAGE).selector(4);
        let made_up = Rule::reply(log, move |page| {
            for (at, entry) in (0..).zip(page.chunks_exact_mut(4)) {
                entry.copy_from_slice(&list(at).to_le_bytes());
            }
        });
        let all = Rule::command(Commands::any_admin()).lose().times(0).named("all");
        let counters = load.bench.inject([made_up, all]);
        let memory = load.controller.memory().stats().in_use;
        load.send(4);
        subsystem.remove(2).expect("a namespace");
        let (mut events, mut most) = (0, 0);
        for _ in 0..2500 {
            most = most.max(load.controller.poll(|_| events += 1));
            load.ledger.poll(&mut load.queue);
            load.bench.clock.settle();
        }
        load.settle();
        let commands = counters.iter().last().expect("a rule").matched;
        assert!(commands <= 2 * 1024 + 16, "{commands} commands for one event");
        assert!(events <= 2 * 1024 && most <= 1, "{events} events, {most} at once");
        assert_eq!(load.controller.memory().stats().in_use, memory, "one page at a time");
        // Namespace 1 is what it was, or said to be gone by nobody but the list's reader.
        load.resumes();
        load.close();
    }
}

#[test]
fn pit_27_what_identify_says_may_change_between_two_reads() {
    let bench = Bench::new();
    let counters = bench.inject([
        Rule::identify_namespace(1, |page| page.nsze.set(16)).nth(1).named("first"),
        Rule::identify_namespace(1, |page| page.lbaf[0].lbads = 64).after(1).named("later"),
    ]);
    let controller = bench.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("as it was");
    assert!(controller.namespace(1).is_err(), "what is seen later is judged by itself");
    assert_eq!((namespace.blocks(), namespace.block_size()), (16, 512), "the copy stands");
    assert_eq!((counters.injected("first"), counters.injected("later")), (1, 1));
    drop(namespace);
    bench.close(controller);
}

#[test]
fn pit_59_pages_that_are_not_filled_show_nobody_elses_memory() {
    let bench = Bench::new();
    let controller = bench.attach().expect("a controller");
    // Somebody's secrets, in every buffer of the size of a page that the pool may hand out next.
    let mut secrets: Vec<_> = (0..64).map(|_| controller.buffer(4096).expect("memory")).collect();
    secrets.iter_mut().for_each(|buffer| buffer.fill(0xa5));
    drop(secrets);
    let nothing = |opcode| Rule::command(Commands::admin(opcode)).answer(Status::SUCCESS, 0);
    let counters = bench.inject([
        nothing(AdminOpcode::IDENTIFY).named("identify"),
        nothing(AdminOpcode::GET_LOG_PAGE).named("log"),
    ]);
    for _ in 0..32 {
        let page = controller.identify_namespace(1).expect("an answer");
        assert!(page.is_absent());
        assert_eq!(page.nguid, [0; 16]);
        let log: Box<doorbell::spec::log::SmartLog> = controller.log_page().expect("an answer");
        assert!(zerocopy::IntoBytes::as_bytes(&*log).iter().all(|byte| *byte == 0));
    }
    assert!(controller.error_log().expect("an answer").is_empty());
    assert_eq!((counters.injected("identify"), counters.injected("log")), (32, 33));
    bench.close(controller);
}

#[test]
fn a_read_that_moves_too_little_is_reported_as_the_controller_reports_it() {
    let bench = Bench::new();
    let controller = bench.attach().expect("a controller");
    let namespace = controller.namespace(1).expect("a namespace");
    let mut queue = controller.queue(small(4)).expect("a queue");
    bench.inject([Rule::command(Commands::any_io()).short(512)]);
    let mut ledger = Ledger::default();
    let tag =
        ledger.submit(&mut queue, namespace.read(0, controller.buffer(4096).expect("memory")));
    ledger.settle(&bench, &mut queue, Duration::from_secs(1));
    assert!(ledger.of(tag).0.is_success(), "no driver can tell");
    drop((queue, namespace));
    bench.close(controller);
}
