//! The binary on emulated drives: every workload, several devices, queues and threads, and what it says at the end.

mod common;

use common::{Scratch, json, run};

const WORKLOADS: [&str; 11] = [
    "read",
    "write",
    "randread",
    "randwrite",
    "rw",
    "randrw",
    "trim",
    "flush",
    "write-zeroes",
    "compare",
    "verify",
];

#[test]
fn every_workload_adds_up() {
    for workload in WORKLOADS {
        for address in ["embedded:size=16MiB", "embedded:size=16MiB,block=4096"] {
            let report = json(&["-w", workload, "-n", "2000", "-q", "16"], &[address]);
            common::check_sums(&report, 2000);
            assert!(report["counters"]["doorbells"].as_u64() > Some(0), "{report}");
        }
    }
}

#[test]
fn devices_queues_and_threads_share_the_work() {
    let words = ["-w", "randrw", "-n", "4001", "-q", "4", "-P", "2", "-c", "2"];
    let report = json(&words, &["embedded:size=16MiB", "embedded:size=16MiB"]);
    common::check_sums(&report, 4001);
    let devices = report["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device["ios"].as_u64() > Some(1500)), "{report}");
}

#[test]
fn verify_reads_back_what_several_queues_wrote() {
    for words in [
        ["-b", "4k", "-q", "32", "-P", "2", "-c", "2", "-n", "20000"],
        ["-b", "64k", "-q", "8", "-P", "1", "-c", "1", "-n", "2000"],
        ["-b", "1m", "-q", "4", "-P", "1", "-c", "1", "-n", "100"],
    ] {
        let words = [&["-w", "verify"], words.as_slice()].concat();
        let report = json(&words, &["embedded:size=64MiB", "embedded:size=64MiB,block=4096"]);
        assert_eq!(report["verify"]["blocks_wrong"], 0, "{report}");
        assert!(report["verify"]["blocks_checked"].as_u64() > Some(1000), "{report}");
    }
}

#[test]
fn verify_finds_a_drive_that_keeps_nothing() {
    let output = run(&["-w", "verify", "-n", "500", "embedded:null=16MiB"]);
    assert_eq!(output.status, Some(1), "{}", output.stdout);
    assert!(output.stdout.contains("WRONG DATA"), "{}", output.stdout);
    assert!(
        output.stdout.contains("LBA ") && output.stdout.contains("expected 0x"),
        "{}",
        output.stdout
    );
}

#[test]
fn a_timed_run_takes_its_time() {
    let report = json(&["-t", "300ms", "-a", "50ms", "-q", "4"], &["embedded:size=16MiB"]);
    let seconds = report["total"]["seconds"].as_f64().expect("a number");
    assert!((0.3..3.0).contains(&seconds), "{seconds}");
    assert!(report["total"]["ios"].as_u64() > Some(0));
}

#[test]
fn a_batch_of_one_rings_for_each_command() {
    let report = json(&["-n", "3000", "-q", "16", "--batch", "1"], &["embedded:size=16MiB"]);
    assert!(report["counters"]["doorbells"].as_u64() >= Some(3000), "{report}");
    let report = json(&["-n", "3000", "-q", "16", "-C", "1"], &["embedded:size=16MiB"]);
    common::check_sums(&report, 3000);
}

#[test]
fn large_ios_are_divided_and_counted_once() {
    let report = json(&["-n", "64", "-q", "128", "-b", "2m"], &["embedded:size=64MiB,mdts=128KiB"]);
    common::check_sums(&report, 64);
    assert!(report["counters"]["divided"].as_u64() >= Some(64), "{report}");
    assert_eq!(report["total"]["bytes"], 64 << 21);
}

#[test]
fn zipf_and_rate_work_together() {
    let words = ["-F", "1.1", "-r", "5000", "-t", "500ms", "-a", "0", "-q", "64"];
    let report = json(&words, &["embedded:size=16MiB"]);
    let iops = report["total"]["iops"].as_f64().expect("a number");
    assert!((3000.0..6000.0).contains(&iops), "{iops}");
}

#[test]
fn the_driver_and_the_kernel_are_compared_on_one_file() {
    let file = Scratch::file("compared", 1 << 20);
    let address = format!("embedded:file={}", file.path());
    let report = json(&["--compare", "io_uring", "-n", "500", "-q", "8"], &[&address]);
    common::check_sums(&report, 500);
    common::check_sums(&report["compare"], 500);
}

#[test]
fn the_report_tells_the_story() {
    let output = run(&["-w", "randrw", "-n", "5000", "embedded:size=16MiB", "embedded:size=16MiB"]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    for word in [
        "70 % reads",
        "IOPS",
        "p99.99",
        "embedded:",
        "read ",
        "write ",
        "total",
        "Latency of",
        "Per I/O",
    ] {
        assert!(output.stdout.contains(word), "{word} in {}", output.stdout);
    }
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 100), "{}", output.stdout);
}

#[test]
fn prefilled_blocks_are_written_before_the_run() {
    // 4096 blocks of 4 KiB that are written, and those that are read.
    for (when, address, commands) in [
        ("--prefill", "embedded:null=16MiB", 4096 + 500),
        ("--prefill=auto", "embedded:size=16MiB", 4096 + 500),
        ("--prefill=auto", "embedded:null=16MiB", 500),
        ("--prefill=no", "embedded:size=16MiB", 500),
    ] {
        let report = json(&[when, "-n", "500", "-q", "8", "-P", "2"], &[address]);
        common::check_sums(&report, 500);
        assert_eq!(report["counters"]["commands"], commands, "{when} {address}");
    }
    assert_eq!(run(&["--prefill", "-w", "trim"]).status, Some(2));
}

#[test]
fn an_interrupt_ends_the_run_and_keeps_the_result() {
    let words = ["-t", "1h", "-a", "0", "-q", "4", "embedded:size=16MiB"];
    let report = common::interrupted(&words);
    assert_eq!(report["interrupted"], true);
    assert!(report["total"]["ios"].as_u64() > Some(0), "{report}");
}

#[test]
fn wrong_addresses_are_explained() {
    for (words, expected) in [
        (&["pcie:0000:00"][..], "pcie:"),
        (&["embedded:size=1GiB,block=4096", "-b", "512"], "blocks of 4096 bytes"),
        (&["embedded:", "-N", "9"], "namespace 9"),
        (&["--compare", "io_uring"], "--compare-target"),
        (&["/dev/null"], "io_uring or pread"),
    ] {
        let output = run(words);
        assert_eq!(output.status, Some(2), "{words:?}: {}", output.stdout);
        assert!(output.stderr.contains(expected), "{words:?}: {}", output.stderr);
    }
}

#[test]
fn a_plan_of_faults_is_followed_accounted_for_and_recovered_from() {
    let plan = std::env::temp_dir().join(format!("doorbell-perf-{}.toml", std::process::id()));
    let rules = "seed = 5\n\
        [[rule]]\nname = 'status'\nat = 'completion'\nopcode = 'read'\nprobability = 0.01\ndo = 'status'\nstatus = '2/81'\n\
        [[rule]]\nname = 'cid'\nat = 'completion'\nqueue = 'io'\nnth = 500\ndo = 'cid'\nvalue = 65535\n";
    std::fs::write(&plan, rules).expect("a file");
    let path = plan.to_str().expect("a path");
    let words = ["-w", "verify", "-n", "4000", "-q", "8", "--faults", path, "--output", "json"];
    let output = run(&[&words[..], &["embedded:size=16MiB"]].concat());
    assert_eq!(output.status, Some(1), "{}", output.stderr);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let injected = |name: &str| -> u64 {
        let line = format!("fault '{name}': injected ");
        let rest = output.stderr.lines().find_map(|found| found.strip_prefix(&line));
        rest.and_then(|rest| rest.split(' ').next()).expect(name).parse().expect(name)
    };
    let errors = &report["total"]["errors"];
    assert!(injected("status") > 0 && injected("cid") == 1, "{}", output.stderr);
    let counters = &report["counters"];
    for (name, expected) in [("violations", 1), ("recovery_resets", 1), ("recovery_given_up", 0)] {
        assert_eq!(counters[name], expected, "{name} of {counters}");
    }
    assert!(errors.as_u64() >= Some(injected("status")), "{errors}");
    // The run says so in words as well.
    let output =
        run(&["-w", "verify", "-n", "4000", "-q", "8", "--faults", path, "embedded:size=16MiB"]);
    assert!(output.stdout.contains("Recovery: "), "{}", output.stdout);
    std::fs::remove_file(&plan).expect("removed");
    let output = run(&["-n", "1", "--faults", path, "embedded:size=16MiB"]);
    assert!(output.status == Some(2) && output.stderr.contains("--faults"), "{}", output.stderr);
}
