//! Rules: where they look, what they pick, what they do. Only what makes sense at a place can be said of it.

use std::sync::Arc;

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::identify::{Cns, IdentifyController, IdentifyNamespace};
use doorbell_spec::register::{Cap, offset};
use zerocopy::{FromBytes, IntoBytes};

use super::act::{Act, Delivery};
use super::at::{AtCommand, AtCompletion, AtPdu, AtRead, AtWrite};
use super::commands::Commands;
use super::pdu::Pdus;

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
    pub(super) fn new(place: Place, act: Act) -> Self {
        Self { name: None, place, act, after: 0, times: u64::MAX, chance: ALWAYS }
    }

    /// Looks at commands as they are fetched.
    pub fn command(commands: Commands) -> AtCommand {
        AtCommand(Place::Command(commands))
    }

    /// Looks at completions as they are posted, by the commands that they belong to.
    pub fn completion(commands: Commands) -> AtCompletion {
        AtCompletion(Place::Completion(commands))
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
        AtRead(Place::Read(at))
    }

    /// Reports other capabilities: bits of `cap` that differ from zero are set, those of `mask` that do not are cleared.
    #[must_use]
    pub fn capabilities(mask: Cap, cap: Cap) -> Self {
        let (mask, cap) = (mask.into_bits(), cap.into_bits());
        Self::new(Place::Read(offset::CAP), Act::Bits { and: !mask, or: cap & mask })
    }

    /// Looks at writes of the register at `at`.
    pub fn write(at: u64) -> AtWrite {
        AtWrite(Place::Write { at, mask: 0, value: 0 })
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
        AtPdu(Place::Pdu(pdus))
    }

    /// Whether it means something to a controller behind a network: one has neither rings nor a function to reset.
    pub(super) fn is_of_fabrics(&self) -> bool {
        use Delivery::{Halves, Rewritten, WrongPhase};
        let ring = matches!(self.act, Act::Deliver(WrongPhase | Halves | Rewritten));
        !ring && !matches!(self.place, Place::FunctionReset)
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
