//! What can go wrong with DMA memory, each with the next step.

use std::io;

use crate::device::DeviceError;

/// Why there is no DMA memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The I/O address space is used up.
    #[error(
        "no {len} contiguous bytes of I/O addresses are left ({free} free in all); release buffers"
    )]
    Addresses {
        /// Bytes wanted.
        len: u64,
        /// Bytes of addresses that are free, in pieces.
        free: u64,
    },
    /// Alignment that is not a power of two, or above the unit of regions.
    #[error("a buffer cannot be aligned to {align} bytes; give a power of two up to 2 MiB")]
    Alignment {
        /// Alignment wanted.
        align: usize,
    },
    /// Memory to register that does not begin or end at a page.
    #[error(
        "memory to register must begin and end at multiples of {page} bytes; {what} is {value:#x}"
    )]
    Boundary {
        /// Which value is wrong: address, offset or length.
        what: &'static str,
        /// The value.
        value: u64,
        /// The granule.
        page: u64,
    },
    /// The device did not map the memory.
    #[error("DMA memory: {0}")]
    Device(#[from] DeviceError),
    /// A length of zero, or one that no address space holds.
    #[error("a buffer of {len} bytes cannot be made; give 1 byte or more")]
    Length {
        /// Bytes wanted.
        len: usize,
    },
    /// The limit of [`super::MemoryConfig::limit`].
    #[error(
        "{len} bytes more would pass the limit of {limit} bytes of DMA memory; raise the limit or release buffers"
    )]
    Limit {
        /// Bytes wanted.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The IOMMU, or the serving process, keeps no more mappings.
    #[error("the device keeps {limit} DMA mappings and all are used; register fewer, larger areas")]
    Mappings {
        /// How many there may be.
        limit: u32,
    },
    /// The device shares memory with another process, by descriptor, and this memory has none.
    #[error(
        "{address}: the device is another process, which reaches memory through its file; memory without one \
         cannot be registered: use register_file, or buffers of the controller"
    )]
    NoDescriptor {
        /// The device.
        address: String,
    },
    /// The device could not be stopped, so its memory is kept from further use.
    #[error(
        "{address}: the device could not be stopped and may still write to its memory; attach it again"
    )]
    Withdrawn {
        /// The device.
        address: String,
    },
    /// A page size that the device reported and that makes no sense.
    #[error(
        "the device maps memory in pages of {page} bytes, which is no power of two up to 2 MiB"
    )]
    PageSize {
        /// What it reported.
        page: u64,
    },
    /// The system has no such memory.
    #[error("{what}: {source}; {hint}")]
    System {
        /// What was tried.
        what: String,
        /// The next step.
        hint: &'static str,
        /// The cause.
        source: io::Error,
    },
}
