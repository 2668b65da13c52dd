//! One connection of a host, without a socket and without a clock: bytes in, bytes out, the time passed in.
//!
//! ```text
//!            ICReq               Connect                   TermReq, Disconnect, expiry
//!   new ---------------> ready ----------> a queue ---------------> ending ----> ended
//!    |                     |                  |                       ^
//!    '------- a PDU that breaks a rule: C2HTermReq, and the end ------'
//! ```
//!
//! The port puts what it received into [`Connection::room`], calls [`Connection::step`], and sends what
//! [`Connection::transmit`] gives it. A step takes whole PDUs while there is room for their answers: where a host does not
//! read, its commands wait in its own connection and nowhere else. What commands do is in `commands`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::fabrics::digest;
use doorbell_spec::fabrics::header::{Framing, Layout, Rules, Side, Violation};
use doorbell_spec::fabrics::pdu::{
    CapsuleCommand, CommonHeader, Digests, H2CData, IcReq, IcResp, PduType, TermReq,
};
use zerocopy::{FromBytes, IntoBytes};

use super::buffer::Buffer;
use super::faulty::Faulty;
use super::queue::Queue;
use super::transfer::Header;
use crate::fabrics::{Share, Target};

/// MAXH2CDATA: the most data of one H2CData.
pub const MAX_H2C_DATA: u32 = 128 << 10;
/// In-capsule data of a queue whose kind is not known yet, and of the admin queue.
pub(super) const ADMIN_IN_CAPSULE: u32 = 8192;
/// Bytes that a connection holds in each direction.
pub const BUFFER: usize = 256 << 10;
/// Room that a PDU needs before it is taken: for its answers, but for data.
pub(super) const RESERVE: usize = 1024;
/// Bytes that there is room to receive, while the buffer is not full of them.
const RECEIVE: usize = 64 << 10;
/// Time for what is left to be sent at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// Work of one step, in units of a command or 16 KiB, after which it is somebody else's turn.
const BUDGET: u32 = 128;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The host broke a rule of the transport, and was told so.
    Violated(Violation),
    /// The host says that we broke one.
    Accused(Violation),
    /// The host closed it.
    Closed,
    /// It did not become a queue in time.
    Silent,
    /// The keep alive timer ran out.
    Expired,
    /// The controller that it belongs to is over: its admin queue is gone, or its host may not connect any more.
    Dissociated,
    /// The controller was reset; this queue belonged to it before.
    Reset,
    /// The host sent Disconnect.
    Disconnected,
    /// There are as many connections as there may be.
    Crowded,
    /// A rule of a plan of faults had its controller vanish.
    Vanished,
    /// The medium could not be read in the middle of data that were being sent.
    Unreadable,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Violated(violation) => write!(f, "the host broke a rule: {violation}"),
            End::Accused(violation) => write!(f, "the host complains: {violation}"),
            End::Closed => f.write_str("the host closed it"),
            End::Silent => f.write_str("no Connect came in time"),
            End::Expired => f.write_str("the keep alive timer ran out"),
            End::Dissociated => f.write_str("its controller is gone"),
            End::Reset => f.write_str("its controller was reset"),
            End::Disconnected => f.write_str("the host disconnected"),
            End::Crowded => f.write_str("there are as many connections as there may be"),
            End::Vanished => f.write_str("a rule of the plan of faults had its controller vanish"),
            End::Unreadable => f.write_str("the medium could not be read while its data were sent"),
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Sends what is left, until the time.
    Ending(Duration),
    Ended,
}

/// One connection of a host.
pub struct Connection {
    pub(super) target: Arc<Target>,
    pub(super) local: SocketAddr,
    pub(super) share: Share,
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    pub(super) rules: Rules,
    /// How we frame.
    pub(super) framing: Framing,
    pub(super) maxr2t_z: u32,
    pub(super) queue: Option<Box<Queue>>,
    /// Faults of its commands, where they are wanted.
    pub(super) faults: Option<Box<Faulty>>,
    phase: Phase,
    pub(super) end: Option<End>,
    born: Duration,
    pub(super) now: Duration,
    /// Work done in this step.
    pub(super) spent: u32,
    /// The input begins with a PDU that is not complete.
    starved: bool,
}

impl Connection {
    /// A connection that a host has just made to `local`; `None` where the target has too many.
    pub fn new(target: &Arc<Target>, local: SocketAddr, now: Duration) -> Option<Self> {
        Some(Self {
            share: target.admit()?,
            target: Arc::clone(target),
            local,
            input: Buffer::new(BUFFER),
            output: Buffer::new(BUFFER),
            rules: Rules {
                sender: Side::Host,
                initialized: false,
                framing: Framing::BARE,
                max_in_capsule: ADMIN_IN_CAPSULE,
                max_data: MAX_H2C_DATA,
            },
            framing: Framing::BARE,
            maxr2t_z: 0,
            queue: None,
            faults: target.faults().map(|plan| Box::new(Faulty::new(plan))),
            phase: Phase::Open,
            end: None,
            born: now,
            now,
            spent: 0,
            starved: true,
        })
    }

    /// Where to put received bytes; nothing while earlier ones have to be taken first.
    pub fn room(&mut self) -> &mut [u8] {
        if self.phase != Phase::Open {
            // Nobody reads it any more; it makes the peer's last words go somewhere.
            self.input.consume(usize::MAX / 2);
        }
        // Much is received at once, and what is left of a PDU is moved to the front for it.
        self.input.make_room(RECEIVE.min(BUFFER - self.input.len()));
        self.input.room()
    }

    /// Takes over `len` bytes that were put into [`Connection::room`].
    pub fn received(&mut self, len: usize) {
        self.input.commit(len);
        self.starved = false;
    }

    /// The host closes the connection.
    pub fn closed(&mut self) {
        self.finish(End::Closed);
        self.phase = Phase::Ended;
    }

    /// Takes note that the first `len` bytes of the output were sent.
    pub(super) fn sent(&mut self, len: usize) {
        self.output.consume(len);
        if self.output.len() == 0 && matches!(self.phase, Phase::Ending(_)) {
            self.phase = Phase::Ended;
        }
    }

    /// Whether a whole command, or data, has been received and waits to be taken.
    pub fn has_command(&self) -> bool {
        self.phase == Phase::Open && matches!(self.look(), Ok(Some(_)))
    }

    /// Why it ended, or is about to.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether there is nothing left to do but to close the socket.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Whether a step would find something to do without more input, once output was sent.
    pub fn is_ready(&self) -> bool {
        let waits = |queue: &Queue| queue.reply.is_some() || !queue.shown.is_empty();
        let waits = self.queue.as_deref().is_some_and(waits);
        self.phase == Phase::Open && (waits || self.input.len() != 0 && !self.starved)
    }

    /// Takes what has been received, as far as there is room for answers. Returns the work that was done; 0 means that
    /// it needs more input, or output sent.
    pub fn step(&mut self, now: Duration) -> u32 {
        self.now = now;
        self.spent = 0;
        if self.phase != Phase::Open || !self.attend() {
            return 0;
        }
        if self.faults.is_some() {
            self.poll_faults();
        }
        while self.phase == Phase::Open && self.spent < BUDGET {
            if !self.go_on() {
                while self.spent < BUDGET && self.follow() {}
                break;
            }
            if !self.output.make_room(RESERVE) {
                break;
            }
            match self.look() {
                Ok(Some(layout)) => match self.take(&layout) {
                    Ok(()) => self.spent += 1,
                    Err(violation) => self.violated(violation, layout.header as usize),
                },
                Ok(None) => {
                    self.starved = true;
                    break;
                }
                Err(violation) => self.violated(violation, size_of::<CommonHeader>()),
            }
        }
        if let Some(queue) = &mut self.queue {
            queue.rest(now, self.spent != 0);
        }
        self.spent
    }

    /// Looks at what happens without input: time, and what other connections and threads do. To be called ten times a
    /// second or so.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        match self.phase {
            Phase::Ended => {}
            Phase::Ending(until) => {
                if now >= until {
                    self.phase = Phase::Ended;
                }
            }
            Phase::Open => match &self.queue {
                None => {
                    if now.saturating_sub(self.born) > self.target.limits().introduction {
                        self.finish(End::Silent);
                    }
                }
                Some(queue) => {
                    if queue.association.is_expired(now) {
                        queue.association.expire();
                        self.finish(End::Expired);
                    } else if self.attend() {
                        if self.faults.is_some() {
                            self.poll_faults();
                        }
                        self.end_aborted();
                        self.report_events();
                        if let Some(queue) = &mut self.queue {
                            queue.rest(now, false);
                        }
                    }
                }
            },
        }
    }

    /// Whether the association still stands as this queue knows it; ends the connection where it does not.
    fn attend(&mut self) -> bool {
        let Some(queue) = &mut self.queue else { return true };
        match queue.attend() {
            Ok(()) => true,
            Err(end) => {
                self.finish(end);
                false
            }
        }
    }

    /// Ends: sends what is left, takes nothing more. The queue is gone at once.
    pub(super) fn finish(&mut self, end: End) {
        if self.phase != Phase::Open {
            return;
        }
        self.end = Some(end);
        self.queue = None;
        self.phase =
            if self.output.len() == 0 { Phase::Ended } else { Phase::Ending(self.now + FAREWELL) };
    }

    /// Tells the host which rule its PDU, the first one of the input, breaks; `header` bytes of it show where.
    fn violated(&mut self, violation: Violation, header: usize) {
        let header = self.input.filled().get(..header).unwrap_or_default();
        let term = TermReq::new(PduType::C2H_TERM_REQ, violation, header.len());
        if self.output.make_room(size_of::<TermReq>() + header.len()) {
            self.output.put(term.as_bytes());
            self.output.put(header);
        }
        self.finish(End::Violated(violation));
    }

    /// What the next PDU consists of; `None` where it is not complete.
    #[inline]
    pub(super) fn look(&self) -> Result<Option<Layout>, Violation> {
        let Ok((common, _)) = CommonHeader::read_from_prefix(self.input.filled()) else {
            return Ok(None);
        };
        let layout = self.rules.check(&common)?;
        Ok((self.input.len() >= layout.total as usize).then_some(layout))
    }

    /// Takes the next PDU.
    #[inline]
    fn take(&mut self, layout: &Layout) -> Result<(), Violation> {
        if layout.header_digest {
            let head = self.input.filled().get(..layout.head() as usize).unwrap_or_default();
            check_header(head)?;
        }
        match layout.pdu_type {
            PduType::IC_REQ => self.initialize()?,
            PduType::H2C_TERM_REQ => {
                if let Ok((term, _)) = TermReq::read_from_prefix(self.input.filled()) {
                    self.finish(End::Accused(term.violation()));
                    self.phase = Phase::Ended;
                }
            }
            PduType::CAPSULE_COMMAND => {
                if let Ok((capsule, _)) = CapsuleCommand::read_from_prefix(self.input.filled()) {
                    let intact = self.is_intact(layout);
                    self.capsule(&capsule.sqe, layout, intact)?;
                }
            }
            PduType::H2C_DATA => self.data(layout)?,
            // Nothing else has the host for its sender.
            _ => return Err(Violation::SEQUENCE),
        }
        self.input.consume(layout.total as usize);
        Ok(())
    }

    /// Whether the data's digest is right, where there is one.
    fn is_intact(&mut self, layout: &Layout) -> bool {
        if !layout.data_digest {
            return true;
        }
        let at = layout.data_at as usize;
        let data = self.input.part(at, layout.data as usize + digest::SIZE);
        data.split_last_chunk()
            .is_some_and(|(data, given)| u32::from_le_bytes(*given) == digest::crc32c(data))
    }

    fn initialize(&mut self) -> Result<(), Violation> {
        let Ok((request, _)) = IcReq::read_from_prefix(self.input.filled()) else { return Ok(()) };
        request.check()?;
        let digests = request.dgst;
        let (header_digest, data_digest) = (digests.header(), digests.data());
        self.maxr2t_z = request.maxr2t_z.get();
        self.rules.initialized = true;
        let cpda_z = self.target.limits().cpda_z;
        let alignment = 4 * (u32::from(cpda_z) + 1);
        self.rules.framing = Framing { header_digest, data_digest, alignment };
        let alignment = 4 * (u32::from(request.hpda_z) + 1);
        self.framing = Framing { header_digest, data_digest, alignment };
        let agreed = Digests::new().with_header(header_digest).with_data(data_digest);
        self.output.put(IcResp::new(agreed, cpda_z, MAX_H2C_DATA).as_bytes());
        Ok(())
    }

    fn data(&mut self, layout: &Layout) -> Result<(), Violation> {
        let Ok((pdu, _)) = H2CData::read_from_prefix(self.input.filled()) else { return Ok(()) };
        if pdu.datal.get() != layout.data {
            return Err(Violation::field(doorbell_spec::fabrics::pdu::offset::DATAL));
        }
        let header = Header {
            cccid: pdu.cccid.get(),
            ttag: pdu.ttag.get(),
            datao: pdu.datao.get(),
            datal: layout.data,
            last: pdu.common.flags.last(),
        };
        let intact = self.is_intact(layout);
        self.host_data(&header, layout, intact)
    }

    /// Puts a PDU that is nothing but its header into the output, where there is room for it.
    pub(super) fn put(&mut self, header: &[u8]) {
        self.output.put(header);
        if self.framing.header_digest {
            self.output.put(&digest::crc32c(header).to_le_bytes());
        }
    }
}

/// Checks a header and the digest behind it.
pub(super) fn check_header(head: &[u8]) -> Result<(), Violation> {
    match head.split_last_chunk() {
        Some((header, given)) if u32::from_le_bytes(*given) != digest::crc32c(header) => {
            Err(Violation::header_digest(u32::from_le_bytes(*given)))
        }
        _ => Ok(()),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("local", &self.local)
            .field("phase", &self.phase)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
