//! One connection to a vfio-user server: commands out, replies in, each exchange within a deadline.
//!
//! Owns the socket and the message identifiers. After a timeout or a breach of the protocol it is no longer known
//! where in the stream a message begins, so the connection stays broken; what the server refuses with an error reply
//! leaves it whole. Called by `vfio_user` under its lock; relies on `socket` for the system calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use doorbell_spec::vfio_user::{Capabilities, Command, Header, HeaderFlags, Version};
use zerocopy::{FromBytes, IntoBytes};

use super::socket::{self, Interest};
use crate::device::DeviceError;

const HEADER: usize = size_of::<Header>();
/// Data that we take in one message, as we announce it. Only commands of the server could carry so much, and those
/// are discarded piece by piece.
const MAX_DATA: usize = 1 << 20;
/// File descriptors that we take in one message, as we announce it.
const MAX_FDS: u32 = 16;
/// What surrounds the data of the largest message.
const MAX_OVERHEAD: usize = 4096;
/// Most that a reply to any of our commands may carry.
pub(super) const MAX_REPLY: usize = 64 << 10;
/// Longest deadline.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Largest error number of Linux.
const MAX_ERRNO: u32 = 4095;

/// A command, with what it says in words for an error message.
pub(super) struct Request<'a> {
    pub(super) command: Command,
    pub(super) payload: &'a [u8],
    pub(super) fds: &'a [BorrowedFd<'a>],
    /// What is tried, as in "mapping 2 MiB at 200000h".
    pub(super) what: &'a str,
}

/// The payload of a reply, and the file descriptors that came with it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Reply {
    /// The structure that the payload begins with.
    pub(super) fn read<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.payload).ok().map(|(value, _)| value)
    }
}

/// A connection whose version has been negotiated.
pub(super) struct Connection {
    socket: OwnedFd,
    address: String,
    deadline: Duration,
    next_id: u16,
    server: Capabilities,
    /// Why no further message can be exchanged.
    broken: Option<String>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closing alone does not tell the server while a process that another thread is starting has a copy; and a
        // server that does not know turns the next client away.
        let _best_effort = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// Why an exchange failed.
enum Failure {
    TimedOut,
    Gone(String),
    Breach(String),
    Refused(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Self::Gone("the server has closed the connection".into())
            }
            io::ErrorKind::InvalidData => Self::Breach(error.to_string()),
            _ => Self::Gone(error.to_string()),
        }
    }
}

impl Connection {
    /// Connects to the server at `path` and negotiates the version. `address` is for messages.
    pub(super) fn open(
        path: &Path,
        address: &str,
        deadline: Duration,
    ) -> Result<Self, DeviceError> {
        // A deadline that cannot be added to the time is none.
        let deadline = deadline.min(LONGEST);
        let connected = socket::connect(path, deadline).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => DeviceError::TimedOut {
                address: address.into(),
                what: "connecting (the server is busy with another client)".into(),
                after: deadline,
            },
            kind => DeviceError::Refused {
                address: address.into(),
                what: format!("connecting to {}", path.display()),
                hint: match kind {
                    io::ErrorKind::NotFound => {
                        "; is the server running? For example: doorbell-subsystem --vfio-user PATH \
                         --namespace memory:1GiB"
                    }
                    io::ErrorKind::ConnectionRefused => {
                        "; no server listens there: it has ended, or the path names something else"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "; connecting takes write permission on the socket"
                    }
                    _ => "",
                }
                .into(),
                source,
            },
        });
        let mut connection = Self {
            socket: connected?,
            address: address.into(),
            deadline,
            next_id: 0,
            server: Capabilities::default(),
            broken: None,
        };
        connection.negotiate()?;
        Ok(connection)
    }

    /// What the server can do.
    pub(super) fn server(&self) -> &Capabilities {
        &self.server
    }

    /// Shortens the deadline of further exchanges.
    pub(super) fn hurry(&mut self, deadline: Duration) {
        self.deadline = self.deadline.min(deadline);
    }

    /// Sends a command and waits for its reply.
    pub(super) fn exchange(&mut self, request: &Request<'_>) -> Result<Reply, DeviceError> {
        if let Some(what) = &self.broken {
            return Err(DeviceError::Gone { address: self.address.clone(), what: what.clone() });
        }
        let error = match self.try_exchange(request) {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let address = self.address.clone();
        let what = format!("{} ({})", request.what, request.command.name());
        let (broken, error) = match error {
            Failure::Refused(source) => {
                return Err(DeviceError::Refused { address, what, hint: String::new(), source });
            }
            Failure::TimedOut => (
                format!("{what} was not answered within {:?}", self.deadline),
                DeviceError::TimedOut { address, what, after: self.deadline },
            ),
            Failure::Gone(reason) => {
                let what = format!("{what}: {reason}");
                (what.clone(), DeviceError::Gone { address, what })
            }
            Failure::Breach(reason) => {
                let what = format!("{what}: the server broke the vfio-user protocol: {reason}");
                (what.clone(), DeviceError::Unusable { address, what, hint: String::new() })
            }
        };
        self.broken = Some(broken);
        Err(error)
    }

    /// An error for a reply that is well formed as a message but says something that cannot be.
    pub(super) fn unusable(&self, what: impl Into<String>, hint: &str) -> DeviceError {
        DeviceError::Unusable {
            address: self.address.clone(),
            what: what.into(),
            hint: hint.into(),
        }
    }

    fn negotiate(&mut self) -> Result<(), DeviceError> {
        let ours = Capabilities {
            max_msg_fds: MAX_FDS,
            max_data_xfer_size: MAX_DATA as u64,
            ..Capabilities::default()
        };
        let version = Version { major: Version::MAJOR.into(), minor: Version::MINOR.into() };
        let payload = [version.as_bytes(), ours.to_string().as_bytes(), &[0]].concat();
        let reply = self
            .exchange(&Request {
                command: Command::VERSION,
                payload: &payload,
                fds: &[],
                what: "agreeing on a version",
            })
            .map_err(|error| explain_busy(error, self.deadline))?;
        let Some(version) = reply.read::<Version>() else {
            return Err(self.unusable("the server's VERSION reply holds no version", ""));
        };
        let (major, minor) = (version.major.get(), version.minor.get());
        if major != Version::MAJOR || minor > Version::MINOR {
            return Err(self.unusable(
                format!(
                    "the server speaks vfio-user {major}.{minor}, this driver {}.{}",
                    Version::MAJOR,
                    Version::MINOR
                ),
                "",
            ));
        }
        let text = reply.payload.get(size_of::<Version>()..).unwrap_or_default();
        self.server = Capabilities::parse(text)
            .map_err(|error| self.unusable(format!("the server's VERSION reply: {error}"), ""))?;
        Ok(())
    }

    fn try_exchange(&mut self, request: &Request<'_>) -> Result<Reply, Failure> {
        let until = Instant::now() + self.deadline;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let header = header(id, request.command, HeaderFlags::new(), request.payload.len(), 0);
        // libvfio-user takes a payload in a single read, so a message leaves in one piece.
        let message = [header.as_bytes(), request.payload].concat();
        self.send(&message, request.fds, until)?;
        loop {
            let mut fds = Vec::new();
            let mut bytes = [0; HEADER];
            self.fill(&mut bytes, &mut fds, until)?;
            let header: Header = zerocopy::transmute!(bytes);
            let flags = HeaderFlags::from(header.flags.get());
            let size = header.message_size.get() as usize;
            let Some(len) = size.checked_sub(HEADER) else {
                return Err(Failure::Breach(format!("a message of {size} bytes")));
            };
            match flags.kind() {
                HeaderFlags::COMMAND => self.refuse(&header, len, until)?,
                HeaderFlags::REPLY => {
                    if header.message_id.get() != id {
                        return Err(Failure::Breach(format!(
                            "a reply to message {}, where {id} is the last",
                            header.message_id.get()
                        )));
                    }
                    if len > MAX_REPLY {
                        return Err(Failure::Breach(format!("a reply of {size} bytes")));
                    }
                    let mut payload = vec![0; len];
                    self.fill(&mut payload, &mut fds, until)?;
                    if flags.error() {
                        return Err(Failure::Refused(reason(header.error.get())));
                    }
                    return Ok(Reply { payload, fds });
                }
                kind => return Err(Failure::Breach(format!("a message of kind {kind}"))),
            }
        }
    }

    /// Answers a command of the server: it reaches our memory by its file descriptors, never by messages.
    fn refuse(&self, command: &Header, len: usize, until: Instant) -> Result<(), Failure> {
        if len > MAX_DATA + MAX_OVERHEAD {
            return Err(Failure::Breach(format!("a command of {len} bytes")));
        }
        let mut rest = len;
        let mut piece = [0; 4096];
        while rest > 0 {
            let now = rest.min(piece.len());
            let Some(piece) = piece.get_mut(..now) else { break };
            // Descriptors that come with it are closed with the vector.
            self.fill(piece, &mut Vec::new(), until)?;
            rest -= now;
        }
        if HeaderFlags::from(command.flags.get()).no_reply() {
            return Ok(());
        }
        let flags = HeaderFlags::new().with_kind(HeaderFlags::REPLY).with_error(true);
        let reply = header(
            command.message_id.get(),
            Command(command.command.get()),
            flags,
            0,
            libc::EOPNOTSUPP as u32,
        );
        self.send(reply.as_bytes(), &[], until)
    }

    fn send(
        &self,
        mut bytes: &[u8],
        mut fds: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match socket::send(self.socket.as_fd(), bytes, fds) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or_default();
                    if sent > 0 {
                        fds = &[];
                    }
                }
                Err(error) => self.retry(error, Interest::Writable, until)?,
            }
        }
        Ok(())
    }

    /// Receives exactly `bytes`.
    fn fill(
        &self,
        mut bytes: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        until: Instant,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match socket::receive(self.socket.as_fd(), bytes, fds) {
                Ok(0) => return Err(Failure::Gone("the server has closed the connection".into())),
                Ok(received) => {
                    bytes = bytes.get_mut(received..).unwrap_or_default();
                    // A server that sends without end, a byte now and then, is stopped here.
                    if !bytes.is_empty() && Instant::now() >= until {
                        return Err(Failure::TimedOut);
                    }
                }
                Err(error) => self.retry(error, Interest::Readable, until)?,
            }
        }
        Ok(())
    }

    /// Waits for the socket where `error` says that it is not ready.
    fn retry(&self, error: io::Error, interest: Interest, until: Instant) -> Result<(), Failure> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Failure::TimedOut);
                }
                socket::wait(self.socket.as_fd(), interest, left)?;
                Ok(())
            }
            _ => Err(error.into()),
        }
    }
}

fn header(id: u16, command: Command, flags: HeaderFlags, payload: usize, error: u32) -> Header {
    Header {
        message_id: id.into(),
        command: command.0.into(),
        message_size: ((HEADER + payload) as u32).into(),
        flags: u32::from(flags).into(),
        error: error.into(),
    }
}

/// The error number of a reply; some servers set the flag and no number.
fn reason(errno: u32) -> io::Error {
    match errno {
        1..=MAX_ERRNO => io::Error::from_raw_os_error(errno as i32),
        _ => io::Error::other("the server gave no reason"),
    }
}

/// A server takes one client at a time; one that is taken refuses the next, or lets it wait.
fn explain_busy(error: DeviceError, after: Duration) -> DeviceError {
    match error {
        DeviceError::Refused { address, what, source, .. }
            if source.raw_os_error() == Some(libc::EBUSY) =>
        {
            let hint = "; another client is attached, and a server takes one at a time".into();
            DeviceError::Refused { address, what, hint, source }
        }
        DeviceError::TimedOut { address, what, .. } => DeviceError::TimedOut {
            address,
            what: format!("{what}; if another client is attached, it must leave first:"),
            after,
        },
        other => other,
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_end_is_heard_also_where_somebody_has_a_copy_of_the_socket() {
        let (ours, mut servers) = UnixStream::pair().unwrap();
        let copy = ours.try_clone().unwrap();
        let connection = Connection {
            socket: ours.into(),
            address: String::new(),
            deadline: Duration::ZERO,
            next_id: 0,
            server: Capabilities::default(),
            broken: None,
        };
        drop(connection);
        servers.set_nonblocking(true).unwrap();
        assert_eq!(servers.read(&mut [0]).unwrap(), 0);
        drop(copy);
    }
}
