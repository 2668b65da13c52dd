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
fn digests_and_queues_are_options_of_the_run() {
    let served = Served::start();
    let words =
        ["-w", "verify", "-n", "3000", "-P", "3", "--digests", "header,data", "--yes-destroy-data"];
    let report = json(&words, &[&served.address]);
    let used = report["configuration"]["addresses"][0].as_str().expect("an address").to_owned();
    assert!(used.ends_with(",hdgst,ddgst"), "{used}");
    assert_eq!(report["configuration"]["queues"], 3);
    assert_eq!(report["verify"]["blocks_wrong"], 0, "{report}");
}

#[test]
fn processor_time_stands_beside_latency() {
    let served = Served::start();
    let output = run(&["-n", "2000", "-q", "4", &served.address]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("CPU time per I/O"), "{}", output.stdout);
}

/// The binary through a port that is forwarded, without a name: the target does not know the address it is reached at.
#[test]
fn a_forwarded_port_needs_no_name() {
    let served = Served::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", listener.local_addr().expect("bound"));
    let port = served.address.trim_start_matches("tcp://").to_owned();
    std::thread::spawn(move || {
        for host in listener.incoming().map_while(Result::ok) {
            let there = std::net::TcpStream::connect(&port).expect("the port");
            let pairs = [(&host, &there), (&there, &host)];
            for (from, to) in pairs.map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap())) {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (from, to);
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let output = run(&["-n", "1000", "-q", "4", &address]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
}

#[test]
fn targets_are_not_overwritten_without_consent() {
    let served = Served::start();
    let output = run(&["-w", "randwrite", "-n", "10", &served.address]);
    assert_ne!(output.status, Some(0), "{}", output.stdout);
    assert!(output.stderr.contains("--yes-destroy-data"), "{}", output.stderr);
}
