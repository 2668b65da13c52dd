//! Doorbell.
pub mod device;
pub mod memory;
