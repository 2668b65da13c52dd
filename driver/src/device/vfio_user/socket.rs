//! The socket of the vfio-user client: connect with a deadline, wait, send and receive with file descriptors.
//!
//! Owns no state, and never waits except where it says so. `connection` is its caller.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect as connect_socket, recvmsg, sendmsg, socket_with,
};

/// File descriptors taken from one message.
pub(super) const MAX_RECEIVED_FDS: usize = 32;

/// What a descriptor is waited for.
#[derive(Clone, Copy)]
pub(super) enum Interest {
    Readable,
    Writable,
}

/// Connects to the listening stream socket at `path` within `deadline`.
///
/// A listener whose backlog is full makes `connect` block; the send timeout of the socket bounds that.
pub(super) fn connect(path: &Path, deadline: Duration) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).map_err(|_| {
        let what = "a socket path has 1 to 107 bytes, none of them zero";
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A zero timeout means none.
    let deadline = deadline.max(Duration::from_millis(1));
    set_socket_timeout(&socket, Timeout::Send, Some(deadline))?;
    loop {
        match connect_socket(&socket, &address) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(socket),
        }
    }
}

/// Waits until `socket` is ready or has failed, or `timeout` has passed, or a signal came.
pub(super) fn wait(
    socket: BorrowedFd<'_>,
    interest: Interest,
    timeout: Duration,
) -> io::Result<()> {
    let flags = match interest {
        Interest::Readable => PollFlags::IN,
        Interest::Writable => PollFlags::OUT,
    };
    let mut entry = [PollFd::from_borrowed_fd(socket, flags)];
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    match poll(&mut entry, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends what the socket takes at once of `bytes`, with `fds` attached to the first byte.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let rights = SendAncillaryMessage::ScmRights(fds);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(rights) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Receives what is there, at most `bytes.len()`; 0 at the end of the stream. File descriptors go to the end of
/// `fds`; they are closed again, and an error returned, where there are more than [`MAX_RECEIVED_FDS`].
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RECEIVED_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let result = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // One message may gather descriptors over several reads.
    if fds.len() > MAX_RECEIVED_FDS || result.flags.contains(ReturnFlags::CTRUNC) {
        fds.clear();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message with more than {MAX_RECEIVED_FDS} file descriptors"),
        ));
    }
    Ok(result.bytes)
}
