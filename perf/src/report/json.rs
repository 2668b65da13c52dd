//! The result for programs. Names and units are stable: nanoseconds, bytes, seconds.

use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use crate::latency::Summary;
use crate::machine::Machine;
use crate::outcome::{Measures, Outcome, Side};

/// The whole report.
pub fn render(outcome: &Outcome, machine: &Machine) -> Value {
    let mut report = Map::new();
    report.insert("doorbell_perf".into(), env!("CARGO_PKG_VERSION").into());
    report.insert("command".into(), outcome.config.command_line().into());
    let started = outcome.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    report.insert("started_unix_seconds".into(), started.into());
    report.insert(
        "machine".into(),
        json!({ "processor": machine.processor, "cores": machine.cores, "kernel": machine.kernel }),
    );
    // The configuration consists of numbers, strings and lists of them, which cannot fail to be written.
    report
        .insert("configuration".into(), serde_json::to_value(&outcome.config).unwrap_or_default());
    report.insert("interrupted".into(), outcome.interrupted.into());
    let mut sides = outcome.sides.iter();
    if let Some(first) = sides.next() {
        side(&mut report, first);
    }
    if let Some(second) = sides.next() {
        let mut compared = Map::new();
        compared.insert("engine".into(), second.engine.name().into());
        compared.insert("ratio_iops".into(), outcome.ratio().into());
        side(&mut compared, second);
        report.insert("compare".into(), compared.into());
    }
    report.into()
}

fn side(report: &mut Map<String, Value>, side: &Side) {
    report.insert("total".into(), summary(&side.all.total).into());
    report.insert("operations".into(), operations(&side.all));
    let devices: Vec<Value> = side
        .devices
        .iter()
        .map(|measured| {
            let device = &measured.device;
            let mut entry = summary(&measured.measures.total);
            entry.insert("address".into(), device.address.clone().into());
            entry.insert("namespace".into(), device.namespace.into());
            entry.insert("block_bytes".into(), device.block.into());
            entry.insert("size_bytes".into(), device.bytes.into());
            entry.insert("span_bytes".into(), measured.device.span.into());
            entry.insert("note".into(), device.note.clone().into());
            for (name, value) in &device.facts {
                entry.insert((*name).into(), value.clone().into());
            }
            entry.insert("operations".into(), operations(&measured.measures));
            entry.into()
        })
        .collect();
    report.insert("devices".into(), devices.into());
    let counters: Map<String, Value> =
        side.counters.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    report.insert("counters".into(), counters.into());
    report.insert("not_started_in_time".into(), side.overdue.into());
    report.insert("lost_queues".into(), side.lost.clone().into());
    if let Some((found, _)) = &side.verification {
        let first = side.first_wrong().map(|(device, finding)| {
            json!({
                "device": device,
                "lba": finding.lba,
                "byte_in_block": finding.difference.offset,
                "expected": finding.difference.expected,
                "got": finding.difference.got,
                "generation": finding.generation,
                "verdict": finding.difference.verdict.to_string(),
            })
        });
        let verify = json!({ "blocks_checked": found.checked, "blocks_wrong": found.wrong, "first_wrong": first });
        report.insert("verify".into(), verify);
    }
}

fn operations(measures: &Measures) -> Value {
    let entries = measures.operations.iter();
    let entries: Map<String, Value> = entries
        .map(|(operation, of_operation)| {
            (operation.name().to_owned(), summary(of_operation).into())
        })
        .collect();
    entries.into()
}

fn summary(summary: &Summary) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("iops".into(), summary.iops().into());
    entry.insert("bytes_per_second".into(), summary.bytes_per_second().into());
    entry.insert("ios".into(), summary.ios.into());
    entry.insert("bytes".into(), summary.bytes.into());
    entry.insert("seconds".into(), summary.seconds.into());
    entry.insert("errors".into(), summary.failed().into());
    let by_status: Map<String, Value> =
        summary.errors.iter().map(|(code, times)| (code.to_string(), (*times).into())).collect();
    entry.insert("errors_by_status".into(), by_status.into());
    let figures: Map<String, Value> = summary
        .figures()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    entry.insert("latency_ns".into(), figures.into());
    entry
}
