//! Golden bytes of a completion queue entry.

use super::*;
use zerocopy::{FromBytes, IntoBytes};

const BYTES: [u8; 16] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x05, 0x80,
];

#[test]
fn bytes_of_an_entry() {
    let cqe = Cqe {
        dw0: 0x0403_0201,
        dw1: 0x0807_0605,
        sqhd: 0x1211,
        sqid: 0x2221,
        cid: 0x3231,
        status: StatusField::new(Status::INVALID_FIELD.with_dnr(), true),
    };
    assert_eq!(cqe.as_bytes(), BYTES);
    assert_eq!(Cqe::read_from_bytes(&BYTES).unwrap(), cqe);
    assert_eq!(cqe.result(), 0x0807_0605_0403_0201);
    assert!(cqe.phase());
    assert_eq!(cqe.status(), Status::INVALID_FIELD.with_dnr());
}

#[test]
fn words_are_the_bytes() {
    let cqe = Cqe::read_from_bytes(&BYTES).unwrap();
    let [low, high] = cqe.to_words();
    assert_eq!(low.to_le_bytes(), BYTES[..8]);
    assert_eq!(high.to_le_bytes(), BYTES[8..]);
    assert_eq!(Cqe::from_words([low, high]), cqe);
    assert_ne!(high & Cqe::PHASE_BIT, 0);
    let other = Cqe { status: StatusField::new(cqe.status(), false), ..cqe };
    assert_eq!(other.to_words(), [low, high ^ Cqe::PHASE_BIT]);
}

#[test]
fn status_field_keeps_every_bit() {
    let step = if cfg!(miri) { 257 } else { 1 };
    for bits in (0..=u16::MAX).step_by(step) {
        let field = StatusField::from_bits(bits);
        assert_eq!(StatusField::new(field.status(), field.p()).into_bits(), bits);
    }
}
