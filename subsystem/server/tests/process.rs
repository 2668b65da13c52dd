//! The binary `doorbell-subsystem`, from outside: what it prints, how it ends, and what it does with its sockets.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use doorbell_spec::nvm;
use doorbell_tests::host::{DATA, Host, IOVA};
use doorbell_tests::process::{Process, serve};
use doorbell_tests::wire::Directory;
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_doorbell-subsystem");

fn run(args: &[&str]) -> (Output, String) {
    let output = Command::new(PROGRAM).args(args).output().expect("run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

fn attach(path: &std::path::Path) -> Host {
    let mut host = Host::connect(path).expect("connect");
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    host
}

#[test]
fn both_signals_flush_and_leave_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = Directory::new("binary");
        let (path, disk) = (directory.join("socket"), directory.join("disk.img"));
        let spec = format!("file:{},size=16MiB", disk.display());
        let mut server = serve(PROGRAM, &path, &["memory:16MiB", &spec]);
        let mut host = attach(&path);
        host.memory.write_all_at(&[0x3c; 512], DATA).expect("fill");
        let write = nvm::write(2, 5, 0).with_prp(IOVA + DATA, 0);
        assert!(host.io(write).expect("write").status().is_success());
        // The client stays attached meanwhile.
        server.signal(signal);
        assert!(server.wait().success(), "{signal:?}");
        assert!(!path.exists(), "{signal:?}: unlinked");
        let content = std::fs::read(&disk).expect("disk");
        assert_eq!(content.len(), 16 << 20);
        assert_eq!(content[5 * 512..6 * 512], [0x3c; 512]);
        assert!(host.register(0).is_err(), "gone");
    }
}

#[test]
fn an_idle_one_ends_at_once_as_well() {
    let directory = Directory::new("binary");
    let mut server = serve(PROGRAM, &directory.join("socket"), &[]);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn a_plan_of_faults_is_followed_and_accounted_for() {
    let directory = Directory::new("binary");
    let plan = directory.join("plan.toml");
    let text =
        "[[rule]]\nname='broken'\nat='command'\nopcode='read'\nnth=2\ndo='answer'\nstatus='2/81'\n";
    std::fs::write(&plan, text).expect("plan");
    let path = directory.join("socket");
    let faults = format!("--faults={}", plan.display());
    let args = [&format!("--vfio-user={}", path.display()), "--namespace=memory:1MiB", &faults];
    let mut server = Command::new(PROGRAM);
    let server = server.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let server = server.expect("start");
    let mut host = within(|| Host::connect(&path).ok());
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    let read = nvm::read(1, 0, 0).with_prp(IOVA + DATA, 0);
    let statuses = [(); 3].map(|()| host.io(read).expect("read").status());
    assert_eq!(statuses.map(|status| status.code()), [0, 0x281, 0]);
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, Signal::TERM).expect("kill");
    let output = server.wait_with_output().expect("end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("'broken': injected 1 of 3"), "{said}");

    std::fs::write(&plan, "\n[[rule]]\nat='command'\ndo='loose'\n").expect("plan");
    let (output, said) = run(&args);
    assert!(!output.status.success());
    assert!(said.contains("plan.toml") && said.contains("line 4, `do`"), "{said}");
}

/// What `attempt` brings, tried again until it brings something.
fn within<T>(attempt: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "still nothing");
        std::thread::yield_now();
    }
}

#[test]
fn several_ports_serve_the_same_namespaces() {
    let directory = Directory::new("binary");
    let (a, b) = (directory.join("a"), directory.join("b"));
    std::fs::create_dir(&b).expect("directory");
    let (first, second) = (a.display().to_string(), b.display().to_string());
    let args = ["--vfio-user", &first, "--vfio-user", &second, "-n", "memory:16MiB,block=4096"];
    let mut server = Process::start(PROGRAM, &args);
    assert_eq!(server.line(), format!("vfio-user:{first}"));
    assert_eq!(server.line(), format!("vfio-user:{second}"));
    let (mut one, mut two) = (attach(&a), attach(&b.join("cntrl")));
    one.memory.write_all_at(&[0x99; 4096], DATA).expect("fill");
    let write = nvm::write(1, 1, 0).with_prp(IOVA + DATA, 0);
    assert!(one.io(write).expect("write").status().is_success());
    let read = nvm::read(1, 1, 0).with_prp(IOVA + DATA, 0);
    assert!(two.io(read).expect("read").status().is_success());
    let mut block = [0; 4096];
    two.memory.read_exact_at(&mut block, DATA).expect("read");
    assert_eq!(block, [0x99; 4096]);
    server.signal(Signal::INT);
    assert!(server.wait().success());
    assert!(!a.exists() && b.exists() && !b.join("cntrl").exists());
}

#[test]
fn a_dead_server_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new("binary");
    let path = directory.join("socket");
    let mut dead = serve(PROGRAM, &path, &["memory:1MiB"]);
    dead.kill();
    assert!(path.exists(), "killed: it could not unlink");
    let _live = serve(PROGRAM, &path, &["memory:1MiB"]);
    let (output, text) = run(&["--vfio-user", path.to_str().expect("path")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("another server listens there"), "{text}");
    attach(&path);
}

#[test]
fn errors_name_the_part_and_the_remedy() {
    let directory = Directory::new("binary");
    let file = directory.join("file");
    std::fs::write(&file, "precious").expect("write");
    let socket = directory.join("socket").display().to_string();
    let cases: [(&[&str], i32, &str); 6] = [
        (&[], 2, "--vfio-user <PATH>"),
        (&["--vfio-user", &socket, "--namespace", "tape:1GiB"], 2, "memory:1GiB"),
        (
            &["--vfio-user", &socket, "--namespace", "file:/nowhere/disk.img"],
            1,
            "/nowhere/disk.img",
        ),
        (&["--vfio-user", &socket, "--mdts", "99"], 1, "1 to 16"),
        (&["--vfio-user", "/nowhere/socket"], 1, "/nowhere/socket: listening"),
        (&["--vfio-user", file.to_str().expect("path")], 1, "exists and is no socket"),
    ];
    for (args, code, expected) in cases {
        let (output, text) = run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    assert_eq!(std::fs::read(&file).expect("read"), b"precious");
    assert!(!std::path::Path::new(&socket).exists());
    // One port that cannot be leaves no other behind.
    let taken = directory.join("taken");
    let _listener = UnixListener::bind(&taken).expect("bind");
    let (output, _) = run(&["--vfio-user", &socket, "--vfio-user", taken.to_str().expect("path")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn help_shows_how() {
    let output = Command::new(PROGRAM).arg("--help").output().expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    for part in ["--namespace", "memory:1GiB", "file:disk.img", "cntrl", "vfio-user-pci", "SIGTERM"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.lines().all(|line| line.len() <= 120));
}
