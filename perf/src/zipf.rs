//! Zipf-distributed choice: few blocks get most of the I/O, the rank r with a weight of 1 / r^theta.
//!
//! The inverse of the distribution is tabulated once, so that a draw is one lookup and one multiplication. Ranks are
//! scattered over the span, so that hot blocks are not neighbours.

use crate::random::{Random, mix, reduce};

const STEPS: usize = 1 << 13;
/// Ranks whose weights are summed one by one; beyond, the integral is exact enough.
const HEAD: u64 = 4096;

/// Draws units below a bound with Zipf's distribution.
#[derive(Clone, Debug)]
pub struct Zipf {
    units: u64,
    /// First rank of each of [`STEPS`] equally probable intervals, and the end of the last.
    ranks: Box<[u64]>,
}

impl Zipf {
    /// Tabulates the distribution over `units` ranks; `theta` above 0, commonly 0.9 to 1.2.
    pub fn new(units: u64, theta: f64) -> Self {
        let units = units.max(1);
        let weights = Weights::new(units, theta);
        let ranks = (0..=STEPS)
            .map(|step| match step {
                STEPS => units,
                _ => weights.rank_at(weights.total * step as f64 / STEPS as f64),
            })
            .collect();
        Self { units, ranks }
    }

    /// A unit below the bound.
    #[inline]
    pub fn draw(&self, random: &mut Random) -> u64 {
        // The hash of the rank decides where the rank lies: the same unit each time.
        reduce(mix(self.rank(random).wrapping_add(1)), self.units)
    }

    /// A rank, 0 the most probable.
    #[inline]
    pub fn rank(&self, random: &mut Random) -> u64 {
        let bits = random.bits();
        let step = (bits >> (64 - STEPS.trailing_zeros())) as usize;
        let (first, end) = match self.ranks.get(step..step + 2) {
            Some(&[first, end]) => (first, end),
            _ => (0, 1),
        };
        first + reduce(bits << STEPS.trailing_zeros(), end.saturating_sub(first).max(1))
    }
}

/// The cumulated weights of the ranks 1 to `units`.
struct Weights {
    theta: f64,
    /// Sum of the weights of ranks up to and including the index + 1.
    head: Vec<f64>,
    units: u64,
    total: f64,
}

impl Weights {
    fn new(units: u64, theta: f64) -> Self {
        let mut sum = 0.0;
        let head: Vec<f64> = (1..=units.min(HEAD))
            .map(|rank| {
                sum += (rank as f64).powf(-theta);
                sum
            })
            .collect();
        let mut weights = Self { theta, head, units, total: sum };
        if units > HEAD {
            weights.total += weights.integral(HEAD as f64 + 0.5, units as f64 + 0.5);
        }
        weights
    }

    fn integral(&self, from: f64, to: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 {
            (to / from).ln()
        } else {
            (to.powf(power) - from.powf(power)) / power
        }
    }

    /// Zero-based rank at which the cumulated weight passes `weight`.
    fn rank_at(&self, weight: f64) -> u64 {
        let in_head = self.head.partition_point(|sum| *sum <= weight);
        if in_head < self.head.len() {
            return in_head as u64;
        }
        let beyond = weight - self.head.last().copied().unwrap_or(0.0);
        let (start, power) = (HEAD as f64 + 0.5, 1.0 - self.theta);
        let rank = if power.abs() < 1e-9 {
            start * beyond.exp()
        } else {
            (start.powf(power) + beyond * power).powf(1.0 / power)
        };
        ((rank - 0.5) as u64).clamp(in_head as u64, self.units - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of(zipf: &Zipf, ranks: u64) -> f64 {
        let mut random = Random::new(42, 0);
        let draws = 200_000;
        let hits = (0..draws).filter(|_| zipf.rank(&mut random) < ranks).count();
        hits as f64 / f64::from(draws)
    }

    #[test]
    fn head_has_the_weight_it_should() {
        for (units, theta) in [(1000u64, 0.99), (1000, 1.2), (100_000, 0.8), (1 << 28, 1.0)] {
            let zipf = Zipf::new(units, theta);
            let weight = |to: u64| (1..=to).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
            let total = Weights::new(units, theta).total;
            for ranks in [1, 10, 100, 1000] {
                let (expected, got) = (weight(ranks) / total, share_of(&zipf, ranks));
                assert!(
                    (expected - got).abs() < 0.01,
                    "{units} {theta} {ranks}: {got}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn total_of_the_tail_is_close_to_the_sum() {
        let (units, theta) = (1_000_000u64, 0.9);
        let sum: f64 = (1..=units).map(|rank| (rank as f64).powf(-theta)).sum();
        assert!((Weights::new(units, theta).total / sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn stays_below_its_bound() {
        for units in [1u64, 2, 3, 5000] {
            let (zipf, mut random) = (Zipf::new(units, 1.1), Random::new(3, 1));
            assert!(
                (0..10_000)
                    .all(|_| zipf.draw(&mut random) < units && zipf.rank(&mut random) < units)
            );
        }
    }
}
