//! What the driver finds out about an event: log pages and namespaces, one command at a time on the admin queue.
//!
//! Reading a log page with Retain Asynchronous Event cleared is also what lets the controller report the next event of
//! that kind. Everything that comes back is copied once and bounded: lists stop where they do not grow, and at
//! [`MOST_NAMESPACES`].

use std::collections::BTreeSet;
use std::time::Duration;

use doorbell_spec::admin::{self as commands, LogRequest};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::identify::{Cns, Csi, IdentifyController, IdentifyNamespace, NamespaceList};
use doorbell_spec::log::{
    ChangedNamespaceList, CriticalWarning, ErrorLogEntry, FirmwareSlotLog, Lid, SmartLog,
};
use doorbell_spec::status::Status;
use zerocopy::FromBytes;

use super::super::format::Formats;
use super::super::{BringUpError, Inner, lock};
use super::{Event, Events};
use crate::queue::{Done, Io, Queue};
use crate::transport::Outcome;

/// Tag of the one command.
pub(super) const SURVEY_TAG: u64 = u64::MAX - 5;
/// Namespaces listed at most.
const MOST_NAMESPACES: usize = 1 << 16;
/// Unit of MTFA.
const ACTIVATION_UNIT: Duration = Duration::from_millis(100);
/// Between two looks at CSTS.PP.
const LOOK: Duration = Duration::from_millis(1);

/// Something to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// Which namespaces are there, after this one?
    List { after: u32 },
    /// Which namespaces have changed?
    Changes,
    /// What about this namespace?
    Namespace(u32),
    /// What is critical?
    Health,
    /// Which firmware runs?
    Firmware,
    /// Nothing: the error log is read for the controller's sake.
    Errors,
}

impl Question {
    /// The command, and the bytes that it returns.
    fn command(self) -> (Sqe, usize) {
        let log = |lid, len: usize| {
            let request = LogRequest::new(lid, (len / 4 - 1) as u32);
            (commands::get_log_page(request), len)
        };
        let identify = |cns, nsid| (commands::identify(cns, nsid, 0, Csi::NVM), 4096);
        match self {
            Self::Changes => log(Lid::CHANGED_NAMESPACES, size_of::<ChangedNamespaceList>()),
            Self::Namespace(nsid) => identify(Cns::NAMESPACE, nsid),
            Self::List { after } => identify(Cns::ACTIVE_NAMESPACES, after),
            Self::Health => log(Lid::SMART, size_of::<SmartLog>()),
            Self::Firmware => log(Lid::FIRMWARE_SLOT, size_of::<FirmwareSlotLog>()),
            Self::Errors => log(Lid::ERROR_INFORMATION, size_of::<ErrorLogEntry>()),
        }
    }
}

/// What is being found out.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Namespaces that there are, as far as the caller has been told; `None` where that is nothing yet.
    known: Option<BTreeSet<u32>>,
    /// Those of a list that has not ended yet.
    listed: BTreeSet<u32>,
    /// What the command under way asks.
    asked: Option<(Question, Duration)>,
    /// To be asked; each once.
    todo: BTreeSet<Question>,
    activation: Option<Activation>,
    /// The controller has said that it cannot go on.
    broken: bool,
}

/// Firmware that is being activated.
#[derive(Clone, Copy, Debug)]
struct Activation {
    until: Duration,
    next_look: Duration,
}

impl Survey {
    pub(super) fn ask(&mut self, question: Question) {
        self.todo.insert(question);
    }

    /// The controller has said that it cannot go on.
    pub(super) fn broke(&mut self) {
        self.broken = true;
    }

    /// What was under way has ended without an answer, and what was wanted is not worth asking any more.
    pub(super) fn restart(&mut self) {
        let known = std::mem::take(&mut self.known);
        let told = known.is_some();
        *self = Self { known, ..Self::default() };
        if told {
            // Nobody has said what came and went meanwhile.
            self.ask(Question::List { after: 0 });
        }
    }
}

impl Inner {
    /// The caller has been told which namespaces there are.
    pub(in crate::controller) fn told_namespaces(&self, ids: &[u32]) {
        lock(&self.events).survey.known.get_or_insert_with(|| ids.iter().copied().collect());
    }

    /// Finds out which namespaces there are, if nobody has: who does not know cannot tell what is new.
    pub(super) fn ask_for_namespaces(&self) {
        let survey = &mut lock(&self.events).survey;
        if survey.known.is_none() && survey.asked.is_none() && !self.is_discovery() {
            survey.ask(Question::List { after: 0 });
        }
    }

    fn is_discovery(&self) -> bool {
        self.identity.cntrltype == IdentifyController::CNTRLTYPE_DISCOVERY
    }

    /// Sends the next question; true if one is under way.
    pub(super) fn inquire(&self, events: &mut Events, admin: &mut Queue) -> bool {
        let survey = &mut events.survey;
        if survey.asked.is_some() {
            return true;
        }
        let Some(&question) = survey.todo.first() else { return false };
        let (command, len) = question.command();
        // Where there is no memory or no room now, there will be.
        if let Ok(mut buffer) = self.memory.allocate(len) {
            // A controller that returns less must not show what the buffer held before (PIT-59).
            buffer.fill(0);
            if admin.submit(Io::raw(command, Some(buffer)).tag(SURVEY_TAG)).is_ok() {
                survey.todo.pop_first();
                survey.asked = Some((question, self.clock.now()));
            }
        }
        true
    }

    /// The command under way has completed.
    pub(super) fn answered(&self, events: &mut Events, done: Done) {
        // None of one from before a reset.
        let Some((question, _)) = events.survey.asked.take() else { return };
        if done.outcome != Outcome::Completed {
            return;
        }
        let success = done.status.is_success();
        let gone =
            done.status.is(Status::INVALID_NAMESPACE) || done.status.is(Status::INVALID_FIELD);
        // The buffer is ours again, and only this copy of it is looked at (PIT-27).
        let page = done.buffer.as_deref().filter(|_| success).unwrap_or_default().to_vec();
        match question {
            Question::Changes => self.changes(events, read(&page)),
            Question::Namespace(nsid) => {
                self.namespace_is(events, nsid, success || gone, read(&page))
            }
            Question::List { after } => self.list(events, after, read(&page)),
            Question::Health => {
                let warning = read(&page).map(|log: SmartLog| log.critical_warning());
                events.keep(Event::Health { warning: warning.unwrap_or(CriticalWarning::new()) });
            }
            Question::Firmware => {
                // AFI bits 2:0.
                let slot = read(&page).map_or(0, |log: FirmwareSlotLog| log.afi & 7);
                events.keep(Event::FirmwareActivated { slot });
            }
            Question::Errors => {}
        }
    }

    fn changes(&self, events: &mut Events, list: Option<ChangedNamespaceList>) {
        match list {
            Some(list) if !list.overflowed() => {
                list.iter().for_each(|nsid| events.survey.ask(Question::Namespace(nsid)));
            }
            // All of them: those that are used may have another format.
            _ => {
                let used = self.recovery.in_use();
                used.into_iter().for_each(|nsid| events.survey.ask(Question::Namespace(nsid)));
                events.survey.ask(Question::List { after: 0 });
            }
        }
    }

    fn namespace_is(
        &self,
        events: &mut Events,
        nsid: u32,
        answered: bool,
        identify: Option<IdentifyNamespace>,
    ) {
        let identify = identify.filter(|identify| !identify.is_absent());
        let known = events.survey.known.get_or_insert_default();
        let was_known = known.contains(&nsid);
        let change = match &identify {
            None => {
                known.remove(&nsid);
                self.namespaces_reformatted(Formats::One(nsid));
                match answered {
                    true => was_known.then_some(Event::NamespaceRemoved { nsid }),
                    // What is not known to have its format is not used.
                    false => Some(Event::NamespaceReformatted { nsid }),
                }
            }
            Some(identify) => {
                known.insert(nsid);
                let blocks = identify.nsze.get();
                Some(match self.was(nsid, identify) {
                    // Handles from before it went are no good, whatever it is now called.
                    Some((false, _)) => {
                        self.namespaces_reformatted(Formats::One(nsid));
                        Event::NamespaceReformatted { nsid }
                    }
                    _ if !was_known => Event::NamespaceAdded { nsid },
                    Some((true, before)) if before != blocks => {
                        self.recovery.used(nsid, identify);
                        Event::NamespaceResized { nsid, blocks }
                    }
                    _ => Event::NamespaceChanged { nsid },
                })
            }
        };
        change.into_iter().for_each(|event| events.keep(event));
    }

    fn list(&self, events: &mut Events, after: u32, list: Option<NamespaceList>) {
        let survey = &mut events.survey;
        let Some(list) = list else {
            // It does not say. Not asked again: what there is, is what is heard of.
            survey.known.get_or_insert_default();
            return survey.listed.clear();
        };
        let before = survey.listed.len();
        let more = list.after(after).take_while(|&nsid| nsid < NSID_ALL);
        survey.listed.extend(more.take(MOST_NAMESPACES - before));
        let full = survey.listed.len() - before == NamespaceList::CAPACITY;
        if let (true, Some(&last)) = (full, survey.listed.last())
            && last < NSID_ALL - 1
            && survey.listed.len() < MOST_NAMESPACES
        {
            return survey.ask(Question::List { after: last });
        }
        let listed = std::mem::take(&mut survey.listed);
        match &survey.known {
            None => survey.known = Some(listed),
            Some(known) => {
                let different = listed.symmetric_difference(known);
                survey.todo.extend(different.map(|&nsid| Question::Namespace(nsid)));
            }
        }
    }

    /// Has the controller reset if it has not answered a question in the time that an admin command may take. On this
    /// machine: over a network the Keep Alive goes unanswered as well.
    pub(super) fn look_at_survey(&self) {
        let epoch = self.recovery.epoch();
        let asked = lock(&self.events).survey.asked;
        if asked.is_some_and(|(_, at)| self.clock.now().saturating_sub(at) > self.admin_timeout) {
            self.is_at_fault(epoch);
        }
    }

    /// Has a controller reset that has said that it cannot go on, or connected to again (Base 2.1, "Asynchronous Event
    /// Information - Error Status": Persistent Internal Error).
    pub(super) fn look_at_internal_error(&self) {
        let epoch = self.recovery.epoch();
        // One from before a reset is forgotten with that.
        let broken = std::mem::take(&mut lock(&self.events).survey.broken);
        if broken {
            self.has_broken(epoch);
        }
    }

    /// The controller is about to activate firmware: it is left alone until it is through with it (CQ-14).
    pub(super) fn activation_begins(&self, survey: &mut Survey) {
        if self.is_remote() {
            // CSTS would be a command, which waits like all others.
            return survey.ask(Question::Firmware);
        }
        let most = ACTIVATION_UNIT * u32::from(self.identity.mtfa.get());
        let most = if most.is_zero() { self.admin_timeout } else { most };
        let now = self.clock.now();
        survey.activation = Some(Activation { until: now + most, next_look: now });
        self.gate.close();
    }

    /// Looks whether firmware has been activated, if it is being so. By whoever polls, the controller or a queue.
    pub(in crate::controller) fn look_at_activation(&self) {
        let epoch = self.recovery.epoch();
        let late = {
            let events = &mut *lock(&self.events);
            let now = self.clock.now();
            let Some(activation) = &mut events.survey.activation else { return };
            if now < activation.next_look {
                return;
            }
            activation.next_look = now + LOOK;
            let late = now >= activation.until;
            match self.with_registers(|registers| registers.status()) {
                Ok(csts) if csts.pp() && !late => return,
                Ok(csts) => {
                    events.survey.activation = None;
                    events.survey.ask(Question::Firmware);
                    csts.pp()
                }
                Err(BringUpError::Absent { .. }) => {
                    events.survey.activation = None;
                    false
                }
                // No answer is none.
                Err(_) => late,
            }
        };
        if late {
            // Section 4: it has had its time.
            self.is_at_fault(epoch);
        }
        self.gate.open();
    }
}

fn read<T: FromBytes>(page: &[u8]) -> Option<T> {
    T::read_from_prefix(page).ok().map(|(page, _)| page)
}
