//! The course of a run: threads, the timetable that they follow, and the collection of what they counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::crew::{Crew, Gauge, Shift, Task};
use crate::lane::LaneReport;
use crate::live::Live;
use crate::sys;

/// The crews of one thread: one for each engine of the run.
pub type Crews = Vec<Box<dyn Crew>>;

/// One entry of the timetable.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    /// Which engine works.
    engine: usize,
    /// Seconds that are not counted.
    warmup: f64,
    /// Seconds that are, if time ends it.
    time: Option<f64>,
    task: Task,
}

/// Slices that each engine's time is cut into when two take turns.
const SLICES: usize = 5;

fn timetable(config: &Config, engines: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    if config.may_prefill() {
        for engine in 0..engines {
            entries.push(Entry { engine, warmup: 0.0, time: None, task: Task::Fill });
        }
    }
    let entry = |engine, warmup, time| Entry { engine, warmup, time, task: Task::Work };
    match config.time {
        Some(time) if engines > 1 && config.ios.is_none() => {
            let slice = time / SLICES as f64;
            for turn in 0..SLICES {
                for engine in 0..engines {
                    let warmup = if turn == 0 { config.warmup } else { slice.min(1.0) / 10.0 };
                    entries.push(entry(engine, warmup, Some(slice)));
                }
            }
        }
        time => entries.extend((0..engines).map(|engine| entry(engine, config.warmup, time))),
    }
    if config.workload == crate::workload::Workload::Verify {
        for engine in 0..engines {
            entries.push(Entry { engine, warmup: 0.0, time: None, task: Task::Sweep });
        }
    }
    entries
}

/// What all workers share.
struct Stage {
    clock: Clock,
    entries: Vec<Entry>,
    barrier: Barrier,
    start: AtomicU64,
    /// How many entries have begun.
    begun: AtomicUsize,
}

impl Stage {
    /// Waits for all workers, which then agree on the time.
    fn start(&self) -> u64 {
        if self.barrier.wait().is_leader() {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.start.store(self.clock.now(), Ordering::Release);
        }
        self.barrier.wait();
        self.start.load(Ordering::Acquire)
    }

    /// What is being done.
    fn task(&self) -> Task {
        let current = self.begun.load(Ordering::Relaxed).saturating_sub(1);
        self.entries.get(current).map_or(Task::Work, |entry| entry.task)
    }

    fn work(&self, mut crews: Crews, gauge: &Gauge) -> Vec<Vec<LaneReport>> {
        for entry in &self.entries {
            let start = self.start();
            let ticks = |seconds| self.clock.ticks(Duration::from_secs_f64(seconds));
            let record_from = start + ticks(entry.warmup);
            let until = entry.time.map_or(u64::MAX, |time| record_from + ticks(time));
            let shift = Shift { start, record_from, until, task: entry.task };
            let skipped = entry.task == Task::Sweep && sys::interrupted();
            if let Some(crew) = crews.get_mut(entry.engine)
                && !skipped
            {
                crew.work(&shift, gauge);
            }
        }
        crews.into_iter().map(Crew::finish).collect()
    }
}

/// Between two calls of what [`run`] is given to do beside waiting.
const ATTEND: Duration = Duration::from_millis(250);

/// Runs the workers, one thread for each of `workers`, and returns what their lanes report, by engine. Meanwhile calls
/// `attend` now and then.
///
/// # Errors
/// A thread cannot be started or pinned.
pub fn run(
    config: &Config,
    clock: Clock,
    workers: Vec<Crews>,
    attend: impl Fn(),
) -> anyhow::Result<Vec<Vec<LaneReport>>> {
    let engines = workers.first().map_or(1, Vec::len);
    let entries = timetable(config, engines);
    let planned: Option<f64> = entries
        .iter()
        .filter(|entry| entry.task == Task::Work)
        .map(|entry| Some(entry.warmup + entry.time?))
        .sum();
    let gauges: Arc<[Gauge]> = workers.iter().map(|_| Gauge::default()).collect();
    let stage = Arc::new(Stage {
        clock,
        entries,
        barrier: Barrier::new(workers.len()),
        start: AtomicU64::new(0),
        begun: AtomicUsize::new(0),
    });
    let (sender, receiver) = channel();
    let mut threads = Vec::new();
    let mut unpinned = None;
    for (index, crews) in workers.into_iter().enumerate() {
        let (stage, gauges, sender) = (stage.clone(), gauges.clone(), sender.clone());
        let core = config.cores.core(index);
        let (told, pinned) = channel();
        let thread =
            std::thread::Builder::new().name(format!("perf-{index}")).spawn(move || {
                let _ = told.send(core.map_or(Ok(()), sys::pin_to_core));
                let idle = Gauge::default();
                let reports = stage.work(crews, gauges.get(index).unwrap_or(&idle));
                // Nobody listens once the main thread has failed.
                let _ = sender.send(());
                reports
            })?;
        if let (Ok(Err(error)), Some(core)) = (pinned.recv(), core) {
            unpinned = Some(anyhow::anyhow!("--cores: cannot run on core {core}: {error}"));
        }
        threads.push(thread);
    }
    drop(sender);
    let mut live = Live::new(clock, config, planned);
    let mut left = threads.len();
    while left > 0 {
        let due = live.due_in();
        match receiver.recv_timeout(due.min(ATTEND)) {
            Ok(()) => left -= 1,
            Err(RecvTimeoutError::Timeout) => {
                attend();
                if due <= ATTEND {
                    live.show(&gauges, stage.task());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    live.clear();
    let mut reports: Vec<Vec<LaneReport>> = (0..engines).map(|_| Vec::new()).collect();
    for thread in threads {
        let of_worker = thread.join().map_err(|_| anyhow::anyhow!("a worker thread panicked"))?;
        for (all, of_engine) in reports.iter_mut().zip(of_worker) {
            all.extend(of_engine);
        }
    }
    unpinned.map_or(Ok(reports), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Prefill;
    use crate::workload::Workload;

    #[test]
    fn two_engines_take_turns_and_get_the_same_time() {
        let config = Config { prefill: Prefill::No, ..Config::default() };
        let entries = timetable(&config, 2);
        assert_eq!(entries.len(), 2 * SLICES);
        assert!(entries.iter().enumerate().all(|(index, entry)| entry.engine == index % 2));
        let of = |engine| -> f64 {
            entries
                .iter()
                .filter(|entry| entry.engine == engine)
                .filter_map(|entry| entry.time)
                .sum()
        };
        assert_eq!((of(0), of(1)), (10.0, 10.0));
    }

    #[test]
    fn verify_ends_with_a_sweep() {
        let config = Config { workload: Workload::Verify, ..Config::default() };
        let tasks: Vec<Task> = timetable(&config, 1).iter().map(|entry| entry.task).collect();
        assert_eq!(tasks, [Task::Work, Task::Sweep]);
    }
}
