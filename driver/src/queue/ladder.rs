//! What a blocking call does about its own admin command that does not complete: an Abort, once, and a while longer
//! (CQ-12). What comes after that, a reset, is the controller's business.

use std::time::Duration;

use doorbell_spec::admin as commands;

use super::{Done, Io, Queue, Ticket};
use crate::clock::Deadline;
use crate::transport::Transport;

/// The steps of an admin queue before the controller is reset.
pub(crate) struct Ladder {
    /// Whether the controller's registers say that it works, without which nothing more is asked of it.
    sound: Box<dyn Fn() -> bool + Send>,
    /// How long a command that is aborted may still take.
    patience: Duration,
    taken: Steps,
}

/// Steps that have been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) overdue: u64,
    pub(crate) aborts: u64,
    pub(crate) aborted: u64,
}

impl<T: Transport> Queue<T> {
    /// From now on commands that blocking calls wait for in vain are aborted, and have `patience` after that, while the
    /// controller is `sound`.
    pub(crate) fn abort_overdue(
        &mut self,
        patience: Duration,
        sound: impl Fn() -> bool + Send + 'static,
    ) {
        let sound = Box::new(sound);
        self.ladder = Some(Box::new(Ladder { sound, patience, taken: Steps::default() }));
    }

    /// Steps taken since the last call.
    pub(crate) fn steps(&mut self) -> Steps {
        self.ladder.as_mut().map(|ladder| std::mem::take(&mut ladder.taken)).unwrap_or_default()
    }

    /// Takes the steps for command `cid`; its completion, if that comes after all.
    #[cold]
    pub(super) fn climb(&mut self, cid: u16) -> Option<Done> {
        let ladder = self.ladder.as_mut()?;
        ladder.taken.overdue += 1;
        if !(ladder.sound)() {
            return None;
        }
        ladder.taken.aborts += 1;
        let clock = self.clock.clone();
        let deadline = Deadline::after(&*clock, ladder.patience);
        let abort = Io::internal(commands::abort(0, cid));
        let Ok(Ticket::Command(abort)) = self.enter(abort, |ticket| ticket) else { return None };
        self.ring();
        let (mut answered, mut ended, mut round) = (false, None, 0);
        // Both are waited for: a completion that nobody waits for would be kept.
        while !(answered && ended.is_some()) {
            match self.take_one() {
                Some((Ticket::Command(arrived), done)) if arrived == cid => ended = Some(done),
                Some((Ticket::Command(arrived), done)) if arrived == abort => {
                    answered = true;
                    let carried_out = done.status.is_success() && done.result & 1 == 0;
                    if let Some(ladder) = &mut self.ladder {
                        ladder.taken.aborted += u64::from(carried_out);
                    }
                }
                Some((ticket, done)) => self.keep(ticket, done),
                None if self.failure.is_some() || deadline.passed(&*clock) => break,
                None => {
                    clock.pause(round, Duration::from_millis(1));
                    round += 1;
                }
            }
        }
        if !answered {
            self.slots.abandon(abort);
        }
        ended
    }
}
