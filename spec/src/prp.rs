//! Physical Region Pages: which entries describe a transfer, and where each one stands.
//!
//! Owns the arithmetic of Base 2.1 "Physical Region Page Entry and List", for both sides: the
//! driver writes entries, the controller walks them. Pure: addresses and lengths in, addresses
//! out. The rules are DPTR-1 to DPTR-7:
//!
//! - PRP1 may have an offset into its page, a multiple of 4 ([`OFFSET_ALIGNMENT`]);
//! - a transfer within one page leaves PRP2 unused, one of two pages has the second page there, a
//!   longer one the address of a list ([`PageSize::second`]);
//! - a list entry has no offset;
//! - the last slot of a list page points to the next list page only where more than one entry
//!   remains ([`List`]);
//! - a list may start within a page, at a multiple of 8 ([`ENTRY_SIZE`]), and its first page then
//!   has fewer slots ([`PageSize::slots_from`]); the others start at a page;
//! - pages are CC.MPS's, whatever the host's are;
//! - the PRP1 of a contiguous queue is its address.

/// Bytes in a PRP entry.
pub const ENTRY_SIZE: u64 = 8;
/// What the offset in PRP1 is a multiple of (DPTR-1).
pub const OFFSET_ALIGNMENT: u64 = 4;

/// The size of a memory page, a power of two from 4 KiB to 128 MiB (Base 2.1, CC.MPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// 4 KiB, the smallest.
    pub const MIN: PageSize = PageSize { shift: 12 };

    /// The page size that CC.MPS, CAP.MPSMIN or CAP.MPSMAX means: `2 ^ (12 + mps)`.
    #[inline]
    #[must_use]
    pub const fn from_mps(mps: u8) -> PageSize {
        PageSize { shift: 12 + (mps & 0xf) }
    }

    /// The value of CC.MPS that means this page size.
    #[inline]
    #[must_use]
    pub const fn mps(self) -> u8 {
        self.shift - 12
    }

    /// Bytes in a page.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The offset of an address in its page.
    #[inline]
    #[must_use]
    pub const fn offset(self, address: u64) -> u64 {
        address & (self.bytes() - 1)
    }

    /// The address at which an address's page starts.
    #[inline]
    #[must_use]
    pub const fn base(self, address: u64) -> u64 {
        address & !(self.bytes() - 1)
    }

    /// Whether a page starts at this address.
    #[inline]
    #[must_use]
    pub const fn is_aligned(self, address: u64) -> bool {
        self.offset(address) == 0
    }

    /// Slots in a list page.
    #[inline]
    #[must_use]
    pub const fn slots(self) -> u64 {
        self.bytes() / ENTRY_SIZE
    }

    /// Slots from a list pointer to the end of its page (DPTR-2).
    #[inline]
    #[must_use]
    pub const fn slots_from(self, pointer: u64) -> u64 {
        (self.bytes() - self.offset(pointer)) / ENTRY_SIZE
    }

    /// Pages that `len` bytes from `address` touch: the number of PRP entries that describe them.
    #[inline]
    #[must_use]
    pub const fn spanned(self, address: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        // Divided first: the sum of offset and length may not fit 64 bits.
        let last = self.offset(address) + self.offset(len - 1);
        ((len - 1) >> self.shift) + (last >> self.shift) + 1
    }

    /// PRP entry `index` of a transfer that starts at `address` and is contiguous: the address
    /// itself, then the start of each following page.
    #[inline]
    #[must_use]
    pub const fn entry(self, address: u64, index: u64) -> u64 {
        match index {
            0 => address,
            _ => self.base(address).wrapping_add(index << self.shift),
        }
    }

    /// What PRP2 of such a transfer holds (DPTR-2).
    #[inline]
    #[must_use]
    pub const fn second(self, address: u64, len: u64) -> Second {
        match self.spanned(address, len) {
            0 | 1 => Second::Unused,
            2 => Second::Page(self.entry(address, 1)),
            pages => Second::List(List::new(self, pages - 1)),
        }
    }
}

/// What PRP Entry 2 of a command holds (Base 2.1, "Data Pointer").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// Nothing: zero.
    Unused,
    /// The address of the transfer's second page.
    Page(u64),
    /// The address of a list with the entries from the transfer's second page on.
    List(List),
}

/// The shape of a PRP list that starts at the start of a page (DPTR-4, DPTR-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    page: PageSize,
    entries: u64,
}

impl List {
    /// The list of so many entries.
    #[inline]
    #[must_use]
    pub const fn new(page: PageSize, entries: u64) -> List {
        List { page, entries }
    }

    /// Entries in the list, pointers from one list page to the next left out.
    #[inline]
    #[must_use]
    pub const fn entries(self) -> u64 {
        self.entries
    }

    /// List pages that hold it.
    #[inline]
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self.entries {
            0 => 0,
            1 => 1,
            // Each page but the last gives its last slot away, and the last page starts only when
            // two entries are left.
            entries => (entries - 2) / (self.page.slots() - 1) + 1,
        }
    }

    /// Where entry `index` stands: list page and slot.
    #[inline]
    #[must_use]
    pub const fn place(self, index: u64) -> (u64, u64) {
        let per_page = self.page.slots() - 1;
        let (page, slot) = (index / per_page, index % per_page);
        if page > 0 && slot == 0 && index + 1 == self.entries {
            (page - 1, per_page)
        } else {
            (page, slot)
        }
    }

    /// Whether this slot of this list page points to the next list page.
    #[inline]
    #[must_use]
    pub const fn is_chain(self, page: u64, slot: u64) -> bool {
        slot + 1 == self.page.slots() && page + 1 < self.pages()
    }
}

#[cfg(test)]
mod tests;
