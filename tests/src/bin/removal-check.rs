//! A process whose drive is taken away under load, again and again: what the guests of tests/vm run.
//!
//! ```text
//! usage: removal-check BDF ROUNDS obey|detach|notice [BESIDE]
//!        removal-check BDF taken-away
//! ```
//! Each round attaches the drive as soon as it is bound to vfio-pci, keeps three threads with a queue each busy, prints
//! `attached ROUND`, waits until all of them have ended, and prints `ended ROUND`. On a request for the drive the driver
//! detaches by itself (obey), the caller has it detached (detach), or nobody looks and the queues have to notice
//! (notice). Handles of one round are held until the next has attached. BESIDE is another controller of the same
//! subsystem, whose I/O must never fail. The last form lets go of memory decoding under a mapping, and ends by SIGBUS:
//! it shows what the others avoid.

use std::error::Error;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, thread};

use doorbell::device::Device;
use doorbell::device::vfio::Vfio;
use doorbell::transport::Violation;
use doorbell::{Address, Config, Controller, Event, Namespace, Queue, QueueConfig};
use doorbell_tests::function::ring;
use doorbell_tests::load::{Progress, Region, Tally};
use doorbell_tests::model::Random;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Threads with a queue each, and cells of each.
const WORKERS: u64 = 3;
const CELLS: usize = 64;
const DEPTH: u16 = 16;
/// The drive goes and comes at the tester's pace.
const PATIENCE: Duration = Duration::from_secs(80);
/// After which a command is overdue: not before everybody else has given up, unless it is what has to be noticed.
const OVERDUE: Duration = Duration::from_secs(60);
const NOTICED: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Obey,
    Detach,
    Notice,
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [bdf, "taken-away"] => taken_away(bdf),
        [bdf, rounds, manner, beside @ ..] => {
            let manner = match *manner {
                "obey" => Manner::Obey,
                "detach" => Manner::Detach,
                _ => Manner::Notice,
            };
            run(bdf, rounds.parse().unwrap_or(1), manner, beside.first().copied())
        }
        _ => Err("usage: removal-check BDF ROUNDS obey|detach|notice [BESIDE]".into()),
    };
    match result {
        Ok(()) => 0.into(),
        Err(why) => {
            println!("failed: {why}");
            1.into()
        }
    }
}

/// Signals with handlers, without those that the C library has for itself (real-time ones). Rust's runtime has them for
/// SIGSEGV and SIGBUS, to report a stack that is exhausted; whatever else raises these ends the process.
fn handlers() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.map_or(0, |mask| mask as u32 & 0x7fff_ffff)
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What of VFIO this process has mapped.
fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| line.contains("vfio")).count()
}

fn address(bdf: &str) -> Outcome<Address> {
    Ok(format!("pcie:{bdf}").parse()?)
}

fn config(manner: Manner) -> Config {
    let mut config = Config::default();
    config.detach_on_request = manner == Manner::Obey;
    config.admin_timeout = if manner == Manner::Notice { NOTICED } else { OVERDUE };
    config
}

/// Attaches the drive once it is there, and the kernel has given it to vfio-pci.
fn attach(bdf: &str, config: &Config) -> Outcome<Controller> {
    let began = Instant::now();
    loop {
        match Controller::attach(&address(bdf)?, config.clone()) {
            Ok(controller) => return Ok(controller),
            Err(why) if began.elapsed() > PATIENCE => return Err(why.into()),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

struct Worker {
    region: Region,
    queue: Queue,
    namespace: Namespace,
}

impl Worker {
    fn new(
        controller: &Controller,
        mut region: Region,
        manner: Manner,
        first: bool,
    ) -> Outcome<Self> {
        let mut config = QueueConfig::with_depth(DEPTH);
        config.timeout = if manner == Manner::Notice { NOTICED } else { OVERDUE };
        let (namespace, mut queue) = (controller.namespace(1)?, controller.queue(config)?);
        if first {
            region.erase(controller, &namespace, &mut queue);
        }
        region.check(controller, &namespace, &mut queue);
        Ok(Self { region, queue, namespace })
    }
}

fn run(bdf: &str, rounds: u64, manner: Manner, beside: Option<&str>) -> Outcome {
    let before = handlers();
    println!("signals with handlers: {before:x}h");
    let mut random = Random::from_env();
    let mut regions: Vec<Region> = (0..WORKERS).map(|index| Region::new(index, CELLS)).collect();
    let mut held: Option<(Controller, Vec<Worker>)> = None;
    let mut settled = None;

    let elsewhere = beside.map(|bdf| attach(bdf, &config(manner))).transpose()?;
    let steady = Progress::default();
    thread::scope(|scope| -> Outcome {
        let other = elsewhere.as_ref().map(|controller| {
            let mut worker = Worker::new(controller, Region::new(WORKERS, CELLS), manner, true)?;
            let steady = &steady;
            let thread = scope.spawn(move || {
                let Worker { region, queue, namespace } = &mut worker;
                region.work(controller, namespace, queue, steady)
            });
            Outcome::Ok(thread)
        });
        let other = other.transpose()?;
        let outcome: Outcome = (0..rounds).try_for_each(|round| {
            let controller = attach(bdf, &config(manner))?;
            // The old handles outlived the drive; a new one has come meanwhile.
            drop(held.take());
            let workers: Outcome<Vec<_>> = regions
                .drain(..)
                .map(|region| Worker::new(&controller, region, manner, round == 0))
                .collect();
            let passed_beside = steady.done.load(Ordering::Relaxed);
            let (workers, tally) =
                one_round(round, &controller, workers?, manner, random.below(20))?;
            let beside = steady.done.load(Ordering::Relaxed) - passed_beside;
            if elsewhere.is_some() && beside == 0 {
                return Err("nothing was done through the other controller".into());
            }
            let stats = controller.memory().stats();
            println!("# {tally:?}, beside {beside}, {:?}", controller.recovery());
            for (what, bad) in [
                ("memory was leaked", stats.leaked > 0),
                ("a mapping of the drive is left", elsewhere.is_none() && mappings() > 0),
                ("signal handlers have changed", handlers() != before),
            ] {
                if bad {
                    return Err(what.into());
                }
            }
            // Descriptors and memory, after two rounds to settle in.
            let now = descriptors();
            if round >= 2 && *settled.get_or_insert(now) != now {
                return Err(format!("{now} descriptors, after {settled:?}").into());
            }
            let (kept, moved): (Vec<_>, Vec<_>) = workers
                .into_iter()
                .enumerate()
                .map(|(index, worker)| {
                    let Worker { region, queue, namespace } = worker;
                    (Worker { region: Region::new(index as u64, 1), queue, namespace }, region)
                })
                .unzip();
            regions = moved;
            held = Some((controller, kept));
            println!("ended {round}");
            Ok(())
        });
        steady.stop.store(true, Ordering::Relaxed);
        if let Some(other) = other {
            let tally = other.join().map_err(|_| "the other controller's worker panicked")?;
            println!("# beside: {tally:?}");
            if tally.lost > 0 {
                return Err(format!("I/O failed through the other controller: {tally:?}").into());
            }
        }
        outcome
    })?;
    println!("all rounds");
    Ok(())
}

/// Load until the drive has gone.
fn one_round(
    round: u64,
    controller: &Controller,
    workers: Vec<Worker>,
    manner: Manner,
    busy: u64,
) -> Outcome<(Vec<Worker>, Tally)> {
    let progress: Vec<Progress> = workers.iter().map(|_| Progress::default()).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .zip(&progress)
            .map(|(mut worker, progress)| {
                scope.spawn(move || {
                    let Worker { region, queue, namespace } = &mut worker;
                    let tally = region.work(controller, namespace, queue, progress);
                    (worker, tally)
                })
            })
            .collect();
        let began = Instant::now();
        // Some work first, as much as chance will have it.
        let enough = |progress: &Progress| progress.done.load(Ordering::Relaxed) > 50 + 10 * busy;
        while !progress.iter().all(enough) && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        println!("attached {round}");
        let mut asked = 0;
        while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            if manner != Manner::Notice {
                controller.poll(|event| asked += u32::from(event == Event::RemovalAsked));
            }
            if manner == Manner::Detach && asked > 0 {
                controller.detach()?;
            }
            if began.elapsed() > PATIENCE {
                // Or the scope would wait for ever.
                progress.iter().for_each(|all| all.stop.store(true, Ordering::Relaxed));
            }
            thread::sleep(Duration::from_millis(2));
        }
        if began.elapsed() > PATIENCE {
            return Err("the drive was not taken away".into());
        }
        if manner != Manner::Notice && asked == 0 {
            return Err("nobody asked for the drive".into());
        }
        let mut sum = Tally::default();
        let mut back = Vec::new();
        for thread in threads {
            let (worker, tally) = thread.join().map_err(|_| "a worker panicked")?;
            if worker.queue.failure() != Some(Violation::Ended) {
                return Err(format!("a queue ended by {:?}", worker.queue.failure()).into());
            }
            (sum.done, sum.lost) = (sum.done + tally.done, sum.lost + tally.lost);
            back.push(worker);
        }
        Ok((back, sum))
    })
}

/// What happens to a store if decoding goes off under a mapping: the process ends.
fn taken_away(bdf: &str) -> Outcome {
    let device = Vfio::open(bdf.parse()?)?;
    let doorbells = device.doorbells(0x1000)?;
    ring(&doorbells, 0, 0);
    let ours = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )?;
    let of_device = fs::read_dir("/proc/self/fd")?.flatten().find(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("vfio-device"))
    });
    let number = of_device.ok_or("no descriptor of the device")?;
    let number = number.file_name().to_string_lossy().parse()?;
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let file = fs::File::from(rustix::process::pidfd_getfd(ours, number, flags)?);
    // The command register, in the region of configuration space.
    file.write_all_at(&[0, 4], (7 << 40) + 4)?;
    println!("decoding is off");
    ring(&doorbells, 0, 0);
    // The same when the function has been given back is no more than a store to memory.
    Err("the store went through".into())
}
