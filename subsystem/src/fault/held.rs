//! What a plan of faults holds back: completions and writes of registers.

use std::time::Duration;

use crate::controller::queue::Answer;

/// How long something waits for what is to go before it.
pub(crate) const BEHIND: Duration = Duration::from_millis(1);

/// A completion that has not been posted yet.
pub(crate) struct Held {
    pub(crate) until: Until,
    pub(crate) cqid: u16,
    pub(crate) answer: Answer,
}

/// When a held completion is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// At this time.
    Time(Duration),
    /// After the next completion of its queue, or at this time where none comes.
    Next(Duration),
    /// The command is aborted.
    Abort,
}

/// A register write that takes effect later.
#[derive(Clone, Copy)]
pub(crate) struct LateWrite {
    pub(crate) due: Duration,
    pub(crate) at: u64,
    pub(crate) value: u32,
}

/// What is held back, oldest first.
#[derive(Default)]
pub(crate) struct Withheld {
    pub(crate) completions: Vec<Held>,
    pub(crate) writes: Vec<LateWrite>,
}

impl Withheld {
    /// Entries of a completion queue that held completions will need.
    pub(crate) fn held_for(&self, cqid: u16) -> u32 {
        self.completions.iter().filter(|held| held.cqid == cqid).count() as u32
    }

    /// Takes the oldest held completion that `is_due`.
    pub(crate) fn release(&mut self, is_due: impl Fn(&Held) -> bool) -> Option<Held> {
        let at = self.completions.iter().position(is_due)?;
        Some(self.completions.remove(at))
    }

    /// Takes the oldest late write that is due.
    pub(crate) fn due_write(&mut self, now: Duration) -> Option<LateWrite> {
        let at = self.writes.iter().position(|write| write.due <= now)?;
        Some(self.writes.remove(at))
    }
}
