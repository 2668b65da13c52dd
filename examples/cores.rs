//! One queue for each core: threads share the controller, and nothing else. Prints the IOPS of each.
//!
//! `cargo run --release --example cores [ADDRESS]`, by default on a drive emulated in this process.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use doorbell::{Controller, Namespace, QueueConfig};

const DEPTH: u16 = 32;
const TIME: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "embedded:".to_owned());
    if address.starts_with('-') {
        bail!("usage: cores [ADDRESS], for example cores pcie:0000:01:00.0");
    }
    let controller = doorbell::attach(&address)?;
    let namespace = controller.namespaces()?.into_iter().next().context("no usable namespace")?;
    let cores =
        thread::available_parallelism()?.get().min(controller.limits().max_io_queues.into());
    println!("{} - {cores} threads, a queue of depth {DEPTH} each", controller.address());
    let reads: Vec<Result<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let (controller, namespace) = (&controller, &namespace);
                scope.spawn(move || work(controller, namespace, core as u64))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    });
    let mut total = 0.0;
    for (core, reads) in reads.into_iter().enumerate() {
        let iops = reads? as f64 / TIME.as_secs_f64();
        println!("  thread {core}: {iops:>12.0} IOPS");
        total += iops;
    }
    println!("  total:    {total:>12.0} IOPS");
    Ok(())
}

/// Random reads of single blocks until the time is over; how many there were.
fn work(controller: &Controller, namespace: &Namespace, core: u64) -> Result<u64> {
    let mut queue = controller.queue(QueueConfig::with_depth(DEPTH))?;
    let mut random = core + 1;
    let mut idle = Vec::new();
    for _ in 0..DEPTH {
        idle.push(controller.buffer(namespace.block_size() as usize)?);
    }
    let (end, mut reads, mut failure) = (Instant::now() + TIME, 0, None);
    while Instant::now() < end && failure.is_none() {
        while let Some(buffer) = idle.pop() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let lba = ((u128::from(random) * u128::from(namespace.blocks())) >> 64) as u64;
            queue.stage(namespace.read(lba, buffer))?;
        }
        queue.ring();
        let done = queue.poll(|done| match done.ok() {
            Ok(done) => idle.extend(done.buffer),
            Err(error) => failure = Some(error),
        });
        reads += done as u64;
        if done == 0 {
            // With fewer cores than threads, the emulated drive needs one as well.
            thread::yield_now();
        }
    }
    failure.map_or(Ok(reads), |error| Err(error.into()))
}
