//! The port with its sockets and threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use doorbell_spec::fabrics::pdu::{Digests, IcReq};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::{End, Server};
use doorbell_subsystem::port::vfio_user::Stop;
use zerocopy::IntoBytes;

use crate::host::target;

struct Running {
    address: SocketAddr,
    stop: Arc<Stop>,
    thread: Option<thread::JoinHandle<()>>,
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
        let stop = Stop::new().expect("eventfd");
        let address = server.addresses()[0];
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || server.run(&stopping).expect("run"));
        Self { address, stop, thread: Some(thread), ends }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        socket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
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
