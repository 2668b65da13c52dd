//! Seeded randomness, and what a namespace should contain.

/// SplitMix64. The seed is printed, so that a failure can be repeated with `DOORBELL_SEED`.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `DOORBELL_SEED`, or by the time.
    #[must_use]
    pub fn from_env() -> Self {
        let given = std::env::var("DOORBELL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as u64)
        });
        println!("seed: DOORBELL_SEED={seed}");
        Self(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// What a namespace should contain, and which of its blocks commands in flight are about.
#[derive(Debug)]
pub struct Model {
    block: usize,
    bytes: Vec<u8>,
    busy: Vec<bool>,
}

impl Model {
    /// A namespace of `blocks` blocks that reads as zeros.
    #[must_use]
    pub fn new(block: usize, blocks: usize) -> Self {
        Self { block, bytes: vec![0; block * blocks], busy: vec![false; blocks] }
    }

    /// A range of up to `longest` blocks that no command in flight is about, now claimed.
    pub fn claim(&mut self, random: &mut Random, longest: usize) -> Option<(u64, usize)> {
        let first = random.below(self.busy.len() as u64) as usize;
        let want = 1 + random.below(longest as u64) as usize;
        let free = self.busy[first..].iter().take(want).take_while(|&&busy| !busy).count();
        self.busy[first..first + free].fill(true);
        (free > 0).then_some((first as u64, free))
    }

    /// Nothing in flight is about the range any more.
    pub fn release(&mut self, lba: u64, blocks: usize) {
        self.busy[lba as usize..lba as usize + blocks].fill(false);
    }

    /// Contents of a range.
    pub fn range(&mut self, lba: u64, blocks: usize) -> &mut [u8] {
        let from = lba as usize * self.block;
        &mut self.bytes[from..from + blocks * self.block]
    }
}
