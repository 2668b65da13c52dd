//! Asynchronous events: what happened, and who has asked to be told (Base 2.1, "Asynchronous Event Request command").
//!
//! One event per type is reported at a time: the next has to wait until the host has read the log page that belongs to
//! the first. What waits is bounded, since equal events are one.

use doorbell_spec::admin::AsyncEvent;
use doorbell_spec::log::Lid;

use super::core::Core;

/// AERL: event requests that may be outstanding, minus one.
pub(crate) const AERL_Z: u8 = 3;
/// Event types that exist.
const TYPES: usize = 8;

/// Requests that wait for events and events that wait for requests.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Command identifiers of the outstanding requests, oldest first.
    requests: Vec<u16>,
    /// Events not yet reported, oldest first.
    pending: Vec<AsyncEvent>,
    /// By type: an event was reported and its log page has not been read.
    masked: [bool; TYPES],
}

impl Events {
    /// Holds a request; false where that is one too many.
    pub(crate) fn hold(&mut self, cid: u16) -> bool {
        if self.requests.len() > usize::from(AERL_Z) {
            return false;
        }
        self.requests.push(cid);
        true
    }

    /// Whether `cid` is a request's.
    pub(crate) fn holds(&self, cid: u16) -> bool {
        self.requests.contains(&cid)
    }

    /// Ends a request.
    pub(crate) fn abort(&mut self, cid: u16) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| *request != cid);
        self.requests.len() != before
    }

    fn raise(&mut self, event: AsyncEvent) {
        if !self.pending.contains(&event) {
            self.pending.push(event);
        }
    }

    /// Whether [`Events::deliver`] would find something.
    #[inline]
    pub(crate) fn deliverable(&self) -> bool {
        !self.pending.is_empty() && !self.requests.is_empty() && self.ready().is_some()
    }

    /// Where the oldest event is that may be reported.
    fn ready(&self) -> Option<usize> {
        let masked =
            |event: &AsyncEvent| self.masked.get(usize::from(event.aet())).copied().unwrap_or(true);
        self.pending.iter().position(|event| !masked(event))
    }

    /// A request and an event that can go together now.
    pub(crate) fn deliver(&mut self) -> Option<(u16, AsyncEvent)> {
        if self.requests.is_empty() {
            return None;
        }
        let at = self.ready()?;
        let event = self.pending.remove(at);
        if let Some(masked) = self.masked.get_mut(usize::from(event.aet())) {
            *masked = true;
        }
        Some((self.requests.remove(0), event))
    }

    /// The log page of a type of event was read without retaining the event.
    pub(crate) fn rearm(&mut self, aet: u8) {
        if let Some(masked) = self.masked.get_mut(usize::from(aet)) {
            *masked = false;
        }
    }
}

fn event(aet: u8, aei: u8, lid: Lid) -> AsyncEvent {
    AsyncEvent::new().with_aet(aet).with_aei(aei).with_lid(lid.0)
}

impl Core {
    /// The host wrote to a doorbell that no queue has (RST-8).
    #[cold]
    pub(super) fn bad_doorbell_register(&mut self) {
        self.bad_doorbell(AsyncEvent::ERROR_INVALID_DOORBELL);
    }

    /// The host wrote a value that a queue's rules forbid; the queue goes on where it was (RST-8).
    #[cold]
    pub(super) fn bad_doorbell_value(&mut self) {
        self.bad_doorbell(AsyncEvent::ERROR_INVALID_DOORBELL_VALUE);
    }

    fn bad_doorbell(&mut self, aei: u8) {
        // Reported only where someone is waiting to hear it.
        if !self.events.requests.is_empty() {
            self.events.raise(event(AsyncEvent::TYPE_ERROR, aei, Lid::ERROR_INFORMATION));
        }
    }

    /// Namespaces came, went or changed.
    pub(super) fn namespace_notice(&mut self) {
        if self.features.events.nan() {
            let (aet, aei) = (AsyncEvent::TYPE_NOTICE, AsyncEvent::NOTICE_NAMESPACE_CHANGED);
            self.events.raise(event(aet, aei, Lid::CHANGED_NAMESPACES));
        }
    }

    /// Firmware is about to be activated.
    pub(super) fn firmware_notice(&mut self) {
        if self.features.events.fan() {
            let (aet, aei) = (AsyncEvent::TYPE_NOTICE, AsyncEvent::NOTICE_FIRMWARE_STARTING);
            self.events.raise(event(aet, aei, Lid::FIRMWARE_SLOT));
        }
    }

    /// The discovery log page changed.
    pub(crate) fn discovery_notice(&mut self) {
        if self.features.events.dlpcn() {
            let (aet, aei) = (AsyncEvent::TYPE_NOTICE, AsyncEvent::NOTICE_DISCOVERY);
            self.events.raise(event(aet, aei, Lid::DISCOVERY));
        }
    }

    /// The temperature went past a threshold.
    pub(super) fn temperature_event(&mut self) {
        let (aet, aei) = (AsyncEvent::TYPE_SMART, AsyncEvent::SMART_TEMPERATURE);
        self.events.raise(event(aet, aei, Lid::SMART));
    }
}
