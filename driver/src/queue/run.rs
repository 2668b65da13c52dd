//! Blocking calls on a queue: one command, and its completion within a deadline.

use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;

use super::io::{Done, Io, Reason};
use super::retry::Again;
use super::{Queue, Ticket};
use crate::clock::Deadline;
use crate::error::CommandError;
use crate::transport::Transport;

impl<T: Transport> Queue<T> {
    /// Sends one command and waits for its completion, with the deadline of the queue's configuration.
    ///
    /// Completions of other commands that arrive meanwhile are kept for the next [`poll`](Queue::poll). A command that
    /// fails may be sent again, as the queue's [`Retries`](super::Retries) say.
    ///
    /// # Errors
    /// [`CommandError`]: an error status, a rejection, no answer in time, or a queue that failed.
    pub fn run(&mut self, io: Io) -> Result<Done, CommandError> {
        self.run_within(io, self.timeout)
    }

    /// [`run`](Queue::run) with a deadline of its own.
    ///
    /// # Errors
    /// As [`run`](Queue::run).
    pub fn run_within(&mut self, io: Io, timeout: Duration) -> Result<Done, CommandError> {
        let clock = self.clock.clone();
        let deadline = Deadline::after(&*clock, timeout);
        let mut left = self.retries.allowed(&io);
        if left == 0 {
            return self.run_once(io, &deadline);
        }
        let again = Again::of(&io);
        let mut io = io;
        loop {
            let error = match self.run_once(io, &deadline) {
                Err(error) if left > 0 => error,
                result => return result,
            };
            let Some(delay) = self.retries.delay(&error, &self.delays) else { return Err(error) };
            let wait = Deadline::after(&*clock, delay);
            let mut round = 0;
            while !wait.passed(&*clock) && !deadline.passed(&*clock) {
                clock.pause(round, Duration::from_millis(1));
                round += 1;
            }
            if deadline.passed(&*clock) {
                return Err(error);
            }
            left -= 1;
            self.retried += 1;
            io = again.with(error.into_buffer());
        }
    }

    fn run_once(&mut self, io: Io, deadline: &Deadline) -> Result<Done, CommandError> {
        let clock = self.clock.clone();
        if self.kept.len() >= self.slots.depth() {
            // Nobody has polled for so long that keeping more completions would have no end.
            return Err(self.full(io).into());
        }
        let mut io = io;
        // Nobody aborts an abort.
        let abortable = io.command.opcode() != AdminOpcode::ABORT.0;
        let mut round = 0;
        let ticket = loop {
            match self.enter(io, |ticket| ticket) {
                Ok(ticket) => break ticket,
                Err(rejected) if rejected.reason != Reason::Full || deadline.passed(&*clock) => {
                    return Err(rejected.into());
                }
                Err(rejected) => io = rejected.io,
            }
            // Full: completions make room.
            match self.take_one() {
                Some((ticket, done)) => self.keep(ticket, done),
                None => {
                    clock.pause(round, Duration::from_millis(1));
                    round += 1;
                }
            }
        };
        self.ring();
        round = 0;
        loop {
            match self.take_one() {
                Some((arrived, done)) if arrived == ticket => return done.ok(),
                Some((ticket, done)) => self.keep(ticket, done),
                None if self.attention
                    && let Some(done) = self.take_kept(ticket) =>
                {
                    return done.ok();
                }
                None if self.failure.is_some() => {
                    let reason = self.failure.map_or(Reason::Full, Reason::Failed);
                    return Err(CommandError::QueueFailed(reason));
                }
                None if deadline.passed(&*clock) => {
                    if let Ticket::Command(cid) = ticket
                        && abortable
                        && let Some(done) = self.climb(cid)
                    {
                        return done.ok();
                    }
                    match ticket {
                        Ticket::Command(cid) => self.slots.abandon(cid),
                        Ticket::Operation(index) => self.operations.abandon(index),
                    }
                    return Err(CommandError::TimedOut { after: deadline.after });
                }
                None => {
                    clock.pause(round, Duration::from_millis(1));
                    round += 1;
                }
            }
        }
    }

    pub(super) fn keep(&mut self, ticket: Ticket, done: Done) {
        self.kept.push_back((ticket, done));
        self.attend();
    }
}
