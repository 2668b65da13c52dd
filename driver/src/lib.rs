//! Doorbell.
