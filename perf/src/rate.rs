//! Open loop: the times at which I/Os are meant to start, whatever the device does.

/// A steady series of intended start times, in ticks.
#[derive(Clone, Debug)]
pub struct Pace {
    next: u64,
    fraction: u32,
    step: u64,
    step_fraction: u32,
}

impl Pace {
    /// One start each `step` ticks, from `first` on.
    pub fn new(first: u64, step: f64) -> Self {
        let step = step.clamp(1.0 / 65536.0, 1e15);
        let whole = step.floor();
        Self {
            next: first,
            fraction: 0,
            step: whole as u64,
            step_fraction: ((step - whole) * (1u64 << 32) as f64) as u32,
        }
    }

    /// The intended start of the next I/O, if that time has come.
    #[inline]
    pub fn take(&mut self, now: u64) -> Option<u64> {
        if self.next > now {
            return None;
        }
        let intended = self.next;
        let (fraction, carry) = self.fraction.overflowing_add(self.step_fraction);
        self.fraction = fraction;
        self.next = intended + self.step + u64::from(carry);
        Some(intended)
    }

    /// How many starts are overdue at `now`.
    pub fn overdue(&self, now: u64) -> u64 {
        let step = self.step as f64 + f64::from(self.step_fraction) / (1u64 << 32) as f64;
        if self.next > now { 0 } else { ((now - self.next) as f64 / step) as u64 + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_rate_whatever_happens() {
        // 3 000 000 000 ticks a second, 700 000 I/Os a second: 4285.714 ticks each.
        let mut pace = Pace::new(1000, 3e9 / 7e5);
        let taken = std::iter::from_fn(|| pace.take(3_000_000_999)).count();
        assert!((699_999..=700_001).contains(&taken), "{taken}");
    }

    #[test]
    fn a_late_start_keeps_its_intended_time() {
        let mut pace = Pace::new(100, 10.0);
        assert_eq!(pace.take(99), None);
        assert_eq!(pace.take(150), Some(100));
        assert_eq!(pace.overdue(150), 5);
        assert_eq!(pace.take(150), Some(110));
        assert_eq!(pace.overdue(115), 0);
    }
}
