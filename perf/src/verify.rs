//! The books of `verify`: which write each piece of the drive last saw, and the first piece that says otherwise.
//!
//! One ledger belongs to one queue and to a part of the drive that no other queue touches. At most one I/O is in flight
//! for a unit, so what a read must return is always known.

use std::fmt;

use crate::pattern::{Difference, Stamp};
use crate::workload::Operation;

/// Units that all ledgers of a device may cover together: 256 MiB of books.
pub const MAX_UNITS: u64 = 1 << 26;

const BUSY: u32 = 1 << 31;
/// A write failed: the unit may hold either generation, until it is written again.
const UNKNOWN: u32 = 1 << 30;
const GENERATION: u32 = UNKNOWN - 1;

/// Generations of the units of one queue.
#[derive(Debug)]
pub struct Ledger {
    run: u64,
    block: usize,
    blocks: u64,
    first_lba: u64,
    units: Box<[u32]>,
    sweep: usize,
    checked: u64,
    wrong: u64,
    first: Option<Finding>,
}

/// The first wrong byte that a ledger saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Logical block address.
    pub lba: u64,
    /// Bytes of a logical block.
    pub block: usize,
    /// The generation that should stand there.
    pub generation: u32,
    /// Where in the block, and what stands there.
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { offset, expected, got, verdict } = self.difference;
        let at = u128::from(self.lba) * self.block as u128 + offset as u128;
        write!(
            f,
            "LBA {}, byte {offset} (byte {at} of the namespace): expected {expected:#04x} of generation {}, \
             got {got:#04x}; {verdict}",
            self.lba, self.generation
        )
    }
}

/// What a ledger found.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// Blocks that were read and compared.
    pub checked: u64,
    /// Blocks that were wrong.
    pub wrong: u64,
    /// The first of them.
    pub first: Option<Finding>,
}

impl Ledger {
    /// Books for `units` units of `blocks` blocks of `block` bytes each, from `first_lba` on.
    pub fn new(run: u64, block: usize, blocks: u64, first_lba: u64, units: usize) -> Self {
        let units = vec![0; units].into_boxed_slice();
        Self { run, block, blocks, first_lba, units, sweep: 0, checked: 0, wrong: 0, first: None }
    }

    /// Takes a unit for an I/O: `unit`, or one after it where that is busy. What was never written is written, not read.
    pub fn begin(&mut self, operation: Operation, unit: u64) -> Option<(Operation, u64)> {
        let (before, after) = self.units.split_at_checked(unit as usize)?;
        let steps = after.iter().chain(before);
        let step = steps.take(MAX_STEPS).position(|state| state & BUSY == 0)?;
        let index = (unit as usize + step) % self.units.len();
        let state = self.units.get_mut(index)?;
        let known = *state & GENERATION != 0 && *state & UNKNOWN == 0;
        *state |= BUSY;
        Some((if known { operation } else { Operation::Write }, index as u64))
    }

    /// Puts the next generation of a unit into the buffer that will be written.
    pub fn prepare(&mut self, unit: u64, buffer: &mut [u8]) {
        let Some(state) = self.units.get_mut(unit as usize) else { return };
        *state = BUSY | ((*state & GENERATION) + 1) & GENERATION;
        let generation = *state & GENERATION;
        for (lba, block) in self.lbas(unit).zip(buffer.chunks_exact_mut(self.block)) {
            Stamp { run: self.run, lba, generation }.fill(block);
        }
    }

    /// Closes an I/O; what a read brought is checked.
    pub fn settle(&mut self, operation: Operation, unit: u64, ok: bool, buffer: &[u8]) {
        let Some(state) = self.units.get_mut(unit as usize) else { return };
        *state &= !BUSY;
        match operation {
            Operation::Write if !ok => *state |= UNKNOWN,
            Operation::Read if ok => {
                let generation = *state & GENERATION;
                self.check(unit, generation, buffer);
            }
            _ => {}
        }
    }

    fn check(&mut self, unit: u64, generation: u32, buffer: &[u8]) {
        for (lba, block) in self.lbas(unit).zip(buffer.chunks_exact(self.block)) {
            let stamp = Stamp { run: self.run, lba, generation };
            self.checked += 1;
            if stamp.matches(block) {
                continue;
            }
            self.wrong += 1;
            if self.first.is_none() {
                let difference = stamp.first_difference(block);
                self.first = difference.map(|difference| Finding {
                    lba,
                    block: self.block,
                    generation,
                    difference,
                });
            }
        }
    }

    /// The next unit to read in the final pass over everything written.
    pub fn next_to_sweep(&mut self) -> Option<u64> {
        let rest = self.units.get(self.sweep..)?;
        let step = rest.iter().position(|state| state & GENERATION != 0 && state & UNKNOWN == 0)?;
        let unit = self.sweep + step;
        self.sweep = unit + 1;
        Some(unit as u64)
    }

    /// What was found so far.
    pub fn verification(&self) -> Verification {
        Verification { checked: self.checked, wrong: self.wrong, first: self.first.clone() }
    }

    fn lbas(&self, unit: u64) -> impl Iterator<Item = u64> + use<> {
        let first = self.first_lba + unit * self.blocks;
        first..first + self.blocks
    }
}

/// Busy units in a row that are passed over: a queue has no more in flight than this.
const MAX_STEPS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Verdict;

    fn written(ledger: &mut Ledger, unit: u64) -> Vec<u8> {
        let mut buffer = vec![0; 1024];
        assert_eq!(ledger.begin(Operation::Write, unit), Some((Operation::Write, unit)));
        ledger.prepare(unit, &mut buffer);
        ledger.settle(Operation::Write, unit, true, &buffer);
        buffer
    }

    #[test]
    fn a_unit_has_one_io_at_a_time() {
        let mut ledger = Ledger::new(1, 512, 2, 0, 3);
        assert_eq!(ledger.begin(Operation::Read, 2), Some((Operation::Write, 2)));
        assert_eq!(ledger.begin(Operation::Read, 2), Some((Operation::Write, 0)));
        assert_eq!(ledger.begin(Operation::Write, 0), Some((Operation::Write, 1)));
        assert_eq!(ledger.begin(Operation::Write, 0), None);
        assert_eq!(ledger.begin(Operation::Write, 9), None);
        ledger.settle(Operation::Write, 0, true, &[]);
        assert_eq!(ledger.begin(Operation::Write, 1), Some((Operation::Write, 0)));
    }

    #[test]
    fn injected_corruption_is_found_and_located() {
        let mut ledger = Ledger::new(1, 512, 2, 1000, 8);
        let old = written(&mut ledger, 3);
        let mut data = written(&mut ledger, 3);
        let read = |ledger: &mut Ledger, data: &[u8]| {
            assert_eq!(ledger.begin(Operation::Read, 3), Some((Operation::Read, 3)));
            ledger.settle(Operation::Read, 3, true, data);
            ledger.verification()
        };
        assert_eq!(read(&mut ledger, &data).wrong, 0);
        data[512 + 100] ^= 0x40;
        let found = read(&mut ledger, &data);
        assert_eq!((found.checked, found.wrong), (4, 1));
        let first = found.first.expect("a finding");
        assert_eq!((first.lba, first.generation, first.difference.offset), (1007, 2, 100));
        assert_eq!(first.difference.verdict, Verdict::Damaged);
        let text = first.to_string();
        assert!(text.contains("LBA 1007, byte 100 (byte 515684 of the namespace)"), "{text}");
        // Later ones are counted, the first one stays.
        let found = read(&mut ledger, &old);
        assert_eq!((found.wrong, found.first), (3, Some(first)));
    }

    #[test]
    fn a_lost_write_shows_its_generation() {
        let mut ledger = Ledger::new(1, 512, 2, 0, 8);
        let old = written(&mut ledger, 0);
        written(&mut ledger, 0);
        ledger.begin(Operation::Read, 0);
        ledger.settle(Operation::Read, 0, true, &old);
        let verdict = ledger.verification().first.expect("a finding").difference.verdict;
        assert_eq!(verdict, Verdict::OtherGeneration { generation: 1 });
    }

    #[test]
    fn a_failed_write_is_not_held_against_the_drive() {
        let mut ledger = Ledger::new(1, 512, 2, 0, 2);
        written(&mut ledger, 0);
        ledger.begin(Operation::Write, 0);
        ledger.prepare(0, &mut [0; 1024]);
        ledger.settle(Operation::Write, 0, false, &[]);
        assert_eq!(ledger.next_to_sweep(), None);
        assert_eq!(ledger.begin(Operation::Read, 0), Some((Operation::Write, 0)));
    }

    #[test]
    fn the_final_pass_reads_what_was_written() {
        let mut ledger = Ledger::new(1, 512, 2, 0, 10);
        for unit in [1, 4, 9, 4] {
            written(&mut ledger, unit);
        }
        let swept: Vec<u64> = std::iter::from_fn(|| ledger.next_to_sweep()).collect();
        assert_eq!(swept, [1, 4, 9]);
    }
}
