//! Cost of a command in the controller alone: `cargo bench -p doorbell-subsystem`.
//!
//! One thread is host and controller in turn, with rings and doorbells in ordinary memory. A line gives nanoseconds
//! per 4 KiB command, the best of many short windows, host's part included (eight stores, two loads, a random number). `--ms N` sets the time of a measurement.

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/controller/ram.rs"]
mod ram;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbell_spec::admin;
use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::nvm;
use doorbell_spec::register::{Aqa, Cc, offset};
use doorbell_subsystem::{Controller, ControllerConfig, DoorbellMemory, NamespaceSpec, Subsystem};
use ram::{BASE, Ram};

const ENTRIES: u32 = 1024;
const ADMIN_SQ: u64 = BASE;
const ADMIN_CQ: u64 = BASE + 0x1000;
const SQ: u64 = BASE + 0x1_0000;
const CQ: u64 = BASE + 0x3_0000;
const DATA: u64 = BASE + 0x20_0000;
const BUFFERS: u64 = 256;
const BLOCK: u64 = 4096;

struct Bench {
    controller: Controller,
    ram: Arc<Ram>,
    tail: u32,
    head: u32,
    phase: bool,
    random: u64,
}

impl Bench {
    fn new(spec: &str, queues: u16) -> Self {
        let spec: NamespaceSpec = spec.parse().expect("specification");
        let subsystem = Subsystem::builder().namespace(spec.open().expect("namespace")).build();
        let config =
            ControllerConfig { doorbells: DoorbellMemory::Heap, ..ControllerConfig::default() };
        let mut controller = Controller::new(subsystem, config).expect("controller");
        let ram = Arc::new(Ram::new(4 << 20));
        ram.map(&mut controller, 0, BASE, 4 << 20).expect("map");
        let aqa = Aqa::new().with_asqs_z(31).with_acqs_z(255);
        controller.write(offset::AQA, 4, aqa.into_bits().into());
        controller.write(offset::ASQ, 8, ADMIN_SQ);
        controller.write(offset::ACQ, 8, ADMIN_CQ);
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
        controller.write(offset::CC, 4, cc.into_bits().into());
        let mut bench = Self { controller, ram, tail: 0, head: 0, phase: true, random: 1 };
        let size_z = (ENTRIES - 1) as u16;
        let mut commands = Vec::new();
        for qid in 1..=queues {
            // All but the first stay idle: their memory is never looked at.
            commands.push(admin::create_io_cq(qid, size_z, None).with_prp(CQ, 0));
            commands.push(admin::create_io_sq(qid, size_z, qid, 0).with_prp(SQ, 0));
        }
        for (index, sqe) in commands.into_iter().enumerate() {
            bench.store(ADMIN_SQ, index as u32 % 32, sqe);
            bench.controller.doorbells().store(0, (index as u32 + 1) % 32);
            while bench.controller.poll(Duration::ZERO) == 0 {}
            let entry = ADMIN_CQ + index as u64 * 16;
            let words = [bench.ram.word(entry), bench.ram.word(entry + 8)];
            assert!(Cqe::from_words(words).status().is_success(), "{:?}", Cqe::from_words(words));
        }
        bench
    }

    fn store(&self, queue: u64, index: u32, sqe: Sqe) {
        let at = queue + u64::from(index) * 64;
        for (offset, word) in (at..).step_by(8).zip(sqe.to_words()) {
            self.ram.set_word(offset, word);
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Nanoseconds per command at this depth, in the best of many short windows.
    fn run(&mut self, depth: u32, blocks: u64, write: bool, time: Duration) -> f64 {
        let batches = (8192 / depth).max(1);
        let commands = f64::from(batches * depth);
        best(time, || {
            let start = Instant::now();
            (0..batches).for_each(|_| self.batch(depth, blocks, write));
            start.elapsed().as_nanos() as f64 / commands
        })
    }

    #[inline]
    fn batch(&mut self, depth: u32, blocks: u64, write: bool) {
        for index in 0..depth {
            let random = self.random();
            let lba = (random >> 8) % blocks;
            let buffer = DATA + (random & (BUFFERS - 1)) * BLOCK;
            let sqe = if write { nvm::write(1, lba, 0) } else { nvm::read(1, lba, 0) };
            self.store(SQ, self.tail, sqe.with_cid(index as u16).with_prp(buffer, 0));
            self.tail = (self.tail + 1) % ENTRIES;
        }
        self.controller.doorbells().store(2, self.tail);
        let mut reaped = 0;
        while reaped < depth {
            self.controller.poll(Duration::ZERO);
            while reaped < depth {
                let at = CQ + u64::from(self.head) * 16;
                let high = self.ram.word(at + 8);
                if (high & Cqe::PHASE_BIT != 0) != self.phase {
                    break;
                }
                black_box(self.ram.word(at));
                assert_eq!(high >> 49, 0, "status");
                self.head += 1;
                if self.head == ENTRIES {
                    self.head = 0;
                    self.phase = !self.phase;
                }
                reaped += 1;
            }
            self.controller.doorbells().store(3, self.head);
        }
    }
}

/// The lowest of what `window` returns, over and over for `time`: other work on the machine only ever adds.
fn best(time: Duration, mut window: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < time {
        best = best.min(window());
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let ms = args.iter().skip_while(|arg| *arg != "--ms").nth(1);
    let time = Duration::from_millis(ms.and_then(|ms| ms.parse().ok()).unwrap_or(500));

    println!("{:<28}{:>10}{:>10}{:>10}", "ns per 4 KiB command", "depth 1", "32", "128");
    let cases = [
        ("null read", "null:1TiB,block=4096", (1 << 40) / BLOCK, false),
        ("null write", "null:1TiB,block=4096", (1 << 40) / BLOCK, true),
        ("memory read, 64 MiB", "memory:64MiB,block=4096", (64 << 20) / BLOCK, false),
        ("memory write, 64 MiB", "memory:64MiB,block=4096", (64 << 20) / BLOCK, true),
        ("memory read, 1 GiB", "memory:1GiB,block=4096", (1 << 30) / BLOCK, false),
        ("memory write, 1 GiB", "memory:1GiB,block=4096", (1 << 30) / BLOCK, true),
    ];
    for (name, spec, blocks, write) in cases {
        let mut bench = Bench::new(spec, 1);
        if spec.starts_with("memory") {
            bench.run(32, blocks, true, time.max(Duration::from_millis(500)));
        }
        let depths = [1, 32, 128].map(|depth| {
            bench.run(depth, blocks, write, time / 5);
            bench.run(depth, blocks, write, time)
        });
        println!("{name:<28}{:>10.1}{:>10.1}{:>10.1}", depths[0], depths[1], depths[2]);
    }
    for queues in [1, 21, 127] {
        let mut bench = Bench::new("null:1TiB", queues);
        let each = best(time, || {
            let start = Instant::now();
            for _ in 0..10_000 {
                assert_eq!(black_box(bench.controller.poll(Duration::ZERO)), 0);
            }
            start.elapsed().as_nanos() as f64 / 10_000.0
        });
        println!("{:<28}{each:>10.1}", format!("idle round, {queues} queues"));
    }
}
