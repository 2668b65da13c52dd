//! Identify Namespace that every I/O command set shares (Base 2.1, "I/O Command Set Independent
//! Identify Namespace Data Structure").

use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// I/O Command Set Independent Identify Namespace, CNS 08h, 4096 bytes (Base 2.1, "I/O Command Set
/// Independent Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndependentNamespace {
    /// NSFEAT: Common Namespace Features; bits 7:5 and 3 only, see the document.
    pub nsfeat: u8,
    /// NMIC: Namespace Multi-path I/O and Namespace Sharing Capabilities: bit 0 shared.
    pub nmic: u8,
    /// RESCAP: Reservation Capabilities.
    pub rescap: u8,
    /// FPI: Format Progress Indicator.
    pub fpi: u8,
    /// ANAGRPID: ANA Group Identifier.
    pub anagrpid: U32,
    /// NSATTR: Namespace Attributes: bit 0 write protected now.
    pub nsattr: u8,
    _reserved_9: u8,
    /// NVMSETID: NVM Set Identifier.
    pub nvmsetid: U16,
    /// ENDGID: Endurance Group Identifier.
    pub endgid: U16,
    /// NSTAT: Namespace Status, see [`IndependentNamespace::NRDY`].
    pub nstat: u8,
    _reserved_15: [u8; 4081],
}

const _: () = assert!(size_of::<IndependentNamespace>() == 4096);
const _: () = assert!(offset_of!(IndependentNamespace, nvmsetid) == 10);
const _: () = assert!(offset_of!(IndependentNamespace, nstat) == 14);

impl IndependentNamespace {
    /// Bit of NSTAT: the namespace is ready to process commands that need its media.
    pub const NRDY: u8 = 1 << 0;
}
