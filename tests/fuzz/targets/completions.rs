//! The driver, and what a controller may write into a completion queue.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::completions::body(bytes));
