//! SIGKILL while I/O runs: of the client under the server, and of the server under the client.
//!
//! Each round the other side is killed at a random moment and replaced. What was flushed before is there, what was in
//! flight is old or new and never a mixture, and the survivor goes on, with the descriptors and mappings that it had.
//! Two hundred rounds of each; `DOORBELL_ROUNDS=12` for fewer.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use doorbell::{Config, Controller, Done, Namespace, QueueConfig, RecoveryCounters};
use doorbell_tests::load::{Progress, Region};
use doorbell_tests::model::Random;
use doorbell_tests::process::{PATIENCE, Process, serve};
use doorbell_tests::wire::Directory;

const PROGRAM: &str = env!("CARGO_BIN_EXE_doorbell-subsystem");
const BLOCK: usize = 512;
/// Blocks that are written over and over.
const BLOCKS: u64 = 64;
const DEPTH: u16 = 16;

fn rounds() -> u64 {
    std::env::var("DOORBELL_ROUNDS").map_or(200, |rounds| rounds.parse().expect("a number"))
}

/// What a process holds: descriptors, and mappings of other processes' memory.
fn holdings(process: &Process) -> (usize, usize) {
    let place = Path::new("/proc").join(process.id().to_string());
    let maps = std::fs::read_to_string(place.join("maps")).expect("maps");
    let descriptors = std::fs::read_dir(place.join("fd")).expect("descriptors").count();
    (descriptors, maps.lines().filter(|line| line.contains("memfd:")).count())
}

/// Waits until `process` holds no more than `least`: it notices the end of a client by itself.
fn settles(process: &Process, least: (usize, usize)) {
    let started = Instant::now();
    while holdings(process) != least {
        let now = holdings(process);
        assert!(started.elapsed() < Duration::from_secs(20), "holds {now:?}, at first {least:?}");
        std::thread::yield_now();
    }
}

fn attach(address: &str) -> Controller {
    let mut config = Config::default();
    config.admin_timeout = PATIENCE;
    config.exchange_timeout = PATIENCE;
    Controller::attach(&address.parse().expect("an address"), config).expect("attach")
}

fn queue_config(timeout: Duration) -> QueueConfig {
    let mut config = QueueConfig::with_depth(DEPTH);
    config.timeout = timeout;
    config
}

/// Writes generation after generation to all blocks, a flush behind each; reports those that are flushed. Ends when the
/// device does, of which the driver tells: every command ends.
fn write_for_ever(
    controller: &Controller,
    timeout: Duration,
    mut generation: u64,
    mut flushed: impl FnMut(u64),
) {
    let namespace = controller.namespace(1).expect("namespace");
    let mut queue = controller.queue(queue_config(timeout)).expect("queue");
    let mut buffers: Vec<_> =
        (0..DEPTH).map(|_| controller.buffer(BLOCK).expect("buffer")).collect();
    loop {
        let (mut next, mut done) = (0, 0);
        let mut progress = Instant::now();
        while done < BLOCKS {
            while next < BLOCKS
                && let Some(mut buffer) = buffers.pop()
            {
                fill(&mut buffer, generation, next);
                if queue.submit(namespace.write(next, buffer)).is_err() {
                    return;
                }
                next += 1;
            }
            let mut failed = false;
            let count = queue.poll(|finished: Done| {
                failed |= !finished.status.is_success();
                buffers.extend(finished.buffer);
                done += 1;
            });
            if failed {
                return;
            }
            if count > 0 {
                progress = Instant::now();
            }
            assert!(progress.elapsed() < 3 * PATIENCE, "commands that do not end");
            std::thread::yield_now();
        }
        if queue.run(namespace.flush()).is_err() {
            return;
        }
        flushed(generation);
        generation += 1;
    }
}

fn fill(buffer: &mut [u8], generation: u64, lba: u64) {
    for (index, word) in buffer.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(generation << 16 | lba << 8 | index as u64).to_le_bytes());
    }
}

/// Every block is wholly of one generation, and of none before `flushed`. Returns the newest.
fn check(controller: &Controller, namespace: &Namespace, flushed: u64) -> u64 {
    let mut queue = controller.queue(queue_config(PATIENCE)).expect("queue");
    let mut newest = 0;
    for lba in 0..BLOCKS {
        let buffer = controller.buffer(BLOCK).expect("buffer");
        let done = queue.run(namespace.read(lba, buffer)).expect("read");
        let buffer = done.buffer.expect("buffer");
        let words: Vec<u64> = buffer
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
            .collect();
        let generation = words[0] >> 16;
        assert!(generation >= flushed, "block {lba}: {generation}, flushed {flushed}");
        if generation == 0 {
            continue;
        }
        for (index, word) in words.iter().enumerate() {
            let expected = generation << 16 | lba << 8 | index as u64;
            assert_eq!(*word, expected, "block {lba}, word {index}: a mixture");
        }
        newest = newest.max(generation);
    }
    newest
}

/// Waits for a few generations, and then a random while that ends in the middle of one.
fn a_random_moment(random: &mut Random) -> (u64, Duration) {
    (1 + random.below(20), Duration::from_micros(random.below(3000)))
}

fn spin(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        std::thread::yield_now();
    }
}

/// A client that writes through `address` from `generation` on, killed at a random moment. The last generation that it
/// had flushed.
fn killed_client(random: &mut Random, address: &str, generation: u64) -> u64 {
    let from = generation.to_string();
    let variables = [("KILL_ADDRESS", address), ("KILL_FROM", from.as_str())];
    let mut client = Process::again("client_process", &variables);
    let (generations, while_longer) = a_random_moment(random);
    let mut last = String::new();
    for _ in 0..generations {
        last = client.line_after("flushed ");
    }
    spin(while_longer);
    client.kill();
    let last = client.last_after("flushed ").unwrap_or(last);
    last.parse().expect("a generation")
}

/// At once: the next client need not wait, nor is it turned away; and nothing is missing. The newest generation.
fn next_client(address: &str, flushed: u64) -> u64 {
    let controller = attach(address);
    let namespace = controller.namespace(1).expect("namespace");
    let newest = check(&controller, &namespace, flushed);
    drop(namespace);
    controller.shutdown().expect("shut down");
    newest
}

#[test]
#[ignore = "the client that is killed; started by the tests below"]
fn client_process() {
    let address = std::env::var("KILL_ADDRESS").expect("started by hand");
    let generation = std::env::var("KILL_FROM").expect("started by hand").parse().expect("number");
    let controller = attach(&address);
    let report = |generation| println!("flushed {generation}");
    write_for_ever(&controller, PATIENCE, generation, report);
    println!("ended");
}

#[test]
fn a_killed_client_leaves_the_server_ready_for_the_next_one() {
    let mut random = Random::from_env();
    let directory = Directory::new("kill-client");
    let path = directory.join("socket");
    let disk = format!("file:{},size=1MiB", directory.join("disk.img").display());
    let spec = if random.below(2) == 0 { "memory:1MiB" } else { &disk };
    let server = serve(PROGRAM, &path, &[spec]);
    let address = format!("vfio-user:{}", path.display());
    let at_first = holdings(&server);
    let mut generation = 1;
    for round in 0..rounds() {
        let flushed = killed_client(&mut random, &address, generation);
        let newest = next_client(&address, flushed);
        println!("round {round}: flushed {flushed}, newest {newest}");
        generation = newest.max(flushed) + 1;
        // Nothing of the dead is left behind.
        settles(&server, at_first);
    }
    drop(server);
}

/// The namespace belongs to the subsystem: a client of one controller dies again and again, and the I/O of another's
/// never fails. A tenth of the rounds for each pair of doors.
#[test]
fn a_killed_client_disturbs_nobody_who_shares_its_namespace() {
    let mut random = Random::from_env();
    let directory = Directory::new("kill-beside");
    let socket = directory.join("socket");
    let local = format!("vfio-user:{}", socket.display());
    let name = "nqn.2014-08.org.example:kill";
    let mut args = vec!["--vfio-user", socket.to_str().expect("UTF-8"), "--tcp", "127.0.0.1:0"];
    args.extend(["--nqn", name, "--namespace", "memory:1MiB"]);
    let server = Process::start(PROGRAM, &args);
    // A host that is not heard of for so long is none: not on a machine that stands still for a while.
    let remote = format!("tcp://{},kato=100s", server.line_after("tcp://"));
    let mut generation = 1;
    for (stays, goes) in [(&remote, &local), (&local, &remote), (&remote, &remote)] {
        let controller = attach(stays);
        let namespace = controller.namespace(1).expect("namespace");
        let mut queue = controller.queue(queue_config(PATIENCE)).expect("queue");
        let progress = Progress::default();
        // Blocks behind those of the client that is killed.
        let mut region = Region::new(1, 64);
        region.erase(&controller, &namespace, &mut queue);
        let tally = std::thread::scope(|scope| {
            let worker =
                scope.spawn(|| region.work(&controller, &namespace, &mut queue, &progress));
            let stop = Stop(&progress);
            let at_first = holdings(&server);
            for round in 0..rounds().div_ceil(10) {
                let before = progress.done.load(Ordering::Relaxed);
                let flushed = killed_client(&mut random, goes, generation);
                let newest = next_client(goes, flushed);
                println!("round {round}: flushed {flushed}, newest {newest}");
                generation = newest.max(flushed) + 1;
                settles(&server, at_first);
                let began = Instant::now();
                while progress.done.load(Ordering::Relaxed) == before {
                    assert!(began.elapsed() < PATIENCE, "the other controller's I/O stands still");
                    std::thread::yield_now();
                }
            }
            drop(stop);
            worker.join().expect("the controller that stays")
        });
        println!("{stays} beside {goes}: {tally:?}");
        assert_eq!(tally.lost, 0, "{stays} beside {goes}");
        assert_eq!(controller.recovery(), RecoveryCounters::default());
        region.check(&controller, &namespace, &mut queue);
        drop((queue, namespace));
        controller.shutdown().expect("shut down");
    }
}

/// Stops a worker, whatever comes.
struct Stop<'a>(&'a Progress);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_server_ends_its_clients_io_and_keeps_what_was_flushed() {
    let mut random = Random::from_env();
    let directory = Directory::new("kill-server");
    let path = directory.join("socket");
    let address = format!("vfio-user:{}", path.display());
    let spec = format!("file:{},size=1MiB", directory.join("disk.img").display());
    let (mut generation, mut flushed) = (1, 0);
    // The same path: the dead server's socket is in the way, and is replaced.
    let mut server = serve(PROGRAM, &path, &[&spec]);
    for round in 0..rounds() {
        let controller = attach(&address);
        let namespace = controller.namespace(1).expect("namespace");
        let (generations, while_longer) = a_random_moment(&mut random);
        let (send, reports) = std::sync::mpsc::channel();
        let (alone, mut timeout) = (round % 50 == 0, PATIENCE);
        if alone {
            timeout = Duration::from_secs(8);
        }
        let writer = {
            let controller = controller.clone();
            std::thread::spawn(move || {
                write_for_ever(&controller, timeout, generation, |flushed| {
                    let _ = send.send(flushed);
                });
            })
        };
        for _ in 0..generations {
            flushed = reports.recv_timeout(PATIENCE).expect("progress");
        }
        spin(while_longer);
        server.kill();
        // The writer's queue finds out by itself, when nothing has completed for a quarter of its time-out; or at once,
        // because whoever asks the controller for something finds out for everybody.
        if !alone {
            controller.reset().expect_err("there is nobody");
        }
        writer.join().expect("no panic");
        let started = Instant::now();
        drop(namespace);
        drop(controller);
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        flushed = reports.try_iter().last().unwrap_or(flushed);

        server = serve(PROGRAM, &path, &[&spec]);
        let newest = next_client(&address, flushed);
        println!("round {round}: flushed {flushed}, newest {newest}");
        generation = newest.max(flushed) + 1;
    }
}
