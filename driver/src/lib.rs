//! Doorbell.
pub mod address;
pub mod device;
pub mod memory;
