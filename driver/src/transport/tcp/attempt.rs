//! Attempts: what takes several exchanges with a target, as futures that somebody looks after now and then.
//!
//! A future here never sleeps and wakes nobody: it does what can be done now, and gives up its turn. Whoever may wait
//! has it [`wait`] for the result; whoever polls a queue looks at it once a round ([`turn_of`]) and goes on. Dropping it
//! ends the attempt, with a reset of the connection that it had.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Clock;

/// An attempt that belongs to somebody.
pub(crate) type Attempt<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Ends the turn of the attempt that waits for it.
pub(crate) async fn next_turn() {
    let mut over = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut over, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Gives `attempt` one turn.
pub(crate) fn turn_of<T>(attempt: &mut Attempt<T>) -> Option<T> {
    match attempt.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Gives `attempt` turn after turn.
pub(crate) fn wait<T>(clock: &dyn Clock, attempt: impl Future<Output = T>) -> T {
    let mut attempt = pin!(attempt);
    let mut round = 0;
    loop {
        match attempt.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => return result,
            Poll::Pending => clock.pause(round, Duration::from_millis(1)),
        }
        round = round.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    async fn three() -> u32 {
        for _ in 0..3 {
            next_turn().await;
        }
        3
    }

    #[test]
    fn an_attempt_does_as_much_as_it_has_turns() {
        let mut attempt: Attempt<u32> = Box::pin(three());
        for _ in 0..3 {
            assert_eq!(turn_of(&mut attempt), None);
        }
        assert_eq!(turn_of(&mut attempt), Some(3));
        assert_eq!(wait(&SystemClock::new(), three()), 3);
    }
}
