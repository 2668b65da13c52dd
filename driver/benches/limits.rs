//! What the machine itself can do: the bounds that end-to-end figures are to be read against.
//!
//! `cargo bench -p doorbell --bench limits` lets two threads exchange entries of 64 bytes and answers of 16 through
//! memory, as a driver and a controller do and with nothing else to do, and copies blocks as a controller does.

#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(700);
const SIZE: usize = 256;

#[repr(align(64))]
struct Entry([AtomicU64; 8]);

#[repr(align(128))]
struct Line(AtomicU64);

struct Ring {
    entries: Vec<Entry>,
    answers: Vec<[AtomicU64; 2]>,
    tail: Line,
    stop: AtomicBool,
}

fn exchange(depth: u64, burst: u64) -> f64 {
    let ring = Ring {
        entries: (0..SIZE).map(|_| Entry(Default::default())).collect(),
        answers: (0..SIZE).map(|_| Default::default()).collect(),
        tail: Line(AtomicU64::new(0)),
        stop: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| answer(&ring));
        let (mut sent, mut told, mut done) = (0u64, 0u64, 0u64);
        let start = Instant::now();
        while done & 0xfff != 0 || start.elapsed() < RUN {
            while sent - done < depth {
                let Entry(words) = &ring.entries[sent as usize % SIZE];
                for word in words {
                    word.store(sent, Ordering::Relaxed);
                }
                sent += 1;
                if sent - told >= burst {
                    ring.tail.0.store(sent, Ordering::Release);
                    told = sent;
                }
            }
            if sent != told {
                ring.tail.0.store(sent, Ordering::Release);
                told = sent;
            }
            // No pause between looks: it costs more than the answer takes.
            while ring.answers[done as usize % SIZE][1].load(Ordering::Acquire) == done + 1 {
                black_box(ring.answers[done as usize % SIZE][0].load(Ordering::Relaxed));
                done += 1;
            }
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        ring.stop.store(true, Ordering::Relaxed);
        rate
    })
}

fn answer(ring: &Ring) {
    let mut head = 0u64;
    while !ring.stop.load(Ordering::Relaxed) {
        let tail = ring.tail.0.load(Ordering::Acquire);
        while head != tail {
            let Entry(words) = &ring.entries[head as usize % SIZE];
            let sum =
                words.iter().map(|word| word.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
            let [low, high] = &ring.answers[head as usize % SIZE];
            low.store(black_box(sum), Ordering::Relaxed);
            high.store(head + 1, Ordering::Release);
            head += 1;
        }
    }
}

/// Blocks a second that one core copies from random places of 64 MiB into buffers in turn.
fn copies(block: usize, buffers: usize) -> f64 {
    let source = vec![1u8; 64 << 20];
    let mut targets = vec![0u8; block * buffers];
    let blocks = (source.len() / block) as u64;
    let (mut count, mut place) = (0u64, 1u64);
    let start = Instant::now();
    while count & 0xff != 0 || start.elapsed() < RUN {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let from = ((u128::from(place) * u128::from(blocks)) >> 64) as usize * block;
        let to = count as usize % buffers * block;
        targets[to..to + block].copy_from_slice(&source[from..from + block]);
        count += 1;
    }
    black_box(&targets);
    count as f64 / start.elapsed().as_secs_f64()
}

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    (0..3).map(|_| measure()).fold(0.0, f64::max)
}

fn main() {
    println!("What this machine can do, best of three:\n");
    for (depth, burst) in [(1, 1), (32, 4), (128, 16)] {
        let rate = best(|| exchange(depth, burst));
        println!("bare exchange between two cores, depth {depth:<4}{:>10.2} M/s", rate / 1e6);
    }
    for (block, buffers) in [(4096, 32), (4096, 128), (128 << 10, 32)] {
        let rate = best(|| copies(block, buffers));
        let bytes = rate * block as f64 / 1e9;
        println!(
            "copies of {:>3} KiB out of 64 MiB into {buffers:<4}buffers{:>10.3} M/s{bytes:>8.1} GB/s",
            block >> 10,
            rate / 1e6
        );
    }
}
