//! PDUs of NVMe/TCP: what stands at the head of each (TCP transport, "PDU Definitions").
//!
//! Every PDU begins with a [`CommonHeader`] and has HLEN bytes of header. A header digest, padding,
//! data and a data digest may follow, in this order; [`Framing`](super::header::Framing) says
//! which do. The structures here are the headers alone.

use crate::command::Sqe;
use crate::completion::Cqe;
use crate::fabrics::header::Violation;
use crate::open_set::open_set;
use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_set! {
    /// PDU-Type (TCP transport, "PDU Types").
    #[derive(zerocopy::Unaligned)]
    pub struct PduType(u8): "Unknown PDU" {
        IC_REQ = 0x00, "ICReq";
        IC_RESP = 0x01, "ICResp";
        H2C_TERM_REQ = 0x02, "H2CTermReq";
        C2H_TERM_REQ = 0x03, "C2HTermReq";
        CAPSULE_COMMAND = 0x04, "CapsuleCmd";
        CAPSULE_RESPONSE = 0x05, "CapsuleResp";
        H2C_DATA = 0x06, "H2CData";
        C2H_DATA = 0x07, "C2HData";
        R2T = 0x09, "R2T";
    }
}

/// FLAGS of a PDU; which of them a type has, its figure says.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct PduFlags {
    /// HDGSTF: a header digest follows the header.
    pub hdgst: bool,
    /// DDGSTF: a data digest follows the data.
    pub ddgst: bool,
    /// LAST_PDU: the last data PDU of its R2T, or of its command.
    pub last: bool,
    /// SUCCESS (C2HData): the command has succeeded, and no CapsuleResp follows.
    pub success: bool,
    #[bits(4)]
    __: u8,
}

/// PDU Common Header, 8 bytes (TCP transport, "PDU Common Header").
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type.
    pub pdu_type: PduType,
    /// FLAGS.
    pub flags: PduFlags,
    /// HLEN: Header Length.
    pub hlen: u8,
    /// PDO: PDU Data Offset, from the start of the PDU.
    pub pdo: u8,
    /// PLEN: PDU Length: all of it, with digests, padding and data.
    pub plen: U32,
}

const _: () = assert!(size_of::<CommonHeader>() == 8);
const _: () = assert!(offset_of!(CommonHeader, plen) == offset::PLEN as usize);

/// Byte offsets of fields, for [`Violation`].
pub mod offset {
    /// PDU-Type, of every PDU.
    pub const PDU_TYPE: u32 = 0;
    /// FLAGS, of every PDU.
    pub const FLAGS: u32 = 1;
    /// HLEN, of every PDU.
    pub const HLEN: u32 = 2;
    /// PDO, of every PDU.
    pub const PDO: u32 = 3;
    /// PLEN, of every PDU.
    pub const PLEN: u32 = 4;
    /// PFV, of ICReq and ICResp.
    pub const PFV: u32 = 8;
    /// HPDA of ICReq, CPDA of ICResp.
    pub const PDA: u32 = 10;
    /// DGST, of ICReq and ICResp.
    pub const DGST: u32 = 11;
    /// MAXR2T of ICReq, MAXH2CDATA of ICResp.
    pub const MAX: u32 = 12;
    /// CCCID, of H2CData, C2HData and R2T.
    pub const CCCID: u32 = 8;
    /// TTAG, of H2CData and R2T.
    pub const TTAG: u32 = 10;
    /// DATAO, of H2CData and C2HData; R2TO of R2T.
    pub const DATAO: u32 = 12;
    /// DATAL, of H2CData and C2HData; R2TL of R2T.
    pub const DATAL: u32 = 16;
}

/// DGST: Digests that a connection uses (TCP transport, "ICReq", DGST).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Digests {
    /// HDGST_ENABLE: header digests.
    pub header: bool,
    /// DDGST_ENABLE: data digests.
    pub data: bool,
    #[bits(6)]
    __: u8,
}

/// ICReq: Initialize Connection Request, 128 bytes: the first PDU of the host.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub common: CommonHeader,
    /// PFV: PDU Format Version, 0.
    pub pfv: U16,
    /// HPDA: Host PDU Data Alignment, in dwords, minus one, 0 to 31: where the data of C2HData may
    /// begin.
    pub hpda_z: u8,
    /// DGST: digests that the host asks for.
    pub dgst: Digests,
    /// MAXR2T: outstanding R2Ts that the host takes for one command, minus one.
    pub maxr2t_z: U32,
    _reserved_16: [u8; 112],
}

const _: () = assert!(size_of::<IcReq>() == 128);
const _: () = assert!(offset_of!(IcReq, maxr2t_z) == offset::MAX as usize);

/// ICResp: Initialize Connection Response, 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub common: CommonHeader,
    /// PFV: PDU Format Version, 0.
    pub pfv: U16,
    /// CPDA: Controller PDU Data Alignment, in dwords, minus one, 0 to 31: where in-capsule data
    /// and the data of H2CData may begin. Linux takes 0 alone (PEER-10).
    pub cpda_z: u8,
    /// DGST: digests that the connection uses.
    pub dgst: Digests,
    /// MAXH2CDATA: the most data of one H2CData, in bytes; at least 4096, a multiple of 4.
    pub maxh2cdata: U32,
    _reserved_16: [u8; 112],
}

const _: () = assert!(size_of::<IcResp>() == 128);
const _: () = assert!(offset_of!(IcResp, maxh2cdata) == offset::MAX as usize);

open_set! {
    /// FES: Fatal Error Status (TCP transport, "H2CTermReq" and "C2HTermReq").
    pub struct Fes(u16): "Unknown Fatal Error" {
        INVALID_HEADER_FIELD = 0x01, "Invalid PDU Header Field", "FEI is the field's offset";
        SEQUENCE = 0x02, "PDU Sequence Error";
        HEADER_DIGEST = 0x03, "Header Digest Error", "FEI is the digest that came";
        OUT_OF_RANGE = 0x04, "Data Transfer Out of Range";
        LIMIT_EXCEEDED = 0x05, "Data Transfer or R2T Limit Exceeded";
        UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter", "FEI is the field's offset";
    }
}

/// H2CTermReq and C2HTermReq: Terminate Connection Request, 24 bytes; the beginning of the header
/// at fault follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub common: CommonHeader,
    /// FES: Fatal Error Status, a [`Fes`].
    pub fes: U16,
    /// FEI: Fatal Error Information.
    pub fei: U32,
    _reserved_14: [u8; 10],
}

const _: () = assert!(size_of::<TermReq>() == 24);
const _: () = assert!(offset_of!(TermReq, fei) == 10);

/// CapsuleCmd: Command Capsule, 72 bytes; in-capsule data may follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapsuleCommand {
    /// Common header.
    pub common: CommonHeader,
    /// CCSQE: the command.
    pub sqe: Sqe,
}

const _: () = assert!(size_of::<CapsuleCommand>() == 72);

/// CapsuleResp: Response Capsule, 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapsuleResponse {
    /// Common header.
    pub common: CommonHeader,
    /// RCCQE: the completion, whose phase tag is 0.
    pub cqe: Cqe,
}

const _: () = assert!(size_of::<CapsuleResponse>() == 24);

/// H2CData: Host To Controller Data Transfer, 24 bytes; the data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct H2CData {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: Command Capsule CID.
    pub cccid: U16,
    /// TTAG: Transfer Tag, that of the R2T.
    pub ttag: U16,
    /// DATAO: Data Offset in the command's data.
    pub datao: U32,
    /// DATAL: Data Length.
    pub datal: U32,
    _reserved_20: [u8; 4],
}

const _: () = assert!(size_of::<H2CData>() == 24);
const _: () = assert!(offset_of!(H2CData, datal) == offset::DATAL as usize);

/// C2HData: Controller To Host Data Transfer, 24 bytes; the data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct C2HData {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: Command Capsule CID.
    pub cccid: U16,
    _reserved_10: U16,
    /// DATAO: Data Offset in the command's data.
    pub datao: U32,
    /// DATAL: Data Length.
    pub datal: U32,
    _reserved_20: [u8; 4],
}

const _: () = assert!(size_of::<C2HData>() == 24);
const _: () = assert!(offset_of!(C2HData, datal) == offset::DATAL as usize);

/// R2T: Ready to Transfer, 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct R2T {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: Command Capsule CID.
    pub cccid: U16,
    /// TTAG: Transfer Tag, which the H2CData repeats.
    pub ttag: U16,
    /// R2TO: Requested Data Offset in the command's data.
    pub r2to: U32,
    /// R2TL: Requested Data Length.
    pub r2tl: U32,
    _reserved_20: [u8; 4],
}

const _: () = assert!(size_of::<R2T>() == 24);
const _: () = assert!(offset_of!(R2T, r2tl) == offset::DATAL as usize);

impl IcReq {
    /// The request for these digests, with an alignment of `hpda_z` and `maxr2t_z`.
    #[must_use]
    pub fn new(dgst: Digests, hpda_z: u8, maxr2t_z: u32) -> IcReq {
        IcReq {
            common: CommonHeader::bare(PduType::IC_REQ),
            pfv: U16::ZERO,
            hpda_z,
            dgst,
            maxr2t_z: U32::new(maxr2t_z),
            _reserved_16: [0; 112],
        }
    }

    /// Checks the fields behind the common header.
    ///
    /// # Errors
    /// [`Violation`] for another format version or an alignment beyond 128 bytes.
    pub fn check(&self) -> Result<(), Violation> {
        check_ic(self.pfv, self.hpda_z)
    }
}

impl IcResp {
    /// The response with these digests, an alignment of `cpda_z` and the most data of one H2CData.
    #[must_use]
    pub fn new(dgst: Digests, cpda_z: u8, maxh2cdata: u32) -> IcResp {
        IcResp {
            common: CommonHeader::bare(PduType::IC_RESP),
            pfv: U16::ZERO,
            cpda_z,
            dgst,
            maxh2cdata: U32::new(maxh2cdata),
            _reserved_16: [0; 112],
        }
    }

    /// Checks the fields behind the common header.
    ///
    /// # Errors
    /// [`Violation`] for another format version, an alignment beyond 128 bytes, or a MAXH2CDATA
    /// that is too small or no multiple of 4.
    pub fn check(&self) -> Result<(), Violation> {
        check_ic(self.pfv, self.cpda_z)?;
        let max = self.maxh2cdata.get();
        if max < 4096 || !max.is_multiple_of(4) {
            return Err(Violation::field(offset::MAX));
        }
        Ok(())
    }
}

fn check_ic(pfv: U16, pda_z: u8) -> Result<(), Violation> {
    if pfv != U16::ZERO {
        return Err(Violation::field(offset::PFV));
    }
    if pda_z > 31 {
        return Err(Violation::field(offset::PDA));
    }
    Ok(())
}

impl TermReq {
    /// The most bytes of the header at fault that follow.
    pub const MAX_DATA: usize = 128;

    /// Answers a violation; `data` bytes, at most [`TermReq::MAX_DATA`], of its header follow.
    /// `pdu_type` is [`PduType::H2C_TERM_REQ`] or [`PduType::C2H_TERM_REQ`].
    #[must_use]
    pub fn new(pdu_type: PduType, violation: Violation, data: usize) -> TermReq {
        let data = data.min(TermReq::MAX_DATA) as u32;
        let bare = CommonHeader::bare(pdu_type);
        TermReq {
            common: CommonHeader { plen: U32::new(bare.plen.get() + data), ..bare },
            fes: U16::new(violation.fes.0),
            fei: U32::new(violation.fei),
            _reserved_14: [0; 10],
        }
    }

    /// What the other side complains about.
    #[must_use]
    pub const fn violation(&self) -> Violation {
        Violation { fes: Fes(self.fes.get()), fei: self.fei.get() }
    }
}

impl H2CData {
    /// `datal` bytes from `datao` on, of the command `cccid`, that the R2T with `ttag` asked for.
    #[must_use]
    pub fn new(common: CommonHeader, cccid: u16, ttag: u16, datao: u32, datal: u32) -> H2CData {
        H2CData {
            common,
            cccid: U16::new(cccid),
            ttag: U16::new(ttag),
            datao: U32::new(datao),
            datal: U32::new(datal),
            _reserved_20: [0; 4],
        }
    }
}

impl C2HData {
    /// `datal` bytes from `datao` on, of the command `cccid`.
    #[must_use]
    pub fn new(common: CommonHeader, cccid: u16, datao: u32, datal: u32) -> C2HData {
        C2HData {
            common,
            cccid: U16::new(cccid),
            _reserved_10: U16::ZERO,
            datao: U32::new(datao),
            datal: U32::new(datal),
            _reserved_20: [0; 4],
        }
    }
}

impl R2T {
    /// Asks for `r2tl` bytes from `r2to` on, of the command `cccid`.
    #[must_use]
    pub fn new(common: CommonHeader, cccid: u16, ttag: u16, r2to: u32, r2tl: u32) -> R2T {
        R2T {
            common,
            cccid: U16::new(cccid),
            ttag: U16::new(ttag),
            r2to: U32::new(r2to),
            r2tl: U32::new(r2tl),
            _reserved_20: [0; 4],
        }
    }
}
