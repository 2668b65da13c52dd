//! Bits of the status, and the tables against the lists of codes that the documents have.

use super::Status;
use std::collections::BTreeSet;
use std::format;

#[test]
fn bits() {
    let status = Status::from_bits(0xffff);
    assert_eq!(status.into_bits(), 0x7fff);
    assert_eq!((status.sc(), status.sct(), status.crd()), (0xff, 7, 3));
    assert!(status.more() && status.dnr());
    assert_eq!(status.code(), 0x7ff);
    assert_eq!(Status::INVALID_FIELD.with_dnr().into_bits(), 0x4002);
    assert_eq!(Status::INVALID_FIELD.with_more().with_crd(2).into_bits(), 0x3002);
    assert_eq!(Status::INVALID_FIELD.with_crd(3).with_crd(1).crd(), 1);
    assert_eq!(Status::new(2, 0x81), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(Status::INVALID_QUEUE_SIZE.code(), 0x102);
    assert!(Status::SUCCESS.is_success() && Status::SUCCESS.with_dnr().is_success());
    assert!(!Status::COMPLETION_QUEUE_INVALID.is_success());
    assert!(Status::INVALID_FIELD.with_dnr().is(Status::INVALID_FIELD));
    assert_ne!(Status::INVALID_FIELD.with_dnr(), Status::INVALID_FIELD);
}

#[test]
fn shown() {
    assert_eq!(format!("{}", Status::INVALID_FIELD), "Invalid Field in Command (0/02)");
    assert_eq!(format!("{}", Status::COMPARE_FAILURE.with_dnr()), "Compare Failure (2/85)");
    assert_eq!(format!("{}", Status::new(7, 0x12)), "Vendor Specific Status (7/12)");
    let status = Status::new(1, 0x0c).with_dnr().with_crd(1);
    assert_eq!(format!("{status:?}"), "Status(1/0c, crd 1, dnr)");
    assert_eq!(Status::new(1, 0x84).fabrics_name(), "Connect Invalid Host");
    assert_eq!(Status::new(0, 0x02).fabrics_name(), "Invalid Field in Command");
    assert_eq!(Status::new(1, 0x85).name(), "Incompatible Namespace or Format");
    assert_eq!(Status::new(1, 0x77).name(), "Directive Specific Status");
}

/// Every code that the documents define, by type.
fn documented() -> impl Iterator<Item = Status> {
    let codes = |sct, ranges: &'static [(u8, u8)]| {
        ranges.iter().flat_map(move |&(from, to)| (from..=to).map(move |sc| Status::new(sct, sc)))
    };
    codes(0, &[(0x00, 0x16), (0x18, 0x2c), (0x80, 0x89)])
        .chain(codes(1, &[(0x00, 0x03), (0x05, 0x16), (0x18, 0x41), (0x80, 0x9c), (0xb6, 0xbf)]))
        .chain(codes(2, &[(0x80, 0x88)]))
        .chain(codes(3, &[(0x00, 0x03), (0x60, 0x60), (0x70, 0x71)]))
}

#[test]
fn every_code_has_a_name_and_a_meaning() {
    let known: BTreeSet<u16> = documented().map(|status| status.code()).collect();
    let mut names = BTreeSet::new();
    let step = if cfg!(miri) { 3 } else { 1 };
    for code in (0..0x800).step_by(step) {
        let status = Status::from_bits(code);
        assert_eq!(status.text().is_some(), known.contains(&code), "{status:?}");
        if known.contains(&code) {
            let text = status.text().unwrap();
            assert!(names.insert(text.name), "{} is there twice", text.name);
        }
        assert!(!status.name().is_empty() && status.name().is_ascii());
        assert!(status.meaning().ends_with('.') && status.meaning().len() <= 100, "{status:?}");
        assert!(status.fabrics_meaning().ends_with('.'));
    }
    let fabrics: BTreeSet<u8> =
        (0..=255).filter(|&sc| Status::new(1, sc).fabrics_text().is_some()).collect();
    assert_eq!(fabrics, [0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x90, 0x91].into());
}
