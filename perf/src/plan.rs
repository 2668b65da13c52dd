//! How a device is divided among the queues that work on it.

use anyhow::bail;

use crate::clock::Clock;
use crate::config::{Config, Prefill};
use crate::lane::{LaneConfig, Script};
use crate::random::{Random, mix};
use crate::units;
use crate::verify::{Ledger, MAX_UNITS};
use crate::workload::{Order, Source, Workload};
use crate::zipf::Zipf;

/// What is known of a device that takes part.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address or path.
    pub address: String,
    /// What it is, for people.
    pub description: String,
    /// Namespace, where there are such.
    pub namespace: Option<u32>,
    /// Bytes of a logical block.
    pub block: u32,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes from its start that are used.
    pub span: u64,
    /// Emulated in memory of this process, where only what was written exists.
    pub in_memory: bool,
    /// Something the reader of the result should know.
    pub note: Option<String>,
    /// Facts for programs: name and value.
    pub facts: Vec<(&'static str, String)>,
}

/// So much of embedded memory is used where nothing else is said: quick to write before the run, and more than caches
/// hold.
const MODEST: u64 = 64 << 20;

/// The part of a device that is used, in units of one I/O's size.
#[derive(Clone, Debug)]
pub struct Plan {
    device: usize,
    block: u32,
    /// Blocks of one I/O.
    pub blocks: u64,
    units: u64,
    fill: bool,
    zipf: Option<Zipf>,
    run: u64,
}

impl Plan {
    /// Checks that the workload fits the device.
    ///
    /// # Errors
    /// A sentence about the device and the option that does not fit it.
    pub fn new(config: &Config, index: usize, device: &mut Device) -> anyhow::Result<Self> {
        let (address, block) = (&device.address, u64::from(device.block.max(1)));
        if !config.block_size.is_multiple_of(block) {
            bail!(
                "{address} has blocks of {block} bytes; --block-size {} is not a multiple of that",
                config.block_size
            );
        }
        let lanes = (config.cores.count() * config.queues) as u64;
        let modest = device.in_memory && config.workload.moves_data();
        let span = config.span.unwrap_or_else(|| {
            let least = MODEST.max(lanes.saturating_mul(config.block_size));
            if modest { least.min(device.bytes) } else { device.bytes }
        });
        if span > device.bytes {
            bail!(
                "{address} has {}; --span {} is more",
                units::size(device.bytes),
                units::size(span)
            );
        }
        let mut used = span / config.block_size;
        if used < lanes {
            let size = units::size(span);
            bail!(
                "{address}: {size} are too little for {lanes} queues with I/Os of {} bytes",
                config.block_size
            );
        }
        if config.workload == Workload::Verify && used > MAX_UNITS {
            used = MAX_UNITS;
            let size = units::size(used * config.block_size);
            device.note = Some(format!(
                "only the first {size} are verified; --block-size or --span changes that"
            ));
        }
        let fill = config.can_prefill()
            && match config.prefill {
                Prefill::Yes => true,
                Prefill::Auto => device.in_memory,
                Prefill::No => false,
            };
        if span < device.bytes && config.span.is_none() {
            let written = if fill { ", and written before the run" } else { "" };
            device.note =
                Some(format!("{} of it are used{written}; see --span", units::size(span)));
        }
        device.span = used * config.block_size;
        Ok(Self {
            device: index,
            block: device.block,
            blocks: config.block_size / block,
            units: used,
            fill,
            zipf: config.zipf.map(|theta| Zipf::new(used, theta)),
            run: mix(config.seed ^ mix(index as u64 + 1)),
        })
    }

    /// The work of one of `lanes` queues of the device, which is number `stream` of the whole run's `streams`.
    pub fn lane(&self, config: &Config, clock: &Clock, lane: Share, stream: Share) -> LaneConfig {
        let random = Random::new(config.seed, stream.index);
        let all = Share { index: 0, of: 1 };
        // Queues that verify share no unit, so each knows what its own must hold.
        let part = if config.workload == Workload::Verify { lane } else { all };
        let (first_unit, end_unit) = part.range(self.units);
        let units = end_unit - first_unit;
        let order = if config.workload.is_sequential() {
            Order::Sequential { next: lane.range(self.units).0 }
        } else if let Some(zipf) = &self.zipf {
            if units == self.units {
                Order::Zipf(zipf.clone())
            } else {
                self.own_zipf(config, units)
            }
        } else {
            Order::Random
        };
        let first_lba = first_unit * self.blocks;
        let script = match config.workload {
            Workload::Compare => Script::ReadThenCompare,
            Workload::Verify => {
                let block = self.block as usize;
                Script::Verify(Ledger::new(self.run, block, self.blocks, first_lba, units as usize))
            }
            _ => Script::Plain,
        };
        LaneConfig {
            device: self.device,
            workload: config.workload,
            first_lba,
            blocks: self.blocks,
            bytes: config.block_size,
            source: Source::new(config.workload, config.read_mix, units, order, random),
            script,
            share: if self.fill { lane.range(self.units) } else { (0, 0) },
            batch: config.batch,
            poll_limit: config.poll_limit.unwrap_or(u32::MAX),
            interval: config.rate.map(|rate| {
                let per_second = clock.ticks(std::time::Duration::from_secs(1)) as f64;
                per_second * stream.of as f64 / rate
            }),
            budget: config.ios.map_or(u64::MAX, |ios| {
                let (first, end) = stream.range(ios);
                end - first
            }),
        }
    }

    fn own_zipf(&self, config: &Config, units: u64) -> Order {
        config.zipf.map_or(Order::Random, |theta| Order::Zipf(Zipf::new(units, theta)))
    }
}

/// One of several equal parts.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

impl Share {
    /// The part of 0..`whole`; the parts of all shares are disjoint and cover it.
    pub fn range(self, whole: u64) -> (u64, u64) {
        let at = |index: u64| (u128::from(whole) * u128::from(index) / u128::from(self.of)) as u64;
        (at(self.index), at(self.index + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(bytes: u64) -> Device {
        Device {
            address: "embedded:".into(),
            description: String::new(),
            namespace: Some(1),
            block: 4096,
            bytes,
            span: bytes,
            in_memory: false,
            note: None,
            facts: Vec::new(),
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for (whole, of) in [(10, 3), (1, 4), (u64::MAX, 7), (0, 2)] {
            let ranges: Vec<(u64, u64)> =
                (0..of).map(|index| Share { index, of }.range(whole)).collect();
            assert_eq!((ranges[0].0, ranges[of as usize - 1].1), (0, whole));
            assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let refusal = |config: Config, bytes| {
            Plan::new(&config, 0, &mut device(bytes)).expect_err("refuses").to_string()
        };
        let text = refusal(Config { block_size: 512, ..Config::default() }, 1 << 30);
        assert!(text.contains("--block-size 512"), "{text}");
        let text = refusal(Config { span: Some(1 << 31), ..Config::default() }, 1 << 30);
        assert!(text.contains("--span 2 GiB"), "{text}");
        let text = refusal(Config { queues: 3, ..Config::default() }, 8192);
        assert!(text.contains("too little for 3 queues"), "{text}");
    }

    #[test]
    fn a_count_is_divided_without_loss() {
        let config = Config { ios: Some(10), time: None, queues: 3, ..Config::default() };
        let plan = Plan::new(&config, 0, &mut device(1 << 30)).expect("fits");
        let clock = Clock::calibrate();
        let budgets = (0..3).map(|index| {
            let share = Share { index, of: 3 };
            plan.lane(&config, &clock, share, share).budget
        });
        assert_eq!(budgets.sum::<u64>(), 10);
    }
}
