//! Two controllers of one subsystem share a namespace: one goes and comes back in every way that there is, the namespace
//! lives on, and I/O through the other never fails.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use doorbell::clock::SystemClock;
use doorbell::device::embedded::Embedded;
use doorbell::{Address, Config, Controller, Queue, QueueConfig};
use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::port::vfio_user;
use doorbell_subsystem::{
    Controller as Emulated, ControllerConfig, InProcess, NamespaceSpec, Subsystem,
};
use doorbell_tests::load::{Progress, Region, Tally};
use doorbell_tests::rig::{NQN, Port, Scratch, within};

const ROUNDS: u64 = 5;
const CELLS: usize = 32;
/// Regions of the namespace: of the controller that stays, and of the one that goes.
const STAYS: u64 = 0;
const GOES: u64 = 1;

fn subsystem() -> Arc<Subsystem> {
    let spec: NamespaceSpec = "memory:1MiB".parse().expect("a namespace");
    Subsystem::builder().nqn(NQN).namespace(spec.open().expect("memory")).build()
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

/// Stops a worker, also where something panics.
struct Stop<'a>(&'a Progress);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
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

/// Load through `controller` while `act` does something to it, and may watch it; then the queue is drained or ends.
fn under_load(controller: &Controller, region: &mut Region, act: impl FnOnce(&Progress)) -> Tally {
    let progress = Progress::default();
    let (namespace, mut queue) = (controller.namespace(1).expect("a namespace"), queue(controller));
    region.check(controller, &namespace, &mut queue);
    thread::scope(|scope| {
        let worker = scope.spawn(|| region.work(controller, &namespace, &mut queue, &progress));
        let stop = Stop(&progress);
        advance(&progress, 50);
        act(&progress);
        drop(stop);
        worker.join().expect("the controller that goes")
    })
}

/// Dropped in the middle of everything: commands in flight, nobody polls.
fn dropped_at_work(controller: Controller, region: &mut Region) {
    let (namespace, mut queue) = (controller.namespace(1).expect("one"), queue(&controller));
    region.check(&controller, &namespace, &mut queue);
    for lba in 0..4 {
        let buffer = controller.buffer(4096).expect("memory");
        queue.submit(namespace.read(lba, buffer)).expect("room");
    }
    drop((controller, queue, namespace));
}

/// Comes and goes through `open`: reset, detached, dropped with I/O in flight, and with its port taken away.
fn goes_and_comes(subsystem: &Arc<Subsystem>, open: impl Fn() -> Gate) {
    beside(subsystem, |steady| {
        let mut region = Region::new(GOES, CELLS);
        let mut gate = open();
        for round in 0..ROUNDS {
            let controller = gate.attach();
            under_load(&controller, &mut region, |_| {
                controller.reset().expect("a reset");
            });
            let detached = under_load(&controller, &mut region, |_| {
                controller.detach().expect("detached");
            });
            drop(controller);
            advance(steady, 20);

            dropped_at_work(gate.attach(), &mut region);
            advance(steady, 20);

            // The port goes, and another takes its place.
            let controller = gate.attach();
            let mut taken = Some(gate);
            let lost = under_load(&controller, &mut region, |_| drop(taken.take()));
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

/// A host of `port` that comes back at once, and until the port does: nothing that was in flight can still be carried
/// out when a port has ended.
fn over_tcp(port: &Port) -> Controller {
    let address = format!("{},reconnect=10ms,quiesce=0", port.address());
    Controller::attach(&address.parse().expect("an address"), Config::default()).expect("attach")
}

#[test]
fn one_goes_over_tcp_and_io_through_the_other_never_fails() {
    within(Duration::from_secs(240), || {
        let subsystem = subsystem();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let mut port = Some(Port::serve(subsystem.clone(), Limits::default(), address));
        beside(&subsystem, |steady| {
            let mut region = Region::new(GOES, CELLS);
            for round in 0..ROUNDS {
                let here = port.as_ref().expect("a port");
                let controller = over_tcp(here);
                let detached = under_load(&controller, &mut region, |_| {
                    controller.detach().expect("detached");
                });
                drop(controller);
                advance(steady, 20);
                dropped_at_work(over_tcp(here), &mut region);
                advance(steady, 20);

                // The port goes, and comes back: the controller is another one then, the namespace is not.
                let controller = over_tcp(here);
                let lost = under_load(&controller, &mut region, |progress| {
                    let (target, address) = port.take().expect("a port").end();
                    advance(steady, 20);
                    port = Some(Port::again(target, address));
                    advance(progress, 20);
                });
                println!("round {round}: {detached:?} detached, {lost:?} with a port that went");
            }
            let last = over_tcp(port.as_ref().expect("a port"));
            let (namespace, mut queue) = (last.namespace(1).expect("a namespace"), queue(&last));
            region.check(&last, &namespace, &mut queue);
        });
    });
}
