//! Rules: where they look, what they pick, what they do. Only what makes sense at a place can be said of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::identify::{Cns, IdentifyController, IdentifyNamespace};
use doorbell_spec::register::{Cap, offset};
use doorbell_spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use super::commands::Commands;
use super::pdu::{PduFault, Pdus};

/// Where a rule looks.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Command(Commands),
    Completion(Commands),
    Reply(Commands),
    /// A read of the register at this offset.
    Read(u64),
    /// A write of the register at this offset, where these bits of what is written have this value.
    Write {
        at: u64,
        mask: u32,
        value: u32,
    },
    FunctionReset,
    Pdu(Pdus),
}

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

type Edit = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

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

/// One fault: where, when and what.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: Option<String>,
    pub(super) place: Place,
    pub(super) act: Act,
    /// Passed over before the first.
    pub(super) after: u64,
    /// Picked at most.
    pub(super) times: u64,
    /// Picked with this probability, in 2^-32; above that always.
    pub(super) chance: u64,
}

/// Certain.
const ALWAYS: u64 = 1 << 32;

impl Rule {
    fn new(place: Place, act: Act) -> Self {
        Self { name: None, place, act, after: 0, times: u64::MAX, chance: ALWAYS }
    }

    /// Looks at commands as they are fetched.
    pub fn command(commands: Commands) -> AtCommand {
        AtCommand(commands)
    }

    /// Looks at completions as they are posted, by the commands that they belong to.
    pub fn completion(commands: Commands) -> AtCompletion {
        AtCompletion(commands)
    }

    /// Changes the data that an admin command returns, by `edit`.
    #[must_use]
    pub fn reply(commands: Commands, edit: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self::new(Place::Reply(commands), Act::Edit(Arc::new(edit)))
    }

    /// Changes Identify Controller.
    #[must_use]
    pub fn identify_controller(
        edit: impl Fn(&mut IdentifyController) + Send + Sync + 'static,
    ) -> Self {
        Self::identify(Cns::CONTROLLER, None, edit)
    }

    /// Changes Identify Namespace of `nsid`.
    #[must_use]
    pub fn identify_namespace(
        nsid: u32,
        edit: impl Fn(&mut IdentifyNamespace) + Send + Sync + 'static,
    ) -> Self {
        Self::identify(Cns::NAMESPACE, Some(nsid), edit)
    }

    /// Changes any Identify structure.
    #[must_use]
    pub fn identify<T: FromBytes + IntoBytes>(
        cns: Cns,
        nsid: Option<u32>,
        edit: impl Fn(&mut T) + Send + Sync + 'static,
    ) -> Self {
        let mut commands = Commands::admin(AdminOpcode::IDENTIFY).selector(cns.0);
        if let Some(nsid) = nsid {
            commands = commands.nsid(nsid);
        }
        Self::reply(commands, move |bytes| {
            if let Ok((mut page, _)) = T::read_from_prefix(bytes) {
                edit(&mut page);
                for (to, from) in bytes.iter_mut().zip(page.as_mut_bytes()) {
                    *to = *from;
                }
            }
        })
    }

    /// Looks at reads of the register at `at`.
    pub fn read(at: u64) -> AtRead {
        AtRead(at)
    }

    /// Reports other capabilities: bits of `cap` that differ from zero are set, those of `mask` that do not are cleared.
    #[must_use]
    pub fn capabilities(mask: Cap, cap: Cap) -> Self {
        let (mask, cap) = (mask.into_bits(), cap.into_bits());
        Self::new(Place::Read(offset::CAP), Act::Bits { and: !mask, or: cap & mask })
    }

    /// Looks at writes of the register at `at`.
    pub fn write(at: u64) -> AtWrite {
        AtWrite { at, mask: 0, value: 0 }
    }

    /// A controller that takes no notice of CC.EN=1.
    #[must_use]
    pub fn never_ready() -> Self {
        Self::write(offset::CC).having(1, 1).lose()
    }

    /// A function level reset that does nothing.
    #[must_use]
    pub fn function_reset() -> Self {
        Self::new(Place::FunctionReset, Act::Lose)
    }

    /// Looks at PDUs between a host and a port over TCP. All connections of the port are counted together.
    pub fn pdu(pdus: Pdus) -> AtPdu {
        AtPdu(pdus)
    }

    /// The name that its counters go by.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Passes over the first `count` of what it sees.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.after = count;
        self
    }

    /// Acts `count` times at most.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Acts on the `n`th it sees, counted from 1, and on no other.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.after(n.saturating_sub(1)).times(1)
    }

    /// Acts with this probability, 0 to 1, by the plan's seeded dice.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        // Saturates; NaN is never.
        self.chance = (probability * ALWAYS as f64) as u64;
        self
    }
}

/// What can happen to a command.
#[derive(Clone, Debug)]
#[must_use = "says where; now say what"]
pub struct AtCommand(Commands);

impl AtCommand {
    pub(super) fn act(self, act: Act) -> Rule {
        Rule::new(Place::Command(self.0), act)
    }

    /// It is fetched and forgotten: neither carried out nor answered, and unknown to Abort.
    #[must_use]
    pub fn lose(self) -> Rule {
        self.act(Act::Lose)
    }

    /// It is not carried out, and answered only when it is aborted or its queue is deleted.
    #[must_use]
    pub fn hang(self) -> Rule {
        self.act(Act::Hang)
    }

    /// It is not carried out, and answered with `status` and this result (dwords 0 and 1).
    #[must_use]
    pub fn answer(self, status: Status, result: u64) -> Rule {
        self.act(Act::Answer(status, result))
    }

    /// An I/O command that moves only the first `bytes` of its data, and reports success.
    #[must_use]
    pub fn short(self, bytes: usize) -> Rule {
        self.act(Act::Data(DataFault::Short(bytes)))
    }

    /// An I/O command whose data come out with the bits of `flip` turned over, from byte `at` on.
    #[must_use]
    pub fn corrupt(self, at: usize, flip: impl Into<Vec<u8>>) -> Rule {
        self.act(Act::Data(DataFault::Corrupt(at, flip.into())))
    }

    /// The controller fails (CSTS.CFS); the command is lost.
    #[must_use]
    pub fn fatal(self) -> Rule {
        self.act(Act::Fatal)
    }

    /// The controller vanishes: registers read as all-ones and nothing is processed any more.
    #[must_use]
    pub fn vanish(self) -> Rule {
        self.act(Act::Vanish)
    }
}

/// What can happen to a completion.
#[derive(Clone, Debug)]
#[must_use = "says where; now say what"]
pub struct AtCompletion(Commands);

impl AtCompletion {
    pub(super) fn act(self, act: Act) -> Rule {
        Rule::new(Place::Completion(self.0), act)
    }

    fn deliver(self, delivery: Delivery) -> Rule {
        self.act(Act::Deliver(delivery))
    }

    /// It is never posted.
    #[must_use]
    pub fn lose(self) -> Rule {
        self.deliver(Delivery::Lost)
    }

    /// It is posted so much later.
    #[must_use]
    pub fn delay(self, by: Duration) -> Rule {
        self.deliver(Delivery::Delayed(by))
    }

    /// It is posted twice, where there is room.
    #[must_use]
    pub fn duplicate(self) -> Rule {
        self.deliver(Delivery::Twice)
    }

    /// It is posted after the next completion of its queue.
    #[must_use]
    pub fn reorder(self) -> Rule {
        self.deliver(Delivery::Behind)
    }

    /// Its phase tag is the old one, though the queue moves on.
    #[must_use]
    pub fn wrong_phase(self) -> Rule {
        self.deliver(Delivery::WrongPhase)
    }

    /// Its phase tag is written first, over what the entry held before, and the rest a round later.
    #[must_use]
    pub fn half_written(self) -> Rule {
        self.deliver(Delivery::Halves)
    }

    /// It is posted as it should be, and a round later overwritten with all bits of its identifier turned over.
    #[must_use]
    pub fn rewritten(self) -> Rule {
        self.deliver(Delivery::Rewritten)
    }

    /// It is posted as often as the queue has entries, room or none.
    #[must_use]
    pub fn flood(self) -> Rule {
        self.deliver(Delivery::Flood)
    }

    /// Another status.
    #[must_use]
    pub fn status(self, status: Status) -> Rule {
        self.act(Act::Change(Field::Status(status)))
    }

    /// Another command identifier.
    #[must_use]
    pub fn cid(self, cid: u16) -> Rule {
        self.act(Act::Change(Field::Cid(cid)))
    }

    /// Bits of the command identifier turned over.
    #[must_use]
    pub fn flip_cid(self, bits: u16) -> Rule {
        self.act(Act::Change(Field::CidBits(bits)))
    }

    /// Another submission queue identifier.
    #[must_use]
    pub fn sqid(self, sqid: u16) -> Rule {
        self.act(Act::Change(Field::Sqid(sqid)))
    }

    /// Another submission queue head pointer.
    #[must_use]
    pub fn sqhd(self, sqhd: u16) -> Rule {
        self.act(Act::Change(Field::Sqhd(sqhd)))
    }

    /// Another result, dwords 0 (low) and 1 (high).
    #[must_use]
    pub fn result(self, result: u64) -> Rule {
        self.act(Act::Change(Field::Result(result)))
    }

    /// The controller fails (CSTS.CFS) before the completion is posted.
    #[must_use]
    pub fn fatal(self) -> Rule {
        self.act(Act::Fatal)
    }

    /// The controller vanishes before the completion is posted.
    #[must_use]
    pub fn vanish(self) -> Rule {
        self.act(Act::Vanish)
    }
}

/// What can happen to a register that is read.
#[derive(Clone, Copy, Debug)]
#[must_use = "says where; now say what"]
pub struct AtRead(u64);

impl AtRead {
    pub(super) fn act(self, act: Act) -> Rule {
        Rule::new(Place::Read(self.0), act)
    }

    /// All-ones, as from a device that is not there.
    #[must_use]
    pub fn all_ones(self) -> Rule {
        self.value(u64::MAX)
    }

    /// This value.
    #[must_use]
    pub fn value(self, value: u64) -> Rule {
        self.act(Act::Bits { and: 0, or: value })
    }

    /// These bits set.
    #[must_use]
    pub fn set_bits(self, bits: u64) -> Rule {
        self.act(Act::Bits { and: u64::MAX, or: bits })
    }

    /// These bits cleared.
    #[must_use]
    pub fn clear_bits(self, bits: u64) -> Rule {
        self.act(Act::Bits { and: !bits, or: 0 })
    }

    /// The controller fails (CSTS.CFS) first.
    #[must_use]
    pub fn fatal(self) -> Rule {
        self.act(Act::Fatal)
    }

    /// The controller vanishes first.
    #[must_use]
    pub fn vanish(self) -> Rule {
        self.act(Act::Vanish)
    }
}

/// What can happen to a register that is written.
#[derive(Clone, Copy, Debug)]
#[must_use = "says where; now say what"]
pub struct AtWrite {
    at: u64,
    mask: u32,
    value: u32,
}

impl AtWrite {
    /// Only writes of a value whose bits in `mask` are those of `value`.
    pub fn having(self, mask: u32, value: u32) -> Self {
        Self { mask, value, ..self }
    }

    pub(super) fn act(self, act: Act) -> Rule {
        let Self { at, mask, value } = self;
        Rule::new(Place::Write { at, mask, value }, act)
    }

    /// It has no effect.
    #[must_use]
    pub fn lose(self) -> Rule {
        self.act(Act::Lose)
    }

    /// It takes effect so much later; until then everything goes on as before.
    #[must_use]
    pub fn delay(self, by: Duration) -> Rule {
        self.act(Act::Late(by))
    }

    /// The controller fails (CSTS.CFS), and the write is lost.
    #[must_use]
    pub fn fatal(self) -> Rule {
        self.act(Act::Fatal)
    }

    /// The controller vanishes.
    #[must_use]
    pub fn vanish(self) -> Rule {
        self.act(Act::Vanish)
    }
}

/// What can happen to a PDU.
#[derive(Clone, Copy, Debug)]
#[must_use = "says where; now say what"]
pub struct AtPdu(Pdus);

impl AtPdu {
    fn act(self, act: Act) -> Rule {
        Rule::new(Place::Pdu(self.0), act)
    }

    /// It does not arrive.
    #[must_use]
    pub fn lose(self) -> Rule {
        self.act(Act::Lose)
    }

    /// It arrives so much later, and what follows behind it.
    #[must_use]
    pub fn delay(self, by: Duration) -> Rule {
        self.act(Act::Late(by))
    }

    /// It arrives twice.
    #[must_use]
    pub fn duplicate(self) -> Rule {
        self.act(Act::Deliver(Delivery::Twice))
    }

    /// It arrives after the next one, or after 100 ms where none comes.
    #[must_use]
    pub fn reorder(self) -> Rule {
        self.act(Act::Deliver(Delivery::Behind))
    }

    /// Its bits in `flip` are turned over from byte `at` on, whatever the digests say then.
    #[must_use]
    pub fn corrupt(self, at: usize, flip: impl Into<Vec<u8>>) -> Rule {
        self.act(Act::Pdu(PduFault::Corrupt(at, flip.into())))
    }

    /// The same in its header, which has a digest that fits: a wrong field of an intact PDU.
    #[must_use]
    pub fn field(self, at: usize, flip: impl Into<Vec<u8>>) -> Rule {
        self.act(Act::Pdu(PduFault::Field(at, flip.into())))
    }

    /// The digest of its data is wrong, or that of its header where its data have none. Nothing happens to a PDU
    /// without digests.
    #[must_use]
    pub fn wrong_digest(self) -> Rule {
        self.act(Act::Pdu(PduFault::WrongDigest))
    }

    /// Only its first `bytes` arrive, and the next PDU right behind them.
    #[must_use]
    pub fn truncate(self, bytes: usize) -> Rule {
        self.act(Act::Pdu(PduFault::Truncated(bytes)))
    }

    /// Its first `bytes` arrive, and the rest so much later.
    #[must_use]
    pub fn half_written(self, bytes: usize, by: Duration) -> Rule {
        self.act(Act::Pdu(PduFault::Halves(bytes, by)))
    }

    /// Its first `bytes` arrive, and the connection is closed.
    #[must_use]
    pub fn close(self, bytes: usize) -> Rule {
        self.act(Act::Pdu(PduFault::Close(bytes)))
    }
}
