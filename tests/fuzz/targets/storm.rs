//! The driver against a device, both by the input: see `doorbell_tests::fuzz::storm`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::storm::body(bytes));
