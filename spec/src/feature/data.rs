//! Feature values that move through a buffer.

use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One range of LBA Range Type, 64 bytes (NVM 1.1, "LBA Range Type - Data Structure Entry").
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
pub struct LbaRange {
    /// TYPE: 0 general, 1 filesystem, 2 RAID, 3 cache, 4 swap.
    pub kind: u8,
    /// ATTRB: bit 0 may be overwritten, bit 1 hidden from the operating system.
    pub attrb: u8,
    _reserved_2: [u8; 14],
    /// SLBA: Starting LBA.
    pub slba: U64,
    /// NLB: Number of Logical Blocks, minus one.
    pub nlb_z: U64,
    /// GUID: Unique Identifier.
    pub guid: [u8; 16],
    _reserved_48: [u8; 16],
}

const _: () = assert!(size_of::<LbaRange>() == 64);
const _: () = assert!(offset_of!(LbaRange, slba) == 16);

/// One entry of Autonomous Power State Transition, 8 bytes (Base 2.1, "Autonomous Power State
/// Transition Data Structure Entry").
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AutonomousPowerState {
    #[bits(3)]
    __: u8,
    /// ITPS: Idle Transition Power State.
    #[bits(5)]
    pub itps: u8,
    /// ITPT: Idle Time Prior to Transition, in milliseconds; 0 never.
    #[bits(24)]
    pub itpt: u32,
    __: u32,
}

/// Host Memory Buffer's attributes, 4096 bytes (Base 2.1, "Host Memory Buffer - Attributes Data
/// Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HostMemoryAttributes {
    /// HSIZE: Host Memory Buffer Size, in memory pages.
    pub hsize: U32,
    /// HMDLAL: Host Memory Descriptor List Address Lower.
    pub hmdlal: U32,
    /// HMDLAU: Host Memory Descriptor List Address Upper.
    pub hmdlau: U32,
    /// HMDLEC: Host Memory Descriptor List Entry Count.
    pub hmdlec: U32,
    _reserved_16: [u8; 4080],
}

const _: () = assert!(size_of::<HostMemoryAttributes>() == 4096);

/// Host Memory Buffer Descriptor Entry, 16 bytes (Base 2.1, "Host Memory Buffer - Host Memory
/// Buffer Descriptor Entry").
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
pub struct HostMemoryDescriptor {
    /// BADD: Buffer Address, aligned to CC.MPS.
    pub badd: U64,
    /// BSIZE: Buffer Size, in memory pages.
    pub bsize: U32,
    _reserved_12: U32,
}

const _: () = assert!(size_of::<HostMemoryDescriptor>() == 16);

impl HostMemoryDescriptor {
    /// The descriptor of `pages` pages at `address`.
    #[must_use]
    pub const fn new(address: u64, pages: u32) -> HostMemoryDescriptor {
        let (badd, bsize) = (U64::new(address), U32::new(pages));
        HostMemoryDescriptor { badd, bsize, _reserved_12: U32::new(0) }
    }
}

/// Timestamp, 8 bytes (Base 2.1, "Timestamp").
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
pub struct Timestamp {
    millis: [u8; 6],
    /// Bit 0: the count may have stopped at times; bits 3:1: 0 counted from a reset, 1 set by a
    /// host.
    pub attributes: u8,
    _reserved_7: u8,
}

const _: () = assert!(size_of::<Timestamp>() == 8);
const _: () = assert!(offset_of!(Timestamp, attributes) == 6);

impl Timestamp {
    /// The timestamp of so many milliseconds since 1970, of which 48 bits are kept.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Timestamp {
        let [a, b, c, d, e, f, _, _] = millis.to_le_bytes();
        Timestamp { millis: [a, b, c, d, e, f], attributes: 0, _reserved_7: 0 }
    }

    /// Milliseconds since 1970, or since a reset where no host set them.
    #[must_use]
    pub const fn millis(self) -> u64 {
        let [a, b, c, d, e, f] = self.millis;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Host Behavior Support, 512 bytes (Base 2.1, "Host Behavior Support - Data Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HostBehavior {
    /// ACRE: Advanced Command Retry Enable: the host honours CRD.
    pub acre: u8,
    /// ETDAS: Extended Telemetry Data Area 4 Supported.
    pub etdas: u8,
    /// LBAFEE: LBA Format Extension Enable: formats past the first 16.
    pub lbafee: u8,
    /// HDISNS: Host Dispersed Namespace Support.
    pub hdisns: u8,
    /// CDFE: Copy Descriptor Formats Enable, one bit a format.
    pub cdfe: U16,
    _reserved_6: [u8; 506],
}

const _: () = assert!(size_of::<HostBehavior>() == 512);
const _: () = assert!(offset_of!(HostBehavior, cdfe) == 4);
