//! Time as the driver sees it: passed in, so that deadlines can be tested in virtual time.

use std::time::{Duration, Instant};

/// Where waiting code gets the time, and how it waits.
///
/// Control plane and blocking calls only: the I/O path reads no clock.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary start. Never goes back.
    fn now(&self) -> Duration;

    /// Lets time pass before something is looked at again.
    ///
    /// `round` counts the looks so far: a clock spins at first, then yields its core, then sleeps for up to `longest`.
    /// A clock of a stepped device runs the device instead and moves virtual time on by `longest`.
    fn pause(&self, round: u32, longest: Duration);
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Looks before the first yield: about a microsecond, the time of an answer from another core.
    const SPINS: u32 = 64;
    /// Looks before the first sleep.
    const YIELDS: u32 = 4096;

    /// A clock that begins at zero now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self, round: u32, longest: Duration) {
        if round < Self::SPINS {
            std::hint::spin_loop();
        } else if round < Self::YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(longest.min(Duration::from_micros(100)));
        }
    }
}

/// A point in time after which waiting ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Duration,
    /// How long the wait was allowed to take.
    pub(crate) after: Duration,
}

impl Deadline {
    pub(crate) fn after(clock: &dyn Clock, after: Duration) -> Self {
        Self { at: clock.now().saturating_add(after), after }
    }

    pub(crate) fn passed(&self, clock: &dyn Clock) -> bool {
        clock.now() >= self.at
    }
}
