//! The digest of PDU headers and data: CRC-32C (TCP transport, "Digests").
//!
//! On the wire it is a little-endian dword behind what it covers: HLEN bytes of header, or the
//! data without the padding before it.

/// Bytes of a digest on the wire.
pub const SIZE: usize = 4;

/// CRC-32C of `bytes`, by the processor's instruction where it has one.
#[inline]
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of what `digest` is the digest of, followed by `bytes`. That of nothing is 0.
#[inline]
#[must_use]
pub fn append(digest: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(digest, bytes)
}
