//! Fabrics commands: one opcode, a type in byte 4, and a builder for each.
//!
//! Owns Base 2.1 "Fabrics Command Set". As elsewhere, a builder sets everything but the command
//! identifier and the data pointer. A property is a register of [`crate::register`], under the
//! same offset.

use crate::admin::AdminOpcode;
use crate::command::{Sqe, high, low, pair};
use crate::open_set::open_set;
use crate::register::offset;
use bitfield_struct::bitfield;

open_set! {
    /// FCTYPE: Fabrics Command Type (Base 2.1, "Fabrics Command Types").
    pub struct Fctype(u8): "Unknown Fabrics Command" {
        PROPERTY_SET = 0x00, "Property Set";
        CONNECT = 0x01, "Connect";
        PROPERTY_GET = 0x04, "Property Get";
        AUTHENTICATION_SEND = 0x05, "Authentication Send";
        AUTHENTICATION_RECEIVE = 0x06, "Authentication Receive";
        DISCONNECT = 0x08, "Disconnect";
    }
}

impl Sqe {
    /// FCTYPE of a Fabrics command, which other commands have the namespace identifier for.
    #[inline]
    #[must_use]
    pub const fn fctype(&self) -> Fctype {
        Fctype(self.nsid as u8)
    }

    /// Whether the command is a Fabrics command.
    #[inline]
    #[must_use]
    pub const fn is_fabrics(&self) -> bool {
        self.opcode() == AdminOpcode::FABRICS.0
    }
}

const fn fabrics(fctype: Fctype) -> Sqe {
    Sqe { nsid: fctype.0 as u32, ..Sqe::new(AdminOpcode::FABRICS.0) }
}

/// Command Dword 10 of Connect.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ConnectCdw10 {
    /// RECFMT: Record Format, 0.
    pub recfmt: u16,
    /// QID: Queue Identifier; 0 is the admin queue, which makes the association.
    pub qid: u16,
}

/// Command Dword 11 of Connect.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ConnectCdw11 {
    /// SQSIZE: Submission Queue Size, minus one.
    pub sqsize_z: u16,
    /// CATTR: priority class of the submission queue, as Create I/O Submission Queue's QPRIO.
    #[bits(2)]
    pub qprio: u8,
    /// CATTR: Disable SQ Flow Control: SQHD says nothing, and C2HData may carry SUCCESS.
    pub no_flow_control: bool,
    /// CATTR: the host supports deleting single I/O queues (Disconnect).
    pub queue_deletion: bool,
    #[bits(12)]
    __: u16,
}

/// Byte offsets in a Connect command, for [`crate::fabrics::connect::ConnectInvalid`].
pub mod connect_offset {
    /// RECFMT.
    pub const RECFMT: u16 = 40;
    /// QID.
    pub const QID: u16 = 42;
    /// SQSIZE.
    pub const SQSIZE: u16 = 44;
    /// CATTR.
    pub const CATTR: u16 = 46;
    /// KATO.
    pub const KATO: u16 = 48;
}

/// Connect (Base 2.1, "Connect Command"), with 1024 bytes of
/// [`ConnectData`](crate::fabrics::connect::ConnectData). `kato` is the Keep Alive Timeout in
/// milliseconds; it means something for queue 0 only.
#[must_use]
pub const fn connect(qid: u16, queue: ConnectCdw11, kato: u32) -> Sqe {
    Sqe {
        cdw10: ConnectCdw10::new().with_qid(qid).into_bits(),
        cdw11: queue.into_bits(),
        cdw12: kato,
        ..fabrics(Fctype::CONNECT)
    }
}

/// ATTRIB of Property Get and Set: four bytes.
pub const PROPERTY_4: u8 = 0;
/// ATTRIB of Property Get and Set: eight bytes.
pub const PROPERTY_8: u8 = 1;

/// Bytes of the property at `offset`, as the documents define it; `None` where fabrics has no
/// such property (Base 2.1, "Property Definition").
#[must_use]
pub const fn property_size(offset: u64) -> Option<u8> {
    match offset {
        offset::CAP => Some(8),
        offset::VS | offset::CC | offset::CSTS | offset::NSSR | offset::NSSD | offset::CRTO => {
            Some(4)
        }
        _ => None,
    }
}

/// Property Get (Base 2.1, "Property Get Command"): the `size` bytes, 4 or 8, of the property at
/// `offset`. The completion's DW0 and DW1 are its value.
#[must_use]
pub const fn property_get(offset: u32, size: u8) -> Sqe {
    Sqe { cdw10: attrib(size) as u32, cdw11: offset, ..fabrics(Fctype::PROPERTY_GET) }
}

/// Property Set (Base 2.1, "Property Set Command"): the `size` bytes, 4 or 8, of the property at
/// `offset`.
#[must_use]
pub const fn property_set(offset: u32, size: u8, value: u64) -> Sqe {
    Sqe {
        cdw10: attrib(size) as u32,
        cdw11: offset,
        cdw12: low(value),
        cdw13: high(value),
        ..fabrics(Fctype::PROPERTY_SET)
    }
}

const fn attrib(size: u8) -> u8 {
    if size == 8 { PROPERTY_8 } else { PROPERTY_4 }
}

/// What a Property Get or Property Set asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property {
    /// OFST: the register.
    pub offset: u32,
    /// ATTRIB's size: 4 or 8 bytes; `None` where it is neither.
    pub size: Option<u8>,
    /// VALUE, of Property Set.
    pub value: u64,
}

impl Property {
    /// The fields of a Property Get or Property Set.
    #[must_use]
    pub const fn of(sqe: &Sqe) -> Property {
        let size = match sqe.cdw10 as u8 & 7 {
            PROPERTY_4 => Some(4),
            PROPERTY_8 => Some(8),
            _ => None,
        };
        Property { offset: sqe.cdw11, size, value: pair(sqe.cdw12, sqe.cdw13) }
    }
}

/// Disconnect (Base 2.1, "Disconnect Command"): ends the I/O queue that it comes on.
#[must_use]
pub const fn disconnect() -> Sqe {
    fabrics(Fctype::DISCONNECT)
}
