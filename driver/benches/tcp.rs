//! NVMe/TCP on loopback: this driver against the subsystem's port, one thread each, beside a bare echo of the same bytes.
//!
//! `cargo bench -p doorbell --bench tcp`. The echo is what sockets alone cost: requests of a capsule's 72 bytes, answers as
//! long as data and response of a read, as many in flight, sent and received in as few calls as here, with the same socket
//! options. One echo sends the same bytes again and again, which its cache keeps; the other sends them out of as much memory
//! as the namespace has, into as much as the reads in flight have, as target and host have to. All are measured in
//! alternation, several times; the best slice of each counts, as another process on the machine only ever slows one down.
//! Instructions are the driver's own for a read at depth 32, counted by valgrind's callgrind where it is installed.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doorbell::{Buffer, Namespace, Queue, QueueConfig};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::Server;
use doorbell_subsystem::port::vfio_user::Stop;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use rustix::net::sockopt;

struct Case {
    name: &'static str,
    depth: usize,
    block: usize,
}

const CASES: [Case; 4] = [
    Case { name: "4 KiB, depth 1", depth: 1, block: 4096 },
    Case { name: "4 KiB, depth 32", depth: 32, block: 4096 },
    Case { name: "4 KiB, depth 128", depth: 128, block: 4096 },
    Case { name: "128 KiB, depth 8", depth: 8, block: 128 << 10 },
];

const SPAN: u64 = 64 << 20;
const SLICE: Duration = Duration::from_millis(200);
const SLICES: usize = 10;
const CAPSULE: usize = 72;
/// The header of C2HData, which says success as well.
const HEADERS: usize = 24;

struct Port {
    address: SocketAddr,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    fn start() -> Self {
        let namespace = NamespaceSpec::memory(SPAN, 4096).open().unwrap();
        let subsystem = Subsystem::builder().namespace(namespace).build();
        let target = Target::new(subsystem, Limits::default()).unwrap();
        let server = Server::bind(target, &[([127, 0, 0, 1], 0).into()], 1).unwrap();
        let (address, stop) = (server.addresses()[0], Stop::new().unwrap());
        let asked = stop.clone();
        let thread = std::thread::spawn(move || server.run(&asked).unwrap());
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Rig {
    // Dropped before the port that answers them.
    queue: Queue,
    namespace: Namespace,
    buffers: Vec<Buffer>,
    lba: u64,
    _port: Port,
}

impl Rig {
    fn new(case: &Case) -> Self {
        let port = Port::start();
        let controller = doorbell::attach(&format!("tcp://{}", port.address)).unwrap();
        let namespace = controller.namespace(1).unwrap();
        let mut queue = controller.queue(QueueConfig::with_depth(case.depth as u16)).unwrap();
        let mut buffers: Vec<Buffer> =
            (0..case.depth).map(|_| controller.buffer(case.block).unwrap()).collect();
        // Blocks that were never written would cost nothing to read.
        let mut buffer = controller.buffer(1 << 20).unwrap();
        buffer.fill(0x5a);
        for megabyte in 0..SPAN >> 20 {
            buffer = queue.run(namespace.write(megabyte * 256, buffer)).unwrap().buffer.unwrap();
        }
        buffers.shrink_to_fit();
        Self { queue, namespace, buffers, lba: 0, _port: port }
    }

    fn next_lba(&mut self, case: &Case) -> u64 {
        let blocks = (case.block / 4096) as u64;
        self.lba = (self.lba + 33 * blocks) % (SPAN / 4096);
        self.lba
    }
}

#[inline(never)]
fn measured_submit(rig: &mut Rig, case: &Case) {
    while let Some(buffer) = rig.buffers.pop() {
        let lba = rig.next_lba(case);
        if rig.queue.stage(rig.namespace.read(lba, buffer)).is_err() {
            panic!("the queue is full");
        }
    }
    rig.queue.ring();
}

#[inline(never)]
fn measured_complete(rig: &mut Rig) -> usize {
    let buffers = &mut rig.buffers;
    rig.queue.poll(|done| {
        assert!(done.status.is_success(), "a read failed");
        buffers.extend(done.buffer);
    })
}

fn drain(rig: &mut Rig, case: &Case) {
    while rig.buffers.len() < case.depth {
        measured_complete(rig);
    }
}

/// Where nothing has come for a while, whoever has to answer may want this core.
fn give_way(nothing_came: bool) {
    if nothing_came {
        std::thread::yield_now();
    }
}

/// Reads a second in one slice.
fn slice(rig: &mut Rig, case: &Case) -> f64 {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < SLICE {
        measured_submit(rig, case);
        for _ in 0..64 {
            let completed = measured_complete(rig);
            count += completed;
            if completed > 0 {
                break;
            }
        }
        give_way(rig.buffers.is_empty());
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    drain(rig, case);
    rate
}

/// Two ends that send what the protocol would, and look at none of it.
struct Echo {
    stream: TcpStream,
    answer: usize,
    request: Vec<u8>,
    into: Vec<u8>,
    /// Where in `into` the next bytes go, and how many at most.
    at: usize,
    most: usize,
    in_flight: usize,
    partial: usize,
}

fn would_block(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

impl Echo {
    /// Sends what a cache holds into a buffer that it holds as well; or where `memory` is set, out of as much memory as the
    /// namespace has into as much as the reads in flight have.
    fn new(case: &Case, memory: bool) -> Self {
        let answer = case.block + HEADERS;
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        for end in [&stream, &other] {
            end.set_nodelay(true).unwrap();
            end.set_nonblocking(true).unwrap();
            // As the driver and the port do within one machine; where the kernel has less, so have they.
            let _ = sockopt::set_tcp_congestion(end, "reno");
        }
        let _ = sockopt::set_socket_recv_buffer_size(&stream, 2 << 20);
        let _ = sockopt::set_socket_send_buffer_size(&other, 4 << 20);
        let depth = case.depth;
        std::thread::spawn(move || {
            let mut requests = vec![0; 64 << 10];
            let source = if memory { SPAN as usize } else { 0 };
            let answers = vec![0x5a; source.max(answer * depth)];
            let (mut asked, mut owed, mut at) = (0, 0, 0);
            loop {
                match other.read(&mut requests) {
                    Ok(0) => return,
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                    // Nothing to do: whoever asks may want this core.
                    Err(_) if owed == 0 => std::thread::yield_now(),
                    result => asked += result.unwrap_or(0),
                }
                owed += asked / CAPSULE * answer;
                asked %= CAPSULE;
                if owed > 0 {
                    match other.write(&answers[at..][..owed.min(answers.len() - at)]) {
                        Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                        result => {
                            let sent = result.unwrap_or(0);
                            (owed, at) = (owed - sent, (at + sent) % answers.len());
                        }
                    }
                }
            }
        });
        let (request, most) = (vec![0; CAPSULE * depth], (64 << 10).max(answer));
        let into = vec![0; most.max(if memory { answer * depth } else { 0 })];
        Self { stream, answer, request, into, at: 0, most, in_flight: 0, partial: 0 }
    }

    fn slice(&mut self, case: &Case) -> f64 {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < SLICE {
            let more = case.depth - self.in_flight;
            self.stream.write_all(&self.request[..more * CAPSULE]).unwrap();
            self.in_flight = case.depth;
            for _ in 0..64 {
                let room = &mut self.into[self.at..][..self.most];
                let received = would_block(self.stream.read(room));
                self.partial += received;
                self.at += received;
                if self.into.len() - self.at < self.most {
                    self.at = 0;
                }
                let answers = self.partial / self.answer;
                self.partial %= self.answer;
                self.in_flight -= answers;
                count += answers;
                if answers > 0 {
                    break;
                }
            }
            give_way(self.in_flight == case.depth);
        }
        count as f64 / start.elapsed().as_secs_f64()
    }
}

/// Runs rounds of depth 32 and nothing else, with what has to be waited for outside the measured functions.
fn counted(rounds: usize) {
    let case = &CASES[1];
    let mut rig = Rig::new(case);
    for _ in 0..rounds {
        counted_submit(&mut rig, case);
        while rig.buffers.len() < case.depth {
            std::thread::sleep(Duration::from_millis(3));
            counted_complete(&mut rig);
        }
    }
}

#[inline(never)]
fn counted_submit(rig: &mut Rig, case: &Case) {
    measured_submit(rig, case);
}

#[inline(never)]
fn counted_complete(rig: &mut Rig) -> usize {
    measured_complete(rig)
}

fn instructions(toggle: &str) -> Option<f64> {
    const ROUNDS: usize = 50;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{toggle}*"))
        .arg(std::env::current_exe().ok()?)
        .args(["--counted", &ROUNDS.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    let count = collected.and_then(|count| count.trim().parse::<f64>().ok());
    if count.is_none() || !output.status.success() {
        eprintln!("valgrind did not count:\n{text}");
        return None;
    }
    count.map(|count| count / (ROUNDS * CASES[1].depth) as f64)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--counted") {
        return counted(arguments[at + 1].parse().unwrap());
    }
    println!("Reads a second over loopback, the best of {SLICES} slices of {SLICE:?}.\n");
    println!(
        "{:<18}{:>10}{:>12}{:>7}{:>18}{:>7}{:>10}",
        "", "NVMe/TCP", "bare echo", "ratio", "through memory", "ratio", "us each"
    );
    for case in &CASES {
        let mut rig = Rig::new(case);
        let (mut echo, mut far) = (Echo::new(case, false), Echo::new(case, true));
        let (mut ours, mut bare, mut memory) = (0f64, 0f64, 0f64);
        for _ in 0..SLICES {
            ours = ours.max(slice(&mut rig, case));
            bare = bare.max(echo.slice(case));
            memory = memory.max(far.slice(case));
        }
        let (name, each, near, far) = (case.name, 1e6 / ours, ours / bare, ours / memory);
        println!(
            "{name:<18}{ours:>10.0}{bare:>12.0}{near:>7.2}{memory:>18.0}{far:>7.2}{each:>10.2}"
        );
    }
    let (submit, complete) = (instructions("counted_submit"), instructions("counted_complete"));
    let show = |count: Option<f64>| count.map_or("-".to_owned(), |count| format!("{count:.0}"));
    let both = submit.zip(complete).map(|(submit, complete)| submit + complete);
    println!(
        "\nInstructions of the driver for a 4 KiB read at depth 32: {} to submit, {} to complete, {} in all.",
        show(submit),
        show(complete),
        show(both)
    );
}
