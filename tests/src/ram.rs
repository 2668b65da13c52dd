//! Memory of a host that a controller is given, between pages that it was not given.

#![expect(unsafe_code, reason = "owns the memory that a controller is given")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use doorbell_subsystem::{InProcess, MapError};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// What the pages around hold.
const CANARY: u8 = 0xc5;

#[repr(align(4096))]
struct Page([AtomicU8; PAGE]);

/// So many pages, and one before and one behind them.
pub struct Ram {
    pages: Box<[Page]>,
}

impl Ram {
    /// `pages` pages of zeroes.
    #[must_use]
    pub fn new(pages: usize) -> Arc<Self> {
        let page = |_| Page([const { AtomicU8::new(0) }; PAGE]);
        let pages: Box<[Page]> = (0..pages + 2).map(page).collect();
        let ends = [pages.first(), pages.last()];
        for byte in ends.into_iter().flatten().flat_map(|page| &page.0) {
            byte.store(CANARY, Ordering::Relaxed);
        }
        Arc::new(Self { pages })
    }

    /// Gives the pages to the controller of `port`, which nobody else steps meanwhile, as `iova`.
    ///
    /// # Errors
    /// What the port says.
    pub fn map(self: &Arc<Self>, port: &InProcess, iova: u64) -> Result<(), MapError> {
        let len = (self.pages.len() - 2) * PAGE;
        let start = self.pages.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: behind the first page there are `len` bytes of the same allocation.
        let base = unsafe { NonNull::new_unchecked(start.add(PAGE)) };
        // SAFETY: the owner keeps the memory for as long as it is mapped. All of it is atomics, so it may change behind
        // shared references.
        unsafe { port.map(iova, base, len, Some(self.clone())) }
    }

    fn at(&self, offset: usize, len: usize) -> impl Iterator<Item = &AtomicU8> {
        assert!(offset + len <= (self.pages.len() - 2) * PAGE, "{offset:#x} + {len:#x}");
        (offset + PAGE..offset + PAGE + len).map(|at| &self.pages[at / PAGE].0[at % PAGE])
    }

    /// What lies at an offset.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        for (byte, from) in into.iter_mut().zip(from) {
            *byte = from.load(Ordering::Relaxed);
        }
    }

    /// Stores bytes at an offset.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        for (byte, to) in bytes.iter().zip(self.at(offset, bytes.len())) {
            to.store(*byte, Ordering::Relaxed);
        }
    }

    /// Whether the pages around are as they were.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let ends = [self.pages.first(), self.pages.last()];
        let mut bytes = ends.into_iter().flatten().flat_map(|page| &page.0);
        bytes.all(|byte| byte.load(Ordering::Relaxed) == CANARY)
    }
}
