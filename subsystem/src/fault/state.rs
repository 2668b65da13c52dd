//! A plan at work, in one controller or in all behind a port: what has been seen, and the dice.
//!
//! Decides only. What is decided is done in `controller/faulty.rs` and in `port/tcp/faulty.rs`.

use std::time::Duration;

use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;

use super::act::{Act, DataFault, Delivery, Field};
use super::rule::{Place, Rule};
use super::{Counters, Plan};
use crate::controller::queue::Answer;

/// What becomes of a command.
pub(crate) enum Verdict {
    /// It is carried out, with its data treated so.
    Proceed(Option<DataFault>),
    Lose,
    Hang,
    Answer(doorbell_spec::status::Status, u64),
}

/// What becomes of the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) fatal: bool,
    pub(crate) vanish: bool,
}

struct Active {
    rule: Rule,
    /// Its place in the plan, and among the counters.
    counter: usize,
    matched: u64,
    injected: u64,
}

/// A plan at work.
pub(crate) struct Faults {
    rules: Vec<Active>,
    counters: Counters,
    random: u64,
    fate: Fate,
    /// The rule that had a completion delivered twice last.
    twice: Option<usize>,
}

impl Faults {
    pub(crate) fn new(plan: Plan) -> Self {
        let Plan { seed, rules, counters } = plan;
        let active = |(counter, rule)| Active { rule, counter, matched: 0, injected: 0 };
        let rules = rules.into_iter().enumerate().map(active).collect();
        Self { rules, counters, random: seed, fate: Fate::default(), twice: None }
    }

    /// The same behind a network, where some rules mean nothing.
    pub(crate) fn of_fabrics(plan: Plan) -> Self {
        let mut faults = Self::new(plan);
        faults.rules.retain(|active| active.rule.is_of_fabrics());
        faults
    }

    /// Whether any rule is for PDUs.
    pub(crate) fn has_pdus(&self) -> bool {
        self.rules.iter().any(|active| matches!(active.rule.place, Place::Pdu(_)))
    }

    /// What the last questions decided about the controller as a whole.
    pub(crate) fn fate(&mut self) -> Fate {
        std::mem::take(&mut self.fate)
    }

    /// Calls `act` for each rule that picks what stands before it, as `picks` says of a place.
    pub(super) fn ask(&mut self, picks: impl Fn(&Place) -> bool, mut act: impl FnMut(&Act)) {
        for (index, active) in self.rules.iter_mut().enumerate() {
            if !picks(&active.rule.place) {
                continue;
            }
            active.matched += 1;
            let due = active.matched > active.rule.after && active.injected < active.rule.times;
            let injected = due && (roll(&mut self.random) >> 32) < active.rule.chance;
            active.injected += u64::from(injected);
            self.counters.count(active.counter, injected);
            if !injected {
                continue;
            }
            match &active.rule.act {
                Act::Fatal => self.fate.fatal = true,
                Act::Vanish => self.fate.vanish = true,
                other => {
                    if matches!(other, Act::Deliver(Delivery::Twice)) {
                        self.twice = Some(index);
                    }
                    act(other);
                }
            }
        }
    }

    /// What was to be delivered twice had room once only: that was no fault.
    pub(crate) fn delivered_once(&mut self) {
        if let Some(active) = self.twice.take().and_then(|index| self.rules.get_mut(index)) {
            active.injected -= 1;
            self.counters.take_back(active.counter);
        }
    }

    /// A command was fetched.
    pub(crate) fn command(&mut self, queue: u16, sqe: &Sqe) -> Verdict {
        let mut verdict = Verdict::Proceed(None);
        let picks =
            |place: &Place| matches!(place, Place::Command(which) if which.pick(queue, sqe));
        self.ask(picks, |act| match act {
            Act::Lose => verdict = Verdict::Lose,
            Act::Hang => verdict = Verdict::Hang,
            Act::Answer(status, result) => verdict = Verdict::Answer(*status, *result),
            Act::Data(fault) => verdict = Verdict::Proceed(Some(fault.clone())),
            _ => {}
        });
        if self.fate != Fate::default() {
            verdict = Verdict::Lose;
        }
        verdict
    }

    /// The completion `answer` to `sqe` is about to be posted.
    pub(crate) fn completion(&mut self, sqe: &Sqe, answer: &mut Answer) -> Delivery {
        let mut delivery = Delivery::Normal;
        let queue = answer.sqid;
        let picks =
            |place: &Place| matches!(place, Place::Completion(which) if which.pick(queue, sqe));
        self.ask(picks, |act| match act {
            Act::Deliver(how) => delivery = *how,
            Act::Change(field) => match *field {
                Field::Status(status) => answer.status = status,
                Field::Cid(cid) => answer.cid = cid,
                Field::CidBits(bits) => answer.cid ^= bits,
                Field::Sqid(sqid) => answer.sqid = sqid,
                Field::Sqhd(sqhd) => answer.sqhd = sqhd,
                Field::Result(result) => answer.result = result,
            },
            _ => {}
        });
        if self.fate != Fate::default() {
            delivery = Delivery::Lost;
        }
        delivery
    }

    /// `bytes` are about to be returned for the admin command `sqe`.
    pub(crate) fn reply(&mut self, sqe: &Sqe, bytes: &mut [u8]) {
        let picks = |place: &Place| matches!(place, Place::Reply(which) if which.pick(0, sqe));
        self.ask(picks, |act| {
            if let Act::Edit(edit) = act {
                edit(bytes);
            }
        });
    }

    /// The dword at `at` is read, which holds `value`.
    pub(crate) fn read(&mut self, at: u64, value: u32) -> u32 {
        let mut value = value;
        // Registers have up to 8 bytes: a rule for one names its first.
        let shift = |register: u64| match at.wrapping_sub(register) {
            0 => Some(0),
            4 if is_wide(register) => Some(32),
            _ => None,
        };
        // A closure that acts does not know the place: one pass for each half.
        for half in [0, 32] {
            let picks = |place: &Place| matches!(place, Place::Read(register) if shift(*register) == Some(half));
            self.ask(picks, |act| {
                if let Act::Bits { and, or } = act {
                    value = value & (and >> half) as u32 | (or >> half) as u32;
                }
            });
        }
        value
    }

    /// The dword `value` is written at `at`: how late it takes effect; `None` where it never does.
    pub(crate) fn write(&mut self, at: u64, value: u32) -> Option<Duration> {
        let mut late = Some(Duration::ZERO);
        let picks = |place: &Place| match *place {
            Place::Write { at: register, mask, value: having } => {
                register == at && value & mask == having & mask
            }
            _ => false,
        };
        self.ask(picks, |act| match act {
            Act::Lose => late = None,
            Act::Late(by) => late = late.map(|_| *by),
            _ => {}
        });
        late.filter(|_| self.fate == Fate::default())
    }

    /// Whether a function level reset takes effect.
    pub(crate) fn function_reset(&mut self) -> bool {
        let mut effective = true;
        self.ask(
            |place| matches!(place, Place::FunctionReset),
            |act| effective &= !matches!(act, Act::Lose),
        );
        effective
    }
}

/// What a completion entry looks like while only its phase tag has been written.
pub(crate) fn half(old: [u64; 2], new: [u64; 2]) -> [u64; 2] {
    let [_, fresh] = new;
    let [low, high] = old;
    [low, high & !Cqe::PHASE_BIT | fresh & Cqe::PHASE_BIT]
}

/// Registers of 8 bytes that this controller has.
fn is_wide(register: u64) -> bool {
    use doorbell_spec::register::offset;
    matches!(register, offset::CAP | offset::ASQ | offset::ACQ)
}

/// The next number (splitmix64).
fn roll(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
