//! How often a thread that polls looks where: at the queues always while there is work, at the sockets now and then,
//! and less and less often once there is none.
//!
//! Pure: told of rounds and of the time, it says what to do next.

use std::time::Duration;

/// Rounds between two looks at the sockets while there is work: a look costs as much as a few commands, and the
/// register access of a busy client can wait that long.
const BUSY_ROUNDS: u32 = 1024;
/// Rounds in a row without work between two looks. Several times what lies between the commands of a client that waits
/// for each, so that no look delays it; and soon enough for one that brings its controller up, register by register.
const IDLE_ROUNDS: u32 = 512;
/// Rounds in a row without work, about 100 us, after which the core is offered to others at each round.
const YIELD_AFTER: u32 = 4096;
/// Idle time after which the thread sleeps between rounds. Where others want the core, yielding once takes longer.
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
    /// Look at the sockets.
    Look,
    /// Let others run, if they wait for the core, and look at the sockets.
    Yield,
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
    /// After a round at the time `now` that found work, or did not. The time need not be newer than the last look.
    #[inline]
    pub(super) fn next(&mut self, worked: bool, now: Duration) -> Next {
        self.rounds = self.rounds.wrapping_add(1);
        if worked {
            self.idle_rounds = 0;
            self.idle_since = None;
        } else {
            self.idle_rounds += 1;
        }
        if self.idle_rounds < YIELD_AFTER {
            let due = self.rounds.is_multiple_of(BUSY_ROUNDS)
                || self.idle_rounds > 0 && self.idle_rounds.is_multiple_of(IDLE_ROUNDS);
            return if due { Next::Look } else { Next::Round };
        }
        // It stays there until there is work.
        self.idle_rounds = YIELD_AFTER;
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_sub(since) < SLEEP_AFTER {
            self.sleep = SLEEP_FIRST;
            return Next::Yield;
        }
        let sleep = self.sleep;
        self.sleep = (sleep * 2).min(SLEEP_LONGEST);
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
    fn a_client_that_waits_for_each_command_is_not_delayed_by_looks() {
        let mut pace = Pace::default();
        let mut looks = 0;
        let mut rounds = 0;
        for _ in 0..1000 {
            for round in 0..40 {
                rounds += 1;
                looks += u32::from(pace.next(round == 0, Duration::ZERO) == Next::Look);
            }
        }
        assert_eq!(looks, rounds / BUSY_ROUNDS);
    }

    #[test]
    fn idling_sleeps_in_growing_steps_and_stays_below_two_percent() {
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        let mut slept = Vec::new();
        let (round, look, wakeup) = (20, 1000, 10_000);
        let mut awake = Duration::ZERO;
        while now < Duration::from_secs(1) {
            let (busy, asleep) = match pace.next(false, now) {
                Next::Round => (round, Duration::ZERO),
                Next::Look | Next::Yield => (look, Duration::ZERO),
                Next::Sleep(time) => {
                    slept.push(time);
                    (wakeup, time)
                }
            };
            awake += Duration::from_nanos(busy);
            now += Duration::from_nanos(busy) + asleep;
        }
        assert_eq!(slept[..6], [50, 100, 200, 400, 800, 1000].map(Duration::from_micros));
        assert!(awake.as_secs_f64() < 0.02, "{awake:?} of {now:?}");
        pace.wake();
        assert_eq!(pace.next(false, now), Next::Round);
        assert_eq!(pace.next(true, now), Next::Round);
    }
}
