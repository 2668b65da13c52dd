//! A link that fails on command: a proxy between a host and a port over TCP, which knows where messages begin and end.
//!
//! It knows nothing of a message but its length, and that only to count: what passes is not changed, and is passed on
//! as soon as it comes.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::net::{connect_unspec, sockopt};

/// A way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the host.
    ToPort,
    /// To the host.
    ToHost,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Both ends see an orderly end.
    Close,
    /// Both ends see a reset.
    Reset,
    /// Nothing passes any more, either way, and nobody is told.
    Stall,
    /// Nothing passes that way until it is released.
    Hold,
}

/// Trouble, and when: once `after` bytes of a message have passed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which connection, in the order in which they were made.
    pub connection: usize,
    /// Which way the message goes.
    pub way: Way,
    /// Which message of that way and connection, from 0.
    pub message: usize,
    /// How much of it still passes; as much as it has, if that is less.
    pub after: usize,
    /// What then.
    pub trouble: Trouble,
}

/// A message that went through, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The connection.
    pub connection: usize,
    /// The way it went.
    pub way: Way,
    /// The first byte: its type.
    pub kind: u8,
    /// Its length.
    pub len: usize,
}

/// Bytes of the header that tell a message's length.
const HEADER: usize = 8;

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    tripped: bool,
    /// What is held may pass.
    released: bool,
    /// New connections are taken and reset at once.
    refuses: bool,
    over: bool,
    connections: usize,
    passed: Vec<Passed>,
    /// Both ends of each connection that is neither ended nor stalled.
    carried: HashMap<usize, [TcpStream; 2]>,
    /// Ends that stay open while nothing passes, and what the proxy has taken from one of them and not passed on.
    stalled: Vec<([TcpStream; 2], Way, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }
}

/// A running proxy. Dropping it cuts what it carries.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a port of its own, and passes connections on to `port`.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn start(port: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for host in listener.incoming().map_while(Result::ok) {
                if serving.lock().over {
                    return;
                }
                carry(&serving, host, port);
            }
        });
        Self { address, shared }
    }

    /// Makes trouble, once.
    pub fn arm(&self, plan: Plan) {
        let mut state = self.shared.lock();
        state.plan = Some(plan);
        (state.tripped, state.released) = (false, false);
    }

    /// Lets pass what is held.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.changed.notify_all();
    }

    /// Whether the trouble has come.
    #[must_use]
    pub fn tripped(&self) -> bool {
        self.shared.lock().tripped
    }

    /// Waits until it has; false if it does not within `longest`.
    #[must_use]
    pub fn wait_tripped(&self, longest: Duration) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(state, longest, |state| !state.tripped);
        waited.expect("no panic under the lock").0.tripped
    }

    /// From now on, new connections are reset at once; or are carried again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refuses = refuse;
    }

    /// Resets every connection, the stalled ones as well.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        let carried = std::mem::take(&mut state.carried);
        let stalled = std::mem::take(&mut state.stalled);
        drop(state);
        self.shared.changed.notify_all();
        for pair in carried.into_values().chain(stalled.into_iter().map(|(pair, ..)| pair)) {
            reset(&pair);
        }
    }

    /// Passes on, long after everybody has given it up, what was held back when connections stalled; then waits until
    /// whoever gets it has ended the connection. False if somebody has not within `longest`.
    #[must_use]
    pub fn deliver_late(&self, longest: Duration) -> bool {
        let stalled = std::mem::take(&mut self.shared.lock().stalled);
        stalled.into_iter().all(|([host, port], way, held)| {
            let mut to = if way == Way::ToPort { port } else { host };
            // One that has ended the connection already takes nothing.
            let _ = to.write_all(&held);
            let _ = to.set_read_timeout(Some(longest));
            let open = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            !to.read_to_end(&mut Vec::new()).as_ref().is_err_and(open)
        })
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Bytes that the kernel has for the host of each connection, and that it has not read yet.
    ///
    /// # Panics
    /// If the kernel's table of connections cannot be read.
    #[must_use]
    pub fn unread(&self) -> Vec<usize> {
        let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let unread = |line: &str| {
            let mut words = line.split_whitespace().skip(2);
            let (remote, _state, queues) = (words.next()?, words.next()?, words.next()?);
            let (_, remote) = remote.split_once(':')?;
            let (_, unread) = queues.split_once(':')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            (number(remote)? == usize::from(self.address.port())).then(|| number(unread))?
        };
        table.lines().filter_map(unread).collect()
    }

    /// The messages whose headers have passed, in that order.
    #[must_use]
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.lock().passed.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        // What wakes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.cut();
    }
}

/// Carries one connection, on two threads.
fn carry(shared: &Arc<Shared>, host: TcpStream, port: SocketAddr) {
    let mut state = shared.lock();
    let connection = state.connections;
    state.connections += 1;
    let port = if state.refuses { None } else { TcpStream::connect(port).ok() };
    let Some(port) = port else {
        let _ = sockopt::set_socket_linger(&host, Some(Duration::ZERO));
        return;
    };
    let _ = (host.set_nodelay(true), port.set_nodelay(true));
    let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
    for (way, from, to) in
        [(Way::ToPort, copy(&host), copy(&port)), (Way::ToHost, copy(&port), copy(&host))]
    {
        let shared = Arc::clone(shared);
        thread::spawn(move || pass(&shared, connection, way, from, to));
    }
    state.carried.insert(connection, [host, port]);
}

/// Passes one way of one connection until it ends, or is ended.
fn pass(shared: &Shared, connection: usize, way: Way, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 256 << 10];
    let mut meter = Meter::default();
    loop {
        let got = from.read(&mut bytes).unwrap_or(0);
        let mut state = shared.lock();
        if !state.carried.contains_key(&connection) {
            return;
        }
        if got == 0 {
            // One way may end before the other.
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        let mut rest = &bytes[..got];
        while !rest.is_empty() {
            let plan = state.plan.filter(|plan| (plan.connection, plan.way) == (connection, way));
            let stop = plan.map(|plan| (plan.message, plan.after));
            let (passing, stopped) = meter.count(rest, stop, |kind, len| {
                state.passed.push(Passed { connection, way, kind, len });
            });
            // Not under the lock: the other side may read slowly.
            drop(state);
            let (now, later) = rest.split_at(passing);
            let written = to.write_all(now);
            if let Some(plan) = plan.filter(|_| stopped)
                && trip(shared, connection, plan, later)
            {
                return;
            }
            if written.is_err() {
                let _ = from.shutdown(Shutdown::Read);
                return;
            }
            rest = later;
            state = shared.lock();
        }
    }
}

/// The plan's moment has come; `held` does not pass now. True if nothing more does.
fn trip(shared: &Shared, connection: usize, plan: Plan, held: &[u8]) -> bool {
    let mut state = shared.lock();
    state.plan = None;
    state.tripped = true;
    shared.changed.notify_all();
    if plan.trouble == Trouble::Hold {
        let waits = |state: &mut State| !state.released && state.carried.contains_key(&connection);
        let state = shared.changed.wait_while(state, waits).expect("no panic under the lock");
        return !state.carried.contains_key(&connection);
    }
    if let Some(pair) = state.carried.remove(&connection) {
        match plan.trouble {
            Trouble::Close => pair.iter().for_each(|stream| {
                let _ = stream.shutdown(Shutdown::Both);
            }),
            Trouble::Reset => reset(&pair),
            Trouble::Stall => state.stalled.push((pair, plan.way, held.to_vec())),
            Trouble::Hold => {}
        }
    }
    true
}

/// Ends a connection towards both at once, with a reset.
fn reset(pair: &[TcpStream; 2]) {
    for stream in pair {
        let _ = connect_unspec(stream);
    }
}

/// Where in which message a stream is.
#[derive(Debug, Default)]
struct Meter {
    message: usize,
    /// Bytes of that message that have passed.
    at: usize,
    header: [u8; HEADER],
}

impl Meter {
    /// Counts `bytes`, up to where `stop` (a message, and how much of it) says: how many those are, and whether that
    /// place is reached. Reports each message as soon as its header has passed.
    fn count(
        &mut self,
        bytes: &[u8],
        stop: Option<(usize, usize)>,
        mut report: impl FnMut(u8, usize),
    ) -> (usize, bool) {
        let mut done = 0;
        while done < bytes.len() {
            if self.at == 0 && stop == Some((self.message, 0)) {
                return (done, true);
            }
            // The rest of the header, or of the message.
            let until = if self.at < HEADER { HEADER } else { self.len() };
            let mut step = (until - self.at).min(bytes.len() - done);
            let limit =
                stop.filter(|&(message, _)| message == self.message).map(|(_, after)| after);
            if let Some(limit) = limit {
                step = step.min(limit.saturating_sub(self.at));
            }
            for &byte in &bytes[done..done + step] {
                if let Some(place) = self.header.get_mut(self.at) {
                    *place = byte;
                }
                self.at += 1;
            }
            done += step;
            let whole = self.at >= HEADER && self.at == self.len();
            if self.at == HEADER && step > 0 {
                report(self.header[0], self.len());
            }
            if limit.is_some_and(|limit| self.at >= limit || whole) {
                return (done, true);
            }
            if whole {
                self.message += 1;
                self.at = 0;
            }
        }
        (done, false)
    }

    /// Length of the message, whose header has passed; one that cannot be is as long as a header.
    fn len(&self) -> usize {
        let [.., a, b, c, d] = self.header;
        (u32::from_le_bytes([a, b, c, d]) as usize).max(HEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A message of `len` bytes.
    fn message(kind: u8, len: u32) -> Vec<u8> {
        let mut bytes = vec![kind; len as usize];
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    fn stream() -> Vec<u8> {
        [message(1, 8), message(2, 24), message(3, 9), message(4, 4096)].concat()
    }

    #[test]
    fn messages_are_found_however_the_bytes_come() {
        let bytes = stream();
        for piece in [1, 2, 7, 8, 9, 31, 5000] {
            let (mut meter, mut seen) = (Meter::default(), Vec::new());
            for part in bytes.chunks(piece) {
                let counted = meter.count(part, None, |kind, len| seen.push((kind, len)));
                assert_eq!(counted, (part.len(), false));
            }
            assert_eq!(seen, [(1, 8), (2, 24), (3, 9), (4, 4096)]);
            assert_eq!((meter.message, meter.at), (4, 0));
        }
    }

    #[test]
    fn the_stop_is_where_the_plan_says() {
        let bytes = stream();
        let begins = [0, 8, 32, 41];
        for piece in [1, 3, 8, 5000] {
            for (message, begin) in begins.into_iter().enumerate() {
                for (after, passes) in [(0, 0), (1, 1), (7, 7), (8, 8), (usize::MAX, 0)] {
                    let ends = [8, 32, 41, bytes.len()];
                    let expected = if after == usize::MAX { ends[message] } else { begin + passes };
                    let (mut meter, mut total, mut stopped) = (Meter::default(), 0, false);
                    for part in bytes.chunks(piece) {
                        let (done, stop) = meter.count(part, Some((message, after)), |_, _| ());
                        total += done;
                        if stop {
                            stopped = true;
                            break;
                        }
                    }
                    assert_eq!(
                        (total, stopped),
                        (expected, true),
                        "message {message} after {after}"
                    );
                }
            }
        }
    }

    /// What the two ends of one connection saw: the host sent two messages, the port answered the first.
    fn through(way: Way, trouble: Trouble) -> (Vec<u8>, io::Result<Vec<u8>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap());
        proxy.arm(Plan { connection: 0, way, message: 1, after: 5, trouble });
        let port = thread::spawn(move || {
            let (mut host, _) = listener.accept().unwrap();
            host.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut got = vec![0; 24];
            host.read_exact(&mut got).unwrap();
            host.write_all(&[message(7, 16), message(8, 16)].concat()).unwrap();
            let _ = host.read_to_end(&mut got);
            got
        });
        let mut host = TcpStream::connect(proxy.address).unwrap();
        host.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        host.write_all(&message(5, 24)).unwrap();
        let mut answer = vec![0; 16];
        host.read_exact(&mut answer).unwrap();
        if way == Way::ToPort {
            host.write_all(&message(6, 24)).unwrap();
        }
        let result = host.read_to_end(&mut answer).map(|_| answer);
        assert!(proxy.wait_tripped(Duration::from_secs(10)));
        assert_eq!(proxy.connections(), 1);
        (port.join().unwrap(), result)
    }

    #[test]
    fn trouble_comes_as_it_was_ordered() {
        let (port, host) = through(Way::ToPort, Trouble::Close);
        assert_eq!(port.len(), 24 + 5);
        assert_eq!(host.unwrap().len(), 32);
        let (port, host) = through(Way::ToHost, Trouble::Close);
        assert_eq!((port.len(), host.unwrap().len()), (24, 16 + 5));
        let (port, host) = through(Way::ToHost, Trouble::Reset);
        assert_eq!(port.len(), 24);
        assert_eq!(host.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (port, host) = through(Way::ToPort, Trouble::Stall);
        assert_eq!(port.len(), 24 + 5);
        assert_eq!(host.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
