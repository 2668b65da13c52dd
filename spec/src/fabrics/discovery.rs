//! The Discovery log page (LID 70h): which subsystems there are, and where.

use crate::fabrics::{NqnError, nqn};
use crate::identify::Text;
use crate::open_set::open_set;
use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of [`DiscoveryHeader`] and of each [`DiscoveryEntry`].
pub const RECORD: usize = 1024;

/// Header of the Discovery log page, 1024 bytes; [`DiscoveryEntry`]s follow (Base 2.1, "Discovery
/// Log Page").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: Generation Counter, which changes whenever the page does. A page read in parts is
    /// good only if it is the same before and after.
    pub genctr: U64,
    /// NUMREC: Number of Records.
    pub numrec: U64,
    /// RECFMT: Record Format, 0.
    pub recfmt: U16,
    /// DLPF: Discovery Log Page Flags; bit 0: extended entries.
    pub dlpf: u8,
    _reserved_19: u8,
    /// TDLPL: Total Discovery Log Page Length, where entries are extended.
    pub tdlpl: U32,
    _reserved_24: [u8; 1000],
}

const _: () = assert!(size_of::<DiscoveryHeader>() == RECORD);
const _: () = assert!(offset_of!(DiscoveryHeader, recfmt) == 16);
const _: () = assert!(offset_of!(DiscoveryHeader, tdlpl) == 20);

open_set! {
    /// TRTYPE: Transport Type (Base 2.1, "Discovery Log Page Entry").
    #[derive(zerocopy::Unaligned)]
    pub struct TransportType(u8): "Unknown Transport" {
        RDMA = 0x01, "RDMA";
        FC = 0x02, "Fibre Channel";
        TCP = 0x03, "TCP";
        LOOP = 0xfe, "Intra-host";
    }
}

open_set! {
    /// ADRFAM: Address Family (Base 2.1, "Discovery Log Page Entry").
    #[derive(zerocopy::Unaligned)]
    pub struct AddressFamily(u8): "Unknown Address Family" {
        IPV4 = 0x01, "IPv4";
        IPV6 = 0x02, "IPv6";
        IB = 0x03, "InfiniBand";
        FC = 0x04, "Fibre Channel";
        LOOP = 0xfe, "Intra-host";
    }
}

open_set! {
    /// SUBTYPE: Subsystem Type (Base 2.1, "Discovery Log Page Entry").
    #[derive(zerocopy::Unaligned)]
    pub struct SubsystemType(u8): "Unknown Subsystem Type" {
        REFERRAL = 0x01, "Referral", "another discovery subsystem, which knows more";
        NVM = 0x02, "NVM Subsystem";
        CURRENT = 0x03, "Current Discovery Subsystem", "another way to the subsystem that answers";
    }
}

open_set! {
    /// SECTYPE: Security Type of TCP (TCP transport, "Transport Specific Address Subtype").
    #[derive(zerocopy::Unaligned)]
    pub struct SecurityType(u8): "Unknown Security Type" {
        NONE = 0x00, "No Security";
        TLS_1_2 = 0x01, "TLS 1.2";
        TLS_1_3 = 0x02, "TLS 1.3";
    }
}

/// TREQ: Transport Requirements (Base 2.1, "Discovery Log Page Entry").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Treq {
    /// TSC: Secure Channel: 0 not specified, 1 required, 2 not required.
    #[bits(2)]
    pub tsc: u8,
    /// DSQFC: the controller can do without SQ flow control.
    pub no_flow_control: bool,
    #[bits(5)]
    __: u8,
}

impl Treq {
    /// TSC: a secure channel is required.
    pub const SECURE_REQUIRED: u8 = 1;
    /// TSC: a secure channel is not required.
    pub const SECURE_NOT_REQUIRED: u8 = 2;
}

/// EFLAGS: Entry Flags (Base 2.1, "Discovery Log Page Entry").
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Eflags {
    /// DUPRETINFO: this entry leads to the same information as the subsystem that answers.
    pub duplicate: bool,
    /// EPCSD: Explicit Persistent Connection Support for Discovery.
    pub persistent: bool,
    /// NCC: No Centralized Discovery Controller Connectivity.
    pub ncc: bool,
    #[bits(13)]
    __: u16,
}

/// One entry of the Discovery log page, 1024 bytes (Base 2.1, "Discovery Log Page Entry").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE: Transport Type.
    pub trtype: TransportType,
    /// ADRFAM: Address Family.
    pub adrfam: AddressFamily,
    /// SUBTYPE: Subsystem Type.
    pub subtype: SubsystemType,
    /// TREQ: Transport Requirements, a [`Treq`].
    pub treq: u8,
    /// PORTID: Port ID: which of the subsystem's ports.
    pub portid: U16,
    /// CNTLID: Controller ID: FFFFh (dynamic), FFFEh (static), or one controller.
    pub cntlid: U16,
    /// ASQSZ: Admin Max SQ Size, in entries.
    pub asqsz: U16,
    /// EFLAGS: Entry Flags, an [`Eflags`].
    pub eflags: U16,
    _reserved_12: [u8; 20],
    /// TRSVCID: Transport Service Identifier; of TCP the port, in decimal.
    pub trsvcid: [u8; 32],
    _reserved_64: [u8; 192],
    /// SUBNQN: NVM Subsystem NVMe Qualified Name.
    pub subnqn: [u8; 256],
    /// TRADDR: Transport Address; of TCP the IP address.
    pub traddr: [u8; 256],
    /// TSAS: Transport Specific Address Subtype; of TCP, SECTYPE in the first byte.
    pub tsas: [u8; 256],
}

const _: () = assert!(size_of::<DiscoveryEntry>() == RECORD);
const _: () = assert!(offset_of!(DiscoveryEntry, trsvcid) == 32);
const _: () = assert!(offset_of!(DiscoveryEntry, subnqn) == 256);
const _: () = assert!(offset_of!(DiscoveryEntry, tsas) == 768);

impl DiscoveryEntry {
    /// TRADDR, without padding.
    #[must_use]
    pub fn address(&self) -> Text<'_> {
        Text::new(&self.traddr)
    }

    /// TRSVCID, without padding.
    #[must_use]
    pub fn service(&self) -> Text<'_> {
        Text::new(&self.trsvcid)
    }

    /// SUBNQN.
    ///
    /// # Errors
    /// [`NqnError`] where the field holds none.
    pub fn nqn(&self) -> Result<&str, NqnError> {
        nqn(&self.subnqn)
    }

    /// Sets TRADDR: cut to fit, padded with spaces.
    pub fn set_address(&mut self, address: &str) {
        crate::identify::fill(&mut self.traddr, address);
    }

    /// Sets TRSVCID: cut to fit, padded with spaces.
    pub fn set_service(&mut self, service: &str) {
        crate::identify::fill(&mut self.trsvcid, service);
    }

    /// TREQ, named bit by bit.
    #[must_use]
    pub const fn requirements(&self) -> Treq {
        Treq::from_bits(self.treq)
    }

    /// EFLAGS, named bit by bit.
    #[must_use]
    pub const fn flags(&self) -> Eflags {
        Eflags::from_bits(self.eflags.get())
    }

    /// SECTYPE of TCP.
    #[must_use]
    pub const fn security(&self) -> SecurityType {
        let [sectype, ..] = self.tsas;
        SecurityType(sectype)
    }
}
