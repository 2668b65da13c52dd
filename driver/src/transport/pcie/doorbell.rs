//! Doorbells: a register each, and beside it, where the controller asks for that, a word of host memory (Base 2.1, 3.1.2.1,
//! and "Doorbell Buffer Config command").
//!
//! An emulated controller pays dearly for each register write. So the host stores a doorbell's value in memory, the shadow,
//! and writes the register only once the value passes the event index, where the controller has stopped looking.

#![expect(unsafe_code, reason = "doorbells are memory shared with a device")]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use doorbell_spec::register::{self, offset};

use crate::device::Doorbells;
use crate::memory::{Buffer, DmaMemory, MemoryError};

/// Shadows and event indices of all doorbells of a controller: a page each.
pub(crate) struct ShadowDoorbells {
    values: Buffer,
    events: Buffer,
}

// SAFETY: nothing but `Shadow` reaches the memory, by atomics.
unsafe impl Sync for ShadowDoorbells {}

impl ShadowDoorbells {
    /// Two pages of `page` bytes, zero (DB-3).
    pub(crate) fn allocate(memory: &Arc<DmaMemory>, page: usize) -> Result<Arc<Self>, MemoryError> {
        let [mut values, mut events] =
            [memory.allocate_aligned(page, page)?, memory.allocate_aligned(page, page)?];
        values.fill(0);
        events.fill(0);
        Ok(Arc::new(Self { values, events }))
    }

    /// I/O addresses of the page of shadows and of that of event indices.
    pub(crate) fn iovas(&self) -> (u64, u64) {
        (self.values.iova(), self.events.iova())
    }
}

/// Shadow and event index of one doorbell.
struct Shadow {
    value: NonNull<AtomicU32>,
    event: NonNull<AtomicU32>,
    /// Keeps both.
    _owner: Arc<ShadowDoorbells>,
}

impl Shadow {
    /// That of the doorbell `within` bytes from the first, which is a multiple of 4; `None` past the page: the register
    /// alone counts there. Begins at zero, as the queue that is yet to be created does.
    fn of(owner: &Arc<ShadowDoorbells>, within: u64) -> Option<Self> {
        let within = usize::try_from(within).ok()?;
        if within + 4 > owner.values.len() || within + 4 > owner.events.len() {
            return None;
        }
        // SAFETY: four bytes inside each buffer, as just checked, which `_owner` keeps.
        let [value, event] =
            unsafe { [owner.values.base().byte_add(within), owner.events.base().byte_add(within)] };
        let shadow = Self { value: value.cast(), event: event.cast(), _owner: owner.clone() };
        shadow.value().store(0, Ordering::Relaxed);
        shadow.event().store(0, Ordering::Relaxed);
        Some(shadow)
    }

    fn value(&self) -> &AtomicU32 {
        // SAFETY: aligned to four and inside a buffer that `_owner` keeps; nobody makes another kind of reference to it.
        unsafe { self.value.as_ref() }
    }

    fn event(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.event.as_ref() }
    }

    /// Moves the shadow from `old` to `new`; true if the register has to be written as well (DB-1).
    #[inline(always)]
    fn pass(&self, old: u32, new: u32) -> bool {
        self.value().store(new, Ordering::Release);
        // The store before the load: the controller stores its event index and then loads the value once more.
        fence(Ordering::SeqCst);
        let event = self.event().load(Ordering::Relaxed);
        // Both are places in a ring, so the difference wraps where they do; then, and where the controller waits at `new`
        // itself, the register is written once too often rather than once too seldom.
        (new.wrapping_sub(event) as u16) <= (new.wrapping_sub(old) as u16)
    }
}

/// One doorbell.
pub(super) struct Doorbell {
    register: NonNull<AtomicU32>,
    shadow: Option<Shadow>,
    /// Keeps the mapping of the register.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the register and the shadow are reached by atomics only, and live as long as `_owner` and the shadow's.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// The doorbell at `offset` in BAR0, and its shadow among `shadows`; `None` if it lies outside what is mapped.
    fn at(
        doorbells: &Doorbells,
        shadows: Option<&Arc<ShadowDoorbells>>,
        offset: u64,
    ) -> Option<Self> {
        let within = offset.checked_sub(offset::DOORBELLS)?;
        if within % 4 != 0 || within.checked_add(4)? > doorbells.len {
            return None;
        }
        // SAFETY: `Doorbells` promises `len` accessible bytes from `base`; the four at `within` were just checked.
        let register = unsafe { doorbells.base.byte_add(usize::try_from(within).ok()?) };
        let shadow = shadows.and_then(|shadows| Shadow::of(shadows, within));
        Some(Self { register: register.cast(), shadow, _owner: doorbells.owner.clone() })
    }

    /// Submission queue tail doorbell of queue `qid`.
    pub(super) fn submission(
        doorbells: &Doorbells,
        shadows: Option<&Arc<ShadowDoorbells>>,
        qid: u16,
        dstrd: u8,
    ) -> Option<Self> {
        Self::at(doorbells, shadows, register::sq_tail_doorbell(qid, dstrd))
    }

    /// Completion queue head doorbell of queue `qid`.
    pub(super) fn completion(
        doorbells: &Doorbells,
        shadows: Option<&Arc<ShadowDoorbells>>,
        qid: u16,
        dstrd: u8,
    ) -> Option<Self> {
        Self::at(doorbells, shadows, register::cq_head_doorbell(qid, dstrd))
    }

    /// Moves the doorbell from `old` to `new`, after everything stored before. True if the register was written.
    #[inline(always)]
    pub(super) fn write(&self, old: u32, new: u32) -> bool {
        // A store barrier towards the device: ring entries are ordinary memory, the doorbell may be device memory.
        // On x86 stores are seen in order, whatever the memory type, unless one of them is non-temporal: none is.
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a barrier touches no memory.
        unsafe {
            std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
        }
        if let Some(shadow) = &self.shadow
            && !shadow.pass(old, new)
        {
            return false;
        }
        // SAFETY: `at` checked that the register lies in the mapping, which `_owner` keeps.
        unsafe { self.register.as_ref() }.store(new, Ordering::Release);
        true
    }
}
