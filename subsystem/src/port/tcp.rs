//! A port over TCP: hosts connect, and each connection becomes a queue.
//!
//! - [`connection`] is the protocol, one connection at a time, without a socket and without a clock;
//! - [`server`] owns the sockets and the threads.
//!
//! Written for hosts that never read our documents: Linux, SPDK, the driver of this workspace. A host that breaks a
//! rule of the transport is told which one, and loses the connection on which it did. What the whole of a host's
//! connections may take is limited ([`Limits`](crate::fabrics::Limits)).
//!
//! What it does not do: authentication, TLS, the static controller model. CPDA is 0 unless it is asked for (Linux takes
//! nothing else). Abort ends commands that wait for data of which none has been asked for; of others the rest is not
//! carried out once the data that was asked for has come.
//! Deliberately against the letter: an I/O queue whose connection is lost ends alone, and not its controller with it;
//! Linux closes its I/O queues first and then sets CC.SHN.

mod buffer;
mod commands;
pub mod connection;
mod faulty;
mod queue;
mod reply;
pub mod server;
mod shown;
mod transfer;

pub use connection::{Connection, End};
pub use server::{BindError, Server};

use std::time::Duration;

/// What a new connection to a small subsystem answers to `bytes`, which arrive in portions of `cut`: for fuzzers, and for
/// tests of parsers.
#[doc(hidden)]
pub fn converse(bytes: &[u8], cut: usize) -> Vec<u8> {
    let now = Duration::from_secs(1);
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 4420));
    let spec: Result<crate::NamespaceSpec, _> = "memory:1MiB".parse();
    let namespace = spec.ok().and_then(|spec| spec.open().ok());
    let builder = crate::Subsystem::builder().nqn("nqn.2014-08.org.example:fuzz");
    let builder = namespace.into_iter().fold(builder, crate::SubsystemBuilder::namespace);
    let limits = crate::fabrics::Limits::default();
    let Ok(target) = crate::fabrics::Target::new(builder.build(), limits) else {
        return Vec::new();
    };
    let Some(mut connection) = Connection::new(&target, local, now) else { return Vec::new() };
    let mut answer = Vec::new();
    for mut portion in bytes.chunks(cut.max(1)) {
        while !portion.is_empty() && !connection.is_ended() {
            let room = connection.room();
            let len = room.len().min(portion.len());
            let (fits, rest) = portion.split_at(len);
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(fits);
            }
            connection.received(len);
            portion = rest;
            loop {
                let work = connection.step(now);
                let len = connection.transmit_to(&mut answer, usize::MAX);
                if work == 0 && len == 0 {
                    break;
                }
            }
        }
    }
    answer
}
