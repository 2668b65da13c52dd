//! The lowest seam: what ring code needs of a PCIe function, whoever provides it.
//!
//! Implementations: `vfio` (the kernel), `vfio_user` (another process) and `embedded` (a
//! subsystem in this process). Everything here is control plane, so it is dynamic; the I/O path holds plain pointers
//! into the doorbells and into DMA memory and calls none of it.

#![expect(unsafe_code, reason = "declares the one unsafe method of the seam; calls none")]

#[cfg(feature = "embedded")]
pub mod embedded;
mod open;
pub mod vfio;
pub mod vfio_user;

pub(crate) use self::open::open;

use std::any::Any;
use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Width of one register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Four bytes, aligned to four.
    Dword,
    /// Eight bytes, aligned to eight. A device that takes only dwords gets two, the low one first.
    Qword,
}

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device is gone: removed, or the process that served it has ended.
    #[error("{address}: the device is gone ({what})")]
    Gone {
        /// Address as the user gave it.
        address: String,
        /// What showed it.
        what: String,
    },
    /// An exchange with the device or the kernel did not end within its deadline.
    #[error("{address}: {what} did not finish within {after:?}")]
    TimedOut {
        /// Address as the user gave it.
        address: String,
        /// What was tried.
        what: String,
        /// The deadline.
        after: Duration,
    },
    /// The kernel or the serving process refused.
    #[error("{address}: {what}: {source}{hint}")]
    Refused {
        /// Address as the user gave it.
        address: String,
        /// What was tried.
        what: String,
        /// The next step for the user, beginning with "; ", or empty.
        hint: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The device or its server broke a rule that the driver relies on.
    #[error("{address}: {what}{hint}")]
    Unusable {
        /// Address as the user gave it.
        address: String,
        /// The rule and how it was broken.
        what: String,
        /// The next step for the user, beginning with "; ", or empty.
        hint: String,
    },
    /// The kernel's VFIO does not give the function, or not what is wanted of it.
    #[error("{address}: {source}")]
    Vfio {
        /// Address as the user gave it.
        address: String,
        /// The obstacle, and what removes it.
        source: vfio::VfioError,
    },
}

/// PCI identity of a function (configuration space header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciId {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
}

/// Where I/O addresses may lie, and how many mappings the IOMMU keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IovaLimits {
    /// Usable I/O address ranges, ascending and disjoint.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// Smallest page that can be mapped, in bytes; a power of two.
    pub page_size: u64,
    /// Mappings that may exist at once; `None` where there is no limit.
    pub max_mappings: Option<u32>,
}

/// What a device, or whoever provides it, can signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// An MSI-X vector.
    Vector(u16),
    /// Somebody wants the device back: it is about to be unplugged, or to be bound to another driver.
    Removal,
    /// The bus reports an error of the device that it could not correct.
    BusError,
}

/// What is known of a device once it is open.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Address that opens it again.
    pub address: String,
    /// PCI identity.
    pub pci: PciId,
    /// NUMA node, where the platform tells.
    pub numa_node: Option<u32>,
    /// Limits on I/O addresses.
    pub iova: IovaLimits,
    /// Length of BAR0 in bytes.
    pub bar_len: u64,
    /// MSI-X vectors; 0 where there are none.
    pub vectors: u16,
    /// Whether [`Device::reset`] can work.
    pub resettable: bool,
    /// Whether [`Device::map_dma`] needs memory that has a file descriptor.
    pub needs_descriptor: bool,
    /// Whether a doorbell write may stop the processor until software has answered it, as in a virtual machine; then
    /// doorbells in memory are worth their while.
    pub traps: bool,
}

/// Memory offered to a device: one contiguous range of this process, mapped at one I/O address.
#[derive(Clone, Copy, Debug)]
pub struct DmaRange<'a> {
    /// First byte.
    pub base: NonNull<u8>,
    /// Bytes; a multiple of [`IovaLimits::page_size`].
    pub len: u64,
    /// I/O address of the first byte.
    pub iova: u64,
    /// The file behind the memory and the offset of the first byte in it.
    pub file: Option<(BorrowedFd<'a>, u64)>,
}

/// The doorbell part of BAR0, mapped into this process: offset 1000h of the BAR is `base`.
pub struct Doorbells {
    /// Address of BAR0 offset 1000h.
    pub base: NonNull<u32>,
    /// Bytes that may be accessed from `base`.
    pub len: u64,
    /// Keeps the mapping alive.
    pub owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: an address and the owner of what lies there, which is itself both; reaching the registers is up to whoever
// dereferences the pointer.
unsafe impl Send for Doorbells {}
// SAFETY: as above.
unsafe impl Sync for Doorbells {}

/// Controller registers (Base 3.1.4): MMIO on PCIe, messages elsewhere. The third seam.
pub trait Properties {
    /// Reads the register at `offset` (below 1000h).
    ///
    /// # Errors
    /// [`DeviceError`] if the device cannot be reached. All-ones is a value, judged by the caller.
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError>;

    /// Writes the register at `offset` (below 1000h).
    ///
    /// # Errors
    /// [`DeviceError`] if the device cannot be reached.
    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError>;
}

/// A PCIe function that can be driven: registers, doorbells, DMA, interrupts, reset.
///
/// Opening a device leaves memory decoding and bus mastering on; dropping it leaves them off and gives it back.
pub trait Device: Properties + Send + Sync {
    /// What is known of the device.
    fn info(&self) -> &DeviceInfo;

    /// Maps `len` bytes of doorbells, from offset 1000h of BAR0.
    ///
    /// # Errors
    /// [`DeviceError::Unusable`] if the BAR is shorter than 1000h + `len` or cannot be mapped.
    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError>;

    /// Lets the device read and write `range`.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is mapped then.
    ///
    /// # Safety
    /// The memory stays allocated, and no reference to it is used while a command that names it is in flight, until
    /// [`Device::unmap_dma`] of the same range has succeeded or the device is dropped.
    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError>;

    /// Takes the memory at `iova` back; afterwards the device cannot touch it.
    ///
    /// # Errors
    /// [`DeviceError`]; the device may still reach the memory then, so the caller must keep it.
    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError>;

    /// Signals `eventfd` on `interrupt`, or stops doing so.
    ///
    /// # Errors
    /// [`DeviceError`] if the device has no such interrupt, or the kernel refuses.
    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError>;

    /// Function level reset. Afterwards the device touches no memory until it is enabled again.
    ///
    /// # Errors
    /// [`DeviceError`] if the function cannot be reset.
    fn reset(&self) -> Result<(), DeviceError>;

    /// Gives the device back to whoever provides it, although handles of it and mapped doorbells are still held.
    /// Afterwards it touches no memory, whatever is stored to its doorbells reaches nobody, and all else that it is asked
    /// for fails.
    ///
    /// # Errors
    /// [`DeviceError`]: nothing has changed. Of the devices here only `vfio` can do it; the others go with their last
    /// handle.
    fn give_back(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Unusable {
            address: self.info().address.clone(),
            what: "the device is given back with its last handle only".into(),
            hint: String::new(),
        })
    }
}
