//! The controller, and what a host may put into its queues, registers and doorbells.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::commands::body(bytes));
