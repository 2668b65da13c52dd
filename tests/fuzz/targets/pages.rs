//! Pages that a controller fills in, through the driver and the parsers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::pages::body(bytes));
