//! The port's connections, and what hosts may say to them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::port::body(bytes));
