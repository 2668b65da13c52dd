//! How an entry of a completion queue is read that the device may be writing at this moment (CQ-4).
//!
//! Two words, of which the upper one has the phase tag. The device makes the upper one new last; whoever has seen it new
//! must not be shown the lower one as it was before. Checked in every order of loads and stores that the memory model
//! allows by `driver/tests/entry_loom.rs`, which is built from this very file.

use super::sync::{AtomicU64, Ordering, barrier};

/// The upper word, if its bits in `mask` are those of `expected`; those that differ otherwise, and the word.
#[inline(always)]
pub(super) fn upper(word: &AtomicU64, expected: u64, mask: u64) -> Result<u64, (u64, u64)> {
    let upper = word.load(Ordering::Acquire);
    let differs = (upper ^ expected) & mask;
    if differs == 0 { Ok(upper) } else { Err((differs, upper)) }
}

/// The lower word of an entry whose upper one is new.
#[inline(always)]
pub(super) fn lower(word: &AtomicU64) -> u64 {
    barrier();
    word.load(Ordering::Relaxed)
}
