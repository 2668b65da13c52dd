//! All queues of a controller.
//!
//! Submission queues stand side by side, the admin queue first, so that a round over them is a walk over an array;
//! completion queues are found by their identifier.

use super::queue::{CompletionQueue, Doorbell, SubmissionQueue};
use crate::doorbells::DoorbellPage;

/// A doorbell and the value at which its queue has nothing to do. Side by side, so that a round over many idle queues
/// touches little memory.
#[derive(Clone, Copy)]
struct Watch {
    index: u32,
    quiet: Option<u32>,
}

/// The queues that exist.
pub(crate) struct Queues {
    /// The admin queue first, the others as they were created.
    submissions: Vec<SubmissionQueue>,
    /// For each of `submissions`, what to look at to know that there is nothing to do.
    watches: Vec<Watch>,
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
            watches: Vec::new(),
            completions: (0..=max_io_queues).map(|_| None).collect(),
            first: 0,
            signals: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.submissions.clear();
        self.watches.clear();
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

    /// Which I/O submission queue comes next; `None` where its doorbell says that it is idle.
    #[inline]
    pub(crate) fn at_turn(&self, turn: usize, page: &DoorbellPage) -> Option<usize> {
        let count = self.io_submissions();
        let mut at = self.first + turn;
        if at >= count {
            at -= count;
        }
        let watch = self.watches.get(at + 1)?;
        (Some(page.load(watch.index as usize)) != watch.quiet).then_some(at + 1)
    }

    /// A submission queue by its place, and all completion queues.
    #[inline]
    pub(crate) fn io_queue(
        &mut self,
        at: usize,
    ) -> Option<(&mut SubmissionQueue, &mut [Option<CompletionQueue>])> {
        Some((self.submissions.get_mut(at)?, &mut self.completions))
    }

    /// Takes note of where the queue at this place stands.
    #[inline]
    pub(crate) fn watch(&mut self, at: usize) {
        if let (Some(watch), Some(queue)) = (self.watches.get_mut(at), self.submissions.get(at)) {
            watch.quiet = queue.quiet_at();
        }
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
        self.watches.push(Watch { index: queue.doorbell.index() as u32, quiet: None });
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
        self.watches.remove(at);
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
    pub(crate) fn io_doorbells(&mut self) -> impl Iterator<Item = (&mut Doorbell, u32)> {
        self.watches.iter_mut().for_each(|watch| watch.quiet = None);
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
