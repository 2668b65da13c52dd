//! Doorbell.
pub mod device;
