//! Golden values.

use super::*;
use core::mem::size_of;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[test]
fn dwords() {
    let weights = Arbitration::new().with_ab(7).with_lpw_z(1).with_mpw_z(2).with_hpw_z(3);
    assert_eq!(weights.into_bits(), 0x0302_0107);
    assert_eq!(PowerManagement::new().with_ps(4).with_wh(2).into_bits(), 0x44);
    assert_eq!(LbaRangeType::new().with_num_z(63).into_bits(), 63);
    let threshold = TemperatureThreshold::new().with_tmpth(350).with_tmpsel(15).with_thsel(1);
    assert_eq!(threshold.with_tmpthh(7).into_bits(), 0x01df_015e);
    assert_eq!(ErrorRecovery::new().with_tler(9).with_dulbe(true).into_bits(), 0x0001_0009);
    assert_eq!(VolatileWriteCache::new().with_wce(true).into_bits(), 1);
    assert_eq!(NumberOfQueues::new().with_nsq_z(3).with_ncq_z(7).into_bits(), 0x0007_0003);
    assert_eq!(InterruptCoalescing::new().with_thr_z(4).with_time(10).into_bits(), 0x0a04);
    assert_eq!(InterruptVectorConfig::new().with_iv(5).with_cd(true).into_bits(), 0x0001_0005);
    assert_eq!(WriteAtomicity::new().with_dn(true).into_bits(), 1);
    assert_eq!(AutonomousPowerStates::new().with_apste(true).into_bits(), 1);
    assert_eq!(HostMemoryBuffer::new().with_ehm(true).with_mr(true).into_bits(), 3);
    assert_eq!(ThermalManagement::new().with_tmt1(360).with_tmt2(370).into_bits(), 0x0168_0172);
    assert_eq!(HostIdentifier::new().with_exhid(true).into_bits(), 1);
    assert_eq!(WriteProtection::new().with_wps(3).into_bits(), 3);
    let all = Capabilities::from_bits(0b101);
    assert!(all.saveable() && !all.namespace_specific() && all.changeable());
}

#[test]
fn events_asked_for() {
    let config = AsyncEventConfig::from_bits(0x8000_03ff);
    assert!(config.nan() && config.fan() && config.dlpcn() && !config.tln());
    assert_eq!(config.smart(), 0xff);
    assert_eq!(AsyncEventConfig::new().with_anacn(true).into_bits(), 1 << 11);
    assert_eq!(AsyncEventConfig::new().with_nnsshdn(true).into_bits(), 1 << 15);
    assert_eq!(AsyncEventConfig::new().with_ansan(true).into_bits(), 1 << 19);
    assert_eq!(AsyncEventConfig::new().with_zdcn(true).into_bits(), 1 << 27);
}

#[test]
fn data() {
    let time = Timestamp::from_millis(0xffff_0605_0403_0201);
    assert_eq!(time.as_bytes(), [1, 2, 3, 4, 5, 6, 0, 0]);
    assert_eq!(time.millis(), 0x0605_0403_0201);
    let entry = AutonomousPowerState::new().with_itps(3).with_itpt(0x01_0203);
    assert_eq!(entry.as_bytes(), [0x18, 3, 2, 1, 0, 0, 0, 0]);
    assert_eq!(size_of::<AutonomousPowerState>(), 8);
    let memory = HostMemoryDescriptor::new(0x0807_0605_0403_0201, 0x0014_1312);
    assert_eq!(memory.as_bytes()[..12], [1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0x13, 0x14, 0]);
    let mut behavior = HostBehavior::new_zeroed();
    behavior.acre = 1;
    behavior.lbafee = 1;
    behavior.cdfe.set(0xc);
    assert_eq!(behavior.as_bytes()[..8], [1, 0, 1, 0, 0x0c, 0, 0, 0]);
    let mut bytes = [0; 64];
    (bytes[0], bytes[16], bytes[24], bytes[32]) = (2, 3, 4, 5);
    let range = LbaRange::read_from_bytes(&bytes).unwrap();
    assert_eq!((range.kind, range.slba.get(), range.nlb_z.get(), range.guid[0]), (2, 3, 4, 5));
}
