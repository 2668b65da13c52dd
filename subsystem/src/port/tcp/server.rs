//! The sockets of the port, and the threads that poll them.
//!
//! One thread serves any number of connections; more threads share them out as they come. A connection with traffic is
//! polled without asking the kernel who is ready; when nothing has happened for a moment, a thread sleeps until
//! something does. A socket that takes no more is left alone until it does, and its host's commands with it.

mod faulty;
mod send;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::sockopt;

use super::connection::{Connection, End};
use crate::fabrics::Target;
use crate::fault::Plan;
use crate::fault::pdu::Wire;
use crate::port::{Running, Stop};

/// Time between two looks at what happens without traffic.
const TICK: Duration = Duration::from_millis(100);
/// Time without traffic after which a thread sleeps.
const PATIENCE: Duration = Duration::from_micros(100);
/// Connections polled without asking the kernel.
const HOT: usize = 8;
/// Rounds without traffic after which one of them is left to the kernel, while others have some.
const QUIET: u32 = 256;
/// Rounds over those between two questions to the kernel about all others.
const ASK_EVERY: u32 = 16;
/// Steps of one connection in one round.
const STEPS: usize = 4;
/// Bytes after which it is the next connection's turn in any case.
const TURN: usize = 1 << 20;
/// Connections taken at once.
const ACCEPTS: usize = 16;
/// Time for a host to read why its connection ends.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that the kernel holds for a connection in each direction; those that a listener hands out have its sizes. With
/// the usual 128 KiB a window closes at every second segment of a loopback, and its opening is told late.
const SOCKET_BUFFER: usize = 1 << 20;
/// Events asked for at once.
const EVENTS: usize = 64;

const STOP: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;
const LISTENER: u64 = 1 << 32;

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "tcp://{address}: cannot listen: {source}; choose another port, or an address of this machine"
)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Hears of connections that end.
pub type Observer = dyn Fn(SocketAddr, End) + Send + Sync;

/// Listens for hosts.
pub struct Server {
    target: Arc<Target>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    threads: usize,
    observer: Option<Arc<Observer>>,
}

impl Server {
    /// Serves `target` at every one of `addresses`, with `threads` threads once it runs. The discovery log shows the
    /// addresses from now on.
    ///
    /// # Errors
    /// [`BindError`] for the first address that cannot be had.
    pub fn bind(
        target: Arc<Target>,
        addresses: &[SocketAddr],
        threads: usize,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        let mut actual = Vec::new();
        for &address in addresses {
            let failed = |source| BindError { address, source };
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            // The kernel may have a smaller limit, which it applies by itself.
            let _ = sockopt::set_socket_recv_buffer_size(&listener, SOCKET_BUFFER);
            let _ = sockopt::set_socket_send_buffer_size(&listener, SOCKET_BUFFER);
            actual.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        actual.iter().for_each(|address| target.add_port(*address));
        Ok(Self { target, listeners, addresses: actual, threads: threads.max(1), observer: None })
    }

    /// The same, and `observer` is called for every connection that ends, by the thread that served it.
    #[must_use]
    pub fn observed(mut self, observer: Arc<Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The same, and its target misbehaves as `plan` says ([`Target::set_faults`]).
    #[must_use]
    pub fn with_faults(self, plan: Plan) -> Self {
        self.target.set_faults(Some(plan));
        self
    }

    /// What it serves.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The addresses that it listens at, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves on a thread of its own, which starts the others.
    ///
    /// # Errors
    /// Where there is no thread or file descriptor to be had.
    pub fn spawn(self) -> io::Result<Running> {
        Running::start("doorbell-tcp", move |stop| self.run(stop))
    }

    /// Serves hosts until `stop` is asked. Uses the calling thread and starts the others.
    ///
    /// # Errors
    /// What the kernel said where it has no descriptors or threads left at the start.
    pub fn run(self, stop: &Arc<Stop>) -> io::Result<()> {
        let inboxes: Vec<Arc<Inbox>> =
            (0..self.threads).map(|_| Inbox::new().map(Arc::new)).collect::<io::Result<_>>()?;
        let start = Instant::now();
        let mut workers = Vec::new();
        for inbox in &inboxes {
            let (target, observer) = (Arc::clone(&self.target), self.observer.clone());
            workers.push(Worker::new(target, observer, Arc::clone(inbox), stop, start)?);
        }
        let mut first = workers.swap_remove(0);
        for (listener, at) in self.listeners.iter().zip(0..) {
            let data = EventData::new_u64(LISTENER + at);
            epoll::add(&first.epoll, listener, data, EventFlags::IN)?;
        }
        thread::scope(|scope| {
            for mut worker in workers {
                let name = "doorbell-tcp".to_owned();
                let builder = thread::Builder::new().name(name);
                builder.spawn_scoped(scope, move || worker.run(stop, &[], &[]))?;
            }
            first.run(stop, &self.listeners, &inboxes)
        })
        .inspect_err(|_| stop.stop())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.addresses.iter().for_each(|address| self.target.remove_port(*address));
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// New connections on their way to a thread.
struct Inbox {
    sockets: Mutex<Vec<TcpStream>>,
    wake: OwnedFd,
    /// Connections of the thread, those on their way included.
    load: AtomicUsize,
}

impl Inbox {
    fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { sockets: Mutex::default(), wake, load: AtomicUsize::new(0) })
    }

    fn put(&self, socket: TcpStream) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        // Full only if it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<TcpStream> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut *self.sockets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A connection and its socket.
struct Slot {
    socket: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    /// Faults between the two, where they are wanted.
    wire: Option<Box<Wire>>,
    interest: EventFlags,
    /// The host has been told why it ends; what it still sends is dropped, until this time.
    linger: Option<Duration>,
    hot: bool,
    /// The kernel was told that more follows what was sent last.
    held: bool,
    /// Rounds since it had traffic.
    quiet: u32,
}

/// What became of a socket.
#[derive(PartialEq, Eq)]
enum Served {
    Idle,
    Busy,
    Gone,
}

/// One thread.
struct Worker {
    target: Arc<Target>,
    observer: Option<Arc<Observer>>,
    inbox: Arc<Inbox>,
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    hot: Vec<usize>,
    start: Instant,
}

impl Worker {
    fn new(
        target: Arc<Target>,
        observer: Option<Arc<Observer>>,
        inbox: Arc<Inbox>,
        stop: &Stop,
        start: Instant,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, stop.descriptor(), EventData::new_u64(STOP), EventFlags::IN)?;
        epoll::add(&epoll, inbox.wake.as_fd(), EventData::new_u64(INBOX), EventFlags::IN)?;
        let (slots, hot) = (Vec::new(), Vec::new());
        Ok(Self { target, observer, inbox, epoll, slots, hot, start })
    }

    fn run(
        &mut self,
        stop: &Stop,
        listeners: &[TcpListener],
        inboxes: &[Arc<Inbox>],
    ) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let (mut next_tick, mut active_at) = (TICK, Duration::ZERO);
        let mut round = 0u32;
        while !stop.is_asked() {
            round = round.wrapping_add(1);
            let now = self.start.elapsed();
            if now >= next_tick {
                self.tick(now);
                listen(&self.epoll, listeners, EventFlags::IN);
                next_tick = now + TICK;
            }
            let mut busy = false;
            let mut hot = std::mem::take(&mut self.hot);
            for at in &hot {
                busy |= self.serve(*at, now) == Served::Busy;
            }
            hot.retain(|at| match self.slots.get_mut(*at) {
                Some(Some(slot)) => {
                    slot.hot = !busy || slot.quiet < QUIET;
                    slot.hot
                }
                _ => false,
            });
            self.hot = hot;
            if busy {
                active_at = now;
            } else if !self.hot.is_empty() {
                if now.saturating_sub(active_at) > PATIENCE {
                    self.cool();
                } else {
                    thread::yield_now();
                }
            }
            if (1..HOT).contains(&self.hot.len()) && !round.is_multiple_of(ASK_EVERY) {
                continue;
            }
            let timeout = match self.hot.is_empty() {
                true => next_tick.saturating_sub(now),
                false => Duration::ZERO,
            };
            let timeout = Timespec::try_from(timeout).unwrap_or_default();
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = self.start.elapsed();
            for event in &events {
                match event.data.u64() {
                    STOP => {}
                    INBOX => self.collect(now),
                    token if token >= LISTENER => {
                        let listener = listeners.get((token - LISTENER) as usize);
                        if listener.is_some_and(|listener| accept(listener, inboxes).is_err()) {
                            listen(&self.epoll, listeners, EventFlags::empty());
                        }
                    }
                    at => {
                        let at = at as usize;
                        if self.serve(at, now) == Served::Busy {
                            active_at = now;
                            self.heat(at);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Polls a connection from now on.
    fn heat(&mut self, at: usize) {
        let room = self.hot.len() < HOT;
        if let Some(Some(slot)) = self.slots.get_mut(at)
            && !slot.hot
            // The kernel knows nothing of what was received and waits for its turn.
            && (room || slot.connection.is_ready())
        {
            slot.hot = true;
            self.hot.push(at);
        }
    }

    /// Polls none any more.
    fn cool(&mut self) {
        for at in self.hot.drain(..) {
            if let Some(Some(slot)) = self.slots.get_mut(at) {
                slot.hot = false;
            }
        }
    }

    /// Takes over new connections.
    fn collect(&mut self, now: Duration) {
        for socket in self.inbox.take() {
            if self.open(socket, now).is_none() {
                self.inbox.load.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes over one; where that cannot be, its socket is closed.
    fn open(&mut self, socket: TcpStream, now: Duration) -> Option<()> {
        socket.set_nonblocking(true).ok()?;
        socket.set_nodelay(true).ok()?;
        let (local, peer) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
        if peer.ip().is_loopback() {
            send::be_near(&socket);
        }
        let Some(connection) = Connection::new(&self.target, local, now) else {
            if let Some(observer) = &self.observer {
                observer(peer, End::Crowded);
            }
            return None;
        };
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let interest = EventFlags::IN;
        epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), interest).ok()?;
        let wire = connection.faults().and_then(Wire::new).map(Box::new);
        let (linger, hot, held, quiet) = (None, false, false, 0);
        let slot = Slot { socket, peer, connection, wire, interest, linger, hot, held, quiet };
        match self.slots.get_mut(at) {
            Some(free) => *free = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        Some(())
    }

    fn serve(&mut self, at: usize, now: Duration) -> Served {
        let Some(slot) = self.slots.get_mut(at) else { return Served::Idle };
        let served = match slot {
            Some(slot) => slot.serve(now),
            None => return Served::Idle,
        };
        if served == Served::Gone {
            self.close(at);
        } else if let Some(slot) = slot {
            slot.quiet = if served == Served::Busy { 0 } else { slot.quiet.saturating_add(1) };
            slot.watch(&self.epoll, at);
        }
        served
    }

    fn close(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::take) else { return };
        self.inbox.load.fetch_sub(1, Ordering::Relaxed);
        // Closing the socket would do as well, while nobody has a copy of it.
        let _ = epoll::delete(&self.epoll, &slot.socket);
        let (peer, end) = (slot.peer, slot.connection.end());
        drop(slot);
        if let (Some(observer), Some(end)) = (&self.observer, end) {
            observer(peer, end);
        }
    }

    fn tick(&mut self, now: Duration) {
        for at in 0..self.slots.len() {
            if let Some(Some(slot)) = self.slots.get_mut(at) {
                slot.connection.tick(now);
                self.serve(at, now);
            }
        }
    }
}

impl Slot {
    /// Receives, works and sends, as far as that goes now.
    fn serve(&mut self, now: Duration) -> Served {
        if let Some(until) = self.linger {
            return if now >= until || self.drain() { Served::Gone } else { Served::Idle };
        }
        let (mut served, mut total) = (Served::Idle, 0);
        for _ in 0..STEPS {
            let enough = served == Served::Busy && self.connection.is_ready();
            let received = if enough { Ok(0) } else { self.receive(now) };
            match received {
                Ok(0) => {}
                Ok(_) => served = Served::Busy,
                Err(_) => {
                    self.connection.closed();
                    return Served::Gone;
                }
            }
            let work = self.connection.step(now);
            let Ok(sent) = self.send(now) else {
                self.connection.closed();
                return Served::Gone;
            };
            if work != 0 || sent != 0 {
                served = Served::Busy;
            }
            if self.connection.is_ended()
                && !self.wire.as_ref().is_some_and(|wire| wire.is_sending())
            {
                return self.part(now);
            }
            total += sent;
            if !self.connection.is_ready() || work == 0 && sent == 0 || total >= TURN {
                break;
            }
        }
        self.release();
        // What is on its way or held back has no kernel that wakes us.
        let busy =
            self.wire.as_ref().is_some_and(|wire| wire.is_busy()) || self.connection.is_holding();
        if busy { Served::Busy } else { served }
    }

    /// Bytes received; 0 where there are none now.
    fn receive(&mut self, now: Duration) -> io::Result<usize> {
        if self.wire.is_some() {
            return self.receive_badly(now);
        }
        let room = self.connection.room();
        if room.is_empty() {
            return Ok(0);
        }
        match self.socket.read(room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.connection.received(len);
                Ok(len)
            }
            Err(error) if is_transient(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The connection is over. A host that has been told why gets the time to read it: closing a socket with unread
    /// bytes would take our last words back.
    fn part(&mut self, now: Duration) -> Served {
        match self.connection.end() {
            Some(End::Violated(_)) if self.socket.shutdown(Shutdown::Write).is_ok() => {
                self.linger = Some(now + LINGER);
                Served::Idle
            }
            _ => Served::Gone,
        }
    }

    /// Drops what still comes; true where nothing more will.
    fn drain(&mut self) -> bool {
        let mut scrap = [0; 4096];
        for _ in 0..ACCEPTS {
            match self.socket.read(&mut scrap) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !is_transient(&error),
            }
        }
        false
    }

    /// Asks the kernel to say when the socket can do what is wanted of it.
    fn watch(&mut self, epoll: &OwnedFd, at: usize) {
        let mut wanted = EventFlags::empty();
        if self.linger.is_some() || !self.connection.room().is_empty() {
            wanted |= EventFlags::IN;
        }
        let sending = self.wire.as_ref().is_some_and(|wire| wire.is_sending());
        if sending || self.connection.has_output() {
            wanted |= EventFlags::OUT;
        }
        let token = EventData::new_u64(at as u64);
        if wanted != self.interest && epoll::modify(epoll, &self.socket, token, wanted).is_ok() {
            self.interest = wanted;
        }
    }
}

/// Has the kernel say, or not, when hosts wait to be taken.
fn listen(epoll: &OwnedFd, listeners: &[TcpListener], interest: EventFlags) {
    for (listener, at) in listeners.iter().zip(0..) {
        // A listener that it does not know is one that it does not report either.
        let _ = epoll::modify(epoll, listener, EventData::new_u64(LISTENER + at), interest);
    }
}

/// Takes new connections and gives each to the thread with the fewest.
///
/// # Errors
/// Where the process cannot take one now, for want of file descriptors say; the host goes on waiting.
fn accept(listener: &TcpListener, inboxes: &[Arc<Inbox>]) -> io::Result<()> {
    for _ in 0..ACCEPTS {
        match listener.accept() {
            Ok((socket, _)) => {
                let least = inboxes.iter().min_by_key(|inbox| inbox.load.load(Ordering::Relaxed));
                if let Some(inbox) = least {
                    inbox.put(socket);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
