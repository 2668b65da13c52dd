//! Futures on a queue: they own their buffer and give it back, need no runtime, and may be dropped at any moment.
//!
//! A future that is dropped while its command is in flight leaves the buffer with the queue's slot, where it was all the
//! time; it returns to its pool on completion. Nothing here starts a thread: whoever runs the futures calls
//! [`SharedQueue::poll`] from the same thread, once a round, as an event loop does with any other source.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::io::{Done, Io, Reason};
use super::retry::Again;
use super::{Counters, Queue};
use crate::error::CommandError;
use crate::transport::{Any, Transport};

/// What became of a command that a future waits for.
enum Entry {
    Idle,
    InFlight {
        tag: u64,
        waker: Option<Waker>,
    },
    Done(Done),
    /// The future has been dropped.
    Abandoned,
}

struct State<T: Transport> {
    queue: Queue<T>,
    entries: Vec<Entry>,
    idle: Vec<usize>,
    /// Futures whose command found no room.
    full: Vec<Waker>,
    /// Wakers to be called when nothing is borrowed any more; kept for its allocation.
    woken: Vec<Waker>,
}

/// A queue that the futures of one thread share.
pub struct SharedQueue<T: Transport = Any> {
    state: Rc<RefCell<State<T>>>,
}

impl<T: Transport> Clone for SharedQueue<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

impl<T: Transport> Queue<T> {
    /// Turns the queue into one whose commands are futures. Completions not handed out yet are dropped with their
    /// buffers: poll first.
    #[must_use]
    pub fn into_shared(self) -> SharedQueue<T> {
        let state = State {
            queue: self,
            entries: Vec::new(),
            idle: Vec::new(),
            full: Vec::new(),
            woken: Vec::new(),
        };
        SharedQueue { state: Rc::new(RefCell::new(state)) }
    }
}

impl<T: Transport> SharedQueue<T> {
    /// A future that sends `io` when first polled, and resolves to its completion.
    ///
    /// The command goes out with the next [`poll`](Self::poll), so that commands of futures polled in one round share a
    /// doorbell. One that fails may be sent again, as the queue's [`Retries`](super::Retries) say.
    pub fn submit(&self, io: Io) -> Pending<T> {
        let left = self.state.borrow().queue.retries.allowed(&io);
        let attempts = (left > 0).then(|| Attempts { again: Again::of(&io), left });
        Pending { state: self.state.clone(), stage: Stage::Unsent(Some(io)), attempts }
    }

    /// One round: sends what futures have staged, and wakes those whose completion has arrived. Returns how many
    /// completions there were.
    pub fn poll(&self) -> usize {
        let mut wakers;
        let count;
        {
            let state = &mut *self.state.borrow_mut();
            state.queue.ring();
            wakers = std::mem::take(&mut state.woken);
            let State { queue, entries, idle, .. } = state;
            count = queue.poll(|mut done| {
                let Some(index) =
                    usize::try_from(done.tag).ok().filter(|&index| index < entries.len())
                else {
                    return;
                };
                let Some(entry) = entries.get_mut(index) else { return };
                match std::mem::replace(entry, Entry::Idle) {
                    Entry::InFlight { tag, waker } => {
                        done.tag = tag;
                        *entry = Entry::Done(done);
                        wakers.extend(waker);
                    }
                    // Its future is gone, and now its buffer is free to go as well.
                    Entry::Abandoned => idle.push(index),
                    other => *entry = other,
                }
            });
            if count > 0 || queue.failure().is_some() || queue.has_room() {
                wakers.append(&mut state.full);
            }
            if queue.failure().is_some() {
                for entry in entries {
                    if let Entry::InFlight { waker, .. } = entry {
                        wakers.extend(waker.take());
                    }
                }
            }
        }
        // A waker may run anything, this queue's futures included.
        for waker in wakers.drain(..) {
            waker.wake();
        }
        self.state.borrow_mut().woken = wakers;
        count
    }

    /// Runs `future` on this thread, polling the queue meanwhile.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        struct Unpark;
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {}
        }
        let waker = Waker::from(Arc::new(Unpark));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let clock = self.state.borrow().queue.clock().clone();
        let mut round = 0;
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if self.poll() > 0 {
                round = 0;
            } else {
                clock.pause(round, Duration::from_millis(1));
                round += 1;
            }
        }
    }

    /// What the queue has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state.borrow().queue.counters()
    }

    /// Commands with the device.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.borrow().queue.in_flight()
    }

    /// The queue itself again, if no future and no other handle is left.
    ///
    /// # Errors
    /// The handle, if something still shares the queue.
    pub fn into_inner(self) -> Result<Queue<T>, Self> {
        match Rc::try_unwrap(self.state) {
            Ok(state) => Ok(state.into_inner().queue),
            Err(state) => Err(Self { state }),
        }
    }
}

enum Stage {
    Unsent(Option<Io>),
    Sent(usize),
    /// Has failed, and is sent again from then on.
    Waiting(Duration, Option<Io>),
    Resolved,
}

/// What a future sends again, and how often it still may.
struct Attempts {
    again: Again,
    left: u32,
}

/// One command as a future; resolves to its completion, or to an error that says why there is none.
#[must_use = "a future does nothing until it is polled"]
pub struct Pending<T: Transport = Any> {
    state: Rc<RefCell<State<T>>>,
    stage: Stage,
    attempts: Option<Attempts>,
}

impl<T: Transport> Pending<T> {
    /// What `done` is to the future: its output, or after a failure that another attempt may mend, nothing yet.
    fn finish(&mut self, state: &mut State<T>, done: Done) -> Option<Result<Done, CommandError>> {
        let error = match done.ok() {
            Err(error) if self.attempts.is_some() => error,
            result => return Some(result),
        };
        let queue = &mut state.queue;
        let delay = queue.retries.delay(&error, &queue.delays);
        let (Some(delay), Some(attempts)) = (delay, &mut self.attempts) else {
            return Some(Err(error));
        };
        attempts.left -= 1;
        queue.retried += 1;
        let io = attempts.again.with(error.into_buffer());
        if attempts.left == 0 {
            self.attempts = None;
        }
        self.stage = Stage::Waiting(queue.clock.now() + delay, Some(io));
        None
    }
}

impl<T: Transport> Future for Pending<T> {
    type Output = Result<Done, CommandError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let shared = this.state.clone();
        let state = &mut *shared.borrow_mut();
        if let Stage::Waiting(until, io) = &mut this.stage {
            if state.queue.clock.now() < *until {
                state.full.push(context.waker().clone());
                return Poll::Pending;
            }
            this.stage = Stage::Unsent(io.take());
        }
        match &mut this.stage {
            Stage::Waiting(..) => Poll::Pending,
            Stage::Unsent(io) => {
                let Some(mut io) = io.take() else { panic!("a resolved future was polled") };
                let tag = io.tag;
                let index = state.idle.pop().unwrap_or_else(|| {
                    state.entries.push(Entry::Idle);
                    state.entries.len() - 1
                });
                io.tag = index as u64;
                match state.queue.stage(io) {
                    Ok(()) => {
                        if let Some(entry) = state.entries.get_mut(index) {
                            *entry = Entry::InFlight { tag, waker: Some(context.waker().clone()) };
                        }
                        this.stage = Stage::Sent(index);
                        Poll::Pending
                    }
                    Err(mut rejected) => {
                        state.idle.push(index);
                        rejected.io.tag = tag;
                        if rejected.reason == Reason::Full {
                            state.full.push(context.waker().clone());
                            this.stage = Stage::Unsent(Some(rejected.io));
                            return Poll::Pending;
                        }
                        this.stage = Stage::Resolved;
                        Poll::Ready(Err(rejected.into()))
                    }
                }
            }
            Stage::Sent(index) => {
                let index = *index;
                let Some(entry) = state.entries.get_mut(index) else { return Poll::Pending };
                match std::mem::replace(entry, Entry::Idle) {
                    Entry::Done(done) => {
                        state.idle.push(index);
                        this.stage = Stage::Resolved;
                        if let Some(output) = this.finish(state, done) {
                            return Poll::Ready(output);
                        }
                        state.full.push(context.waker().clone());
                        Poll::Pending
                    }
                    Entry::InFlight { tag, .. } => {
                        if let Some(violation) = state.queue.failure() {
                            // The command stays with the failed queue, entry and all.
                            *entry = Entry::Abandoned;
                            this.stage = Stage::Resolved;
                            return Poll::Ready(Err(CommandError::QueueFailed(Reason::Failed(
                                violation,
                            ))));
                        }
                        *entry = Entry::InFlight { tag, waker: Some(context.waker().clone()) };
                        Poll::Pending
                    }
                    other => {
                        *entry = other;
                        Poll::Pending
                    }
                }
            }
            Stage::Resolved => panic!("a resolved future was polled"),
        }
    }
}

impl<T: Transport> Drop for Pending<T> {
    fn drop(&mut self) {
        let Stage::Sent(index) = self.stage else { return };
        let state = &mut *self.state.borrow_mut();
        let Some(entry) = state.entries.get_mut(index) else { return };
        match std::mem::replace(entry, Entry::Idle) {
            Entry::InFlight { .. } => *entry = Entry::Abandoned,
            Entry::Done(_) => state.idle.push(index),
            other => *entry = other,
        }
    }
}
