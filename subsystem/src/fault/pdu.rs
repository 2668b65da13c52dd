//! Faults of PDUs over TCP: which, and what happens to their bytes on the way.
//!
//! Works between socket and connection, in both directions, on whole PDUs; needs no more of them than what every PDU
//! begins with. A connection without a plan does not come here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::Side;
use doorbell_spec::fabrics::pdu::{CommonHeader, PduType};
use zerocopy::FromBytes;

use super::act::{Act, Delivery};
use super::rule::Place;
use super::state::Faults;

/// A PDU longer than this is none: what follows is passed on as it comes.
const LONGEST: usize = 16 << 20;
/// How long a PDU waits for another one to go first.
const BEHIND: Duration = Duration::from_millis(100);

/// Which PDUs a rule looks at. Starts with a direction and is narrowed from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pdus {
    sender: Option<Side>,
    kind: Option<PduType>,
}

impl Pdus {
    /// Every PDU, both ways.
    #[must_use]
    pub fn any() -> Self {
        Self { sender: None, kind: None }
    }

    /// Those that the host sends.
    #[must_use]
    pub fn of_host() -> Self {
        Self { sender: Some(Side::Host), kind: None }
    }

    /// Those that the port sends.
    #[must_use]
    pub fn of_port() -> Self {
        Self { sender: Some(Side::Controller), kind: None }
    }

    /// Those of this type, which has one sender.
    #[must_use]
    pub fn of(kind: PduType) -> Self {
        Self { sender: kind.sender(), kind: Some(kind) }
    }

    pub(super) fn pick(&self, sender: Side, kind: PduType) -> bool {
        self.sender.is_none_or(|wanted| wanted == sender)
            && self.kind.is_none_or(|wanted| wanted == kind)
    }
}

/// What is wrong with the bytes of a PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PduFault {
    /// Bits turned over from this byte on, whatever the digests say then.
    Corrupt(usize, Vec<u8>),
    /// Bits of the header turned over, and a header digest that fits.
    Field(usize, Vec<u8>),
    /// The digest of the data, or of the header where there is none of data, is wrong.
    WrongDigest,
    /// Only so many bytes, and the next PDU right behind them.
    Truncated(usize),
    /// So many bytes, and the rest later.
    Halves(usize, Duration),
    /// So many bytes, and the end of the connection.
    Close(usize),
}

/// Bytes on their way, from when on.
struct Portion {
    due: Duration,
    bytes: Vec<u8>,
    /// The connection ends behind them.
    last: bool,
}

/// One direction of a connection.
struct Stream {
    sender: Side,
    /// The beginning of a PDU.
    partial: Vec<u8>,
    portions: VecDeque<Portion>,
    /// Bytes of the first portion that have gone.
    gone: usize,
    /// A PDU that waits for the next one, and no longer than this.
    behind: Option<(Duration, Vec<u8>)>,
    /// What comes is not framed any more.
    opaque: bool,
    closed: bool,
}

impl Stream {
    fn new(sender: Side) -> Self {
        Self {
            sender,
            partial: Vec::new(),
            portions: VecDeque::new(),
            gone: 0,
            behind: None,
            opaque: false,
            closed: false,
        }
    }

    fn put(&mut self, bytes: &[u8], faults: &Mutex<Faults>, now: Duration) {
        self.partial.extend_from_slice(bytes);
        while !self.partial.is_empty() {
            if self.opaque {
                let bytes = std::mem::take(&mut self.partial);
                return self.pass(bytes, now, false);
            }
            let Ok((common, _)) = CommonHeader::read_from_prefix(&self.partial) else { return };
            let len = common.plen.get() as usize;
            if !(size_of::<CommonHeader>()..=LONGEST).contains(&len) {
                self.opaque = true;
                continue;
            }
            if self.partial.len() < len {
                return;
            }
            let rest = self.partial.split_off(len);
            let pdu = std::mem::replace(&mut self.partial, rest);
            self.whole(pdu, &common, faults, now);
        }
    }

    fn whole(
        &mut self,
        mut pdu: Vec<u8>,
        common: &CommonHeader,
        faults: &Mutex<Faults>,
        now: Duration,
    ) {
        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
        let acts = faults.pdu(self.sender, common.pdu_type);
        drop(faults);
        let (mut due, mut twice, mut behind) = (now, false, false);
        let mut cut = None;
        for act in acts {
            match act {
                Act::Lose => return,
                Act::Late(by) => due = now.saturating_add(by),
                Act::Deliver(Delivery::Twice) => twice = true,
                Act::Deliver(Delivery::Behind) => behind = true,
                Act::Pdu(PduFault::Corrupt(at, flip)) => turn(&mut pdu, at, &flip),
                Act::Pdu(PduFault::Field(at, flip)) => {
                    turn(&mut pdu, at, &flip);
                    seal(&mut pdu, common);
                }
                Act::Pdu(PduFault::WrongDigest) => spoil(&mut pdu, common),
                Act::Pdu(fault) => cut = Some(fault),
                _ => {}
            }
        }
        match cut {
            Some(PduFault::Truncated(bytes)) => pdu.truncate(bytes),
            Some(PduFault::Close(bytes)) => {
                pdu.truncate(bytes);
                return self.pass(pdu, due, true);
            }
            Some(PduFault::Halves(bytes, by)) => {
                let rest = pdu.split_off(bytes.min(pdu.len()));
                self.pass(pdu, due, false);
                return self.pass(rest, due + by, false);
            }
            _ => {}
        }
        if behind && self.behind.is_none() {
            self.behind = Some((now.saturating_add(BEHIND), pdu));
            return;
        }
        if twice {
            self.pass(pdu.clone(), due, false);
        }
        self.pass(pdu, due, false);
        if let Some((_, late)) = self.behind.take() {
            self.pass(late, due, false);
        }
    }

    /// Bytes stay in order: what is late holds up what is behind it.
    fn pass(&mut self, bytes: Vec<u8>, due: Duration, last: bool) {
        self.portions.push_back(Portion { due, bytes, last });
    }

    /// The bytes that may go now.
    fn ready(&mut self, now: Duration) -> &[u8] {
        if let Some((_, late)) = self.behind.take_if(|(until, _)| *until <= now) {
            self.pass(late, now, false);
        }
        while let Some(portion) = self.portions.front() {
            if portion.due > now || self.closed {
                return &[];
            }
            if self.gone < portion.bytes.len() {
                break;
            }
            self.closed |= portion.last;
            self.gone = 0;
            self.portions.pop_front();
        }
        let first = self.portions.front().filter(|portion| portion.due <= now);
        first.and_then(|portion| portion.bytes.get(self.gone..)).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.portions.is_empty() && self.behind.is_none()
    }
}

/// Both directions of a connection whose PDUs have faults.
pub(crate) struct Wire {
    faults: Arc<Mutex<Faults>>,
    to_port: Stream,
    to_host: Stream,
}

impl Wire {
    /// A new connection under a plan at work in all connections of a target; `None` where that has no rule for PDUs.
    pub(crate) fn new(faults: &Arc<Mutex<Faults>>) -> Option<Self> {
        let (to_port, to_host) = (Stream::new(Side::Host), Stream::new(Side::Controller));
        let pdus = faults.lock().unwrap_or_else(PoisonError::into_inner).has_pdus();
        pdus.then(|| Self { faults: Arc::clone(faults), to_port, to_host })
    }

    /// The host has sent `bytes`.
    pub(crate) fn host_sent(&mut self, bytes: &[u8], now: Duration) {
        self.to_port.put(bytes, &self.faults, now);
    }

    /// The port sends `bytes`.
    pub(crate) fn port_sends(&mut self, bytes: &[u8], now: Duration) {
        self.to_host.put(bytes, &self.faults, now);
    }

    /// Moves what has come as far as the port by now into `room`; returns the bytes.
    pub(crate) fn deliver(&mut self, room: &mut [u8], now: Duration) -> usize {
        let mut moved = 0;
        loop {
            let room = room.get_mut(moved..).unwrap_or_default();
            let ready = self.to_port.ready(now);
            let len = room.len().min(ready.len());
            if len == 0 {
                return moved;
            }
            for (to, from) in room.iter_mut().zip(ready) {
                *to = *from;
            }
            self.to_port.gone += len;
            moved += len;
        }
    }

    /// Bytes that are to be sent to the host now.
    pub(crate) fn ready(&mut self, now: Duration) -> &[u8] {
        self.to_host.ready(now)
    }

    /// The first `len` of them have been.
    pub(crate) fn sent(&mut self, len: usize) {
        self.to_host.gone += len;
    }

    /// Whether a rule ends the connection now.
    pub(crate) fn is_closed(&self) -> bool {
        self.to_port.closed || self.to_host.closed
    }

    /// Whether so much of what the host has sent is held back that no more is to be taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.to_port.portions.iter().map(|portion| portion.bytes.len()).sum::<usize>() > LONGEST
    }

    /// Whether something is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.to_port.is_empty() || !self.to_host.is_empty()
    }

    /// Whether something is on its way to the host.
    pub(crate) fn is_sending(&self) -> bool {
        !self.to_host.is_empty()
    }
}

impl Faults {
    /// What happens to a PDU.
    fn pdu(&mut self, sender: Side, kind: PduType) -> Vec<Act> {
        let mut acts = Vec::new();
        let picks = |place: &Place| matches!(place, Place::Pdu(which) if which.pick(sender, kind));
        self.ask(picks, |act| acts.push(act.clone()));
        acts
    }
}

fn turn(pdu: &mut [u8], at: usize, flip: &[u8]) {
    for (byte, bits) in pdu.iter_mut().skip(at).zip(flip) {
        *byte ^= bits;
    }
}

/// Where the header digest stands, if there is one.
fn header_digest(common: &CommonHeader) -> Option<usize> {
    common.flags.hdgst().then_some(usize::from(common.hlen))
}

/// Gives the header a digest that fits.
fn seal(pdu: &mut [u8], common: &CommonHeader) {
    let Some(at) = header_digest(common) else { return };
    let Some((header, behind)) = pdu.split_at_mut_checked(at) else { return };
    if let Some(place) = behind.first_chunk_mut() {
        *place = digest::crc32c(header).to_le_bytes();
    }
}

fn spoil(pdu: &mut [u8], common: &CommonHeader) {
    let of_data = common.flags.ddgst().then(|| pdu.len().saturating_sub(digest::SIZE));
    if let Some(at) = of_data.or_else(|| header_digest(common)) {
        turn(pdu, at, &[0x55]);
    }
}
