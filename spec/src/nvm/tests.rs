//! Golden words of each builder.

use super::*;
use crate::command::Direction;
use zerocopy::IntoBytes;

const SLBA: u64 = 0x0102_0304_0506_0708;

/// An extent's words: opcode and namespace, then LBA, then NLB.
fn extent_words(opcode: u64) -> [u64; 8] {
    [9 << 32 | opcode, 0, 0, 0, 0, SLBA, 0x00ff, 0]
}

#[test]
fn extents() {
    assert_eq!(read(9, SLBA, 255).to_words(), extent_words(0x02));
    assert_eq!(write(9, SLBA, 255).to_words(), extent_words(0x01));
    assert_eq!(compare(9, SLBA, 255).to_words(), extent_words(0x05));
    assert_eq!(verify(9, SLBA, 255).to_words(), extent_words(0x0c));
    assert_eq!(write_zeroes(9, SLBA, 255).to_words(), extent_words(0x08));
    assert_eq!(write_uncorrectable(9, SLBA, 255).to_words(), extent_words(0x04));
    let whole = read(9, SLBA, u16::MAX);
    assert_eq!((whole.slba(), u32::from(whole.nlb_z()) + 1), (SLBA, MAX_BLOCKS));
    let part = write(9, 0, 7).with_fua().with_slba(SLBA).with_nlb_z(0xabcd);
    assert_eq!((part.cdw10_11(), part.cdw12), (SLBA, 0x4000_abcd));
}

#[test]
fn flush_and_dsm() {
    assert_eq!(flush(7).to_words(), [7 << 32, 0, 0, 0, 0, 0, 0, 0]);
    let trim = dsm(7, 255, DsmAttributes::DEALLOCATE);
    assert_eq!(trim.to_words(), [7 << 32 | 0x09, 0, 0, 0, 0, 4 << 32 | 255, 0, 0]);
    assert!(DsmAttributes::DEALLOCATE.ad());
    assert_eq!(DsmAttributes::new().with_idr(true).with_idw(true).into_bits(), 3);
}

#[test]
fn range_of_a_dsm() {
    let range = DsmRange::new(SLBA, 0x1122_3344);
    let expected = [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 8, 7, 6, 5, 4, 3, 2, 1];
    assert_eq!(range.as_bytes(), expected);
}

#[test]
fn options() {
    assert_eq!(write(1, 0, 7).with_fua().cdw12, 0x4000_0007);
    assert_eq!(read(1, 0, 7).with_limited_retry().cdw12, 0x8000_0007);
    assert_eq!(write_zeroes(1, 0, 7).with_deallocate().cdw12, 0x0200_0007);
    assert_eq!(compare(1, 0, 0).with_fuse(Cdw0::FUSE_FIRST).cdw0.into_bits(), 0x0105);
    assert_eq!(write(1, 0, 0).with_fuse(3).with_fuse(2).cdw0.into_bits(), 0x0201);
    let cdw12 = read(1, 0, 7).with_fua().io_cdw12();
    assert!(cdw12.fua() && !cdw12.lr());
    assert_eq!(cdw12.nlb_z(), 7);
    let all = IoCdw12::new().with_cetype(0xf).with_dtype(2).with_stc(true).with_prchk(5);
    assert_eq!(all.with_pract(true).into_bits(), 0x352f_0000);
    assert_eq!(IoCdw12::new().with_nsz(true).into_bits(), 1 << 23);
}

#[test]
fn directions_and_names() {
    assert_eq!(flush(1).direction(), Direction::None);
    assert_eq!(write_zeroes(1, 0, 0).direction(), Direction::None);
    assert_eq!(dsm(1, 0, DsmAttributes::DEALLOCATE).direction(), Direction::ToController);
    assert_eq!(compare(1, 0, 0).direction(), Direction::ToController);
    assert_eq!(read(1, 0, 0).direction(), Direction::FromController);
    assert_eq!(NvmOpcode::WRITE_ZEROES.name(), "Write Zeroes");
    assert!(NvmOpcode(0x80).is_vendor());
}
