//! Doorbell: NVMe from userspace, polled.
#![warn(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod address;
pub mod clock;
pub mod controller;
pub mod device;
pub mod error;
pub mod memory;
pub mod namespace;
pub mod queue;
pub mod transport;

pub use doorbell_spec as spec;

pub use address::Address;
pub use controller::{Config, Controller, QueueConfig};
pub use error::{AttachError, CommandError, QueueError};
pub use memory::{Buffer, DmaMemory};
pub use namespace::Namespace;
pub use queue::{Done, Io, Queue, Reason, Rejected, SharedQueue};

/// Opens the device at `address` and brings its controller up, with the default configuration.
///
/// # Errors
/// [`AttachError`], which says what to do about it.
pub fn attach(address: &str) -> Result<Controller, AttachError> {
    Controller::attach(&address.parse()?, Config::default())
}
