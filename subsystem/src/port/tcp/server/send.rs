//! Sending: in full segments, and without a timer within this machine.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg, socket_with,
    sockopt,
};

use super::Slot;

/// Bytes that the kernel holds for a host of this machine: several large reads, so that none is cut in two.
const LOCAL_BUFFER: usize = 4 << 20;
/// Whether it does: under a smaller limit (net.core.wmem_max, 208 KiB unless somebody raised it) it is better left alone.
/// Told a size, it stays with what the limit allows; otherwise it finds out how much a connection needs, up to 4 MiB.
static GRANTED: LazyLock<bool> = LazyLock::new(|| {
    let probe = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let granted = probe.and_then(|probe| {
        sockopt::set_socket_send_buffer_size(&probe, LOCAL_BUFFER)?;
        sockopt::socket_send_buffer_size(&probe)
    });
    // It counts twice, for what it needs itself.
    granted.is_ok_and(|granted| granted / 2 >= LOCAL_BUFFER)
});

impl Slot {
    /// Bytes sent; 0 where the socket takes none now, or there are none.
    pub(super) fn send(&mut self, now: Duration) -> io::Result<usize> {
        if self.wire.is_some() {
            return self.send_badly(now);
        }
        let mut sent = 0;
        while self.connection.has_output() {
            // Segments are filled where the answer to the next command is sent next; large reads fill them by themselves.
            let more = !self.connection.has_shown() && self.connection.has_command();
            let flags = if more { SendFlags::MORE } else { SendFlags::empty() };
            let send = |pieces: &[IoSlice<'_>]| {
                let mut none = SendAncillaryBuffer::default();
                sendmsg(&self.socket, pieces, &mut none, flags | SendFlags::NOSIGNAL)
            };
            match self.connection.transmit(send) {
                Ok(0) => break,
                Ok(len) => {
                    self.held = more;
                    sent += len;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    /// Has the kernel send what it was told to hold, where nothing has followed.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            // What this option does besides saying what it was already.
            let _ = self.socket.set_nodelay(true);
        }
    }
}

/// Prepares a connection within this machine. It has no congestion to control, and some of what does (BBR) sends by a
/// timer, which costs more than all else.
pub(super) fn be_near(socket: &TcpStream) {
    // Without them it is slower, not wrong.
    let _ = sockopt::set_tcp_congestion(socket, "reno");
    if *GRANTED {
        let _ = sockopt::set_socket_send_buffer_size(socket, LOCAL_BUFFER);
    }
}
