//! The result for people: what was run, one table, one picture, and what went wrong.

use std::fmt::Write;

use crate::config::Config;
use crate::latency::Summary;
use crate::outcome::{Outcome, Side};
use crate::report::picture;
use crate::units;

/// Columns of the first cell of the table.
const LABEL: usize = 13;

/// What will be run, for the beginning.
pub fn heading(config: &Config, sides: &[crate::setup::Side]) -> String {
    let mut text = format!("{}\n", describe(config));
    for side in sides {
        for device in &side.devices {
            let size = units::size(device.bytes);
            let block = units::size(device.block.into());
            let what = format!("{}, {size} in blocks of {block}", device.description);
            let one_line = device.address.len() + what.len() < 98;
            let joint = if one_line { " - " } else { "\n  " };
            let _ = writeln!(text, "{}{joint}{what}", device.address);
            if let Some(note) = &device.note {
                let _ = writeln!(text, "  note: {note}");
            }
        }
    }
    text
}

fn describe(config: &Config) -> String {
    let mut parts = vec![config.workload.name()];
    if config.workload.is_mixed() {
        parts.push(format!("{} % reads", config.read_mix));
    }
    if config.workload.operations().iter().all(|operation| operation.has_blocks()) {
        parts.push(units::size(config.block_size));
    }
    parts.push(format!("depth {}", config.depth));
    if let Some(theta) = config.zipf {
        parts.push(format!("zipf {theta}"));
    }
    let (threads, queues) = (config.cores.count(), config.queues);
    parts.push(format!("{}, {} each", plural(threads, "thread"), plural(queues, "queue")));
    if let Some(rate) = config.rate {
        parts.push(format!("{} IOPS offered", units::count(rate)));
    }
    match (config.time, config.ios) {
        (Some(time), None) => parts.push(units::duration(time)),
        (Some(time), Some(ios)) => {
            parts.push(format!("{} I/Os or {}", units::count(ios as f64), units::duration(time)));
        }
        (None, ios) => parts.push(format!("{} I/Os", units::count(ios.unwrap_or(0) as f64))),
    }
    let mut line = parts.join(", ");
    if config.warmup > 0.0 {
        let _ = write!(line, " after {} of warmup", units::duration(config.warmup));
    }
    line
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The result, to be printed after the heading.
pub fn render(outcome: &Outcome, unicode: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<LABEL$}{:>8}{:>11}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "", "IOPS", "bandwidth", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    let compared = outcome.sides.len() > 1;
    for side in &outcome.sides {
        rows(&mut text, side, compared);
    }
    if let Some(side) = outcome.sides.first() {
        let latencies = &side.all.total.latencies;
        if !latencies.is_empty() {
            let _ = writeln!(text, "\n{}", picture::title(latencies));
        }
        for line in picture::lines(latencies, unicode) {
            let _ = writeln!(text, "{line}");
        }
    }
    text.push('\n');
    comparison(&mut text, outcome);
    for side in &outcome.sides {
        remarks(&mut text, side);
    }
    if outcome.interrupted {
        text.push_str("Interrupted: this is what was measured until then.\n");
    }
    text
}

fn rows(text: &mut String, side: &Side, compared: bool) {
    if compared {
        row(text, side.engine.name(), &side.all.total);
    }
    if side.devices.len() > 1 {
        for measured in &side.devices {
            row(text, &measured.device.address, &measured.measures.total);
        }
    }
    let operations = &side.all.operations;
    if !compared || operations.len() > 1 {
        for (operation, summary) in operations {
            let name = operation.name();
            let label = if compared { format!("  {name}") } else { name.to_owned() };
            row(text, &label, summary);
        }
    }
    if !compared && (operations.len() > 1 || side.devices.len() > 1) {
        row(text, "total", &side.all.total);
    }
}

fn row(text: &mut String, label: &str, summary: &Summary) {
    let rate = summary.bytes_per_second();
    let bandwidth = if rate > 0.0 { units::bandwidth(rate) } else { "-".to_owned() };
    let _ = write!(
        text,
        "{:<LABEL$}{:>8}{bandwidth:>11}",
        shortened(label),
        units::count(summary.iops())
    );
    for (_, value) in summary.figures() {
        let shown = if summary.ios > 0 { units::latency(value) } else { "-".to_owned() };
        let _ = write!(text, "{shown:>8}");
    }
    text.push('\n');
}

/// A label that fits its cell; the end of an address tells most.
fn shortened(label: &str) -> String {
    let length = label.chars().count();
    if length < LABEL {
        return label.to_owned();
    }
    let tail: String = label.chars().skip(length - (LABEL - 3)).collect();
    format!("..{tail}")
}

fn comparison(text: &mut String, outcome: &Outcome) {
    let (Some(ratio), [first, second, ..]) = (outcome.ratio(), outcome.sides.as_slice()) else {
        return;
    };
    let mean = |side: &Side| side.all.total.latencies.mean();
    let _ = writeln!(
        text,
        "{} does {ratio:.2} times the IOPS of {}, at {:.2} times its mean latency.",
        first.engine.name(),
        second.engine.name(),
        mean(first) / mean(second).max(1.0),
    );
}

fn remarks(text: &mut String, side: &Side) {
    driver(text, side);
    if side.overdue > 0 {
        let overdue = units::count(side.overdue as f64);
        let _ = writeln!(
            text,
            "The rate was not kept: {overdue} I/Os were due but not started by the end."
        );
    }
    if let Some((found, _)) = &side.verification {
        let checked = units::count(found.checked as f64);
        let _ = match side.first_wrong() {
            None => writeln!(text, "Verified: {checked} blocks read back, every byte as written."),
            Some((device, finding)) => writeln!(
                text,
                "WRONG DATA in {} of {} blocks read back. The first is on {device}:\n  {finding}",
                found.wrong, found.checked
            ),
        };
    }
    let total = &side.all.total;
    if total.failed() > 0 {
        let _ = writeln!(text, "ERRORS: {} I/Os failed", total.failed());
        for (code, times) in &total.errors {
            let _ = writeln!(text, "  {times:>12} x {code}");
        }
    }
    recovery(text, side);
    for lost in &side.lost {
        let _ = writeln!(text, "QUEUE LOST: {lost}");
    }
}

/// What the driver had to put up with, and which steps it took about it; nothing, as a rule.
fn recovery(text: &mut String, side: &Side) {
    let known = |name: &'static str| match name {
        "strays" | "violations" | "lost" | "retried" => Some(name),
        name => name.strip_prefix("recovery_"),
    };
    let taken = side.counters.iter().filter(|(_, count)| **count != 0);
    let taken: Vec<String> = taken
        .filter_map(|(name, count)| Some(format!("{} {count}", known(name)?.replace('_', " "))))
        .collect();
    if !taken.is_empty() {
        let _ = writeln!(text, "Recovery: {}", taken.join(", "));
    }
}

/// How the driver's effort was spread over the I/Os.
fn driver(text: &mut String, side: &Side) {
    let counter = |name| side.counters.get(name).copied().unwrap_or(0) as f64;
    let completions = counter("completions");
    if completions > 0.0 {
        let polls = counter("polls").max(1.0);
        // A poll that finds something ends with one that finds the end; the driver counts both kinds once.
        let _ = writeln!(
            text,
            "Per I/O: {:.3} doorbell writes, {:.2} polls; {:.1} % of the polls found nothing.",
            counter("doorbells") / completions,
            polls / completions,
            100.0 * counter("empty_polls") / polls,
        );
    }
    let (user, system) = (counter("cpu_user_nanoseconds"), counter("cpu_system_nanoseconds"));
    let all = counter("ios_with_warmup");
    if all > 0.0 && user + system > 0.0 {
        let time = units::latency;
        let _ = writeln!(
            text,
            "CPU time per I/O, waiting included: {}, of it {} in the kernel.",
            time((user + system) / all),
            time(system / all)
        );
    }
    let (calls, ios) = (counter("system_calls"), side.all.total.ios as f64);
    if calls > 0.0 && ios > 0.0 {
        let _ = writeln!(text, "{}: {:.3} system calls per I/O.", side.engine.name(), calls / ios);
    }
}

/// Whether the terminal shows more than ASCII.
pub fn is_unicode() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(std::env::var_os)
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_addresses_keep_their_end() {
        assert_eq!(shortened("pcie:0000:01:00.0"), "..00:01:00.0");
        assert_eq!(shortened("embedded:"), "embedded:");
    }

    #[test]
    fn one_row_fits_100_columns() {
        let mut summary = Summary { ios: 1, bytes: 1, seconds: 1e-9, ..Summary::default() };
        summary.latencies.record(99_900_000_000).expect("in range");
        let mut text = String::new();
        row(&mut text, "write-zeroes", &summary);
        assert!(text.trim_end().chars().count() <= 100, "{text}");
    }
}
