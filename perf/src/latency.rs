//! What was measured: I/Os, errors and latencies per operation, cheap to record and easy to merge.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::engine::Code;
use crate::workload::Operation;

/// The longest latency told apart from longer ones: 100 s.
const LONGEST_NS: u64 = 100_000_000_000;

/// An empty histogram of nanoseconds, three digits exact.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that the library accepts; the fallback cannot be reached.
    Histogram::new_with_bounds(1, LONGEST_NS, 3)
        .unwrap_or_else(|_| Histogram::new(3).expect("three digits are valid"))
}

/// What one queue counted.
#[derive(Debug)]
pub struct Tally {
    clock: Clock,
    latencies: [Option<Box<Histogram<u64>>>; Operation::ALL.len()],
    errors: BTreeMap<(Operation, Code), u64>,
    /// Measured time in ticks.
    pub ticks: u64,
}

impl Tally {
    /// An empty one for the operations of a workload.
    pub fn new(clock: Clock, operations: &[Operation]) -> Self {
        let mut latencies = [const { None }; Operation::ALL.len()];
        for operation in operations {
            if let Some(entry) = latencies.get_mut(*operation as usize) {
                *entry = Some(Box::new(histogram()));
            }
        }
        Self { clock, latencies, errors: BTreeMap::new(), ticks: 0 }
    }

    /// Counts an I/O that succeeded after `ticks`.
    #[inline]
    pub fn success(&mut self, operation: Operation, ticks: u64) {
        if let Some(Some(histogram)) = self.latencies.get_mut(operation as usize) {
            histogram.saturating_record(self.clock.nanoseconds(ticks).max(1));
        }
    }

    /// Counts an I/O that failed.
    #[cold]
    pub fn failure(&mut self, operation: Operation, code: Code, times: u64) {
        *self.errors.entry((operation, code)).or_default() += times;
    }

    /// The summary of one operation, if the workload has it.
    pub fn summary(&self, operation: Operation, bytes_each: u64) -> Option<Summary> {
        let latencies = self.latencies.get(operation as usize)?.as_deref()?;
        let errors = self
            .errors
            .iter()
            .filter(|((of, _), _)| *of == operation)
            .map(|((_, code), times)| (*code, *times))
            .collect();
        Some(Summary {
            ios: latencies.len(),
            bytes: latencies.len().saturating_mul(bytes_each),
            seconds: self.clock.seconds(self.ticks),
            errors,
            latencies: latencies.clone(),
        })
    }
}

/// The merged result of queues, operations or devices.
#[derive(Clone, Debug)]
pub struct Summary {
    /// I/Os that succeeded.
    pub ios: u64,
    /// Bytes that they named.
    pub bytes: u64,
    /// How long was measured.
    pub seconds: f64,
    /// I/Os that failed, by status.
    pub errors: BTreeMap<Code, u64>,
    /// Latencies of the successful ones, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self { ios: 0, bytes: 0, seconds: 0.0, errors: BTreeMap::new(), latencies: histogram() }
    }
}

impl Summary {
    /// Adds what was measured at the same time elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.ios += other.ios;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.seconds = self.seconds.max(other.seconds);
        for (code, times) in &other.errors {
            *self.errors.entry(*code).or_default() += times;
        }
        // Both have the same bounds, so this cannot fail.
        let _ = self.latencies.add(&other.latencies);
    }

    /// How many I/Os failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// I/Os per second.
    pub fn iops(&self) -> f64 {
        if self.seconds > 0.0 { self.ios as f64 / self.seconds } else { 0.0 }
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds } else { 0.0 }
    }

    /// The figures that every report has, in nanoseconds, by their JSON names.
    pub fn figures(&self) -> [(&'static str, f64); 8] {
        let latencies = &self.latencies;
        let at = |quantile| latencies.value_at_quantile(quantile).min(latencies.max()) as f64;
        [
            ("min", latencies.min() as f64),
            ("mean", latencies.mean()),
            ("p50", at(0.5)),
            ("p90", at(0.9)),
            ("p99", at(0.99)),
            ("p99_9", at(0.999)),
            ("p99_99", at(0.9999)),
            ("max", latencies.max() as f64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_every_io() {
        let clock = Clock::calibrate();
        let mut tally = Tally::new(clock, &[Operation::Read, Operation::Write]);
        tally.ticks = 1000;
        for ticks in 1..=1000 {
            tally.success(Operation::Read, ticks * 1000);
        }
        tally.failure(Operation::Write, Code::errno(5), 3);
        let mut total = tally.summary(Operation::Read, 4096).expect("has reads");
        total.merge(&tally.summary(Operation::Write, 4096).expect("has writes"));
        assert_eq!((total.ios, total.bytes, total.failed()), (1000, 4_096_000, 3));
        let figures = total.figures();
        assert!(
            figures
                .windows(2)
                .filter(|pair| pair[0].0 != "mean" && pair[1].0 != "mean")
                .all(|pair| pair[0].1 <= pair[1].1),
            "{figures:?}"
        );
        assert!(tally.summary(Operation::Trim, 1).is_none());
        assert_eq!(Summary::default().iops(), 0.0);
    }
}
