//! A run, described completely: what `--repeat` reads and the report writes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// The way to the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EngineKind {
    /// This driver, in userspace
    Doorbell,
    /// The kernel, through io_uring, on a block device or file
    #[value(alias = "io-uring", alias = "uring")]
    IoUring,
    /// The kernel, by pread and pwrite, one at a time
    #[value(alias = "psync")]
    Pread,
}

impl EngineKind {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Doorbell => "doorbell",
            Self::IoUring => "io_uring",
            Self::Pread => "pread",
        }
    }

    /// Whether the kernel drives the device.
    pub fn is_kernel(self) -> bool {
        self != Self::Doorbell
    }
}

/// When drives are written before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefill {
    /// Memory of this process only
    Auto,
    /// All drives
    Yes,
    /// No drive
    No,
}

/// The threads that do the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cores {
    /// So many threads, placed by the kernel.
    Count(usize),
    /// One thread on each of these cores.
    Pinned(Vec<usize>),
}

impl Cores {
    /// How many threads.
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Pinned(cores) => cores.len(),
        }
    }

    /// The core of a thread, where it has one.
    pub fn core(&self, worker: usize) -> Option<usize> {
        match self {
            Self::Count(_) => None,
            Self::Pinned(cores) => cores.get(worker).copied(),
        }
    }
}

/// Everything that decides what a run does. Consent to destroy data is deliberately not part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses, or paths for a kernel engine.
    pub addresses: Vec<String>,
    /// Namespace of each address; the first active one where absent.
    pub namespace: Option<u32>,
    /// Engine of the run.
    pub engine: EngineKind,
    /// Engine measured beside it.
    pub compare: Option<EngineKind>,
    /// What that engine works on.
    pub compare_target: Option<String>,
    /// Workload.
    pub workload: Workload,
    /// Bytes of one I/O.
    pub block_size: u64,
    /// I/Os in flight on each queue.
    pub depth: u32,
    /// Percent of reads in a mixed workload.
    pub read_mix: u8,
    /// Skew of the choice of blocks.
    pub zipf: Option<f64>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether every unit is written once before the run.
    pub prefill: Prefill,
    /// Bytes from the start of each device that are used; all where absent.
    pub span: Option<u64>,
    /// Measured time in seconds; until `ios` is reached where absent.
    pub time: Option<f64>,
    /// Time before the measurement, in seconds.
    pub warmup: f64,
    /// I/Os after which the run ends.
    pub ios: Option<u64>,
    /// I/Os started per second over the whole run, whatever completes.
    pub rate: Option<f64>,
    /// Threads.
    pub cores: Cores,
    /// Queues of each thread on each device.
    pub queues: usize,
    /// Commands staged before a doorbell is rung at the latest; up to the engine where absent.
    pub batch: Option<u32>,
    /// Completions taken in one poll at most; all where absent.
    pub poll_limit: Option<u32>,
    /// io_uring: poll the device for completions.
    pub iopoll: bool,
    /// Plan of faults of embedded drives.
    #[serde(default)]
    pub faults: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: vec!["embedded:".to_owned()],
            namespace: None,
            engine: EngineKind::Doorbell,
            compare: None,
            compare_target: None,
            workload: Workload::Randread,
            block_size: 4096,
            depth: 128,
            read_mix: 70,
            zipf: None,
            seed: 1,
            prefill: Prefill::Auto,
            span: None,
            time: Some(10.0),
            warmup: 1.0,
            ios: None,
            rate: None,
            cores: Cores::Count(1),
            queues: 1,
            batch: None,
            poll_limit: None,
            iopoll: false,
            faults: None,
        }
    }
}

impl Config {
    /// Checks what no single option can check for itself.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("--block-size", self.block_size),
            ("--depth", self.depth.into()),
            ("--queues", self.queues as u64),
            ("--batch", self.batch.unwrap_or(1).into()),
            ("--poll-limit", self.poll_limit.unwrap_or(1).into()),
            ("--cores", self.cores.count() as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be above 0"));
        }
        let most = [
            ("--depth", u64::from(self.depth), 65_536),
            ("--block-size", self.block_size, 1 << 30),
            ("--queues", self.queues as u64, 65_535),
            ("--cores", self.cores.count() as u64, 1024),
        ];
        if let Some((name, _, limit)) = most.iter().find(|(_, value, limit)| value > limit) {
            return Err(format!("{name} can be {limit} at most"));
        }
        if !self.block_size.is_multiple_of(512) {
            return Err(
                "--block-size must be a multiple of the drive's block size (512 or 4k)".into()
            );
        }
        if self.addresses.is_empty() {
            return Err("no address; give one, for example embedded: or pcie:0000:01:00.0".into());
        }
        if self.time.is_none() && self.ios.is_none() {
            return Err("nothing ends the run; give --time or --ios".into());
        }
        let year = 366.0 * 86_400.0;
        if self.time.is_some_and(|time| time <= 0.0 || time > year) {
            return Err("--time must be above 0 and at most a year".into());
        }
        if self.warmup < 0.0 || self.warmup > year {
            return Err("--warmup must be a year at most".into());
        }
        if self.rate.is_some_and(|rate| !(1.0..=1e12).contains(&rate)) {
            return Err("--rate must be at least 1 I/O a second".into());
        }
        if self.read_mix > 100 {
            return Err("--read-mix is a percentage, 0 to 100".into());
        }
        if self.zipf.is_some_and(|theta| !(theta > 0.0 && theta <= 10.0)) {
            return Err("--zipf takes a theta above 0, at most 10; 0.99 and 1.2 are usual".into());
        }
        if self.zipf.is_some() && self.workload.is_sequential() {
            return Err(format!("--zipf needs a random workload, not {}", self.workload.name()));
        }
        if self.prefill == Prefill::Yes && !self.can_prefill() {
            let name = self.workload.name();
            return Err(format!(
                "--prefill is for workloads that read or write, and not for {name}"
            ));
        }
        if self.compare == Some(self.engine) {
            return Err(format!("--compare {0} compares {0} with itself", self.engine.name()));
        }
        Ok(())
    }

    /// Whether the run changes what the drive holds.
    pub fn is_destructive(&self) -> bool {
        self.workload.is_destructive() || self.prefill == Prefill::Yes
    }

    /// Whether writing before the run makes sense: `verify` writes anyway, and others move no data.
    pub fn can_prefill(&self) -> bool {
        self.workload.moves_data() && self.workload != Workload::Verify
    }

    /// Whether any drive may be written before the run.
    pub fn may_prefill(&self) -> bool {
        self.can_prefill() && self.prefill != Prefill::No
    }

    /// The command line that repeats the run.
    pub fn command_line(&self) -> String {
        let default = Self::default();
        let mut words = vec!["doorbell-perf".to_owned()];
        let mut option = |shown: bool, name: &str, value: String| {
            if shown {
                words.push(format!("--{name} {value}"));
            }
        };
        option(true, "workload", self.workload.name());
        option(true, "block-size", self.block_size.to_string());
        option(true, "depth", self.depth.to_string());
        option(self.workload.is_mixed(), "read-mix", self.read_mix.to_string());
        option(self.zipf.is_some(), "zipf", self.zipf.unwrap_or(0.0).to_string());
        option(self.seed != default.seed, "seed", self.seed.to_string());
        option(self.span.is_some(), "span", self.span.unwrap_or(0).to_string());
        option(self.ios.is_some(), "ios", self.ios.unwrap_or(0).to_string());
        option(self.time.is_some(), "time", format!("{}s", self.time.unwrap_or(0.0)));
        option(self.time.is_some() || self.warmup > 0.0, "warmup", format!("{}s", self.warmup));
        option(self.rate.is_some(), "rate", self.rate.unwrap_or(0.0).to_string());
        option(self.cores != default.cores, "cores", cores_text(&self.cores));
        option(self.queues != 1, "queues", self.queues.to_string());
        option(self.batch.is_some(), "batch", self.batch.unwrap_or(0).to_string());
        option(self.poll_limit.is_some(), "poll-limit", self.poll_limit.unwrap_or(0).to_string());
        let faults = self.faults.as_deref().unwrap_or(Path::new(""));
        option(self.faults.is_some(), "faults", faults.display().to_string());
        option(self.namespace.is_some(), "namespace", self.namespace.unwrap_or(1).to_string());
        option(self.engine != default.engine, "engine", self.engine.name().to_owned());
        if let Some(engine) = self.compare {
            option(true, "compare", engine.name().to_owned());
        }
        if let Some(target) = &self.compare_target {
            option(true, "compare-target", quoted(target));
        }
        match self.prefill {
            Prefill::Auto => {}
            Prefill::Yes => words.push("--prefill=yes".to_owned()),
            Prefill::No => words.push("--prefill=no".to_owned()),
        }
        if self.iopoll {
            words.push("--iopoll".to_owned());
        }
        words.extend(self.addresses.iter().map(|address| quoted(address)));
        words.join(" ")
    }
}

fn cores_text(cores: &Cores) -> String {
    match cores {
        Cores::Count(count) => count.to_string(),
        Cores::Pinned(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            if ids.len() == 1 { format!("{},", ids.concat()) } else { ids.join(",") }
        }
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_gives_the_run_back() {
        let config = Config {
            cores: Cores::Pinned(vec![1]),
            zipf: Some(1.1),
            rate: Some(5e4),
            time: None,
            ios: Some(9),
            ..Config::default()
        };
        let text = serde_json::to_string(&config).expect("serialises");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("parses"), config);
    }

    #[test]
    fn contradictions_are_found() {
        let wrong = [
            Config { depth: 0, ..Config::default() },
            Config { block_size: 1000, ..Config::default() },
            Config { time: None, ..Config::default() },
            Config { zipf: Some(1.0), workload: Workload::Read, ..Config::default() },
            Config { compare: Some(EngineKind::Doorbell), ..Config::default() },
            Config { cores: Cores::Count(0), ..Config::default() },
        ];
        for config in wrong {
            assert!(config.check().is_err(), "{config:?}");
        }
        assert_eq!(Config::default().check(), Ok(()));
    }
}
