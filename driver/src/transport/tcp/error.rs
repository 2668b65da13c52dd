//! Why a connection ended, and why none was made.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use doorbell_spec::fabrics::connect::ConnectInvalid;
use doorbell_spec::fabrics::header::Violation;
use doorbell_spec::status::Status;
use rustix::io::Errno;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The target closed it.
    #[error("the target closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {}", io::Error::from_raw_os_error(*errno))]
    Socket {
        /// Error number of the kernel.
        errno: i32,
    },
    /// The target ended it with a C2HTermReq, for what it says this driver did.
    #[error("the target ended the connection (C2HTermReq): {0}")]
    Terminated(Violation),
    /// The target broke a rule of the transport.
    #[error("the target broke the protocol: {0}")]
    Protocol(Violation),
    /// The target spoke of a command that is not in flight.
    #[error("the target answered command {cid:#06x}, which is not in flight")]
    UnknownCommand {
        /// Its identifier.
        cid: u16,
    },
    /// The target does not use the digests that were asked for.
    #[error(
        "the target does not use the digests asked for; leave hdgst and ddgst out of the address"
    )]
    Digests,
    /// The target did not answer in time.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        /// What was sent.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Another queue of the same association was lost, and the association with it.
    #[error("the association was lost with another of its queues")]
    Association,
    /// The target refused to connect again.
    #[error("the target refused to connect again: {} ({:x}/{:02x})", status.fabrics_name(), status.sct(), status.sc())]
    Refused {
        /// The status of Connect.
        status: Status,
    },
    /// The controller that answers now is another one, or less than it was.
    #[error("the controller that answers now is not the one that was attached; attach it again")]
    Changed,
    /// The controller did not come up again.
    #[error("the controller did not come up again")]
    NotUp,
    /// The controller reports a persistent internal error.
    #[error("the controller reports a persistent internal error, which a new association may cure")]
    InternalError,
    /// The controller was shut down by this host.
    #[error("the controller has been shut down")]
    ShutDown,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The name has no address.
    #[error("{address}: the name '{host}' cannot be resolved: {source}")]
    Resolve {
        /// Address as the user gave it.
        address: String,
        /// The name.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// TCP did not connect.
    #[error("{address}: connecting to {peer}: {source}{hint}")]
    Socket {
        /// Address as the user gave it.
        address: String,
        /// Address and port tried.
        peer: String,
        /// The cause.
        source: io::Error,
        /// The next step for the user, beginning with "; ", or empty.
        hint: &'static str,
    },
    /// The connection ended before it was of use.
    #[error("{address}: {during}: {source}")]
    Link {
        /// Address as the user gave it.
        address: String,
        /// The step during which it ended.
        during: &'static str,
        /// The cause.
        source: LinkError,
    },
    /// The target refused the Connect command.
    #[error("{address}: {}", Refusal { status: *status, result: *result, qid: *qid, host: host_nqn })]
    Refused {
        /// Address as the user gave it.
        address: String,
        /// Queue identifier; 0 is the admin queue.
        qid: u16,
        /// The status of Connect.
        status: Status,
        /// Dword 0 of its completion: of Connect Invalid Parameters, which parameter.
        result: u32,
        /// Who asked.
        host_nqn: String,
    },
    /// The target wants what this driver does not have.
    #[error("{address}: {what}")]
    Unsupported {
        /// Address as the user gave it.
        address: String,
        /// What it wants.
        what: String,
    },
    /// The address names no subsystem, and there is not exactly one to be found.
    #[error("{address}: {what}")]
    Discovery {
        /// Address as the user gave it.
        address: String,
        /// What was found instead, and what to write.
        what: String,
    },
    /// This host has no name.
    #[error("{address}: {what}")]
    Host {
        /// Address as the user gave it.
        address: String,
        /// What is wrong with the host NQN or identifier.
        what: String,
    },
}

impl TcpError {
    /// `peer` did not take a connection.
    pub(super) fn unreached(address: &str, peer: SocketAddr, error: Errno) -> Self {
        let hint = match error {
            Errno::CONNREFUSED => "; nothing listens there: is the target running, on this port?",
            Errno::TIMEDOUT => {
                "; no answer: is the host up, and does a firewall let the port through?"
            }
            Errno::HOSTUNREACH | Errno::NETUNREACH => "; there is no route to it",
            _ => "",
        };
        let (peer, source) = (peer.to_string(), error.into());
        Self::Socket { address: address.to_owned(), peer, source, hint }
    }
}

/// A refused Connect in words.
struct Refusal<'a> {
    status: Status,
    result: u32,
    qid: u16,
    host: &'a str,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, qid, host, .. } = self;
        let (name, sct, sc) = (status.fabrics_name(), status.sct(), status.sc());
        write!(f, "the target refused to connect queue {qid}: {name} ({sct:x}/{sc:02x})")?;
        if status.is(Status::FABRICS_CONNECT_INVALID) {
            let invalid = ConnectInvalid::from_bits(self.result);
            let parameter = invalid.parameter();
            write!(f, " ({parameter}, byte {} of the ", invalid.ipo())?;
            write!(f, "{})", if invalid.in_data() { "data" } else { "command" })?;
            return match parameter {
                "SUBNQN" => {
                    write!(f, "; there is no such subsystem here: `discover` lists those there are")
                }
                "HOSTNQN" | "HOSTID" => write!(f, "; this host is {host}"),
                _ => Ok(()),
            };
        }
        if status.is(Status::FABRICS_INVALID_HOST) {
            return write!(f, "; allow host {host} on the target, or give hostnqn= in the address");
        }
        write!(f, ": {}", status.fabrics_meaning())
    }
}
