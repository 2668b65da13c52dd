//! What is done, and to which blocks: the workloads of the command line, and the stream of choices that makes one.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::zipf::Zipf;

/// A workload, by the name that fio or SPDK users expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Workload {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Reads of random blocks
    #[value(alias = "rand-read")]
    Randread,
    /// Writes of random blocks
    #[value(alias = "rand-write")]
    Randwrite,
    /// Sequential reads and writes
    Rw,
    /// Random reads and writes
    #[value(alias = "rand-rw")]
    Randrw,
    /// Deallocation of random blocks
    Trim,
    /// Flush commands
    Flush,
    /// Write Zeroes to random blocks
    WriteZeroes,
    /// Random blocks read, then compared
    Compare,
    /// Random writes, read back and checked
    Verify,
}

impl Workload {
    /// Whether it changes what the drive holds.
    pub fn is_destructive(self) -> bool {
        !matches!(self, Self::Read | Self::Randread | Self::Flush | Self::Compare)
    }

    /// Whether it goes through the blocks in order.
    pub fn is_sequential(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Rw)
    }

    /// Whether `--read-mix` means anything to it.
    pub fn is_mixed(self) -> bool {
        matches!(self, Self::Rw | Self::Randrw | Self::Verify)
    }

    /// Whether data go to or from the drive.
    pub fn moves_data(self) -> bool {
        !matches!(self, Self::Trim | Self::Flush | Self::WriteZeroes)
    }

    /// The operations that it consists of.
    pub fn operations(self) -> &'static [Operation] {
        match self {
            Self::Read | Self::Randread => &[Operation::Read],
            Self::Write | Self::Randwrite => &[Operation::Write],
            Self::Rw | Self::Randrw | Self::Verify => &[Operation::Read, Operation::Write],
            Self::Trim => &[Operation::Trim],
            Self::Flush => &[Operation::Flush],
            Self::WriteZeroes => &[Operation::WriteZeroes],
            Self::Compare => &[Operation::Read, Operation::Compare],
        }
    }

    /// The name used on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One kind of I/O, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Data from the device.
    Read,
    /// Data to the device.
    Write,
    /// Deallocate blocks.
    Trim,
    /// Make written data durable.
    Flush,
    /// Zeroes without a transfer of data.
    WriteZeroes,
    /// Data to the device, which compares it.
    Compare,
}

impl Operation {
    /// Every operation, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Trim, Self::Flush, Self::WriteZeroes, Self::Compare];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Trim => "trim",
            Self::Flush => "flush",
            Self::WriteZeroes => "write-zeroes",
            Self::Compare => "compare",
        }
    }

    /// Whether it names blocks.
    pub fn has_blocks(self) -> bool {
        self != Self::Flush
    }
}

/// The order in which units (pieces of one I/O's size) are visited.
#[derive(Clone, Debug)]
pub enum Order {
    /// One after the other, over and over.
    Sequential {
        /// The unit to visit next.
        next: u64,
    },
    /// Evenly at random.
    Random,
    /// A few far more often than others.
    Zipf(Zipf),
}

/// The endless stream of choices of one queue.
#[derive(Clone, Debug)]
pub struct Source {
    random: Random,
    order: Order,
    units: u64,
    first: Operation,
    second: Operation,
    /// Below this, 32 random bits choose the first operation; 2^32 always does.
    threshold: u64,
}

impl Source {
    /// Choices among `units` units; of a mixed workload, `read_mix` percent are reads.
    pub fn new(workload: Workload, read_mix: u8, units: u64, order: Order, random: Random) -> Self {
        let operations = workload.operations();
        let first = operations.first().copied().unwrap_or(Operation::Read);
        let second = operations.last().copied().unwrap_or(first);
        let threshold =
            if workload.is_mixed() { (u64::from(read_mix) << 32) / 100 } else { 1 << 32 };
        Self { random, order, units: units.max(1), first, second, threshold }
    }

    /// The next operation.
    #[inline]
    pub fn operation(&mut self) -> Operation {
        if self.threshold == 1 << 32 || self.random.bits() >> 32 < self.threshold {
            self.first
        } else {
            self.second
        }
    }

    /// The next unit.
    #[inline]
    pub fn unit(&mut self) -> u64 {
        match &mut self.order {
            Order::Sequential { next } => {
                let unit = *next;
                *next = if unit + 1 < self.units { unit + 1 } else { 0 };
                unit
            }
            Order::Random => self.random.below(self.units),
            Order::Zipf(zipf) => zipf.draw(&mut self.random),
        }
    }

    /// How many units there are.
    pub fn units(&self) -> u64 {
        self.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(workload: Workload, read_mix: u8, order: Order) -> Source {
        Source::new(workload, read_mix, 5, order, Random::new(1, 1))
    }

    #[test]
    fn sequential_wraps() {
        let mut source = source(Workload::Read, 0, Order::Sequential { next: 3 });
        let units: Vec<u64> = (0..6).map(|_| source.unit()).collect();
        assert_eq!(units, [3, 4, 0, 1, 2, 3]);
        assert_eq!(source.operation(), Operation::Read);
    }

    #[test]
    fn mix_is_kept() {
        for percent in [0, 30, 100] {
            let mut source = source(Workload::Randrw, percent, Order::Random);
            let reads = (0..20_000).filter(|_| source.operation() == Operation::Read).count();
            let expected = usize::from(percent) * 200;
            assert!(reads.abs_diff(expected) < 400, "{reads} reads, not {expected}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Workload::WriteZeroes.name(), "write-zeroes");
        assert_eq!(Workload::Randread.name(), "randread");
        assert!(Workload::Verify.is_destructive() && !Workload::Compare.is_destructive());
    }
}
