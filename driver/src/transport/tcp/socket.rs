//! The socket: the only file of the TCP transport that talks to the kernel.
//!
//! Non-blocking from the first moment. [`Socket::abort`] ends a connection from any thread, with a reset and without sending
//! what the kernel still holds: after it nothing of this connection reaches the target.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, readv};
use rustix::net::sockopt::{
    set_socket_linger, set_socket_recv_buffer_size, set_tcp_congestion, set_tcp_nodelay,
    socket_error, socket_recv_buffer_size,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    connect, connect_unspec, recv, sendmsg, shutdown, socket_with,
};

use super::error::LinkError;

/// A TCP socket that is connected, or begins to be.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

/// Bytes that the kernel holds of what a target of this machine has sent.
const LOCAL_BUFFER: usize = 2 << 20;
/// Whether it does: under a smaller limit (net.core.rmem_max, 208 KiB unless somebody raised it) it is better left alone.
/// Told a size, it stays with what the limit allows; otherwise it finds out how much a connection needs, up to 6 MiB.
static GRANTED: LazyLock<bool> = LazyLock::new(|| grants(LOCAL_BUFFER));

fn grants(bytes: usize) -> bool {
    let probe = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let granted = probe.and_then(|probe| {
        set_socket_recv_buffer_size(&probe, bytes)?;
        socket_recv_buffer_size(&probe)
    });
    // It counts twice, for what it needs itself.
    granted.is_ok_and(|granted| granted / 2 >= bytes)
}

impl Socket {
    /// Begins to connect to `peer`.
    pub(super) fn begin(peer: SocketAddr) -> Result<Self, Errno> {
        let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        set_tcp_nodelay(&fd, true)?;
        if peer.ip().is_loopback() {
            // Nothing to control there, and some of what does it sends by a timer (BBR). Without it it is slower, not wrong.
            let _reno = set_tcp_congestion(&fd, "reno");
            if *GRANTED {
                let _bytes = set_socket_recv_buffer_size(&fd, LOCAL_BUFFER);
            }
        }
        // What is not sent when it is closed never will be.
        set_socket_linger(&fd, Some(Duration::ZERO))?;
        match connect(&fd, &peer) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Self { fd }),
            Err(error) => Err(error),
        }
    }

    /// Whether it is connected by now.
    pub(super) fn is_connected(&self) -> Result<bool, Errno> {
        let mut asked = [PollFd::new(&self.fd, PollFlags::OUT)];
        match poll(&mut asked, Some(&Timespec::default())) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        socket_error(&self.fd)?.map(|()| true)
    }

    /// Sends what the kernel takes now; 0 if it takes nothing.
    #[inline]
    pub(super) fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize, LinkError> {
        let mut none = SendAncillaryBuffer::default();
        match sendmsg(&self.fd, slices, &mut none, SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(lost(error)),
        }
    }

    /// Receives what has come into `first`, then `second`, which are not both empty; 0 if nothing has.
    #[inline]
    pub(super) fn receive(&self, first: &mut [u8], second: &mut [u8]) -> Result<usize, LinkError> {
        let result = match first.is_empty() {
            true => recv(&self.fd, second, RecvFlags::empty()).map(|(count, _)| count),
            false => readv(&self.fd, &mut [IoSliceMut::new(first), IoSliceMut::new(second)]),
        };
        match result {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(lost(error)),
        }
    }

    /// Sends `last`, as far as the kernel takes it now, and says that nothing more will come.
    pub(super) fn finish(&self, last: &[u8]) {
        // Whatever comes of it, the connection is over.
        let _sent = self.send(&[IoSlice::new(last)]);
        let _told = shutdown(&self.fd, Shutdown::Write);
    }

    /// Closes an idle connection in the ordinary way.
    pub(super) fn close(&self) {
        let _told = shutdown(&self.fd, Shutdown::Write);
        let _ordinary = set_socket_linger(&self.fd, None);
    }

    /// Ends the connection at once. Bytes that the kernel holds are dropped, and the peer gets a reset.
    pub(crate) fn abort(&self) {
        // Fails only where there is no connection any more.
        let _reset = connect_unspec(&self.fd);
    }
}

fn lost(error: Errno) -> LinkError {
    match error {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => LinkError::Closed,
        error => LinkError::Socket { errno: error.raw_os_error() },
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_grant_is_known() {
        assert!(grants(4096));
        assert!(!grants(i32::MAX as usize));
    }
}
