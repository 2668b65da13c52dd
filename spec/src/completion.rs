//! The completion queue entry.
//!
//! Owns the 16 bytes that answer every command (Base 2.1, "Completion Queue Entry"). The status in
//! it is [`Status`].

use crate::command::{high, low, pair};
use crate::status::Status;
use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Completion Queue Entry, 16 bytes (Base 2.1, "Completion Queue Entry").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Cqe {
    /// DW0: the command's own result.
    pub dw0: u32,
    /// DW1: the command's own result, upper half.
    pub dw1: u32,
    /// SQHD: Submission Queue Head Pointer.
    pub sqhd: u16,
    /// SQID: Submission Queue Identifier.
    pub sqid: u16,
    /// CID: Command Identifier of the command that completes.
    pub cid: u16,
    /// P and the status.
    pub status: StatusField,
}

const _: () = assert!(size_of::<Cqe>() == 16);
const _: () = assert!(align_of::<Cqe>() == 8);
const _: () = assert!(offset_of!(Cqe, sqhd) == 8);
const _: () = assert!(offset_of!(Cqe, cid) == 12);
const _: () = assert!(offset_of!(Cqe, status) == 14);

impl Cqe {
    /// Bytes in an entry.
    pub const SIZE: usize = 16;
    /// The phase tag in the entry's second word ([`Cqe::to_words`]).
    pub const PHASE_BIT: u64 = 1 << 48;

    /// DW0 and DW1 as one value.
    #[inline]
    #[must_use]
    pub const fn result(&self) -> u64 {
        pair(self.dw0, self.dw1)
    }

    /// P: Phase Tag.
    #[inline]
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.status.p()
    }

    /// The status, without the phase tag.
    #[inline]
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status.status()
    }

    /// The entry as two words. The second one holds the phase tag: store it last, load it first.
    #[inline]
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        [
            pair(self.dw0, self.dw1),
            pair(
                self.sqhd as u32 | (self.sqid as u32) << 16,
                self.cid as u32 | (self.status.into_bits() as u32) << 16,
            ),
        ]
    }

    /// The entry that these two words hold.
    #[inline]
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Cqe {
        let [w0, w1] = words;
        Cqe {
            dw0: low(w0),
            dw1: high(w0),
            sqhd: low(w1) as u16,
            sqid: (low(w1) >> 16) as u16,
            cid: high(w1) as u16,
            status: StatusField::from_bits((high(w1) >> 16) as u16),
        }
    }
}

/// The last 16 bits of a completion: P in bit 0, the status in bits 15:1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct StatusField(u16);

impl StatusField {
    /// The field that holds this status and phase tag.
    #[inline]
    #[must_use]
    pub const fn new(status: Status, p: bool) -> StatusField {
        StatusField(status.into_bits() << 1 | p as u16)
    }

    /// The field with these bits.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> StatusField {
        StatusField(bits)
    }

    /// The bits.
    #[inline]
    #[must_use]
    pub const fn into_bits(self) -> u16 {
        self.0
    }

    /// P: Phase Tag.
    #[inline]
    #[must_use]
    pub const fn p(self) -> bool {
        self.0 & 1 != 0
    }

    /// The status, without the phase tag.
    #[inline]
    #[must_use]
    pub const fn status(self) -> Status {
        Status::from_bits(self.0 >> 1)
    }
}

impl From<u16> for StatusField {
    fn from(bits: u16) -> StatusField {
        StatusField::from_bits(bits)
    }
}

impl From<StatusField> for u16 {
    fn from(field: StatusField) -> u16 {
        field.into_bits()
    }
}

#[cfg(test)]
mod tests;
