//! Headers of NVMe/TCP, and what else comes from a peer as plain bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| doorbell_tests::fuzz::pdu::body(bytes));
