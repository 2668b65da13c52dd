//! The port with its sockets and threads.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use doorbell_spec::completion::Cqe;
use doorbell_spec::fabrics::command::{ConnectCdw11, connect, property_set};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::pdu::{CapsuleResponse, Digests, IcReq};
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::nvm;
use doorbell_spec::register::{Cc, offset};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port;
use doorbell_subsystem::port::tcp::{End, Server};
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{HOSTID, HOSTNQN, Link, Options, target};

struct Running {
    address: SocketAddr,
    _port: port::Running,
    ends: mpsc::Receiver<End>,
}

impl Running {
    fn new(target: &Arc<Target>, threads: usize) -> Self {
        let any = "127.0.0.1:0".parse().expect("address");
        let (send, ends) = mpsc::channel();
        let server = Server::bind(Arc::clone(target), &[any], threads).expect("bind");
        let server = server.observed(Arc::new(move |_, end| {
            let _ = send.send(end);
        }));
        let address = server.addresses()[0];
        Self { address, _port: server.spawn().expect("a thread"), ends }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        socket
    }
}

fn initialize(socket: &mut TcpStream) {
    socket.write_all(IcReq::new(Digests::new(), 0, 0).as_bytes()).expect("send");
    let mut response = [0; 128];
    socket.read_exact(&mut response).expect("ICResp");
    assert_eq!(response[..8], [1, 0, 128, 0, 128, 0, 0, 0]);
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn many_connections_over_several_threads() {
    let target = target(Limits::default());
    for threads in [1, 3] {
        let running = Running::new(&target, threads);
        let mut sockets: Vec<_> = (0..40).map(|_| running.connect()).collect();
        sockets.iter_mut().for_each(initialize);
        assert_eq!(target.usage().connections, 40);
        drop(sockets);
        for _ in 0..40 {
            assert_eq!(running.ends.recv_timeout(Duration::from_secs(10)), Ok(End::Closed));
        }
        assert_eq!(target.usage().connections, 0);
    }
}

/// Each thread has as many as any other, so that as many cores serve them.
#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn threads_share_connections_out() {
    let target = target(Limits::default());
    let any = "127.0.0.1:0".parse().expect("address");
    let (send, ends) = mpsc::channel();
    let server = Server::bind(target, &[any], 4).expect("bind");
    let server = server.observed(Arc::new(move |_, _| {
        let _ = send.send(thread::current().id());
    }));
    let address = server.addresses()[0];
    let _port = server.spawn().expect("threads");
    for round in 0..3 {
        let connect = |_| TcpStream::connect(address).expect("connect");
        let mut sockets: Vec<_> = (0..20).map(connect).collect();
        sockets.iter_mut().for_each(initialize);
        drop(sockets);
        let mut served = HashMap::new();
        for _ in 0..20 {
            let thread = ends.recv_timeout(Duration::from_secs(10)).expect("a connection ends");
            *served.entry(thread).or_insert(0) += 1;
        }
        let counts: Vec<i32> = served.into_values().collect();
        assert_eq!(counts, [5; 4], "round {round}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn a_host_that_breaks_a_rule_can_read_which() {
    let target = target(Limits::default());
    let running = Running::new(&target, 1);
    let mut socket = running.connect();
    initialize(&mut socket);
    // More is on its way when the first bytes are found wrong.
    socket.write_all(&[0xff; 100_000]).expect("send");
    let mut said = Vec::new();
    socket.read_to_end(&mut said).expect("not reset");
    assert_eq!(said[..14], [3, 0, 24, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(said[24..], [0xff; 8]);
}

/// Sends what a host has to say until it has an enabled admin queue and an I/O queue: the bytes of both connections.
fn attached(running: &Running, target: &Arc<Target>) -> (TcpStream, TcpStream, Link) {
    let other = crate::host::target(Limits::default());
    // Builds the PDUs; what its own target answers does not matter.
    let link = Link::open(&other, Options::default());
    let connect = |socket: &mut TcpStream, qid: u16, cntlid: u16| {
        initialize(socket);
        let queue = ConnectCdw11::new().with_sqsize_z(31);
        let sqe = connect(qid, queue, 0).with_sgl(Sgl::in_capsule(1024));
        let data = ConnectData::new(HOSTID, cntlid, target.subsystem().nqn(), HOSTNQN);
        exchange(socket, &link.capsule(sqe, data.as_bytes()))
    };
    let mut admin = running.connect();
    let cntlid = connect(&mut admin, 0, 0xffff).dw0 as u16;
    let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
    let enable = property_set(offset::CC as u32, 4, cc.into_bits().into());
    exchange(&mut admin, &link.capsule(enable, &[]));
    let mut io = running.connect();
    connect(&mut io, 1, cntlid);
    (admin, io, link)
}

/// Sends a capsule and returns the completion, which is all that is answered.
fn exchange(socket: &mut TcpStream, capsule: &[u8]) -> Cqe {
    socket.write_all(capsule).expect("send");
    let mut response = [0; 24];
    socket.read_exact(&mut response).expect("a response");
    let cqe = CapsuleResponse::read_from_bytes(&response).expect("24 bytes").cqe;
    assert!(cqe.status().is_success(), "{}", cqe.status());
    cqe
}

/// One host asks for much and reads nothing, one sends half a PDU and no more: a third is served on the same thread.
#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn slow_and_silent_hosts_cost_others_nothing() {
    let target = target(Limits::default());
    let running = Running::new(&target, 1);
    let (_admin, mut greedy, link) = attached(&running, &target);
    greedy.set_nonblocking(true).expect("nonblocking");
    let sqe = nvm::read(1, 0, 255).with_sgl(Sgl::transport(128 << 10));
    let capsule = link.capsule(sqe, &[]);
    // Until nothing more is taken: neither by the port nor by the kernels between.
    let (mut taken, mut quiet) = (0, Instant::now());
    while quiet.elapsed() < Duration::from_millis(300) {
        match greedy.write(&capsule) {
            Ok(len) if len == capsule.len() => {
                taken += len;
                quiet = Instant::now();
            }
            Ok(_) | Err(_) => thread::yield_now(),
        }
        assert!(taken < 64 << 20, "it takes without end");
    }
    let (_second, mut halting, _) = attached(&running, &target);
    halting.write_all(&capsule[..50]).expect("send");
    let (_third, mut io, link) = attached(&running, &target);
    let flush = link.capsule(nvm::flush(1).with_cid(1), &[]);
    let mut worst = Duration::ZERO;
    for _ in 0..200 {
        let started = Instant::now();
        exchange(&mut io, &flush);
        worst = worst.max(started.elapsed());
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    assert_eq!(target.usage().connections, 6);
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn one_too_many_is_closed_at_once() {
    let target = target(Limits { connections: 1, ..Limits::default() });
    let running = Running::new(&target, 1);
    let mut first = running.connect();
    initialize(&mut first);
    let mut second = running.connect();
    let started = Instant::now();
    assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(target.usage().refused, 1);
}
