//! Events: what a controller reports of itself, and what became of the way to it.

use doorbell_spec::admin::{self as commands, AsyncEvent};
use doorbell_spec::feature::Fid;
use doorbell_spec::identify::IdentifyController;
use doorbell_spec::register::Csts;

use super::fabrics::{KEEP_ALIVE_TAG, STOP_TAG, STOPPED_TAG};
use super::{Controller, Inner, Link, lock};
use crate::error::CommandError;
use crate::queue::{Done, Io, Queue};
use crate::transport::Outcome;
use crate::transport::tcp::Keeper;

/// Tag of the driver's own Asynchronous Event Requests on the admin queue.
const EVENT_TAG: u64 = u64::MAX - 1;
/// Events kept for a caller who does not ask for them.
const MOST_KEPT: usize = 64;

/// Something that happened to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The controller reports it; the log page that it names says more, and has to be read
    /// ([`event_page`](Controller::event_page)) before the controller reports another of its kind.
    Reported(AsyncEvent),
    /// The association was lost, and there is a new one.
    Reconnected,
    /// The controller has been reset, asked or not; queues and namespaces are what they were.
    Reset,
}

/// Events that have happened and not been asked for.
pub(super) struct Events {
    /// Requests for events that are with the controller.
    outstanding: u8,
    /// The controller takes no more of them.
    refused: bool,
    kept: Vec<Event>,
}

impl Default for Events {
    /// Those of a controller that has been asked for the first (see [`ask`]).
    fn default() -> Self {
        Self { outstanding: 1, refused: false, kept: Vec::new() }
    }
}

impl Events {
    fn keep(&mut self, event: Event) {
        if self.kept.len() < MOST_KEPT {
            self.kept.push(event);
        }
    }

    /// The requests that were outstanding are not any more; there is a new one.
    pub(super) fn restart(&mut self, event: Event) {
        (self.outstanding, self.refused) = (1, false);
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
    /// were. Never blocks.
    ///
    /// A controller across a network hears of this host by this, or by the poll of any of its I/O queues: call either a
    /// few times within the Keep Alive Timeout (5 s unless the address says otherwise).
    pub fn poll(&self, mut sink: impl FnMut(Event)) -> usize {
        match &self.inner.link {
            Link::Tcp(_) => {
                self.inner.tend(false);
            }
            Link::Device(_) => {
                if let Ok(mut admin) = self.inner.admin.try_lock()
                    // Not by `ended`: whoever resets the controller holds that and waits for the admin queue.
                    && !self.inner.recovery.is_over()
                {
                    self.inner.take_events(&mut admin);
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
    /// Takes what has completed on the admin queue beside the commands that somebody waits for, and asks for the next
    /// event.
    pub(super) fn take_events(&self, admin: &mut Queue) {
        self.drain_events(admin);
        let events = &mut *lock(&self.events);
        if events.outstanding == 0 && !events.refused {
            events.outstanding = u8::from(admin.submit(request()).is_ok());
        }
    }

    /// Takes what has completed on the admin queue beside the commands that somebody waits for.
    pub(super) fn drain_events(&self, admin: &mut Queue) {
        let events = &mut *lock(&self.events);
        admin.poll(|Done { tag, status, result, outcome, .. }| match tag {
            EVENT_TAG => {
                events.outstanding = events.outstanding.saturating_sub(1);
                if status.is_success() {
                    events.keep(Event::Reported(AsyncEvent::from_bits(result as u32)));
                } else if outcome == Outcome::Completed {
                    events.refused = true;
                }
            }
            KEEP_ALIVE_TAG if outcome == Outcome::Completed => {
                if let Link::Tcp(fabric) = &self.link {
                    fabric.answered();
                }
            }
            STOP_TAG => {
                if let Link::Tcp(fabric) = &self.link {
                    fabric.stopping(status.is_success());
                }
            }
            STOPPED_TAG => {
                let csts = status.is_success().then(|| Csts::from(result as u32));
                if let Link::Tcp(fabric) = &self.link {
                    fabric.stopped(csts, self.clock.now());
                }
            }
            _ => {}
        });
    }
}
