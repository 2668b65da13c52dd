//! The queues of one thread that use the same engine, worked in turn for one stretch of time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::engine::{Engine, Lost};
use crate::lane::{Lane, LaneReport};
use crate::patience::Patience;
use crate::sys;

/// How long outstanding I/Os may take after the last one was started.
const DRAIN: Duration = Duration::from_secs(60);
/// Empty rounds between two looks at the clock.
const LOOK: u32 = 64;

/// One stretch of work, in ticks of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    /// When it begins.
    pub start: u64,
    /// When counting begins.
    pub record_from: u64,
    /// When the last I/O is started.
    pub until: u64,
    /// What is done in it.
    pub task: Task,
}

/// What a shift is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write every unit once, uncounted.
    Fill,
    /// The workload.
    Work,
    /// Read back everything that `verify` wrote, uncounted.
    Sweep,
}

/// Sums that the live line reads while a crew works; one writer each.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauge {
    /// I/Os that completed.
    pub ios: AtomicU64,
    /// I/Os that failed.
    pub errors: AtomicU64,
    /// Latencies in ticks.
    pub ticks: AtomicU64,
}

/// Lanes of any engine.
pub trait Crew: Send {
    /// Works one shift and waits for what is in flight.
    fn work(&mut self, shift: &Shift, gauge: &Gauge);

    /// Ends the lanes.
    fn finish(self: Box<Self>) -> Vec<LaneReport>;
}

/// Lanes of one engine.
#[derive(Debug)]
pub struct Lanes<E> {
    lanes: Vec<Lane<E>>,
    clock: Clock,
    /// Processor time taken so far, in nanoseconds: the process's, and the kernel's on its behalf.
    cpu: (u64, u64),
}

impl<E: Engine> Lanes<E> {
    /// A crew of these lanes.
    pub fn new(lanes: Vec<Lane<E>>, clock: Clock) -> Self {
        Self { lanes, clock, cpu: (0, 0) }
    }

    fn publish(&self, gauge: &Gauge) {
        let (mut ios, mut errors, mut ticks) = (0, 0, 0u64);
        for progress in self.lanes.iter().map(Lane::progress) {
            ios += progress.ios;
            errors += progress.errors;
            ticks = ticks.wrapping_add(progress.ticks);
        }
        gauge.ios.store(ios, Ordering::Relaxed);
        gauge.errors.store(errors, Ordering::Relaxed);
        gauge.ticks.store(ticks, Ordering::Relaxed);
    }

    fn record(&mut self, recording: bool) {
        self.lanes.iter_mut().for_each(|lane| lane.record(recording));
    }

    /// One turn of every lane; the latest time stamp of a completion, 0 where there were none.
    #[inline]
    fn round(&mut self, open: bool) -> u64 {
        let alone = self.lanes.len() == 1;
        let mut latest = 0;
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_alive()) {
            match lane.turn(open, alone) {
                Ok(taken_at) => latest = latest.max(taken_at),
                Err(lost) => lane.lose(lost),
            }
        }
        latest
    }

    fn give_up(&mut self) {
        let message = format!("no answer within {} s", DRAIN.as_secs());
        for lane in self.lanes.iter_mut().filter(|lane| lane.in_flight() > 0) {
            lane.lose(Lost(message.clone()));
        }
    }
}

impl<E: Engine> Crew for Lanes<E> {
    fn work(&mut self, shift: &Shift, gauge: &Gauge) {
        let before = sys::thread_cpu();
        let patience = self.lanes.iter().map(Lane::patience).min().unwrap_or(0);
        let mut patience = Patience::new(patience, &self.clock);
        self.lanes.iter_mut().for_each(|lane| lane.begin(shift.start, shift.task));
        let mut open = true;
        let counted = shift.task == Task::Work;
        let mut recording = counted && shift.record_from <= shift.start;
        self.record(recording);
        let mut rounds = 0u32;
        let mut drained_by = u64::MAX;
        // The next time at which something other than I/O is to be done.
        let mut event = 0;
        let publish_every = self.clock.ticks(Duration::from_millis(100));
        loop {
            let mut now = self.round(open);
            rounds = rounds.wrapping_add(1);
            let mut idle = 0;
            if now != 0 {
                patience.reset();
            } else {
                idle = patience.wait(&self.clock);
                if E::SLEEPS || idle.is_multiple_of(LOOK) {
                    now = self.clock.now();
                }
            }
            let finished = idle % 8 == 1 || rounds.is_multiple_of(LOOK);
            if finished && self.lanes.iter().all(|lane| lane.is_finished(open)) {
                break;
            }
            if now == 0 || now < event {
                continue;
            }
            if !recording && counted && open && now >= shift.record_from {
                recording = true;
                self.record(true);
            }
            if open && (now >= shift.until || sys::interrupted()) {
                open = false;
                drained_by = now.saturating_add(self.clock.ticks(DRAIN));
            }
            if now >= drained_by {
                self.give_up();
            }
            self.publish(gauge);
            event = now + publish_every;
            for due in [shift.record_from, shift.until] {
                if due > now {
                    event = event.min(due);
                }
            }
        }
        let end = self.clock.now();
        self.record(false);
        for lane in &mut self.lanes {
            lane.close(end.min(shift.until));
            if recording {
                lane.measured(end.saturating_sub(shift.record_from.max(shift.start)));
            }
        }
        self.publish(gauge);
        let after = sys::thread_cpu();
        self.cpu.0 += after.0.saturating_sub(before.0);
        self.cpu.1 += after.1.saturating_sub(before.1);
    }

    fn finish(self: Box<Self>) -> Vec<LaneReport> {
        let (user, system) = self.cpu;
        let mut reports: Vec<LaneReport> = self.lanes.into_iter().map(Lane::into_report).collect();
        // The thread's, so of all its lanes together.
        if let Some(report) = reports.first_mut() {
            report.counters.push(("cpu_user_nanoseconds", user));
            report.counters.push(("cpu_system_nanoseconds", system));
        }
        reports
    }
}
