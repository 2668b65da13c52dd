//! All queues of a controller.
//!
//! Submission queues stand side by side, the admin queue first, so that a round over them is a walk over an array;
//! completion queues are found by their identifier.

use super::queue::{CompletionQueue, SubmissionQueue};

/// The queues that exist.
pub(crate) struct Queues {
    /// The admin queue first, the others as they were created.
    submissions: Vec<SubmissionQueue>,
    /// By identifier.
    completions: Vec<Option<CompletionQueue>>,
    /// Where the next round begins among the I/O submission queues.
    first: usize,
    /// A queue with an interrupt vector was posted to.
    pub(crate) signals: bool,
}

impl Queues {
    pub(crate) fn new(max_io_queues: u16) -> Self {
        Self {
            submissions: Vec::new(),
            completions: (0..=max_io_queues).map(|_| None).collect(),
            first: 0,
            signals: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.submissions.clear();
        self.completions.iter_mut().for_each(|queue| *queue = None);
        self.first = 0;
        self.signals = false;
    }

    /// The admin queues, while the controller is enabled.
    pub(crate) fn admin(&mut self) -> Option<(&mut SubmissionQueue, &mut CompletionQueue)> {
        let completion = self.completions.first_mut()?.as_mut()?;
        Some((self.submissions.first_mut()?, completion))
    }

    /// I/O submission queues that exist.
    #[inline]
    pub(crate) fn io_submissions(&self) -> usize {
        self.submissions.len().saturating_sub(1)
    }

    /// The I/O submission queue whose turn it is, and all completion queues.
    #[inline]
    pub(crate) fn io_queue(
        &mut self,
        turn: usize,
    ) -> Option<(&mut SubmissionQueue, &mut [Option<CompletionQueue>])> {
        let count = self.io_submissions();
        let mut at = self.first + turn;
        if at >= count {
            at -= count;
        }
        Some((self.submissions.get_mut(at + 1)?, &mut self.completions))
    }

    /// Another queue begins the next round.
    #[inline]
    pub(crate) fn rotate(&mut self) {
        self.first = if self.first + 1 < self.io_submissions() { self.first + 1 } else { 0 };
    }

    pub(crate) fn open_submission(&mut self, queue: SubmissionQueue) {
        if let Some(completion) = self.completion(queue.cqid) {
            completion.users += 1;
        }
        self.submissions.push(queue);
    }

    pub(crate) fn open_completion(&mut self, id: u16, queue: CompletionQueue) {
        if let Some(slot) = self.completions.get_mut(usize::from(id)) {
            *slot = Some(queue);
        }
    }

    pub(crate) fn submission(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.submissions.iter_mut().find(|queue| queue.id == id)
    }

    pub(crate) fn completion(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.completions.get_mut(usize::from(id))?.as_mut()
    }

    pub(crate) fn close_submission(&mut self, id: u16) -> Option<SubmissionQueue> {
        let at = self.submissions.iter().position(|queue| queue.id == id)?;
        let queue = self.submissions.remove(at);
        if let Some(completion) = self.completion(queue.cqid) {
            completion.users -= 1;
        }
        self.first = 0;
        Some(queue)
    }

    pub(crate) fn close_completion(&mut self, id: u16) -> Option<CompletionQueue> {
        self.completions.get_mut(usize::from(id))?.take()
    }

    /// Whether I/O queues exist.
    pub(crate) fn has_io(&self) -> bool {
        self.io_submissions() > 0 || self.completions.iter().skip(1).any(Option::is_some)
    }

    /// Whether a queue owns the doorbell `index`.
    pub(crate) fn has_doorbell(&self, index: usize) -> bool {
        self.submissions.iter().any(|queue| queue.doorbell.index() == index)
            || self.completions.iter().flatten().any(|queue| queue.doorbell.index() == index)
    }

    /// Every I/O queue's doorbell, with the value it stands at.
    pub(crate) fn io_doorbells(
        &mut self,
    ) -> impl Iterator<Item = (&mut super::queue::Doorbell, u32)> {
        let submissions = self.submissions.iter_mut().skip(1).map(|queue| {
            let tail = queue.tail();
            (&mut queue.doorbell, tail)
        });
        let completions = self.completions.iter_mut().skip(1).flatten().map(|queue| {
            let head = queue.head();
            (&mut queue.doorbell, head)
        });
        submissions.chain(completions)
    }

    /// The vectors of the queues that were posted to since this was last asked.
    pub(crate) fn posted_vectors(&mut self) -> impl Iterator<Item = u16> {
        self.completions
            .iter_mut()
            .flatten()
            .filter_map(|queue| std::mem::take(&mut queue.posted).then_some(queue.vector)?)
    }
}
