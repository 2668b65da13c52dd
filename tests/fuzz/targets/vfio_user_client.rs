//! The driver's vfio-user client, and what a server may answer it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::vfio_user_client::body(bytes));
