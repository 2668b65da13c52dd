//! A target, and how a connection to it is made: TCP, ICReq, Connect.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::fabrics::command::{ConnectCdw11, connect, connect_offset};
use doorbell_spec::fabrics::connect::{ConnectData, ConnectInvalid, ConnectResult};
use doorbell_spec::fabrics::pdu::Digests;
use doorbell_spec::status::Status;

use super::connection::{Connection, Parameters};
use super::error::{LinkError, TcpError};
use super::host::Host;
use super::socket::Socket;
use crate::address::{Address, TcpOptions};
use crate::clock::{Clock, Deadline};

/// Where a subsystem is, and who asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Address as the user gave it.
    pub(crate) address: String,
    pub(crate) options: TcpOptions,
    /// The subsystem.
    pub(crate) nqn: String,
    pub(crate) host: Host,
    /// How long each step of connecting may take.
    pub(crate) timeout: Duration,
}

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) qid: u16,
    /// Commands in flight at most.
    pub(crate) depth: u16,
    /// Bytes of data of one command.
    pub(crate) max_transfer: usize,
    /// The most in-capsule data.
    pub(crate) max_in_capsule: usize,
    /// The controller takes Disconnect.
    pub(crate) disconnect: bool,
    /// How long a command may take.
    pub(crate) timeout: Duration,
}

impl Shape {
    /// In-capsule data of admin and fabrics commands, whatever IOCCSZ says (TCP transport, "In-Capsule Data").
    const ADMIN_IN_CAPSULE: usize = 8192;

    /// The admin queue.
    pub(crate) fn admin(depth: u16, max_transfer: usize, timeout: Duration) -> Self {
        let max_in_capsule = Self::ADMIN_IN_CAPSULE;
        Self { qid: 0, depth, max_transfer, max_in_capsule, disconnect: false, timeout }
    }
}

/// A connection on which Connect has succeeded.
pub(crate) struct Link {
    pub(super) connection: Connection,
    pub(super) socket: Arc<Socket>,
}

impl Link {
    /// The socket, for whoever ends all connections of an association.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }
}

/// Bytes received in one go.
const INPUT: usize = 64 << 10;
/// R2Ts for one command at once, minus one.
const MAXR2T_Z: u8 = 15;

impl Target {
    /// The subsystem `nqn` at the place that `options` name.
    pub(crate) fn new(
        options: &TcpOptions,
        nqn: String,
        timeout: Duration,
    ) -> Result<Self, TcpError> {
        let address = Address::Tcp(options.clone()).to_string();
        let host =
            Host::of(options).map_err(|what| TcpError::Host { address: address.clone(), what })?;
        Ok(Self { address, options: options.clone(), nqn, host, timeout })
    }

    /// A connection for one queue, of the controller `cntlid`; `kato` is the admin queue's.
    pub(crate) fn connect(
        &self,
        shape: &Shape,
        cntlid: u16,
        kato: Duration,
        clock: &dyn Clock,
    ) -> Result<(Link, ConnectResult), TcpError> {
        // The slots of a queue bound what is in flight, so that flow control only adds a message to each read.
        let wanted = self.options.flow_control.unwrap_or(false);
        match self.connect_with(wanted, shape, cntlid, kato, clock) {
            Err(TcpError::Refused { status, result, .. })
                if self.options.flow_control.is_none()
                    && status.is(Status::FABRICS_CONNECT_INVALID)
                    && result == ConnectInvalid::command(connect_offset::CATTR).into_bits() =>
            {
                self.connect_with(true, shape, cntlid, kato, clock)
            }
            other => other,
        }
    }

    fn connect_with(
        &self,
        flow_control: bool,
        shape: &Shape,
        cntlid: u16,
        kato: Duration,
        clock: &dyn Clock,
    ) -> Result<(Link, ConnectResult), TcpError> {
        let TcpOptions { host, header_digest, data_digest, .. } = &self.options;
        let port = self.options.port_or_default();
        let socket = Socket::connect(&self.address, host, port, self.timeout)?;
        let digests = Digests::new().with_header(*header_digest).with_data(*data_digest);
        let parameters = Parameters {
            depth: shape.depth,
            digests,
            hpda_z: 0,
            maxr2t_z: MAXR2T_Z,
            max_in_capsule: shape.max_in_capsule,
            input: INPUT,
        };
        let mut connection = Connection::new(parameters);
        let failed =
            |during, source| TcpError::Link { address: self.address.clone(), during, source };
        self.wait(&mut connection, &socket, clock, "ICReq", |connection| {
            let next = connection.next()?;
            Ok((next.is_some() || connection.is_initialized()).then_some(()))
        })
        .map_err(|error| failed("initializing the connection", error))?;

        let queue = ConnectCdw11::new()
            // A queue of n entries holds n - 1 commands.
            .with_sqsize_z(shape.depth)
            .with_no_flow_control(!flow_control)
            .with_queue_deletion(shape.disconnect);
        let kato = u32::try_from(kato.as_millis()).unwrap_or(u32::MAX);
        let command = connect(shape.qid, queue, kato);
        let data = ConnectData::new(self.host.id, cntlid, &self.nqn, &self.host.nqn);
        connection.stage_connect(command, &data);
        let completion = self
            .wait(&mut connection, &socket, clock, "Connect", Connection::next)
            .map_err(|error| failed("Connect", error))?;
        let result = completion.result as u32;
        if !completion.status.is_success() {
            return Err(TcpError::Refused {
                address: self.address.clone(),
                qid: shape.qid,
                status: completion.status,
                result,
                host_nqn: self.host.nqn.clone(),
            });
        }
        let result = ConnectResult::from_bits(result);
        if result.atr() || result.ascr() {
            let what = "the target wants this host to authenticate (DH-HMAC-CHAP), which this driver cannot; allow \
                        the host without a key";
            return Err(TcpError::Unsupported { address: self.address.clone(), what: what.into() });
        }
        Ok((Link { connection, socket: Arc::new(socket) }, result))
    }

    /// Sends and receives until `done` has something.
    fn wait<T>(
        &self,
        connection: &mut Connection,
        socket: &Socket,
        clock: &dyn Clock,
        what: &'static str,
        mut done: impl FnMut(&mut Connection) -> Result<Option<T>, LinkError>,
    ) -> Result<T, LinkError> {
        let deadline = Deadline::after(clock, self.timeout);
        let mut round = 0;
        let mut broken = None;
        loop {
            match done(connection) {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => {}
                Err(error) => {
                    if let Some(last) = connection.termination() {
                        socket.finish(&last);
                    }
                    return Err(error);
                }
            }
            if connection.has_output() && broken.is_none() {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = connection.output(&mut slices);
                match socket.send(slices.get(..count).unwrap_or_default()) {
                    Ok(sent) => connection.sent(sent),
                    // What the target said before is still to be read.
                    Err(error) => broken = Some(error),
                }
            }
            let (payload, rest) = connection.space();
            let count = socket.receive(payload, rest)?;
            connection.received(count);
            if let Some(error) = broken.filter(|_| count == 0) {
                return Err(error);
            }
            if count == 0 {
                if deadline.passed(clock) {
                    return Err(LinkError::TimedOut { what, after: self.timeout });
                }
                clock.pause(round, Duration::from_millis(1));
                round += 1;
            }
        }
    }
}
