//! The server of the vfio-user port, and what a client may send it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::vfio_user_server::body(bytes));
