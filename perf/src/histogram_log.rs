//! Latencies as an HdrHistogram log (version 2), which the usual plotters and processors read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::latency::Summary;
use crate::outcome::Outcome;

/// Writes one line for the whole run, and one for each operation with the operation as its tag.
///
/// # Errors
/// The file cannot be written.
pub fn write(outcome: &Outcome, path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let file = File::create(path).with_context(|| format!("--histogram {shown}"))?;
    let mut file = BufWriter::new(file);
    write_to(outcome, &mut file).with_context(|| format!("--histogram {shown}"))?;
    file.flush().with_context(|| format!("--histogram {shown}"))
}

fn write_to(outcome: &Outcome, mut out: &mut impl Write) -> anyhow::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let failed = |error: &dyn std::fmt::Debug| anyhow!("{error:?}");
    let command = outcome.config.command_line();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.3]");
    builder.add_comment(&format!("Command: {command}"));
    builder.add_comment("Latencies in nanoseconds; the column Interval_Max is in milliseconds");
    builder.with_start_time(outcome.started).with_base_time(outcome.started);
    builder.with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut out, &mut serializer)?;
    let mut line = |summary: &Summary, tag: Option<Tag<'_>>| {
        let length = Duration::from_secs_f64(summary.seconds);
        log.write_histogram(&summary.latencies, Duration::ZERO, length, tag)
            .map_err(|error| failed(&error))
    };
    for (index, side) in outcome.sides.iter().enumerate() {
        if index == 0 {
            line(&side.all.total, None)?;
        }
        for (operation, summary) in &side.all.operations {
            let name = match index {
                0 => operation.name().to_owned(),
                _ => format!("{}.{}", side.engine.name(), operation.name()),
            };
            line(summary, Tag::new(&name))?;
        }
    }
    Ok(())
}
