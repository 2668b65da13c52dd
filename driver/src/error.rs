//! Errors, one type per verb. Each says what was tried and what to do next.

use std::fmt;
use std::time::Duration;

use doorbell_spec::status::Status;

use crate::address::AddressError;
use crate::controller::BringUpError;
use crate::device::DeviceError;
use crate::discovery::DiscoveryError;
use crate::memory::{Buffer, MemoryError};
use crate::queue::{Reason, Rejected};
use crate::transport::Outcome;
use crate::transport::pcie::PcieError;
use crate::transport::tcp::TcpError;

/// Why a controller could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The address does not parse.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The device could not be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No DMA memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The controller did not come up.
    #[error(transparent)]
    BringUp(#[from] BringUpError),
    /// No memory or no doorbell for the admin queue.
    #[error("admin queue: {0}")]
    AdminQueue(#[from] PcieError),
    /// No connection.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The discovery log page could not be read.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// A command that attaching needs failed.
    #[error("{address}: {what}: {source}")]
    Command {
        /// Address as the user gave it.
        address: String,
        /// The command.
        what: &'static str,
        /// The failure.
        source: CommandError,
    },
    /// BAR0 has no room for the admin queue's doorbells.
    #[error(
        "{address}: BAR0 has {len} bytes, too few for the admin queue's doorbells with CAP.DSTRD {dstrd}"
    )]
    BarTooShort {
        /// Address as the user gave it.
        address: String,
        /// Bytes of BAR0.
        len: u64,
        /// CAP.DSTRD.
        dstrd: u8,
    },
    /// The controller reports something that no driver could work with.
    #[error("{address}: {what}")]
    Unusable {
        /// Address as the user gave it.
        address: String,
        /// What it reports.
        what: String,
    },
    /// This build has no support for such addresses.
    #[error(
        "{address}: this build lacks the feature `{feature}` of the package `doorbell`; build with it"
    )]
    NotBuilt {
        /// Address as the user gave it.
        address: String,
        /// Cargo feature.
        feature: &'static str,
    },
}

/// Why a queue could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// All queues of the controller are in use.
    #[error("{address}: all {max} I/O queues of the controller are in use; drop one first")]
    NoneLeft {
        /// Address as the user gave it.
        address: String,
        /// I/O queues that the controller granted.
        max: u16,
    },
    /// No memory, or no doorbell.
    #[error(transparent)]
    Rings(#[from] PcieError),
    /// The controller is reached over a network.
    #[error("{address}: the controller has no rings; open the queue with `Controller::queue`")]
    NoRings {
        /// Address as the user gave it.
        address: String,
    },
    /// No connection.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The controller refused.
    #[error("{address}: {what} {qid}: {source}")]
    Refused {
        /// Address as the user gave it.
        address: String,
        /// What was tried.
        what: &'static str,
        /// Queue identifier.
        qid: u16,
        /// The failure.
        source: CommandError,
    },
}

/// A command that did not succeed. Where the driver may give the buffer back, it is here.
#[non_exhaustive]
pub enum CommandError {
    /// The controller completed it with an error.
    Status {
        /// The status.
        status: Status,
        /// The command's buffer.
        buffer: Option<Buffer>,
    },
    /// The way to the controller was lost before it completed.
    Lost {
        /// What became of it.
        outcome: Outcome,
        /// The command's buffer.
        buffer: Option<Buffer>,
    },
    /// It was never sent.
    Rejected(Rejected),
    /// No completion came in time. The command is still with the device, and so is its buffer: it returns to its pool
    /// when the completion comes, or when the queue has been deleted.
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The queue failed while the command was in flight. Its buffer stays with the queue until that is deleted.
    QueueFailed(Reason),
    /// There was no memory for its data; it was never sent.
    Memory(MemoryError),
    /// It succeeded with less data than its structure needs.
    Short {
        /// Bytes needed.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
}

impl CommandError {
    /// The command's buffer, if the device is provably done with it.
    #[must_use]
    pub fn into_buffer(self) -> Option<Buffer> {
        match self {
            Self::Status { buffer, .. } | Self::Lost { buffer, .. } => buffer,
            Self::Rejected(rejected) => rejected.io.into_buffer(),
            _ => None,
        }
    }

    /// What became of the command, and so what can be done about it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Status { status, .. } => Outcome::of(*status),
            Self::Lost { outcome, .. } => *outcome,
            Self::Rejected(_) | Self::Memory(_) => Outcome::NotSent,
            Self::TimedOut { .. } | Self::QueueFailed(_) => Outcome::Indeterminate,
            Self::Short { .. } => Outcome::Completed,
        }
    }

    /// The status that the controller gave, if it gave one.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, .. } => {
                write!(f, "the controller answered {status}: {}", status.meaning())
            }
            Self::Lost { outcome, .. } => {
                write!(f, "the way to the controller was lost; the command is {outcome}")
            }
            Self::Rejected(rejected) => write!(f, "not sent: {rejected}"),
            Self::TimedOut { after } => write!(f, "no completion within {after:?}"),
            Self::QueueFailed(reason) => write!(f, "no completion: {reason}"),
            Self::Memory(error) => write!(f, "not sent: {error}"),
            Self::Short { expected, got } => {
                write!(f, "{got} bytes of data where {expected} are needed")
            }
        }
    }
}

impl fmt::Debug for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandError({self})")
    }
}

impl std::error::Error for CommandError {}

impl From<Rejected> for CommandError {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}
