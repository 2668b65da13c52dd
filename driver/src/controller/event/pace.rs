//! How often a controller is asked for its next event.

use std::time::Duration;

/// Requests that may follow each other at once.
const BURST: u32 = 16;
/// After those, one in this time.
const INTERVAL: Duration = Duration::from_millis(10);

/// Requests that have been sent of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of the burst, and when it was so many.
    used: u32,
    since: Duration,
}

impl Pace {
    /// Whether another request may be sent `now`; it counts as sent then.
    pub(super) fn allows(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_nanos() / INTERVAL.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= self.used {
            (self.used, self.since) = (0, now);
        } else {
            self.used -= passed;
            self.since += INTERVAL * passed;
        }
        let allowed = self.used < BURST;
        self.used += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_hundred_a_second() {
        let mut pace = Pace::default();
        let start = Duration::from_secs(5);
        let sent = (0..1000).filter(|_| pace.allows(start)).count();
        assert_eq!(sent, 16);
        let sent = (0..1000).filter(|ms| pace.allows(start + Duration::from_millis(*ms))).count();
        assert!((98..=100).contains(&sent), "{sent}");
        let later = start + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| pace.allows(later)).count(), 16);
    }
}
