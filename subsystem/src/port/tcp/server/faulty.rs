//! Where a plan of faults gets at a connection: between its socket and it.

use std::io::{self, Read, Write};
use std::time::Duration;

use super::{Slot, is_transient};

impl Slot {
    /// Receives through the faults.
    #[cold]
    pub(super) fn receive_badly(&mut self, now: Duration) -> io::Result<usize> {
        let Some(wire) = &mut self.wire else { return Ok(0) };
        let mut bytes = [0; 16 << 10];
        // What is held back does not grow without end: the host's socket is full then.
        let room = if wire.is_crowded() { 0 } else { bytes.len() };
        match self.socket.read(bytes.get_mut(..room).unwrap_or_default()) {
            Ok(0) if room == 0 => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => wire.host_sent(bytes.get(..len).unwrap_or_default(), now),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        let len = wire.deliver(self.connection.room(), now);
        if len != 0 {
            self.connection.received(len);
        }
        if wire.is_closed() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(len) }
    }

    /// Sends through the faults.
    #[cold]
    pub(super) fn send_badly(&mut self, now: Duration) -> io::Result<usize> {
        let Some(wire) = &mut self.wire else { return Ok(0) };
        let mut bytes = Vec::new();
        while self.connection.transmit_to(&mut bytes, usize::MAX) != 0 {}
        wire.port_sends(&bytes, now);
        let mut sent = 0;
        loop {
            let ready = wire.ready(now);
            if ready.is_empty() {
                break;
            }
            match self.socket.write(ready) {
                Ok(len) => {
                    wire.sent(len);
                    sent += len;
                }
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if wire.is_closed() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(sent) }
    }
}
