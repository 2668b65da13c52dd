//! The gate that I/O commands pass: closed while the controller processes nothing, and to commands of a format that a
//! namespace no longer has.
//!
//! A command says how many blocks it moves, and its data pointer was made for blocks of the size that the namespace had.
//! If blocks are larger now, the controller moves more than the buffer holds. So every command of a namespace carries the
//! count of format changes that was current before the namespace was identified; a queue compares it, one load, with the
//! count of its controller, and looks closer where they differ.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The controller processes nothing at the moment.
const CLOSED: u32 = 1 << 31;

/// What the handles and queues of one controller share.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Format changes so far, and [`CLOSED`].
    word: AtomicU32,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    /// The count at the last change of one namespace.
    of: BTreeMap<u32, u32>,
    /// And of all at once.
    of_all: u32,
}

impl Gate {
    /// What the commands that pass without a closer look carry.
    #[inline(always)]
    pub(crate) fn word(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    /// Format changes so far.
    pub(crate) fn count(&self) -> u32 {
        self.word() & !CLOSED
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word() & CLOSED != 0
    }

    /// Lets no I/O command pass until it is opened.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(crate) fn open(&self) {
        self.word.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// The namespace `nsid`, or all, may have another format now: commands made for it before do not pass any more.
    pub(crate) fn reformatted(&self, nsid: Option<u32>) {
        let changes = &mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that whoever sees the new count finds out whose change it was. Does not reach the highest bit
        // in this world.
        let count = self.word.fetch_add(1, Ordering::AcqRel).wrapping_add(1) & !CLOSED;
        match nsid {
            Some(nsid) => drop(changes.of.insert(nsid, count)),
            None => {
                changes.of.clear();
                changes.of_all = count;
            }
        }
    }

    /// Whether a command for `nsid`, made when the count was `made`, is of the format that the namespace has.
    pub(crate) fn is_current(&self, nsid: u32, made: u32) -> bool {
        if self.count() == made {
            return true;
        }
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        made >= changes.of_all && changes.of.get(&nsid).is_none_or(|&changed| made >= changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_before_a_change_is_stale() {
        let gate = Gate::default();
        let before = gate.count();
        gate.reformatted(Some(1));
        let between = gate.count();
        assert!(!gate.is_current(1, before) && gate.is_current(2, before));
        assert!(gate.is_current(1, between));
        gate.close();
        gate.reformatted(None);
        assert!(gate.is_closed() && gate.word() != gate.count());
        gate.open();
        for nsid in 1..3 {
            assert!(!gate.is_current(nsid, between) && gate.is_current(nsid, gate.count()));
        }
    }
}
