//! The host's connection, and what a target may say to it.
//!
//! Input: a byte of modes, one that says how the bytes are cut, and then either plain bytes or a list of PDUs, whose
//! lengths and digests are made right, so that what is in them gets a hearing.

use doorbell::transport::tcp::converse::{LENGTHS, converse};
use doorbell_spec::completion::{Cqe, StatusField};
use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Violation};
use doorbell_spec::fabrics::pdu::{
    C2HData, CapsuleResponse, CommonHeader, Digests, Fes, IcResp, PduFlags, PduType, R2T, TermReq,
};
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use super::Input;

/// What must hold for any bytes: [`converse`] says what.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = input.byte();
    let cut = match input.byte() {
        0..64 => 1 << 20,
        cut => usize::from(cut - 63),
    };
    let digests = Digests::from_bits(mode & 3);
    let mut sent = Vec::new();
    if mode & 4 == 0 {
        sent.extend_from_slice(IcResp::new(digests, mode >> 6, 4096).as_bytes());
    }
    if mode & 8 != 0 {
        sent.extend_from_slice(input.0);
    } else {
        let framing =
            Framing { header_digest: digests.header(), data_digest: digests.data(), alignment: 4 };
        while !input.0.is_empty() && sent.len() < 1 << 20 {
            pdu(&mut input, &framing, &mut sent);
        }
    }
    let (ended, _) = converse(&sent, cut, mode);
    assert!(ended.len() <= LENGTHS.len());
}

/// One PDU of a target.
fn pdu(input: &mut Input<'_>, framing: &Framing, sent: &mut Vec<u8>) {
    let kind = input.byte();
    // One of those in flight, mostly.
    let cid = u16::from(input.byte() & 7) + 1;
    let (from, len) = (u32::from(input.half()), u32::from(input.half()));
    let flags = PduFlags::new().with_last(kind & 8 != 0).with_success(kind & 16 != 0);
    let bare = |kind: PduType| framing.header(kind, PduFlags::new(), 0);
    match kind & 7 {
        0 | 1 => {
            // In the order of the data, as far as they go: the whole of it in two steps.
            let common = framing.header(PduType::C2H_DATA, flags, len);
            let header = C2HData::new(common, cid, from, len);
            put(sent, &common, header.as_bytes(), &vec![kind; len as usize]);
        }
        2 => {
            let common = bare(PduType::CAPSULE_RESPONSE);
            let status = StatusField::new(Status::new((from & 7) as u8, from as u8), false);
            let cqe = Cqe { cid, status, dw0: len, ..Cqe::default() };
            put(sent, &common, CapsuleResponse { common, cqe }.as_bytes(), &[]);
        }
        3 | 4 => {
            let common = bare(PduType::R2T);
            put(sent, &common, R2T::new(common, cid, kind.into(), from, len).as_bytes(), &[]);
        }
        5 => {
            let violation = Violation { fes: Fes(from as u16), fei: len };
            sent.extend_from_slice(TermReq::new(PduType::C2H_TERM_REQ, violation, 0).as_bytes());
        }
        6 => sent.extend_from_slice(input.bytes(usize::from(kind >> 3))),
        _ => {
            // What was sent last is not quite what it was.
            let at = sent.len().saturating_sub(1 + from as usize % 128);
            if let Some(byte) = sent.get_mut(at) {
                *byte ^= len as u8;
            }
        }
    }
}

/// A PDU with the digests that its flags promise.
pub(super) fn put(to: &mut Vec<u8>, common: &CommonHeader, header: &[u8], data: &[u8]) {
    let start = to.len();
    to.extend_from_slice(header);
    if common.flags.hdgst() {
        to.extend(digest::crc32c(header).to_le_bytes());
    }
    if !data.is_empty() {
        to.resize(start + usize::from(common.pdo), 0);
        to.extend_from_slice(data);
        if common.flags.ddgst() {
            to.extend(digest::crc32c(data).to_le_bytes());
        }
    }
}
