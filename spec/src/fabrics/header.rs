//! The rules for a PDU's common header, as pure functions that host and controller share.
//!
//! A receiver copies eight bytes, calls [`Rules::check`], and knows from then on how much to read
//! and where the data lies, or what to say in its TermReq. Fields that a type reserves are not
//! looked at. A sender calls [`Framing::header`].

use crate::fabrics::digest;
use crate::fabrics::pdu::{CommonHeader, Fes, PduFlags, PduType, TermReq, offset};
use core::fmt;
use zerocopy::little_endian::U32;

/// What is wrong with a PDU: what a TermReq says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// FES: Fatal Error Status.
    pub fes: Fes,
    /// FEI: Fatal Error Information: an offset, a digest or 0, as FES has it.
    pub fei: u32,
}

impl Violation {
    /// The PDU does not belong here.
    pub const SEQUENCE: Violation = Violation { fes: Fes::SEQUENCE, fei: 0 };
    /// More data than may come in one PDU, or more R2Ts than may be outstanding.
    pub const LIMIT: Violation = Violation { fes: Fes::LIMIT_EXCEEDED, fei: 0 };
    /// Data outside of what was asked for.
    pub const RANGE: Violation = Violation { fes: Fes::OUT_OF_RANGE, fei: 0 };

    /// The header field at `offset` has a value that it must not have.
    #[must_use]
    pub const fn field(offset: u32) -> Violation {
        Violation { fes: Fes::INVALID_HEADER_FIELD, fei: offset }
    }

    /// The header does not have the digest `received`.
    #[must_use]
    pub const fn header_digest(received: u32) -> Violation {
        Violation { fes: Fes::HEADER_DIGEST, fei: received }
    }

    /// The header field at `offset` asks for what this side does not have.
    #[must_use]
    pub const fn unsupported(offset: u32) -> Violation {
        Violation { fes: Fes::UNSUPPORTED_PARAMETER, fei: offset }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fes {
            Fes::INVALID_HEADER_FIELD | Fes::UNSUPPORTED_PARAMETER => {
                write!(f, "{} at byte {}", self.fes.name(), self.fei)
            }
            Fes::HEADER_DIGEST => write!(f, "{}, {:08x}h came", self.fes.name(), self.fei),
            Fes::SEQUENCE | Fes::OUT_OF_RANGE | Fes::LIMIT_EXCEEDED => f.write_str(self.fes.name()),
            _ => write!(f, "{} with {:08x}h", self.fes, self.fei),
        }
    }
}

impl core::error::Error for Violation {}

impl PduType {
    /// HLEN of this type; `None` where there is no such type.
    #[must_use]
    pub const fn hlen(self) -> Option<u8> {
        match self {
            PduType::IC_REQ | PduType::IC_RESP => Some(128),
            PduType::CAPSULE_COMMAND => Some(72),
            PduType::H2C_TERM_REQ
            | PduType::C2H_TERM_REQ
            | PduType::CAPSULE_RESPONSE
            | PduType::H2C_DATA
            | PduType::C2H_DATA
            | PduType::R2T => Some(24),
            _ => None,
        }
    }

    /// Who sends this type.
    #[must_use]
    pub const fn sender(self) -> Option<Side> {
        match self {
            PduType::IC_REQ
            | PduType::H2C_TERM_REQ
            | PduType::CAPSULE_COMMAND
            | PduType::H2C_DATA => Some(Side::Host),
            PduType::IC_RESP
            | PduType::C2H_TERM_REQ
            | PduType::CAPSULE_RESPONSE
            | PduType::C2H_DATA
            | PduType::R2T => Some(Side::Controller),
            _ => None,
        }
    }

    const fn is_initialize(self) -> bool {
        matches!(self, PduType::IC_REQ | PduType::IC_RESP)
    }

    const fn is_terminate(self) -> bool {
        matches!(self, PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ)
    }

    /// Whether this type may have a header digest.
    const fn takes_digests(self) -> bool {
        !self.is_initialize() && !self.is_terminate()
    }

    /// Whether data follows this type's header, always or sometimes.
    const fn takes_data(self) -> bool {
        matches!(self, PduType::CAPSULE_COMMAND | PduType::H2C_DATA | PduType::C2H_DATA)
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host, which connected.
    Host,
    /// The controller.
    Controller,
}

/// How one side frames what it sends, once the connection is initialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Headers have digests.
    pub header_digest: bool,
    /// Data has digests.
    pub data_digest: bool,
    /// Data begins at a multiple of this many bytes: `4 * (PDA + 1)`, PDA of the receiver.
    pub alignment: u32,
}

impl Framing {
    /// As before the connection is initialized.
    pub const BARE: Framing = Framing { header_digest: false, data_digest: false, alignment: 4 };

    /// The common header of a PDU with `data` bytes. `flags` has LAST and SUCCESS alone; the
    /// digests' flags are added.
    #[inline]
    #[must_use]
    pub fn header(&self, pdu_type: PduType, flags: PduFlags, data: u32) -> CommonHeader {
        let bare = CommonHeader::bare(pdu_type);
        let hdgst = self.header_digest && pdu_type.takes_digests();
        let head = u32::from(bare.hlen) + if hdgst { digest::SIZE as u32 } else { 0 };
        let flags = flags.with_hdgst(hdgst);
        if data == 0 {
            return CommonHeader { flags, plen: U32::new(head), ..bare };
        }
        let pdo = head.next_multiple_of(self.alignment.max(1));
        let tail = if self.data_digest { digest::SIZE as u32 } else { 0 };
        CommonHeader {
            flags: flags.with_ddgst(self.data_digest),
            pdo: pdo as u8,
            plen: U32::new(pdo + data + tail),
            ..bare
        }
    }
}

impl CommonHeader {
    /// The header of a PDU that is nothing but its header.
    #[inline]
    #[must_use]
    pub fn bare(pdu_type: PduType) -> CommonHeader {
        let hlen = pdu_type.hlen().unwrap_or(8);
        CommonHeader {
            pdu_type,
            flags: PduFlags::new(),
            hlen,
            pdo: 0,
            plen: U32::new(u32::from(hlen)),
        }
    }
}

/// What a receiver holds the other side to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The other side.
    pub sender: Side,
    /// ICReq and ICResp are behind us.
    pub initialized: bool,
    /// How the other side frames.
    pub framing: Framing,
    /// The most data in a CapsuleCmd.
    pub max_in_capsule: u32,
    /// The most data in one H2CData (MAXH2CDATA) or C2HData.
    pub max_data: u32,
}

/// Where the parts of a PDU are, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// PDU-Type.
    pub pdu_type: PduType,
    /// Bytes of the header, without its digest.
    pub header: u32,
    /// A header digest follows the header.
    pub header_digest: bool,
    /// Where the data begins; where there is none, the end of the PDU.
    pub data_at: u32,
    /// Bytes of data.
    pub data: u32,
    /// A data digest follows the data.
    pub data_digest: bool,
    /// Bytes of the PDU.
    pub total: u32,
}

impl Layout {
    /// Bytes of the header with its digest.
    #[inline]
    #[must_use]
    pub const fn head(&self) -> u32 {
        self.header + if self.header_digest { digest::SIZE as u32 } else { 0 }
    }
}

impl Rules {
    /// What a PDU with this header consists of.
    ///
    /// # Errors
    /// The [`Violation`] that a TermReq reports. Checked in this order: type, sequence, HLEN,
    /// FLAGS, PLEN, PDO, limits.
    #[inline]
    pub fn check(&self, header: &CommonHeader) -> Result<Layout, Violation> {
        let pdu_type = header.pdu_type;
        let (Some(hlen), Some(sender)) = (pdu_type.hlen(), pdu_type.sender()) else {
            return Err(Violation::field(offset::PDU_TYPE));
        };
        if sender != self.sender {
            return Err(Violation::field(offset::PDU_TYPE));
        }
        if pdu_type.is_initialize() == self.initialized && !pdu_type.is_terminate() {
            return Err(Violation::SEQUENCE);
        }
        if header.hlen != hlen {
            return Err(Violation::field(offset::HLEN));
        }
        let header_digest = self.framing.header_digest && pdu_type.takes_digests();
        if pdu_type.takes_digests() && header.flags.hdgst() != header_digest {
            return Err(Violation::field(offset::FLAGS));
        }
        let total = header.plen.get();
        let head = u32::from(hlen) + if header_digest { digest::SIZE as u32 } else { 0 };
        let mut layout = Layout {
            pdu_type,
            header: u32::from(hlen),
            header_digest,
            data_at: total,
            data: 0,
            data_digest: false,
            total,
        };
        if total < head {
            return Err(Violation::field(offset::PLEN));
        }
        if pdu_type.is_terminate() {
            if total - head > TermReq::MAX_DATA as u32 {
                return Err(Violation::field(offset::PLEN));
            }
            return Ok(Layout { data_at: head, data: total - head, ..layout });
        }
        if total == head {
            let empty = pdu_type.takes_data() && pdu_type != PduType::CAPSULE_COMMAND;
            return if empty { Err(Violation::field(offset::PLEN)) } else { Ok(layout) };
        }
        if !pdu_type.takes_data() {
            return Err(Violation::field(offset::PLEN));
        }
        let flags = header.flags;
        if flags.ddgst() != self.framing.data_digest
            || pdu_type == PduType::C2H_DATA && flags.success() && !flags.last()
        {
            return Err(Violation::field(offset::FLAGS));
        }
        layout.data_at = u32::from(header.pdo);
        layout.data_digest = self.framing.data_digest;
        if layout.data_at < head || !layout.data_at.is_multiple_of(self.framing.alignment.max(1)) {
            return Err(Violation::field(offset::PDO));
        }
        let tail = if layout.data_digest { digest::SIZE as u32 } else { 0 };
        match total.checked_sub(layout.data_at + tail) {
            Some(data) if data != 0 => layout.data = data,
            _ => return Err(Violation::field(offset::PLEN)),
        }
        match pdu_type {
            PduType::CAPSULE_COMMAND if layout.data > self.max_in_capsule => {
                Err(Violation::field(offset::PLEN))
            }
            PduType::H2C_DATA if layout.data > self.max_data => Err(Violation::LIMIT),
            PduType::C2H_DATA if layout.data > self.max_data => Err(Violation::RANGE),
            _ => Ok(layout),
        }
    }
}
