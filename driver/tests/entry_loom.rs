//! PIT-25: an entry of a completion queue that a device on another thread writes at this moment, in every order of loads and
//! stores that the memory model allows, those of ARM among them: what was there before is never taken for what is new.

// The very file that the driver is built from, over atomics that the model checker knows.
#[path = "../src/transport/pcie/ring/entry.rs"]
mod entry;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    /// The model has one domain.
    pub(super) fn barrier() {}
}

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const PHASE: u64 = 1 << 48;

/// Entries that the device posts, one after another into a ring of one entry.
const POSTS: u64 = 3;

/// Word 0 of the entry of each pass: what stood there before differs.
fn low(pass: u64) -> u64 {
    0x1000 + pass
}

/// Word 1: the phase tag turns over at each pass.
fn high(pass: u64) -> u64 {
    pass << 32 | if pass.is_multiple_of(2) { PHASE } else { 0 }
}

struct Shared {
    words: [AtomicU64; 2],
    /// Passes that the host is through with: the head doorbell.
    head: AtomicU64,
}

/// A device, which stores the phase by `publish`, and a host share a ring of one entry.
fn model(publish: Ordering) {
    loom::model(move || {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let shared = Arc::new(Shared { words, head: AtomicU64::new(0) });
        let device = {
            let shared = shared.clone();
            thread::spawn(move || {
                for pass in 0..POSTS {
                    // There is room once the host has told so.
                    while shared.head.load(Ordering::Acquire) < pass {
                        thread::yield_now();
                    }
                    shared.words[0].store(low(pass), Ordering::Relaxed);
                    shared.words[1].store(high(pass), publish);
                }
            })
        };
        for pass in 0..POSTS {
            let upper = loop {
                match entry::upper(&shared.words[1], high(pass), PHASE) {
                    Ok(upper) => break upper,
                    Err((differs, _)) => assert_eq!(differs, PHASE),
                }
                thread::yield_now();
            };
            assert_eq!(
                (entry::lower(&shared.words[0]), upper),
                (low(pass), high(pass)),
                "half an entry"
            );
            shared.head.store(pass + 1, Ordering::Release);
        }
        device.join().expect("no panic");
    });
}

#[test]
fn pit_25_no_half_of_an_entry_is_taken_for_a_new_one() {
    model(Ordering::Release);
}

/// The model does see what goes wrong where a device publishes its phase without order.
#[test]
#[should_panic(expected = "half an entry")]
fn the_model_sees_half_entries() {
    model(Ordering::Relaxed);
}
