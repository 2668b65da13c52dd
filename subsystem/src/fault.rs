//! Misbehaviour on command: a plan of faults for a controller, seeded and counted.
//!
//! A [`Plan`] is a list of [`Rule`]s. Each says where it looks (at commands, at their completions, at the data of a reply,
//! at accesses to a register, at PDUs over TCP), which of what it sees there it picks, and what happens then. All rules that pick the
//! same thing act on it, in the order of the plan. A controller without a plan pays one branch for each busy queue and
//! round.
//!
//! ```
//! use std::time::Duration;
//! use doorbell_spec::nvm::NvmOpcode;
//! use doorbell_spec::register::{Csts, offset};
//! use doorbell_spec::status::Status;
//! use doorbell_subsystem::fault::{Commands, Plan, Rule};
//!
//! let reads = Commands::io(NvmOpcode::READ);
//! let plan = Plan::new(42)
//!     // One read in a hundred fails, and may be tried again.
//!     .rule(Rule::completion(reads).status(Status::UNRECOVERED_READ_ERROR).probability(0.01))
//!     // The third write of blocks 100 to 199 is answered 5 ms late.
//!     .rule(
//!         Rule::completion(Commands::io(NvmOpcode::WRITE).blocks(100..200))
//!             .delay(Duration::from_millis(5))
//!             .nth(3)
//!             .named("slow write"),
//!     )
//!     // From its tenth read on, CSTS says that the controller has failed.
//!     .rule(Rule::read(offset::CSTS).set_bits(Csts::new().with_cfs(true).into_bits().into()).after(9))
//!     // More than any driver should believe.
//!     .rule(Rule::identify_controller(|identify| identify.nn.set(u32::MAX)));
//! let counters = plan.counters();
//! # let subsystem = doorbell_subsystem::Subsystem::builder().build();
//! # let mut controller = doorbell_subsystem::Controller::new(subsystem, Default::default())?;
//! controller.set_faults(Some(plan));
//! assert_eq!(counters.injected("slow write"), 0);
//! # Ok::<(), doorbell_subsystem::ControllerError>(())
//! ```
//!
//! The same as a file, for `doorbell-subsystem --faults FILE`, is described at `fault::file` (feature
//! `fault-file`).
//!
//! # What a rule can do
//! | at | acts |
//! | --- | --- |
//! | [`Rule::command`] | lose, hang until aborted, answer without carrying out, move too little or wrong data |
//! | [`Rule::completion`] | lose, delay, duplicate, reorder, change any field, wrong phase, half-written, rewritten, flood |
//! | [`Rule::reply`] | change the data of Identify, a log page or a feature |
//! | [`Rule::read`], [`Rule::write`] | all-ones, bits set or cleared; a write lost or late |
//! | [`Rule::capabilities`], [`Rule::identify_controller`], [`Rule::identify_namespace`] | any field overridden |
//! | [`Rule::never_ready`], [`Rule::function_reset`] | CC.EN=1, or a function level reset, without effect |
//! | [`Rule::pdu`] | lose, delay, duplicate, reorder, corrupt, a wrong field or digest, truncate, half-written, close |
//! | commands, completions, registers | fatal status (CSTS.CFS), vanish |
//!
//! # Behind a network
//! [`Target::set_faults`](crate::fabrics::Target::set_faults), and `--faults` for `--tcp`, put all controllers of a target
//! under one plan: what its rules count and how they throw their dice goes for all connections together, and lasts while
//! hosts come and go. Registers are properties there. Fabrics commands are picked by [`Commands::fabrics`] alone. A
//! controller that vanishes takes its connections with it, without another byte; a host that connects again finds a new one.
//! One that fails carries out nothing but Property Get and Property Set until CC.EN=0. A read that is cut short sends less
//! data than it says. What only rings have means nothing and is not counted: wrong phase, half-written, rewritten, function
//! level reset. Discovery controllers fare well, but for their PDUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) mod act;
mod at;
mod commands;
#[cfg(feature = "fault-file")]
mod field;
#[cfg(feature = "fault-file")]
pub mod file;
pub(crate) mod held;
pub(crate) mod pdu;
pub(crate) mod rule;
pub(crate) mod state;

pub use at::{AtCommand, AtCompletion, AtPdu, AtRead, AtWrite};
pub use commands::Commands;
#[cfg(feature = "fault-file")]
pub use file::PlanError;
pub use pdu::Pdus;
pub use rule::Rule;

/// A list of rules, and the seed of their dice.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    rules: Vec<Rule>,
    counters: Counters,
}

impl Plan {
    /// A plan without rules. Controllers that are given equal plans throw the same dice.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, rules: Vec::new(), counters: Counters::default() }
    }

    /// The same plan with one more rule. Give it to controllers after the last one.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        let name = rule.name.clone().unwrap_or_else(|| format!("rule {}", self.rules.len() + 1));
        let counter = Arc::new(Counter { name, ..Counter::default() });
        self.counters.0.push(counter);
        self.rules.push(rule);
        self
    }

    /// What the rules have done so far, in every controller that has this plan.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

#[derive(Debug, Default)]
struct Counter {
    name: String,
    matched: AtomicU64,
    injected: AtomicU64,
}

/// How often each rule of a plan has acted; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters(Vec<Arc<Counter>>);

/// One line of [`Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<'a> {
    /// The rule's name, or `rule N` where it has none.
    pub name: &'a str,
    /// What it could have acted on.
    pub matched: u64,
    /// What it has acted on.
    pub injected: u64,
}

impl Counters {
    /// Every rule, in the order of the plan.
    pub fn iter(&self) -> impl Iterator<Item = Count<'_>> {
        self.0.iter().map(|counter| Count {
            name: &counter.name,
            matched: counter.matched.load(Ordering::Relaxed),
            injected: counter.injected.load(Ordering::Relaxed),
        })
    }

    /// How often the rules with this name have acted.
    #[must_use]
    pub fn injected(&self, name: &str) -> u64 {
        self.iter().filter(|count| count.name == name).map(|count| count.injected).sum()
    }

    /// How often any rule has acted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|count| count.injected).sum()
    }

    fn count(&self, rule: usize, injected: bool) {
        if let Some(counter) = self.0.get(rule) {
            counter.matched.fetch_add(1, Ordering::Relaxed);
            counter.injected.fetch_add(u64::from(injected), Ordering::Relaxed);
        }
    }

    /// A rule has not acted after all.
    fn take_back(&self, rule: usize) {
        if let Some(counter) = self.0.get(rule) {
            counter.injected.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
