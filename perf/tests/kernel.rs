//! The binary on temporary files, through both kernel engines: what it prints, what it refuses, how it exits.

mod common;

use common::{Scratch, json, run};

#[test]
fn both_engines_count_what_they_did() {
    let file = Scratch::file("count", 1 << 20);
    for engine in ["io_uring", "pread"] {
        for workload in
            ["read", "randread", "rw", "randrw", "write", "trim", "flush", "write-zeroes"]
        {
            let words =
                ["-e", engine, "-w", workload, "-n", "500", "-q", "8", "--yes-destroy-data"];
            let report = json(&words, &[file.path()]);
            common::check_sums(&report, 500);
        }
    }
}

#[test]
fn verify_passes_on_a_file() {
    let file = Scratch::file("verify", 1 << 20);
    for engine in ["io_uring", "pread"] {
        let words = ["-e", engine, "-w", "verify", "-n", "3000", "-q", "16", "--yes-destroy-data"];
        let report = json(&words, &[file.path()]);
        assert_eq!(report["verify"]["blocks_wrong"], 0);
        assert!(report["verify"]["blocks_checked"].as_u64() > Some(1000), "{report}");
    }
}

#[test]
fn a_file_is_not_overwritten_without_consent() {
    let file = Scratch::file("consent", 1 << 20);
    let output = run(&["-e", "pread", "-w", "write", "-n", "1", file.path()]);
    assert_eq!(output.status, Some(2));
    assert!(output.stderr.contains("--yes-destroy-data"), "{}", output.stderr);
    assert!(file.bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn two_engines_are_compared_on_one_file() {
    let file = Scratch::file("compare", 1 << 20);
    let words = ["-e", "pread", "--compare", "io_uring", "-t", "500ms", "-a", "10ms"];
    let report = json(&words, &[file.path()]);
    assert!(report["compare"]["ratio_iops"].as_f64() > Some(0.0), "{report}");
    assert_eq!(report["compare"]["engine"], "io_uring");
    let seconds = report["total"]["seconds"].as_f64().expect("a number");
    assert!((0.4..5.0).contains(&seconds), "{seconds}");
    let output = run(&["-e", "pread", "--compare", "io_uring", "-n", "100", file.path()]);
    assert!(output.stdout.contains("pread does"), "{}", output.stdout);
}

#[test]
fn a_histogram_log_can_be_read_back() {
    let file = Scratch::file("histogram", 1 << 20);
    let log = Scratch::file("histogram-log", 0);
    let words = ["-e", "pread", "-w", "randrw", "-n", "400", "--yes-destroy-data"];
    json(&[words.as_slice(), &["--histogram", log.path()]].concat(), &[file.path()]);
    let text = String::from_utf8(log.bytes()).expect("is text");
    assert!(
        text.contains("#[StartTime:") && text.contains("Tag=read,") && text.contains("Tag=write,")
    );
    assert_eq!(common::ios_in_log(&text), [400, 400]);
}

#[test]
fn a_report_repeats_its_run() {
    let file = Scratch::file("repeat", 1 << 20);
    let first = json(&["-e", "pread", "-n", "50", "-b", "8k", "--seed", "9"], &[file.path()]);
    let saved = Scratch::file("repeat-report", 0);
    std::fs::write(saved.path(), first.to_string()).expect("writes");
    let second = json(&["--repeat", saved.path()], &[]);
    assert_eq!(first["configuration"], second["configuration"]);
    assert_eq!(second["total"]["ios"], 50);
    assert_eq!(run(&["--repeat", saved.path(), "-q", "2"]).status, Some(2));
}

#[test]
fn an_offered_rate_is_kept() {
    let file = Scratch::file("rate", 1 << 20);
    let report = json(&["-e", "io_uring", "-r", "2000", "-t", "1s", "-a", "100ms"], &[file.path()]);
    let iops = report["total"]["iops"].as_f64().expect("a number");
    assert!((1500.0..2500.0).contains(&iops), "{iops}");
}

#[test]
fn the_report_fits_100_columns() {
    let file = Scratch::file("columns", 1 << 20);
    let output =
        run(&["-e", "io_uring", "-n", "2000", "-w", "randrw", "--yes-destroy-data", file.path()]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    let table = output.stdout.lines().skip_while(|line| !line.contains("IOPS  bandwidth"));
    assert!(table.clone().count() > 5, "{}", output.stdout);
    assert!(table.into_iter().all(|line| line.chars().count() <= 100), "{}", output.stdout);
}

#[test]
fn wrong_usage_is_explained() {
    let cases: [(&[&str], &str); 9] = [
        (&["--depth", "0"], "--depth must be above 0"),
        (&["--block-size", "1000"], "multiple"),
        (&["--block-size", "4z"], "4k, 128KiB"),
        (&["-w", "scan"], "scan"),
        (&["--cores", "x"], "0-3"),
        (&["--zipf", "1", "-w", "read"], "random workload"),
        (&["-e", "pread", "/nonexistent/disk.img"], "truncate"),
        (&["-e", "pread", "embedded:"], "path"),
        (&["-e", "io_uring", "-w", "compare", "x"], "no compare command"),
    ];
    for (words, expected) in cases {
        let output = run(words);
        assert_eq!(output.status, Some(2), "{words:?}: {}", output.stderr);
        assert!(output.stderr.contains(expected), "{words:?}: {}", output.stderr);
    }
}
