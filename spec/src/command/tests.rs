//! Golden bytes of a submission queue entry.

use super::*;
use std::vec::Vec;
use zerocopy::IntoBytes;

fn every_field() -> Sqe {
    Sqe {
        cdw0: Cdw0::new().with_opc(0x02).with_fuse(1).with_psdt(2).with_cid(0xbeef),
        nsid: 0x0403_0201,
        cdw2: 0x1413_1211,
        cdw3: 0x1817_1615,
        mptr: 0x2827_2625_2423_2221,
        prp1: 0x3837_3635_3433_3231,
        prp2: 0x4847_4645_4443_4241,
        cdw10: 0x5453_5251,
        cdw11: 0x5857_5655,
        cdw12: 0x6463_6261,
        cdw13: 0x6867_6665,
        cdw14: 0x7473_7271,
        cdw15: 0x7877_7675,
    }
}

#[test]
fn bytes_of_an_entry() {
    let mut expected: Vec<u8> = [0x02, 0x81, 0xef, 0xbe, 1, 2, 3, 4].to_vec();
    for row in 1..8u8 {
        expected.extend((1..=8).map(|byte| row << 4 | byte));
    }
    assert_eq!(every_field().as_bytes(), expected);
}

#[test]
fn words_are_the_bytes() {
    let sqe = every_field();
    let bytes: Vec<u8> = sqe.to_words().iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(bytes, sqe.as_bytes());
    assert_eq!(Sqe::from_words(sqe.to_words()), sqe);
    assert_eq!(Sqe::default().to_words(), [0; 8]);
}

#[test]
fn builders_change_only_their_field() {
    let sqe = Sqe::new(0x05).with_cid(7).with_nsid(3).with_prp(0x1000, 0x2000);
    assert_eq!(sqe.to_words(), [0x0000_0003_0007_0005, 0, 0, 0x1000, 0x2000, 0, 0, 0]);
    assert_eq!((sqe.opcode(), sqe.cid()), (5, 7));
    assert_eq!(every_field().with_cid(1).cdw0.fuse(), 1);
    assert_eq!(every_field().cdw10_11(), 0x5857_5655_5453_5251);
}

#[test]
fn directions() {
    assert_eq!(Direction::of_opcode(0x00), Direction::None);
    assert_eq!(Direction::of_opcode(0x01), Direction::ToController);
    assert_eq!(Direction::of_opcode(0x06), Direction::FromController);
    assert_eq!(Direction::of_opcode(0x7f), Direction::Bidirectional);
    assert_eq!(Sqe::new(0x02).direction(), Direction::FromController);
}
