//! Golden words of each builder. Encodings of Identify, Get Log Page and features are those that
//! libnvme's ioctl tests pin down.

use super::*;
use crate::command::Direction;

/// Command dwords 0, 1 and 10 to 15.
fn dwords(sqe: Sqe) -> [u32; 8] {
    assert_eq!((sqe.cdw2, sqe.cdw3, sqe.mptr, sqe.prp1, sqe.prp2), (0, 0, 0, 0, 0));
    let Sqe { nsid, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, .. } = sqe;
    [sqe.cdw0.into_bits(), nsid, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15]
}

#[test]
fn queues() {
    let cq = create_io_cq(0x0203, 0x03ff, Some(7));
    assert_eq!(dwords(cq), [0x05, 0, 0x03ff_0203, 0x0007_0003, 0, 0, 0, 0]);
    assert_eq!(dwords(create_io_cq(1, 1, None)), [0x05, 0, 0x0001_0001, 1, 0, 0, 0, 0]);
    let sq = create_io_sq(0x0203, 0x03ff, 0x0405, CreateSqCdw11::QPRIO_MEDIUM);
    assert_eq!(dwords(sq), [0x01, 0, 0x03ff_0203, 0x0405_0005, 0, 0, 0, 0]);
    assert_eq!(dwords(delete_io_sq(0x0102)), [0x00, 0, 0x0102, 0, 0, 0, 0, 0]);
    assert_eq!(dwords(delete_io_cq(0x0102)), [0x04, 0, 0x0102, 0, 0, 0, 0, 0]);
}

#[test]
fn identify_of_each_kind() {
    let controller = identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    assert_eq!(dwords(controller), [0x06, 0, 0x01, 0, 0, 0, 0, 0]);
    let list = identify(Cns::NAMESPACE_CONTROLLERS, 0x1234_5678, 0x4321, Csi::NVM);
    assert_eq!(dwords(list), [0x06, 0x1234_5678, 0x4321_0012, 0, 0, 0, 0, 0]);
    let zns = identify(Cns::IO_NAMESPACE, 9, 0, Csi::ZNS);
    assert_eq!(dwords(zns), [0x06, 9, 0x05, 0x0200_0000, 0, 0, 0, 0]);
    assert_eq!(zns.direction(), Direction::FromController);
}

#[test]
fn log_pages() {
    let smart = LogRequest { rae: true, ..LogRequest::new(Lid::SMART, 127) };
    assert_eq!(dwords(get_log_page(smart)), [0x02, NSID_ALL, 0x007f_8002, 0, 0, 0, 0, 0]);
    let every = LogRequest {
        lid: Lid(0xfe),
        numd_z: 0x4567_89ab,
        nsid: 3,
        lpo: 0x0123_4567_89ab_cdec,
        rae: false,
        lsp: 0x7f,
        lsi: 0xfedc,
        csi: Csi::KV,
        uuidx: 0x4e,
    };
    let expected = [0x02, 3, 0x89ab_7ffe, 0xfedc_4567, 0x89ab_cdec, 0x0123_4567, 0x0100_004e, 0];
    assert_eq!(dwords(get_log_page(every)), expected);
}

#[test]
fn features() {
    let set = set_features(Fid::NUMBER_OF_QUEUES, 0, 0x0007_0007, false);
    assert_eq!(dwords(set), [0x09, 0, 0x07, 0x0007_0007, 0, 0, 0, 0]);
    let saved = set_features(Fid(0xfe), 0x89ab_cdef, 0x1111_1111, true);
    assert_eq!(dwords(saved), [0x09, 0x89ab_cdef, 0x8000_00fe, 0x1111_1111, 0, 0, 0, 0]);
    let get = get_features(Fid(0xfe), 0x89ab_cdef, Select::SAVED, 0x1111_1111);
    assert_eq!(dwords(get), [0x0a, 0x89ab_cdef, 0x02fe, 0x1111_1111, 0, 0, 0, 0]);
}

#[test]
fn the_others() {
    assert_eq!(dwords(abort(0x0102, 0x0304)), [0x08, 0, 0x0304_0102, 0, 0, 0, 0, 0]);
    assert_eq!(dwords(async_event_request()), [0x0c, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(dwords(keep_alive()), [0x18, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(dwords(doorbell_buffer_config()), [0x7c, 0, 0, 0, 0, 0, 0, 0]);
    let format = FormatCdw10::new().with_lbafl(3).with_ses(1).with_lbafu(2).with_pil(true);
    assert_eq!(dwords(format_nvm(1, format)), [0x80, 1, 0x2303, 0, 0, 0, 0, 0]);
    assert_eq!(FormatCdw10::new().with_mset(true).with_pi(5).into_bits(), 0xb0);
    assert_eq!(dwords(firmware_download(1023, 2048)), [0x11, 0, 1023, 2048, 0, 0, 0, 0]);
    let commit = FirmwareCommitCdw10::new().with_fs(2).with_ca(3).with_bpid(true);
    assert_eq!(dwords(firmware_commit(commit)), [0x10, 0, 0x8000_001a, 0, 0, 0, 0, 0]);
    assert_eq!(dwords(self_test(NSID_ALL, SelfTest::ABORT)), [0x14, NSID_ALL, 0xf, 0, 0, 0, 0, 0]);
    let overwrite = SanitizeCdw10::new().with_sanact(3).with_owpass(1).with_ndas(true);
    assert_eq!(dwords(sanitize(overwrite, 0xdead_beef))[2..4], [0x213, 0xdead_beef]);
}

#[test]
fn events() {
    let event = AsyncEvent::from_bits(0x0004_0002);
    assert_eq!(event.aet(), AsyncEvent::TYPE_NOTICE);
    assert_eq!(event.aei(), AsyncEvent::NOTICE_NAMESPACE_CHANGED);
    assert_eq!(Lid(event.lid()), Lid::CHANGED_NAMESPACES);
}

#[test]
fn opcodes() {
    assert_eq!(AdminOpcode::IDENTIFY.name(), "Identify");
    assert_eq!(AdminOpcode(0x7e).name(), "Unknown Admin Command");
    assert_eq!(std::format!("{}", AdminOpcode::GET_LOG_PAGE), "Get Log Page (02h)");
    assert!(AdminOpcode(0xc0).is_vendor() && !AdminOpcode::SANITIZE.is_vendor());
}
