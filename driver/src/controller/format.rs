//! Commands that may give namespaces another format: sent while no I/O command is with the controller.
//!
//! Handles made before are refused from then on (see [`Gate`](crate::queue::Gate)), but a command that a queue has let
//! pass, and that the controller has not fetched, would be carried out in blocks of the new size. So all I/O queues are
//! deleted first, or the controller is reset where it does not delete them; whoever owns one gets new rings with the next
//! poll, and none before the format is over.

use std::sync::MutexGuard;
use std::time::Duration;

use doorbell_spec::admin::{self as commands, AdminOpcode, FormatCdw10};
use doorbell_spec::command::{NSID_ALL, Sqe};

use super::{Inner, Link, lock};
use crate::error::CommandError;
use crate::queue::{Done, Io, Reason};
use crate::transport::{Any, Violation};

/// The namespaces that a command may give another format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formats {
    None,
    One(u32),
    All,
}

impl Formats {
    /// Those of `command`, where a format applies to all namespaces if `together`.
    pub(super) fn of(command: &Sqe, together: bool) -> Self {
        // Operations of Namespace Management, and of Capacity Management, that only add something.
        const CREATE: u32 = 0;
        let one = match command.nsid {
            NSID_ALL => Self::All,
            nsid => Self::One(nsid),
        };
        match AdminOpcode(command.opcode()) {
            AdminOpcode::FORMAT_NVM => {
                // A secure erase may have a scope of its own; that it leaves the format alone is not for sure.
                let erases = FormatCdw10::from_bits(command.cdw10).ses() != 0;
                if together || erases { Self::All } else { one }
            }
            AdminOpcode::NAMESPACE_MANAGEMENT if command.cdw10 & 0xf != CREATE => one,
            AdminOpcode::CAPACITY_MANAGEMENT => Self::All,
            _ => Self::None,
        }
    }
}

impl Inner {
    /// Sends `io`, which may give namespaces another format, while nothing else is with the controller.
    pub(super) fn reformat(
        &self,
        io: Io,
        formats: Formats,
        timeout: Duration,
    ) -> Result<Done, CommandError> {
        let mut ended = lock(&self.ended);
        if !self.quiesce(&mut ended) {
            return Err(CommandError::QueueFailed(Reason::Failed(Violation::Ended)));
        }
        let result = lock(&self.admin).run_within(io, timeout);
        self.namespaces_reformatted(formats);
        if matches!(result, Err(CommandError::TimedOut { .. } | CommandError::QueueFailed(_))) {
            // It may still be at it, and no queue must exist until it is not.
            let _reset = self.is_remote() || self.reset_or_end(&mut ended).is_ok();
        }
        result
    }

    /// Handles of these namespaces are good for nothing any more.
    pub(super) fn namespaces_reformatted(&self, formats: Formats) {
        let nsid = match formats {
            Formats::None => return,
            Formats::One(nsid) => Some(nsid),
            Formats::All => None,
        };
        self.gate.reformatted(nsid);
        self.recovery.forget(nsid);
    }

    /// Deletes all I/O queues, for their owners to find out; false if the controller has been given up.
    fn quiesce(&self, ended: &mut MutexGuard<'_, bool>) -> bool {
        if **ended {
            return false;
        }
        if matches!(self.link, Link::Tcp(_)) {
            // What the controller sends is as long as its buffer, or the connection ends.
            return true;
        }
        let present = self.recovery.present();
        let deleted = present.iter().all(|&qid| {
            let deleted = self.internal(commands::delete_io_sq(qid));
            deleted.and_then(|_| self.internal(commands::delete_io_cq(qid))).is_ok()
        });
        if !deleted {
            return self.reset_or_end(ended).is_ok();
        }
        if !present.is_empty() {
            let mut admin = lock(&self.admin);
            self.recovery.deleted();
            // The count that has moved on for them is not that of the admin queue, which stays.
            if let Any::Pcie(rings) = admin.transport_mut() {
                rings.leased(self.recovery.lease());
            }
        }
        true
    }
}
