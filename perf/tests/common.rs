//! Runs the binary and reads what it prints.

#![allow(dead_code, reason = "each test uses its own part")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

/// What a run left behind.
pub(crate) struct Output {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary.
pub(crate) fn run(words: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_doorbell-perf")).args(words).output().expect("starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("prints text");
    Output {
        status: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs the binary, which must succeed, and parses its JSON report.
pub(crate) fn json(words: &[&str], addresses: &[&str]) -> Value {
    let words = [words, &["--output", "json"], addresses].concat();
    let output = run(&words);
    assert_eq!(output.status, Some(0), "{words:?}\n{}{}", output.stderr, output.stdout);
    serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
}

/// Runs the binary, interrupts it as soon as it can be interrupted, and parses its JSON report.
pub(crate) fn interrupted(words: &[&str]) -> Value {
    let child = Command::new(env!("CARGO_BIN_EXE_doorbell-perf"))
        .args(words)
        .args(["--output", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let pid = child.id().to_string();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The mask of caught signals says when the handler for SIGINT (bit 1) is in place.
    let catches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 2 != 0)
    };
    while !catches() {
        assert!(Instant::now() < deadline, "never caught SIGINT");
        std::thread::yield_now();
    }
    let started = |line: &str| line.starts_with("perf-0");
    let working = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut names =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| started(&name))
    };
    while !working() {
        assert!(Instant::now() < deadline, "never started a worker");
        std::thread::yield_now();
    }
    let killed = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    assert!(killed.success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).expect("prints JSON")
}

/// Every summary has every key, and devices and operations add up to the total.
pub(crate) fn check_sums(report: &Value, ios: u64) {
    let total = &report["total"];
    assert_eq!(total["ios"], ios, "{report}");
    let devices = report["devices"].as_array().expect("a list").iter();
    let operations = report["operations"].as_object().expect("an object").values();
    for parts in [devices.collect::<Vec<_>>(), operations.collect()] {
        let sum: u64 = parts.iter().map(|part| part["ios"].as_u64().expect("a count")).sum();
        assert_eq!(sum, ios, "{report}");
        parts.into_iter().for_each(check_keys);
    }
    check_keys(total);
    assert_eq!(total["errors"], 0);
}

fn check_keys(summary: &Value) {
    for key in ["iops", "bytes_per_second", "errors"] {
        assert!(summary[key].is_number(), "{key} in {summary}");
    }
    let latency = |key: &str| {
        summary["latency_ns"][key].as_f64().unwrap_or_else(|| panic!("{key} in {summary}"))
    };
    let rising = ["min", "p50", "p90", "p99", "p99_9", "p99_99", "max"].map(latency);
    assert!(rising.is_sorted(), "{summary}");
    assert!(latency("mean") >= latency("min") && latency("mean") <= latency("max"));
}

/// I/Os in each histogram of a log: the untagged ones together, and the tagged ones together.
pub(crate) fn ios_in_log(log: &str) -> [u64; 2] {
    let mut sums = [0, 0];
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        let Ok(LogEntry::Interval(interval)) = entry else { continue };
        let bytes = decode(interval.encoded_histogram());
        let histogram: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).expect("is a histogram");
        sums[usize::from(interval.tag().is_some())] += histogram.len();
    }
    sums
}

/// Base 64 with padding.
fn decode(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for character in text.bytes().filter(|byte| *byte != b'=') {
        let digit = alphabet.iter().position(|known| *known == character).expect("base 64");
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A file that goes when the test ends.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A file of zeroes.
    pub(crate) fn file(name: &str, len: usize) -> Self {
        let path =
            std::env::temp_dir().join(format!("doorbell-perf-{}-{name}", std::process::id()));
        std::fs::write(&path, vec![0; len]).expect("writes");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).expect("reads")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
