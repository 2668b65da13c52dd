//! The submission queue entry.
//!
//! Owns the 64 bytes common to all commands (Base 2.1, "Submission Queue Entry"). Command dwords
//! 10 to 15 are the commands' own: [`crate::admin`] and [`crate::nvm`] build and name them.

use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The namespace identifier that means every namespace.
pub const NSID_ALL: u32 = 0xffff_ffff;

/// Submission Queue Entry, 64 bytes (Base 2.1, "Submission Queue Entry").
///
/// Native integers, aligned to 8 bytes: the driver stores it into the ring as eight words
/// ([`Sqe::to_words`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Sqe {
    /// CDW0: opcode, fusing, data pointer kind, command identifier.
    pub cdw0: Cdw0,
    /// NSID: Namespace Identifier.
    pub nsid: u32,
    /// CDW2: Command Dword 2.
    pub cdw2: u32,
    /// CDW3: Command Dword 3.
    pub cdw3: u32,
    /// MPTR: Metadata Pointer.
    pub mptr: u64,
    /// DPTR, first half: PRP Entry 1.
    pub prp1: u64,
    /// DPTR, second half: PRP Entry 2.
    pub prp2: u64,
    /// CDW10: Command Dword 10.
    pub cdw10: u32,
    /// CDW11: Command Dword 11.
    pub cdw11: u32,
    /// CDW12: Command Dword 12.
    pub cdw12: u32,
    /// CDW13: Command Dword 13.
    pub cdw13: u32,
    /// CDW14: Command Dword 14.
    pub cdw14: u32,
    /// CDW15: Command Dword 15.
    pub cdw15: u32,
}

const _: () = assert!(size_of::<Sqe>() == 64);
const _: () = assert!(align_of::<Sqe>() == 8);
const _: () = assert!(offset_of!(Sqe, mptr) == 16);
const _: () = assert!(offset_of!(Sqe, prp1) == 24);
const _: () = assert!(offset_of!(Sqe, prp2) == 32);
const _: () = assert!(offset_of!(Sqe, cdw10) == 40);
const _: () = assert!(offset_of!(Sqe, cdw15) == 60);

impl Sqe {
    /// Bytes in an entry.
    pub const SIZE: usize = 64;

    /// A command with this opcode, for no namespace and with nothing else set.
    #[inline]
    #[must_use]
    pub const fn new(opcode: u8) -> Sqe {
        Sqe {
            cdw0: Cdw0::from_bits(opcode as u32),
            nsid: 0,
            cdw2: 0,
            cdw3: 0,
            mptr: 0,
            prp1: 0,
            prp2: 0,
            cdw10: 0,
            cdw11: 0,
            cdw12: 0,
            cdw13: 0,
            cdw14: 0,
            cdw15: 0,
        }
    }

    /// The opcode.
    #[inline]
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.cdw0.into_bits() as u8
    }

    /// CID: Command Identifier.
    #[inline]
    #[must_use]
    pub const fn cid(&self) -> u16 {
        (self.cdw0.into_bits() >> 16) as u16
    }

    /// The same command with this command identifier.
    #[inline]
    #[must_use]
    pub const fn with_cid(mut self, cid: u16) -> Sqe {
        // By hand: the bit field's own setter is a call where the crates are not linked as one.
        self.cdw0 = Cdw0::from_bits(self.cdw0.into_bits() & 0xffff | (cid as u32) << 16);
        self
    }

    /// The same command for this namespace.
    #[inline]
    #[must_use]
    pub const fn with_nsid(mut self, nsid: u32) -> Sqe {
        self.nsid = nsid;
        self
    }

    /// The same command with these two PRP entries as its data pointer.
    #[inline]
    #[must_use]
    pub const fn with_prp(mut self, prp1: u64, prp2: u64) -> Sqe {
        self.prp1 = prp1;
        self.prp2 = prp2;
        self
    }

    /// Which way data moves, as the opcode says.
    #[inline]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        Direction::of_opcode(self.opcode())
    }

    /// SLBA of an I/O command, or any quantity that takes command dwords 10 and 11.
    #[inline]
    #[must_use]
    pub const fn cdw10_11(&self) -> u64 {
        pair(self.cdw10, self.cdw11)
    }

    /// The entry as eight words, in ring order.
    #[inline]
    #[must_use]
    pub const fn to_words(self) -> [u64; 8] {
        [
            pair(self.cdw0.into_bits(), self.nsid),
            pair(self.cdw2, self.cdw3),
            self.mptr,
            self.prp1,
            self.prp2,
            pair(self.cdw10, self.cdw11),
            pair(self.cdw12, self.cdw13),
            pair(self.cdw14, self.cdw15),
        ]
    }

    /// The entry that these eight words hold.
    #[inline]
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Sqe {
        let [w0, w1, mptr, prp1, prp2, w5, w6, w7] = words;
        Sqe {
            cdw0: Cdw0::from_bits(low(w0)),
            nsid: high(w0),
            cdw2: low(w1),
            cdw3: high(w1),
            mptr,
            prp1,
            prp2,
            cdw10: low(w5),
            cdw11: high(w5),
            cdw12: low(w6),
            cdw13: high(w6),
            cdw14: low(w7),
            cdw15: high(w7),
        }
    }
}

/// Two dwords as one word, in memory order.
#[inline]
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The dword at the lower address of a word.
#[inline]
pub(crate) const fn low(word: u64) -> u32 {
    word as u32
}

/// The dword at the higher address of a word.
#[inline]
pub(crate) const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// CDW0: Command Dword 0 (Base 2.1, "Submission Queue Entry", Command Dword 0).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Cdw0 {
    /// OPC: Opcode.
    pub opc: u8,
    /// FUSE: Fused Operation, one of the `FUSE_` constants.
    #[bits(2)]
    pub fuse: u8,
    #[bits(4)]
    __: u8,
    /// PSDT: PRP or SGL for Data Transfer, one of the `PSDT_` constants.
    #[bits(2)]
    pub psdt: u8,
    /// CID: Command Identifier, unique in its submission queue while outstanding.
    pub cid: u16,
}

impl Cdw0 {
    /// FUSE: a command on its own.
    pub const FUSE_NONE: u8 = 0;
    /// FUSE: the first of two fused commands.
    pub const FUSE_FIRST: u8 = 1;
    /// FUSE: the second of two fused commands.
    pub const FUSE_SECOND: u8 = 2;
    /// PSDT: the data pointer holds PRP entries.
    pub const PSDT_PRP: u8 = 0;
    /// PSDT: SGLs, and MPTR is the address of one contiguous buffer.
    pub const PSDT_SGL: u8 = 1;
    /// PSDT: SGLs, and MPTR is the address of an SGL segment.
    pub const PSDT_SGL_METADATA: u8 = 2;
}

/// Data transfer direction, bits 1:0 of every opcode (Base 2.1, "Opcode" fields).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// 00b: the command moves no data.
    None,
    /// 01b: from the host to the controller.
    ToController,
    /// 10b: from the controller to the host.
    FromController,
    /// 11b: both ways.
    Bidirectional,
}

impl Direction {
    /// The direction that an opcode implies.
    #[inline]
    #[must_use]
    pub const fn of_opcode(opcode: u8) -> Direction {
        match opcode & 3 {
            0 => Direction::None,
            1 => Direction::ToController,
            2 => Direction::FromController,
            _ => Direction::Bidirectional,
        }
    }
}

#[cfg(test)]
mod tests;
