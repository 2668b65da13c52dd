//! One client's connection: whole messages in, replies out, never waiting.
//!
//! Owns the socket and at most one message each way. A message is collected over as many reads as it takes; of a
//! payload only what any command of ours needs is kept, the rest is read and dropped, so that what follows stays in
//! step whatever the client announced. While a reply has not been taken by the socket, nothing more is read: a client
//! that does not read its replies gets no further.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use doorbell_spec::vfio_user::{Command, Header, HeaderFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};

const HEADER: usize = size_of::<Header>();
/// File descriptors taken with one message, as announced in VERSION.
pub(super) const MAX_FDS: usize = 16;
/// Payload that is kept. SPDK's host pads its longest command to 4,064 bytes.
const MAX_PAYLOAD: usize = 8 << 10;

/// A command, whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) header: Header,
    /// At most [`MAX_PAYLOAD`] bytes of it.
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    /// Payload or file descriptors were more than are kept.
    pub(super) oversized: bool,
}

impl Request {
    pub(super) fn command(&self) -> Command {
        Command(self.header.command.get())
    }

    /// The structure that the payload begins with.
    pub(super) fn read<T: FromBytes>(&self) -> Result<T, Errno> {
        T::read_from_prefix(&self.payload).map(|(value, _)| value).map_err(|_| Errno::INVAL)
    }
}

/// What a command gets: payload and file descriptors, or an error number.
pub(super) type Answer = Result<(Vec<u8>, Vec<OwnedFd>), Errno>;

/// What a look at the socket gave.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing yet, or a reply still waits to be taken.
    Nothing,
    /// A command.
    Request(Request),
    /// The client is gone, or has left the protocol; its connection is of no further use.
    End,
}

/// A connection that does not block.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    header: [u8; HEADER],
    /// Bytes of the current message that have come, header included.
    have: usize,
    payload: Vec<u8>,
    fds: Vec<OwnedFd>,
    oversized: bool,
    reply: Vec<u8>,
    reply_sent: usize,
    reply_fds: Vec<OwnedFd>,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            header: [0; HEADER],
            have: 0,
            payload: Vec::new(),
            fds: Vec::new(),
            oversized: false,
            reply: Vec::new(),
            reply_sent: 0,
            reply_fds: Vec::new(),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether a reply waits for the client to read.
    pub(super) fn is_sending(&self) -> bool {
        self.reply_sent < self.reply.len()
    }

    /// Takes what the client has sent, up to one whole command.
    pub(super) fn receive(&mut self) -> Received {
        if self.is_sending() && self.flush().is_err() {
            return Received::End;
        }
        while !self.is_sending() {
            match self.step() {
                Ok(Some(request)) => return Received::Request(request),
                Ok(None) => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_) => return Received::End,
            }
        }
        Received::Nothing
    }

    /// Queues the reply to `request`, unless the client wants none, and sends what the socket takes of it.
    pub(super) fn reply(&mut self, request: &Header, answer: Answer) -> io::Result<()> {
        if HeaderFlags::from(request.flags.get()).no_reply() {
            return Ok(());
        }
        let flags = HeaderFlags::new().with_kind(HeaderFlags::REPLY).with_error(answer.is_err());
        let error = answer.as_ref().map_or_else(|errno| errno.raw_os_error(), |_| 0);
        let (payload, fds) = answer.unwrap_or_default();
        let header = Header {
            message_size: ((HEADER + payload.len()) as u32).into(),
            flags: u32::from(flags).into(),
            error: (error as u32).into(),
            ..*request
        };
        self.reply.clear();
        self.reply.extend_from_slice(header.as_bytes());
        self.reply.extend_from_slice(&payload);
        self.reply_sent = 0;
        self.reply_fds = fds;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.is_sending() {
            let rest = self.reply.get(self.reply_sent..).unwrap_or_default();
            let fds: Vec<BorrowedFd<'_>> = self.reply_fds.iter().map(AsFd::as_fd).collect();
            let rights = SendAncillaryMessage::ScmRights(&fds);
            let mut space = vec![MaybeUninit::uninit(); rights.size()];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(rights) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    self.reply_sent += sent;
                    // They left with the first byte.
                    self.reply_fds.clear();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads once. Gives a command when that completed one.
    fn step(&mut self) -> Result<Option<Request>, Errno> {
        let mut bytes = [0; 4096];
        let missing = match self.have.checked_sub(HEADER) {
            None => HEADER - self.have,
            Some(_) => self.size()? - self.have,
        };
        let room = missing.min(bytes.len());
        let received = self.read(bytes.get_mut(..room).unwrap_or_default())?;
        let received = bytes.get(..received).unwrap_or_default();
        if self.have < HEADER {
            if let Some(to) = self.header.get_mut(self.have..self.have + received.len()) {
                to.copy_from_slice(received);
            }
        } else if self.payload.len() + received.len() <= MAX_PAYLOAD {
            self.payload.extend_from_slice(received);
        } else {
            self.oversized = true;
        }
        self.have += received.len();
        if self.have < HEADER || self.have < self.size()? {
            return Ok(None);
        }

        self.have = 0;
        let request = Request {
            header: zerocopy::transmute!(self.header),
            payload: std::mem::take(&mut self.payload),
            fds: std::mem::take(&mut self.fds),
            oversized: std::mem::take(&mut self.oversized),
        };
        let kind = HeaderFlags::from(request.header.flags.get()).kind();
        // Nobody asked: a reply means nothing here.
        Ok((kind == HeaderFlags::COMMAND).then_some(request))
    }

    /// Bytes of the current message, by its header. One that is shorter than its header cannot be told from the next.
    fn size(&self) -> Result<usize, Errno> {
        let header: Header = zerocopy::transmute!(self.header);
        let size = header.message_size.get() as usize;
        if size < HEADER { Err(Errno::PROTO) } else { Ok(size) }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let result = recvmsg(&self.socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights);
            }
        }
        // One message may gather descriptors over several reads.
        if self.fds.len() > MAX_FDS || result.flags.contains(ReturnFlags::CTRUNC) {
            self.fds.clear();
            self.oversized = true;
        }
        if result.bytes == 0 { Err(Errno::CONNRESET) } else { Ok(result.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Connection, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("socketpair");
        (Connection::new(ours), theirs)
    }

    fn command(id: u16, command: Command, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            message_id: id.into(),
            command: command.0.into(),
            message_size: ((HEADER + payload.len()) as u32).into(),
            ..Header::default()
        };
        [header.as_bytes(), payload].concat()
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn commands_come_out_whole_however_they_are_split() {
        let messages = [
            command(1, Command::VERSION, &[0, 0, 1, 0]),
            command(2, Command::DEVICE_RESET, &[]),
            command(3, Command(999), &[7; 100]),
        ];
        let bytes = messages.concat();
        for piece in [1, 2, 15, 16, 17, 19, 20, 21, 36, 40, bytes.len()] {
            let (mut connection, theirs) = pair();
            let mut ids = Vec::new();
            for part in bytes.chunks(piece) {
                rustix::io::write(&theirs, part).expect("write");
                while let Received::Request(request) = connection.receive() {
                    ids.push((request.header.message_id.get(), request.payload.len()));
                }
            }
            assert_eq!(ids, [(1, 4), (2, 0), (3, 100)], "in pieces of {piece}");
            drop(theirs);
            assert!(matches!(connection.receive(), Received::End));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_long_payload_is_dropped_and_the_next_command_found() {
        let (mut connection, theirs) = pair();
        let long = command(1, Command::REGION_WRITE, &vec![9; 100_000]);
        let mut found = Vec::new();
        for part in [&long[..], &command(2, Command::DEVICE_RESET, &[])].concat().chunks(1000) {
            rustix::io::write(&theirs, part).expect("write");
            while let Received::Request(request) = connection.receive() {
                assert!(request.payload.len() <= MAX_PAYLOAD);
                found.push((request.header.message_id.get(), request.oversized));
            }
        }
        assert_eq!(found, [(1, true), (2, false)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_size_below_the_header_ends_the_connection() {
        for size in [0, 1, 15] {
            let (mut connection, theirs) = pair();
            let mut bytes = command(1, Command::VERSION, &[]);
            bytes[4..8].copy_from_slice(&u32::to_le_bytes(size));
            rustix::io::write(&theirs, &bytes).expect("write");
            assert!(matches!(connection.receive(), Received::End));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_client_that_does_not_read_gets_no_further() {
        let (mut connection, theirs) = pair();
        rustix::net::sockopt::set_socket_send_buffer_size(connection.socket(), 4096).expect("size");
        let header: Header = zerocopy::transmute!([0_u8; HEADER]);
        let answer = || Ok((vec![5; 64 << 10], Vec::new()));
        let mut replies = 0;
        while !connection.is_sending() {
            connection.reply(&header, answer()).expect("reply");
            replies += 1;
        }
        rustix::io::write(&theirs, &command(1, Command::DEVICE_RESET, &[])).expect("write");
        assert!(matches!(connection.receive(), Received::Nothing));
        // It reads at last, and is served.
        let mut left = replies * (HEADER + (64 << 10));
        let mut bytes = vec![0; 4096];
        let mut served = false;
        while left > 0 {
            left -= rustix::io::read(&theirs, &mut bytes).expect("read");
            served |= matches!(connection.receive(), Received::Request(_));
        }
        assert!(served || matches!(connection.receive(), Received::Request(_)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn no_reply_where_none_is_wanted() {
        let (mut connection, theirs) = pair();
        let mut header: Header = zerocopy::transmute!([0_u8; HEADER]);
        header.flags.set(u32::from(HeaderFlags::new().with_no_reply(true)));
        connection.reply(&header, Err(Errno::INVAL)).expect("reply");
        drop(connection);
        assert_eq!(rustix::io::read(&theirs, &mut [0; 16]), Ok(0));
    }
}
