//! Messages of the vfio-user protocol, version 0.1: a PCIe function served over a Unix socket.
//!
//! Every message is a [`Header`] and a payload. The client sends commands and the server answers
//! each with one reply that repeats its identifier; the server may send commands too
//! ([`Command::DMA_READ`], [`Command::DMA_WRITE`]). Structures are the Linux VFIO ones (`linux/vfio.h`)
//! with byte alignment. Sections below are of the vfio-user specification in QEMU's documentation
//! (interop/vfio-user), which libvfio-user implements.

use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

mod capabilities;

pub use capabilities::{Capabilities, Malformed};

/// Name of the socket inside a controller's directory, where SPDK's host looks for it.
pub const SOCKET_NAME: &str = "cntrl";

/// Largest payload overhead of a message that carries data: [`Header`] and [`RegionAccess`].
pub const ACCESS_OVERHEAD: usize = size_of::<Header>() + size_of::<RegionAccess>();

/// What a message asks (vfio-user, Commands).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u16);

impl Command {
    /// Negotiates version and capabilities; the first message.
    pub const VERSION: Self = Self(1);
    /// Lets the server reach a range of the client's memory.
    pub const DMA_MAP: Self = Self(2);
    /// Takes such a range back.
    pub const DMA_UNMAP: Self = Self(3);
    /// Numbers of regions and interrupt types.
    pub const DEVICE_GET_INFO: Self = Self(4);
    /// Size, access and mappable parts of one region.
    pub const DEVICE_GET_REGION_INFO: Self = Self(5);
    /// File descriptors that stand for writes to parts of a region.
    pub const DEVICE_GET_REGION_IO_FDS: Self = Self(6);
    /// Number of interrupts of one type.
    pub const DEVICE_GET_IRQ_INFO: Self = Self(7);
    /// Connects interrupts with event file descriptors.
    pub const DEVICE_SET_IRQS: Self = Self(8);
    /// Reads from a region.
    pub const REGION_READ: Self = Self(9);
    /// Writes to a region.
    pub const REGION_WRITE: Self = Self(10);
    /// Server to client: reads the client's memory.
    pub const DMA_READ: Self = Self(11);
    /// Server to client: writes the client's memory.
    pub const DMA_WRITE: Self = Self(12);
    /// Resets the function.
    pub const DEVICE_RESET: Self = Self(13);
    /// Several region writes in one message.
    pub const REGION_WRITE_MULTI: Self = Self(15);
    /// Migration and dirty page logging.
    pub const DEVICE_FEATURE: Self = Self(16);
    /// Reads migration data.
    pub const MIG_DATA_READ: Self = Self(17);
    /// Writes migration data.
    pub const MIG_DATA_WRITE: Self = Self(18);

    /// Name as the specification writes it, without `VFIO_USER_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VERSION => "VERSION",
            Self::DMA_MAP => "DMA_MAP",
            Self::DMA_UNMAP => "DMA_UNMAP",
            Self::DEVICE_GET_INFO => "DEVICE_GET_INFO",
            Self::DEVICE_GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
            Self::DEVICE_GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
            Self::DEVICE_GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
            Self::DEVICE_SET_IRQS => "DEVICE_SET_IRQS",
            Self::REGION_READ => "REGION_READ",
            Self::REGION_WRITE => "REGION_WRITE",
            Self::DMA_READ => "DMA_READ",
            Self::DMA_WRITE => "DMA_WRITE",
            Self::DEVICE_RESET => "DEVICE_RESET",
            Self::REGION_WRITE_MULTI => "REGION_WRITE_MULTI",
            Self::DEVICE_FEATURE => "DEVICE_FEATURE",
            Self::MIG_DATA_READ => "MIG_DATA_READ",
            Self::MIG_DATA_WRITE => "MIG_DATA_WRITE",
            _ => "unknown command",
        }
    }
}

/// Flags of a message (vfio-user, Header).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HeaderFlags {
    /// 0: a command; 1: a reply.
    #[bits(4)]
    pub kind: u8,
    /// On a command: the sender wants no reply.
    pub no_reply: bool,
    /// On a reply: the command failed, for the reason in [`Header::error`]; there may be no payload.
    pub error: bool,
    #[bits(26)]
    __: u32,
}

impl HeaderFlags {
    /// Kind of a command.
    pub const COMMAND: u8 = 0;
    /// Kind of a reply.
    pub const REPLY: u8 = 1;
}

/// Begins every message (vfio-user, Header).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of the command, repeated in its reply.
    pub message_id: U16,
    /// See [`Command`].
    pub command: U16,
    /// Bytes of the whole message, this header included.
    pub message_size: U32,
    /// See [`HeaderFlags`].
    pub flags: U32,
    /// In a reply with the error flag: an `errno` value of Linux.
    pub error: U32,
}

const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(offset_of!(Header, error) == 12);

/// Fixed part of VERSION; [`Capabilities`] may follow as text that ends with a zero byte.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Version {
    /// [`Version::MAJOR`].
    pub major: U16,
    /// At most [`Version::MINOR`].
    pub minor: U16,
}

impl Version {
    /// The one major version there is.
    pub const MAJOR: u16 = 0;
    /// The newest minor version of it.
    pub const MINOR: u16 = 1;
}

const _: () = assert!(size_of::<Version>() == 4);

/// DEVICE_GET_INFO, both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceInfo {
    /// Bytes of the reply payload.
    pub argsz: U32,
    /// See [`DeviceInfo::RESET`], [`DeviceInfo::PCI`].
    pub flags: U32,
    /// Regions; see [`region`].
    pub regions: U32,
    /// Interrupt types; see [`irq`].
    pub irqs: U32,
}

impl DeviceInfo {
    /// The device takes [`Command::DEVICE_RESET`].
    pub const RESET: u32 = 1 << 0;
    /// The device is a PCI function.
    pub const PCI: u32 = 1 << 1;
}

const _: () = assert!(size_of::<DeviceInfo>() == 16);

/// DEVICE_GET_REGION_INFO, both ways; capabilities may follow in a reply.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionInfo {
    /// In a request, the reply payload that the client takes; in a reply, what the server has.
    pub argsz: U32,
    /// See the constants.
    pub flags: U32,
    /// Region; see [`region`].
    pub index: U32,
    /// Offset of the first capability from the start of this structure; 0 where there is none.
    pub cap_offset: U32,
    /// Bytes of the region; 0 where it does not exist.
    pub size: U64,
    /// Offset of the region in the file that comes with the reply.
    pub offset: U64,
}

impl RegionInfo {
    /// The region can be read.
    pub const READ: u32 = 1 << 0;
    /// The region can be written.
    pub const WRITE: u32 = 1 << 1;
    /// The region can be mapped, as far as its sparse areas (all of it where there are none) go.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;
}

const _: () = assert!(size_of::<RegionInfo>() == 32);
const _: () = assert!(offset_of!(RegionInfo, size) == 16);

/// Begins each capability of a region.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapabilityHeader {
    /// See [`CapabilityHeader::SPARSE_MMAP`].
    pub id: U16,
    /// 1.
    pub version: U16,
    /// Offset of the next one from the start of [`RegionInfo`]; 0 ends the list.
    pub next: U32,
}

impl CapabilityHeader {
    /// [`SparseMmap`] follows.
    pub const SPARSE_MMAP: u16 = 1;
}

const _: () = assert!(size_of::<CapabilityHeader>() == 8);

/// The parts of a region that can be mapped; [`SparseArea`]s follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseMmap {
    /// Number of areas.
    pub nr_areas: U32,
    /// Reserved.
    pub reserved: U32,
}

const _: () = assert!(size_of::<SparseMmap>() == 8);

/// One part of a region that can be mapped.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseArea {
    /// Offset in the region; in the file, [`RegionInfo::offset`] is added.
    pub offset: U64,
    /// Bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<SparseArea>() == 16);

/// Fixed part of REGION_READ and REGION_WRITE, both ways; `count` bytes follow in the read's reply
/// and in the write's command.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionAccess {
    /// Offset in the region.
    pub offset: U64,
    /// Region; see [`region`].
    pub region: U32,
    /// Bytes.
    pub count: U32,
}

const _: () = assert!(size_of::<RegionAccess>() == 16);

/// Fixed part of DMA_READ and DMA_WRITE, both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaAccess {
    /// I/O address.
    pub address: U64,
    /// Bytes.
    pub count: U64,
}

const _: () = assert!(size_of::<DmaAccess>() == 16);

/// DEVICE_GET_IRQ_INFO, both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IrqInfo {
    /// Bytes of the reply payload.
    pub argsz: U32,
    /// See the constants.
    pub flags: U32,
    /// Interrupt type; see [`irq`].
    pub index: U32,
    /// Interrupts of this type.
    pub count: U32,
}

impl IrqInfo {
    /// The interrupts can signal event file descriptors.
    pub const EVENTFD: u32 = 1 << 0;
    /// The interrupts can be masked.
    pub const MASKABLE: u32 = 1 << 1;
    /// The number of interrupts cannot change while any is in use.
    pub const NORESIZE: u32 = 1 << 3;
}

const _: () = assert!(size_of::<IrqInfo>() == 16);

/// DEVICE_SET_IRQS; the event file descriptors come as ancillary data.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IrqSet {
    /// Bytes of the payload.
    pub argsz: U32,
    /// One `DATA_` and one `ACTION_` constant.
    pub flags: U32,
    /// Interrupt type; see [`irq`].
    pub index: U32,
    /// First interrupt.
    pub start: U32,
    /// Interrupts. With [`IrqSet::DATA_NONE`] and [`IrqSet::ACTION_TRIGGER`], 0 disables the type.
    pub count: U32,
}

impl IrqSet {
    /// Nothing comes with the message: the action applies to all of the range.
    pub const DATA_NONE: u32 = 1 << 0;
    /// One byte per interrupt follows: whether the action applies to it.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// One file descriptor per interrupt comes with the message; none at all disconnects the range.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Masks.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Unmasks.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Signals, or with [`IrqSet::DATA_EVENTFD`] says how to.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
    /// All of the `DATA_` bits.
    pub const DATA_MASK: u32 = Self::DATA_NONE | Self::DATA_BOOL | Self::DATA_EVENTFD;
    /// All of the `ACTION_` bits.
    pub const ACTION_MASKS: u32 = Self::ACTION_MASK | Self::ACTION_UNMASK | Self::ACTION_TRIGGER;
}

const _: () = assert!(size_of::<IrqSet>() == 20);

/// DMA_MAP; the file comes as ancillary data. The reply has no payload.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaMap {
    /// Bytes of the payload.
    pub argsz: U32,
    /// See the constants.
    pub flags: U32,
    /// Offset of the first byte in the file.
    pub offset: U64,
    /// I/O address of the first byte.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

impl DmaMap {
    /// The device may read the memory.
    pub const READ: u32 = 1 << 0;
    /// The device may write the memory.
    pub const WRITE: u32 = 1 << 1;
    /// The file is to be mapped (libvfio-user; the default where a file comes).
    pub const MMAP: u32 = 1 << 2;
    /// The file is to be read and written by system calls (libvfio-user).
    pub const FILE_IO: u32 = 1 << 3;
}

const _: () = assert!(size_of::<DmaMap>() == 32);
const _: () = assert!(offset_of!(DmaMap, address) == 16);

/// DMA_UNMAP; the reply repeats it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaUnmap {
    /// Bytes of the payload.
    pub argsz: U32,
    /// See the constants.
    pub flags: U32,
    /// I/O address of the first byte.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

impl DmaUnmap {
    /// The reply is to carry a bitmap of dirty pages.
    pub const GET_DIRTY_BITMAP: u32 = 1 << 0;
    /// All ranges; address and size are 0.
    pub const ALL: u32 = 1 << 1;
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);

/// Region numbers of a PCI function (`VFIO_PCI_*_REGION_INDEX`).
pub mod region {
    /// BAR0; BAR1 to BAR5 follow it.
    pub const BAR0: u32 = 0;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// Regions of a PCI function: six BARs, ROM, configuration space, VGA.
    pub const COUNT: u32 = 9;
}

/// Interrupt types of a PCI function (`VFIO_PCI_*_IRQ_INDEX`).
pub mod irq {
    /// The pin.
    pub const INTX: u32 = 0;
    /// MSI.
    pub const MSI: u32 = 1;
    /// MSI-X.
    pub const MSIX: u32 = 2;
    /// Errors reported by the platform.
    pub const ERR: u32 = 3;
    /// Request that the client let the device go.
    pub const REQ: u32 = 4;
    /// Interrupt types of a PCI function.
    pub const COUNT: u32 = 5;
}

#[cfg(test)]
mod tests;
