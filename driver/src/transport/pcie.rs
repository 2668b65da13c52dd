//! Transport over PCIe: a submission and a completion ring in DMA memory, and two doorbells (Memory-based Transport).

mod doorbell;
pub mod prp;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;

use self::doorbell::Doorbell;
pub(crate) use self::doorbell::ShadowDoorbells;
use self::prp::Shape;
use self::ring::{Arrival, Completions, Lists, Submission};
use super::{
    CloseError, Completion, Condition, Data, Full, Handling, Limits, Outcome, Transport, Trouble,
    Usage, Violation,
};
use crate::controller::{Gone, QueueOwner};
use crate::device::Doorbells;
use crate::memory::{DmaMemory, MemoryError};

/// How a queue pair is laid out; see [`Layout::plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Queue identifier of both queues.
    pub(crate) qid: u16,
    /// Commands in flight at most.
    pub(crate) depth: u16,
    /// Entries of the submission queue.
    pub(crate) sq_size: u32,
    /// Entries of the completion queue.
    pub(crate) cq_size: u32,
    /// Bytes one command can carry.
    pub(crate) max_transfer: usize,
    /// log2 of the memory page size, CC.MPS + 12.
    pub(crate) page_shift: u32,
    /// CAP.DSTRD.
    pub(crate) dstrd: u8,
}

impl Layout {
    /// Submission entries to a page; rings of whole pages suit every controller (one of them insists).
    const ENTRIES_PER_PAGE: u32 = 64;

    /// The largest rings that `max_entries` (CAP.MQES + 1) allows for `depth` commands in flight.
    pub(crate) fn plan(
        qid: u16,
        depth: u16,
        max_entries: u32,
        max_transfer: usize,
        page_shift: u32,
        dstrd: u8,
    ) -> Self {
        let max_entries = max_entries.max(2);
        // A ring of n entries holds n - 1 commands (CQ-1).
        let depth = u32::from(depth).clamp(1, max_entries - 1);
        let sq_size = (depth + 1).next_multiple_of(Self::ENTRIES_PER_PAGE).min(max_entries);
        // Room for as many completions again as can be outstanding, so that the head doorbell can wait.
        let cq_size = (2 * depth + 1).next_multiple_of(4 * Self::ENTRIES_PER_PAGE).min(max_entries);
        Self { qid, depth: depth as u16, sq_size, cq_size, max_transfer, page_shift, dstrd }
    }

    /// Completions that may be consumed unannounced: what the ring holds beyond those outstanding.
    fn lazy(&self) -> u32 {
        self.cq_size - 1 - u32::from(self.depth)
    }
}

/// The rings of one queue pair. Belongs to one thread at a time.
pub struct Pcie {
    submission: Submission,
    completions: Completions,
    /// Memory page size in bytes, CC.MPS.
    page: u64,
    qid: u16,
    depth: u16,
    /// Without the rounds that found nothing among the rounds; see `end_round`.
    usage: Usage,
    lists: Lists,
    /// A page of its own for the list of one raw command, zero past its entries; see `describe_guarded`.
    guard: Lists,
    guarded: Option<u16>,
    max_transfer: usize,
    /// Creates and deletes the queues; the admin queue has none.
    owner: Option<Arc<dyn QueueOwner>>,
    lease: Lease,
}

/// How long the controller knows the rings: until it is reset.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Counts the controller's resets; moves on when the controller touches no memory any more.
    epoch: Arc<AtomicU64>,
    /// The count under which the queues were created.
    created: u64,
    /// The queues do not exist any more.
    lost: bool,
}

impl Lease {
    /// From now until `epoch` moves on.
    pub(crate) fn new(epoch: &Arc<AtomicU64>) -> Self {
        Self { epoch: epoch.clone(), created: epoch.load(Ordering::Acquire), lost: false }
    }

    fn ended(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != self.created
    }
}

impl Pcie {
    /// Allocates rings and lists. The device does not know of them yet.
    pub(crate) fn allocate(
        layout: Layout,
        memory: &Arc<DmaMemory>,
        doorbells: &Doorbells,
        shadows: Option<&Arc<ShadowDoorbells>>,
    ) -> Result<Self, PcieError> {
        let Layout { qid, dstrd, .. } = layout;
        let out_of_bar = || PcieError::DoorbellOutsideBar { qid, len: doorbells.len };
        let sq_doorbell =
            Doorbell::submission(doorbells, shadows, qid, dstrd).ok_or_else(out_of_bar)?;
        let cq_doorbell =
            Doorbell::completion(doorbells, shadows, qid, dstrd).ok_or_else(out_of_bar)?;
        let page = 1usize << layout.page_shift;
        let ring = |bytes: usize| memory.allocate_aligned(bytes.next_multiple_of(page), page);
        let sq = ring(layout.sq_size as usize * size_of::<Sqe>())?;
        let cq = ring(layout.cq_size as usize * size_of::<Cqe>())?;
        let list_bytes = prp::list_bytes(layout.max_transfer, layout.page_shift);
        // Two pages need no list. A power of two never straddles a page unless it is whole pages.
        let stride = if layout.max_transfer > page { list_bytes.next_power_of_two() } else { 0 };
        let lists = match stride {
            0 => None,
            stride => Some(ring(stride * usize::from(layout.depth))?),
        };
        Ok(Self {
            submission: Submission::new(sq, layout.sq_size, sq_doorbell),
            completions: Completions::new(cq, layout.cq_size, qid, layout.lazy(), cq_doorbell),
            page: 1 << layout.page_shift,
            qid,
            depth: layout.depth,
            usage: Usage::default(),
            lists: Lists::new(lists, stride),
            guard: Lists::new(Some(ring(page)?), page),
            guarded: None,
            max_transfer: layout.max_transfer,
            owner: None,
            lease: Lease::default(),
        })
    }

    pub(crate) fn sq_iova(&self) -> u64 {
        self.submission.iova()
    }

    pub(crate) fn cq_iova(&self) -> u64 {
        self.completions.iova()
    }

    /// From here on the queues exist on the device, and `owner` deletes them.
    pub(crate) fn owned_by(&mut self, owner: Arc<dyn QueueOwner>) {
        self.owner = Some(owner);
    }

    /// How long the controller knows these rings.
    pub(crate) fn leased(&mut self, lease: Lease) {
        self.lease = lease;
    }

    /// Takes the rings that the controller has been given in the place of these, if it has.
    fn renew(&mut self) -> Condition {
        let Some(owner) = self.owner.clone() else { return Condition::Same };
        match owner.claim(self.qid) {
            Ok(None) => Condition::Same,
            Ok(Some(mut fresh)) => {
                fresh.owner = self.owner.take();
                fresh.usage = self.usage;
                // The memory of these goes back to its pool: the controller has been disabled since, or has deleted them.
                *self = *fresh;
                Condition::Renewed
            }
            Err(Gone) => Condition::Ended,
        }
    }

    /// PRP1 and PRP2 for `data`, whose list, if it needs one, is that of `slot`.
    #[inline(always)]
    fn describe(&mut self, slot: u16, data: Data) -> Option<(u64, u64)> {
        match prp::shape(data.iova, data.len, self.page) {
            Shape::One => Some((data.iova, 0)),
            Shape::Two(second) => Some((data.iova, second)),
            Shape::List { first, pages } => Some((data.iova, self.list(slot, first, pages)?)),
        }
    }

    /// As [`describe`](Self::describe), for data that the controller may overrun.
    ///
    /// It then reads on in PRP2 or in the list. So PRP2 is 0, which is never mapped, or a list in a page of its own with
    /// zeros after the last entry. Of two pages PRP2 is the second, which such a controller takes for a list: the queue
    /// above has cleared it if the controller is to write it.
    #[cold]
    fn describe_guarded(&mut self, slot: u16, data: Data) -> Option<(u64, u64)> {
        match prp::shape(data.iova, data.len, self.page) {
            Shape::One => Some((data.iova, 0)),
            Shape::Two(second) => Some((data.iova, second)),
            Shape::List { first, pages } => {
                if self.guarded.is_some() {
                    return None;
                }
                let (list, iova) = self.guard.of(0)?;
                list.fill(0);
                // The last slot of the page would be a chain pointer: it stays 0.
                let usable = list.len() - 1;
                if !prp::fill(list.get_mut(..usable)?, iova, first, pages, self.page) {
                    return None;
                }
                self.guarded = Some(slot);
                Some((data.iova, iova))
            }
        }
    }

    /// Nothing more has arrived: the device is told, if it has to know, what was taken.
    #[inline(always)]
    fn end_round(&mut self) -> Result<Option<Completion>, Violation> {
        if self.completions.end_round() {
            // Those that found nothing are added when somebody asks.
            self.usage.polls += 1;
            self.usage.doorbells += u64::from(self.completions.announce());
        } else {
            self.usage.empty_polls += 1;
        }
        match self.submission.lie() {
            None => Ok(None),
            Some((sqhd, head, tail)) => Err(Violation::HeadOutOfRange { sqhd, head, tail }),
        }
    }

    #[inline(never)]
    fn list(&mut self, slot: u16, first: u64, pages: usize) -> Option<u64> {
        let (list, iova) = self.lists.of(slot)?;
        prp::fill(list, iova, first, pages, self.page).then_some(iova)
    }
}

impl Transport for Pcie {
    #[inline(always)]
    fn limits(&self) -> Limits {
        let Self { depth, max_transfer, page, .. } = *self;
        Limits { depth, max_transfer, page, direct: true }
    }

    #[inline(always)]
    fn stage(&mut self, slot: u16, cid: u16, mut command: Sqe, data: Data) -> Result<(), Full> {
        command = command.with_cid(cid);
        match data.handling {
            // `None`: the one guarded list is in use. Data beyond `max_transfer` do not come here.
            Handling::Exact => {
                (command.prp1, command.prp2) = self.describe(slot, data).ok_or(Full)?;
            }
            Handling::Guarded => {
                (command.prp1, command.prp2) = self.describe_guarded(slot, data).ok_or(Full)?;
            }
            Handling::AsGiven => {}
        }
        if self.submission.push(command) {
            return Ok(());
        }
        if data.handling == Handling::Guarded {
            self.release(slot);
        }
        Err(Full)
    }

    fn release(&mut self, slot: u16) {
        if self.guarded == Some(slot) {
            self.guarded = None;
        }
    }

    #[inline(always)]
    fn ring(&mut self) {
        self.usage.doorbells += u64::from(self.submission.ring());
    }

    #[inline(always)]
    fn next(&mut self) -> Result<Option<Completion>, Violation> {
        let words = match self.completions.next() {
            Arrival::Entry(words) => words,
            Arrival::Nothing => return self.end_round(),
            Arrival::Foreign(sqid) => {
                return Err(Violation::WrongQueue { sqid, queue: self.qid });
            }
        };
        let cqe = Cqe::from_words(words);
        self.submission.report(cqe.sqhd);
        let (cid, status) = (cqe.cid, cqe.status());
        Ok(Some(Completion { cid, status, result: words[0], outcome: Outcome::of(status) }))
    }

    #[cold]
    fn tend(&mut self, trouble: Trouble) -> Condition {
        if self.lease.lost {
            return self.renew();
        }
        if !self.lease.ended()
            && trouble != Trouble::None
            && let Some(owner) = self.owner.clone()
        {
            self.lease.lost = owner.rescue(self.qid, self.lease.created, trouble);
        }
        if self.lease.lost || self.lease.ended() {
            self.lease.lost = true;
            return Condition::Lost;
        }
        Condition::Same
    }

    fn usage(&self) -> Usage {
        let rings = self.submission.bytes() + self.completions.bytes();
        let bytes = rings + self.lists.bytes() + self.guard.bytes();
        let polls = self.usage.polls + self.usage.empty_polls;
        Usage { bytes, polls, ..self.usage }
    }

    fn close(&mut self) -> Result<(), CloseError> {
        match self.owner.take() {
            Some(owner) => owner.delete(self.qid),
            None => Ok(()),
        }
    }
}

/// Why a queue pair could not be laid out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcieError {
    /// BAR0 is too short for the doorbells of this queue.
    #[error(
        "the doorbells of queue {qid} lie outside the {len} bytes of doorbells in BAR0; ask for fewer queues"
    )]
    DoorbellOutsideBar {
        /// Queue identifier.
        qid: u16,
        /// Doorbell bytes mapped.
        len: u64,
    },
    /// No memory for rings or lists.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
