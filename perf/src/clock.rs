//! Time stamps cheap enough to take for every batch: the processor's counter, calibrated once.
//!
//! Where the counter does not run at one constant rate, or on other architectures, the monotonic clock of the system
//! stands in and a tick is a nanosecond.

use std::time::{Duration, Instant};

use crate::sys;

/// A calibrated source of time stamps. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
    counter: bool,
    /// Nanoseconds per tick, times 2^32.
    scale: u64,
}

impl Clock {
    /// Measures the counter against the system's clock for 20 ms.
    pub fn calibrate() -> Self {
        let epoch = Instant::now();
        if !counter_is_constant() {
            return Self { epoch, counter: false, scale: 1 << 32 };
        }
        let (first, from) = paired();
        while from.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (last, to) = paired();
        let ticks = u128::from(last.wrapping_sub(first).max(1));
        let scale = (to.duration_since(from).as_nanos() << 32) / ticks;
        Self { epoch, counter: true, scale: u64::try_from(scale).unwrap_or(1 << 32) }
    }

    /// The current time in ticks.
    #[inline]
    pub fn now(&self) -> u64 {
        if self.counter { sys::ticks() } else { self.epoch.elapsed().as_nanos() as u64 }
    }

    /// Ticks as nanoseconds.
    #[inline]
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }

    /// A length of time in ticks.
    pub fn ticks(&self, time: Duration) -> u64 {
        let ticks = (time.as_nanos() << 32) / u128::from(self.scale.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Ticks as seconds.
    pub fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 * self.scale as f64 / (1u64 << 32) as f64 / 1e9
    }
}

/// Counter and clock read together: of several attempts, the one with the least between the two.
fn paired() -> (u64, Instant) {
    let mut best = (u64::MAX, sys::ticks(), Instant::now());
    for _ in 0..16 {
        let before = sys::ticks();
        let at = Instant::now();
        let gap = sys::ticks().wrapping_sub(before);
        if gap < best.0 {
            best = (gap, before + gap / 2, at);
        }
    }
    (best.1, best.2)
}

fn counter_is_constant() -> bool {
    cfg!(target_arch = "x86_64")
        && std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
            text.lines().find(|line| line.starts_with("flags")).is_some_and(|line| {
                line.split_whitespace().any(|flag| flag == "constant_tsc" || flag == "tsc_reliable")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_system_clock() {
        let clock = Clock::calibrate();
        let (ticks, at) = (clock.now(), Instant::now());
        while at.elapsed() < Duration::from_millis(30) {
            std::thread::yield_now();
        }
        let (passed, expected) = (clock.now() - ticks, at.elapsed().as_nanos() as f64);
        let measured = clock.nanoseconds(passed) as f64;
        assert!((measured / expected - 1.0).abs() < 0.2, "{measured} ns instead of {expected}");
        assert_eq!(clock.nanoseconds(clock.ticks(Duration::from_secs(7))) / 1_000_000, 6999);
    }
}
