//! What recovery has to know of a controller: its queues, the namespaces that are used, how often it has been reset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbell_spec::identify::IdentifyNamespace;

use super::super::lock;
use super::{RecoveryConfig, RecoveryCounters};
use crate::queue::Steps;
use crate::transport::pcie::{Layout, Lease};

/// An I/O queue pair that the controller knows.
pub(super) struct Pair {
    pub(super) layout: Layout,
    /// Whether the controller has it.
    pub(super) present: bool,
    /// Commands that an abort has been tried on.
    pub(super) aborted: BTreeSet<u16>,
}

/// What recovery has to know of a controller.
pub(in crate::controller) struct Recovery {
    pub(super) policy: RecoveryConfig,
    /// Counts resets: moves on when the controller touches no memory any more.
    pub(super) epoch: Arc<AtomicU64>,
    /// The controller has been given up.
    pub(super) over: AtomicBool,
    pub(super) pairs: Mutex<BTreeMap<u16, Pair>>,
    /// Namespaces that have been handed out, as they called themselves, and their sizes in blocks.
    pub(super) namespaces: Mutex<BTreeMap<u32, (Mark, u64)>>,
    /// When the last resets were that nobody had asked for.
    pub(super) recent: Mutex<Vec<Duration>>,
    pub(super) counters: Mutex<RecoveryCounters>,
}

/// What makes a namespace the same after a reset (PIT-47).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) nguid: [u8; 16],
    pub(super) eui64: [u8; 8],
    pub(super) block_size: Option<u32>,
    pub(super) metadata: u16,
}

impl Mark {
    pub(super) fn of(identify: &IdentifyNamespace) -> Self {
        let IdentifyNamespace { nguid, eui64, .. } = *identify;
        let metadata = identify.lba_format().map_or(0, |format| format.ms.get());
        Self { nguid, eui64, block_size: identify.block_size(), metadata }
    }
}

impl Recovery {
    pub(in crate::controller) fn new(policy: RecoveryConfig) -> Self {
        Self {
            policy,
            epoch: Arc::default(),
            over: AtomicBool::new(false),
            pairs: Mutex::default(),
            namespaces: Mutex::default(),
            recent: Mutex::default(),
            counters: Mutex::default(),
        }
    }

    pub(in crate::controller) fn lease(&self) -> Lease {
        Lease::new(&self.epoch)
    }

    pub(in crate::controller) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the controller has been given up.
    pub(in crate::controller) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// A queue pair exists from now on.
    pub(super) fn opened(&self, layout: Layout) {
        let pair = Pair { layout, present: true, aborted: BTreeSet::new() };
        lock(&self.pairs).insert(layout.qid, pair);
    }

    /// A namespace is used from now on.
    pub(in crate::controller) fn used(&self, nsid: u32, identify: &IdentifyNamespace) {
        lock(&self.namespaces).insert(nsid, (Mark::of(identify), identify.nsze.get()));
    }

    /// The namespace `nsid`, or all, is not what it was.
    pub(in crate::controller) fn forget(&self, nsid: Option<u32>) {
        let mut used = lock(&self.namespaces);
        match nsid {
            Some(nsid) => drop(used.remove(&nsid)),
            None => used.clear(),
        }
    }

    /// The namespaces that are used.
    pub(in crate::controller) fn in_use(&self) -> Vec<u32> {
        lock(&self.namespaces).keys().copied().collect()
    }

    /// The I/O queues that the controller has.
    pub(in crate::controller) fn present(&self) -> Vec<u16> {
        let pairs = lock(&self.pairs);
        pairs.iter().filter_map(|(&qid, pair)| pair.present.then_some(qid)).collect()
    }

    /// The controller has none any more, and touches nothing of theirs.
    pub(in crate::controller) fn deleted(&self) {
        self.move_on();
        for pair in lock(&self.pairs).values_mut() {
            pair.present = false;
            pair.aborted.clear();
        }
    }

    pub(in crate::controller) fn count(
        &self,
        step: impl FnOnce(&mut RecoveryCounters) -> &mut u64,
    ) {
        *step(&mut lock(&self.counters)) += 1;
    }

    /// Steps that a blocking call on the admin queue has taken.
    pub(in crate::controller) fn took(&self, steps: Steps) {
        if steps != Steps::default() {
            let counters = &mut *lock(&self.counters);
            counters.overdue += steps.overdue;
            counters.aborts += steps.aborts;
            counters.aborted += steps.aborted;
        }
    }

    /// Nothing that was there before is touched by the controller any more.
    pub(super) fn move_on(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// No queue is renewed any more.
    pub(in crate::controller) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.move_on();
    }

    /// Whether another reset at `now` is within the budget.
    pub(super) fn affords(&self, now: Duration) -> bool {
        let mut recent = lock(&self.recent);
        recent.retain(|&at| now.saturating_sub(at) < self.policy.window);
        recent.push(now);
        recent.len() <= self.policy.resets
    }
}
