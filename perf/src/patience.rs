//! How long to poll in vain before letting others have the processor, learnt from what happens then.
//!
//! Where yielding comes back at once, nobody else wanted this core and polling on is right. Where it takes a while,
//! somebody ran: on a machine with few cores most likely the very thread that has to answer, and waiting for it is a
//! waste of its time.

use crate::clock::Clock;

/// A yield that lasts longer than this has let somebody run.
const SOMEBODY_RAN_NS: u64 = 3_000;
const LEAST: u32 = 64;

/// The number of empty rounds before a yield.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    rounds: u32,
    most: u32,
    threshold: u64,
    idle: u32,
}

impl Patience {
    /// At most `most` rounds.
    pub fn new(most: u32, clock: &Clock) -> Self {
        let threshold = clock.ticks(std::time::Duration::from_nanos(SOMEBODY_RAN_NS));
        Self { rounds: most.min(1024), most, threshold, idle: 0 }
    }

    /// A round brought something.
    #[inline]
    pub fn reset(&mut self) {
        self.idle = 0;
    }

    /// A round brought nothing; yields when patience has run out. Returns how many rounds there were.
    #[inline]
    pub fn wait(&mut self, clock: &Clock) -> u32 {
        self.idle = self.idle.saturating_add(1);
        if self.idle > self.rounds {
            self.give_way(clock);
        }
        self.idle
    }

    #[cold]
    fn give_way(&mut self, clock: &Clock) {
        let before = clock.now();
        std::thread::yield_now();
        self.learn(clock.now().saturating_sub(before));
    }

    fn learn(&mut self, ticks: u64) {
        self.rounds = if ticks > self.threshold {
            (self.rounds / 2).max(LEAST)
        } else {
            self.rounds.saturating_add(self.rounds / 4).min(self.most)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shrinks_where_others_wait_and_grows_where_none_do() {
        let clock = Clock::calibrate();
        let mut patience = Patience::new(10_000, &clock);
        let long = clock.ticks(std::time::Duration::from_micros(50));
        (0..20).for_each(|_| patience.learn(long));
        assert_eq!(patience.rounds, LEAST);
        (0..100).for_each(|_| patience.learn(0));
        assert_eq!(patience.rounds, 10_000);
    }
}
