//! The system calls of the vfio-user client: connect with a deadline, poll, send and receive with file descriptors.
//!
//! Owns no state. Everything else of the client is safe code above these few functions; `connection` is their caller.

#![expect(unsafe_code, reason = "socket calls that pass file descriptors have no safe form in std")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// File descriptors taken from one message; the kernel itself stops at 253.
pub(super) const MAX_RECEIVED_FDS: usize = 32;
/// File descriptors put into one message.
pub(super) const MAX_SENT_FDS: usize = 8;

const INT: usize = size_of::<RawFd>();
/// Room for the control message of `MAX_RECEIVED_FDS`, in words so that it is aligned for its header.
const RECEIVE_WORDS: usize = (16 + MAX_RECEIVED_FDS * INT).div_ceil(8);
const SEND_WORDS: usize = (16 + MAX_SENT_FDS * INT).div_ceil(8);
const _: () = assert!(size_of::<libc::cmsghdr>() <= 16);

/// What a descriptor is waited for.
#[derive(Clone, Copy)]
pub(super) enum Interest {
    Readable,
    Writable,
}

/// Connects to the listening stream socket at `path` within `deadline`. The socket does not block.
///
/// A listener whose backlog is full makes `connect` block; the send timeout of the socket bounds that.
pub(super) fn connect(path: &Path, deadline: Duration) -> io::Result<OwnedFd> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain old data, for which all zeroes is a value.
    let mut name: libc::sockaddr_un = unsafe { mem::zeroed() };
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= name.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a socket path has 1 to {} bytes, none of them zero", name.sun_path.len() - 1),
        ));
    }
    for (to, from) in name.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }

    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let fd = check(fd as isize)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };

    // A zero timeout means none.
    let deadline = deadline.max(Duration::from_millis(1));
    let timeout = libc::timeval {
        tv_sec: deadline.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_usec: deadline.subsec_micros() as libc::suseconds_t,
    };
    // SAFETY: the option value points to a timeval that lives across the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    check(result as isize)?;
    loop {
        // SAFETY: the address points to a sockaddr_un that lives across the call, with its size; its path ends
        // with a zero, because it began as zeroes and is longer than the path copied into it.
        let result = unsafe {
            libc::connect(
                fd,
                (&raw const name).cast(),
                size_of::<libc::sockaddr_un>() as libc::socklen_t,
            )
        };
        match check(result as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // SAFETY: F_SETFL takes an integer.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    check(result as isize)?;
    Ok(socket)
}

/// Waits until `socket` is ready or has failed; false when `timeout` passed first, or a signal came.
pub(super) fn wait(
    socket: BorrowedFd<'_>,
    interest: Interest,
    timeout: Duration,
) -> io::Result<bool> {
    let events = match interest {
        Interest::Readable => libc::POLLIN,
        Interest::Writable => libc::POLLOUT,
    };
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    // Round up: a wait that returns just before its deadline would spin.
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    // SAFETY: one pollfd, which lives across the call.
    let result = unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
    match check(result as isize) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends what the socket takes at once of `bytes`, with `fds` (at most [`MAX_SENT_FDS`]) attached to the first byte.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if fds.len() > MAX_SENT_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = [0_u64; SEND_WORDS];
    let mut piece =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let data = (fds.len() * INT) as u32;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: arithmetic on its argument only.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(data) } as _;
        // SAFETY: msg_control and msg_controllen describe `control`, which has room for MAX_SENT_FDS.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: arithmetic on its argument only.
        let len = unsafe { libc::CMSG_LEN(data) };
        // SAFETY: CMSG_FIRSTHDR is not null where msg_controllen holds a header; it points into `control`.
        unsafe {
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = len as _;
        }
        // SAFETY: as above; the data lies behind its header.
        let mut to = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
        for fd in fds {
            // SAFETY: at most MAX_SENT_FDS descriptors fit behind the header in `control`.
            unsafe { to.write_unaligned(fd.as_raw_fd()) };
            to = to.wrapping_add(1);
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the message describes `piece` (the caller's bytes, which are only read) and `control`; both live on.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Receives what is there, at most `bytes.len()`; 0 at the end of the stream. File descriptors go to the end of
/// `fds`; they are closed again, and an error returned, where there are more than [`MAX_RECEIVED_FDS`].
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = [0_u64; RECEIVE_WORDS];
    let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes `piece` (the caller's buffer, borrowed mutably) and `control`; both live on.
    let len = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;

    let first = fds.len();
    // SAFETY: the kernel filled `control` and set msg_controllen to what it used of it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers that lie wholly inside `control`.
        let (level, kind, used) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: as above; arithmetic on the header's address.
            let mut from = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            let lead = from.addr() - header.addr();
            for _ in 0..used.saturating_sub(lead) / INT {
                // SAFETY: cmsg_len counts these descriptors, and the kernel wrote them inside `control`.
                let fd = unsafe { from.read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us; we are its only owner.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                from = from.wrapping_add(1);
            }
        }
        // SAFETY: `header` came from the same message, which is unchanged.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.truncate(first);
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message with more than {MAX_RECEIVED_FDS} file descriptors"),
        ));
    }
    Ok(len)
}

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain old data, for which all zeroes (null pointers, no lengths) is a value.
    unsafe { mem::zeroed() }
}

/// The kernel's -1 as the error it stands for.
fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
