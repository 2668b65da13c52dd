//! Golden bytes of Linux 6.1's host, and every header field off by one thing.

use super::command::{
    ConnectCdw10, ConnectCdw11, Fctype, Property, connect, connect_offset, disconnect,
    property_get, property_set, property_size,
};
use super::connect::{ConnectData, ConnectInvalid, ConnectResult, data_offset};
use super::discovery::{AddressFamily, DiscoveryEntry, Eflags, SubsystemType, TransportType, Treq};
use super::header::{Framing, Layout, Rules, Side, Violation};
use super::pdu::{
    C2HData, CapsuleCommand, CapsuleResponse, CommonHeader, Digests, Fes, H2CData, IcReq, IcResp,
    PduFlags, PduType, R2T, TermReq, offset,
};
use super::sgl::{Sgl, SglId};
use super::{NqnError, check_nqn, digest, nqn, nqn_field};
use crate::command::{Cdw0, Sqe};
use crate::completion::{Cqe, StatusField};
use crate::register;
use crate::status::Status;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const HOST: Rules = Rules {
    sender: Side::Host,
    initialized: true,
    framing: Framing { header_digest: false, data_digest: false, alignment: 4 },
    max_in_capsule: 8192,
    max_data: 131_072,
};

fn digests(header: bool, data: bool) -> Framing {
    Framing { header_digest: header, data_digest: data, alignment: 4 }
}

#[test]
fn an_icreq_of_linux_byte_for_byte() {
    let request = IcReq::new(Digests::new(), 0, 0);
    let mut golden = [0; 128];
    golden[..8].copy_from_slice(&[0x00, 0x00, 0x80, 0x00, 0x80, 0x00, 0x00, 0x00]);
    assert_eq!(request.as_bytes(), golden);
    let rules = Rules { initialized: false, framing: Framing::BARE, ..HOST };
    let layout = rules.check(&request.common).expect("valid");
    assert_eq!((layout.header, layout.data, layout.total), (128, 0, 128));
    assert_eq!(request.check(), Ok(()));
}

#[test]
fn a_connect_capsule_of_linux_byte_for_byte() {
    let sqe = connect(0, ConnectCdw11::new().with_sqsize_z(31), 5000)
        .with_cid(0x1234)
        .with_sgl(Sgl::in_capsule(ConnectData::SIZE as u32));
    let common = HOST.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), 1024);
    let capsule = CapsuleCommand { common, sqe };
    let mut golden = [0; 72];
    golden[..8].copy_from_slice(&[0x04, 0x00, 0x48, 0x48, 0x48, 0x04, 0x00, 0x00]);
    for (at, byte) in [
        (0, 0x7f),
        (1, 0x40),
        (2, 0x34),
        (3, 0x12),
        (4, 0x01),
        (33, 0x04),
        (39, 0x01),
        (44, 0x1f),
        (48, 0x88),
        (49, 0x13),
    ] {
        golden[8 + at] = byte;
    }
    assert_eq!(capsule.as_bytes(), golden);
    assert_eq!(sqe.fctype(), Fctype::CONNECT);
    assert!(sqe.is_fabrics());
    assert_eq!(sqe.sgl(), Sgl::in_capsule(1024));
    assert_eq!(sqe.cdw0.psdt(), Cdw0::PSDT_SGL);
    let layout = HOST.check(&common).expect("valid");
    assert_eq!((layout.data_at, layout.data, layout.total), (72, 1024, 1096));
}

#[test]
fn the_digest_is_crc32c() {
    // The check value of the polynomial, and the empty one.
    assert_eq!(digest::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(digest::crc32c(b""), 0);
    assert_eq!(digest::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(digest::crc32c(&[0xff; 32]), 0x62a8_ab43);
    let bytes: Vec<u8> = (0..=255).collect();
    let whole = bitwise(&bytes);
    for at in (0..bytes.len()).step_by(if cfg!(miri) { 51 } else { 1 }) {
        let (head, tail) = bytes.split_at(at);
        assert_eq!(digest::append(digest::crc32c(head), tail), whole, "split at {at}");
    }
}

/// The definition, bit by bit: reflected 82F63B78h, all ones before and after.
fn bitwise(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 0 { 0 } else { 0x82f6_3b78 };
        }
    }
    !crc
}

#[test]
fn digests_and_alignment_move_the_data() {
    for (framing, data_at, total) in [
        (digests(false, false), 72, 72 + 512),
        (digests(true, false), 76, 76 + 512),
        (digests(false, true), 72, 72 + 512 + 4),
        (digests(true, true), 76, 76 + 512 + 4),
        (Framing { alignment: 128, ..digests(true, true) }, 128, 128 + 512 + 4),
        (Framing { alignment: 8, ..digests(true, false) }, 80, 80 + 512),
    ] {
        let header = framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), 512);
        let layout = Rules { framing, ..HOST }.check(&header).expect("valid");
        assert_eq!((layout.data_at, layout.data, layout.total), (data_at, 512, total));
        assert_eq!(layout.head(), 72 + if framing.header_digest { 4 } else { 0 });
        // Without data there is neither a data digest nor padding.
        let header = framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), 0);
        assert!(!header.flags.ddgst());
        let layout = Rules { framing, ..HOST }.check(&header).expect("valid");
        assert_eq!((layout.data, layout.total), (0, layout.head()));
    }
}

#[test]
fn every_field_of_a_common_header_is_checked() {
    let framing = Framing { alignment: 8, ..digests(true, true) };
    let rules = Rules { framing, ..HOST };
    let good = framing.header(PduType::H2C_DATA, PduFlags::new().with_last(true), 4096);
    assert!(rules.check(&good).is_ok());
    let plen = good.plen.get();
    let with = |change: &dyn Fn(&mut CommonHeader)| {
        let mut header = good;
        change(&mut header);
        rules.check(&header)
    };
    let field = |at| Err(Violation::field(at));
    assert_eq!(with(&|h| h.pdu_type = PduType(0x08)), field(offset::PDU_TYPE));
    assert_eq!(with(&|h| h.pdu_type = PduType(0xff)), field(offset::PDU_TYPE));
    assert_eq!(with(&|h| h.pdu_type = PduType::C2H_DATA), field(offset::PDU_TYPE));
    assert_eq!(with(&|h| h.pdu_type = PduType::IC_REQ), Err(Violation::SEQUENCE));
    assert_eq!(with(&|h| h.flags = h.flags.with_hdgst(false)), field(offset::FLAGS));
    assert_eq!(with(&|h| h.flags = h.flags.with_ddgst(false)), field(offset::FLAGS));
    assert_eq!(with(&|h| h.hlen = 25), field(offset::HLEN));
    assert_eq!(with(&|h| h.hlen = 0), field(offset::HLEN));
    assert_eq!(with(&|h| h.pdo = 24), field(offset::PDO));
    assert_eq!(with(&|h| h.pdo = 0), field(offset::PDO));
    assert_eq!(with(&|h| h.pdo += 4), field(offset::PDO));
    for wrong in [0, 7, 24, 28, 36] {
        assert_eq!(with(&|h| h.plen = U32::new(wrong)), field(offset::PLEN), "{wrong}");
    }
    assert_eq!(with(&|h| h.plen = U32::new(u32::MAX)), Err(Violation::LIMIT));
    assert_eq!(with(&|h| h.plen = U32::new(plen + 131_072)), Err(Violation::LIMIT));
    // Reserved bits and fields mean nothing.
    assert!(with(&|h| h.flags = PduFlags::from_bits(h.flags.into_bits() | 0xf0)).is_ok());
}

#[test]
fn in_capsule_data_has_a_limit() {
    let header = |data| HOST.framing.header(PduType::CAPSULE_COMMAND, PduFlags::new(), data);
    assert!(HOST.check(&header(8192)).is_ok());
    assert_eq!(HOST.check(&header(8193)), Err(Violation::field(offset::PLEN)));
    let none = Rules { max_in_capsule: 0, ..HOST };
    assert!(none.check(&header(0)).is_ok());
    assert_eq!(none.check(&header(4)), Err(Violation::field(offset::PLEN)));
}

#[test]
fn every_type_knows_its_length_and_its_sender() {
    let sizes = [
        (PduType::IC_REQ, size_of::<IcReq>(), Side::Host),
        (PduType::IC_RESP, size_of::<IcResp>(), Side::Controller),
        (PduType::H2C_TERM_REQ, size_of::<TermReq>(), Side::Host),
        (PduType::C2H_TERM_REQ, size_of::<TermReq>(), Side::Controller),
        (PduType::CAPSULE_COMMAND, size_of::<CapsuleCommand>(), Side::Host),
        (PduType::CAPSULE_RESPONSE, size_of::<CapsuleResponse>(), Side::Controller),
        (PduType::H2C_DATA, size_of::<H2CData>(), Side::Host),
        (PduType::C2H_DATA, size_of::<C2HData>(), Side::Controller),
        (PduType::R2T, size_of::<R2T>(), Side::Controller),
    ];
    let known = (0..=u8::MAX).filter(|value| PduType(*value).hlen().is_some()).count();
    assert_eq!(known, sizes.len());
    for (pdu_type, size, sender) in sizes {
        assert_eq!(pdu_type.hlen().map(usize::from), Some(size), "{pdu_type}");
        assert_eq!(pdu_type.sender(), Some(sender), "{pdu_type}");
        let initialized = !matches!(pdu_type, PduType::IC_REQ | PduType::IC_RESP);
        let rules = Rules { sender, initialized, ..HOST };
        let data = if matches!(pdu_type, PduType::H2C_DATA | PduType::C2H_DATA) { 4 } else { 0 };
        let header = HOST.framing.header(pdu_type, PduFlags::new(), data);
        assert_eq!(rules.check(&header).map(|l| l.data), Ok(data), "{pdu_type}");
        // A PDU of fixed length has that length; one that moves data moves some.
        let other = CommonHeader { plen: U32::new(header.plen.get() + 1000), ..header };
        let bare = CommonHeader::bare(pdu_type);
        match pdu_type {
            PduType::H2C_DATA | PduType::C2H_DATA => {
                assert_eq!(rules.check(&bare), Err(Violation::field(offset::PLEN)));
            }
            PduType::CAPSULE_COMMAND => {}
            _ => assert_eq!(rules.check(&other), Err(Violation::field(offset::PLEN))),
        }
    }
}

#[test]
fn termination_is_heard_in_every_state() {
    for initialized in [false, true] {
        for framing in [digests(false, false), digests(true, true)] {
            let rules = Rules { initialized, framing, ..HOST };
            let term = TermReq::new(PduType::H2C_TERM_REQ, Violation::field(10), 24);
            let layout = rules.check(&term.common).expect("valid");
            assert_eq!((layout.data_at, layout.data, layout.total), (24, 24, 48));
            assert_eq!(term.violation(), Violation { fes: Fes::INVALID_HEADER_FIELD, fei: 10 });
        }
    }
    let long = TermReq::new(PduType::C2H_TERM_REQ, Violation::SEQUENCE, 4096);
    assert_eq!(long.common.plen.get(), 152);
    assert_eq!(
        TermReq::new(PduType::C2H_TERM_REQ, Violation::field(0x0102), 0).as_bytes()[..14],
        [3, 0, 24, 0, 24, 0, 0, 0, 1, 0, 2, 1, 0, 0]
    );
}

#[test]
fn success_needs_last() {
    let rules = Rules { sender: Side::Controller, ..HOST };
    let header = |flags| HOST.framing.header(PduType::C2H_DATA, flags, 512);
    assert!(rules.check(&header(PduFlags::new().with_last(true).with_success(true))).is_ok());
    let alone = header(PduFlags::new().with_success(true));
    assert_eq!(rules.check(&alone), Err(Violation::field(offset::FLAGS)));
}

#[test]
fn initialization_has_its_own_fields() {
    let mut request = IcReq::new(Digests::new().with_header(true), 31, 15);
    assert_eq!(request.as_bytes()[8..16], [0, 0, 31, 1, 15, 0, 0, 0]);
    assert_eq!(request.check(), Ok(()));
    request.hpda_z = 32;
    assert_eq!(request.check(), Err(Violation::field(offset::PDA)));
    request.pfv.set(1);
    assert_eq!(request.check(), Err(Violation::field(offset::PFV)));
    let response = |max| IcResp::new(Digests::new().with_data(true), 0, max);
    assert_eq!(response(131_072).as_bytes()[8..16], [0, 0, 0, 2, 0, 0, 2, 0]);
    assert_eq!(response(4096).check(), Ok(()));
    for wrong in [0, 4092, 4098] {
        assert_eq!(response(wrong).check(), Err(Violation::field(offset::MAX)), "{wrong}");
    }
}

#[test]
fn data_pdus_byte_for_byte() {
    let last = PduFlags::new().with_last(true);
    let header = |kind, flags, data| digests(false, false).header(kind, flags, data);
    let out = H2CData::new(header(PduType::H2C_DATA, last, 512), 0x0102, 0x0304, 0x1000, 512);
    assert_eq!(
        out.as_bytes(),
        [6, 4, 24, 24, 0x18, 2, 0, 0, 2, 1, 4, 3, 0, 0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    );
    let flags = last.with_success(true);
    let back = C2HData::new(header(PduType::C2H_DATA, flags, 512), 0x0102, 0x1000, 512);
    assert_eq!(
        back.as_bytes(),
        [7, 12, 24, 24, 0x18, 2, 0, 0, 2, 1, 0, 0, 0, 0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    );
    let r2t = R2T::new(header(PduType::R2T, PduFlags::new(), 0), 0x0102, 0x0304, 0x1000, 0x20);
    assert_eq!(
        r2t.as_bytes(),
        [9, 0, 24, 0, 24, 0, 0, 0, 2, 1, 4, 3, 0, 0x10, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]
    );
    let cqe =
        Cqe { cid: 7, status: StatusField::new(Status::INVALID_FIELD, false), ..Cqe::default() };
    let response = CapsuleResponse { common: CommonHeader::bare(PduType::CAPSULE_RESPONSE), cqe };
    assert_eq!(
        response.as_bytes(),
        [5, 0, 24, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 4, 0]
    );
}

#[test]
fn descriptors_take_the_place_of_prps() {
    let sqe = Sqe::new(2).with_cid(9).with_sgl(Sgl::transport(0x0102_0304));
    assert_eq!(sqe.as_bytes()[24..40], [0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0x5a]);
    assert_eq!((sqe.as_bytes()[1], sqe.cid()), (0x40, 9));
    let (back, _) = Sgl::read_from_prefix(&sqe.as_bytes()[24..]).expect("16 bytes");
    assert_eq!((back, back.id), (sqe.sgl(), SglId::TRANSPORT));
    let mut offset = Sgl::in_capsule(64);
    offset.address = 512;
    assert_eq!(Sqe::new(1).with_sgl(offset).sgl(), offset);
}

#[test]
fn properties_have_their_places() {
    let get = property_get(register::offset::CAP as u32, 8);
    assert_eq!(get.as_bytes()[40..48], [1, 0, 0, 0, 0, 0, 0, 0]);
    let set = property_set(register::offset::CC as u32, 4, 0x0046_0001);
    assert_eq!(set.as_bytes()[40..56], [0, 0, 0, 0, 0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]);
    assert_eq!((get.fctype(), set.fctype()), (Fctype::PROPERTY_GET, Fctype::PROPERTY_SET));
    assert_eq!(Property::of(&set), Property { offset: 0x14, size: Some(4), value: 0x0046_0001 });
    assert_eq!(Property::of(&Sqe { cdw10: 2, ..get }).size, None);
    assert_eq!(disconnect().as_bytes()[4], 8);
    assert_eq!(property_size(register::offset::CAP), Some(8));
    assert_eq!(property_size(register::offset::CSTS), Some(4));
    assert_eq!(property_size(register::offset::ASQ), None);
    assert_eq!(property_size(register::offset::CAP + 4), None);
}

#[test]
fn connect_data_and_results() {
    let data = ConnectData::new([7; 16], 0xffff, "nqn.2014-08.org:a", "nqn.2014-08.org:b");
    let bytes = data.as_bytes();
    assert_eq!((bytes[15], &bytes[16..18], bytes[18]), (7, &[0xff, 0xff][..], 0));
    assert_eq!(bytes[256..260], *b"nqn.");
    assert_eq!(bytes[512 + 16], b'b');
    assert_eq!((data.subnqn(), data.hostnqn()), (Ok("nqn.2014-08.org:a"), Ok("nqn.2014-08.org:b")));
    assert_eq!(ConnectInvalid::data(data_offset::SUBNQN).into_bits(), 0x0001_0100);
    assert_eq!(ConnectInvalid::data(data_offset::HOSTNQN).into_bits(), 0x0001_0200);
    assert_eq!(ConnectInvalid::data(data_offset::CNTLID).into_bits(), 0x0001_0010);
    assert_eq!(ConnectInvalid::command(connect_offset::SQSIZE).into_bits(), 0x2c);
    assert_eq!(ConnectInvalid::command(connect_offset::QID).into_bits(), 0x2a);
    assert_eq!(ConnectInvalid::command(connect_offset::QID).parameter(), "QID");
    assert_eq!(ConnectInvalid::from_bits(0x0001_0200).parameter(), "HOSTNQN");
    assert_eq!(ConnectResult::new().with_cntlid(3).with_atr(true).into_bits(), 0x0002_0003);
    assert_eq!(ConnectResult::new().with_ascr(true).into_bits(), 0x0004_0000);
    let flags = ConnectCdw11::new().with_no_flow_control(true).with_queue_deletion(true);
    assert_eq!(flags.into_bits(), 0x000c_0000);
    assert_eq!(connect(3, flags, 0).as_bytes()[42..44], [3, 0]);
    assert_eq!(ConnectCdw10::from_bits(connect(3, flags, 0).cdw10).qid(), 3);
}

#[test]
fn names_are_checked_where_they_come_in() {
    let long = format!("nqn.{}", "x".repeat(219));
    assert_eq!(check_nqn(&long), Ok(()));
    assert_eq!(nqn(&nqn_field(&long)), Ok(long.as_str()));
    assert_eq!(check_nqn(&format!("{long}x")), Err(NqnError::Long));
    assert_eq!(nqn_field(&format!("{long}xyz")), nqn_field(&long), "cut");
    assert_eq!(nqn(&[b'n'; 256]), Err(NqnError::Long));
    assert_eq!(nqn(&[0; 256]), Err(NqnError::Empty));
    assert_eq!(check_nqn("iqn.2014-08.org"), Err(NqnError::Prefix));
    assert_eq!(check_nqn("nqn.a b"), Err(NqnError::Character));
    assert_eq!(nqn(&nqn_field("nqn.a\u{7f}")), Err(NqnError::Character));
    let mut broken = nqn_field("nqn.a");
    broken[5] = 0xff;
    assert_eq!(nqn(&broken), Err(NqnError::Character));
    assert_eq!(check_nqn(super::DISCOVERY_NQN), Ok(()));
}

#[test]
fn a_discovery_entry_byte_for_byte() {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = TransportType::TCP;
    entry.adrfam = AddressFamily::IPV4;
    entry.subtype = SubsystemType::NVM;
    entry.treq =
        Treq::new().with_tsc(Treq::SECURE_NOT_REQUIRED).with_no_flow_control(true).into_bits();
    entry.portid.set(1);
    entry.cntlid.set(0xffff);
    entry.asqsz.set(128);
    entry.eflags.set(Eflags::new().with_duplicate(true).with_persistent(true).into_bits());
    entry.set_service("4420");
    entry.set_address("127.0.0.1");
    entry.subnqn = nqn_field("nqn.2014-08.org:a");
    let bytes = entry.as_bytes();
    assert_eq!(bytes[..12], [3, 1, 2, 6, 1, 0, 0xff, 0xff, 128, 0, 3, 0]);
    assert_eq!(bytes[32..38], *b"4420  ");
    assert_eq!(bytes[512..522], *b"127.0.0.1 ");
    assert_eq!(entry.address().as_str(), Some("127.0.0.1"));
    assert_eq!(entry.service().as_str(), Some("4420"));
    assert_eq!(entry.nqn(), Ok("nqn.2014-08.org:a"));
}

#[test]
fn violations_read_well() {
    let shown: [String; 4] = [
        Violation::field(offset::PLEN).to_string(),
        Violation::SEQUENCE.to_string(),
        Violation::header_digest(0xabc).to_string(),
        Violation { fes: Fes(9), fei: 1 }.to_string(),
    ];
    assert_eq!(
        shown,
        [
            "Invalid PDU Header Field at byte 4",
            "PDU Sequence Error",
            "Header Digest Error, 00000abch came",
            "Unknown Fatal Error (09h) with 00000001h"
        ]
    );
}

/// Whatever the eight bytes are: no panic, and what is accepted fits together.
#[test]
fn any_header_is_refused_or_sound() {
    // A linear congruential generator: the same headers every time.
    let mut state: u64 = 0x1234_5678_9abc_def0;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut accepted = 0;
    let rounds = if cfg!(miri) { 1000 } else { 20_000 };
    for round in 0..rounds {
        let bits = next();
        let framing = Framing {
            header_digest: bits & 1 != 0,
            data_digest: bits & 2 != 0,
            alignment: 4 << (bits >> 2 & 3),
        };
        let sender = if bits & 16 == 0 { Side::Host } else { Side::Controller };
        let rules = Rules { sender, initialized: bits & 32 != 0, framing, ..HOST };
        let kind = PduType((next() % 11) as u8);
        let mut header = framing.header(kind, PduFlags::new(), next() % 9000);
        if round % 2 == 0 {
            let at = (next() % 8) as usize;
            header.as_mut_bytes()[at] ^= next() as u8;
        }
        let Ok(layout) = rules.check(&header) else { continue };
        accepted += 1;
        let Layout { data_at, data, total, data_digest, .. } = layout;
        assert_eq!(total, header.plen.get());
        assert!(layout.head() <= data_at);
        assert_eq!(data_at + data + if data_digest { 4 } else { 0 }, total);
        assert!(total <= 131_072 + 256);
    }
    assert!(accepted > rounds / 40, "{accepted}");
}
