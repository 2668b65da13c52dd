//! An NVM subsystem in software: namespaces, controllers and the ports that serve them.

pub mod backend;
pub mod controller;
pub mod doorbells;
mod ids;
pub mod memory;
pub mod namespace;
pub mod namespace_spec;
pub mod port;
pub mod subsystem;

pub use backend::Backend;
pub use controller::{Controller, ControllerConfig, ControllerError};
pub use doorbells::{DoorbellMemory, DoorbellPage};
pub use memory::{HostBytes, MapError};
pub use namespace::{Namespace, NamespaceIds};
pub use namespace_spec::NamespaceSpec;
pub use port::in_process::InProcess;
pub use subsystem::{Subsystem, SubsystemBuilder};
