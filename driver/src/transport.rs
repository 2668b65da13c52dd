//! The seam above: one queue pair, whatever carries it.
//!
//! A transport moves commands with their data out and completions in. It knows nothing of callers, buffers' owners,
//! retries or time-outs; those belong to [`Queue`](crate::Queue). [`pcie`] is rings and doorbells over a
//! [`Device`](crate::device::Device), [`tcp`] a connection; [`Any`] is either.

mod any;
pub mod pcie;
pub mod tcp;

use std::{fmt, ptr};

use doorbell_spec::command::Sqe;
use doorbell_spec::status::Status;

pub use self::any::Any;
use self::tcp::LinkError;
use crate::memory::Buffer;

/// What one queue pair can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands in flight at most; at least 1.
    pub depth: u16,
    /// Bytes of data one command can carry at most.
    pub max_transfer: usize,
    /// Page in which the data are described, in bytes; a power of two.
    pub page: u64,
    /// Staging is a few stores, which belong into the caller's code; otherwise it is a call.
    pub direct: bool,
}

/// How far a command is trusted to move its data and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It moves as much as is described.
    Exact,
    /// Nobody knows: whatever it tries, it must reach no memory beyond what is described.
    Guarded,
    /// It carries its own data pointer, one of the driver's making.
    AsGiven,
}

/// The data of one command: memory contiguous in I/O addresses, and in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// I/O address of the first byte; 0 where there is none.
    pub iova: u64,
    /// The first byte in this process, for transports that move the data themselves. Theirs alone to read and write
    /// until the command completes.
    pub(crate) base: *mut u8,
    /// Bytes.
    pub len: usize,
    /// How they are described.
    pub handling: Handling,
}

impl Data {
    /// No data.
    pub(crate) const NONE: Self =
        Self { iova: 0, base: ptr::null_mut(), len: 0, handling: Handling::Exact };

    /// All of `buffer`.
    #[inline(always)]
    pub(crate) fn of(buffer: &Buffer) -> Self {
        let (base, len) = (buffer.base().as_ptr(), buffer.len());
        Self { iova: buffer.iova(), base, len, handling: Handling::Exact }
    }
}

/// What a transport holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory for rings, lists and the like.
    pub bytes: usize,
    /// Doorbells written, or messages sent.
    pub doorbells: u64,
    /// Rounds: times that everything that had arrived was taken.
    pub polls: u64,
    /// Rounds that found nothing.
    pub empty_polls: u64,
}

/// What became of a command, for whoever has to decide whether to send it again.
///
/// | outcome | has it been carried out? | what to do |
/// | --- | --- | --- |
/// | [`Completed`](Self::Completed) | as the status says | go by the status; unless it has DNR, it can be sent again |
/// | [`NotSent`](Self::NotSent) | no | send it again, whatever it is |
/// | [`Aborted`](Self::Aborted) | perhaps in part, and no more of it will be | send it again at once, if that overwrites all it would have changed |
/// | [`Indeterminate`](Self::Indeterminate) | nobody knows | send reads again; of a write, read what is there first |
///
/// [`Queue::run`](crate::Queue::run) does so for reads by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The controller completed it: the status is the controller's.
    #[default]
    Completed,
    /// The controller never saw it, and never will. It can be sent again.
    NotSent,
    /// The controller has confirmed, by the status Command Abort Requested, that it ended the command for an Abort (the
    /// driver's, if the command was overdue, or [`Controller::abort`](crate::Controller::abort)): nothing more of it
    /// happens. It can be sent again; blocks that it was to write may have the old content or the new.
    Aborted,
    /// It was with the controller when the way to it was lost: it may have been carried out, in whole, in part or not
    /// at all. A read can be sent again; what a write would have changed must be read first.
    Indeterminate,
}

impl Outcome {
    /// Of a command that the controller has completed.
    #[inline(always)]
    pub(crate) fn of(status: Status) -> Self {
        if status.is(Status::ABORTED_BY_REQUEST) { Self::Aborted } else { Self::Completed }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::NotSent => "not sent",
            Self::Aborted => "aborted",
            Self::Indeterminate => "indeterminate",
        })
    }
}

/// One completion, copied out of memory that the other side can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Command identifier, unchecked.
    pub cid: u16,
    /// Status field without the phase.
    pub status: Status,
    /// Dwords 0 and 1.
    pub result: u64,
    /// [`Outcome::Completed`] or [`Outcome::Aborted`], unless the transport made the completion up because the controller
    /// never will.
    pub outcome: Outcome,
}

/// The other side did what the specification forbids, or is out of reach; the queue takes no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A completion names a command that is not in flight (CID never issued, stale or completed already).
    #[error("completion for command identifier {cid:#06x}, which is not in flight")]
    UnknownCommand {
        /// The identifier.
        cid: u16,
    },
    /// A completion names another submission queue.
    #[error("completion for submission queue {sqid} on queue {queue}")]
    WrongQueue {
        /// The queue named.
        sqid: u16,
        /// The queue the completion arrived on.
        queue: u16,
    },
    /// The controller has been given up, as nothing that was tried brought it back, or has been detached.
    #[error("the controller has been given up or detached, or has gone")]
    Ended,
    /// The submission queue head moved past the tail, or past the ring.
    #[error(
        "submission queue head {sqhd} lies outside what was submitted (head {head}, tail {tail})"
    )]
    HeadOutOfRange {
        /// The head in the completion.
        sqhd: u16,
        /// The head known before.
        head: u16,
        /// The tail.
        tail: u16,
    },
    /// The way to the controller is lost for good.
    #[error("{0}")]
    Lost(LinkError),
}

/// What seems to be wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The controller has said that it processes nothing for now.
    Paused,
    /// Commands are in flight, and none has completed for a while.
    Stalled,
    /// This command has been in flight for longer than it may be. Said again after as long again.
    Overdue {
        /// Its identifier.
        cid: u16,
    },
    /// The other side has done what it must not.
    Violated,
}

/// What has become of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It goes on.
    Same,
    /// No command in flight completes any more, and the other side touches none of their memory. What had completed
    /// before may still be taken; nothing can be staged until it is renewed.
    Lost,
    /// After having been lost: it can be used again, and nothing is in flight.
    Renewed,
    /// As lost, and for good.
    Ended,
}

/// There is no room in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One queue pair, polled.
pub trait Transport {
    /// What it can carry.
    fn limits(&self) -> Limits;

    /// Makes one command ready to be sent by the next [`ring`](Transport::ring).
    ///
    /// `slot` is below [`Limits::depth`], in use by no other command, and is the low part of `cid`. The memory behind
    /// `data` stays the device's until the completion for `cid`.
    ///
    /// # Errors
    /// [`Full`]: nothing was staged.
    fn stage(&mut self, slot: u16, cid: u16, command: Sqe, data: Data) -> Result<(), Full>;

    /// The guarded command in `slot` has completed. Not called for others.
    fn release(&mut self, slot: u16);

    /// Sends what is staged.
    fn ring(&mut self);

    /// Takes the next completion, if one has arrived; if none has, the other side learns what was consumed.
    ///
    /// # Errors
    /// [`Violation`] if what arrived cannot be right.
    fn next(&mut self) -> Result<Option<Completion>, Violation>;

    /// Asked now and then between rounds, and at once after a [`Violation`]: does something about `trouble`, and says
    /// what has become of the transport. May take as long as the steps that are configured.
    fn tend(&mut self, trouble: Trouble) -> Condition {
        let _ = trouble;
        Condition::Same
    }

    /// What it holds and has done.
    fn usage(&self) -> Usage;

    /// Ends the queue. After `Ok` the other side touches no memory on its behalf.
    ///
    /// # Errors
    /// Whatever kept it from ending; the memory must be kept then.
    fn close(&mut self) -> Result<(), CloseError>;
}

/// Why a queue could not be ended; its memory is leaked.
#[derive(Debug, thiserror::Error)]
#[error("queue {queue}: {what}")]
pub struct CloseError {
    /// Queue identifier.
    pub queue: u16,
    /// What failed.
    pub what: String,
}
