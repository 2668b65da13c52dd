//! The socket: the only file of the TCP transport that talks to the kernel.
//!
//! Non-blocking once connected. [`Socket::abort`] ends a connection from any thread, with a reset and without sending
//! what the kernel still holds: after it nothing of this connection reaches the target.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionbio, readv};
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    connect, connect_unspec, recv, sendmsg, shutdown, socket_with,
};

use super::error::{LinkError, TcpError};

/// A connected TCP socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

impl Socket {
    /// Connects to `host`, a name or an address, within `timeout` for each of its addresses.
    pub(super) fn connect(
        address: &str,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> Result<Self, TcpError> {
        let resolve = |source| TcpError::Resolve {
            address: address.to_owned(),
            host: host.to_owned(),
            source,
        };
        let peers = (host, port).to_socket_addrs().map_err(resolve)?;
        let mut last = None;
        for peer in peers.take(MOST_ADDRESSES) {
            match Self::connect_to(peer, timeout) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some((peer, error)),
            }
        }
        let Some((peer, error)) = last else {
            return Err(resolve(std::io::ErrorKind::NotFound.into()));
        };
        let hint = match error {
            Errno::CONNREFUSED => "; nothing listens there: is the target running, on this port?",
            Errno::INPROGRESS | Errno::AGAIN | Errno::TIMEDOUT => {
                "; no answer: is the host up, and does a firewall let the port through?"
            }
            Errno::HOSTUNREACH | Errno::NETUNREACH => "; there is no route to it",
            _ => "",
        };
        let error = if error == Errno::INPROGRESS { Errno::TIMEDOUT } else { error };
        let (peer, source) = (peer.to_string(), error.into());
        Err(TcpError::Socket { address: address.to_owned(), peer, source, hint })
    }

    fn connect_to(peer: SocketAddr, timeout: Duration) -> Result<Self, Errno> {
        let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Bounds `connect` as well. A zero timeout would mean none.
        let timeout = timeout.max(Duration::from_millis(1));
        set_socket_timeout(&fd, Timeout::Send, Some(timeout))?;
        set_tcp_nodelay(&fd, true)?;
        // What is not sent when it is closed never will be.
        set_socket_linger(&fd, Some(Duration::ZERO))?;
        loop {
            match connect(&fd, &peer) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
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
