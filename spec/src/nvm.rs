//! The NVM command set: opcodes, their command dwords, and a builder for each.
//!
//! Owns NVM 1.1 "I/O Commands for the NVM Command Set" and the I/O commands that Base 2.1 shares
//! among command sets. A builder sets everything but the command identifier and the data pointer.

use crate::command::{Cdw0, Sqe, high, low};
use crate::open_set::open_set;
use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_set! {
    /// Opcode of an I/O command of the NVM and Zoned Namespace command sets (NVM 1.1 and ZNS 1.2,
    /// "Opcodes for ... Commands"). The Key Value command set gives some of them other meanings.
    pub struct NvmOpcode(u8): "Unknown I/O Command" {
        FLUSH = 0x00, "Flush";
        WRITE = 0x01, "Write";
        READ = 0x02, "Read";
        WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
        COMPARE = 0x05, "Compare";
        WRITE_ZEROES = 0x08, "Write Zeroes";
        DATASET_MANAGEMENT = 0x09, "Dataset Management";
        VERIFY = 0x0c, "Verify";
        RESERVATION_REGISTER = 0x0d, "Reservation Register";
        RESERVATION_REPORT = 0x0e, "Reservation Report";
        RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
        IO_MANAGEMENT_RECEIVE = 0x12, "I/O Management Receive";
        RESERVATION_RELEASE = 0x15, "Reservation Release";
        CANCEL = 0x18, "Cancel";
        COPY = 0x19, "Copy";
        IO_MANAGEMENT_SEND = 0x1d, "I/O Management Send";
        ZONE_MANAGEMENT_SEND = 0x79, "Zone Management Send";
        ZONE_MANAGEMENT_RECEIVE = 0x7a, "Zone Management Receive";
        ZONE_APPEND = 0x7d, "Zone Append";
    }
}

impl NvmOpcode {
    /// Whether the opcode is one that vendors define, 80h to FFh.
    #[must_use]
    pub const fn is_vendor(self) -> bool {
        self.0 >= 0x80
    }
}

/// The most blocks one command covers: NLB is 16 bits, minus one.
pub const MAX_BLOCKS: u32 = 65_536;
/// The most ranges one Dataset Management command carries.
pub const MAX_DSM_RANGES: usize = 256;

/// Command Dword 12 of Read, Write, Compare, Verify and Write Zeroes (NVM 1.1, "Read command",
/// "Write command", "Write Zeroes command").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IoCdw12 {
    /// NLB: Number of Logical Blocks, minus one.
    pub nlb_z: u16,
    /// CETYPE: Command Extension Type.
    #[bits(4)]
    pub cetype: u8,
    /// DTYPE: Directive Type (Write).
    #[bits(3)]
    pub dtype: u8,
    /// NSZ: Namespace Zeroes (Write Zeroes); the upper bit of DTYPE elsewhere.
    pub nsz: bool,
    /// STC: Storage Tag Check.
    pub stc: bool,
    /// DEAC: Deallocate (Write Zeroes).
    pub deac: bool,
    /// PRCHK: Protection Information Check: bit 0 reference tag, 1 application tag, 2 guard.
    #[bits(3)]
    pub prchk: u8,
    /// PRACT: Protection Information Action.
    pub pract: bool,
    /// FUA: Force Unit Access.
    pub fua: bool,
    /// LR: Limited Retry.
    pub lr: bool,
}

/// Command Dword 11 of Dataset Management (NVM 1.1, "Dataset Management command").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DsmAttributes {
    /// IDR: Integral Dataset for Read.
    pub idr: bool,
    /// IDW: Integral Dataset for Write.
    pub idw: bool,
    /// AD: Deallocate.
    pub ad: bool,
    #[bits(29)]
    __: u32,
}

impl DsmAttributes {
    /// AD alone: deallocate the ranges.
    pub const DEALLOCATE: DsmAttributes = DsmAttributes::from_bits(1 << 2);
}

/// One range of a Dataset Management command, 16 bytes (NVM 1.1, "Dataset Management command").
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
pub struct DsmRange {
    /// CATTR: Context Attributes.
    pub cattr: U32,
    /// LLB: Length in logical blocks, not minus one.
    pub llb: U32,
    /// SLBA: Starting LBA.
    pub slba: U64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);
const _: () = assert!(offset_of!(DsmRange, slba) == 8);

impl DsmRange {
    /// The range of `blocks` blocks from `slba`.
    #[must_use]
    pub const fn new(slba: u64, blocks: u32) -> DsmRange {
        DsmRange { cattr: U32::new(0), llb: U32::new(blocks), slba: U64::new(slba) }
    }
}

/// Flush (NVM 1.1 and Base 2.1, "Flush command"). Covers the writes that completed before it.
#[inline]
#[must_use]
pub const fn flush(nsid: u32) -> Sqe {
    Sqe { nsid, ..Sqe::new(NvmOpcode::FLUSH.0) }
}

/// Read `nlb_z + 1` blocks from `slba` (NVM 1.1, "Read command").
#[inline]
#[must_use]
pub const fn read(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::READ, nsid, slba, nlb_z)
}

/// Write `nlb_z + 1` blocks from `slba` (NVM 1.1, "Write command").
#[inline]
#[must_use]
pub const fn write(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::WRITE, nsid, slba, nlb_z)
}

/// Compare `nlb_z + 1` blocks from `slba` with the buffer (NVM 1.1, "Compare command").
#[inline]
#[must_use]
pub const fn compare(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::COMPARE, nsid, slba, nlb_z)
}

/// Read `nlb_z + 1` blocks from `slba` without moving them (NVM 1.1, "Verify command").
#[inline]
#[must_use]
pub const fn verify(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::VERIFY, nsid, slba, nlb_z)
}

/// Make `nlb_z + 1` blocks from `slba` read as zeroes (NVM 1.1, "Write Zeroes command").
#[inline]
#[must_use]
pub const fn write_zeroes(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::WRITE_ZEROES, nsid, slba, nlb_z)
}

/// Make `nlb_z + 1` blocks from `slba` unreadable until written (NVM 1.1, "Write Uncorrectable
/// command").
#[inline]
#[must_use]
pub const fn write_uncorrectable(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    extent(NvmOpcode::WRITE_UNCORRECTABLE, nsid, slba, nlb_z)
}

/// Dataset Management over `ranges_z + 1` ranges, which the data pointer gives (NVM 1.1, "Dataset
/// Management command"). Some devices read 4096 bytes whatever the number of ranges.
#[inline]
#[must_use]
pub const fn dsm(nsid: u32, ranges_z: u8, attributes: DsmAttributes) -> Sqe {
    Sqe {
        nsid,
        cdw10: ranges_z as u32,
        cdw11: attributes.into_bits(),
        ..Sqe::new(NvmOpcode::DATASET_MANAGEMENT.0)
    }
}

#[inline]
const fn extent(opcode: NvmOpcode, nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    Sqe { nsid, cdw10: low(slba), cdw11: high(slba), cdw12: nlb_z as u32, ..Sqe::new(opcode.0) }
}

/// Options of the I/O commands.
impl Sqe {
    /// FUA: Force Unit Access: the data is on the media before the command completes.
    #[inline]
    #[must_use]
    pub const fn with_fua(mut self) -> Sqe {
        self.cdw12 |= 1 << 30;
        self
    }

    /// LR: Limited Retry: the controller does not try as hard as it could.
    #[inline]
    #[must_use]
    pub const fn with_limited_retry(mut self) -> Sqe {
        self.cdw12 |= 1 << 31;
        self
    }

    /// DEAC: Deallocate what Write Zeroes zeroes, where that reads as zeroes.
    #[inline]
    #[must_use]
    pub const fn with_deallocate(mut self) -> Sqe {
        self.cdw12 |= 1 << 25;
        self
    }

    /// FUSE: this half of a fused operation, one of [`Cdw0`]'s `FUSE_` constants.
    #[inline]
    #[must_use]
    pub const fn with_fuse(mut self, fuse: u8) -> Sqe {
        self.cdw0 = Cdw0::from_bits(self.cdw0.into_bits() & !0x300 | (fuse as u32 & 3) << 8);
        self
    }

    /// Command dword 12 as an I/O command has it.
    #[inline]
    #[must_use]
    pub const fn io_cdw12(&self) -> IoCdw12 {
        IoCdw12::from_bits(self.cdw12)
    }

    /// The command with another Starting LBA.
    #[inline]
    #[must_use]
    pub const fn with_slba(mut self, slba: u64) -> Sqe {
        self.cdw10 = low(slba);
        self.cdw11 = high(slba);
        self
    }

    /// The command over `nlb_z + 1` blocks.
    #[inline]
    #[must_use]
    pub const fn with_nlb_z(mut self, nlb_z: u16) -> Sqe {
        self.cdw12 = self.cdw12 & 0xffff_0000 | nlb_z as u32;
        self
    }

    /// SLBA: Starting LBA of an I/O command.
    #[inline]
    #[must_use]
    pub const fn slba(&self) -> u64 {
        self.cdw10_11()
    }

    /// NLB of an I/O command, minus one.
    #[inline]
    #[must_use]
    pub const fn nlb_z(&self) -> u16 {
        self.cdw12 as u16
    }
}

#[cfg(test)]
mod tests;
