//! What the driver itself costs per I/O: nanoseconds and instructions of its own code, and a queue's memory.
//!
//! `cargo bench -p doorbell` drives a null namespace of the embedded subsystem, stepped between the measured calls, so
//! that only the driver's functions and the loop around them are measured. Nanoseconds vary with the machine;
//! instructions, counted by valgrind's callgrind where it is installed, do not.

#![allow(missing_docs, clippy::unwrap_used)]
#![expect(unsafe_code, reason = "reads the time stamp counter")]

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use doorbell::clock::Clock;
use doorbell::device::embedded::{Embedded, SteppedClock};
use doorbell::transport::pcie::Pcie;
use doorbell::{Address, Buffer, Config, Controller, Done, Namespace, QueueConfig};

/// How a case submits.
#[derive(Clone, Copy)]
enum Doorbell {
    PerBatch,
    PerCommand,
}

struct Case {
    name: &'static str,
    batch: usize,
    doorbell: Doorbell,
    queues: usize,
    block: usize,
}

const CASES: [Case; 5] = [
    Case { name: "batches of 32", batch: 32, doorbell: Doorbell::PerBatch, queues: 1, block: 4096 },
    Case { name: "one at a time", batch: 1, doorbell: Doorbell::PerBatch, queues: 1, block: 4096 },
    Case {
        name: "bursts of 32, a doorbell each",
        batch: 32,
        doorbell: Doorbell::PerCommand,
        queues: 1,
        block: 4096,
    },
    Case {
        name: "21 queues of depth 128 in turn",
        batch: 128,
        doorbell: Doorbell::PerBatch,
        queues: 21,
        block: 4096,
    },
    Case {
        name: "batches of 32 of 128 KiB",
        batch: 32,
        doorbell: Doorbell::PerBatch,
        queues: 1,
        block: 128 << 10,
    },
];

const DEPTH: u16 = 1024;

type Queue = doorbell::Queue<Pcie>;

struct Rig {
    clock: Arc<SteppedClock>,
    namespace: Namespace,
    queues: Vec<Queue>,
    buffers: Vec<Buffer>,
}

impl Rig {
    fn new(case: &Case) -> Self {
        let Address::Embedded(options) = "embedded:null=1TiB,block=4096".parse().unwrap() else {
            unreachable!("an embedded address")
        };
        let device = Arc::new(Embedded::stepped(&options).unwrap());
        let clock = Arc::new(SteppedClock::new(device.clone()));
        let shared: Arc<dyn Clock> = clock.clone();
        let controller = Controller::attach_device(device, Config::default(), shared).unwrap();
        let depth = if case.queues > 1 { 128 } else { DEPTH };
        let queues = (0..case.queues)
            .map(|_| controller.pcie_queue(QueueConfig::with_depth(depth)).unwrap())
            .collect();
        let buffers = (0..case.batch).map(|_| controller.buffer(case.block).unwrap()).collect();
        Self { clock, namespace: controller.namespace(1).unwrap(), queues, buffers }
    }
}

#[inline(never)]
fn measured_submit_batch(
    queue: &mut Queue,
    namespace: &Namespace,
    buffers: &mut Vec<Buffer>,
    lba: &mut u64,
) {
    while let Some(buffer) = buffers.pop() {
        if queue.stage(namespace.read(*lba, buffer)).is_err() {
            panic!("the queue is full");
        }
        *lba = (*lba + 33) & 0xf_ffff;
    }
    queue.ring();
}

#[inline(never)]
fn measured_submit_each(
    queue: &mut Queue,
    namespace: &Namespace,
    buffers: &mut Vec<Buffer>,
    lba: &mut u64,
) {
    while let Some(buffer) = buffers.pop() {
        if queue.submit(namespace.read(*lba, buffer)).is_err() {
            panic!("the queue is full");
        }
        *lba = (*lba + 33) & 0xf_ffff;
    }
}

#[inline(never)]
fn measured_submit_one(queue: &mut Queue, namespace: &Namespace, lba: u64, buffer: Buffer) {
    if queue.submit(namespace.read(lba, buffer)).is_err() {
        panic!("the queue is full");
    }
}

/// What the loops around the driver's functions do by themselves.
#[inline(never)]
fn measured_loop(from: &mut Vec<Buffer>, to: &mut Vec<Buffer>, lba: &mut u64) -> u16 {
    let mut failed = 0;
    while let Some(buffer) = from.pop() {
        failed |= black_box(0u16);
        *lba = (*lba + 33) & 0xf_ffff;
        to.push(buffer);
    }
    failed
}

#[inline(never)]
fn measured_complete(queue: &mut Queue, buffers: &mut Vec<Buffer>) -> usize {
    let mut failed = 0;
    let count = queue.poll(|done| {
        failed |= done.status.into_bits();
        if let Some(buffer) = done.buffer {
            buffers.push(buffer);
        }
    });
    assert_eq!(failed, 0, "a read failed");
    count
}

#[inline(never)]
fn measured_complete_one(queue: &mut Queue) -> Option<Done> {
    queue.reap()
}

fn complete(case: &Case, queue: &mut Queue, buffers: &mut Vec<Buffer>) -> usize {
    match case.batch {
        1 => match measured_complete_one(queue) {
            Some(done) => {
                assert!(done.status.is_success(), "a read failed");
                buffers.extend(done.buffer);
                1
            }
            None => 0,
        },
        _ => measured_complete(queue, buffers),
    }
}

#[inline(never)]
fn measured_empty_poll(queue: &mut Queue) -> usize {
    queue.poll(|_| panic!("nothing is in flight"))
}

fn submit(
    case: &Case,
    queue: &mut Queue,
    namespace: &Namespace,
    buffers: &mut Vec<Buffer>,
    lba: &mut u64,
) {
    match case.doorbell {
        Doorbell::PerBatch if case.batch == 1 => {
            let buffer = buffers.pop().unwrap();
            measured_submit_one(queue, namespace, *lba, buffer);
            *lba = (*lba + 33) & 0xf_ffff;
        }
        Doorbell::PerBatch => measured_submit_batch(queue, namespace, buffers, lba),
        Doorbell::PerCommand => measured_submit_each(queue, namespace, buffers, lba),
    }
}

/// Ticks of a counter that runs at a constant rate.
#[inline(always)]
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the time stamp counter touches no memory.
    return unsafe {
        let ticks = std::arch::x86_64::_rdtsc();
        std::arch::x86_64::_mm_lfence();
        ticks
    };
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Nanoseconds of a tick, and ticks that an empty window costs.
fn calibrate() -> (f64, u64) {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed().as_millis() < 50 {}
    let rate = start.elapsed().as_nanos() as f64 / (ticks() - first) as f64;
    let empty = (0..10_000).map(|_| {
        let from = ticks();
        ticks() - from
    });
    (rate, empty.min().unwrap())
}

/// Median nanoseconds per I/O: (submit, complete).
fn nanoseconds(case: &Case, rate: f64, empty: u64) -> (f64, f64) {
    let mut rig = Rig::new(case);
    let (mut submits, mut completes) = (Vec::new(), Vec::new());
    let rounds = (400_000 / case.batch).max(10_000);
    let mut lba = 0;
    for round in 0..rounds {
        let at = round % rig.queues.len();
        let queue = &mut rig.queues[at];
        let from = ticks();
        submit(case, queue, &rig.namespace, &mut rig.buffers, &mut lba);
        let until = ticks();
        rig.clock.settle();
        let again = ticks();
        let mut count = complete(case, queue, &mut rig.buffers);
        let end = ticks();
        if count == 0 {
            // Only a look that finds nothing tells the device what was taken before; then it goes on.
            rig.clock.settle();
            count = complete(case, queue, &mut rig.buffers);
        }
        assert_eq!(count, case.batch);
        submits.push((until - from).saturating_sub(empty));
        completes.push((end - again).saturating_sub(empty));
    }
    let median = |samples: &mut Vec<u64>| {
        samples.sort_unstable();
        samples[samples.len() / 2] as f64 * rate / case.batch as f64
    };
    (median(&mut submits), median(&mut completes))
}

fn empty_poll_nanoseconds(rate: f64, empty: u64) -> f64 {
    let mut rig = Rig::new(&CASES[0]);
    let mut samples: Vec<u64> = (0..10_000)
        .map(|_| {
            let from = ticks();
            for _ in 0..32 {
                black_box(measured_empty_poll(&mut rig.queues[0]));
            }
            (ticks() - from).saturating_sub(empty)
        })
        .collect();
    samples.sort_unstable();
    samples[samples.len() / 2] as f64 * rate / 32.0
}

/// Runs a case `rounds` times and nothing else: what callgrind counts.
fn counted(which: usize, rounds: usize) {
    let empty_polls = which == CASES.len();
    let only_the_loop = which == CASES.len() + 1;
    let case = CASES.get(which).unwrap_or(&CASES[0]);
    let mut rig = Rig::new(case);
    let mut other = Vec::with_capacity(case.batch);
    let mut lba = 0;
    for round in 0..rounds {
        let at = round % rig.queues.len();
        let queue = &mut rig.queues[at];
        if empty_polls {
            measured_empty_poll(queue);
            continue;
        }
        if only_the_loop {
            assert_eq!(measured_loop(&mut rig.buffers, &mut other, &mut lba), 0);
            std::mem::swap(&mut rig.buffers, &mut other);
            continue;
        }
        submit(case, queue, &rig.namespace, &mut rig.buffers, &mut lba);
        rig.clock.settle();
        if complete(case, queue, &mut rig.buffers) == 0 {
            rig.clock.settle();
            complete(case, queue, &mut rig.buffers);
        }
        assert_eq!(rig.buffers.len(), case.batch);
    }
}

/// Instructions per I/O inside functions that match `toggle`; `None` without valgrind.
fn instructions(which: usize, toggle: &str) -> Option<f64> {
    const ROUNDS: usize = 200;
    let batch = match which.checked_sub(CASES.len()) {
        None => CASES[which].batch,
        Some(0) => 1,
        Some(_) => CASES[0].batch,
    };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{toggle}*"))
        .arg(std::env::current_exe().ok()?)
        .args(["--counted", &which.to_string(), &ROUNDS.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    let count = collected.and_then(|count| count.trim().parse::<f64>().ok());
    if count.is_none() || !output.status.success() {
        eprintln!("valgrind did not count:\n{text}");
        return None;
    }
    count.map(|count| count / (ROUNDS * batch) as f64)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--counted") {
        counted(arguments[at + 1].parse().unwrap(), arguments[at + 2].parse().unwrap());
        return;
    }
    let (rate, empty) = calibrate();
    println!("The driver's own cost per read; the device is stepped outside the measured code.\n");
    println!("{:<32}{:>26}{:>28}", "", "ns", "instructions");
    println!(
        "{:<32}{:>9}{:>9}{:>8}{:>10}{:>10}{:>8}",
        "4 KiB unless it says so", "submit", "complete", "both", "submit", "complete", "both"
    );
    let show = |count: Option<f64>| count.map_or("-".to_owned(), |count| format!("{count:.0}"));
    for (which, case) in CASES.iter().enumerate() {
        let (submit, complete) = nanoseconds(case, rate, empty);
        let in_submit = instructions(which, "measured_submit_");
        let in_complete = instructions(which, "measured_complete");
        let both = in_submit.zip(in_complete).map(|(submit, complete)| submit + complete);
        println!(
            "{:<32}{submit:>9.1}{complete:>9.1}{:>8.1}{:>10}{:>10}{:>8}",
            case.name,
            submit + complete,
            show(in_submit),
            show(in_complete),
            show(both)
        );
    }
    let poll = instructions(CASES.len(), "measured_empty_poll");
    let nanoseconds = empty_poll_nanoseconds(rate, empty);
    println!("{:<32}{:>26.1}{:>28}", "a poll that finds nothing", nanoseconds, show(poll));
    let around = instructions(CASES.len() + 1, "measured_loop");
    println!("{:<32}{:>54}", "the loop in batches, included", show(around));
    let rig = Rig::new(&CASES[0]);
    println!("\nmemory of a queue of {DEPTH}: {} KiB", rig.queues[0].bytes().div_ceil(1024));
}
