//! A port that other processes drive: a controller as a PCI function behind a Unix socket, by the vfio-user protocol.
//!
//! One thread does everything: it polls the controller's queues, whose doorbells and rings it shares with the client,
//! and looks at the sockets now and then. It takes one client at a time and tells a second one that it is busy. When a
//! client leaves, or is killed, its memory and interrupts are let go and the controller is reset; namespaces belong to
//! the subsystem and keep their contents.
//!
//! Written for clients that never read our documents: QEMU, SPDK's host, rust-vmm's client, the driver of this
//! workspace. Nothing that they send is trusted; what they can break is their own connection.
//!
//! What it does not do: memory without a file descriptor (DMA by messages), dirty page logging and migration, several
//! clients on one controller, INTx and MSI.
//!
//! A client's memory is its own file, which it could shorten while the controller uses it; touching what is lost would
//! raise SIGBUS. A file that can be sealed (a memory file made with `MFD_ALLOW_SEALING`) is sealed against shrinking
//! when it is mapped; clients that hand over other files are trusted in this one respect.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use doorbell_spec::vfio_user::Command;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::connection::{Connection, Received};
use self::function::Function;
use self::listener::Listener;
use self::pace::{Next, Pace};
pub use super::{Running, Stop};
use crate::controller::Controller;

mod config;
mod connection;
mod function;
mod listener;
mod pace;
mod sys;

pub use listener::BindError;

/// Time for a new client to send VERSION, after which another may try.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Time for a client that is turned away to say what it wants, so that it can be told why not.
const FAREWELL: Duration = Duration::from_secs(1);
/// Time after which a client is taken again where that failed.
const RETRY: Duration = Duration::from_millis(100);
/// Messages of one client taken in one look.
const MESSAGES: usize = 16;

/// A controller that listens for a client.
pub struct Server {
    listener: Listener,
    function: Function,
    client: Option<Client>,
    turned_away: Option<Client>,
    /// No client is taken before this time.
    accept_from: Duration,
    clock: Instant,
}

/// A connected client.
struct Client {
    connection: Connection,
    since: Duration,
    introduced: bool,
}

impl Server {
    /// Serves `controller` at the socket `path`, or at `cntrl` in the directory `path`. Clients are taken once it runs.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(path: &Path, controller: Controller) -> Result<Self, BindError> {
        Ok(Self {
            listener: Listener::bind(path)?,
            function: Function::new(controller),
            client: None,
            turned_away: None,
            accept_from: Duration::ZERO,
            clock: Instant::now(),
        })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        self.listener.path()
    }

    /// Serves one client after another until asked to stop. The socket is unlinked then.
    ///
    /// # Errors
    /// Where the kernel cannot wait for sockets.
    pub fn run(mut self, stop: &Stop) -> io::Result<()> {
        let mut pace = Pace::default();
        let mut now = self.clock.elapsed();
        loop {
            let taken = self.function.poll(now);
            let timeout = match pace.next(taken > 0, now) {
                Next::Round => continue,
                Next::Look => Some(Duration::ZERO),
                Next::Yield => {
                    std::thread::yield_now();
                    Some(Duration::ZERO)
                }
                // Without a client, or without a running controller, only a socket can bring work.
                Next::Sleep(_) if !self.function.is_listening() => self.patience(now),
                Next::Sleep(time) => Some(time),
            };
            if stop.is_asked() {
                return Ok(());
            }
            let ready = self.wait(stop, timeout, now)?;
            now = self.clock.elapsed();
            if self.attend(ready, now) {
                pace.wake();
            }
        }
    }

    /// Serves on a thread of its own.
    ///
    /// # Errors
    /// Where there is no thread or file descriptor to be had.
    pub fn spawn(self) -> io::Result<Running> {
        Running::start("doorbell-vfu", move |stop| self.run(stop))
    }

    /// How long nothing but a socket can bring work; `None` for ever.
    fn patience(&self, now: Duration) -> Option<Duration> {
        let left = |client: &Client, limit: Duration| {
            (client.since + limit).saturating_sub(now) + Duration::from_millis(1)
        };
        let introduction = self.client.iter().filter(|client| !client.introduced);
        let introduction = introduction.map(|client| left(client, INTRODUCTION)).min();
        let farewell = self.turned_away.iter().map(|client| left(client, FAREWELL)).min();
        let accepting = self.accept_from.checked_sub(now);
        introduction.into_iter().chain(farewell).chain(accepting).min()
    }

    /// Waits for the sockets: whether the client's, the one turned away's and the listener's are ready.
    fn wait(&self, stop: &Stop, timeout: Option<Duration>, now: Duration) -> io::Result<[bool; 3]> {
        let listener = self.listener.socket();
        let accepting = if self.turned_away.is_none() && now >= self.accept_from {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut entries = [
            entry(&self.client, listener),
            entry(&self.turned_away, listener),
            PollFd::from_borrowed_fd(listener, accepting),
            PollFd::from_borrowed_fd(stop.descriptor(), PollFlags::IN),
        ];
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        match poll(&mut entries, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok([false; 3]),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let [client, turned_away, listener, _] =
            entries.each_ref().map(|entry| !entry.revents().is_empty());
        Ok([client && self.client.is_some(), turned_away && self.turned_away.is_some(), listener])
    }

    /// Does what ready sockets ask for. True if a client said something.
    fn attend(&mut self, [client, turned_away, listener]: [bool; 3], now: Duration) -> bool {
        let mut heard = false;
        if client {
            heard = self.serve();
        }
        if self.client.as_ref().is_some_and(|client| client.is_silent(now, INTRODUCTION)) {
            self.leave();
        }
        if turned_away {
            self.turn_away();
        }
        if self.turned_away.as_ref().is_some_and(|client| now > client.since + FAREWELL) {
            self.turned_away = None;
        }
        if listener {
            match self.listener.accept() {
                Ok(Some(socket)) => {
                    self.welcome(Client::new(socket, now));
                    heard = true;
                }
                Ok(None) => {}
                // It would fail again at once.
                Err(_) => self.accept_from = now + RETRY,
            }
        }
        heard
    }

    /// Takes a new client, or turns it away where there is one already.
    fn welcome(&mut self, newcomer: Client) {
        // The previous client may have ended since it was looked at; if so, its end can be read by now.
        if self.client.is_some() {
            self.serve();
        }
        if self.client.is_none() {
            self.client = Some(newcomer);
            self.serve();
        } else {
            self.turned_away = Some(newcomer);
            self.turn_away();
        }
    }

    /// Answers what the client has sent.
    fn serve(&mut self) -> bool {
        let mut heard = false;
        for _ in 0..MESSAGES {
            let Some(client) = &mut self.client else { return heard };
            let mut request = match client.connection.receive() {
                Received::Request(request) => request,
                Received::Nothing => return heard,
                Received::End => {
                    self.leave();
                    return true;
                }
            };
            heard = true;
            let greeting = request.command() == Command::VERSION;
            let answer = match (client.introduced, greeting) {
                (false, true) => function::version(&request),
                (true, false) => self.function.handle(&mut request),
                // VERSION comes first, and once.
                _ => Err(Errno::INVAL),
            };
            let welcome = client.introduced || greeting && answer.is_ok();
            client.introduced = welcome;
            if client.connection.reply(&request.header, answer).is_err() || !welcome {
                self.leave();
            }
        }
        heard
    }

    /// Lets go of a client and of everything that it has set up.
    fn leave(&mut self) {
        self.client = None;
        self.function.detach();
    }

    /// Tells a second client that there is a first.
    fn turn_away(&mut self) {
        let Some(client) = &mut self.turned_away else { return };
        match client.connection.receive() {
            Received::Request(request) => {
                let _ = client.connection.reply(&request.header, Err(Errno::BUSY));
                self.turned_away = None;
            }
            Received::End => self.turned_away = None,
            Received::Nothing => {}
        }
    }
}

/// What is awaited of a client; of nobody, nothing, for which `stand_in` stands.
fn entry<'a>(client: &'a Option<Client>, stand_in: BorrowedFd<'a>) -> PollFd<'a> {
    match client {
        None => PollFd::from_borrowed_fd(stand_in, PollFlags::empty()),
        Some(client) => {
            let sending = client.connection.is_sending();
            let flags = if sending { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(client.connection.socket(), flags)
        }
    }
}

impl Client {
    fn new(socket: OwnedFd, since: Duration) -> Self {
        Self { connection: Connection::new(socket), since, introduced: false }
    }

    /// Connected, and has not said hello in time.
    fn is_silent(&self, now: Duration, limit: Duration) -> bool {
        !self.introduced && now > self.since + limit
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path())
            .field("client", &self.client.is_some())
            .finish_non_exhaustive()
    }
}
