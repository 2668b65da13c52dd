//! What a queue counts.

use super::Queue;
use crate::transport::Transport;

/// What a queue has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commands sent to the device; a divided operation counts each of its parts.
    pub commands: u64,
    /// Commands that have completed.
    pub completions: u64,
    /// Times that everything that had arrived was taken: about one a call of [`Queue::poll`](crate::Queue::poll).
    pub polls: u64,
    /// Those with nothing taken since the time before.
    pub empty_polls: u64,
    /// Doorbells written, of both kinds.
    pub doorbells: u64,
    /// Operations that took more than one command.
    pub divided: u64,
    /// Completions for commands that had completed before, or of an older generation; dropped.
    pub strays: u64,
    /// Completions that broke the rules; the queue failed, or its controller was reset.
    pub violations: u64,
    /// Times that every command in flight was ended, because the queue or its controller was reset.
    pub lost: u64,
    /// Commands that a blocking call sent again.
    pub retried: u64,
}

impl<T: Transport> Queue<T> {
    /// What the queue has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let usage = self.transport.usage();
        let (commands, completions) = self.slots.totals();
        Counters {
            commands,
            completions,
            polls: usage.polls,
            empty_polls: usage.empty_polls,
            doorbells: usage.doorbells,
            divided: self.divided,
            strays: self.strays,
            violations: self.violations,
            lost: self.lost,
            retried: self.retried,
        }
    }
}
