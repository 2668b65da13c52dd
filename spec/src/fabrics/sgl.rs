//! SGL descriptors, as far as fabrics use them: one, in the command itself.

use crate::command::{Cdw0, Sqe, high, low, pair};
use crate::open_set::open_set;
use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_set! {
    /// SGL Identifier: type in the upper half, subtype in the lower (Base 2.1, "SGL Descriptor
    /// Types" and "SGL Descriptor Sub Type Values").
    pub struct SglId(u8): "Unknown SGL Descriptor" {
        DATA_BLOCK = 0x00, "Data Block at an Address";
        IN_CAPSULE = 0x01, "Data Block at an Offset in the Capsule";
        BIT_BUCKET = 0x10, "Bit Bucket";
        SEGMENT = 0x20, "Segment";
        LAST_SEGMENT = 0x30, "Last Segment";
        KEYED = 0x40, "Keyed Data Block";
        TRANSPORT = 0x5a, "Transport Data Block";
    }
}

/// SGL Descriptor, 16 bytes (Base 2.1, "SGL Descriptor Format"), in the place of the PRP entries.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Sgl {
    /// Address; with [`SglId::IN_CAPSULE`] an offset from the start of the in-capsule data.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    _reserved_12: [u8; 3],
    /// SGL Identifier.
    pub id: SglId,
}

const _: () = assert!(size_of::<Sgl>() == 16);
const _: () = assert!(offset_of!(Sgl, id) == 15);

impl Sgl {
    /// `length` bytes in the capsule, from its data's start.
    #[inline]
    #[must_use]
    pub const fn in_capsule(length: u32) -> Sgl {
        Sgl { address: 0, length, _reserved_12: [0; 3], id: SglId::IN_CAPSULE }
    }

    /// `length` bytes that the transport moves: by C2HData, or R2T and H2CData.
    #[inline]
    #[must_use]
    pub const fn transport(length: u32) -> Sgl {
        Sgl { address: 0, length, _reserved_12: [0; 3], id: SglId::TRANSPORT }
    }
}

impl Sqe {
    /// The data pointer as an SGL descriptor, whatever PSDT says.
    #[inline]
    #[must_use]
    pub const fn sgl(&self) -> Sgl {
        let [a, b, c, id] = high(self.prp2).to_le_bytes();
        Sgl { address: self.prp1, length: low(self.prp2), _reserved_12: [a, b, c], id: SglId(id) }
    }

    /// The same command with this descriptor as its data pointer, and PSDT saying so.
    #[inline]
    #[must_use]
    pub const fn with_sgl(mut self, sgl: Sgl) -> Sqe {
        const PSDT: u32 = (Cdw0::PSDT_SGL as u32) << 14;
        self.cdw0 = Cdw0::from_bits(self.cdw0.into_bits() & !(3 << 14) | PSDT);
        let [a, b, c] = sgl._reserved_12;
        self.prp1 = sgl.address;
        self.prp2 = pair(sgl.length, u32::from_le_bytes([a, b, c, sgl.id.0]));
        self
    }
}
