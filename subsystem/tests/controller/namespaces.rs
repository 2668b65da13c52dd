//! Namespaces that come and go while controllers run.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::{self, AsyncEvent, FormatCdw10, LogRequest};
use doorbell_spec::feature::Fid;
use doorbell_spec::identify::{Cns, Csi, IdentifyController, IdentifyNamespace};
use doorbell_spec::log::{ChangedNamespaceList, Lid};
use doorbell_spec::nvm;
use doorbell_spec::register::{Cc, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::{ChangeError, Controller, NamespaceSpec};
use zerocopy::FromBytes;

use crate::host::{Host, config};
use crate::subsystem;

fn namespace(spec: &str) -> doorbell_subsystem::Namespace {
    spec.parse::<NamespaceSpec>().expect(spec).open().expect("namespace")
}

fn changed(host: &mut Host, rae: bool) -> Vec<u32> {
    let page = host.pages(1);
    let request = LogRequest { rae, ..LogRequest::new(Lid::CHANGED_NAMESPACES, 1023) };
    host.admin(admin::get_log_page(request).with_prp(page, 0));
    let page = host.ram.read(page, 4096);
    ChangedNamespaceList::read_from_bytes(&page).expect("page").iter().collect()
}

#[test]
fn added_and_removed_namespaces_are_reported() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut hosts = [Host::ready(&subsystem, config()), Host::ready(&subsystem, config())];
    for host in &mut hosts {
        let notices = 1 << 8;
        host.admin(admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, notices, false));
        host.pair(1, 8, 8);
        host.stage(0, admin::async_event_request());
        host.stage(0, admin::async_event_request());
        host.ring(0);
        host.poll();
    }
    assert_eq!(subsystem.add(namespace("memory:2MiB,block=4096")), Ok(2));
    for host in &mut hosts {
        let event = AsyncEvent::from_bits(host.wait(0).dw0);
        assert_eq!((event.aet(), event.aei(), event.lid()), (2, 0, 4));
        let page = host.pages(1);
        host.expect(1, nvm::write(2, 511, 0).with_prp(page, 0), Status::SUCCESS);
    }
    // Further changes wait for the log to be read; all of them are in it.
    assert!(subsystem.remove(1).is_some());
    assert_eq!(subsystem.add_as(7, namespace("null:1GiB")), Ok(7));
    for host in &mut hosts {
        host.poll();
        assert!(host.reap(0).is_none());
        assert_eq!(changed(host, true), [1, 2, 7]);
        assert_eq!(changed(host, false), [1, 2, 7]);
        assert_eq!(AsyncEvent::from_bits(host.wait(0).dw0).aet(), AsyncEvent::TYPE_NOTICE);
        assert_eq!(changed(host, false), []);
        let page = host.pages(1);
        host.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::INVALID_FIELD);
    }
}

/// A host that asks for these notices, with three requests for events outstanding.
fn listener(subsystem: &Arc<doorbell_subsystem::Subsystem>, notices: u32) -> Host {
    let mut host = Host::ready(subsystem, config());
    host.admin(admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, notices, false));
    host.pair(1, 8, 8);
    for _ in 0..3 {
        host.stage(0, admin::async_event_request());
    }
    host.ring(0);
    host.poll();
    host
}

fn shape(host: &mut Host, nsid: u32) -> (u64, Option<u32>) {
    let page = host.identify(Cns::NAMESPACE, nsid, 0, Csi::NVM);
    let page = IdentifyNamespace::read_from_bytes(&page).expect("page");
    (page.nsze.get(), page.block_size())
}

#[test]
fn a_format_is_reported_to_those_who_did_not_ask_for_it() {
    let subsystem = subsystem(&["memory:1MiB", "memory:1MiB"]);
    let mut hosts = [(); 2].map(|()| listener(&subsystem, 1 << 8));
    let names = subsystem.namespace(1).expect("a namespace").ids();
    let [asks, hears] = &mut hosts;
    let page = asks.pages(1);
    asks.ram.write(page, &[7; 512]);
    asks.expect(1, nvm::write(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
    assert_eq!(shape(asks, 1), (2048, Some(512)));
    let format = |nsid, lbaf| admin::format_nvm(nsid, FormatCdw10::new().with_lbafl(lbaf));
    asks.refused(format(1, 2), Status::INVALID_FORMAT);
    asks.refused(format(3, 0), Status::INVALID_FIELD);
    asks.refused(admin::format_nvm(1, FormatCdw10::new().with_pi(1)), Status::INVALID_FIELD);
    asks.admin(format(1, 1));
    assert_eq!(shape(asks, 1), (256, Some(4096)));
    assert_eq!(subsystem.namespace(1).expect("a namespace").ids(), names, "it is the same one");
    // What was there is gone, and blocks are larger.
    asks.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
    assert_eq!(asks.ram.read(page, 4096), [0; 4096]);
    asks.expect(1, nvm::read(1, 256, 0).with_prp(page, 0), Status::LBA_OUT_OF_RANGE);
    assert!(asks.reap(0).is_none() && changed(asks, false).is_empty());
    assert_eq!(AsyncEvent::from_bits(hears.wait(0).dw0).lid(), Lid::CHANGED_NAMESPACES.0);
    assert_eq!(changed(hears, false), [1]);
    // All of them, by the one who only listened so far.
    hears.admin(format(u32::MAX, 1));
    assert_eq!((shape(hears, 1), shape(hears, 2)), ((256, Some(4096)), (256, Some(4096))));
    assert_eq!(AsyncEvent::from_bits(asks.wait(0).dw0).lid(), Lid::CHANGED_NAMESPACES.0);
    assert_eq!(changed(asks, false), [1, 2]);
}

#[test]
fn a_namespace_is_resized_and_exchanged_under_its_names() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut host = Host::ready(&subsystem, config());
    let names = subsystem.namespace(1).expect("a namespace").ids();
    for blocks in [1024, 2048, 1] {
        subsystem.resize(1, blocks * 512).expect("a size");
        assert_eq!(changed(&mut host, false), [1]);
        assert_eq!(shape(&mut host, 1), (blocks, Some(512)));
    }
    for (bytes, words) in [(0, "not 0"), (513, "no whole number"), (2 << 20, "no whole number")] {
        let error = subsystem.resize(1, bytes).expect_err("refused");
        assert!(error.to_string().contains(words), "{bytes}: {error}");
    }
    assert_eq!(subsystem.resize(2, 512), Err(ChangeError::Absent(2)));
    subsystem.replace(1, namespace("memory:2MiB,block=4096")).expect("another");
    assert_eq!(shape(&mut host, 1), (512, Some(4096)));
    assert_eq!(subsystem.namespace(1).expect("a namespace").ids(), names);
}

#[test]
fn firmware_is_activated_while_nothing_is_processed() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut host = listener(&subsystem, 1 << 9);
    let page = host.pages(1);
    subsystem.activate_firmware("NEW", Duration::from_millis(5));
    let event = AsyncEvent::from_bits(host.wait(0).dw0);
    assert_eq!((event.aet(), event.aei(), event.lid()), (2, 1, 3));
    assert!(host.csts().pp() && host.csts().rdy());
    host.stage(1, nvm::read(1, 0, 0).with_prp(page, 0));
    host.ring(1);
    for _ in 0..100 {
        host.poll();
        assert!(host.reap(1).is_none(), "nothing is processed");
    }
    host.now += Duration::from_millis(5);
    host.wait(1);
    assert!(!host.csts().pp());
    let identify = host.identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    let identify = IdentifyController::read_from_bytes(&identify).expect("page");
    assert_eq!(identify.firmware().to_string(), "NEW");
    // The next one is told once the log has been read, and a reset ends it as well.
    let request = LogRequest::new(Lid::FIRMWARE_SLOT, 127);
    host.admin(admin::get_log_page(request).with_prp(page, 0));
    subsystem.activate_firmware("NEWER", Duration::from_secs(3600));
    host.wait(0);
    assert!(host.csts().pp());
    let off = host.cc(0).with_en(false);
    host.controller.write(doorbell_spec::register::offset::CC, 4, off.into_bits().into());
    assert!(!host.csts().pp() && !host.csts().rdy());
}

#[test]
fn changes_are_not_reported_unless_asked_for() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut host = Host::ready(&subsystem, config());
    host.stage(0, admin::async_event_request());
    host.ring(0);
    host.poll();
    subsystem.remove(1).expect("namespace");
    host.poll();
    assert!(host.reap(0).is_none());
    assert_eq!(changed(&mut host, false), [1]);
}

#[test]
fn contents_outlive_controllers() {
    let subsystem = subsystem(&["memory:1MiB"]);
    {
        let mut host = Host::ready(&subsystem, config());
        host.pair(1, 8, 8);
        let page = host.pages(1);
        host.ram.write(page, &[3; 512]);
        host.expect(1, nvm::write(1, 5, 0).with_prp(page, 0), Status::SUCCESS);
    }
    let mut host = Host::ready(&subsystem, config());
    host.pair(1, 8, 8);
    let page = host.pages(1);
    host.expect(1, nvm::read(1, 5, 0).with_prp(page, 0), Status::SUCCESS);
    assert_eq!(host.ram.read(page, 512), [3; 512]);
}

#[test]
fn controller_identifiers_are_given_back() {
    let subsystem = subsystem(&[]);
    let make = || Controller::new(Arc::clone(&subsystem), config()).expect("controller");
    let (first, second) = (make(), make());
    assert_eq!((first.cntlid(), second.cntlid()), (1, 2));
    drop(first);
    assert_eq!(make().cntlid(), 1);
}

#[test]
fn settings_out_of_range() {
    let subsystem = subsystem(&[]);
    for (config, words) in [
        (doorbell_subsystem::ControllerConfig { mqes_z: 0, ..config() }, "mqes_z is 0"),
        (doorbell_subsystem::ControllerConfig { mdts: 0, ..config() }, "mdts is 0"),
        (doorbell_subsystem::ControllerConfig { max_io_queues: 0, ..config() }, "max_io_queues"),
        (doorbell_subsystem::ControllerConfig { dstrd: 16, ..config() }, "use 0 to 15"),
    ] {
        let error = Controller::new(Arc::clone(&subsystem), config).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A namespace belongs to its subsystem: whatever becomes of a controller, those of others serve it, and it holds what was
/// written to it; also when there is no controller at all.
#[test]
fn a_namespace_outlives_every_controller_whatever_its_end() {
    let set_cc =
        |host: &mut Host, cc: Cc| host.controller.write(offset::CC, 4, cc.into_bits().into());
    type End<'a> = (&'a str, &'a dyn Fn(&mut Host));
    let ends: [End<'_>; 7] = [
        ("dropped", &|_| ()),
        ("disabled", &|host| set_cc(host, host.cc(0))),
        ("disabled, and dropped before it is idle", &|host| {
            set_cc(host, host.cc(0));
            host.ring(1);
        }),
        ("shut down", &|host| {
            set_cc(host, host.cc(0).with_en(true).with_shn(Cc::SHN_NORMAL));
            host.poll();
        }),
        ("shut down abruptly", &|host| {
            set_cc(host, host.cc(0).with_en(true).with_shn(Cc::SHN_ABRUPT));
            host.poll();
        }),
        ("reset as a function", &|host| host.controller.reset()),
        ("without memory", &|host| {
            host.controller.unmap_all();
            host.poll();
        }),
    ];
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut stays = Host::ready(&subsystem, config());
    stays.pair(1, 8, 8);
    let ours = stays.pages(1);
    let read = |host: &mut Host, page, lba| {
        host.expect(1, nvm::read(1, lba, 0).with_prp(page, 0), Status::SUCCESS);
        host.ram.read(page, 512)
    };
    for (round, (name, end)) in ends.iter().enumerate() {
        let (lba, byte) = (2 * round as u64, round as u8 + 1);
        let mut goes = Host::ready(&subsystem, config());
        goes.pair(1, 8, 8);
        let theirs = goes.pages(1);
        goes.ram.write(theirs, &[byte; 512]);
        goes.expect(1, nvm::write(1, lba, 0).with_prp(theirs, 0), Status::SUCCESS);
        // One more is on its way: it is carried out, or it is not.
        goes.stage(1, nvm::write(1, lba + 1, 0).with_prp(theirs, 0));
        goes.ring(1);
        end(&mut goes);
        for _ in 0..2 {
            assert_eq!(read(&mut stays, ours, lba), [byte; 512], "{name}");
            let late = read(&mut stays, ours, lba + 1);
            assert!(late == [byte; 512] || late == [0; 512], "{name}: {late:x?}");
        }
        // What it had in flight does not come later either, and it takes nothing with it.
        let before = read(&mut stays, ours, lba + 1);
        drop(goes);
        assert_eq!(read(&mut stays, ours, lba), [byte; 512], "{name}, gone");
        assert_eq!(read(&mut stays, ours, lba + 1), before, "{name}, gone");
    }
    drop(stays);
    let mut last = Host::ready(&subsystem, config());
    last.pair(1, 8, 8);
    let page = last.pages(1);
    for round in 0..ends.len() {
        assert_eq!(read(&mut last, page, 2 * round as u64), [round as u8 + 1; 512]);
    }
}
