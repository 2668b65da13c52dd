//! Two controllers of one subsystem share a namespace: one goes and comes back in every way that there is, the namespace
//! lives on, and I/O through the other never fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use doorbell::clock::SystemClock;
use doorbell::device::embedded::Embedded;
use doorbell::{Address, Config, Controller, Queue, QueueConfig};
use doorbell_subsystem::port::vfio_user;
use doorbell_subsystem::{
    Controller as Emulated, ControllerConfig, InProcess, NamespaceSpec, Subsystem,
};
use doorbell_tests::load::{Progress, Region, Tally};
use doorbell_tests::rig::{Scratch, within};

const ROUNDS: u64 = 5;
const CELLS: usize = 32;
/// Regions of the namespace: of the controller that stays, and of the one that goes.
const STAYS: u64 = 0;
const GOES: u64 = 1;

fn subsystem() -> Arc<Subsystem> {
    let spec: NamespaceSpec = "memory:1MiB".parse().expect("a namespace");
    Subsystem::builder().namespace(spec.open().expect("memory")).build()
}

/// A controller of `subsystem` in this process.
fn embedded(subsystem: &Arc<Subsystem>) -> Controller {
    let emulated = Emulated::new(subsystem.clone(), ControllerConfig::default());
    let port = InProcess::spawn(emulated.expect("a controller")).expect("a thread");
    let device = Arc::new(Embedded::over("embedded:".into(), port));
    Controller::attach_device(device, Config::default(), Arc::new(SystemClock::new()))
        .expect("attach")
}

fn queue(controller: &Controller) -> Queue {
    let mut config = QueueConfig::with_depth(8);
    config.timeout = Duration::from_secs(2);
    controller.queue(config).expect("a queue")
}

/// Where one controller of the subsystem is reached, until it is dropped.
struct Gate {
    _running: doorbell_subsystem::port::Running,
    path: PathBuf,
}

impl Gate {
    fn open(subsystem: &Arc<Subsystem>, path: &Path) -> Self {
        let emulated = Emulated::new(subsystem.clone(), ControllerConfig::default());
        let server = vfio_user::Server::bind(path, emulated.expect("a controller"));
        let running = server.expect("a socket").spawn().expect("a thread");
        Self { _running: running, path: path.into() }
    }

    fn attach(&self) -> Controller {
        let mut config = Config::default();
        config.exchange_timeout = Duration::from_secs(5);
        config.admin_timeout = Duration::from_secs(5);
        Controller::attach(&Address::VfioUser(self.path.clone()), config).expect("attach")
    }
}

/// Runs `act` while a worker through another controller of the subsystem writes and verifies; none of its commands fails.
fn beside(subsystem: &Arc<Subsystem>, act: impl FnOnce(&Progress)) {
    let stays = embedded(subsystem);
    let progress = Progress::default();
    let tally = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut region = Region::new(STAYS, CELLS);
            let (namespace, mut queue) = (stays.namespace(1).expect("a namespace"), queue(&stays));
            let tally = region.work(&stays, &namespace, &mut queue, &progress);
            region.check(&stays, &namespace, &mut queue);
            tally
        });
        // Stops the worker also if what follows panics.
        struct Stop<'a>(&'a Progress);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(&progress);
        act(&progress);
        drop(stop);
        worker.join().expect("the controller that stays")
    });
    assert_eq!(tally.lost, 0, "{tally:?}");
    println!("beside: {tally:?}, {:?}", stays.recovery());
    assert_eq!(stays.recovery(), doorbell::RecoveryCounters::default());
    stays.shutdown().expect("shut down");
}

/// Waits until `progress` is `more` further.
fn advance(progress: &Progress, more: u64) {
    let (from, began) = (progress.done.load(Ordering::Relaxed), Instant::now());
    while progress.done.load(Ordering::Relaxed) < from + more {
        assert!(began.elapsed() < Duration::from_secs(30), "no progress");
        thread::yield_now();
    }
}

/// Load through `controller` while `act` does something to it; then the queue is drained or ends.
fn under_load(controller: &Controller, region: &mut Region, act: impl FnOnce()) -> Tally {
    let progress = Progress::default();
    let (namespace, mut queue) = (controller.namespace(1).expect("a namespace"), queue(controller));
    region.check(controller, &namespace, &mut queue);
    thread::scope(|scope| {
        let worker = scope.spawn(|| region.work(controller, &namespace, &mut queue, &progress));
        advance(&progress, 50);
        act();
        progress.stop.store(true, Ordering::Relaxed);
        worker.join().expect("the controller that goes")
    })
}

/// Comes and goes through `open`: reset, detached, dropped with I/O in flight, and with its port taken away.
fn goes_and_comes(subsystem: &Arc<Subsystem>, open: impl Fn() -> Gate) {
    beside(subsystem, |steady| {
        let mut region = Region::new(GOES, CELLS);
        let mut gate = open();
        for round in 0..ROUNDS {
            let controller = gate.attach();
            under_load(&controller, &mut region, || controller.reset().expect("a reset"));
            let detached = under_load(&controller, &mut region, || {
                controller.detach().expect("detached");
            });
            drop(controller);
            advance(steady, 20);

            // Dropped in the middle of everything: commands in flight, nobody polls.
            let controller = gate.attach();
            let (namespace, mut queue) =
                (controller.namespace(1).expect("one"), queue(&controller));
            region.check(&controller, &namespace, &mut queue);
            for lba in 0..4 {
                let buffer = controller.buffer(4096).expect("memory");
                queue.submit(namespace.read(lba, buffer)).expect("room");
            }
            drop((controller, queue, namespace));
            advance(steady, 20);

            // The port goes, and another takes its place.
            let controller = gate.attach();
            let mut taken = Some(gate);
            let lost = under_load(&controller, &mut region, || drop(taken.take()));
            advance(steady, 20);
            gate = open();
            println!("round {round}: {detached:?} detached, {lost:?} without a port");
        }
        let last = gate.attach();
        let (namespace, mut queue) = (last.namespace(1).expect("a namespace"), queue(&last));
        region.check(&last, &namespace, &mut queue);
    });
}

#[test]
fn one_goes_over_vfio_user_and_io_through_the_other_never_fails() {
    within(Duration::from_secs(240), || {
        let scratch = Scratch::new();
        let (path, subsystem) = (scratch.join("socket"), subsystem());
        goes_and_comes(&subsystem, || Gate::open(&subsystem, &path));
    });
}
