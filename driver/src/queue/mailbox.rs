//! Many threads, few queues: commands handed to the thread that owns a queue, completions handed back.
//!
//! A [`Sender`] belongs to one thread and puts commands into a bounded, lock-free box; the owner of the queue polls
//! [`Served`], which sends what is in the box under one doorbell and returns each completion to where its command came
//! from. No thread is started, nobody blocks, and every command that was taken in comes back exactly once, even if the
//! owner is dropped.

mod letters;
mod sync {
    pub(super) use crossbeam_queue::ArrayQueue as Ring;
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::status::Status;

use self::letters::{Letters, Refused};
use self::sync::Ring;
use super::Queue;
use super::io::{Done, Io, Reason, Rejected};
use crate::clock::{Clock, Deadline};
use crate::error::CommandError;
use crate::memory::Buffer;
use crate::transport::{Any, Outcome, Transport, Violation};

/// What comes back for a command: its completion, or the command itself with the reason why it cannot be sent.
pub type Reply = Result<Done, Rejected>;

/// In the number of a letter: its sender waits for it in [`Sender::run`].
const WAITED_FOR: u64 = 1 << 63;

/// The way back to a sender. Has room for all that the sender has under way, so that a reply always fits.
type Replies = Ring<(u64, Reply)>;

struct Letter {
    number: u64,
    io: Io,
    replies: Arc<Replies>,
}

impl Letter {
    /// The reply to a letter that nobody sends any more.
    fn answer_not_sent(self) {
        let Self { number, io, replies } = self;
        let done = made_up(io.tag, Outcome::NotSent, io.into_buffer());
        reply(&replies, number, Ok(done));
    }
}

fn made_up(tag: u64, outcome: Outcome, buffer: Option<Buffer>) -> Done {
    Done { tag, status: Status::HOST_PATHING_ERROR, result: 0, outcome, buffer }
}

fn reply(replies: &Replies, number: u64, reply: Reply) {
    let fits = replies.push((number, reply)).is_ok();
    debug_assert!(fits, "a sender has no more under way than its replies have room for");
}

struct Shared {
    letters: Letters<Letter>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

/// Where other threads get their [`Sender`]s from. Clones lead to the same queue.
#[derive(Clone)]
pub struct Mailbox {
    shared: Arc<Shared>,
}

impl Mailbox {
    /// A sender for one thread, with `depth` commands (at least 1) under way at most.
    #[must_use]
    pub fn sender(&self, depth: u16) -> Sender {
        let depth = depth.max(1);
        Sender {
            shared: self.shared.clone(),
            replies: Arc::new(Ring::new(usize::from(depth))),
            depth,
            under_way: 0,
            next: 0,
            kept: VecDeque::new(),
        }
    }
}

/// One thread's way to a queue that another thread owns.
///
/// Dropped with commands under way, it leaves their buffers with the queue until they complete.
pub struct Sender {
    shared: Arc<Shared>,
    replies: Arc<Replies>,
    depth: u16,
    under_way: u16,
    next: u64,
    /// Replies that arrived while [`Sender::run`] waited for another.
    kept: VecDeque<Reply>,
}

impl Sender {
    /// Hands `io` to the owner of the queue, who sends it with its next [`Served::poll`].
    ///
    /// # Errors
    /// [`Rejected`] gives command and buffer back. [`Reason::Full`]: this sender has all it may have under way, or
    /// the mailbox is full; poll, then send again. [`Reason::Closed`]: nobody serves the queue any more.
    pub fn send(&mut self, io: Io) -> Result<(), Rejected> {
        self.put(io, 0).map(|_| ())
    }

    fn put(&mut self, io: Io, mark: u64) -> Result<u64, Rejected> {
        if self.under_way() >= usize::from(self.depth) {
            return Err(Rejected { reason: Reason::Full, io });
        }
        let number = self.next | mark;
        let letter = Letter { number, io, replies: self.replies.clone() };
        self.shared.letters.put(letter, Letter::answer_not_sent).map_err(|refused| {
            let (reason, letter) = match refused {
                Refused::Full(letter) => (Reason::Full, letter),
                Refused::Closed(letter) => (Reason::Closed, letter),
            };
            Rejected { reason, io: letter.io }
        })?;
        self.next = (self.next + 1) & !WAITED_FOR;
        self.under_way += 1;
        Ok(number)
    }

    fn receive(&mut self) -> Option<(u64, Reply)> {
        let received = self.replies.pop()?;
        self.under_way -= 1;
        Some(received)
    }

    /// Hands every reply that has arrived to `sink`; returns how many. Never blocks.
    pub fn poll(&mut self, mut sink: impl FnMut(Reply)) -> usize {
        let mut count = 0;
        // Nothing is sent meanwhile, so this ends.
        self.keep_replies();
        while let Some(reply) = self.kept.pop_front() {
            count += 1;
            sink(reply);
        }
        count
    }

    /// Sends `io` and waits for it, as long as the queue's own [`run`](Queue::run) would.
    ///
    /// # Errors
    /// [`CommandError`]. After a time-out, the buffer returns to its pool when the command completes.
    pub fn run(&mut self, mut io: Io) -> Result<Done, CommandError> {
        let clock = self.shared.clock.clone();
        let deadline = Deadline::after(&*clock, self.shared.timeout);
        let mut round = 0;
        let sent = loop {
            match self.put(io, WAITED_FOR) {
                Ok(number) => break number,
                Err(rejected) if rejected.reason != Reason::Full || deadline.passed(&*clock) => {
                    return Err(rejected.into());
                }
                Err(rejected) => io = rejected.io,
            }
            // What arrives is kept, and makes no room; what was given up on does.
            self.keep_replies();
            clock.pause(round, Duration::from_millis(1));
            round += 1;
        };
        round = 0;
        loop {
            while let Some((number, reply)) = self.receive() {
                if number == sent {
                    return reply?.ok();
                }
                self.keep(number, reply);
            }
            if deadline.passed(&*clock) {
                return Err(CommandError::TimedOut { after: deadline.after });
            }
            clock.pause(round, Duration::from_millis(1));
            round += 1;
        }
    }

    fn keep_replies(&mut self) {
        while let Some((number, reply)) = self.receive() {
            self.keep(number, reply);
        }
    }

    /// Nobody waits any more for what `run` gave up on.
    fn keep(&mut self, number: u64, reply: Reply) {
        if number & WAITED_FOR == 0 {
            self.kept.push_back(reply);
        }
    }

    /// Commands under way: sent, and not handed back yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        usize::from(self.under_way) + self.kept.len()
    }
}

/// Where a command that is with the device came from.
struct Origin {
    number: u64,
    tag: u64,
    replies: Arc<Replies>,
}

/// A queue whose commands come out of a mailbox. Belongs to one thread, which polls it.
///
/// Dropped, it deletes the queue and answers everybody: what was still in the box was not sent, what was with the device
/// is indeterminate.
pub struct Served<T: Transport = Any> {
    shared: Arc<Shared>,
    /// `None` once it is being dropped.
    queue: Option<Queue<T>>,
    origins: Vec<Option<Origin>>,
    idle: Vec<usize>,
    /// A letter that found the queue full.
    waiting: Option<Letter>,
}

impl<T: Transport> Queue<T> {
    /// Opens the queue to other threads, by a mailbox with room for `capacity` commands (at least 1) that wait to be
    /// sent. Completions not handed out yet are dropped with their buffers: poll first.
    #[must_use]
    pub fn into_mailbox(self, capacity: usize) -> (Mailbox, Served<T>) {
        let shared = Arc::new(Shared {
            letters: Letters::new(capacity.max(1)),
            clock: self.clock.clone(),
            timeout: self.timeout,
        });
        let served = Served {
            shared: shared.clone(),
            queue: Some(self),
            origins: Vec::new(),
            idle: Vec::new(),
            waiting: None,
        };
        (Mailbox { shared }, served)
    }
}

impl<T: Transport> Served<T> {
    /// One round: hands back what has completed, and sends what is in the mailbox, as far as the queue has room, under
    /// one doorbell. Returns how many commands were taken and handed back; 0 means that there was nothing to do.
    pub fn poll(&mut self) -> usize {
        // Completions first: they make room.
        let completed = self.receive();
        completed + self.send()
    }

    fn receive(&mut self) -> usize {
        let Self { queue: Some(queue), origins, idle, .. } = self else { return 0 };
        queue.poll(|mut done| {
            let index = usize::try_from(done.tag).unwrap_or(usize::MAX);
            // Commands that the queue had before it was opened have no origin.
            let Some(origin) = origins.get_mut(index).and_then(Option::take) else { return };
            idle.push(index);
            done.tag = origin.tag;
            reply(&origin.replies, origin.number, Ok(done));
        })
    }

    fn send(&mut self) -> usize {
        let Self { shared, queue: Some(queue), origins, idle, waiting } = self else { return 0 };
        let mut sent = 0;
        // As many as the queue is deep at most: commands without end must not keep completions waiting.
        for _ in 0..queue.depth() {
            let Some(letter) = waiting.take().or_else(|| shared.letters.take()) else { break };
            let Letter { number, mut io, replies } = letter;
            let tag = io.tag;
            let index = idle.pop().unwrap_or_else(|| {
                origins.push(None);
                origins.len() - 1
            });
            io.tag = index as u64;
            match queue.stage(io) {
                Ok(()) => {
                    if let Some(origin) = origins.get_mut(index) {
                        *origin = Some(Origin { number, tag, replies });
                    }
                    sent += 1;
                }
                Err(mut rejected) => {
                    idle.push(index);
                    rejected.io.tag = tag;
                    if rejected.reason == Reason::Full {
                        *waiting = Some(Letter { number, io: rejected.io, replies });
                        break;
                    }
                    reply(&replies, number, Err(rejected));
                }
            }
        }
        if sent > 0 {
            queue.ring();
        }
        sent
    }

    /// Why the queue takes no more commands, if it has failed; drop it then.
    #[must_use]
    pub fn failure(&self) -> Option<Violation> {
        self.queue.as_ref().and_then(Queue::failure)
    }

    /// Commands with the device.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::in_flight)
    }
}

impl<T: Transport> Drop for Served<T> {
    fn drop(&mut self) {
        self.shared.letters.close(Letter::answer_not_sent);
        if let Some(letter) = self.waiting.take() {
            letter.answer_not_sent();
        }
        // What has completed by now is worth knowing.
        self.receive();
        // The device touches none of their memory once the queue is gone.
        drop(self.queue.take());
        for origin in self.origins.drain(..).flatten() {
            let Origin { number, tag, replies } = origin;
            reply(&replies, number, Ok(made_up(tag, Outcome::Indeterminate, None)));
        }
    }
}
