//! Events: what a controller reports of itself, and what became of the way to it.
//!
//! ```text
//!   Asynchronous Event Request -> completion -> what is known of it is looked up, one command at a time -> the next request
//! ```
//! All of it by [`Controller::poll`], which sends at most one command and waits for none. A controller that reports without
//! end costs one request and one look for each of its events, and no more than [`Pace`] allows in a second.

mod pace;
mod survey;

use std::collections::VecDeque;

use doorbell_spec::admin::{self as commands, AsyncEvent};
use doorbell_spec::feature::Fid;
use doorbell_spec::identify::IdentifyController;
use doorbell_spec::log::CriticalWarning;
use doorbell_spec::register::Csts;

use self::pace::Pace;
use self::survey::{Question, SURVEY_TAG, Survey};
use super::fabrics::{ABORT_TAG, KEEP_ALIVE_TAG, STOP_TAG, STOPPED_TAG};
use super::{Controller, Inner, Link, lock};
use crate::error::CommandError;
use crate::queue::{Io, Queue};
use crate::transport::Outcome;
use crate::transport::tcp::Keeper;

/// Tag of the driver's own Asynchronous Event Requests on the admin queue.
const EVENT_TAG: u64 = u64::MAX - 1;
/// Events kept for a caller who does not ask for them, after which the controller is not asked for more.
const MOST_KEPT: usize = 64;

/// Something that happened to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The controller reports what this driver knows nothing better to say about. The log page that it names says more;
    /// unless that is the error log, it has to be read ([`event_page`](Controller::event_page)) before the controller
    /// reports another of its kind.
    Reported(AsyncEvent),
    /// There is a namespace that was not there before.
    NamespaceAdded {
        /// Namespace identifier.
        nsid: u32,
    },
    /// A namespace is gone. Commands of its handles are refused.
    NamespaceRemoved {
        /// Namespace identifier.
        nsid: u32,
    },
    /// A namespace has another size. Its handles can still be used; they report the old one.
    NamespaceResized {
        /// Namespace identifier.
        nsid: u32,
        /// Its blocks now.
        blocks: u64,
    },
    /// A namespace has other blocks, or is another one under the same identifier. Commands of its handles are refused;
    /// ask the controller for it again.
    NamespaceReformatted {
        /// Namespace identifier.
        nsid: u32,
    },
    /// Something else about a namespace has changed, or nobody has asked the controller for it yet.
    NamespaceChanged {
        /// Namespace identifier.
        nsid: u32,
    },
    /// The controller activates firmware. On this machine no I/O command is sent until it is through with it; queues
    /// that are staged to say that they are full.
    FirmwareActivating,
    /// It is through with it.
    FirmwareActivated {
        /// The slot from which it runs, as the Firmware Slot Information log page has it.
        slot: u8,
    },
    /// The health of the drive has changed for the worse.
    Health {
        /// What is critical now, as the SMART log page has it.
        warning: CriticalWarning,
    },
    /// The association was lost, and there is a new one.
    Reconnected,
    /// The controller has been reset, asked or not; queues and namespaces are what they were.
    Reset,
    /// Somebody wants the device back: it is about to be unplugged, or to be bound to another driver. That waits until
    /// the device has been given back, by [`Controller::detach`] or with the last handle; meanwhile I/O works, unless
    /// the drive has been torn out. Said again while nothing is done about it.
    RemovalAsked,
    /// The bus reports an error of the device that it could not correct.
    BusError,
}

/// Events that have happened and not been asked for, and how far the driver is with finding out about more.
pub(super) struct Events {
    /// Requests for events that are with the controller.
    outstanding: u8,
    /// The controller takes no more of them.
    refused: bool,
    kept: VecDeque<Event>,
    pace: Pace,
    survey: Survey,
}

impl Default for Events {
    /// Those of a controller that has been asked for the first (see [`ask`]).
    fn default() -> Self {
        let (kept, pace, survey) = Default::default();
        Self { outstanding: 1, refused: false, kept, pace, survey }
    }
}

impl Events {
    pub(super) fn keep(&mut self, event: Event) {
        // The same over and over says no more than once.
        if self.kept.len() < MOST_KEPT || self.kept.back() != Some(&event) {
            self.kept.push_back(event);
        }
    }

    /// The requests that were outstanding are not any more; there is a new one.
    pub(super) fn restart(&mut self, event: Event) {
        (self.outstanding, self.refused) = (1, false);
        self.survey.restart();
        self.keep(event);
    }
}

/// Asks a controller that has just been identified to report every notice that it has (OAES), and every warning.
///
/// One that does not take the feature may report all the same; one that takes no request fails it, see
/// [`Inner::take_events`].
pub(super) fn ask(admin: &mut Queue, identity: &IdentifyController) -> Result<(), CommandError> {
    match admin.run(configuration(identity)) {
        Ok(_) | Err(CommandError::Status { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(admin.submit(request())?)
}

/// What says which events a controller is to report.
pub(super) fn configuration(identity: &IdentifyController) -> Io {
    const WARNINGS: u32 = 0x1f;
    let discovery = identity.cntrltype == IdentifyController::CNTRLTYPE_DISCOVERY;
    let notices = identity.oaes.get() & !0xff;
    let events = if discovery { notices } else { notices | WARNINGS };
    Io::internal(commands::set_features(Fid::ASYNC_EVENT_CONFIG, 0, events, false))
}

/// What waits for the next event.
pub(super) fn request() -> Io {
    Io::internal(commands::async_event_request()).tag(EVENT_TAG)
}

impl Controller {
    /// Hands out what has happened since the last call, and keeps the controller alive; returns how many events there
    /// were. Never blocks, unless the controller has to be reset, because it has not answered, has not activated firmware in
    /// time or reports a persistent internal error, or the controller detaches itself ([`Config::detach_on_request`](super::Config::detach_on_request)).
    ///
    /// Between what happens and the event lie several calls: each takes what has arrived and sends one command at most.
    /// Namespaces that have come since [`namespace_ids`](Self::namespace_ids), or the first call of this, are new.
    ///
    /// A controller across a network hears of this host by this, or by the poll of any of its I/O queues: call either a
    /// few times within the Keep Alive Timeout (5 s unless the address says otherwise).
    pub fn poll(&self, mut sink: impl FnMut(Event)) -> usize {
        self.inner.ask_for_namespaces();
        match &self.inner.link {
            Link::Tcp(_) => {
                self.inner.tend(false);
                self.inner.look_at_internal_error();
            }
            Link::Device(_) => {
                if let Ok(mut admin) = self.inner.admin.try_lock()
                    // Not by `ended`: whoever resets the controller holds that and waits for the admin queue.
                    && !self.inner.recovery.is_over()
                {
                    self.inner.take_events(&mut admin);
                }
                self.inner.look_at_activation();
                self.inner.look_at_survey();
                self.inner.look_at_internal_error();
                if self.inner.notices.take(&mut lock(&self.inner.events)) {
                    // Where it does not obey, its queues have ended all the same, and it is asked for again.
                    let _best_effort = self.detach();
                }
            }
        }
        let events = std::mem::take(&mut lock(&self.inner.events).kept);
        let count = events.len();
        events.into_iter().for_each(&mut sink);
        count
    }
}

impl Inner {
    /// Takes what has completed on the admin queue beside the commands that somebody waits for, and sends the next
    /// command: to find out more, or for the next event.
    pub(super) fn take_events(&self, admin: &mut Queue) {
        self.drain_events(admin);
        let events = &mut *lock(&self.events);
        if events.kept.len() >= MOST_KEPT || self.inquire(events, admin) {
            return;
        }
        if events.outstanding == 0 && !events.refused && events.pace.allows(self.clock.now()) {
            events.outstanding = u8::from(admin.submit(request()).is_ok());
        }
    }

    /// Takes what has completed on the admin queue beside the commands that somebody waits for.
    pub(super) fn drain_events(&self, admin: &mut Queue) {
        let events = &mut *lock(&self.events);
        let mut answer = None;
        admin.poll(|done| match done.tag {
            EVENT_TAG => {
                events.outstanding = events.outstanding.saturating_sub(1);
                if done.status.is_success() {
                    self.reported(events, AsyncEvent::from_bits(done.result as u32));
                } else if done.outcome == Outcome::Completed {
                    events.refused = true;
                }
            }
            SURVEY_TAG => answer = Some(done),
            // DW0 bit 0: Immediate Abort Not Performed.
            ABORT_TAG if done.status.is_success() && done.result & 1 == 0 => {
                self.recovery.count(|counters| &mut counters.aborted);
            }
            KEEP_ALIVE_TAG if done.outcome == Outcome::Completed => {
                if let Link::Tcp(fabric) = &self.link {
                    fabric.answered();
                }
            }
            STOP_TAG => {
                if let Link::Tcp(fabric) = &self.link {
                    fabric.stopping(done.status.is_success());
                }
            }
            STOPPED_TAG => {
                let csts = done.status.is_success().then(|| Csts::from(done.result as u32));
                if let Link::Tcp(fabric) = &self.link {
                    fabric.stopped(csts, self.clock.now());
                }
            }
            _ => {}
        });
        if let Some(done) = answer {
            self.answered(events, done);
        }
    }

    /// The controller reports an event: what it is about is looked up, if that is known.
    fn reported(&self, events: &mut Events, event: AsyncEvent) {
        match (event.aet(), event.aei()) {
            (AsyncEvent::TYPE_NOTICE, AsyncEvent::NOTICE_NAMESPACE_CHANGED) => {
                events.survey.ask(Question::Changes);
            }
            (AsyncEvent::TYPE_NOTICE, AsyncEvent::NOTICE_FIRMWARE_STARTING) => {
                events.keep(Event::FirmwareActivating);
                self.activation_begins(&mut events.survey);
            }
            (AsyncEvent::TYPE_SMART, _) => events.survey.ask(Question::Health),
            (AsyncEvent::TYPE_ERROR, AsyncEvent::ERROR_PERSISTENT) => {
                events.keep(Event::Reported(event));
                events.survey.ask(Question::Errors);
                events.survey.broke();
            }
            (AsyncEvent::TYPE_ERROR, _) => {
                events.keep(Event::Reported(event));
                events.survey.ask(Question::Errors);
            }
            _ => events.keep(Event::Reported(event)),
        }
    }
}
