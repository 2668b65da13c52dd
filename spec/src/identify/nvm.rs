//! Identify Controller of the NVM command set (NVM 1.1, "I/O Command Set Specific Identify Controller Data Structure").

use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// I/O Command Set Specific Identify Controller for the NVM command set, CNS 06h with CSI 00h, 4096 bytes (NVM 1.1, "I/O
/// Command Set Specific Identify Controller Data Structure"): limits of commands that move no user data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NvmController {
    /// VSL: Verify Size Limit; see [`NvmController::bytes`].
    pub vsl: u8,
    /// WZSL: Write Zeroes Size Limit; see [`NvmController::bytes`].
    pub wzsl: u8,
    /// WUSL: Write Uncorrectable Size Limit; see [`NvmController::bytes`].
    pub wusl: u8,
    /// DMRL: Dataset Management Ranges Limit; 0 is none.
    pub dmrl: u8,
    /// DMRSL: Dataset Management Range Size Limit, in blocks; 0 is none.
    pub dmrsl: U32,
    /// DMSL: Dataset Management Size Limit, in blocks; 0 is none.
    pub dmsl: U64,
    /// KPIOCAP: Key Per I/O Capabilities.
    pub kpiocap: u8,
    /// WZDSL: Write Zeroes With Deallocate Size Limit.
    pub wzdsl: u8,
    /// AOCS: Admin Optional Command Support.
    pub aocs: U16,
    /// VER: Version of the command set's specification.
    pub ver: U32,
    _reserved_24: [u8; 4072],
}

const _: () = assert!(size_of::<NvmController>() == 4096);
const _: () = assert!(offset_of!(NvmController, dmrsl) == 4);
const _: () = assert!(offset_of!(NvmController, dmsl) == 8);
const _: () = assert!(offset_of!(NvmController, kpiocap) == 16);
const _: () = assert!(offset_of!(NvmController, aocs) == 18);

impl NvmController {
    /// The bytes that VSL, WZSL or WUSL, each a power of two of pages of CAP.MPSMIN, allows; `None` if it sets no limit.
    #[must_use]
    pub const fn bytes(limit: u8, mpsmin: u8) -> Option<u64> {
        let shift = limit as u32 + 12 + mpsmin as u32;
        if limit == 0 || shift > 63 { None } else { Some(1 << shift) }
    }
}
