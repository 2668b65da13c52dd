//! Free extents of a linear space, in units of one page: the allocator under buffers and I/O addresses alike.
//!
//! Owns arithmetic only, no memory. Best fit with immediate coalescing: two neighbours that are free are always one
//! extent, so that after any sequence of operations that gives everything back there is one extent again per span
//! that was added.

use std::collections::{BTreeMap, BTreeSet};

/// Free extents, indexed by place and by length.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    free: u64,
}

/// Where an extent may start: at any `start` with `start % align == phase`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alignment {
    /// A power of two.
    pub(crate) align: u64,
    /// Below `align`.
    pub(crate) phase: u64,
}

impl Alignment {
    /// No constraint.
    #[cfg(test)]
    pub(crate) const ANY: Self = Self { align: 1, phase: 0 };

    /// A multiple of `align`, which is a power of two.
    pub(crate) const fn to(align: u64) -> Self {
        Self { align, phase: 0 }
    }

    /// First permitted start at or after `start`; `None` past the end of the space.
    fn first_from(self, start: u64) -> Option<u64> {
        let skip = self.phase.wrapping_sub(start) & (self.align - 1);
        start.checked_add(skip)
    }
}

impl Extents {
    /// One free extent.
    pub(crate) fn of(start: u64, len: u64) -> Self {
        let mut extents = Self::default();
        extents.give(start, len);
        extents
    }

    /// Units that are free.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// How many extents the free units lie in.
    #[cfg(test)]
    pub(crate) fn fragments(&self) -> usize {
        self.by_start.len()
    }

    /// Takes `len` units from the smallest extent that has room for them.
    pub(crate) fn take(&mut self, len: u64, alignment: Alignment) -> Option<u64> {
        if len == 0 {
            return None;
        }
        let (start, extent_len, at) =
            self.by_len.range((len, 0)..).find_map(|&(extent_len, start)| {
                let at = alignment.first_from(start)?;
                (at.checked_add(len)? <= start + extent_len).then_some((start, extent_len, at))
            })?;
        self.remove(start, extent_len);
        self.insert(start, at - start);
        self.insert(at + len, start + extent_len - (at + len));
        Some(at)
    }

    /// Gives `len` units back, or adds new ones. They must not be free already.
    pub(crate) fn give(&mut self, start: u64, len: u64) {
        let (mut start, mut len) = (start, len);
        if let Some((&before, &before_len)) = self.by_start.range(..=start).next_back() {
            debug_assert!(before + before_len <= start, "given back twice");
            if before + before_len == start {
                self.remove(before, before_len);
                start = before;
                len += before_len;
            }
        }
        if let Some((&after, &after_len)) = self.by_start.range(start..).next() {
            debug_assert!(start + len <= after, "given back twice");
            if start + len == after {
                self.remove(after, after_len);
                len += after_len;
            }
        }
        self.insert(start, len);
    }

    fn insert(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_len.insert((len, start));
            self.free += len;
        }
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
        self.free -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Random;

    const UNITS: u64 = if cfg!(miri) { 64 } else { 512 };

    /// The model: one flag per unit.
    struct Naive(Vec<bool>);

    impl Naive {
        fn fits(&self, len: u64, align: u64) -> bool {
            (0..=UNITS.saturating_sub(len))
                .step_by(align as usize)
                .any(|s| self.0[s as usize..(s + len) as usize].iter().all(|used| !used))
        }

        fn set(&mut self, start: u64, len: u64, used: bool) {
            for unit in &mut self.0[start as usize..(start + len) as usize] {
                assert_ne!(*unit, used, "unit taken twice or freed twice");
                *unit = used;
            }
        }
    }

    #[test]
    fn random_operations_match_the_model() {
        let mut random = Random::from_env();
        let rounds = if cfg!(miri) { 60 } else { 100_000 };
        let mut extents = Extents::of(0, UNITS);
        let mut naive = Naive(vec![false; UNITS as usize]);
        let mut held: Vec<(u64, u64)> = Vec::new();
        for _ in 0..rounds {
            if held.is_empty() || random.below(100) < 55 {
                let magnitude = random.below(if cfg!(miri) { 4 } else { 7 });
                let len = 1 + random.below(1 << magnitude);
                let align = 1 << random.below(6);
                let taken = extents.take(len, Alignment::to(align));
                assert_eq!(taken.is_some(), naive.fits(len, align), "{len} units aligned {align}");
                if let Some(start) = taken {
                    assert_eq!(start % align, 0);
                    naive.set(start, len, true);
                    held.push((start, len));
                }
            } else {
                let (start, len) = held.swap_remove(random.below(held.len() as u64) as usize);
                naive.set(start, len, false);
                extents.give(start, len);
            }
            assert_eq!(extents.free(), naive.0.iter().filter(|used| !**used).count() as u64);
        }
        for (start, len) in held {
            extents.give(start, len);
        }
        assert_eq!((extents.free(), extents.fragments()), (UNITS, 1));
    }

    #[test]
    fn phase_is_kept_and_the_end_of_the_space_is_no_overflow() {
        let mut extents = Extents::of(3, 100);
        let phase = Alignment { align: 16, phase: 5 };
        assert_eq!(extents.take(4, phase), Some(5));
        assert_eq!(extents.take(4, phase), Some(21));
        assert_eq!(extents.take(0, Alignment::ANY), None);
        let mut top = Extents::of(u64::MAX - 10, 10);
        assert_eq!(top.take(1, Alignment::to(1 << 63)), None);
        assert_eq!(top.take(10, Alignment::ANY), Some(u64::MAX - 10));
    }

    #[test]
    fn the_smallest_extent_that_fits_is_taken() {
        let mut extents = Extents::of(0, 100);
        extents.give(200, 8);
        extents.give(300, 9);
        assert_eq!(extents.take(8, Alignment::ANY), Some(200));
        assert_eq!(extents.take(8, Alignment::ANY), Some(300));
        assert_eq!(extents.take(8, Alignment::ANY), Some(0));
    }
}
