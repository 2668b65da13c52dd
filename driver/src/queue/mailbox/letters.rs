//! The letter box below a mailbox: bounded and lock-free, many who put in, whoever takes out, and an end.
//!
//! What is put in is taken out exactly once, the end included: a letter that is put in while the box is being closed is
//! returned either by whoever closes it or by whoever put it in. It relies on `super::sync` for its ring and its atomics,
//! so that a model checker can stand in for them.

use super::sync::{AtomicBool, Ordering, Ring, fence};

/// Why a letter was not put in.
pub(crate) enum Refused<L> {
    /// There is no room now.
    Full(L),
    /// The box has been closed.
    Closed(L),
}

/// A box of letters.
pub(crate) struct Letters<L> {
    ring: Ring<L>,
    closed: AtomicBool,
}

impl<L> Letters<L> {
    /// An open box with room for `capacity` letters, at least 1.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { ring: Ring::new(capacity), closed: AtomicBool::new(false) }
    }

    /// Puts `letter` in. Letters that nobody will take any more go to `returned`, this one perhaps among them.
    pub(crate) fn put(&self, letter: L, returned: impl FnMut(L)) -> Result<(), Refused<L>> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refused::Closed(letter));
        }
        self.ring.push(letter).map_err(Refused::Full)?;
        // Either this load finds the box closed, or `close` finds the letter: each side writes, fences, then reads.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            self.drain(returned);
        }
        Ok(())
    }

    /// The next letter.
    pub(crate) fn take(&self) -> Option<L> {
        self.ring.pop()
    }

    /// Lets no more letters in, and hands those that are in to `returned`.
    pub(crate) fn close(&self, returned: impl FnMut(L)) {
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.drain(returned);
    }

    fn drain(&self, mut returned: impl FnMut(L)) {
        while let Some(letter) = self.ring.pop() {
            returned(letter);
        }
    }
}
