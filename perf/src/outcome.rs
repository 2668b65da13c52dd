//! The result of a run: what the lanes counted, brought together by device and by operation.

use std::collections::BTreeMap;

use doorbell::RecoveryCounters;

use crate::config::{Config, EngineKind};
use crate::lane::LaneReport;
use crate::latency::Summary;
use crate::plan::Device;
use crate::verify::{Finding, Verification};
use crate::workload::Operation;

/// What was measured with one engine.
#[derive(Debug)]
pub struct Side {
    /// Which engine.
    pub engine: EngineKind,
    /// Each device, with its own summaries.
    pub devices: Vec<Measured>,
    /// All devices together.
    pub all: Measures,
    /// Sums of the engine's counters, warmup included.
    pub counters: BTreeMap<&'static str, u64>,
    /// What `verify` found, and on which device the first wrong byte was.
    pub verification: Option<(Verification, Option<String>)>,
    /// I/Os that were due but not started.
    pub overdue: u64,
    /// Why queues were lost.
    pub lost: Vec<String>,
}

/// A device and what was measured on it.
#[derive(Debug)]
pub struct Measured {
    /// The device.
    pub device: Device,
    /// What was measured.
    pub measures: Measures,
}

/// Summaries by operation and in total.
#[derive(Debug, Default)]
pub struct Measures {
    /// The operations of the workload.
    pub operations: Vec<(Operation, Summary)>,
    /// All of them.
    pub total: Summary,
}

impl Measures {
    fn add(&mut self, report: &LaneReport) {
        for operation in Operation::ALL {
            let bytes = if operation.has_blocks() { report.bytes } else { 0 };
            let Some(summary) = report.tally.summary(operation, bytes) else { continue };
            match self.operations.iter_mut().find(|(known, _)| *known == operation) {
                Some((_, known)) => known.merge(&summary),
                None => self.operations.push((operation, summary.clone())),
            }
            self.total.merge(&summary);
        }
    }
}

impl Side {
    /// Brings the reports of an engine's lanes together.
    pub fn new(engine: EngineKind, devices: Vec<Device>, reports: &[LaneReport]) -> Self {
        let mut side = Self {
            engine,
            devices: Vec::new(),
            all: Measures::default(),
            counters: BTreeMap::new(),
            verification: None,
            overdue: 0,
            lost: Vec::new(),
        };
        for (index, device) in devices.into_iter().enumerate() {
            let mut measures = Measures::default();
            for report in reports.iter().filter(|report| report.device == index) {
                measures.add(report);
                side.all.add(report);
                side.add_verification(report, &device);
            }
            side.devices.push(Measured { device, measures });
        }
        for report in reports {
            side.overdue += report.overdue;
            side.lost.extend(report.lost.iter().map(|lost| lost.0.clone()));
            for (name, value) in &report.counters {
                *side.counters.entry(name).or_default() += value;
            }
        }
        side.lost.dedup();
        side
    }

    fn add_verification(&mut self, report: &LaneReport, device: &Device) {
        let Some(found) = &report.verification else { return };
        let (sum, place) = self.verification.get_or_insert_default();
        sum.checked += found.checked;
        sum.wrong += found.wrong;
        if sum.first.is_none() && found.first.is_some() {
            sum.first.clone_from(&found.first);
            *place = Some(device.address.clone());
        }
    }

    /// Adds what a controller of this side did to recover.
    pub fn count_recovery(&mut self, recovery: &RecoveryCounters) {
        for (name, value) in [
            ("recovery_overdue", recovery.overdue),
            ("recovery_fatal", recovery.fatal),
            ("recovery_violations", recovery.violations),
            ("recovery_internal_errors", recovery.internal_errors),
            ("recovery_aborts", recovery.aborts),
            ("recovery_aborted", recovery.aborted),
            ("recovery_recreations", recovery.recreations),
            ("recovery_resets", recovery.resets),
            ("recovery_reconnections", recovery.reconnections),
            ("recovery_function_resets", recovery.function_resets),
            ("recovery_given_up", recovery.given_up),
        ] {
            *self.counters.entry(name).or_default() += value;
        }
    }

    /// The first wrong byte, with the device that it is on.
    pub fn first_wrong(&self) -> Option<(&str, &Finding)> {
        let (verification, place) = self.verification.as_ref()?;
        Some((place.as_deref()?, verification.first.as_ref()?))
    }

    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        let right = self.verification.as_ref().is_none_or(|(found, _)| found.wrong == 0);
        right && self.lost.is_empty() && self.all.total.failed() == 0
    }
}

/// A whole run.
#[derive(Debug)]
pub struct Outcome {
    /// What was asked for.
    pub config: Config,
    /// The engine of the run, then the one it is compared with.
    pub sides: Vec<Side>,
    /// The user ended it.
    pub interrupted: bool,
    /// When it began.
    pub started: std::time::SystemTime,
}

impl Outcome {
    /// I/Os per second of the first engine over those of the second.
    pub fn ratio(&self) -> Option<f64> {
        match self.sides.as_slice() {
            [first, second, ..] => {
                let (first, second) = (first.all.total.iops(), second.all.total.iops());
                (second > 0.0).then_some(first / second)
            }
            _ => None,
        }
    }

    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.sides.iter().all(Side::is_clean)
    }
}
