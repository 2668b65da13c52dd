//! Admin commands: statuses, Identify, features, log pages, events, Abort.

use doorbell_spec::admin::{self, AdminOpcode, AsyncEvent, LogRequest};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::feature::{Capabilities, Fid, Select};
use doorbell_spec::identify::{
    Cns, ControllerList, Csi, IdentifyController, IdentifyNamespace, IndependentNamespace,
    NamespaceDescriptorList, NamespaceList,
};
use doorbell_spec::log::{
    CommandEffectsLog, ErrorLogEntry, FeatureEffectsLog, FirmwareSlotLog, Lid, SmartLog,
    SupportedLogPages,
};
use doorbell_spec::nvm::{self, NvmOpcode};
use doorbell_spec::status::Status;
use zerocopy::FromBytes;

use crate::host::{Host, config};
use crate::subsystem;

fn host() -> Host {
    Host::ready(&subsystem(&["memory:1MiB", "null:1GiB,block=4096"]), config())
}

fn log(host: &mut Host, request: LogRequest) -> Vec<u8> {
    let len = (request.numd_z as usize + 1) * 4;
    let page = host.pages(len.div_ceil(4096));
    host.ram.write(page, &vec![0xcc; len]);
    host.admin(admin::get_log_page(request).with_prp(page, page + 4096));
    host.ram.read(page, len)
}

#[test]
fn cmd_3_unsupported_opcodes() {
    let mut host = host();
    for opcode in
        [0x03, 0x0d, 0x10, 0x14, 0x18, 0x19, 0x1c, 0x7f, 0x82, 0x81, 0x84, 0x86, 0xc0, 0xff]
    {
        let entry = host.run(0, Sqe::new(opcode));
        assert!(entry.status().is(Status::INVALID_OPCODE), "{opcode:#x}: {}", entry.status());
        assert!(entry.status().dnr());
    }
}

#[test]
fn fused_and_sgl_admin_commands_are_refused() {
    let mut host = host();
    let page = host.pages(1);
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(page, 0);
    for fuse in [1, 2, 3] {
        host.refused(identify.with_fuse(fuse), Status::INVALID_FIELD);
    }
    for psdt in [1, 2, 3] {
        let mut sgl = identify;
        sgl.cdw0.set_psdt(psdt);
        host.refused(sgl, Status::INVALID_FIELD);
    }
}

#[test]
fn identify_controller() {
    let mut host = host();
    let page = host.identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    let page = IdentifyController::read_from_bytes(&page).expect("page");
    assert_eq!(page.serial().to_string(), "DOORBELL0001");
    assert!(page.nqn().expect("nqn").to_string().starts_with("nqn.2014-08.org.nvmexpress:uuid:"));
    assert_eq!((page.sqes(), page.cqes()), ((6, 6), (4, 4)));
    assert_eq!(page.sgls.get(), 0);
    assert!(page.oacs().dbcs() && page.lpa().lpeds() && page.vwc().vwcp());
    let oncs = page.oncs();
    assert!(oncs.nvmcmps() && oncs.nvmdsmsv() && oncs.nvmwzsv() && oncs.nvmvfys() && oncs.tss());
    assert!(!oncs.nvmwusv() && !oncs.reservs() && !oncs.nvmcpys());
    assert_eq!(page.nn.get(), 256);
}

#[test]
fn identify_namespace_statuses() {
    let mut host = host();
    let page = host.pages(1);
    let identify = |cns, nsid| admin::identify(cns, nsid, 0, Csi::NVM).with_prp(page, 0);
    for cns in [Cns::NAMESPACE, Cns::ALLOCATED_NAMESPACE, Cns::IO_NAMESPACE] {
        for nsid in [0, 257, NSID_ALL] {
            host.refused(identify(cns, nsid), Status::INVALID_NAMESPACE);
        }
    }
    // Valid and inactive: a page of zeroes.
    host.ram.write(page, &[0xff; 4096]);
    host.admin(identify(Cns::NAMESPACE, 256));
    assert_eq!(host.ram.read(page, 4096), [0; 4096]);
    for nsid in [NSID_ALL - 1, NSID_ALL] {
        host.refused(identify(Cns::ACTIVE_NAMESPACES, nsid), Status::INVALID_NAMESPACE);
    }
    host.refused(identify(Cns::NAMESPACE_DESCRIPTORS, 3), Status::INVALID_FIELD);
    host.refused(identify(Cns::NAMESPACE_DESCRIPTORS, 300), Status::INVALID_NAMESPACE);
    host.refused(identify(Cns(0x04), 0), Status::INVALID_FIELD);
    host.refused(identify(Cns(0xff), 0), Status::INVALID_FIELD);
    let zns = admin::identify(Cns::IO_CONTROLLER, 0, 0, Csi::ZNS).with_prp(page, 0);
    host.refused(zns, Status::INVALID_FIELD);
}

#[test]
fn identify_lists() {
    let mut host = host();
    let page = host.identify(Cns::ACTIVE_NAMESPACES, 1, 0, Csi::NVM);
    let list = NamespaceList::read_from_bytes(&page).expect("page");
    assert_eq!(list.after(1).collect::<Vec<_>>(), [2]);
    let page = host.identify(Cns::NAMESPACE_DESCRIPTORS, 1, 0, Csi::NVM);
    let names = NamespaceDescriptorList::read_from_bytes(&page).expect("page").identifiers();
    assert_eq!((names.csi, names.eui64), (Some(0), None));
    let page = host.identify(Cns::NAMESPACE, 1, 0, Csi::NVM);
    let namespace = IdentifyNamespace::read_from_bytes(&page).expect("page");
    assert_eq!(names.nguid, Some(namespace.nguid));
    assert_ne!(names.uuid, None);
    for cns in [Cns::CONTROLLERS, Cns::NAMESPACE_CONTROLLERS] {
        let page = host.identify(cns, 1, 0, Csi::NVM);
        let list = ControllerList::read_from_bytes(&page).expect("page");
        assert_eq!(list.iter().collect::<Vec<_>>(), [host.controller.cntlid()]);
    }
    let page = host.identify(Cns::INDEPENDENT_NAMESPACE, 1, 0, Csi::NVM);
    let independent = IndependentNamespace::read_from_bytes(&page).expect("page");
    assert_eq!(independent.nstat, IndependentNamespace::NRDY);
    assert_eq!(
        host.identify(Cns::IO_COMMAND_SETS, 0, 0, Csi::NVM)[..16],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(host.identify(Cns::IO_CONTROLLER, 0, 0, Csi::NVM), [0; 4096]);
}

#[test]
fn identify_needs_memory_for_4096_bytes() {
    let mut host = host();
    let page = host.pages(2);
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    host.refused(identify.with_prp(page + 2048, 0), Status::DATA_TRANSFER_ERROR);
    host.refused(identify.with_prp(page + 2048, page + 4096 + 8), Status::INVALID_PRP_OFFSET);
    host.refused(identify.with_prp(0x7000_0000, 0), Status::DATA_TRANSFER_ERROR);
    host.refused(identify.with_prp(page + 2, 0), Status::INVALID_PRP_OFFSET);
    host.admin(identify.with_prp(page + 2048, page + 4096));
}

#[test]
fn set_feature_statuses() {
    let mut host = host();
    let set = |fid, nsid, value| admin::set_features(fid, nsid, value, false);
    host.refused(set(Fid(0x00), 0, 0), Status::INVALID_FIELD);
    host.refused(set(Fid(0xc0), 0, 0), Status::INVALID_FIELD);
    let saved = admin::set_features(Fid::ARBITRATION, 0, 0, true);
    host.refused(saved, Status::FEATURE_NOT_SAVEABLE);
    host.refused(set(Fid::ARBITRATION, 1, 0), Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
    host.refused(set(Fid::POWER_MANAGEMENT, 0, 1), Status::INVALID_FIELD);
    host.refused(set(Fid::TEMPERATURE_THRESHOLD, 0, 1 << 16), Status::INVALID_FIELD);
    host.refused(set(Fid::TEMPERATURE_THRESHOLD, 0, 2 << 20), Status::INVALID_FIELD);
    host.refused(set(Fid::ERROR_RECOVERY, 1, 1 << 16), Status::INVALID_FIELD);
    host.refused(set(Fid::ERROR_RECOVERY, 999, 0), Status::INVALID_NAMESPACE);
    host.refused(set(Fid::ERROR_RECOVERY, 9, 0), Status::INVALID_FIELD);
    host.refused(set(Fid::INTERRUPT_VECTOR_CONFIG, 0, 128), Status::INVALID_FIELD);
    host.refused(set(Fid::KEEP_ALIVE_TIMER, 0, 1000), Status::INVALID_KEEP_ALIVE);
    host.refused(set(Fid::IO_COMMAND_SET_PROFILE, 0, 1), Status::IO_COMMAND_SETS_REJECTED);
}

#[test]
fn features_are_set_read_and_forgotten() {
    let mut host = host();
    let cases = [
        (Fid::ARBITRATION, 0, 0x0102_0303),
        (Fid::TEMPERATURE_THRESHOLD, 0, 0x0000_0161),
        (Fid::ERROR_RECOVERY, 1, 0x0000_0010),
        (Fid::VOLATILE_WRITE_CACHE, 0, 0),
        (Fid::INTERRUPT_COALESCING, 0, 0x0000_0a05),
        (Fid::INTERRUPT_VECTOR_CONFIG, 0, 0x0001_0003),
        (Fid::WRITE_ATOMICITY, 0, 1),
        (Fid::ASYNC_EVENT_CONFIG, 0, 0x0000_0102),
    ];
    let get = |host: &mut Host, fid, nsid, select, value: u32| {
        let selector = match fid {
            Fid::INTERRUPT_VECTOR_CONFIG => value & 0xffff,
            _ => 0,
        };
        host.admin(admin::get_features(fid, nsid, select, selector)).dw0
    };
    for (fid, nsid, value) in cases {
        let before = get(&mut host, fid, nsid, Select::CURRENT, value);
        assert_eq!(before, get(&mut host, fid, nsid, Select::DEFAULT, value), "{fid}");
        host.admin(admin::set_features(fid, nsid, value, false));
        assert_eq!(get(&mut host, fid, nsid, Select::CURRENT, value), value, "{fid}");
        assert_eq!(get(&mut host, fid, nsid, Select::DEFAULT, value), before, "{fid}");
        assert_eq!(get(&mut host, fid, nsid, Select::SAVED, value), before, "{fid}");
        let can = Capabilities::from_bits(get(&mut host, fid, nsid, Select::CAPABILITIES, 0));
        assert!(can.changeable() && !can.saveable(), "{fid}");
        assert_eq!(can.namespace_specific(), fid == Fid::ERROR_RECOVERY);
        host.refused(admin::get_features(fid, nsid, Select(4), 0), Status::INVALID_FIELD);
    }
    host.refused(admin::get_features(Fid(0x7c), 0, Select::CURRENT, 0), Status::INVALID_FIELD);
    host.controller.reset();
    host.enable(32, 0);
    assert_eq!(get(&mut host, Fid::WRITE_ATOMICITY, 0, Select::CURRENT, 0), 0);
}

#[test]
fn mandatory_features_can_be_read() {
    let mut host = host();
    let page = host.pages(1);
    for fid in [1, 2, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xe, 0xf, 0x16, 0x19] {
        host.admin(admin::get_features(Fid(fid), 0, Select::CURRENT, 0).with_prp(page, 0));
    }
}

#[test]
fn features_in_a_buffer() {
    let mut host = host();
    let page = host.pages(1);
    host.ram.write(page, &1_000_000u64.to_le_bytes());
    host.admin(admin::set_features(Fid::TIMESTAMP, 0, 0, false).with_prp(page, 0));
    host.now += std::time::Duration::from_millis(250);
    host.admin(admin::get_features(Fid::TIMESTAMP, 0, Select::CURRENT, 0).with_prp(page, 0));
    assert_eq!(host.ram.read(page, 8), [(1_000_250u64 & 0xff) as u8, 0x43, 0x0f, 0, 0, 0, 2, 0]);
    let mut behavior = vec![0; 512];
    behavior[0] = 1;
    behavior[2] = 1;
    host.ram.write(page, &behavior);
    host.admin(admin::set_features(Fid::HOST_BEHAVIOR, 0, 0, false).with_prp(page, 0));
    host.ram.write(page, &[0; 512]);
    host.admin(admin::get_features(Fid::HOST_BEHAVIOR, 0, Select::CURRENT, 0).with_prp(page, 0));
    assert_eq!(host.ram.read(page, 512), behavior);
    host.ram.write(page, &[2]);
    let set = admin::set_features(Fid::HOST_BEHAVIOR, 0, 0, false).with_prp(page, 0);
    host.refused(set, Status::INVALID_FIELD);
}

#[test]
fn log_page_statuses() {
    let mut host = host();
    let page = host.pages(2);
    let get = |request| admin::get_log_page(request).with_prp(page, page + 4096);
    for lid in [0x06, 0x07, 0x0d, 0x70, 0xc0] {
        host.refused(get(LogRequest::new(Lid(lid), 0)), Status::INVALID_LOG_PAGE);
    }
    let smart = LogRequest::new(Lid::SMART, 127);
    host.refused(get(LogRequest { lpo: 516, ..smart }), Status::INVALID_FIELD);
    host.refused(get(LogRequest { lpo: u64::MAX - 3, ..smart }), Status::INVALID_FIELD);
    host.refused(get(LogRequest { lpo: 2, ..smart }), Status::INVALID_FIELD);
    host.refused(get(LogRequest { nsid: 1, ..smart }), Status::INVALID_FIELD);
    host.refused(get(LogRequest { numd_z: u32::MAX, ..smart }), Status::INVALID_FIELD);
    let effects = LogRequest::new(Lid::COMMAND_EFFECTS, 0);
    host.refused(get(LogRequest { csi: Csi::ZNS, ..effects }), Status::INVALID_FIELD);
    let mut index = get(smart);
    index.cdw14 |= 1 << 23;
    host.refused(index, Status::INVALID_FIELD);
    // Inside, at the end, and beyond the end.
    let whole = log(&mut host, smart);
    let part = log(&mut host, LogRequest { lpo: 4, numd_z: 0, ..smart });
    assert_eq!(whole[4..8], part);
    assert_eq!(log(&mut host, LogRequest { lpo: 512, numd_z: 0, ..smart }), [0; 4]);
    let longer = log(&mut host, LogRequest { numd_z: 200, ..smart });
    assert_eq!(longer[512..], [0; 292]);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of commands")]
fn supported_logs_commands_and_features() {
    let mut host = host();
    let page = log(&mut host, LogRequest::new(Lid::SUPPORTED_LOG_PAGES, 255));
    let pages = SupportedLogPages::read_from_bytes(&page).expect("page");
    let supported = (0..=255).filter(|lid| pages.support(Lid(*lid)).lsupp());
    assert_eq!(supported.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 0x12, 0x13]);
    let page = log(&mut host, LogRequest::new(Lid::COMMAND_EFFECTS, 1023));
    let effects = CommandEffectsLog::read_from_bytes(&page).expect("page");
    assert!(effects.admin(AdminOpcode::IDENTIFY.0).csupp());
    assert!(effects.admin(AdminOpcode::FORMAT_NVM.0).ncc());
    assert!(effects.io(NvmOpcode::WRITE.0).lbcc() && !effects.io(NvmOpcode::READ.0).lbcc());
    // What the log claims is what the controller does.
    host.pair(1, 8, 8);
    for opcode in 0..=255 {
        let entry = host.run(1, Sqe::new(opcode).with_nsid(300));
        let known = !entry.status().is(Status::INVALID_OPCODE);
        assert_eq!(effects.io(opcode).csupp(), known, "{opcode:#x}");
    }
    let page = log(&mut host, LogRequest::new(Lid::FEATURE_EFFECTS, 255));
    let features = FeatureEffectsLog::read_from_bytes(&page).expect("page");
    let data = host.pages(1);
    for fid in (0..=255).map(Fid) {
        let get = admin::get_features(fid, 0, Select::CURRENT, 0).with_prp(data, 0);
        let known = host.run(0, get).status().is_success();
        assert_eq!(features.effects(fid).fsupp(), known, "{fid}");
    }
}

#[test]
fn smart_counts_commands_and_data() {
    let mut host = host();
    host.pair(1, 8, 8);
    let data = host.pages(1);
    for lba in 0..200 {
        host.expect(1, nvm::write(1, lba * 8, 7).with_prp(data, 0), Status::SUCCESS);
        host.expect(1, nvm::read(1, lba * 8, 7).with_prp(data, 0), Status::SUCCESS);
    }
    let page = log(&mut host, LogRequest::new(Lid::SMART, 127));
    let smart = SmartLog::read_from_bytes(&page).expect("page");
    assert_eq!((smart.hrc.get(), smart.hwc.get()), (200, 200));
    assert_eq!((smart.dur.get(), smart.duw.get()), (2, 2));
    assert_eq!(smart.celsius(), Some(40));
    let page = log(&mut host, LogRequest::new(Lid::FIRMWARE_SLOT, 127));
    let firmware = FirmwareSlotLog::read_from_bytes(&page).expect("page");
    assert_eq!(firmware.active_slot(), 1);
}

#[test]
fn errors_are_logged_and_marked() {
    let mut host = host();
    host.pair(1, 8, 8);
    let data = host.pages(1);
    let entry = host.run(1, nvm::read(1, 1 << 40, 0).with_prp(data, 0));
    assert!(entry.status().more() && entry.status().dnr());
    let refused = host.run(0, Sqe::new(0xfe));
    assert!(refused.status().more());
    let page = log(&mut host, LogRequest::new(Lid::ERROR_INFORMATION, 64 * 16 - 1));
    let entries: Vec<_> = page
        .chunks(64)
        .map(|entry| ErrorLogEntry::read_from_bytes(entry).expect("entry"))
        .collect();
    assert_eq!(entries[0].ecnt.get(), 2);
    assert!(entries[0].status().is(Status::INVALID_OPCODE));
    assert_eq!((entries[1].ecnt.get(), entries[1].sqid.get()), (1, 1));
    assert_eq!((entries[1].cid.get(), entries[1].lba.get()), (entry.cid, 1 << 40));
    assert_eq!(entries[2].ecnt.get(), 0);
    // The log is a ring.
    for _ in 0..100 {
        host.run(0, Sqe::new(0xfe));
    }
    let page = log(&mut host, LogRequest::new(Lid::ERROR_INFORMATION, 64 * 16 - 1));
    let last = ErrorLogEntry::read_from_bytes(&page[63 * 64..]).expect("entry");
    assert_eq!(last.ecnt.get(), 102 - 63);
}

fn listen(host: &mut Host) -> u16 {
    let cid = host.stage(0, admin::async_event_request());
    host.ring(0);
    host.poll();
    cid
}

#[test]
fn event_requests_beyond_the_limit() {
    let mut host = host();
    for _ in 0..4 {
        listen(&mut host);
    }
    assert!(host.reap(0).is_none());
    host.refused(admin::async_event_request(), Status::EVENT_LIMIT_EXCEEDED);
}

#[test]
fn tgt_5_identifier_of_an_outstanding_request() {
    let mut host = host();
    let cid = listen(&mut host);
    host.stage_as(0, admin::abort(1, 1).with_cid(cid));
    host.ring(0);
    assert!(host.wait(0).status().is(Status::COMMAND_ID_CONFLICT));
}

#[test]
fn abort_ends_event_requests_only() {
    let mut host = host();
    let first = listen(&mut host);
    let second = listen(&mut host);
    assert_eq!(host.admin(admin::abort(0, 0x7777)).dw0, 1);
    assert_eq!(host.admin(admin::abort(3, second)).dw0, 1);
    let cid = host.stage(0, admin::abort(0, second));
    host.ring(0);
    let aborted = host.wait(0);
    assert_eq!((aborted.cid, aborted.status().is(Status::ABORTED_BY_REQUEST)), (second, true));
    let done = host.wait(0);
    assert_eq!((done.cid, done.dw0), (cid, 0));
    assert_eq!(host.admin(admin::abort(0, second)).dw0, 1);
    assert_ne!(first, second);
}

#[test]
fn events_of_one_type_wait_for_their_log_page() {
    let mut host = host();
    let smart = 1 << 1;
    host.admin(admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, smart, false));
    let hot = admin::set_features(Fid::TEMPERATURE_THRESHOLD, 0, 300, false);
    let cids = [listen(&mut host), listen(&mut host)];
    let cid = host.stage(0, hot);
    host.ring(0);
    assert_eq!(host.wait(0).cid, cid);
    let event = host.wait(0);
    assert_eq!(event.cid, cids[0]);
    assert_eq!(AsyncEvent::from_bits(event.dw0).aet(), AsyncEvent::TYPE_SMART);
    // Masked: a second one does not come, nor after a read that retains.
    host.admin(hot);
    let retained = LogRequest { rae: true, ..LogRequest::new(Lid::SMART, 127) };
    let page = log(&mut host, retained);
    assert!(SmartLog::read_from_bytes(&page).expect("page").critical_warning().ttc());
    host.poll();
    assert!(host.reap(0).is_none());
    log(&mut host, LogRequest::new(Lid::SMART, 127));
    assert_eq!(host.wait(0).cid, cids[1]);
}

#[test]
fn events_are_forgotten_by_a_reset() {
    let mut host = host();
    listen(&mut host);
    host.controller.write(doorbell_spec::register::offset::CC, 4, 0);
    host.enable(32, 0);
    for _ in 0..4 {
        listen(&mut host);
    }
    assert!(host.reap(0).is_none());
}

#[test]
fn a_host_says_once_who_it_is() {
    let mut host = host();
    let page = host.pages(1);
    let set =
        |exhid: u32| admin::set_features(Fid::HOST_IDENTIFIER, 0, exhid, false).with_prp(page, 0);
    let get = |exhid: u32| {
        let command = admin::get_features(Fid::HOST_IDENTIFIER, 0, Select::CURRENT, exhid);
        command.with_prp(page, 0)
    };
    // Nobody is nobody's identifier.
    host.refused(set(1), Status::INVALID_FIELD);
    let name: Vec<u8> = (1..=16).collect();
    host.ram.write(page, &name);
    host.admin(set(1));
    host.refused(set(1), Status::COMMAND_SEQUENCE_ERROR);
    host.ram.write(page, &[0xee; 16]);
    host.admin(get(1));
    assert_eq!(host.ram.read(page, 16), name);
    host.ram.write(page, &[0xee; 16]);
    host.admin(get(0));
    assert_eq!(host.ram.read(page, 16), [&name[..8], &[0xee; 8]].concat());
}
