//! The walker against a naive one, and at its edges. The rules themselves are tested through commands.

use std::sync::Arc;

use super::*;
use crate::memory::tests::Ram;

const IOVA: u64 = 0x10_0000;
const PAGES: u64 = if cfg!(miri) { 64 } else { 1024 };

fn memory() -> (HostMemory, Arc<Ram>) {
    let ram = Ram::new((PAGES * 4096) as usize);
    let mut memory = HostMemory::default();
    // Two mappings, out of order in memory.
    let half = (PAGES / 2 * 4096) as usize;
    ram.map(&mut memory, half, IOVA, half).expect("map");
    ram.map(&mut memory, 0, IOVA + half as u64, half).expect("map");
    (memory, ram)
}

fn store(memory: &HostMemory, iova: u64, entries: &[u64]) {
    for (at, entry) in (iova..).step_by(8).zip(entries) {
        memory.piece(at, 8).expect("list").1.copy_from(&entry.to_le_bytes());
    }
}

/// Adjacent ranges as one, so that two descriptions of the same bytes compare equal.
fn merged(ranges: impl IntoIterator<Item = (usize, usize)>) -> Vec<(usize, usize)> {
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (at, len) in ranges {
        match merged.last_mut() {
            Some(last) if last.0 + last.1 == at => last.1 += len,
            _ => merged.push((at, len)),
        }
    }
    merged
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn dptr_any_shape_agrees_with_a_naive_walk() {
    let (memory, _ram) = memory();
    let mut state = 0x1234_5678_9abc_def1u64;
    println!("dptr_any_shape_agrees_with_a_naive_walk: seed {state:#x}");
    for _ in 0..if cfg!(miri) { 40 } else { 4000 } {
        let shift = 12 + (next(&mut state) % 3) as u32;
        let page = 1u64 << shift;
        let pages = PAGES * 4096 / page;
        let pick = |state: &mut u64| IOVA + next(state) % pages * page;
        let offset = (next(&mut state) % page) & !3;
        let limit = if next(&mut state).is_multiple_of(4) { page * 40 } else { page * 4 };
        let len = 1 + (next(&mut state) % limit) as usize;
        let mut entries = vec![pick(&mut state) + offset];
        let mut left = (len as u64).saturating_sub(page - offset);
        while left > 0 {
            // Often the page behind the last one, so that pieces join.
            let behind = (entries[entries.len() - 1] & !(page - 1)) + page;
            let fits = behind < IOVA + pages * page;
            let joined = fits && next(&mut state).is_multiple_of(2);
            entries.push(if joined { behind } else { pick(&mut state) });
            left = left.saturating_sub(page);
        }
        let prp2 = match &entries[1..] {
            [] => next(&mut state),
            [second] => *second,
            rest => list(&memory, &mut state, page, rest),
        };
        let pointer = DataPointer { prp1: entries[0], prp2 };
        let mut pieces = Vec::new();
        gather(&memory, shift, pointer, len, &mut pieces).expect("gathered");
        let found = merged(pieces.iter().map(|piece| (piece.as_ptr().addr(), piece.len())));
        assert_eq!(found, merged(naive(&memory, page, &entries, len)));
    }
}

/// Lays the entries out from a random slot on, in as many list pages as it takes. Lists lie apart from one another at
/// the end of the memory; data that overlaps them is never written.
fn list(memory: &HostMemory, state: &mut u64, page: u64, entries: &[u64]) -> u64 {
    let end = IOVA + PAGES * 4096;
    let slots = page / 8;
    let skipped =
        if next(state).is_multiple_of(2) { 0 } else { slots - 1 - next(state) % slots.min(6) };
    let first = end - page;
    let start = first + skipped * 8;
    let room = (slots - skipped) as usize;
    if entries.len() <= room {
        store(memory, start, entries);
    } else {
        let next_page = first - page;
        store(memory, start, &entries[..room - 1]);
        store(memory, start + (room as u64 - 1) * 8, &[next_page]);
        store(memory, next_page, &entries[room - 1..]);
    }
    start
}

fn naive(memory: &HostMemory, page: u64, entries: &[u64], len: usize) -> Vec<(usize, usize)> {
    let mut bytes = Vec::new();
    let mut left = len;
    for &entry in entries {
        let now = left.min((page - entry % page) as usize);
        let mut at = entry;
        let mut rest = now;
        while rest > 0 {
            let (_, piece) = memory.piece(at, rest.min(4096)).expect("mapped");
            bytes.push((piece.as_ptr().addr(), piece.len()));
            at += piece.len() as u64;
            rest -= piece.len();
        }
        left -= now;
    }
    assert_eq!(left, 0);
    bytes
}

#[test]
fn facts_of_libvfn() {
    let (memory, _ram) = memory();
    // One page from offset 4 on: the second page is PRP2.
    let mut pieces = Vec::new();
    let pointer = DataPointer { prp1: IOVA + 4, prp2: IOVA + 0x1000 };
    gather(&memory, 12, pointer, 0x1000, &mut pieces).expect("gathered");
    assert_eq!(pieces.iter().map(HostBytes::len).collect::<Vec<_>>(), [0x1000]);
    // 0x1008 bytes from four bytes before the end of a page on: a list of two.
    store(&memory, IOVA + 0x8000, &[IOVA + 0x3000, IOVA + 0x5000]);
    let pointer = DataPointer { prp1: IOVA + 0x1000 - 4, prp2: IOVA + 0x8000 };
    let mut pieces = Vec::new();
    gather(&memory, 12, pointer, 0x1008, &mut pieces).expect("gathered");
    assert_eq!(pieces.iter().map(HostBytes::len).collect::<Vec<_>>(), [4, 0x1000, 4]);
}

#[test]
fn tgt_1_random_pointers_end() {
    let (memory, _ram) = memory();
    let mut state = 99u64;
    for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
        for at in 0..64 {
            let entry = match next(&mut state) % 4 {
                0 => next(&mut state),
                1 => IOVA + next(&mut state) % (PAGES * 4096),
                _ => IOVA + next(&mut state) % PAGES * 4096,
            };
            store(&memory, IOVA + at * 8, &[entry]);
        }
        let prp1 = IOVA + next(&mut state) % (PAGES * 4096);
        let prp2 = IOVA + next(&mut state) % 8192;
        let len = 1 + (next(&mut state) % (1 << 20)) as usize;
        let mut pieces = Vec::new();
        let gathered = gather(&memory, 12, DataPointer { prp1, prp2 }, len, &mut pieces);
        assert!(pieces.len() <= len.div_ceil(4096) + 1);
        if gathered.is_ok() {
            assert_eq!(pieces.iter().map(HostBytes::len).sum::<usize>(), len);
        }
    }
}
