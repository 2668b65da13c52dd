//! Doorbell specification types.
#![no_std]
#![forbid(unsafe_code)]
