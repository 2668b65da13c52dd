//! The driver, and what the registers of a controller may read as.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::registers::body(bytes));
