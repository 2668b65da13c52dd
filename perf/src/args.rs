//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use doorbell::Address;

use crate::config::{Config, Cores, EngineKind, Prefill};
use crate::units::{parse_count, parse_duration, parse_size};
use crate::workload::Workload;

const ABOUT: &str =
    "Measures an NVMe drive through Doorbell, the userspace driver, or through the kernel.";

const EXAMPLES: &str = "\
Addresses:
  embedded:                           an emulated drive in this process, the default
  embedded:size=8GiB,block=512        ... of another size (file=disk.img keeps its data in a file)
  pcie:0000:01:00.0                   a drive bound to vfio-pci (see hugepages.sh bind)
  vfio-user:/run/drive.sock           a drive served by another process
  tcp://host:4420/nqn.2014-08.org.x:y a subsystem across a network; without the NQN the one there is
  tcp://host,hdgst,ddgst              ... with digests of headers and data (for all: --digests)
  /dev/nvme0n1, disk.img              for the engines io_uring and pread

Examples:
  doorbell-perf                       no drive needed: measures the emulated one
  doorbell-perf -w randrw -M 70 -q 32 pcie:0000:01:00.0 --yes-destroy-data
  doorbell-perf -w verify -t 1m pcie:0000:01:00.0 --yes-destroy-data
  doorbell-perf --rate 100k -q 256 pcie:0000:01:00.0       latency at a given load
  doorbell-perf -q 1 --compare io_uring --compare-target /dev/nvme1n1 pcie:0000:01:00.0
  doorbell-perf --output json > run.json; doorbell-perf --repeat run.json

Sizes are binary (4k = 4096). Exit status: 0 all well, 1 errors or wrong data, 2 wrong usage.
Ctrl-C ends the run and prints what was measured so far.";

/// The command line as written.
#[derive(Debug, Parser)]
#[command(name = "doorbell-perf", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Args {
    /// Drives to measure, all at once [default: embedded:]
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// What to do: read, write, randread, randwrite, rw, randrw, trim, flush, write-zeroes,
    /// compare (read, then compare) or verify (write patterns, read back, check)
    #[arg(short = 'w', long, value_enum, hide_possible_values = true, alias = "rw")]
    #[arg(default_value = "randread", help_heading = "Workload")]
    workload: Workload,
    /// Bytes of one I/O
    #[arg(short = 'b', long, visible_short_alias = 'o', visible_alias = "bs", value_name = "SIZE")]
    #[arg(default_value = "4k", value_parser = parse_size, help_heading = "Workload")]
    block_size: u64,
    /// Percent of reads in rw, randrw [default: 70] and verify [default: 50]
    #[arg(
        short = 'M',
        long,
        alias = "rwmixread",
        value_name = "PERCENT",
        help_heading = "Workload"
    )]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    read_mix: Option<u8>,
    /// Prefer few blocks, with weight 1/rank^THETA
    #[arg(short = 'F', long, value_name = "THETA", help_heading = "Workload")]
    zipf: Option<f64>,
    /// Use so much of each drive, from its start [default: all, but of embedded memory 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Workload")]
    span: Option<u64>,
    /// Write all of it once before the run: yes, no, or auto, which does so on memory of this process,
    /// where blocks never written would cost nothing to read [default: auto]
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    #[arg(hide_possible_values = true, help_heading = "Workload")]
    prefill: Prefill,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Workload")]
    seed: u64,

    /// I/Os in flight on each queue
    #[arg(short = 'q', long, visible_alias = "iodepth", value_name = "N", help_heading = "Load")]
    #[arg(default_value_t = 128)]
    depth: u32,
    /// Start so many I/Os a second in all, come what may; latency counts from the intended start
    #[arg(short = 'r', long, value_name = "IOPS", value_parser = parse_count, help_heading = "Load")]
    rate: Option<u64>,
    /// Threads: a count, or core ids to pin them to (0,1 or 0-3; a single one: 2,)
    #[arg(short = 'c', long, value_name = "CORES", default_value = "1", value_parser = parse_cores)]
    #[arg(help_heading = "Load")]
    cores: Cores,
    /// Digests that tcp addresses use: header, data or header,data; as hdgst and ddgst in an address
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    #[arg(help_heading = "Load")]
    digests: Vec<Digest>,
    /// Queues of each thread on each drive
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    queues: usize,
    /// Ring the doorbell after at most so many commands [default: all that are ready; of drives
    /// emulated by software of this machine an eighth of the depth, so that they begin on the first ones]
    #[arg(long, value_name = "N", help_heading = "Load")]
    batch: Option<u32>,
    /// Take at most so many completions in one poll [default: all that are there]
    #[arg(short = 'C', long, value_name = "N", help_heading = "Load")]
    poll_limit: Option<u32>,

    /// How long to measure [default: 10s, or until --ios]
    #[arg(short = 't', long, visible_alias = "runtime", value_name = "TIME")]
    #[arg(value_parser = parse_duration, help_heading = "Duration")]
    time: Option<Duration>,
    /// How long to run before measuring [default: 1s, or none with --ios]
    #[arg(short = 'a', long, alias = "ramp_time", value_name = "TIME", value_parser = parse_duration)]
    #[arg(help_heading = "Duration")]
    warmup: Option<Duration>,
    /// Stop after so many I/Os
    #[arg(short = 'n', long, visible_short_alias = 'd', value_name = "N", value_parser = parse_count)]
    #[arg(help_heading = "Duration")]
    ios: Option<u64>,

    /// Who does the I/O: doorbell, io_uring or pread; the last two take paths
    #[arg(short = 'e', long, visible_alias = "ioengine", value_enum, default_value = "doorbell")]
    #[arg(hide_possible_values = true, help_heading = "Engine")]
    engine: EngineKind,
    /// Measure a second engine in alternation, and print the ratio
    #[arg(long, value_name = "ENGINE", value_enum, hide_possible_values = true)]
    #[arg(help_heading = "Engine")]
    compare: Option<EngineKind>,
    /// Path or address that the second engine uses [default: the same, where it can]
    #[arg(long, value_name = "PATH", requires = "compare", help_heading = "Engine")]
    compare_target: Option<String>,
    /// Namespace [default: the first active one]
    #[arg(short = 'N', long, value_name = "NSID", help_heading = "Engine")]
    namespace: Option<u32>,
    /// io_uring: have the kernel poll the drive (needs nvme.poll_queues)
    #[arg(long, help_heading = "Engine")]
    iopoll: bool,
    /// Have embedded drives misbehave by a plan (as doorbell-subsystem --faults FILE)
    #[arg(long, value_name = "FILE", help_heading = "Engine")]
    faults: Option<PathBuf>,
    /// Allow workloads that overwrite drives or files (never asked for embedded drives)
    #[arg(long, help_heading = "Engine")]
    yes_destroy_data: bool,

    /// Form of the report: text or json
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        default_value = "text",
        hide_possible_values = true
    )]
    #[arg(help_heading = "Output")]
    output: Form,
    /// Write the latencies as an HdrHistogram log
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    histogram: Option<PathBuf>,
    /// Repeat the run whose JSON report is in FILE
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    #[arg(conflicts_with_all = ["addresses", "workload", "block_size", "read_mix", "zipf", "span",
        "seed", "prefill", "depth", "rate", "cores", "queues", "digests", "batch", "poll_limit", "time", "warmup", "ios",
        "engine", "compare", "compare_target", "namespace", "iopoll", "faults"])]
    repeat: Option<PathBuf>,
    /// Print this help
    #[arg(short = 'h', long, action = clap::ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,
}

/// A digest of NVMe/TCP (CRC-32C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Digest {
    /// Of headers
    Header,
    /// Of data
    Data,
}

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Request {
    /// The run.
    pub config: Config,
    /// Consent to overwrite drives.
    pub destroy_data: bool,
    /// Form of the report.
    pub form: Form,
    /// Where to write an HdrHistogram log.
    pub histogram: Option<PathBuf>,
}

impl Args {
    /// Turns the words into a run.
    ///
    /// # Errors
    /// A wrong combination, or a report for `--repeat` that cannot be read.
    pub fn into_request(self) -> anyhow::Result<Request> {
        let (destroy_data, form) = (self.yes_destroy_data, self.output);
        let histogram = self.histogram.clone();
        let config = match &self.repeat {
            Some(path) => repeated(path)?,
            None => self.into_config()?,
        };
        config.check().map_err(anyhow::Error::msg)?;
        Ok(Request { config, destroy_data, form, histogram })
    }

    fn into_config(mut self) -> anyhow::Result<Config> {
        let default = Config::default();
        let counted = self.ios.is_some();
        let time = self.time.map(|time| time.as_secs_f64());
        let warmup = self.warmup.map(|time| time.as_secs_f64());
        let read_mix = if self.workload == Workload::Verify { 50 } else { default.read_mix };
        if !self.digests.is_empty() {
            ensure!(
                with_digests(&mut self.addresses, &self.digests),
                "--digests is for tcp://HOST:PORT addresses, and there is none"
            );
        }
        Ok(Config {
            addresses: if self.addresses.is_empty() { default.addresses } else { self.addresses },
            namespace: self.namespace,
            engine: self.engine,
            compare: self.compare,
            compare_target: self.compare_target,
            workload: self.workload,
            block_size: self.block_size,
            depth: self.depth,
            read_mix: self.read_mix.unwrap_or(read_mix),
            zipf: self.zipf,
            seed: self.seed,
            prefill: self.prefill,
            span: self.span,
            time: time.or(if counted { None } else { default.time }),
            warmup: warmup.unwrap_or(if counted { 0.0 } else { default.warmup }),
            ios: self.ios,
            rate: self.rate.map(|rate| rate as f64),
            cores: self.cores,
            queues: self.queues,
            batch: self.batch,
            poll_limit: self.poll_limit,
            iopoll: self.iopoll,
            faults: self.faults,
        })
    }
}

/// Has the addresses across a network use these digests too; false where there is no such address.
fn with_digests(addresses: &mut [String], digests: &[Digest]) -> bool {
    let mut any = false;
    for text in addresses {
        // One that is wrong is explained when it is opened.
        if let Ok(Address::Tcp(mut options)) = text.parse() {
            options.header_digest |= digests.contains(&Digest::Header);
            options.data_digest |= digests.contains(&Digest::Data);
            *text = Address::Tcp(options).to_string();
            any = true;
        }
    }
    any
}

fn repeated(path: &std::path::Path) -> anyhow::Result<Config> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("--repeat {shown}"))?;
    let mut report: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("--repeat {shown}: not a report of --output json"))?;
    let config = report.get_mut("configuration").map(serde_json::Value::take).unwrap_or_default();
    serde_json::from_value(config).with_context(|| {
        format!("--repeat {shown}: its \"configuration\" is not one of this version")
    })
}

fn parse_cores(text: &str) -> Result<Cores, String> {
    let wrong =
        || format!("{text:?} is neither a count nor core ids; write for example 4 or 0,1 or 0-3");
    if let Ok(count) = text.parse::<usize>() {
        return Ok(Cores::Count(count));
    }
    let mut cores = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= 1024 {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    if cores.is_empty() { Err(wrong()) } else { Ok(Cores::Pinned(cores)) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn config(words: &[&str]) -> Config {
        let words = std::iter::once("doorbell-perf").chain(words.iter().copied());
        let args = Args::try_parse_from(words).expect("parses");
        args.into_request().expect("is a run").config
    }

    #[test]
    fn declaration_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_argument_means_the_default_run() {
        assert_eq!(config(&[]), Config::default());
    }

    #[test]
    fn short_forms_of_fio_and_spdk() {
        let run = config(&[
            "-w", "randrw", "-o", "8k", "-q", "4", "-t", "2", "-a", "0", "-M", "30", "x:",
        ]);
        assert_eq!((run.block_size, run.depth, run.read_mix), (8192, 4, 30));
        assert_eq!((run.time, run.warmup), (Some(2.0), 0.0));
        assert_eq!(run.addresses, ["x:"]);
        let run = config(&["--bs", "512", "--iodepth", "9", "--runtime", "5s", "-n", "10k"]);
        assert_eq!((run.block_size, run.depth, run.ios), (512, 9, Some(10_000)));
    }

    #[test]
    fn digests_are_those_of_the_addresses_and_of_the_option() {
        let tcp = "tcp://127.0.0.1:4420/nqn.2014-08.org.x:y";
        let run = config(&["--digests", "header", tcp, "embedded:", "tcp://h,ddgst"]);
        assert_eq!(run.addresses[0], format!("{tcp},hdgst"));
        assert_eq!(run.addresses[1], "embedded:");
        assert!(run.addresses[2].ends_with(",hdgst,ddgst"), "{}", run.addresses[2]);
        let run = config(&["--digests", "header,data", tcp]);
        assert_eq!(run.addresses[0], format!("{tcp},hdgst,ddgst"));
        for (words, why) in [(&["--digests", "data"], "none"), (&["--digests=all", tcp], "all")] {
            let words = std::iter::once("doorbell-perf").chain(words.iter().copied());
            let error = match Args::try_parse_from(words) {
                Ok(args) => args.into_request().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn counted_runs_need_no_time() {
        let run = config(&["--ios", "100"]);
        assert_eq!((run.time, run.warmup, run.ios), (None, 0.0, Some(100)));
    }

    #[test]
    fn cores_are_a_count_or_a_list() {
        assert_eq!(parse_cores("3"), Ok(Cores::Count(3)));
        assert_eq!(parse_cores("3,"), Ok(Cores::Pinned(vec![3])));
        assert_eq!(parse_cores("0-2,5,1"), Ok(Cores::Pinned(vec![0, 1, 2, 5])));
        assert!(
            parse_cores("a").is_err()
                && parse_cores("2-1").is_err()
                && parse_cores("9999-").is_err()
        );
    }

    #[test]
    fn the_printed_command_line_gives_the_same_run() {
        for words in [
            vec!["-w", "verify", "-c", "1,", "--batch", "4", "-n", "77", "embedded:size=1GiB"],
            vec!["-w", "randrw", "-F", "1.1", "-r", "5k", "-C", "3", "-P", "2", "a b", "-t", "3s"],
            vec!["--faults", "plan.toml", "embedded:"],
        ] {
            let first = config(&words);
            let line = first.command_line().replace("'a b'", "a\u{1}b");
            let again: Vec<String> =
                line.split(' ').skip(1).map(|word| word.replace('\u{1}', " ")).collect();
            let again: Vec<&str> = again.iter().map(String::as_str).collect();
            assert_eq!(config(&again), first, "{line}");
        }
    }

    #[test]
    fn help_fits_100_columns() {
        let help = Args::command().term_width(100).render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}
