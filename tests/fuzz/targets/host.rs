//! The host's connection, and what a target may say to it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::host::body(bytes));
