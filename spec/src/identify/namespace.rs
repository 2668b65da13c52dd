//! Identify Namespace (NVM 1.1, "Identify Namespace Data Structure, NVM Command Set").

use super::flags::{Dlfeat, Flbas, Nsfeat};
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Namespace, CNS 00h and 11h, 4096 bytes (NVM 1.1, "Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE: Namespace Size, in blocks.
    pub nsze: U64,
    /// NCAP: Namespace Capacity, in blocks.
    pub ncap: U64,
    /// NUSE: Namespace Utilization, in blocks.
    pub nuse: U64,
    /// NSFEAT: Namespace Features, an [`super::Nsfeat`].
    pub nsfeat: u8,
    /// NLBAF: Number of LBA Formats, minus one.
    pub nlbaf_z: u8,
    /// FLBAS: Formatted LBA Size, an [`super::Flbas`].
    pub flbas: u8,
    /// MC: Metadata Capabilities: bit 0 with the data, bit 1 in a buffer of its own.
    pub mc: u8,
    /// DPC: End-to-end Data Protection Capabilities.
    pub dpc: u8,
    /// DPS: End-to-end Data Protection Type Settings: type in bits 2:0, bit 3 first in the
    /// metadata.
    pub dps: u8,
    /// NMIC: Namespace Multi-path I/O and Namespace Sharing Capabilities: bit 0 shared.
    pub nmic: u8,
    /// RESCAP: Reservation Capabilities.
    pub rescap: u8,
    /// FPI: Format Progress Indicator.
    pub fpi: u8,
    /// DLFEAT: Deallocate Logical Block Features, a [`super::Dlfeat`].
    pub dlfeat: u8,
    /// NAWUN: Namespace Atomic Write Unit Normal, in blocks, minus one.
    pub nawun_z: U16,
    /// NAWUPF: Namespace Atomic Write Unit Power Fail, in blocks, minus one.
    pub nawupf_z: U16,
    /// NACWU: Namespace Atomic Compare and Write Unit, in blocks, minus one.
    pub nacwu_z: U16,
    /// NABSN: Namespace Atomic Boundary Size Normal, in blocks, minus one; 0 none.
    pub nabsn_z: U16,
    /// NABO: Namespace Atomic Boundary Offset, in blocks.
    pub nabo: U16,
    /// NABSPF: Namespace Atomic Boundary Size Power Fail, in blocks, minus one; 0 none.
    pub nabspf_z: U16,
    /// NOIOB: Namespace Optimal I/O Boundary, in blocks; 0 none.
    pub noiob: U16,
    /// NVMCAP: NVM Capacity, in bytes.
    pub nvmcap: U128,
    /// NPWG: Namespace Preferred Write Granularity, in blocks, minus one.
    pub npwg_z: U16,
    /// NPWA: Namespace Preferred Write Alignment, in blocks, minus one.
    pub npwa_z: U16,
    /// NPDG: Namespace Preferred Deallocate Granularity, in blocks, minus one.
    pub npdg_z: U16,
    /// NPDA: Namespace Preferred Deallocate Alignment, in blocks, minus one.
    pub npda_z: U16,
    /// NOWS: Namespace Optimal Write Size, in blocks, minus one.
    pub nows_z: U16,
    /// MSSRL: Maximum Single Source Range Length of Copy, in blocks.
    pub mssrl: U16,
    /// MCL: Maximum Copy Length, in blocks.
    pub mcl: U32,
    /// MSRC: Maximum Source Range Count of Copy, minus one.
    pub msrc_z: u8,
    /// KPIOS: Key Per I/O Status.
    pub kpios: u8,
    /// NULBAF: Number of Unique Attribute LBA Formats, which follow the NLBAF ones.
    pub nulbaf: u8,
    _reserved_83: u8,
    /// KPIODAAG: Key Per I/O Data Access Alignment and Granularity, in blocks, minus one.
    pub kpiodaag_z: U32,
    _reserved_88: [u8; 4],
    /// ANAGRPID: ANA Group Identifier.
    pub anagrpid: U32,
    _reserved_96: [u8; 3],
    /// NSATTR: Namespace Attributes: bit 0 write protected now.
    pub nsattr: u8,
    /// NVMSETID: NVM Set Identifier.
    pub nvmsetid: U16,
    /// ENDGID: Endurance Group Identifier.
    pub endgid: U16,
    /// NGUID: Namespace Globally Unique Identifier, most significant byte first; 0 none.
    pub nguid: [u8; 16],
    /// EUI64: IEEE Extended Unique Identifier, most significant byte first; 0 none.
    pub eui64: [u8; 8],
    /// LBAF: LBA Formats; [`IdentifyNamespace::formats`] says how many there are.
    pub lbaf: [LbaFormat; 64],
    /// VS: Vendor Specific.
    pub vs: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(offset_of!(IdentifyNamespace, kpiodaag_z) == 84);
const _: () = assert!(offset_of!(IdentifyNamespace, anagrpid) == 92);
const _: () = assert!(offset_of!(IdentifyNamespace, nsattr) == 99);
const _: () = assert!(offset_of!(IdentifyNamespace, nguid) == 104);
const _: () = assert!(offset_of!(IdentifyNamespace, lbaf) == 128);

impl IdentifyNamespace {
    /// NSFEAT, named bit by bit.
    #[must_use]
    pub const fn nsfeat(&self) -> Nsfeat {
        Nsfeat::from_bits(self.nsfeat)
    }

    /// FLBAS, named bit by bit.
    #[must_use]
    pub const fn flbas(&self) -> Flbas {
        Flbas::from_bits(self.flbas)
    }

    /// DLFEAT, named bit by bit.
    #[must_use]
    pub const fn dlfeat(&self) -> Dlfeat {
        Dlfeat::from_bits(self.dlfeat)
    }

    /// Whether nothing is there: the zero-filled page of an inactive namespace, or a namespace
    /// without size or capacity (PIT-36).
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        self.nsze.get() == 0 || self.ncap.get() == 0
    }

    /// LBA formats that the namespace supports: NLBAF plus one, and NULBAF that have capabilities
    /// of their own (NVM 1.1, "LBA Formats").
    #[must_use]
    pub const fn formats(&self) -> u16 {
        self.nlbaf_z as u16 + 1 + self.nulbaf as u16
    }

    /// Index of the format in use: FLBAS bits 3:0, and bits 6:5 above them where there are more
    /// than 16 formats.
    #[must_use]
    pub const fn format_index(&self) -> u8 {
        let flbas = self.flbas();
        if self.formats() > 16 { flbas.lower() | flbas.upper() << 4 } else { flbas.lower() }
    }

    /// The format in use, where its index is one of a format that exists (PIT-38).
    #[must_use]
    pub fn lba_format(&self) -> Option<LbaFormat> {
        let index = self.format_index();
        if u16::from(index) >= self.formats() || usize::from(self.formats()) > self.lbaf.len() {
            return None;
        }
        self.lbaf.get(usize::from(index)).copied()
    }

    /// Bytes of data in a block of the format in use, where the format is one that can be used
    /// (PIT-37, PIT-38).
    #[must_use]
    pub fn block_size(&self) -> Option<u32> {
        self.lba_format()?.block_size()
    }

    /// Bytes of data in the namespace, where that is a number of 64 bits (PIT-39).
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.nsze.get().checked_mul(u64::from(self.block_size()?))
    }
}

/// LBA Format Data Structure, 4 bytes (NVM 1.1, "LBA Format Data Structure, NVM Command Set").
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
pub struct LbaFormat {
    /// MS: Metadata Size, in bytes a block.
    pub ms: U16,
    /// LBADS: LBA Data Size, a power of two; 0: the format is not available.
    pub lbads: u8,
    /// RP in bits 1:0: Relative Performance, 0 best.
    pub rp: u8,
}

const _: () = assert!(size_of::<LbaFormat>() == 4);

impl LbaFormat {
    /// The smallest LBADS that is valid: 512 bytes.
    pub const LBADS_MIN: u8 = 9;

    /// The format with blocks of `2 ^ lbads` bytes and without metadata.
    #[must_use]
    pub const fn new(lbads: u8) -> LbaFormat {
        LbaFormat { ms: U16::new(0), lbads, rp: 0 }
    }

    /// Bytes of data in a block, where LBADS is valid and 32 bits hold the size.
    #[must_use]
    pub const fn block_size(self) -> Option<u32> {
        match self.lbads {
            Self::LBADS_MIN..=31 => Some(1 << self.lbads),
            _ => None,
        }
    }

    /// RP: Relative Performance, 0 best to 3 degraded.
    #[must_use]
    pub const fn relative_performance(self) -> u8 {
        self.rp & 3
    }
}
