//! PDUs that break a rule, each answered with the TermReq that names the rule and the place.

use std::sync::Arc;

use doorbell_spec::fabrics::header::Violation;
use doorbell_spec::fabrics::pdu::{Digests, Fes, IcReq, PduType, TermReq};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::nvm;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::End;
use zerocopy::IntoBytes;

use crate::host::{Link, Options, Pdu, attach, target};

const PLAIN: Options = Options {
    digests: (false, false),
    hpda_z: 0,
    maxr2t_z: 0,
    flow_control: true,
    kato: 0,
    h2c: 128 << 10,
    cut: usize::MAX,
};

/// Sends `bytes`, expects to be thrown out for them with this violation, and the header back.
fn expect(link: &mut Link, bytes: &[u8], violation: Violation, what: &str) {
    link.send(bytes);
    let pdus = link.take();
    let [Pdu::Terminated(got, header)] = &pdus[..] else { panic!("{what}: {pdus:?}") };
    assert_eq!(*got, violation, "{what}");
    assert_eq!(header[..], bytes[..header.len()], "{what}");
    assert!(link.connection.is_ended(), "{what}");
    assert_eq!(link.connection.end(), Some(End::Violated(violation)));
}

fn request() -> Vec<u8> {
    IcReq::new(Digests::new(), 0, 0).as_bytes().to_vec()
}

#[test]
fn every_field_of_an_icreq() {
    let target = target(Limits::default());
    let changed = |at: usize, value: u8| {
        let mut bytes = request();
        bytes[at] = value;
        bytes
    };
    for (at, value, violation) in [
        (0, 0x08, Violation::field(0)),
        (0, 0xff, Violation::field(0)),
        (0, 0x01, Violation::field(0)),
        (0, 0x04, Violation::SEQUENCE),
        (0, 0x06, Violation::SEQUENCE),
        (2, 64, Violation::field(2)),
        (2, 0, Violation::field(2)),
        (4, 64, Violation::field(4)),
        (4, 129, Violation::field(4)),
        (5, 1, Violation::field(4)),
        (7, 0x80, Violation::field(4)),
        (8, 1, Violation::field(8)),
        (9, 1, Violation::field(8)),
        (10, 32, Violation::field(10)),
        (10, 255, Violation::field(10)),
    ] {
        let mut link = Link::new(&target, PLAIN);
        expect(&mut link, &changed(at, value), violation, &format!("byte {at} = {value:#x}"));
    }
    // Reserved bytes and bits mean nothing.
    for (at, value) in [(1, 0xff), (3, 0xff), (11, 0xfc), (16, 1), (127, 0xff)] {
        let mut link = Link::new(&target, PLAIN);
        link.send(&changed(at, value));
        assert!(matches!(link.take()[..], [Pdu::Initialized(..)]), "byte {at} = {value:#x}");
    }
}

#[test]
fn a_second_icreq_is_out_of_sequence() {
    let target = target(Limits::default());
    let mut link = Link::open(&target, PLAIN);
    expect(&mut link, &request(), Violation::SEQUENCE, "again");
}

/// A write with its R2T, and the H2CData that would be right.
fn requested(target: &Arc<Target>, options: Options) -> (Link, Link, Vec<u8>, u16) {
    let (admin, mut io) = attach(target, options);
    let sqe = nvm::write(1, 0, 7).with_cid(9).with_sgl(Sgl::transport(4096));
    let capsule = io.capsule(sqe, &[]);
    io.send(&capsule);
    let [Pdu::Request { cid: 9, ttag, offset: 0, len: 4096 }] = io.take()[..] else {
        panic!("an R2T")
    };
    let data = io.h2c(9, ttag, 0, &[0x5a; 4096], true);
    (admin, io, data, ttag)
}

#[test]
fn every_field_of_an_h2cdata() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, Violation); 14] = [
        ("type", |pdu| pdu[0] = 0x0a, Violation::field(0)),
        ("the controller's type", |pdu| pdu[0] = 0x07, Violation::field(0)),
        ("header digest flag", |pdu| pdu[1] |= 1, Violation::field(1)),
        ("data digest flag", |pdu| pdu[1] |= 2, Violation::field(1)),
        ("no LAST at the end", |pdu| pdu[1] = 0, Violation::field(1)),
        ("HLEN", |pdu| pdu[2] = 72, Violation::field(2)),
        ("PDO in the header", |pdu| pdu[3] = 20, Violation::field(3)),
        ("PDO askew", |pdu| pdu[3] = 25, Violation::field(3)),
        (
            "PLEN of no data",
            |pdu| pdu[4..8].copy_from_slice(&24u32.to_le_bytes()),
            Violation::field(4),
        ),
        (
            "too long",
            |pdu| pdu[4..8].copy_from_slice(&(1u32 << 31).to_le_bytes()),
            Violation::LIMIT,
        ),
        ("another command", |pdu| pdu[8] ^= 1, Violation::field(8)),
        ("no such R2T", |pdu| pdu[10] ^= 0x40, Violation::field(10)),
        ("DATAO", |pdu| pdu[13] = 1, Violation::RANGE),
        ("DATAL", |pdu| pdu[17] = 1, Violation::field(16)),
    ];
    for (what, change, violation) in cases {
        let target = target(Limits::default());
        let (_admin, mut io, mut pdu, _) = requested(&target, PLAIN);
        change(&mut pdu);
        expect(&mut io, &pdu, violation, what);
    }
}

#[test]
fn more_than_was_asked_for_and_last_too_early() {
    let target = target(Limits::default());
    let (_admin, mut io, _, ttag) = requested(&target, PLAIN);
    let long = io.h2c(9, ttag, 0, &[1; 8192], true);
    expect(&mut io, &long, Violation::RANGE, "too much");
    let (_admin, mut io, _, ttag) = requested(&target, PLAIN);
    let early = io.h2c(9, ttag, 0, &[1; 512], true);
    expect(&mut io, &early, Violation::field(1), "LAST before the end");
    let (_admin, mut io, data, _) = requested(&target, PLAIN);
    io.send(&data);
    assert!(matches!(io.take()[..], [Pdu::Response(cqe)] if cqe.status().is_success()));
    expect(&mut io, &data, Violation::field(10), "the same again");
    // Before Connect there is no R2T at all.
    let mut link = Link::open(&target, PLAIN);
    let stray = link.h2c(1, 0, 0, &[1; 512], true);
    expect(&mut link, &stray, Violation::field(10), "without a queue");
}

#[test]
fn a_wrong_header_digest_is_sent_back() {
    let options = Options { digests: (true, false), ..PLAIN };
    for flip in [8, 40, 71, 72, 75] {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        let mut capsule = io.capsule(nvm::flush(1).with_cid(3), &[]);
        capsule[flip] ^= 0x10;
        let given = u32::from_le_bytes(capsule[72..76].try_into().expect("4"));
        let violation = Violation { fes: Fes::HEADER_DIGEST, fei: given };
        expect(&mut io, &capsule, violation, &format!("byte {flip}"));
    }
}

#[test]
fn every_field_of_a_capsule() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, Violation); 7] = [
        ("HLEN", |pdu| pdu[2] = 24, Violation::field(2)),
        ("PDO too small", |pdu| pdu[3] = 68, Violation::field(3)),
        ("PDO beyond", |pdu| pdu[3] = 0xff, Violation::field(3)),
        (
            "PLEN below the header",
            |pdu| pdu[4..8].copy_from_slice(&71u32.to_le_bytes()),
            Violation::field(4),
        ),
        (
            "PLEN beyond the capsule",
            |pdu| pdu[4..8].copy_from_slice(&(72 + 8193u32).to_le_bytes()),
            Violation::field(4),
        ),
        ("PLEN", |pdu| pdu[7] = 0xff, Violation::field(4)),
        ("flags", |pdu| pdu[1] = 3, Violation::field(1)),
    ];
    for (what, change, violation) in cases {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, PLAIN);
        let sqe = nvm::write(1, 0, 0).with_cid(1).with_sgl(Sgl::in_capsule(512));
        let mut pdu = io.capsule(sqe, &[0; 512]);
        change(&mut pdu);
        expect(&mut io, &pdu, violation, what);
    }
}

#[test]
fn more_commands_than_the_queue_has_entries() {
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, PLAIN);
    let sqe = |cid| nvm::write(1, 0, 7).with_cid(cid).with_sgl(Sgl::transport(4096));
    for cid in 0..32 {
        let capsule = io.capsule(sqe(cid), &[]);
        io.send(&capsule);
        assert!(matches!(io.take()[..], [Pdu::Request { .. }]));
    }
    // An identifier in use is an error of its command alone.
    let capsule = io.capsule(sqe(3), &[]);
    io.send(&capsule);
    let [Pdu::Response(cqe)] = io.take()[..] else { panic!("a response") };
    assert!(cqe.status().is(doorbell_spec::status::Status::COMMAND_ID_CONFLICT));
    let capsule = io.capsule(sqe(32), &[]);
    expect(&mut io, &capsule, Violation::SEQUENCE, "one too many");
}

#[test]
fn a_hosts_complaint_ends_the_connection_without_an_answer() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, PLAIN);
    let term = TermReq::new(PduType::H2C_TERM_REQ, Violation::field(10), 0);
    io.send(term.as_bytes());
    assert!(io.connection.is_ended());
    assert_eq!(io.take(), []);
    assert_eq!(io.connection.end(), Some(End::Accused(Violation::field(10))));
    // The admin queue goes on; when it goes, so does the controller.
    assert_eq!(admin.property(0x1c, 4), 1);
    admin.send(term.as_bytes());
    assert_eq!(target.usage().controllers, 0);
}
