//! What Connect carries, and what it answers.

use crate::fabrics::{NqnError, nqn, nqn_field};
use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// CNTLID of a Connect for the admin queue: the subsystem picks a controller.
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// CNTLID of a Connect for the admin queue: any controller that exists already (static model).
pub const CNTLID_STATIC: u16 = 0xfffe;

/// Connect Data, 1024 bytes (Base 2.1, "Connect Command", Data).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID: Host Identifier, a UUID; not zero.
    pub hostid: [u8; 16],
    /// CNTLID: Controller ID: [`CNTLID_DYNAMIC`], [`CNTLID_STATIC`], or one that exists.
    pub cntlid: U16,
    _reserved_18: [u8; 238],
    /// SUBNQN: NVM Subsystem NVMe Qualified Name.
    pub subnqn: [u8; 256],
    /// HOSTNQN: Host NVMe Qualified Name.
    pub hostnqn: [u8; 256],
    _reserved_768: [u8; 256],
}

const _: () = assert!(size_of::<ConnectData>() == 1024);
const _: () = assert!(offset_of!(ConnectData, subnqn) == data_offset::SUBNQN as usize);
const _: () = assert!(offset_of!(ConnectData, hostnqn) == data_offset::HOSTNQN as usize);
const _: () = assert!(offset_of!(ConnectData, cntlid) == data_offset::CNTLID as usize);

/// Byte offsets in [`ConnectData`], for [`ConnectInvalid`].
pub mod data_offset {
    /// HOSTID.
    pub const HOSTID: u16 = 0;
    /// CNTLID.
    pub const CNTLID: u16 = 16;
    /// SUBNQN.
    pub const SUBNQN: u16 = 256;
    /// HOSTNQN.
    pub const HOSTNQN: u16 = 512;
}

impl ConnectData {
    /// Bytes on the wire.
    pub const SIZE: usize = 1024;

    /// The data of a Connect. NQNs are cut to what fits.
    #[must_use]
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &str, hostnqn: &str) -> ConnectData {
        ConnectData {
            hostid,
            cntlid: U16::new(cntlid),
            _reserved_18: [0; 238],
            subnqn: nqn_field(subnqn),
            hostnqn: nqn_field(hostnqn),
            _reserved_768: [0; 256],
        }
    }

    /// The subsystem's NQN.
    ///
    /// # Errors
    /// [`NqnError`] where the field holds none.
    pub fn subnqn(&self) -> Result<&str, NqnError> {
        nqn(&self.subnqn)
    }

    /// The host's NQN.
    ///
    /// # Errors
    /// [`NqnError`] where the field holds none.
    pub fn hostnqn(&self) -> Result<&str, NqnError> {
        nqn(&self.hostnqn)
    }
}

/// Completion DW0 of a Connect that succeeded (Base 2.1, "Connect Response").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ConnectResult {
    /// CNTLID: the controller that the queue belongs to.
    pub cntlid: u16,
    __: bool,
    /// AUTHREQ, ATR: the queue must authenticate before anything else.
    pub atr: bool,
    /// AUTHREQ, ASCR: it must authenticate and set up a secure channel.
    pub ascr: bool,
    #[bits(13)]
    __: u16,
}

/// Completion DW0 of a Connect with Connect Invalid Parameters (Base 2.1, "Connect Response").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ConnectInvalid {
    /// IPO: Invalid Parameter Offset, the first byte of the parameter.
    pub ipo: u16,
    /// IATTR: the offset is in the data, not in the command.
    pub in_data: bool,
    #[bits(15)]
    __: u16,
}

impl ConnectInvalid {
    /// The parameter at `offset` of the command.
    #[must_use]
    pub const fn command(offset: u16) -> ConnectInvalid {
        ConnectInvalid::new().with_ipo(offset)
    }

    /// The parameter at `offset` of the data.
    #[must_use]
    pub const fn data(offset: u16) -> ConnectInvalid {
        ConnectInvalid::new().with_ipo(offset).with_in_data(true)
    }

    /// The name of the parameter, where it is one of Connect's.
    #[must_use]
    pub const fn parameter(self) -> &'static str {
        use crate::fabrics::command::connect_offset;
        match (self.in_data(), self.ipo()) {
            (false, connect_offset::RECFMT) => "RECFMT",
            (false, connect_offset::QID) => "QID",
            (false, connect_offset::SQSIZE) => "SQSIZE",
            (false, connect_offset::CATTR) => "CATTR",
            (false, connect_offset::KATO) => "KATO",
            (true, data_offset::HOSTID) => "HOSTID",
            (true, data_offset::CNTLID) => "CNTLID",
            (true, data_offset::SUBNQN) => "SUBNQN",
            (true, data_offset::HOSTNQN) => "HOSTNQN",
            _ => "unknown parameter",
        }
    }
}
