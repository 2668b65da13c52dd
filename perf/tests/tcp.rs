//! The binary on targets across a network: several at once, beside a local drive, with digests, and when one goes away.

mod common;

use common::{json, run};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::Running;
use doorbell_subsystem::port::tcp::Server;
use doorbell_subsystem::{NamespaceSpec, Subsystem};

/// A target in this process.
struct Served {
    address: String,
    _port: Running,
}

impl Served {
    fn start() -> Self {
        let namespace = NamespaceSpec::memory(64 << 20, 4096).open().expect("memory");
        let subsystem = Subsystem::builder().namespace(namespace).build();
        let target = Target::new(subsystem, Limits::default()).expect("a target");
        let server = Server::bind(target, &[([127, 0, 0, 1], 0).into()], 1).expect("a port");
        let address = format!("tcp://{}", server.addresses()[0]);
        Self { address, _port: server.spawn().expect("a thread") }
    }
}

#[test]
fn several_targets_and_a_local_drive_share_the_work() {
    let (first, second) = (Served::start(), Served::start());
    let digests = format!("{},hdgst,ddgst", second.address);
    let words = ["-w", "verify", "-n", "6000", "-q", "8", "-P", "2", "--yes-destroy-data"];
    let report = json(&words, &[&first.address, &digests, "embedded:size=64MiB,block=4096"]);
    assert_eq!(report["verify"]["blocks_wrong"], 0, "{report}");
    let devices = report["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), 3);
    assert!(devices.iter().all(|device| device["ios"].as_u64() > Some(1000)), "{report}");
    assert!(report["counters"]["cpu_system_nanoseconds"].as_u64() > Some(0), "{report}");
}

#[test]
fn processor_time_stands_beside_latency() {
    let served = Served::start();
    let output = run(&["-n", "2000", "-q", "4", &served.address]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("CPU time per I/O"), "{}", output.stdout);
}

#[test]
fn targets_are_not_overwritten_without_consent() {
    let served = Served::start();
    let output = run(&["-w", "randwrite", "-n", "10", &served.address]);
    assert_ne!(output.status, Some(0), "{}", output.stdout);
    assert!(output.stderr.contains("--yes-destroy-data"), "{}", output.stderr);
}
