//! A target, and how a connection to it is made: TCP, ICReq, Connect.

use std::io::IoSlice;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::fabrics::command::{ConnectCdw11, connect, connect_offset};
use doorbell_spec::fabrics::connect::{ConnectData, ConnectInvalid, ConnectResult};
use doorbell_spec::fabrics::pdu::Digests;
use doorbell_spec::status::Status;
use rustix::io::Errno;

use super::attempt::next_turn;
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
    /// What its name meant when it was attached; it is not looked up again.
    peers: Vec<SocketAddr>,
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
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

impl Target {
    /// The subsystem `nqn` at the place that `options` name. Looks a name up, which may take as long as the system lets
    /// it; nothing later does.
    pub(crate) fn new(
        options: &TcpOptions,
        nqn: String,
        timeout: Duration,
    ) -> Result<Self, TcpError> {
        let address = Address::Tcp(options.clone()).to_string();
        let host =
            Host::of(options).map_err(|what| TcpError::Host { address: address.clone(), what })?;
        let name = &options.host;
        let unknown = |source| {
            let (address, host) = (address.clone(), name.clone());
            TcpError::Resolve { address, host, source }
        };
        let peers = (name.as_str(), options.port_or_default()).to_socket_addrs();
        let peers: Vec<_> = peers.map_err(unknown)?.take(MOST_ADDRESSES).collect();
        if peers.is_empty() {
            return Err(unknown(std::io::ErrorKind::NotFound.into()));
        }
        Ok(Self { address, options: options.clone(), nqn, host, peers, timeout })
    }

    /// A connection for one queue, of the controller `cntlid`; `kato` is the admin queue's. Never blocks.
    pub(crate) async fn connect(
        &self,
        shape: &Shape,
        cntlid: u16,
        kato: Duration,
        clock: &dyn Clock,
    ) -> Result<(Link, ConnectResult), TcpError> {
        // The slots of a queue bound what is in flight, so that flow control only adds a message to each read.
        let wanted = self.options.flow_control.unwrap_or(false);
        match self.connect_with(wanted, shape, cntlid, kato, clock).await {
            Err(TcpError::Refused { status, result, .. })
                if self.options.flow_control.is_none()
                    && status.is(Status::FABRICS_CONNECT_INVALID)
                    && result == ConnectInvalid::command(connect_offset::CATTR).into_bits() =>
            {
                self.connect_with(true, shape, cntlid, kato, clock).await
            }
            other => other,
        }
    }

    async fn connect_with(
        &self,
        flow_control: bool,
        shape: &Shape,
        cntlid: u16,
        kato: Duration,
        clock: &dyn Clock,
    ) -> Result<(Link, ConnectResult), TcpError> {
        let TcpOptions { header_digest, data_digest, .. } = &self.options;
        let socket = self.reach(clock).await?;
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
        .await
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
            .await
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

    /// A socket to the first of the target's addresses that answers.
    async fn reach(&self, clock: &dyn Clock) -> Result<Socket, TcpError> {
        let mut last = None;
        for &peer in &self.peers {
            match self.reach_one(peer, clock).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some((peer, error)),
            }
        }
        let Some((peer, error)) = last else { unreachable!("a target has an address") };
        Err(TcpError::unreached(&self.address, peer, error))
    }

    async fn reach_one(&self, peer: SocketAddr, clock: &dyn Clock) -> Result<Socket, Errno> {
        let deadline = Deadline::after(clock, self.timeout);
        let socket = Socket::begin(peer)?;
        while !socket.is_connected()? {
            if deadline.passed(clock) {
                return Err(Errno::TIMEDOUT);
            }
            next_turn().await;
        }
        Ok(socket)
    }

    /// Sends and receives until `done` has something.
    async fn wait<T>(
        &self,
        connection: &mut Connection,
        socket: &Socket,
        clock: &dyn Clock,
        what: &'static str,
        mut done: impl FnMut(&mut Connection) -> Result<Option<T>, LinkError> + Send,
    ) -> Result<T, LinkError> {
        let deadline = Deadline::after(clock, self.timeout);
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
                next_turn().await;
            }
        }
    }
}
