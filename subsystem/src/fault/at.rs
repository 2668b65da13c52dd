//! Where a rule looks, as its builders see it: each place offers the acts that make sense there, and no others.

use std::time::Duration;

use doorbell_spec::status::Status;

use super::act::{Act, DataFault, Delivery, Field};
use super::pdu::PduFault;
use super::rule::{Place, Rule};

/// A builder for each place: what follows its name are its acts, and what a rule does by each.
macro_rules! places {
    ($($(#[$place_doc:meta])* $at:ident { $($(#[$doc:meta])* $act:ident($($arg:ident: $type:ty),*) => $does:expr;)* })*) => {$(
        $(#[$place_doc])*
        #[derive(Clone, Debug)]
        #[must_use = "says where; now say what"]
        pub struct $at(pub(super) Place);

        impl $at {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $act(self, $($arg: $type),*) -> Rule {
                    Rule::new(self.0, $does)
                }
            )*
        }
    )*};
}

places! {
    /// What can happen to a command.
    AtCommand {
        /// It is fetched and forgotten: neither carried out nor answered, and unknown to Abort.
        lose() => Act::Lose;
        /// It is not carried out, and answered only when it is aborted or its queue is deleted.
        hang() => Act::Hang;
        /// It is not carried out, and answered with `status` and this result (dwords 0 and 1).
        answer(status: Status, result: u64) => Act::Answer(status, result);
        /// An I/O command that moves only the first `bytes` of its data, and reports success.
        short(bytes: usize) => Act::Data(DataFault::Short(bytes));
        /// An I/O command whose data come out with the bits of `flip` turned over, from byte `at` on.
        corrupt(at: usize, flip: impl Into<Vec<u8>>) => Act::Data(DataFault::Corrupt(at, flip.into()));
        /// The controller fails (CSTS.CFS); the command is lost.
        fatal() => Act::Fatal;
        /// The controller vanishes: registers read as all-ones and nothing is processed any more.
        vanish() => Act::Vanish;
    }

    /// What can happen to a completion.
    AtCompletion {
        /// It is never posted.
        lose() => Act::Deliver(Delivery::Lost);
        /// It is posted so much later.
        delay(by: Duration) => Act::Deliver(Delivery::Delayed(by));
        /// It is posted twice, where there is room.
        duplicate() => Act::Deliver(Delivery::Twice);
        /// It is posted after the next completion of its queue.
        reorder() => Act::Deliver(Delivery::Behind);
        /// Its phase tag is the old one, though the queue moves on.
        wrong_phase() => Act::Deliver(Delivery::WrongPhase);
        /// Its phase tag is written first, over what the entry held before, and the rest a round later.
        half_written() => Act::Deliver(Delivery::Halves);
        /// It is posted as it should be, and a round later overwritten with all bits of its identifier turned over.
        rewritten() => Act::Deliver(Delivery::Rewritten);
        /// It is posted as often as the queue has entries, room or none.
        flood() => Act::Deliver(Delivery::Flood);
        /// Another status.
        status(status: Status) => Act::Change(Field::Status(status));
        /// Another command identifier.
        cid(cid: u16) => Act::Change(Field::Cid(cid));
        /// Bits of the command identifier turned over.
        flip_cid(bits: u16) => Act::Change(Field::CidBits(bits));
        /// Another submission queue identifier.
        sqid(sqid: u16) => Act::Change(Field::Sqid(sqid));
        /// Another submission queue head pointer.
        sqhd(sqhd: u16) => Act::Change(Field::Sqhd(sqhd));
        /// Another result, dwords 0 (low) and 1 (high).
        result(result: u64) => Act::Change(Field::Result(result));
        /// The controller fails (CSTS.CFS) before the completion is posted.
        fatal() => Act::Fatal;
        /// The controller vanishes before the completion is posted.
        vanish() => Act::Vanish;
    }

    /// What can happen to a register that is read.
    AtRead {
        /// All-ones, as from a device that is not there.
        all_ones() => Act::Bits { and: 0, or: u64::MAX };
        /// This value.
        value(value: u64) => Act::Bits { and: 0, or: value };
        /// These bits set.
        set_bits(bits: u64) => Act::Bits { and: u64::MAX, or: bits };
        /// These bits cleared.
        clear_bits(bits: u64) => Act::Bits { and: !bits, or: 0 };
        /// The controller fails (CSTS.CFS) first.
        fatal() => Act::Fatal;
        /// The controller vanishes first.
        vanish() => Act::Vanish;
    }

    /// What can happen to a register that is written.
    AtWrite {
        /// It has no effect.
        lose() => Act::Lose;
        /// It takes effect so much later; until then everything goes on as before.
        delay(by: Duration) => Act::Late(by);
        /// The controller fails (CSTS.CFS), and the write is lost.
        fatal() => Act::Fatal;
        /// The controller vanishes.
        vanish() => Act::Vanish;
    }

    /// What can happen to a PDU.
    AtPdu {
        /// It does not arrive.
        lose() => Act::Lose;
        /// It arrives so much later, and what follows behind it.
        delay(by: Duration) => Act::Late(by);
        /// It arrives twice.
        duplicate() => Act::Deliver(Delivery::Twice);
        /// It arrives after the next one, or after 100 ms where none comes.
        reorder() => Act::Deliver(Delivery::Behind);
        /// Its bits in `flip` are turned over from byte `at` on, whatever the digests say then.
        corrupt(at: usize, flip: impl Into<Vec<u8>>) => Act::Pdu(PduFault::Corrupt(at, flip.into()));
        /// The same in its header, which has a digest that fits: a wrong field of an intact PDU.
        field(at: usize, flip: impl Into<Vec<u8>>) => Act::Pdu(PduFault::Field(at, flip.into()));
        /// The digest of its data is wrong, or that of its header where its data have none. Nothing happens to a PDU
        /// without digests.
        wrong_digest() => Act::Pdu(PduFault::WrongDigest);
        /// Only its first `bytes` arrive, and the next PDU right behind them.
        truncate(bytes: usize) => Act::Pdu(PduFault::Truncated(bytes));
        /// Its first `bytes` arrive, and the rest so much later.
        half_written(bytes: usize, by: Duration) => Act::Pdu(PduFault::Halves(bytes, by));
        /// Its first `bytes` arrive, and the connection is closed.
        close(bytes: usize) => Act::Pdu(PduFault::Close(bytes));
    }
}

impl AtWrite {
    /// Only writes of a value whose bits in `mask` are those of `value`.
    pub fn having(self, mask: u32, value: u32) -> Self {
        match self.0 {
            Place::Write { at, .. } => Self(Place::Write { at, mask, value }),
            other => Self(other),
        }
    }
}
