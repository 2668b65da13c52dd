//! The binary over TCP, with the driver of this workspace as its host.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use doorbell::{Controller, QueueConfig};
use doorbell_tests::process::Process;
use doorbell_tests::wire::Directory;
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_doorbell-subsystem");
const NQN: &str = "nqn.2014-08.org.example:binary";

/// The binary at a port of the kernel's choice, and its address.
fn serve(more: &[&str]) -> (Process, String) {
    let mut args = vec!["--tcp", "127.0.0.1:0", "--nqn", NQN];
    args.extend(more);
    let process = Process::start(PROGRAM, &args);
    let address = process.line_after("tcp://");
    (process, format!("tcp://{address}"))
}

fn write(controller: &Controller, lba: u64, byte: u8) {
    let namespace = controller.namespace(1).expect("namespace");
    let mut queue = controller.queue(QueueConfig::default()).expect("queue");
    let mut buffer = controller.buffer(64 << 10).expect("buffer");
    buffer.fill(byte);
    drop(queue.run(namespace.write(lba, buffer)).expect("write"));
}

fn read(controller: &Controller, lba: u64) -> Vec<u8> {
    let namespace = controller.namespace(1).expect("namespace");
    let mut queue = controller.queue(QueueConfig::default()).expect("queue");
    let buffer = controller.buffer(64 << 10).expect("buffer");
    let done = queue.run(namespace.read(lba, buffer)).expect("read");
    done.buffer.expect("the buffer").to_vec()
}

#[test]
fn what_is_written_through_one_port_is_read_through_the_other() {
    let directory = Directory::new("tcp");
    let socket = directory.join("socket");
    let path = socket.to_str().expect("UTF-8");
    let (mut server, address) =
        serve(&["--vfio-user", path, "--tcp-threads", "2", "-n", "memory:64MiB"]);
    assert!(address.ends_with(&format!("/{NQN}")), "{address}");
    let local = doorbell::attach(&format!("vfio-user:{path}")).expect("vfio-user");
    let remote = doorbell::attach(&address).expect("tcp");
    write(&remote, 100, 0xa1);
    assert_eq!(read(&local, 100), vec![0xa1; 64 << 10]);
    write(&local, 900, 0xb2);
    assert_eq!(read(&remote, 900), vec![0xb2; 64 << 10]);
    assert_eq!(remote.nqn(), NQN);
    // Without an NQN the discovery service finds it.
    let (bare, _) = address.rsplit_once('/').expect("an NQN");
    let found = doorbell::attach(bare).expect("discovered");
    assert_eq!(read(&found, 900), vec![0xb2; 64 << 10]);
    server.signal(Signal::TERM);
    assert!(server.wait().success(), "with hosts attached");
}

#[test]
fn a_host_that_is_not_on_the_list_is_told_so_at_once() {
    let other = "nqn.2014-08.org.example:someone-else";
    let (_server, address) = serve(&["--allow-host", other, "-n", "memory:1MiB"]);
    let started = Instant::now();
    let error = doorbell::attach(&address).err().expect("refused").to_string();
    assert!(error.contains("Invalid Host"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

/// Processor time that a process has taken, in ticks of 10 ms.
fn ticks(server: &Process) -> u64 {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(server.id().to_string()).join("stat"))
            .expect("stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

#[test]
fn idle_hosts_cost_next_to_nothing() {
    let (server, address) = serve(&["-n", "memory:1MiB"]);
    let hosts: Vec<_> = (0..8).map(|_| doorbell::attach(&address).expect("attach")).collect();
    let queues: Vec<_> =
        hosts.iter().map(|host| host.queue(QueueConfig::default()).expect("queue")).collect();
    let before = ticks(&server);
    std::thread::sleep(Duration::from_secs(2));
    let taken = ticks(&server) - before;
    assert!(taken <= 4, "{taken} ticks of 10 ms in 2 s: more than 2 % of a processor");
    drop((queues, hosts));
}

#[test]
fn errors_name_the_part_and_the_remedy() {
    let (_server, address) = serve(&["-n", "memory:1MiB"]);
    let taken = address.trim_start_matches("tcp://").split('/').next().expect("address");
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--tcp", taken], 1, "cannot listen"),
        (&["--tcp", "localhost"], 2, "write 127.0.0.1"),
        (&["--tcp", "127.0.0.1:0", "--nqn", "mine"], 1, "begins with nqn."),
        (
            &["--tcp", "127.0.0.1:0", "--allow-host", "me"],
            1,
            "--allow-host: an NQN begins with nqn.",
        ),
        (&["--tcp", "127.0.0.1:0", "--referral", "here"], 2, "192.0.2.1:8009"),
        (&["--tcp", "127.0.0.1:0", "--tcp-threads", "0"], 2, "1..=256"),
    ];
    for (args, code, expected) in cases {
        let output = Command::new(PROGRAM).args(args).output().expect("run");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}
