//! Physical Region Page entries (NVM Express Base 2.1, 4.3.1): from one contiguous range of I/O addresses to PRP1, PRP2
//! and a list. Pure: the list is a slice, wherever it lives.

/// Bytes of list that a transfer of `max_transfer` bytes at any offset needs, chain pointers included.
#[must_use]
pub fn list_bytes(max_transfer: usize, page_shift: u32) -> usize {
    // At any offset a transfer touches one page more than its length covers; PRP1 takes the first.
    let entries = max_transfer.div_ceil(1 << page_shift);
    let per_page = (1 << page_shift) / 8;
    if entries <= per_page { entries * 8 } else { (entries + entries / (per_page - 1) + 1) * 8 }
}

/// What stands in PRP1 and PRP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The transfer lies in one page.
    One,
    /// It lies in two; the second begins here.
    Two(u64),
    /// It lies in more: `pages` entries, the first of them this address, belong in a list.
    List {
        /// Second page of the transfer, the first entry of the list.
        first: u64,
        /// Entries.
        pages: usize,
    },
}

/// The shape of `len` (not 0) bytes at `iova`, in pages of `page` bytes (a power of two).
#[inline(always)]
#[must_use]
pub fn shape(iova: u64, len: usize, page: u64) -> Shape {
    let offset = iova & (page - 1);
    let span = offset + len as u64;
    if span <= page {
        return Shape::One;
    }
    let second = iova - offset + page;
    if span <= 2 * page {
        return Shape::Two(second);
    }
    Shape::List { first: second, pages: ((span - 1) >> page.trailing_zeros()) as usize }
}

/// Writes `pages` consecutive page addresses from `first` into `list`, which lies at `list_iova`.
///
/// Where the list reaches the end of a page and more than one entry remains, the last slot becomes a pointer to the
/// next page of `list` (DPTR-4). Returns false, and promises nothing of the list, if it is too short.
#[must_use]
pub fn fill(list: &mut [u64], list_iova: u64, first: u64, pages: usize, page: u64) -> bool {
    let mut address = first;
    let mut left = pages;
    let mut here = list_iova;
    for slot in list {
        if left == 0 {
            break;
        }
        let ends_page = (here + 8) & (page - 1) == 0;
        if ends_page && left > 1 {
            *slot = here + 8;
        } else {
            *slot = address;
            address += page;
            left -= 1;
        }
        here += 8;
    }
    left == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    /// Walks PRP1, PRP2 and the list as a controller does, and returns the byte ranges, merged where they touch.
    fn walk(
        iova: u64,
        len: usize,
        list: &[u64],
        list_iova: u64,
        page_shift: u32,
    ) -> Vec<(u64, u64)> {
        let page = 1u64 << page_shift;
        let mut pieces = vec![(iova, (page - (iova & (page - 1))).min(len as u64))];
        let mut left = len as u64 - pieces[0].1;
        let mut push = |address: u64, left: &mut u64| {
            assert_eq!(address & (page - 1), 0, "entries past the first have no offset");
            let piece = page.min(*left);
            *left -= piece;
            match pieces.last_mut() {
                Some(last) if last.0 + last.1 == address => last.1 += piece,
                _ => pieces.push((address, piece)),
            }
        };
        match shape(iova, len, 1 << page_shift) {
            Shape::One => {}
            Shape::Two(second) => push(second, &mut left),
            Shape::List { .. } => {
                let mut at = list_iova;
                while left > 0 {
                    let entry = list[((at - list_iova) / 8) as usize];
                    let last_of_page = (at + 8) & (page - 1) == 0;
                    if last_of_page && left > page {
                        at = entry;
                    } else {
                        push(entry, &mut left);
                        at += 8;
                    }
                }
            }
        }
        assert_eq!(left, 0);
        pieces
    }

    proptest! {
        #[test]
        fn every_shape_describes_exactly_its_range(
            page_shift in 12u32..=16,
            iova in (1u64 << 20)..(1 << 40),
            len in 1usize..(6 << 20),
            list_page in 1u64..1000,
            list_offset in 0u64..512,
        ) {
            let iova = iova & !3;
            let page = 1u64 << page_shift;
            let list_iova = list_page * page + (list_offset * 8) % page;
            let mut list = vec![0x5a5a_5a5a_5a5a_5a5a; (len >> page_shift) + 2 + ((len >> page_shift) * 9 / (1 << page_shift)) + 4];
            if let Shape::List { first, pages } = shape(iova, len, 1 << page_shift) {
                prop_assert!(fill(&mut list, list_iova, first, pages, 1 << page_shift));
            }
            prop_assert_eq!(walk(iova, len, &list, list_iova, page_shift), vec![(iova, len as u64)]);
        }

        #[test]
        fn a_list_of_the_promised_size_is_enough(
            page_shift in 12u32..=16,
            offset in 0u64..(1 << 16),
            len in 1usize..(40 << 20),
        ) {
            let iova = (1 << 30) + (offset & !3);
            let mut list = vec![0; list_bytes(len, page_shift) / 8];
            if let Shape::List { first, pages } = shape(iova, len, 1 << page_shift) {
                prop_assert!(fill(&mut list, 1 << 32, first, pages, 1 << page_shift));
            }
        }
    }

    /// (iova, length) to PRP facts as published with libvfn's request tests.
    #[test]
    fn published_facts() {
        assert_eq!(shape(0x100_0000, 0x1000, PAGE), Shape::One);
        assert_eq!(shape(0x100_0000, 0x2000, PAGE), Shape::Two(0x100_1000));
        assert_eq!(shape(0x100_0000, 0x3000, PAGE), Shape::List { first: 0x100_1000, pages: 2 });
        assert_eq!(shape(0x100_0004, 0x1000, PAGE), Shape::Two(0x100_1000));
        assert_eq!(shape(0x100_0004, 0x1000 - 4, PAGE), Shape::One);
        assert_eq!(shape(0x100_0004, 0x2000 - 4, PAGE), Shape::Two(0x100_1000));
        assert_eq!(
            shape(0x100_1000 - 4, 0x1008, PAGE),
            Shape::List { first: 0x100_1000, pages: 2 }
        );
        assert_eq!(shape(0x100_0004, 0x2000, PAGE), Shape::List { first: 0x100_1000, pages: 2 });
    }

    #[test]
    fn the_last_slot_of_a_page_chains_only_when_needed() {
        let mut list = [0; 513];
        assert!(fill(&mut list[..512], 0x10_0000, 0x100_0000, 512, PAGE));
        assert_eq!(list[511], 0x100_0000 + 511 * 0x1000, "exactly one entry remains: it is data");
        assert!(
            !fill(&mut list[..513], 0x10_0000, 0x100_0000, 513, PAGE),
            "513 entries and a pointer"
        );
        let mut list = [0; 514];
        assert!(fill(&mut list, 0x10_0000, 0x100_0000, 513, PAGE));
        assert_eq!(list[511], 0x10_1000, "a pointer to the next page");
        assert_eq!(list[512], 0x100_0000 + 511 * 0x1000);
        assert_eq!(list[513], 0x100_0000 + 512 * 0x1000);
    }
}
