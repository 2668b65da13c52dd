//! The transport of a queue whose address was chosen at run time: one of them, and a branch in each call.

use doorbell_spec::command::Sqe;

use super::pcie::Pcie;
use super::tcp::Tcp;
use super::{
    CloseError, Completion, Condition, Data, Full, Limits, Transport, Trouble, Usage, Violation,
};

/// Any transport.
// The rings are the larger ones, and the ones for which an indirection would show.
#[allow(clippy::large_enum_variant)]
pub enum Any {
    /// Rings and doorbells.
    Pcie(Pcie),
    /// A connection.
    Tcp(Box<Tcp>),
}

impl Transport for Any {
    #[inline(always)]
    fn limits(&self) -> Limits {
        match self {
            Self::Pcie(pcie) => pcie.limits(),
            Self::Tcp(tcp) => tcp.limits(),
        }
    }

    #[inline(always)]
    fn stage(&mut self, slot: u16, cid: u16, command: Sqe, data: Data) -> Result<(), Full> {
        match self {
            Self::Pcie(pcie) => pcie.stage(slot, cid, command, data),
            Self::Tcp(tcp) => tcp.stage(slot, cid, command, data),
        }
    }

    fn release(&mut self, slot: u16) {
        match self {
            Self::Pcie(pcie) => pcie.release(slot),
            Self::Tcp(tcp) => tcp.release(slot),
        }
    }

    #[inline(always)]
    fn ring(&mut self) {
        match self {
            Self::Pcie(pcie) => pcie.ring(),
            Self::Tcp(tcp) => tcp.ring(),
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Result<Option<Completion>, Violation> {
        match self {
            Self::Pcie(pcie) => pcie.next(),
            Self::Tcp(tcp) => tcp.next(),
        }
    }

    fn tend(&mut self, trouble: Trouble) -> Condition {
        match self {
            Self::Pcie(pcie) => pcie.tend(trouble),
            Self::Tcp(tcp) => tcp.tend(trouble),
        }
    }

    fn usage(&self) -> Usage {
        match self {
            Self::Pcie(pcie) => pcie.usage(),
            Self::Tcp(tcp) => tcp.usage(),
        }
    }

    fn close(&mut self) -> Result<(), CloseError> {
        match self {
            Self::Pcie(pcie) => pcie.close(),
            Self::Tcp(tcp) => tcp.close(),
        }
    }
}
