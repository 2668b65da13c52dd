//! Cost of a command in a connection alone: `cargo bench -p doorbell-subsystem --bench connection`.
//!
//! No socket and no kernel: bytes go in and come out. A line gives nanoseconds per 4 KiB command, the best of many short
//! windows, the copies of its bytes included. `--ms N` sets the time of a measurement.

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/tcp/host.rs"]
mod host;

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::nvm;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use host::{NQN, Options, attach};

const BLOCKS: u32 = 16_384;

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--ms").skip(1);
    let ms = arguments.next().and_then(|ms| ms.parse().ok()).unwrap_or(500);
    println!("{:<36}{:>8}{:>10}{:>10}", "ns per 4 KiB command", "depth 1", "32", "128");
    for digests in [false, true] {
        for spec in ["null:64MiB,block=4096", "memory:64MiB,block=4096"] {
            for write in [false, true] {
                let name = format!(
                    "{} {}{}",
                    spec.split(':').next().unwrap_or_default(),
                    if write { "write" } else { "read" },
                    if digests { ", digests" } else { "" }
                );
                let cost = [1, 32, 128].map(|depth| measure(spec, write, digests, depth, ms));
                println!("{name:<36}{:>8.1}{:>10.1}{:>10.1}", cost[0], cost[1], cost[2]);
            }
        }
    }
}

/// Nanoseconds per command, where `depth` of them arrive at once.
fn measure(spec: &str, write: bool, digests: bool, depth: u16, ms: u64) -> f64 {
    let spec: NamespaceSpec = spec.parse().expect("specification");
    let namespace = spec.open().expect("namespace");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let target = Target::new(subsystem, Limits::default()).expect("target");
    let digests = (digests, digests);
    let options = Options { digests, flow_control: false, ..Options::default() };
    let (_admin, mut io) = attach(&target, options);
    for slba in 0..BLOCKS {
        assert!(io.write(nvm::write(1, slba.into(), 0), &[1; 4096]).status().is_success());
    }
    let mut random = 1u32;
    // Batches of bytes that are ready before the clock runs: few, so that they stay in the processor's caches as what
    // a socket has just delivered does.
    let batches: Vec<Vec<u8>> = (0..(128 / depth).max(2))
        .map(|_| {
            let mut bytes = Vec::new();
            for cid in 0..depth {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let slba = u64::from(random >> 8) % u64::from(BLOCKS);
                let sqe: Sqe = if write {
                    nvm::write(1, slba, 0).with_sgl(Sgl::in_capsule(4096))
                } else {
                    nvm::read(1, slba, 0).with_sgl(Sgl::transport(4096))
                };
                let data: &[u8] = if write { &[2; 4096] } else { &[] };
                bytes.extend_from_slice(&io.capsule(sqe.with_cid(cid), data));
            }
            bytes
        })
        .collect();
    let mut best = f64::MAX;
    let end = Instant::now() + Duration::from_millis(ms / 3);
    while Instant::now() < end {
        let started = Instant::now();
        for batch in &batches {
            let mut rest = batch.as_slice();
            loop {
                let room = io.connection.room();
                let len = rest.len().min(room.len());
                room[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                io.connection.received(len);
                let work = io.connection.step(io.now);
                let sent = io.connection.transmit(|pieces| {
                    Ok::<_, Infallible>(black_box(pieces).iter().map(|piece| piece.len()).sum())
                });
                let sent = sent.unwrap_or(0);
                if work == 0 && sent == 0 && rest.is_empty() {
                    break;
                }
            }
        }
        let commands = batches.len() as f64 * f64::from(depth);
        best = best.min(started.elapsed().as_nanos() as f64 / commands);
    }
    assert!(!io.connection.is_ended());
    best
}
