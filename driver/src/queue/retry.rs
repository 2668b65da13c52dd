//! Which commands blocking calls and futures send again, how often, and after what delay (CQ-13).

use std::time::Duration;

use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::status::Status;

use super::io::{Extent, Io, Kind};
use crate::error::CommandError;
use crate::memory::Buffer;
use crate::transport::Outcome;

/// When [`Queue::run`](crate::Queue::run), and futures of [`SharedQueue::submit`](crate::queue::SharedQueue::submit), send a
/// command again that failed.
///
/// Never one that the controller says would fail again (DNR). Commands that are staged and polled are never sent again,
/// nor are those through a mailbox: their completion, with status and buffer, is what the caller decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// How often at most, beside the first time. Default 3.
    pub limit: u32,
    /// Also commands that change something: all but Read, Compare, Verify and Flush. Default no.
    pub not_idempotent: bool,
    /// Longest wait before one, whatever the controller asks for (CRDT). Default 1 s.
    pub longest_delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { limit: 3, not_idempotent: false, longest_delay: Duration::from_secs(1) }
    }
}

impl Retries {
    /// None at all.
    #[must_use]
    pub fn never() -> Self {
        Self { limit: 0, ..Self::default() }
    }

    /// How often `io` may be sent again.
    pub(super) fn allowed(&self, io: &Io) -> u32 {
        let opcode = NvmOpcode(io.command.opcode());
        let idempotent = match io.kind {
            Kind::Blocks => {
                matches!(opcode, NvmOpcode::READ | NvmOpcode::COMPARE | NvmOpcode::VERIFY)
            }
            Kind::Internal => opcode == NvmOpcode::FLUSH,
            Kind::Whole | Kind::Raw | Kind::Invalid(_) => false,
        };
        if idempotent || self.not_idempotent { self.limit } else { 0 }
    }

    /// How long to wait after `error` before the next attempt; `None` if there is no use in one.
    pub(super) fn delay(&self, error: &CommandError, delays: &[Duration; 3]) -> Option<Duration> {
        match error {
            CommandError::Status { status, .. } => {
                let hopeless = status.dnr()
                    || status.is(Status::COMPARE_FAILURE)
                    || status.is(Status::ABORTED_BY_REQUEST);
                let asked = usize::from(status.crd()).checked_sub(1).and_then(|at| delays.get(at));
                let asked = asked.copied().unwrap_or_default();
                (!hopeless).then_some(asked.min(self.longest_delay))
            }
            CommandError::Lost { outcome, .. } => {
                (*outcome != Outcome::Completed).then_some(Duration::ZERO)
            }
            _ => None,
        }
    }
}

/// A command without its buffer, to be sent again once that is back.
pub(super) struct Again {
    command: doorbell_spec::command::Sqe,
    tag: u64,
    kind: Kind,
    extent: Extent,
}

impl Again {
    pub(super) fn of(io: &Io) -> Self {
        let Io { command, tag, kind, extent, .. } = *io;
        Self { command, tag, kind, extent }
    }

    pub(super) fn with(&self, buffer: Option<Buffer>) -> Io {
        let Self { command, tag, kind, extent } = *self;
        Io { command, buffer, tag, kind, extent }
    }
}
