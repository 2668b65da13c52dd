//! Random numbers that can be had again: each test prints its seed, and `DOORBELL_SEED` sets it.

/// A generator (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    /// A generator for the test `name`.
    pub(crate) fn new(name: &str) -> Self {
        let given = std::env::var("DOORBELL_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as u64)
        };
        let seed: u64 = given.unwrap_or_else(|| if cfg!(miri) { 1 } else { clock() });
        println!("{name}: DOORBELL_SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }
}
