//! SIGKILL while I/O runs: of the client under the server, and of the server under the client.
//!
//! Each round the other side is killed at a random moment and replaced. What was flushed before is there, what was in
//! flight is old or new and never a mixture, and the survivor goes on, with the descriptors and mappings that it had.
//! `DOORBELL_ROUNDS=200` makes it two hundred rounds of each.

use std::path::Path;
use std::time::{Duration, Instant};

use doorbell::{Address, Config, Controller, Done, Namespace, QueueConfig};
use doorbell_tests::model::Random;
use doorbell_tests::process::{Process, serve};
use doorbell_tests::wire::Directory;

const PROGRAM: &str = env!("CARGO_BIN_EXE_doorbell-subsystem");
const BLOCK: usize = 512;
/// Blocks that are written over and over.
const BLOCKS: u64 = 64;
const DEPTH: u16 = 16;

fn rounds() -> u64 {
    std::env::var("DOORBELL_ROUNDS").map_or(12, |rounds| rounds.parse().expect("a number"))
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

fn attach(path: &Path) -> Controller {
    let mut config = Config::default();
    config.admin_timeout = Duration::from_secs(5);
    config.exchange_timeout = Duration::from_secs(5);
    Controller::attach(&Address::VfioUser(path.into()), config).expect("attach")
}

fn queue_config() -> QueueConfig {
    let mut config = QueueConfig::with_depth(DEPTH);
    config.timeout = Duration::from_millis(500);
    config
}

/// Writes generation after generation to all blocks, a flush behind each; prints those that are flushed. Ends when the
/// device does, which is an error and no panic.
fn write_for_ever(controller: &Controller, mut generation: u64, mut flushed: impl FnMut(u64)) {
    let namespace = controller.namespace(1).expect("namespace");
    let mut queue = controller.queue(queue_config()).expect("queue");
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
            if count > 0 {
                progress = Instant::now();
            } else if progress.elapsed() > Duration::from_millis(500) {
                // The server is gone: it has let nothing be heard of it.
                return;
            }
            if failed {
                return;
            }
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
    let mut queue = controller.queue(queue_config()).expect("queue");
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

#[test]
#[ignore = "the client that is killed; started by the test below"]
fn client_process() {
    let path = std::env::var("KILL_PATH").expect("started by hand");
    let generation = std::env::var("KILL_FROM").expect("started by hand").parse().expect("number");
    let controller = attach(path.as_ref());
    write_for_ever(&controller, generation, |generation| println!("flushed {generation}"));
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
    let at_first = holdings(&server);
    let mut generation = 1;
    for round in 0..rounds() {
        let from = generation.to_string();
        let name = path.display().to_string();
        let variables = [("KILL_PATH", name.as_str()), ("KILL_FROM", from.as_str())];
        let mut client = Process::again("client_process", &variables);
        let (generations, while_longer) = a_random_moment(&mut random);
        for _ in 0..generations {
            client.line_after("flushed ");
        }
        spin(while_longer);
        client.kill();
        let flushed = client
            .last_after("flushed ")
            .map_or(generation, |line| line.parse().expect("a generation"));

        // At once: the next client need not wait, nor is it turned away.
        let controller = attach(&path);
        let namespace = controller.namespace(1).expect("namespace");
        let newest = check(&controller, &namespace, flushed);
        println!("round {round}: flushed {flushed}, newest {newest}");
        generation = newest.max(flushed) + 1;
        drop(namespace);
        controller.shutdown().expect("shut down");
        // Nothing of the dead is left behind.
        settles(&server, at_first);
    }
    drop(server);
}

#[test]
fn a_killed_server_ends_its_clients_io_and_keeps_what_was_flushed() {
    let mut random = Random::from_env();
    let directory = Directory::new("kill-server");
    let path = directory.join("socket");
    let spec = format!("file:{},size=1MiB", directory.join("disk.img").display());
    let (mut generation, mut flushed) = (1, 0);
    for round in 0..rounds() {
        // The same path: the dead server's socket is in the way, and is replaced.
        let mut server = serve(PROGRAM, &path, &[&spec]);
        let controller = attach(&path);
        let namespace = controller.namespace(1).expect("namespace");
        check(&controller, &namespace, flushed);

        let (generations, while_longer) = a_random_moment(&mut random);
        let (send, reports) = std::sync::mpsc::channel();
        let writer = {
            let controller = controller.clone();
            std::thread::spawn(move || {
                write_for_ever(&controller, generation, |flushed| {
                    let _ = send.send(flushed);
                });
            })
        };
        for _ in 0..generations {
            reports.recv_timeout(doorbell_tests::process::PATIENCE).expect("progress");
        }
        spin(while_longer);
        server.kill();
        // The writer notices by itself, and everything can be let go of.
        writer.join().expect("no panic");
        let started = Instant::now();
        drop(namespace);
        drop(controller);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        flushed = reports.try_iter().last().unwrap_or(generation + generations - 1);
        println!("round {round}: flushed {flushed}");

        let server = serve(PROGRAM, &path, &[&spec]);
        let controller = attach(&path);
        let namespace = controller.namespace(1).expect("namespace");
        let newest = check(&controller, &namespace, flushed);
        generation = newest.max(flushed) + 1;
        drop((namespace, controller, server));
    }
}
