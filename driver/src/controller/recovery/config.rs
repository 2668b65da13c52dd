//! How a controller recovers, what it has done about it, and why it could not.

use std::time::Duration;

use crate::controller::BringUpError;
use crate::error::AttachError;

/// What is done without being asked about commands that do not complete, and controllers that break the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryConfig {
    /// Whether anything is. Default yes. Without it a queue that fails stays so until it is dropped.
    pub automatic: bool,
    /// Aborts an overdue command before anything else. Default yes.
    pub abort: bool,
    /// How long an admin command that is aborted because it is overdue may still take, before the controller is reset; zero
    /// does not abort it. Default 5 s.
    pub admin_abort: Duration,
    /// Deletes and creates the queue of a command that an abort did not end. Default yes.
    pub recreate_queue: bool,
    /// Resets the function where the controller does not obey. Default yes.
    pub function_reset: bool,
    /// Resets a controller that reports a persistent internal error, as one that shows CSTS.CFS is; over a network the
    /// association is made anew. Default yes. The event is told in any case.
    pub internal_error: bool,
    /// Attempts to bring the controller up again in one reset. Default 3.
    pub attempts: u32,
    /// Resets within [`window`](Self::window); the one after them gives the controller up. Default 5.
    pub resets: usize,
    /// Default one minute.
    pub window: Duration,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            automatic: true,
            abort: true,
            admin_abort: Duration::from_secs(5),
            recreate_queue: true,
            function_reset: true,
            internal_error: true,
            attempts: 3,
            resets: 5,
            window: Duration::from_secs(60),
        }
    }
}

/// How often each step of the recovery was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryCounters {
    /// Commands found overdue, each once a time-out; admin commands among them.
    pub overdue: u64,
    /// Queues and admin commands that had stood still, and found the controller at fault.
    pub fatal: u64,
    /// Queues whose controller broke the rules.
    pub violations: u64,
    /// Persistent internal errors that the controller was reset for.
    pub internal_errors: u64,
    /// Aborts sent.
    pub aborts: u64,
    /// Aborts that the controller says it has carried out.
    pub aborted: u64,
    /// Queues deleted and created again.
    pub recreations: u64,
    /// Controller resets, asked for or not.
    pub resets: u64,
    /// Associations across a network that were made anew after a loss.
    pub reconnections: u64,
    /// Function level resets on the way.
    pub function_resets: u64,
    /// 1 if the controller has been given up.
    pub given_up: u64,
}

/// Why a controller was not reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// It has been given up or has gone before.
    #[error("{address}: the controller has been given up, or has gone; attach it again")]
    Ended {
        /// Address as the user gave it.
        address: String,
    },
    /// A controller across a network is not reset, but connected to again, which happens by itself.
    #[error("{address}: only a controller on this machine can be reset")]
    Remote {
        /// Address as the user gave it.
        address: String,
    },
    /// It could not be disabled or enabled; it has been given up.
    #[error(transparent)]
    BringUp(#[from] BringUpError),
    /// It came up and did not answer what attaching needs; it has been given up.
    #[error(transparent)]
    SetUp(AttachError),
    /// It came up as something else; it has been given up, so that nothing is written to the wrong place.
    #[error("{address}: after the reset {what}; attach it again")]
    Changed {
        /// Address as the user gave it.
        address: String,
        /// What is different.
        what: String,
    },
}
