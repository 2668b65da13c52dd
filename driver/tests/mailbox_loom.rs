//! The letter box of mailboxes in every interleaving of its threads: nothing is lost, nothing is taken out twice.

// The very file that the driver is built from, over atomics that the model checker knows.
#[path = "../src/queue/mailbox/letters.rs"]
mod letters;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};

    use loom::sync::Mutex;
    use loom::sync::atomic::AtomicUsize;

    /// Promises no more than a lock-free ring does: whoever looks may find it empty just after a letter was put in.
    pub(super) struct Ring<L> {
        letters: Mutex<std::collections::VecDeque<L>>,
        len: AtomicUsize,
        capacity: usize,
    }

    impl<L> Ring<L> {
        pub(super) fn new(capacity: usize) -> Self {
            Self { letters: Mutex::default(), len: AtomicUsize::new(0), capacity }
        }

        pub(super) fn push(&self, letter: L) -> Result<(), L> {
            let mut letters = self.letters.lock().expect("no panic");
            if letters.len() == self.capacity {
                return Err(letter);
            }
            letters.push_back(letter);
            self.len.store(letters.len(), Ordering::Release);
            Ok(())
        }

        pub(super) fn pop(&self) -> Option<L> {
            if self.len.load(Ordering::Acquire) == 0 {
                return None;
            }
            let mut letters = self.letters.lock().expect("no panic");
            let letter = letters.pop_front();
            self.len.store(letters.len(), Ordering::Release);
            letter
        }
    }
}

// The tally is no part of the model: it must cost no interleavings.
use std::sync::atomic::{AtomicUsize, Ordering};

use letters::{Letters, Refused};
use loom::sync::Arc;
use loom::thread;

/// Every interleaving with at most so many preemptions; more find nothing new and take hours.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Where the letters of a run ended up, by letter.
struct Ends {
    taken: Vec<AtomicUsize>,
    returned: Vec<AtomicUsize>,
    refused: Vec<AtomicUsize>,
}

impl Ends {
    fn new(letters: usize) -> Arc<Self> {
        let counters = || (0..letters).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { taken: counters(), returned: counters(), refused: counters() })
    }

    fn count(counters: &[AtomicUsize], letter: usize) {
        counters[letter].fetch_add(1, Ordering::Relaxed);
    }

    fn each_once(&self) {
        for letter in 0..self.taken.len() {
            let of = |counters: &[AtomicUsize]| counters[letter].load(Ordering::Relaxed);
            let ends = of(&self.taken) + of(&self.returned) + of(&self.refused);
            assert_eq!(ends, 1, "letter {letter} has {ends} ends");
        }
    }
}

fn put(letters: &Letters<usize>, ends: &Ends, letter: usize) {
    match letters.put(letter, |letter| Ends::count(&ends.returned, letter)) {
        Ok(()) => {}
        Err(Refused::Full(letter) | Refused::Closed(letter)) => Ends::count(&ends.refused, letter),
    }
}

#[test]
fn a_letter_put_in_while_the_box_closes_has_exactly_one_end() {
    model(|| {
        let letters = Arc::new(Letters::new(2));
        let ends = Ends::new(2);
        let senders: Vec<_> = (0..2)
            .map(|letter| {
                let (letters, ends) = (letters.clone(), ends.clone());
                thread::spawn(move || put(&letters, &ends, letter))
            })
            .collect();
        if let Some(letter) = letters.take() {
            Ends::count(&ends.taken, letter);
        }
        letters.close(|letter| Ends::count(&ends.returned, letter));
        for sender in senders {
            sender.join().expect("no panic");
        }
        ends.each_once();
    });
}

#[test]
fn a_full_box_refuses_and_loses_nothing() {
    model(|| {
        let letters = Arc::new(Letters::new(1));
        let ends = Ends::new(3);
        let sender = {
            let (letters, ends) = (letters.clone(), ends.clone());
            thread::spawn(move || {
                put(&letters, &ends, 0);
                put(&letters, &ends, 1);
            })
        };
        put(&letters, &ends, 2);
        if let Some(letter) = letters.take() {
            Ends::count(&ends.taken, letter);
        }
        sender.join().expect("no panic");
        letters.close(|letter| Ends::count(&ends.returned, letter));
        ends.each_once();
    });
}
