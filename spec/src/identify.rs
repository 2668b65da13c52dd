//! Identify: what a controller says about itself and its namespaces.
//!
//! Owns the structures of Base 2.1 and NVM 1.1 "Identify" and the values that select them. All are
//! data pages: little-endian integers of alignment 1.

use crate::open_set::open_set;

mod controller;
mod flags;
mod independent;
mod lists;
mod namespace;
mod nvm;
mod text;

pub use controller::{IdentifyController, PowerState};
pub use flags::*;
pub use independent::IndependentNamespace;
pub use lists::{
    ControllerList, Descriptor, Descriptors, IdentifierType, Identifiers, NamespaceDescriptorList,
    NamespaceList, Namespaces,
};
pub use namespace::{IdentifyNamespace, LbaFormat};
pub use nvm::NvmController;
pub use text::Text;
pub(crate) use text::fill;

/// Bytes in every Identify data structure.
pub const SIZE: usize = 4096;

open_set! {
    /// CNS: Controller or Namespace Structure (Base 2.1, "Identify - CNS Values").
    pub struct Cns(u8): "Unknown Structure" {
        NAMESPACE = 0x00, "Identify Namespace";
        CONTROLLER = 0x01, "Identify Controller";
        ACTIVE_NAMESPACES = 0x02, "Active Namespace ID List";
        NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor List";
        NVM_SETS = 0x04, "NVM Set List";
        IO_NAMESPACE = 0x05, "I/O Command Set Specific Identify Namespace";
        IO_CONTROLLER = 0x06, "I/O Command Set Specific Identify Controller";
        IO_ACTIVE_NAMESPACES = 0x07, "I/O Command Set Specific Active Namespace ID List";
        INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
        NAMESPACE_FORMAT = 0x09, "Identify Namespace for a User Data Format";
        IO_NAMESPACE_FORMAT = 0x0a, "I/O Command Set Specific Identify Namespace for a User Data Format";
        ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID List";
        ALLOCATED_NAMESPACE = 0x11, "Identify Namespace for an Allocated Namespace ID";
        NAMESPACE_CONTROLLERS = 0x12, "Namespace Attached Controller List";
        CONTROLLERS = 0x13, "Controller List";
        PRIMARY_CAPABILITIES = 0x14, "Primary Controller Capabilities";
        SECONDARY_CONTROLLERS = 0x15, "Secondary Controller List";
        NAMESPACE_GRANULARITY = 0x16, "Namespace Granularity List";
        UUIDS = 0x17, "UUID List";
        DOMAINS = 0x18, "Domain List";
        ENDURANCE_GROUPS = 0x19, "Endurance Group List";
        IO_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set Specific Allocated Namespace ID List";
        IO_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set Specific Identify Namespace for an Allocated Namespace ID";
        IO_COMMAND_SETS = 0x1c, "I/O Command Set Combinations";
        UNDERLYING_NAMESPACES = 0x1d, "Underlying Namespace List";
        PORTS = 0x1e, "Ports List";
        INDEPENDENT_ALLOCATED_NAMESPACE = 0x1f, "I/O Command Set Independent Identify Namespace for an Allocated Namespace ID";
        CONTROLLER_STATE_FORMATS = 0x20, "Supported Controller State Formats";
    }
}

open_set! {
    /// CSI: Command Set Identifier (Base 2.1, "I/O Command Set Identifiers").
    pub struct Csi(u8): "Unknown Command Set" {
        NVM = 0x00, "NVM Command Set";
        KV = 0x01, "Key Value Command Set";
        ZNS = 0x02, "Zoned Namespace Command Set";
        SLM = 0x03, "Subsystem Local Memory Command Set";
        CP = 0x04, "Computational Programs Command Set";
    }
}

#[cfg(test)]
mod tests;
