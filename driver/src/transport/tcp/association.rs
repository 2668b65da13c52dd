//! How the association with a controller stands, and when what is to be done about it. Time is passed in.
//!
//! A loss of any queue ends the association: all its connections are closed, and what was in flight ends. A new
//! association is made after the delay, but not before the controller can no longer carry out what was in flight
//! (Base 2.1, "Communication Loss Handling"), unless it has confirmed that it will not: so no write of the old
//! association can follow one of the new.

use std::time::Duration;

use super::error::LinkError;

/// When to try again, and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// From the loss to the first attempt, and from one to the next; `MAX`: there are none.
    pub(crate) reconnect: Duration,
    /// How long attempts are made.
    pub(crate) loss: Duration,
    /// How long commands wait.
    pub(crate) fast_fail: Duration,
    /// How long what was in flight may still be carried out.
    pub(crate) quiesce: Duration,
}

/// How an association stands, as its queues have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the one with this number; queues of an earlier one connect again.
    Up(u64),
    /// It is lost, and may come back. Commands fail at once if `failing`, and wait otherwise.
    Down {
        /// The fast-fail time-out has passed.
        failing: bool,
        /// It is time for an attempt, which wants to be looked after.
        trying: bool,
    },
    /// It is lost for good.
    Over(LinkError),
}

/// The state behind [`Standing`].
#[derive(Debug)]
pub(crate) struct Association {
    epoch: u64,
    state: State,
    pub(crate) policy: Policy,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Up,
    Down { since: Duration, quiet_at: Duration, next: Duration, error: LinkError },
    Over(LinkError),
}

impl Association {
    /// The first association, which is up.
    pub(crate) fn new(policy: Policy) -> Self {
        Self { epoch: 1, state: State::Up, policy }
    }

    /// Its number.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A connection of association `epoch` was lost. True if that is news.
    pub(crate) fn lost(&mut self, epoch: u64, error: LinkError, now: Duration) -> bool {
        if epoch != self.epoch || !matches!(self.state, State::Up) {
            return false;
        }
        self.state = match self.policy.reconnect {
            Duration::MAX => State::Over(error),
            delay => State::Down {
                since: now,
                quiet_at: now.saturating_add(self.policy.quiesce),
                next: now.saturating_add(delay),
                error,
            },
        };
        true
    }

    /// Nothing more of the lost association is on its way to the controller than the network holds.
    pub(crate) fn is_cut(&mut self, now: Duration) {
        if let State::Down { quiet_at, .. } = &mut self.state {
            *quiet_at = now.saturating_add(self.policy.quiesce);
        }
    }

    /// The controller has confirmed that nothing of the old association will be carried out any more.
    pub(crate) fn is_quiet(&mut self, now: Duration) {
        if let State::Down { quiet_at, .. } = &mut self.state {
            *quiet_at = now;
        }
    }

    /// Whether it is time for an attempt.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        matches!(self.state, State::Down { quiet_at, next, .. } if now >= next.max(quiet_at))
    }

    /// An attempt has failed; `for_good`: the next one would as well.
    pub(crate) fn failed(&mut self, error: LinkError, for_good: bool, now: Duration) {
        let State::Down { since, quiet_at, .. } = self.state else { return };
        let next = now.saturating_add(self.policy.reconnect);
        self.state = match for_good {
            true => State::Over(error),
            false => State::Down { since, quiet_at, next, error },
        };
    }

    /// There is a new association.
    pub(crate) fn up(&mut self) {
        self.epoch += 1;
        self.state = State::Up;
    }

    /// Nothing more is to be done with it.
    pub(crate) fn end(&mut self, error: LinkError) {
        if !matches!(self.state, State::Over(_)) {
            self.state = State::Over(error);
        }
    }

    /// How it stands.
    pub(crate) fn standing(&mut self, now: Duration) -> Standing {
        match self.state {
            State::Up => Standing::Up(self.epoch),
            State::Down { since, error, .. } => {
                let gone = now.saturating_sub(since);
                if gone >= self.policy.loss {
                    self.state = State::Over(error);
                    return Standing::Over(error);
                }
                let trying = self.is_due(now);
                Standing::Down { failing: gone >= self.policy.fast_fail, trying }
            }
            State::Over(error) => Standing::Over(error),
        }
    }
}

/// When the next Keep Alive is due (Base 2.1, "Keep Alive").
#[derive(Debug)]
pub(crate) struct KeepAlive {
    kato: Duration,
    /// Other commands count as well (CTRATT.TBKAS).
    traffic_based: bool,
    /// The last time the controller heard of this host.
    heard: Duration,
    /// When the one was sent that has not been answered.
    asked: Option<Duration>,
}

/// What is to be done about Keep Alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Nothing yet.
    Wait,
    /// Send one.
    Send,
    /// The last one was not answered in time.
    Lost,
}

impl KeepAlive {
    /// From `now` on; a `kato` of zero is none.
    pub(crate) fn new(kato: Duration, traffic_based: bool, now: Duration) -> Self {
        Self { kato, traffic_based, heard: now, asked: None }
    }

    /// What is to be done. `traffic`: commands have completed since the last call.
    pub(crate) fn check(&mut self, traffic: bool, now: Duration) -> Pulse {
        if self.kato.is_zero() {
            return Pulse::Wait;
        }
        if traffic && self.traffic_based {
            self.heard = now;
        }
        match self.asked {
            Some(asked) if now.saturating_sub(asked) >= self.kato => Pulse::Lost,
            Some(_) => Pulse::Wait,
            None if now.saturating_sub(self.heard) >= self.kato / 2 => {
                self.asked = Some(now);
                Pulse::Send
            }
            None => Pulse::Wait,
        }
    }

    /// The last one has been answered.
    pub(crate) fn answered(&mut self) {
        self.heard = self.asked.take().unwrap_or(self.heard);
    }

    /// The last one could not be sent; it is due again.
    pub(crate) fn not_sent(&mut self) {
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    const POLICY: Policy = Policy {
        reconnect: seconds(1),
        loss: seconds(60),
        fast_fail: seconds(5),
        quiesce: seconds(10),
    };

    #[test]
    fn attempts_wait_for_the_delay_and_until_nothing_old_can_happen() {
        let mut association = Association::new(POLICY);
        assert_eq!(association.standing(seconds(0)), Standing::Up(1));
        assert!(!association.lost(2, LinkError::Closed, seconds(0)), "another one's");
        assert!(association.lost(1, LinkError::Closed, seconds(100)));
        assert!(!association.lost(1, LinkError::Closed, seconds(101)), "once");
        assert!(!association.is_due(seconds(109)));
        assert!(association.is_due(seconds(110)), "quiet");
        association.failed(LinkError::Closed, false, seconds(110));
        assert!(!association.is_due(seconds(110)) && association.is_due(seconds(111)));
        assert_eq!(
            association.standing(seconds(104)),
            Standing::Down { failing: false, trying: false }
        );
        assert_eq!(
            association.standing(seconds(105)),
            Standing::Down { failing: true, trying: false }
        );
        assert_eq!(
            association.standing(seconds(111)),
            Standing::Down { failing: true, trying: true }
        );
        association.up();
        assert_eq!(association.standing(seconds(112)), Standing::Up(2));
        assert!(!association.lost(1, LinkError::Closed, seconds(113)), "late news of the old one");
    }

    #[test]
    fn it_is_quiet_so_long_after_the_last_connection_was_cut() {
        let mut association = Association::new(POLICY);
        association.lost(1, LinkError::Closed, seconds(0));
        association.is_cut(seconds(3));
        assert!(!association.is_due(seconds(12)) && association.is_due(seconds(13)));
        association.is_quiet(seconds(4));
        assert!(association.is_due(seconds(4)));
        let mut over = Association::new(Policy { reconnect: Duration::MAX, ..POLICY });
        over.lost(1, LinkError::Closed, seconds(0));
        over.is_cut(seconds(3));
        assert_eq!(over.standing(seconds(100)), Standing::Over(LinkError::Closed));
    }

    #[test]
    fn a_controller_that_confirms_shortens_the_wait() {
        let mut association = Association::new(POLICY);
        association.lost(1, LinkError::Closed, seconds(0));
        association.is_quiet(seconds(0));
        assert!(!association.is_due(Duration::from_millis(999)) && association.is_due(seconds(1)));
    }

    #[test]
    fn it_ends_after_the_loss_time_out_or_when_there_is_no_point() {
        let mut association = Association::new(POLICY);
        association.lost(1, LinkError::Closed, seconds(0));
        assert_eq!(association.standing(seconds(60)), Standing::Over(LinkError::Closed));
        assert!(!association.is_due(seconds(61)));
        let mut association = Association::new(POLICY);
        association.lost(1, LinkError::Closed, seconds(0));
        association.failed(LinkError::Digests, true, seconds(10));
        assert_eq!(association.standing(seconds(10)), Standing::Over(LinkError::Digests));
        let mut association = Association::new(Policy { reconnect: Duration::MAX, ..POLICY });
        association.lost(1, LinkError::Closed, seconds(0));
        assert_eq!(association.standing(seconds(0)), Standing::Over(LinkError::Closed));
    }

    #[test]
    fn keep_alive_is_due_after_half_the_time_out_without_word() {
        let mut keep = KeepAlive::new(seconds(10), false, seconds(0));
        assert_eq!(keep.check(true, seconds(4)), Pulse::Wait);
        assert_eq!(keep.check(true, seconds(5)), Pulse::Send, "traffic does not count");
        assert_eq!(keep.check(false, seconds(6)), Pulse::Wait);
        keep.answered();
        assert_eq!(keep.check(false, seconds(9)), Pulse::Wait);
        assert_eq!(keep.check(false, seconds(10)), Pulse::Send);
        assert_eq!(keep.check(false, seconds(20)), Pulse::Lost);
        let mut keep = KeepAlive::new(seconds(10), true, seconds(0));
        for second in 1..100 {
            assert_eq!(keep.check(true, seconds(second)), Pulse::Wait);
        }
        assert_eq!(keep.check(false, seconds(104)), Pulse::Send);
        let mut none = KeepAlive::new(Duration::ZERO, false, seconds(0));
        assert_eq!(none.check(false, seconds(1_000_000)), Pulse::Wait);
    }
}
