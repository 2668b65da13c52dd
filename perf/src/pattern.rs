//! What `verify` writes: blocks that say where and when they were written, so that a wrong one tells what went wrong.
//!
//! A block is a row of little-endian words: magic, run, address, generation, checksum, then a body that differs in
//! every word between any two addresses or generations. Each logical block stands for itself, so a torn I/O shows.

use std::fmt;

use crate::random::mix;

const MAGIC: u64 = u64::from_le_bytes(*b"Doorbell");
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Words before the body.
const HEADER: usize = 5;
/// How many earlier generations are tried to explain a torn block.
const TORN_SEARCH: u32 = 16;

/// What one block should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Identifies run and device.
    pub run: u64,
    /// Logical block address.
    pub lba: u64,
    /// How often the block has been written in this run.
    pub generation: u32,
}

impl Stamp {
    fn key(&self) -> u64 {
        mix(mix(self.run ^ self.lba).wrapping_add(u64::from(self.generation)))
    }

    fn header(&self, checksum: u64) -> [u64; HEADER] {
        [MAGIC, self.run, self.lba, self.generation.into(), checksum]
    }

    /// Fills a block.
    pub fn fill(&self, block: &mut [u8]) {
        let mut sum = Checksum::new(self);
        let mut word = self.key();
        let (words, _) = block.as_chunks_mut::<8>();
        for out in words.iter_mut().skip(HEADER) {
            word = word.wrapping_add(STRIDE);
            sum.add(word);
            *out = word.to_le_bytes();
        }
        for (out, word) in words.iter_mut().zip(self.header(sum.finish())) {
            *out = word.to_le_bytes();
        }
    }

    /// Whether a block says exactly this.
    pub fn matches(&self, block: &[u8]) -> bool {
        let mut sum = Checksum::new(self);
        let mut word = self.key();
        let mut differences = 0;
        let (words, _) = block.as_chunks::<8>();
        for bytes in words.iter().skip(HEADER) {
            word = word.wrapping_add(STRIDE);
            sum.add(word);
            differences |= u64::from_le_bytes(*bytes) ^ word;
        }
        for (bytes, word) in words.iter().zip(self.header(sum.finish())) {
            differences |= u64::from_le_bytes(*bytes) ^ word;
        }
        differences == 0
    }

    /// The first byte in which a block differs from what it should say.
    pub fn first_difference(&self, block: &[u8]) -> Option<Difference> {
        let mut right = vec![0; block.len()];
        self.fill(&mut right);
        let offset = block.iter().zip(&right).position(|(got, expected)| got != expected)?;
        let (expected, got) = (*right.get(offset)?, *block.get(offset)?);
        Some(Difference { offset, expected, got, verdict: self.judge(block, offset) })
    }

    /// What a wrong block is instead.
    fn judge(&self, block: &[u8], offset: usize) -> Verdict {
        if block.iter().all(|byte| *byte == 0) {
            return Verdict::Zeroes;
        }
        let (words, _) = block.as_chunks::<8>();
        let mut words = words.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let header: [u64; HEADER] = std::array::from_fn(|_| words.next().unwrap_or(0));
        let [magic, run, lba, generation, checksum] = header;
        if magic != MAGIC {
            return Verdict::Foreign;
        }
        let found = Self { run, lba, generation: generation as u32 };
        let mut sum = Checksum::new(&found);
        words.for_each(|word| sum.add(word));
        let intact = sum.finish() == checksum;
        match found {
            _ if run != self.run && intact => Verdict::OtherRun,
            _ if lba != self.lba && intact => {
                Verdict::OtherBlock { lba, generation: found.generation }
            }
            _ if found.generation != self.generation && intact => {
                Verdict::OtherGeneration { generation: found.generation }
            }
            _ => self.torn(block, offset).unwrap_or(Verdict::Damaged),
        }
    }

    /// The earlier generation whose bytes stand from the first difference to the end, if there is one.
    fn torn(&self, block: &[u8], offset: usize) -> Option<Verdict> {
        let mut old = vec![0; block.len()];
        let tail = block.get(offset..)?;
        for generation in (self.generation.saturating_sub(TORN_SEARCH)..self.generation).rev() {
            Self { generation, ..*self }.fill(&mut old);
            if old.get(offset..) == Some(tail) {
                return Some(Verdict::Torn { generation });
            }
        }
        None
    }
}

/// A sum over the words of a block that notices changed and exchanged words.
struct Checksum {
    sum: u64,
    weight: u64,
}

impl Checksum {
    fn new(stamp: &Stamp) -> Self {
        Self { sum: mix(stamp.run).wrapping_add(stamp.key()), weight: 1 }
    }

    #[inline]
    fn add(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word.wrapping_mul(self.weight));
        self.weight = self.weight.wrapping_add(2);
    }

    fn finish(&self) -> u64 {
        mix(self.sum)
    }
}

/// Where a block differs first, and what it is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Byte within the block.
    pub offset: usize,
    /// The byte that should stand there.
    pub expected: u8,
    /// The byte that does.
    pub got: u8,
    /// What the block is instead.
    pub verdict: Verdict,
}

/// What a wrong block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing but zeroes.
    Zeroes,
    /// Not written by this tool.
    Foreign,
    /// Written whole by another run or for another device.
    OtherRun,
    /// The whole block of another address.
    OtherBlock {
        /// That address.
        lba: u64,
        /// Its generation.
        generation: u32,
    },
    /// The whole block at the right address, from another write.
    OtherGeneration {
        /// The write that it is from.
        generation: u32,
    },
    /// The beginning is right, the rest is from an earlier write.
    Torn {
        /// The write that the rest is from.
        generation: u32,
    },
    /// The block was written here, but its bytes changed.
    Damaged,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeroes => {
                write!(f, "the block is all zeroes: the write never arrived, or it was deallocated")
            }
            Self::Foreign => {
                write!(f, "the block is not of this tool's making: overwritten, or never written")
            }
            Self::OtherRun => {
                write!(f, "an intact block of another run or device: the write never arrived")
            }
            Self::OtherBlock { lba, generation } => write!(
                f,
                "the intact block of LBA {lba}, generation {generation}: a write or read went to the wrong place"
            ),
            Self::OtherGeneration { generation } => {
                write!(
                    f,
                    "the intact block of generation {generation}: a write was lost or came too late"
                )
            }
            Self::Torn { generation } => {
                write!(
                    f,
                    "from here on it is generation {generation}: the write stopped in the middle of the block"
                )
            }
            Self::Damaged => {
                write!(f, "header and checksum disagree: bytes changed after they were written")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 77, lba: 123, generation: 5 };

    fn block(stamp: Stamp, len: usize) -> Vec<u8> {
        let mut block = vec![0; len];
        stamp.fill(&mut block);
        block
    }

    #[test]
    fn right_blocks_match() {
        for len in [512, 4096] {
            let block = block(STAMP, len);
            assert!(STAMP.matches(&block));
            assert_eq!(STAMP.first_difference(&block), None);
        }
    }

    #[test]
    fn every_flipped_bit_is_found_where_it_is() {
        let right = block(STAMP, 512);
        for bit in 0..512 * 8 {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!STAMP.matches(&wrong), "bit {bit}");
            let found = STAMP.first_difference(&wrong).expect("differs");
            assert_eq!((found.offset, found.got), (bit / 8, wrong[bit / 8]));
            let expected = if bit < 64 { Verdict::Foreign } else { Verdict::Damaged };
            assert_eq!(found.verdict, expected, "bit {bit}");
        }
    }

    #[test]
    fn the_verdict_names_the_cause() {
        let verdict = |bytes: &[u8]| STAMP.first_difference(bytes).expect("differs").verdict;
        assert_eq!(verdict(&[0; 512]), Verdict::Zeroes);
        assert_eq!(verdict(&[0x5a; 512]), Verdict::Foreign);
        assert_eq!(verdict(&block(Stamp { run: 1, ..STAMP }, 512)), Verdict::OtherRun);
        let other = block(Stamp { lba: 9, ..STAMP }, 512);
        assert_eq!(verdict(&other), Verdict::OtherBlock { lba: 9, generation: 5 });
        let old = block(Stamp { generation: 3, ..STAMP }, 512);
        assert_eq!(verdict(&old), Verdict::OtherGeneration { generation: 3 });
        let mut torn = block(STAMP, 4096);
        torn[2048..].copy_from_slice(&block(Stamp { generation: 4, ..STAMP }, 4096)[2048..]);
        assert_eq!(verdict(&torn), Verdict::Torn { generation: 4 });
    }
}
