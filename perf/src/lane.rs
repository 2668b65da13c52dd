//! The hot loop: one queue kept at its depth, each I/O stamped, counted and replaced.
//!
//! A turn takes completions, counts them, and stages as many I/Os as came back under one doorbell. It allocates nothing,
//! divides nothing, and reads the time stamp counter once for what it takes and once for what it stages (once in all
//! where a single I/O came back). An I/O is stamped before it is built and again after it was seen to be complete, so a
//! latency contains all of the driver's work and a little of this loop.

use crate::clock::Clock;
use crate::crew::Task;
use crate::engine::{Code, Engine, Lost, Refused};
use crate::latency::Tally;
use crate::rate::Pace;
use crate::verify::{Ledger, Verification};
use crate::workload::{Operation, Source, Workload};

/// What a lane does besides reading and writing.
#[derive(Debug)]
pub enum Script {
    /// Nothing.
    Plain,
    /// A block that was read is compared next.
    ReadThenCompare,
    /// Data is patterned and checked.
    Verify(Ledger),
}

/// How a lane is to work.
#[derive(Debug)]
pub struct LaneConfig {
    /// The device's place in the report.
    pub device: usize,
    /// Workload.
    pub workload: Workload,
    /// First block of the lane's part of the device.
    pub first_lba: u64,
    /// Blocks of one I/O.
    pub blocks: u64,
    /// Bytes of one I/O.
    pub bytes: u64,
    /// Which units are used, and for what.
    pub source: Source,
    /// Verification or comparison.
    pub script: Script,
    /// Commands under one doorbell; up to the engine where absent.
    pub batch: Option<u32>,
    /// Completions of one poll.
    pub poll_limit: u32,
    /// Ticks between intended starts, in an open loop.
    pub interval: Option<f64>,
    /// I/Os to start.
    pub budget: u64,
    /// The lane's share of the units, from and to.
    pub share: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u64,
    unit: u64,
    operation: Operation,
    /// The block has been read and is to be compared.
    compare: bool,
}

/// Running sums since the start, for the live line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// I/Os that completed.
    pub ios: u64,
    /// I/Os that failed.
    pub errors: u64,
    /// Their latencies, in ticks.
    pub ticks: u64,
}

/// One queue at work.
#[derive(Debug)]
pub struct Lane<E> {
    engine: E,
    clock: Clock,
    config: LaneConfig,
    batch: u32,
    slots: Box<[Slot]>,
    /// Tags without an I/O in flight.
    ready: Vec<u32>,
    /// What the last poll took.
    done: Vec<(u32, Code)>,
    /// An I/O that found the queue full, and its tag: the data is in the buffer of that one.
    held: Option<(u32, Operation, u64, u64)>,
    in_flight: u32,
    pace: Option<Pace>,
    task: Task,
    /// The next unit to fill.
    filled: u64,
    /// Filling or sweeping has come to the end.
    exhausted: bool,
    tally: Tally,
    recording: bool,
    progress: Progress,
    overdue: u64,
    lost: Option<Lost>,
}

/// What a lane leaves behind.
#[derive(Debug)]
pub struct LaneReport {
    /// The device's place in the report.
    pub device: usize,
    /// Bytes of one I/O.
    pub bytes: u64,
    /// Counts and latencies.
    pub tally: Tally,
    /// Counters of the engine.
    pub counters: Vec<(&'static str, u64)>,
    /// What `verify` found.
    pub verification: Option<Verification>,
    /// I/Os that were due but not started when the run ended.
    pub overdue: u64,
    /// Why the queue was lost, if it was.
    pub lost: Option<Lost>,
}

impl<E: Engine> Lane<E> {
    /// A lane with nothing in flight.
    pub fn new(engine: E, clock: Clock, config: LaneConfig) -> Self {
        let depth = engine.depth();
        let batch = config.batch.unwrap_or_else(|| engine.batch());
        let idle = Slot { start: 0, unit: 0, operation: Operation::Read, compare: false };
        Self {
            engine,
            clock,
            batch,
            slots: vec![idle; depth as usize].into_boxed_slice(),
            ready: (0..depth).rev().collect(),
            done: Vec::with_capacity(depth as usize),
            held: None,
            in_flight: 0,
            pace: None,
            task: Task::Work,
            filled: config.share.0,
            exhausted: false,
            tally: Tally::new(clock, config.workload.operations()),
            recording: false,
            progress: Progress::default(),
            overdue: 0,
            lost: None,
            config,
        }
    }

    /// Begins a stretch of work at `start`.
    pub fn begin(&mut self, start: u64, task: Task) {
        self.task = task;
        self.exhausted = false;
        self.pace = match self.config.interval {
            Some(interval) if task == Task::Work => Some(Pace::new(start, interval)),
            _ => None,
        };
    }

    /// From now on, or no longer, what completes is counted.
    pub fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// Adds measured time.
    pub fn measured(&mut self, ticks: u64) {
        self.tally.ticks += ticks;
    }

    /// Notes what was due but will not be started.
    pub fn close(&mut self, now: u64) {
        if let Some(pace) = &self.pace {
            self.overdue += pace.overdue(now);
        }
        if let Some((_, operation, unit, _)) = self.held.take()
            && let Script::Verify(ledger) = &mut self.config.script
        {
            ledger.settle(operation, unit, false, &[]);
        }
    }

    /// One round: completions are taken and counted; if `open`, the queue is filled again. Returns the time stamp of
    /// the completions, 0 where there were none.
    ///
    /// # Errors
    /// The queue is lost; what was in flight is counted as failed.
    #[inline]
    pub fn turn(&mut self, open: bool, alone: bool) -> Result<u64, Lost> {
        let mut taken_at = 0;
        let mut now = 0;
        if self.in_flight != 0 {
            let done = &mut self.done;
            let wait = alone && (!open || self.ready.is_empty());
            let limit = self.config.poll_limit;
            let polled = self.engine.poll(limit, wait, &mut |tag, code| done.push((tag, code)));
            if !self.done.is_empty() {
                taken_at = self.clock.now();
                let single = self.done.len() == 1;
                self.settle(taken_at);
                now = if single { taken_at } else { 0 };
            }
            polled?;
        }
        if open && !self.ready.is_empty() {
            if now == 0 {
                now = self.clock.now();
            }
            self.refill(now)?;
        }
        Ok(taken_at)
    }

    #[inline]
    fn settle(&mut self, now: u64) {
        for &(tag, code) in &self.done {
            let Some(slot) = self.slots.get_mut(tag as usize) else { continue };
            let ticks = now.saturating_sub(slot.start);
            self.in_flight -= 1;
            self.progress.ios += 1;
            self.progress.ticks += ticks;
            slot.compare = false;
            if !code.is_ok() {
                self.progress.errors += 1;
                self.tally.failure(slot.operation, code, 1);
            } else if self.recording {
                self.tally.success(slot.operation, ticks);
            }
            match &mut self.config.script {
                Script::Plain => {}
                Script::ReadThenCompare => {
                    slot.compare = slot.operation == Operation::Read && code.is_ok();
                }
                Script::Verify(ledger) => {
                    ledger.settle(slot.operation, slot.unit, code.is_ok(), self.engine.buffer(tag));
                }
            }
            self.ready.push(tag);
        }
        self.done.clear();
    }

    fn refill(&mut self, now: u64) -> Result<(), Lost> {
        let mut staged = 0;
        if let Some((held, ..)) = self.held
            && let Some(at) = self.ready.iter().position(|&tag| tag == held)
        {
            // Its turn is now, whatever has come back since.
            let last = self.ready.len() - 1;
            self.ready.swap(at, last);
        }
        while let Some(&tag) = self.ready.last() {
            let Some((operation, unit, start)) = self.next(tag, now) else { break };
            let lba = self.config.first_lba + unit * self.config.blocks;
            match self.engine.stage(tag, operation, lba) {
                Ok(()) => {}
                Err(Refused::Full) if self.in_flight == 0 => {
                    return Err(Lost("an empty queue has no room for a single I/O".to_owned()));
                }
                Err(Refused::Full) => {
                    self.held = Some((tag, operation, unit, start));
                    break;
                }
                Err(Refused::Lost(lost)) => return Err(lost),
            }
            self.ready.pop();
            if let Some(slot) = self.slots.get_mut(tag as usize) {
                *slot = Slot { start, unit, operation, compare: false };
            }
            self.in_flight += 1;
            staged += 1;
            if staged == self.batch {
                self.engine.ring()?;
                staged = 0;
            }
        }
        if staged > 0 { self.engine.ring() } else { Ok(()) }
    }

    /// The next I/O for a tag: what, where, and since when it counts.
    #[inline]
    fn next(&mut self, tag: u32, now: u64) -> Option<(Operation, u64, u64)> {
        if let Some((_, operation, unit, start)) = self.held.take() {
            return Some((operation, unit, start));
        }
        if self.task != Task::Work {
            let (operation, unit) = self.next_of_pass();
            self.exhausted = unit.is_none();
            return Some((operation, unit?, now));
        }
        if self.config.budget == 0 {
            return None;
        }
        let start = match &mut self.pace {
            None => now,
            Some(pace) => pace.take(now)?,
        };
        self.config.budget -= 1;
        let source = &mut self.config.source;
        match &mut self.config.script {
            Script::Plain => {
                let operation = source.operation();
                let unit = if operation.has_blocks() { source.unit() } else { 0 };
                Some((operation, unit, start))
            }
            Script::ReadThenCompare => match self.slots.get(tag as usize) {
                Some(slot) if slot.compare => Some((Operation::Compare, slot.unit, start)),
                _ => Some((Operation::Read, source.unit(), start)),
            },
            Script::Verify(ledger) => {
                let chosen = ledger.begin(source.operation(), source.unit());
                let Some((operation, unit)) = chosen else {
                    // Every unit is busy; the I/O is left for later.
                    self.config.budget += 1;
                    return None;
                };
                if operation == Operation::Write {
                    ledger.prepare(unit, self.engine.buffer(tag));
                }
                Some((operation, unit, start))
            }
        }
    }

    /// The next I/O of a pass over everything.
    fn next_of_pass(&mut self) -> (Operation, Option<u64>) {
        match &mut self.config.script {
            Script::Verify(ledger) => (Operation::Read, ledger.next_to_sweep()),
            _ => {
                let unit = (self.filled < self.config.share.1).then_some(self.filled);
                self.filled += 1;
                (Operation::Write, unit)
            }
        }
    }

    /// Whether nothing is in flight and, if `open`, nothing more will be.
    pub fn is_finished(&self, open: bool) -> bool {
        self.lost.is_some()
            || self.in_flight == 0
                && (!open
                    || if self.task == Task::Work {
                        self.config.budget == 0
                    } else {
                        self.exhausted
                    })
    }

    /// Gives up on the queue.
    pub fn lose(&mut self, lost: Lost) {
        let mut idle = vec![false; self.slots.len()];
        for tag in &self.ready {
            if let Some(idle) = idle.get_mut(*tag as usize) {
                *idle = true;
            }
        }
        for (slot, _) in self.slots.iter().zip(idle).filter(|(_, idle)| !idle) {
            self.tally.failure(slot.operation, Code::UNFINISHED, 1);
            self.progress.errors += 1;
        }
        self.in_flight = 0;
        self.lost = Some(lost);
    }

    /// Whether the queue is still of use.
    pub fn is_alive(&self) -> bool {
        self.lost.is_none()
    }

    /// I/Os that were started and have not completed.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Running sums.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Empty rounds in a row after which others should have the processor.
    pub fn patience(&self) -> u32 {
        self.engine.patience()
    }

    /// Ends the lane.
    pub fn into_report(self) -> LaneReport {
        LaneReport {
            device: self.config.device,
            bytes: self.config.bytes,
            counters: {
                let mut counters = self.engine.counters();
                counters.push(("ios_with_warmup", self.progress.ios));
                counters
            },
            tally: self.tally,
            verification: match &self.config.script {
                Script::Verify(ledger) => Some(ledger.verification()),
                _ => None,
            },
            overdue: self.overdue,
            lost: self.lost,
        }
    }
}
