//! Headers of NVMe/TCP, and what else comes from a peer as plain bytes.
//!
//! Input: a byte that says what the receiver expects, 4 bytes of limits, and the PDU.

use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::discovery::{DiscoveryEntry, DiscoveryHeader};
use doorbell_spec::fabrics::header::{Framing, Layout, Rules, Side};
use doorbell_spec::fabrics::pdu::{
    CapsuleCommand, CommonHeader, Fes, IcReq, IcResp, PduType, TermReq,
};
use zerocopy::{FromBytes, IntoBytes};

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let Some((&[mode, in_capsule, data, ..], pdu)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let framing = Framing {
        header_digest: mode & 1 != 0,
        data_digest: mode & 2 != 0,
        alignment: 4 << (mode >> 5 & 3),
    };
    let rules = Rules {
        sender: if mode & 4 != 0 { Side::Host } else { Side::Controller },
        initialized: mode & 8 != 0,
        framing,
        max_in_capsule: u32::from(in_capsule) * 512,
        max_data: 4096 * (1 + u32::from(data)),
    };
    if let Ok((header, _)) = CommonHeader::read_from_prefix(pdu) {
        match rules.check(&header) {
            Ok(layout) => allowed(&rules, &header, layout),
            Err(violation) => {
                // What a TermReq can say: a field of the common header, or a reason of its own.
                let field = violation.fes == Fes::INVALID_HEADER_FIELD;
                assert!(if field { violation.fei < 8 } else { violation.fei == 0 }, "{violation}");
                let term = TermReq::new(PduType::C2H_TERM_REQ, violation, pdu.len());
                assert_eq!(term.violation(), violation);
                let told = Rules { sender: Side::Controller, ..rules }.check(&term.common);
                assert!(told.is_ok_and(|layout| layout.data as usize == pdu.len().min(128)));
            }
        }
    }
    structures(pdu);
}

/// A PDU that is let in: its parts follow each other, within it, and within the limits.
fn allowed(rules: &Rules, header: &CommonHeader, layout: Layout) {
    let tail = if layout.data_digest { digest::SIZE as u32 } else { 0 };
    assert_eq!(layout.total, header.plen.get());
    assert_eq!(header.pdu_type.sender(), Some(rules.sender));
    assert!(layout.head() <= layout.data_at);
    assert_eq!(layout.data_at + layout.data + tail, layout.total);
    assert!(layout.data > 0 || !layout.data_digest);
    match header.pdu_type {
        PduType::CAPSULE_COMMAND => assert!(layout.data <= rules.max_in_capsule),
        PduType::H2C_DATA | PduType::C2H_DATA => {
            assert!(layout.data > 0 && layout.data <= rules.max_data);
        }
        PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ => assert!(layout.data <= 128),
        _ => assert_eq!(layout.data, 0),
    }
    if matches!(header.pdu_type, PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ) {
        return;
    }
    // What this side would send in its place is let in, too, and carries as much.
    let flags = header.flags.with_hdgst(false).with_ddgst(false);
    let own = rules.framing.header(header.pdu_type, flags, layout.data);
    let again = rules.check(&own).expect("a header of our own");
    assert_eq!((again.data, again.head()), (layout.data, layout.head()));
    assert!(again.data_at <= layout.data_at, "no more padding than needed");
}

/// Structures that may hold anything: looked at in every way.
fn structures(bytes: &[u8]) {
    if let Ok((request, _)) = IcReq::read_from_prefix(bytes) {
        assert_eq!(request.check().is_ok(), request.pfv.get() == 0 && request.hpda_z < 32);
    }
    if let Ok((response, _)) = IcResp::read_from_prefix(bytes) {
        assert!(response.check().is_err() || response.maxh2cdata.get() >= 4096);
    }
    if let Ok((capsule, _)) = CapsuleCommand::read_from_prefix(bytes) {
        let sgl = capsule.sqe.sgl();
        let back = capsule.sqe.with_sgl(sgl);
        assert_eq!(back.as_bytes()[24..40], capsule.sqe.as_bytes()[24..40]);
        assert_eq!(back.sgl(), sgl);
    }
    if let Ok((connect, _)) = ConnectData::read_from_prefix(bytes) {
        for nqn in [connect.subnqn(), connect.hostnqn()].into_iter().flatten() {
            assert!(nqn.starts_with("nqn.") && nqn.len() <= 223);
        }
    }
    if let Ok((header, rest)) = DiscoveryHeader::read_from_prefix(bytes) {
        let _ = format!("{header:?}");
        if let Ok((entry, _)) = DiscoveryEntry::read_from_prefix(rest) {
            let _ = format!(
                "{} {} {} {} {} {:?} {:?} {:?} {}",
                entry.trtype,
                entry.adrfam,
                entry.subtype,
                entry.address(),
                entry.service(),
                entry.nqn(),
                entry.requirements(),
                entry.flags(),
                entry.security(),
            );
        }
    }
    let (front, back) = bytes.split_at(bytes.len() / 2);
    assert_eq!(digest::append(digest::crc32c(front), back), digest::crc32c(bytes));
}
