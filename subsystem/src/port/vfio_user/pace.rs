//! How often a thread that polls looks where: at the queues always while there is work, at the sockets now and then,
//! and less and less often once there is none.
//!
//! Pure: told of rounds and of the time, it says what to do next.

use std::time::Duration;

/// Busy rounds between two looks at the sockets: a register access of a busy client waits a few ten microseconds.
const BUSY_ROUNDS: u32 = 256;
/// Idle rounds between two looks. Registers are messages, so a client that brings its controller up needs them soon.
const IDLE_ROUNDS: u32 = 32;
/// Idle rounds after which the core is offered to others at each round.
const YIELD_AFTER: u32 = 4096;
/// Idle time after which the thread sleeps between rounds: gaps in a stream of commands are shorter.
const SLEEP_AFTER: Duration = Duration::from_millis(2);
/// First and longest sleep. The longest bounds what a doorbell waits, and what an idle thread costs: a round and a
/// wakeup take about 10 us.
const SLEEP_FIRST: Duration = Duration::from_micros(50);
const SLEEP_LONGEST: Duration = Duration::from_millis(1);

/// What to do before the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Round,
    /// Let others run, if they wait for the core.
    Yield,
    /// Look at the sockets.
    Look,
    /// Look at the sockets, and wait there for so long.
    Sleep(Duration),
}

/// The rhythm of one thread.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rounds: u32,
    idle_rounds: u32,
    idle_since: Option<Duration>,
    sleep: Duration,
}

impl Pace {
    /// After a round at the time `now` that found work, or did not.
    #[inline]
    pub(super) fn next(&mut self, worked: bool, now: Duration) -> Next {
        self.rounds = self.rounds.wrapping_add(1);
        if worked {
            self.idle_rounds = 0;
            self.idle_since = None;
            return if self.rounds.is_multiple_of(BUSY_ROUNDS) { Next::Look } else { Next::Round };
        }
        self.idle_rounds = self.idle_rounds.saturating_add(1);
        if !self.rounds.is_multiple_of(IDLE_ROUNDS) {
            return if self.idle_rounds > YIELD_AFTER { Next::Yield } else { Next::Round };
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_sub(since) < SLEEP_AFTER {
            self.sleep = SLEEP_FIRST;
            return Next::Look;
        }
        let sleep = self.sleep;
        self.sleep = (sleep * 2).min(SLEEP_LONGEST);
        // After a sleep the next round alone decides.
        self.rounds = u32::MAX;
        Next::Sleep(sleep)
    }

    /// A message came: the client is awake.
    pub(super) fn wake(&mut self) {
        self.idle_rounds = 0;
        self.idle_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_interrupted_seldom_but_surely() {
        let mut pace = Pace::default();
        let looks =
            (0..10 * BUSY_ROUNDS).filter(|_| pace.next(true, Duration::ZERO) == Next::Look).count();
        assert_eq!(looks, 10);
    }

    #[test]
    fn idling_sleeps_in_growing_steps_and_stays_below_two_percent() {
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        let mut slept = Vec::new();
        let round = Duration::from_nanos(100);
        let wakeup = Duration::from_micros(10);
        let mut awake = Duration::ZERO;
        while now < Duration::from_secs(1) {
            match pace.next(false, now) {
                Next::Sleep(time) => {
                    slept.push(time);
                    awake += wakeup;
                    now += wakeup + time;
                }
                _ => {
                    awake += round;
                    now += round;
                }
            }
        }
        assert_eq!(slept[..6], [50, 100, 200, 400, 800, 1000].map(Duration::from_micros));
        assert!(awake.as_secs_f64() < 0.02, "{awake:?} of {now:?}");
        pace.wake();
        assert!(!matches!(pace.next(false, now), Next::Sleep(_)));
        assert_eq!(pace.next(true, now), Next::Round);
    }
}
