//! One line on a terminal while a run lasts, renewed every second.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::Config;
use crate::crew::{Gauge, Task};
use crate::units;

const EVERY: Duration = Duration::from_secs(1);

/// The line and what it was computed from.
#[derive(Debug)]
pub struct Live {
    clock: Clock,
    terminal: bool,
    moves_data: bool,
    block_size: u64,
    planned: Option<f64>,
    ios: Option<u64>,
    began: Instant,
    shown: Instant,
    last: (u64, u64),
}

impl Live {
    /// A line for a run of `planned` seconds.
    pub fn new(clock: Clock, config: &Config, planned: Option<f64>) -> Self {
        let now = Instant::now();
        Self {
            clock,
            terminal: std::io::stderr().is_terminal(),
            moves_data: config.workload.operations().iter().all(|operation| operation.has_blocks()),
            block_size: config.block_size,
            planned,
            ios: config.ios,
            began: now,
            shown: now,
            last: (0, 0),
        }
    }

    /// How long until the line is to be shown again.
    pub fn due_in(&self) -> Duration {
        EVERY.saturating_sub(self.shown.elapsed())
    }

    /// Shows the line.
    pub fn show(&mut self, gauges: &[Gauge], task: Task) {
        if task == Task::Fill {
            self.began = Instant::now();
        }
        let seconds = self.shown.elapsed().as_secs_f64();
        self.shown = Instant::now();
        if !self.terminal {
            return;
        }
        let (mut ios, mut errors, mut ticks) = (0u64, 0u64, 0u64);
        for gauge in gauges {
            ios += gauge.ios.load(Ordering::Relaxed);
            errors += gauge.errors.load(Ordering::Relaxed);
            ticks = ticks.wrapping_add(gauge.ticks.load(Ordering::Relaxed));
        }
        let done = ios.saturating_sub(self.last.0);
        let spent = self.clock.nanoseconds(ticks.wrapping_sub(self.last.1));
        self.last = (ios, ticks);
        let rate = done as f64 / seconds.max(1e-3);
        let mut line = format!("{:>9} IOPS", units::count(rate));
        if self.moves_data {
            line += &format!("  {:>10}", units::bandwidth(rate * self.block_size as f64));
        }
        if done > 0 {
            line += &format!("  mean latency {:>6}", units::latency(spent as f64 / done as f64));
        }
        if errors > 0 {
            line += &format!("  {errors} ERRORS");
        }
        line += &match task {
            Task::Fill => "  writing before the run".to_owned(),
            Task::Work => self.position(ios),
            Task::Sweep => "  reading everything back".to_owned(),
        };
        let mut out = std::io::stderr().lock();
        // A terminal that went away is no reason to stop measuring.
        let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
    }

    fn position(&self, ios: u64) -> String {
        let passed = self.began.elapsed().as_secs_f64();
        match (self.planned, self.ios) {
            (Some(planned), None) if passed <= planned => {
                format!("  {passed:.0} of {planned:.0} s")
            }
            (Some(_), None) => "  finishing".to_owned(),
            (_, Some(all)) => {
                format!("  {} of {}", units::count(ios as f64), units::count(all as f64))
            }
            (None, None) => format!("  {passed:.0} s"),
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
