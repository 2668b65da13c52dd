//! What a rule does to what it has picked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::status::Status;

use super::pdu::PduFault;

/// What is wrong with a completion, beside its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Normal,
    Lost,
    Delayed(Duration),
    Twice,
    /// After the next completion of the same queue.
    Behind,
    WrongPhase,
    /// The phase first and the rest a round later.
    Halves,
    /// As it should be, and a round later over again with the identifier turned over.
    Rewritten,
    /// As often as the queue has entries, room or none.
    Flood,
}

/// A field of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Status(Status),
    Cid(u16),
    /// Bits of the command identifier turned over.
    CidBits(u16),
    Sqid(u16),
    Sqhd(u16),
    Result(u64),
}

/// What is wrong with the data that a command moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DataFault {
    /// Only so many bytes move; the rest stays as it was.
    Short(usize),
    /// Bytes from here on come out with these bits turned over.
    Corrupt(usize, Vec<u8>),
}

pub(super) type Edit = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// What a rule does.
#[derive(Clone)]
pub(crate) enum Act {
    Lose,
    Hang,
    Answer(Status, u64),
    Data(DataFault),
    Deliver(Delivery),
    Change(Field),
    Edit(Edit),
    /// A register reads as `value & and | or`.
    Bits {
        and: u64,
        or: u64,
    },
    Late(Duration),
    Pdu(PduFault),
    Fatal,
    Vanish,
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lose => f.write_str("Lose"),
            Self::Hang => f.write_str("Hang"),
            Self::Answer(status, result) => write!(f, "Answer({status:?}, {result:#x})"),
            Self::Data(fault) => fault.fmt(f),
            Self::Deliver(delivery) => delivery.fmt(f),
            Self::Change(field) => field.fmt(f),
            Self::Edit(_) => f.write_str("Edit"),
            Self::Bits { and, or } => write!(f, "Bits(and {and:#x}, or {or:#x})"),
            Self::Pdu(fault) => fault.fmt(f),
            Self::Late(by) => write!(f, "Late({by:?})"),
            Self::Fatal => f.write_str("Fatal"),
            Self::Vanish => f.write_str("Vanish"),
        }
    }
}
