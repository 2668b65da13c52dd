//! The NVM Express documents as types: what stands on the wire, in memory and in registers.
//!
//! Masks, shifts and offsets stand in this crate only. There is one item per figure of the
//! documents, with its long name, its meaning and where it is defined. Names are the documents'
//! mnemonics; fields that hold a number minus one (0's based) end in `_z`.
//!
//! Citations name a document and a section by its title:
//!
//! | Short name | Document |
//! |---|---|
//! | Base | NVM Express Base Specification, revision 2.1 |
//! | NVM | NVM Express NVM Command Set Specification, revision 1.1 |
//! | ZNS | NVM Express Zoned Namespace Command Set Specification, revision 1.2 |
//! | KV | NVM Express Key Value Command Set Specification, revision 1.1 |
//! | PCIe transport | NVM Express NVMe over PCIe Transport Specification, revision 1.1 |
//! | TCP transport | NVM Express NVMe/TCP Transport Specification, revision 1.1 |
//! | PCI | PCI Local Bus Specification 3.0, PCI Express Base Specification 5.0 |
//! | vfio-user | the vfio-user protocol, version 0.1, as libvfio-user documents and speaks it |
//!
//! Three kinds of types:
//!
//! - registers, command dwords and flag bytes are bit fields over one integer ([`register`],
//!   `Cdw` types);
//! - [`command::Sqe`] and [`completion::Cqe`] are native integers, aligned to 8 bytes, since they
//!   are built and read on the I/O path;
//! - data pages (Identify, log pages, feature data) are little-endian integers of alignment 1, so
//!   that any buffer can be read as one.
//!
//! A set that a later revision may extend (opcodes, status codes, log identifiers) is a newtype
//! with constants, never an enum: a device may send any value.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!(
    "doorbell-spec lays out queue entries in native integers: little-endian targets only"
);

#[cfg(test)]
extern crate std;

pub mod admin;
pub mod command;
pub mod completion;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod nvm;
mod open_set;
pub mod pci;
pub mod prp;
pub mod register;
pub mod status;
pub mod vfio_user;
