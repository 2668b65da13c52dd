//! Golden values, and doorbells far up.

use super::*;
use std::format;

/// CAP as a controller with a doorbell stride of 8 bytes has it.
#[test]
fn cap_of_a_real_controller() {
    let cap = Cap::from_bits(0x0040_0021_0f01_07ff);
    assert_eq!(cap.mqes_z(), 2047);
    assert!(cap.cqr());
    assert_eq!(cap.to(), 15);
    assert_eq!(cap.dstrd(), 1);
    assert_eq!((cap.mpsmin(), cap.mpsmax()), (0, 4));
    assert!(!cap.crwms() && !cap.crims());
}

#[test]
fn bits_of_cap() {
    let bits = |cap: Cap| cap.into_bits();
    assert_eq!(bits(Cap::new().with_mqes_z(0xffff)), 0xffff);
    assert_eq!(bits(Cap::new().with_cqr(true)), 1 << 16);
    assert_eq!(bits(Cap::new().with_ams(3)), 3 << 17);
    assert_eq!(bits(Cap::new().with_to(0xff)), 0xff << 24);
    assert_eq!(bits(Cap::new().with_dstrd(15)), 15 << 32);
    assert_eq!(bits(Cap::new().with_nssrs(true)), 1 << 36);
    assert_eq!(bits(Cap::new().with_css(Cap::CSS_NVM)), 1 << 37);
    assert_eq!(bits(Cap::new().with_css(Cap::CSS_IOCS)), 1 << 43);
    assert_eq!(bits(Cap::new().with_css(Cap::CSS_NONE)), 1 << 44);
    assert_eq!(bits(Cap::new().with_bps(true)), 1 << 45);
    assert_eq!(bits(Cap::new().with_cps(3)), 3 << 46);
    assert_eq!(bits(Cap::new().with_mpsmin(15)), 15 << 48);
    assert_eq!(bits(Cap::new().with_mpsmax(15)), 15 << 52);
    assert_eq!(bits(Cap::new().with_pmrs(true)), 1 << 56);
    assert_eq!(bits(Cap::new().with_cmbs(true)), 1 << 57);
    assert_eq!(bits(Cap::new().with_nsss(true)), 1 << 58);
    assert_eq!(bits(Cap::new().with_crms(3)), 3 << 59);
    assert_eq!(bits(Cap::new().with_nsses(true)), 1 << 61);
    let ready = Cap::new().with_crms(2);
    assert!(ready.crims() && !ready.crwms());
}

/// What bring-up writes: EN, 4 KiB pages, entries of 64 and 16 bytes.
#[test]
fn cc_of_bring_up() {
    let cc = Cc::new().with_en(true).with_iosqes(Cc::IOSQES_64).with_iocqes(Cc::IOCQES_16);
    assert_eq!(cc.into_bits(), 0x0046_0001);
    assert_eq!(Cc::new().with_css(Cc::CSS_ALL).into_bits(), 0x60);
    assert_eq!(Cc::new().with_mps(15).into_bits(), 0x780);
    assert_eq!(Cc::new().with_ams(7).into_bits(), 0x3800);
    assert_eq!(Cc::new().with_shn(Cc::SHN_NORMAL).into_bits(), 0x4000);
    assert_eq!(Cc::new().with_crime(true).into_bits(), 1 << 24);
}

#[test]
fn bits_of_csts_aqa_and_crto() {
    assert!(Csts::from_bits(1).rdy() && Csts::from_bits(2).cfs());
    assert_eq!(Csts::from_bits(0x9).shst(), Csts::SHST_COMPLETE);
    let high = Csts::from_bits(0x70);
    assert!(high.nssro() && high.pp() && high.st());
    assert!(Csts::ABSENT.is_absent() && !Csts::from_bits(1).is_absent());
    assert_eq!(Aqa::new().with_asqs_z(31).with_acqs_z(4095).into_bits(), 0x0fff_001f);
    let crto = Crto::from_bits(0x0014_000f);
    assert_eq!((crto.crwmt(), crto.crimt()), (15, 20));
}

#[test]
fn versions() {
    let vs = Vs::from_bits(0x0001_0201);
    assert_eq!((vs.mjr(), vs.mnr(), vs.ter()), (1, 2, 1));
    assert_eq!(format!("{vs} {} {}", Vs::V1_4, Vs::V2_1), "1.2.1 1.4 2.1");
    assert!(vs > Vs::V1_2 && vs < Vs::V1_3);
}

#[test]
fn memory_buffers() {
    let loc = CmbLoc::from_bits(0xffff_f105);
    assert_eq!((loc.bir(), loc.cqda(), loc.ofst()), (5, true, 0xfffff));
    let size = CmbSz::from_bits(0x0010_021f);
    assert!(size.sqs() && size.cqs() && size.lists() && size.rds() && size.wds());
    assert_eq!((size.szu(), size.sz(), size.unit()), (2, 0x100, Some(1 << 20)));
    assert_eq!(CmbSz::new().with_szu(7).unit(), None);
    assert_eq!(CmbMsc::from_bits(0x1234_5003).cba(), 0x12345);
    assert_eq!(BpInfo::from_bits(0x8200_7fff).brs(), 2);
    let pmr = PmrCap::from_bits(0x01ab_1d58);
    assert!(pmr.rds() && pmr.wds() && pmr.cmss());
    assert_eq!((pmr.bir(), pmr.pmrtu(), pmr.pmrwbm(), pmr.pmrto()), (2, 1, 7, 0xab));
}

#[test]
fn doorbells() {
    assert_eq!(sq_tail_doorbell(0, 0), 0x1000);
    assert_eq!(cq_head_doorbell(0, 0), 0x1004);
    assert_eq!(sq_tail_doorbell(1, 0), 0x1008);
    assert_eq!(cq_head_doorbell(1, 1), 0x1018);
    assert_eq!(sq_tail_doorbell(65535, 15), 0x1000 + 131_070 * 131_072);
    assert_eq!(bar_size(1, 0), 0x1010);
    assert_eq!(bar_size(65535, 15), 0x1000 + 131_072 * 131_072);
    assert_eq!(NSSR_MAGIC.to_be_bytes(), *b"NVMe");
    assert_eq!(NSSD_NORMAL.to_be_bytes(), *b"Nrml");
    assert_eq!(NSSD_ABRUPT.to_be_bytes(), *b"Abpt");
}
