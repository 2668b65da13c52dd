//! Runs every example with no argument, as a reader of the README would, and looks at what it prints.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::{NamespaceSpec, Subsystem};
use doorbell_tests::rig::Port;

/// Cargo builds the examples of a package before its tests, next to them.
fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().expect("has a path");
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(name))
}

fn run(name: &str, words: &[&str]) -> String {
    let output = example(name).args(words).output().expect("the example has been built");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {words:?}: {stderr}{stdout}");
    stdout.into_owned()
}

fn fails(name: &str, words: &[&str]) -> String {
    let output = example(name).args(words).output().expect("the example has been built");
    assert!(!output.status.success(), "{name} {words:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn hello_reads_what_it_wrote() {
    for words in [&[][..], &["embedded:size=64MiB,block=512"]] {
        let text = run("hello", words);
        assert_eq!(text.matches("Hello from userspace!").count(), 2, "{text}");
        assert!(text.contains("The drive agrees."), "{text}");
    }
}

#[test]
fn identify_speaks_in_words() {
    let text = run("identify", &[]);
    for word in ["Controller embedded:", "model", "NVMe version", "Namespace", "block size"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn identify_speaks_json() {
    let text = run("identify", &["--json", "embedded:size=64MiB,block=512"]);
    let all: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    assert_eq!(all["namespaces"][0]["blocks"], 131_072, "{all}");
    assert!(all["controller"]["model"].is_string(), "{all}");
}

#[test]
fn passthrough_dumps_identify_by_default() {
    let text = run("passthrough", &[]);
    assert!(text.starts_with("00000000  ") && text.ends_with("00001000\n"), "{text}");
}

#[test]
fn passthrough_takes_data_from_a_file_and_back() {
    let scratch = |name: &str| {
        std::env::temp_dir().join(format!("doorbell-examples-{}-{name}", std::process::id()))
    };
    let (disk, input, output) = (scratch("disk"), scratch("in"), scratch("out"));
    std::fs::write(&input, vec![0x5a; 4096]).expect("writes");
    let address = format!("embedded:file={},size=16MiB,block=4096", disk.display());
    let (input_path, output_path) =
        (input.to_str().expect("plain"), output.to_str().expect("plain"));
    run(
        "passthrough",
        &["--io", "-o", "1", "-n", "1", "--cdw10", "5", "--input", input_path, &address],
    );
    run(
        "passthrough",
        &["--io", "-o", "2", "-n", "1", "--cdw10", "5", "--output", output_path, &address],
    );
    assert_eq!(std::fs::read(&output).expect("reads"), vec![0x5a; 4096]);
    for path in [disk, input, output] {
        std::fs::remove_file(path).expect("removes");
    }
}

#[test]
fn passthrough_explains_a_refusal() {
    let text = fails("passthrough", &["-o", "0x7e"]);
    assert!(text.contains("Invalid Command Opcode"), "{text}");
}

#[test]
fn cores_count_each_thread() {
    let text = run("cores", &[]);
    assert!(text.contains("thread 0:") && text.contains("total:"), "{text}");
}

#[test]
fn a_wrong_address_is_explained() {
    for name in ["hello", "identify", "passthrough", "cores"] {
        let text = fails(name, &["nonsense"]);
        assert!(text.contains("nonsense"), "{name}: {text}");
    }
}

/// A port in this process, with one namespace of 64 MiB in blocks of 512 bytes.
fn served() -> Port {
    let namespace = NamespaceSpec::memory(64 << 20, 512).open().expect("memory");
    let subsystem = Subsystem::builder().namespace(namespace).build();
    Port::serve(subsystem, Limits::default(), ([127, 0, 0, 1], 0).into())
}

/// An example that goes on until it is ended, line by line.
struct Going {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Going {
    fn start(name: &str, words: &[&str]) -> Self {
        let child = example(name).args(words).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the example has been built");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        // Ends with the child.
        thread::spawn(move || output.lines().map_while(Result::ok).all(|it| send.send(it).is_ok()));
        Self { child, lines }
    }

    /// Waits for a line that is this one.
    fn says(&self, words: &str) {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.trim() == words => return,
                Ok(line) => before.push(line),
                Err(error) => panic!("{error} without '{words}': {before:#?}"),
            }
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn events_are_shown_as_they_come() {
    let served = served();
    let address = format!("tcp://{},kato=60s,reconnect=10ms,quiesce=0", served.socket);
    let events = Going::start("events", &[&address]);
    events.says("namespace 1: 64 MiB");
    events.says("1 in all");
    let more = NamespaceSpec::memory(1 << 20, 512).open().expect("memory");
    let nsid = served.target.subsystem().add(more).expect("room");
    events.says(&format!("Namespaces changed: {nsid}"));
    events.says("namespace 2: 1 MiB");
    events.says("2 in all");
    served.target.subsystem().remove(nsid).expect("is there");
    events.says("1 in all");
    let (target, socket) = served.end();
    let served = Port::again(target, socket);
    events.says("Connected again");
    let more = NamespaceSpec::memory(2 << 20, 512).open().expect("memory");
    served.target.subsystem().add(more).expect("room");
    events.says("namespace 2: 2 MiB");
}

#[test]
fn every_example_does_over_tcp_what_it_does_here() {
    let served = served();
    let address = &*format!("tcp://{}", served.socket);
    // But for the first line, which says where it is.
    let hello = |address: &str| {
        let text = run("hello", &[address]);
        assert!(text.contains("The drive agrees."), "{text}");
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(hello(address), hello("embedded:size=64MiB,block=512"));

    let json = |address: &str| -> serde_json::Value {
        serde_json::from_str(&run("identify", &["--json", address])).expect("is JSON")
    };
    let (there, here) = (json(address), json("embedded:size=64MiB,block=512"));
    assert_eq!(there["namespaces"], here["namespaces"]);
    for fact in ["model", "serial", "firmware", "NVMe version", "volatile write cache", "compare"] {
        assert_eq!(there["controller"][fact], here["controller"][fact], "{fact}");
    }

    // Identify Namespace, byte for byte.
    let words = ["-o", "6", "-n", "1", "--cdw10", "0"];
    let dump = |address: &str| run("passthrough", &[&words[..], &[address]].concat());
    assert_eq!(dump(address), dump("embedded:size=64MiB,block=512"));
    let text = fails("passthrough", &["-o", "0x7e", address]);
    assert!(text.contains("Invalid Command Opcode"), "{text}");

    let text = run("cores", &[address]);
    assert!(text.contains("thread 0:") && text.contains("total:"), "{text}");

    let text = run("discover", &[address, "--connect"]);
    assert!(text.contains("NVM Subsystem") && text.contains("namespace 1: 64 MiB"), "{text}");
    let text = fails("discover", &["embedded:"]);
    assert!(text.contains("across a network"), "{text}");
}
