//! Transport over TCP: one connection for each queue (NVMe/TCP Transport).
//!
//! The protocol is a state machine without a socket (`connection`); one file touches the socket (`socket`). Here they
//! are put together: staged commands leave with one system call for many of them, straight from the callers' buffers,
//! and completions arrive many to a call, large data straight into the buffers.
//!
//! # Loss
//! When a connection ends, what has come is read, then its socket is closed: the kernel drops what it holds, and no
//! buffer is read or written after that. Then every command in flight ends once, with an [`Outcome`]. A queue of a
//! controller that may be connected again keeps what is staged from then on, and sends it when it is.

pub(crate) mod association;
pub(crate) mod attempt;
mod connection;
#[doc(hidden)]
pub mod converse;
mod error;
mod host;
mod outbox;
mod piece;
mod socket;
pub(crate) mod target;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::disconnect;
use doorbell_spec::status::Status;

use self::association::Standing;
use self::attempt::{Attempt, turn_of};
use self::connection::Connection;
pub use self::error::{LinkError, TcpError};
pub(crate) use self::host::Host;
use self::piece::Piece;
pub(crate) use self::socket::Socket;
use self::target::{Link, Shape};
use super::{
    CloseError, Completion, Condition, Data, Full, Handling, Limits, Outcome, Transport, Trouble,
    Usage, Violation,
};
use crate::clock::{Clock, Deadline};

/// What an I/O queue needs of the controller that it belongs to.
pub(crate) trait Keeper: Send + Sync {
    /// Keeps the association alive, and makes a new one after a loss when it is time. `traffic`: commands have completed
    /// since the last call. Called by whoever polls.
    fn tend(&self, traffic: bool) -> Standing;
    /// The connection of a queue of association `epoch` has been lost.
    fn lost(&self, epoch: u64, error: LinkError);
    /// A new connection for a queue, in the association that there is now; none if it was lost as well.
    fn reconnect(self: Arc<Self>, shape: Shape) -> Reconnection;
    /// Asks the controller to abort command `cid` of a queue; false if it has been asked before.
    fn abort(&self, shape: &Shape, cid: u16) -> bool;
    /// Queue `qid` is closed.
    fn closed(&self, qid: u16);
}

/// A queue's new connection on its way, with the association that it belongs to.
pub(crate) type Reconnection = Attempt<Option<(Link, u64)>>;

/// One queue pair over one connection. Belongs to one thread at a time.
pub struct Tcp {
    connection: Connection,
    socket: Option<Arc<Socket>>,
    shape: Shape,
    usage: Usage,
    /// Why there is no connection.
    error: Option<LinkError>,
    /// Nothing is sent any more: that failed, or the association is lost. What the target said before is still to be read.
    broken: Option<LinkError>,
    /// The socket had no more when it was read last.
    drained: bool,
    /// Something has come since the last round.
    fruitful: bool,
    keeper: Option<Arc<dyn Keeper>>,
    /// The association that the connection belongs to.
    epoch: u64,
    clock: Arc<dyn Clock>,
    /// When the keeper is asked next.
    next_look: Duration,
    /// Commands have completed since the keeper was asked last.
    traffic: bool,
    /// Commands staged while there is no connection, or one on which nothing is sent any more.
    waiting: VecDeque<Waiting>,
    /// A new connection on its way, and the association that it is to belong to.
    attempt: Option<(u64, Reconnection)>,
}

struct Waiting {
    slot: u16,
    cid: u16,
    command: Sqe,
    data: Piece,
    exact: bool,
}

/// Pieces sent by one system call.
const BATCH: usize = 128;
/// Between two looks at how the association stands.
const LOOK: Duration = Duration::from_millis(5);
/// How long the target may take to answer Disconnect.
const GOODBYE: Duration = Duration::from_secs(1);

impl Tcp {
    /// A queue over `link`, whose controller is kept by `keeper` if it is an I/O queue.
    pub(crate) fn new(
        link: Link,
        shape: Shape,
        clock: Arc<dyn Clock>,
        keeper: Option<Arc<dyn Keeper>>,
        epoch: u64,
    ) -> Self {
        Self {
            connection: link.connection,
            socket: Some(link.socket),
            shape,
            usage: Usage::default(),
            error: None,
            broken: None,
            drained: false,
            fruitful: false,
            keeper,
            epoch,
            next_look: clock.now().saturating_add(LOOK),
            clock,
            traffic: false,
            waiting: VecDeque::new(),
            attempt: None,
        }
    }

    /// Why there is no connection, if so.
    #[must_use]
    pub fn error(&self) -> Option<LinkError> {
        self.error
    }

    /// Sends what waits, as far as the kernel takes it.
    #[inline]
    fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        // Ends: the kernel takes everything, or no more.
        while self.connection.has_output() && self.broken.is_none() {
            let mut slices = [IoSlice::new(&[]); BATCH];
            let count = self.connection.output(&mut slices);
            match socket.send(slices.get(..count).unwrap_or_default()) {
                Ok(0) => break,
                Ok(sent) => {
                    self.usage.doorbells += 1;
                    self.connection.sent(sent);
                }
                Err(error) => self.broken = Some(error),
            }
        }
    }

    /// Sends and receives once.
    #[inline]
    fn exchange(&mut self) -> Result<(), LinkError> {
        if self.connection.has_output() {
            self.flush();
        }
        let Some(socket) = &self.socket else { return Err(LinkError::Closed) };
        let (payload, rest) = self.connection.space();
        let room = payload.len() + rest.len();
        let count = socket.receive(payload, rest).map_err(|error| self.broken.unwrap_or(error))?;
        if let Some(error) = self.broken.filter(|_| count == 0) {
            return Err(error);
        }
        self.drained = count < room;
        self.fruitful |= count > 0;
        self.connection.received(count);
        Ok(())
    }

    #[inline]
    fn end_round(&mut self) {
        self.drained = false;
        self.usage.polls += 1;
        self.usage.empty_polls += u64::from(!self.fruitful);
        self.traffic |= self.fruitful;
        self.fruitful = false;
        if self.keeper.is_some() && self.clock.now() >= self.next_look {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let standing = keeper.tend(std::mem::take(&mut self.traffic));
        self.next_look = self.clock.now().saturating_add(LOOK);
        if standing != Standing::Up(self.epoch) {
            // What the target said before is still to be read.
            self.broken.get_or_insert(LinkError::Association);
        }
    }

    /// The connection is of no more use.
    #[cold]
    fn lose(&mut self, error: LinkError) {
        self.error.get_or_insert(error);
        let partly_sent = self.connection.has_output();
        if let Some(socket) = self.socket.take() {
            match self.connection.termination() {
                Some(last) if !partly_sent => socket.finish(&last),
                _ => socket.abort(),
            }
        }
        if let Some(keeper) = &self.keeper {
            keeper.lost(self.epoch, error);
        }
        self.next_look = Duration::ZERO;
    }

    /// As [`next`](Transport::next), while there is no connection.
    #[cold]
    fn next_without(&mut self, error: LinkError) -> Result<Option<Completion>, Violation> {
        if let Some(completion) = self.connection.give_up() {
            return Ok(Some(completion));
        }
        let Some(keeper) = self.keeper.clone() else { return Err(Violation::Lost(error)) };
        self.usage.polls += 1;
        self.usage.empty_polls += 1;
        if self.clock.now() < self.next_look {
            return Ok(None);
        }
        let standing = keeper.tend(false);
        let fail_one = |this: &mut Self| {
            let waiting = this.waiting.pop_front()?;
            Some(Completion {
                cid: waiting.cid,
                status: Status::HOST_PATHING_ERROR,
                result: 0,
                outcome: Outcome::NotSent,
            })
        };
        if !matches!(standing, Standing::Up(_)) {
            self.attempt = None;
        }
        let failed = match standing {
            Standing::Up(epoch) => {
                self.reconnect(keeper, epoch);
                return Ok(None);
            }
            Standing::Down { failing: true, .. } => fail_one(self),
            // Whoever has an attempt made looks after it at every poll.
            Standing::Down { trying: true, .. } => return Ok(None),
            Standing::Down { .. } => None,
            Standing::Over(error) => match fail_one(self) {
                None => return Err(Violation::Lost(error)),
                failed => failed,
            },
        };
        if failed.is_none() {
            self.next_look = self.clock.now().saturating_add(LOOK);
        }
        Ok(failed)
    }

    /// One turn of the attempt to connect again.
    fn reconnect(&mut self, keeper: Arc<dyn Keeper>, epoch: u64) {
        let attempt = match self.attempt.take_if(|attempt| attempt.0 != epoch) {
            // The association that it was for has been lost as well.
            Some(_) => None,
            None => self.attempt.as_mut(),
        };
        let Some((_, attempt)) = attempt else {
            self.attempt = Some((epoch, keeper.reconnect(self.shape)));
            return;
        };
        let Some(result) = turn_of(attempt) else { return };
        self.attempt = None;
        let Some((link, epoch)) = result else {
            self.next_look = self.clock.now().saturating_add(LOOK);
            return;
        };
        (self.connection, self.socket) = (link.connection, Some(link.socket));
        (self.error, self.broken, self.drained) = (None, None, false);
        self.epoch = epoch;
        while let Some(Waiting { slot, cid, command, data, exact }) = self.waiting.pop_front() {
            self.connection.stage(slot, cid, command, data, exact);
        }
        self.flush();
    }

    /// Tells a controller that wants it that the queue ends; nothing is in flight.
    fn say_goodbye(&mut self) {
        let deadline = Deadline::after(&*self.clock, GOODBYE);
        self.connection.stage(0, 0, disconnect(), Piece::NONE, false);
        let mut round = 0;
        while self.error.is_none() && !deadline.passed(&*self.clock) {
            match self.next() {
                Ok(Some(_)) | Err(_) => break,
                Ok(None) => self.clock.pause(round, Duration::from_millis(1)),
            }
            round += 1;
        }
    }
}

impl Transport for Tcp {
    #[inline(always)]
    fn limits(&self) -> Limits {
        // Data are described by their length: no page matters.
        let page = 1 << 63;
        let Shape { depth, max_transfer, .. } = self.shape;
        Limits { depth, max_transfer, page, direct: false }
    }

    #[inline(never)]
    fn stage(&mut self, slot: u16, cid: u16, command: Sqe, data: Data) -> Result<(), Full> {
        let exact = data.handling == Handling::Exact;
        let data = Piece::of(data);
        let over = self.error.is_some() || (self.broken.is_some() && self.keeper.is_some());
        if !over {
            self.connection.stage(slot, cid, command, data, exact);
            return Ok(());
        }
        if self.keeper.is_none() {
            return Err(Full);
        }
        // Nothing is sent on this connection any more: it waits for the next one.
        self.waiting.push_back(Waiting { slot, cid, command, data, exact });
        Ok(())
    }

    fn release(&mut self, _: u16) {}

    #[inline(never)]
    fn ring(&mut self) {
        self.flush();
    }

    #[inline(never)]
    fn next(&mut self) -> Result<Option<Completion>, Violation> {
        // Ends: each round takes bytes off the connection, and it is read once more only while it had all that there
        // was room for; the data in flight bound that.
        loop {
            if let Some(error) = self.error {
                return self.next_without(error);
            }
            match self.connection.next() {
                Ok(Some(completion)) => return Ok(Some(completion)),
                Ok(None) if self.drained => {
                    self.end_round();
                    return Ok(None);
                }
                Ok(None) => {
                    if let Err(error) = self.exchange() {
                        self.lose(error);
                    }
                }
                Err(error) => self.lose(error),
            }
        }
    }

    fn usage(&self) -> Usage {
        Usage { bytes: self.connection.bytes(), ..self.usage }
    }

    /// A command that is overdue is aborted; one that is overdue still costs the connection, and so the association.
    fn tend(&mut self, trouble: Trouble) -> Condition {
        if let (Trouble::Overdue { cid }, None) = (trouble, self.error)
            && let Some(keeper) = &self.keeper
            && !keeper.abort(&self.shape, cid)
        {
            let what = "a command, nor to its abort,";
            self.lose(LinkError::TimedOut { what, after: self.shape.timeout });
        }
        Condition::Same
    }

    fn close(&mut self) -> Result<(), CloseError> {
        let idle = !self.connection.is_busy();
        if idle && self.shape.disconnect && self.error.is_none() {
            self.say_goodbye();
        }
        self.error.get_or_insert(LinkError::ShutDown);
        if let Some(socket) = self.socket.take() {
            if idle { socket.close() } else { socket.abort() }
        }
        self.waiting.clear();
        self.attempt = None;
        if let Some(keeper) = self.keeper.take() {
            keeper.closed(self.shape.qid);
        }
        Ok(())
    }
}
