//! The arithmetic against libvfn's published facts and against a naive model.

use super::*;
use std::vec::Vec;

const PAGE: PageSize = PageSize::MIN;

/// (iova, len), then PRP2's page or the list: facts that libvfn's tests state.
#[test]
fn facts_of_libvfn() {
    let unused =
        [(0x100_0000, 0x200), (0x100_0000, 0x1000), (0x100_0004, 0x200), (0x100_0004, 0x1000 - 4)];
    for (iova, len) in unused {
        assert_eq!(PAGE.second(iova, len), Second::Unused, "{iova:#x} {len:#x}");
    }
    let pages = [
        (0x100_0000, 0x1008),
        (0x100_0000, 0x2000),
        (0x100_1000 - 4, 0x200),
        (0x100_0004, 0x1000),
        (0x100_0004, 0x1008),
        (0x100_0004, 0x2000 - 4),
    ];
    for (iova, len) in pages {
        assert_eq!(PAGE.second(iova, len), Second::Page(0x100_1000), "{iova:#x} {len:#x}");
    }
    let lists = [
        (0x100_0000, 0x2010, 2),
        (0x100_0000, 0x3000, 2),
        (0x100_0000, 0x3018, 3),
        (0x100_1000 - 4, 0x1008, 2),
        (0x100_0004, 0x2000, 2),
        (0x100_0004, 0x2010, 2),
        (0x100_0004, 0x3000, 3),
        (0x100_0004, 0x3018, 3),
    ];
    for (iova, len, entries) in lists {
        let Second::List(list) = PAGE.second(iova, len) else { panic!("{iova:#x} {len:#x}") };
        assert_eq!(list.entries(), entries, "{iova:#x} {len:#x}");
        for index in 0..entries {
            assert_eq!(PAGE.entry(iova, index + 1), 0x100_1000 + index * 0x1000);
        }
    }
}

#[test]
fn page_sizes() {
    assert_eq!(PageSize::from_mps(0), PageSize::MIN);
    assert_eq!(PageSize::from_mps(15).bytes(), 128 << 20);
    assert_eq!(PageSize::from_mps(3).mps(), 3);
    assert_eq!(PAGE.slots(), 512);
    assert_eq!(PAGE.slots_from(0x1000), 512);
    assert_eq!(PAGE.slots_from(0x1ff8), 1);
    assert_eq!(PAGE.base(0x1fff), 0x1000);
    assert!(PAGE.is_aligned(0x2000) && !PAGE.is_aligned(0x2004));
}

#[test]
fn pages_spanned_as_counted_one_by_one() {
    for mps in [0, 1, 4] {
        let page = PageSize::from_mps(mps);
        let bytes = page.bytes();
        for offset in [0, 4, 512, bytes - 4] {
            for len in [1, 4, 512, bytes - 4, bytes, bytes + 4, 2 * bytes, 3 * bytes + 8] {
                let address = 0x4000_0000 + offset;
                let counted = (address + len - 1) / bytes - address / bytes + 1;
                assert_eq!(page.spanned(address, len), counted, "{mps} {offset} {len}");
            }
        }
    }
    assert_eq!(PAGE.spanned(0x1004, 0), 0);
    assert_eq!(PAGE.spanned(u64::MAX, u64::MAX), (1 << 52) + 1);
}

/// The naive model: fill pages slot by slot; in the last slot of a page chain if more than one
/// entry remains.
fn naive(slots: u64, entries: u64) -> (u64, Vec<(u64, u64)>) {
    let (mut page, mut slot, mut places) = (0, 0, Vec::new());
    for index in 0..entries {
        if slot == slots {
            (page, slot) = (page + 1, 0);
        }
        if slot + 1 == slots && entries - index > 1 {
            (page, slot) = (page + 1, 0);
        }
        places.push((page, slot));
        slot += 1;
    }
    (if entries == 0 { 0 } else { page + 1 }, places)
}

#[test]
fn lists_as_the_naive_model_lays_them_out() {
    let ends = [0..4, 510..514, 1022..1025];
    let run = if cfg!(miri) { 1533..1535 } else { 4..2050 };
    for entries in ends.into_iter().flatten().chain(run) {
        let list = List::new(PAGE, entries);
        let (pages, places) = naive(512, entries);
        assert_eq!(list.pages(), pages, "{entries} entries");
        for (index, place) in (0..).zip(places) {
            assert_eq!(list.place(index), place, "entry {index} of {entries}");
            assert!(!list.is_chain(place.0, place.1), "entry {index} of {entries}");
        }
        for page in 0..pages {
            assert_eq!(list.is_chain(page, 511), page + 1 < pages);
        }
    }
}

#[test]
fn the_last_slot_is_data_where_it_is_the_last_entry() {
    assert_eq!(List::new(PAGE, 512).pages(), 1);
    assert_eq!(List::new(PAGE, 512).place(511), (0, 511));
    assert_eq!(List::new(PAGE, 513).pages(), 2);
    assert_eq!(List::new(PAGE, 513).place(511), (1, 0));
    assert_eq!(List::new(PAGE, 1023).pages(), 2);
    assert_eq!(List::new(PAGE, 1023).place(1022), (1, 511));
    assert_eq!(List::new(PAGE, 1024).pages(), 3);
}
