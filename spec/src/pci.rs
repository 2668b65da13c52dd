//! Configuration space of a PCI Express function, as far as an NVMe controller and its driver use it.
//!
//! Offsets are in bytes from the start of configuration space, or from the start of a capability
//! where that is said.

use bitfield_struct::bitfield;

mod list;

pub use list::Capabilities;

/// Bytes of configuration space of a PCI Express function (PCI Express Base 7.2.2).
pub const CONFIG_LEN: usize = 4096;
/// Bytes of it that conventional PCI knows (PCI 6.1).
pub const CONVENTIONAL_LEN: usize = 256;
/// Class code of an NVMe I/O controller: mass storage, non-volatile memory, NVMe
/// (PCIe transport 3.8.1.3).
pub const CLASS_NVME: u32 = 0x01_08_02;

/// Offsets in the header (PCI 6.1; PCIe transport 3.8.1).
pub mod offset {
    /// Vendor ID, 2 bytes.
    pub const VENDOR: u64 = 0x00;
    /// Device ID, 2 bytes.
    pub const DEVICE: u64 = 0x02;
    /// [`super::Command`], 2 bytes.
    pub const COMMAND: u64 = 0x04;
    /// [`super::DeviceStatus`], 2 bytes.
    pub const STATUS: u64 = 0x06;
    /// Revision ID, 1 byte.
    pub const REVISION: u64 = 0x08;
    /// Class code, 3 bytes.
    pub const CLASS: u64 = 0x09;
    /// Cache line size, 1 byte.
    pub const CACHE_LINE: u64 = 0x0c;
    /// Latency timer, 1 byte.
    pub const LATENCY: u64 = 0x0d;
    /// Header type, 1 byte.
    pub const HEADER_TYPE: u64 = 0x0e;
    /// BAR0, 4 bytes; BAR1 to BAR5 follow it.
    pub const BAR0: u64 = 0x10;
    /// Subsystem Vendor ID, 2 bytes.
    pub const SUBSYSTEM_VENDOR: u64 = 0x2c;
    /// Subsystem ID, 2 bytes.
    pub const SUBSYSTEM: u64 = 0x2e;
    /// Offset of the first capability, 1 byte.
    pub const CAPABILITIES: u64 = 0x34;
    /// Interrupt line, 1 byte.
    pub const INTERRUPT_LINE: u64 = 0x3c;
    /// Interrupt pin, 1 byte.
    pub const INTERRUPT_PIN: u64 = 0x3d;
}

/// Low bits of a memory BAR: 64 bits wide, not prefetchable (PCI 6.2.5.1).
pub const BAR_MEMORY_64: u32 = 0b0100;

/// Command register (PCI 6.2.2; PCIe transport 3.8.1.1).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// I/O space is decoded.
    pub io: bool,
    /// Memory space is decoded.
    pub memory: bool,
    /// The function may access memory.
    pub bus_master: bool,
    #[bits(3)]
    __: u8,
    /// Parity errors are answered.
    pub parity: bool,
    __: bool,
    /// SERR# may be driven.
    pub serr: bool,
    __: bool,
    /// The interrupt pin is not used.
    pub intx_disable: bool,
    #[bits(5)]
    __: u8,
}

/// Status register (PCI 6.2.3).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceStatus {
    #[bits(3)]
    __: u8,
    /// The interrupt pin is asserted.
    pub interrupt: bool,
    /// There is a list of capabilities.
    pub capabilities: bool,
    #[bits(11)]
    __: u16,
}

/// Capability identifiers (PCI 6.7; PCI Code and ID Assignment).
pub mod capability {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}

/// Power management capability (PCI Power Management 3.2; PCIe transport 3.8.2).
pub mod power {
    /// Bytes.
    pub const LEN: u64 = 8;
    /// Capabilities, 2 bytes.
    pub const CAPABILITIES: u64 = 2;
    /// Control and status, 2 bytes.
    pub const CONTROL: u64 = 4;
    /// Version 3 of the interface, in [`CAPABILITIES`].
    pub const VERSION: u16 = 3;
    /// Power state and "no soft reset", in [`CONTROL`].
    pub const STATE_MASK: u16 = 0b11;
    /// The function keeps its state from D3hot to D0.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
}

/// PCI Express capability (PCI Express Base 7.5.3; PCIe transport 3.8.5).
pub mod express {
    /// Bytes, version 2.
    pub const LEN: u64 = 60;
    /// Capabilities, 2 bytes.
    pub const CAPABILITIES: u64 = 2;
    /// Version 2, an endpoint.
    pub const ENDPOINT_V2: u16 = 2;
    /// Device capabilities, 4 bytes.
    pub const DEVICE_CAPABILITIES: u64 = 4;
    /// Function level reset, in device capabilities.
    pub const FLR: u32 = 1 << 28;
    /// Role-based error reporting, in device capabilities.
    pub const ROLE_BASED: u32 = 1 << 15;
    /// Device control, 2 bytes.
    pub const DEVICE_CONTROL: u64 = 8;
    /// Starts a function level reset; reads 0. In device control.
    pub const INITIATE_FLR: u16 = 1 << 15;
    /// Link capabilities, 4 bytes.
    pub const LINK_CAPABILITIES: u64 = 12;
    /// Link status, 2 bytes.
    pub const LINK_STATUS: u64 = 18;
    /// One lane at 2.5 GT/s, in link capabilities and link status.
    pub const LINK_X1_GEN1: u16 = 0x11;
}

/// MSI-X capability and table (PCI 6.8.2; PCIe transport 3.8.4).
pub mod msix {
    /// Bytes of the capability.
    pub const LEN: u64 = 12;
    /// Message control, 2 bytes.
    pub const CONTROL: u64 = 2;
    /// Offset and BAR of the table, 4 bytes.
    pub const TABLE: u64 = 4;
    /// Offset and BAR of the pending bits, 4 bytes.
    pub const PENDING: u64 = 8;
    /// Vectors that a function can have.
    pub const MAX_VECTORS: u16 = 2048;
    /// Bytes of one entry of the table: address, upper address, data, vector control.
    pub const ENTRY_LEN: u64 = 16;
    /// In an entry: vector control, 4 bytes; bit 0 masks the vector.
    pub const ENTRY_CONTROL: u64 = 12;

    use bitfield_struct::bitfield;

    /// Message control.
    #[bitfield(u16)]
    #[derive(PartialEq, Eq)]
    pub struct Control {
        /// Vectors, minus one.
        #[bits(11)]
        pub size_z: u16,
        #[bits(3)]
        __: u8,
        /// All vectors are masked.
        pub masked: bool,
        /// MSI-X is on.
        pub enabled: bool,
    }

    /// Where the table or the pending bits are: a BAR and an offset in it, a multiple of 8.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Location(pub u32);

    impl Location {
        /// The place `offset` bytes into BAR `bir`.
        #[must_use]
        pub const fn new(bir: u8, offset: u32) -> Location {
            Location(offset & !7 | bir as u32 & 7)
        }

        /// The BAR; 6 and 7 are not valid.
        #[must_use]
        pub const fn bir(self) -> u8 {
            (self.0 & 7) as u8
        }

        /// Offset in the BAR, in bytes.
        #[must_use]
        pub const fn offset(self) -> u32 {
            self.0 & !7
        }
    }
}

#[cfg(test)]
mod tests;
