//! How a port over TCP scales: commands a second and processor time, by threads of the port and by hosts.
//!
//! `cargo bench -p doorbell --bench tcp_scaling [-- --threads 1,2,4 --hosts 1,4,8 --queues 1 --depth 32 --block 4096]`. Port and
//! hosts share the machine, so that reads say little with fewer cores than threads and hosts together; on a machine of 16,
//! `--threads 1,2,4,8 --hosts 8`. Hosts are threads with a controller each, and queues of their own.
//!
//! With `--verify` hosts send Verify, for which the port reads the blocks and sends a completion, and sleep while it does:
//! what is measured then is the port alone, and two cores tell whether two threads do twice the work. For that
//! `--verify --threads 1,2 --hosts 1 --queues 8 --block 262144`.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use doorbell::{Buffer, Queue, QueueConfig};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::Server;
use doorbell_subsystem::port::vfio_user::Stop;
use doorbell_subsystem::{NamespaceSpec, Subsystem};

const SPAN: u64 = 64 << 20;
/// Of it what Verify reads, which the cache of a processor holds: cores share the path to memory.
const VERIFIED: u64 = 4 << 20;
const MEASURED: Duration = Duration::from_secs(2);
/// How long a host sleeps that has nothing else to do than to wait for Verify.
const NAP: Duration = Duration::from_micros(50);

#[derive(Clone, Copy)]
struct Case {
    queues: usize,
    depth: usize,
    block: usize,
    verify: bool,
}

/// One host: asks until it is told to stop; how many.
fn host(address: &str, case: Case, seed: u64, ready: &Barrier, stop: &AtomicBool) -> u64 {
    let controller = doorbell::attach(address).unwrap();
    let namespace = controller.namespace(1).unwrap();
    let config = QueueConfig::with_depth(case.depth as u16);
    // With each queue what its next commands move, if they do.
    let mut queues: Vec<(Queue, Vec<Option<Buffer>>)> = (0..case.queues)
        .map(|_| {
            let buffer = |_| (!case.verify).then(|| controller.buffer(case.block).unwrap());
            (controller.queue(config.clone()).unwrap(), (0..case.depth).map(buffer).collect())
        })
        .collect();
    let places = if case.verify { VERIFIED } else { SPAN } / case.block as u64;
    let blocks = case.block as u64 / 4096;
    let (mut random, mut count) = (seed, 0);
    ready.wait();
    while !stop.load(Ordering::Relaxed) {
        let before = count;
        for (queue, idle) in &mut queues {
            while let Some(buffer) = idle.pop() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let lba = (random >> 33) % places * blocks;
                let io = match buffer {
                    Some(buffer) => namespace.read(lba, buffer),
                    None => namespace.verify(lba, blocks),
                };
                assert!(queue.stage(io).is_ok(), "the queue is full");
            }
            queue.ring();
            queue.poll(|done| {
                assert!(done.status.is_success(), "a command failed");
                count += 1;
                idle.push(done.buffer);
            });
        }
        if count == before {
            if case.verify { std::thread::sleep(NAP) } else { std::thread::yield_now() }
        }
    }
    for (queue, idle) in &mut queues {
        while idle.len() < case.depth {
            queue.poll(|done| idle.push(done.buffer));
        }
    }
    count
}

/// Seconds of processor time of the threads of this process whose names begin so.
fn processor(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let its = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        its.starts_with(name).then(|| stat.split(' ').next()?.parse::<u64>().ok())?
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

fn measure(threads: usize, hosts: usize, case: Case) {
    let namespace = NamespaceSpec::memory(SPAN, 4096).open().unwrap();
    let subsystem = Subsystem::builder().namespace(namespace).build();
    let target = Target::new(subsystem, Limits::default()).unwrap();
    let server = Server::bind(target, &[([127, 0, 0, 1], 0).into()], threads).unwrap();
    let (address, port_stop) = (format!("tcp://{}", server.addresses()[0]), Stop::new().unwrap());
    let asked = port_stop.clone();
    // The port names the threads that it starts; this is the one that it is lent.
    let port = std::thread::Builder::new().name("doorbell-tcp".to_owned());
    let port = port.spawn(move || server.run(&asked).unwrap()).unwrap();
    {
        // Blocks that were never written would cost nothing to read.
        let controller = doorbell::attach(&address).unwrap();
        let namespace = controller.namespace(1).unwrap();
        let mut queue = controller.queue(QueueConfig::default()).unwrap();
        let mut buffer = controller.buffer(1 << 20).unwrap();
        buffer.fill(0x5a);
        for megabyte in 0..SPAN >> 20 {
            buffer = queue.run(namespace.write(megabyte * 256, buffer)).unwrap().buffer.unwrap();
        }
    }
    let (ready, stop) = (Barrier::new(hosts + 1), Arc::new(AtomicBool::new(false)));
    let (count, elapsed, busy) = std::thread::scope(|scope| {
        let (address, ready, stop) = (&address, &ready, &*stop);
        let running: Vec<_> = (0..hosts as u64)
            .map(|seed| scope.spawn(move || host(address, case, seed, ready, stop)))
            .collect();
        ready.wait();
        let (start, before) = (Instant::now(), processor("doorbell-tcp"));
        std::thread::sleep(MEASURED);
        stop.store(true, Ordering::Relaxed);
        let (elapsed, busy) = (start.elapsed(), processor("doorbell-tcp") - before);
        let count: u64 = running.into_iter().map(|host| host.join().unwrap()).sum();
        (count, elapsed.as_secs_f64(), busy)
    });
    port_stop.stop();
    port.join().unwrap();
    let (rate, each) = (count as f64 / elapsed, busy * 1e6 / count as f64);
    println!("{threads:>8}{hosts:>8}{rate:>14.0}{:>18.2}{each:>18.2}", busy / elapsed);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str, default: &str| -> Vec<usize> {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.map_or(default, |at| arguments[at + 1].as_str());
        value.split(',').map(|number| number.parse().unwrap()).collect()
    };
    let first = |name: &str, default: &str| given(name, default)[0];
    let (queues, depth) = (first("--queues", "1"), first("--depth", "32"));
    let verify = arguments.iter().any(|argument| argument == "--verify");
    let case = Case { queues, depth, block: first("--block", "4096"), verify };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let what = if verify { "Verify" } else { "Reads" };
    println!(
        "{what} of {} KiB, {queues} queues of depth {depth} a host, {cores} cores for all of it.\n",
        case.block >> 10
    );
    println!(
        "{:>8}{:>8}{:>14}{:>18}{:>18}",
        "threads", "hosts", "commands/s", "port, cores", "port, us each"
    );
    for threads in given("--threads", "1,2") {
        for &hosts in &given("--hosts", "1,4,16") {
            measure(threads, hosts, case);
        }
    }
}
