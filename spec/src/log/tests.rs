//! Golden bytes of the log pages, each field told apart by its offset.

use super::*;
use std::format;
use zerocopy::FromBytes;

/// A page of `N` bytes in which byte i is i modulo 251, so that every field differs.
fn numbered<const N: usize>() -> [u8; N] {
    core::array::from_fn(|at| (at % 251) as u8)
}

fn u32_at(at: u8) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|byte| at + byte as u8))
}

fn u128_at(at: u8) -> u128 {
    u128::from_le_bytes(core::array::from_fn(|byte| at + byte as u8))
}

#[test]
fn error_information() {
    let entry = ErrorLogEntry::read_from_bytes(&numbered::<64>()).unwrap();
    assert_eq!(entry.ecnt.get(), 0x0706_0504_0302_0100);
    assert_eq!((entry.sqid.get(), entry.cid.get()), (0x0908, 0x0b0a));
    assert_eq!((entry.status.get(), entry.pel.get()), (0x0d0c, 0x0f0e));
    assert_eq!(entry.lba.get(), 0x1716_1514_1312_1110);
    assert_eq!(entry.nsid.get(), 0x1b1a_1918);
    assert_eq!((entry.vsia, entry.trtype, entry.csi, entry.opc), (28, 29, 30, 31));
    assert_eq!(entry.csinfo.get(), 0x2726_2524_2322_2120);
    assert_eq!((entry.ttsi.get(), entry.lpver), (0x2928, 63));
    let mut failed = ErrorLogEntry::default();
    failed.status.set(0x4005);
    assert_eq!(failed.status(), Status::INVALID_FIELD.with_more());
}

#[test]
fn smart() {
    let mut smart = SmartLog::read_from_bytes(&numbered::<512>()).unwrap();
    assert_eq!((smart.cw, smart.ctemp.get(), smart.avsp), (0, 0x0201, 3));
    assert_eq!((smart.avspt, smart.pused, smart.egcws), (4, 5, 6));
    let counters = [
        smart.dur,
        smart.duw,
        smart.hrc,
        smart.hwc,
        smart.cbt,
        smart.pwrc,
        smart.poh,
        smart.upl,
        smart.mdie,
        smart.neile,
    ];
    for (index, counter) in (0..).zip(counters) {
        assert_eq!(counter.get(), u128_at(32 + 16 * index));
    }
    assert_eq!((smart.wctt.get(), smart.cctt.get()), (u32_at(192), u32_at(196)));
    assert_eq!((smart.tsen[0].get(), smart.tsen[7].get()), (0xc9c8, 0xd7d6));
    assert_eq!((smart.tmt1tc.get(), smart.tmt2tc.get()), (u32_at(216), u32_at(220)));
    assert_eq!((smart.tttmt1.get(), smart.tttmt2.get()), (u32_at(224), u32_at(228)));
    smart.ctemp.set(310);
    assert_eq!(smart.celsius(), Some(37));
    smart.ctemp.set(0);
    assert_eq!(smart.celsius(), None);
    smart.cw = 0x24;
    assert!(smart.critical_warning().ndr() && smart.critical_warning().pmrro());
}

#[test]
fn firmware_slots() {
    let mut bytes = [0; 512];
    bytes[0] = 0x21;
    bytes[8..16].copy_from_slice(b"1.0     ");
    bytes[56..64].copy_from_slice(b"7\xff\x07     ");
    let log = FirmwareSlotLog::read_from_bytes(&bytes).unwrap();
    assert_eq!(log.active_slot(), 1);
    assert_eq!(format!("{}", log.revision(1).unwrap()), "1.0");
    assert_eq!(format!("{}", log.revision(7).unwrap()), "7??");
    assert!([0, 2, 8, 255].iter().all(|&slot| log.revision(slot).is_none()));
}

#[test]
fn changed_namespaces() {
    let ids = |list: &ChangedNamespaceList| list.iter().collect::<std::vec::Vec<u32>>();
    assert_eq!(ids(&ChangedNamespaceList::from_ids([1, 5, 9])), [1, 5, 9]);
    let full = ChangedNamespaceList::from_ids(1..=1024);
    assert!(!full.overflowed() && full.iter().count() == 1024);
    let over = ChangedNamespaceList::from_ids(1..=1025);
    assert!(over.overflowed() && over.iter().count() == 0);
    assert_eq!(over.nsids[1].get(), 0);
}

#[test]
fn command_effects() {
    let mut log = CommandEffectsLog::new_zeroed();
    log.set_admin(0x80, CommandEffects::new().with_csupp(true).with_ncc(true).with_cse(2));
    log.set_io(0xff, CommandEffects::new().with_csupp(true).with_lbcc(true));
    assert_eq!(log.as_bytes()[512..516], [0x05, 0, 0x02, 0]);
    assert_eq!(log.as_bytes()[2044..2048], [0x03, 0, 0, 0]);
    assert!(log.admin(0x80).ncc() && log.io(0xff).lbcc() && !log.io(0).csupp());
    let all = CommandEffects::from_bits(0xfff8_c000);
    assert_eq!((all.cser(), all.uss(), all.csp(), all.cse()), (3, true, 0xfff, 0));
}

#[test]
fn supported_pages() {
    let mut log = SupportedLogPages::new_zeroed();
    log.set(Lid::SMART, LidSupport::new().with_lsupp(true));
    log.set(Lid(0xff), LidSupport::new().with_ios(true).with_lidsp(0x1234));
    assert_eq!(log.as_bytes()[8..12], [1, 0, 0, 0]);
    assert_eq!(log.as_bytes()[1020..], [2, 0, 0x34, 0x12]);
    assert!(log.support(Lid::SMART).lsupp() && !log.support(Lid(1)).lsupp());
}
