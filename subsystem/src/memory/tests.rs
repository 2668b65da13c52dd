//! Mapping, translation and rings.

use std::alloc::Layout;

use super::*;

/// Memory for tests in this crate.
pub(crate) struct Ram {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain bytes, accessed by copies only.
unsafe impl Send for Ram {}
// SAFETY: as above; each test stays on one thread.
unsafe impl Sync for Ram {}

impl Ram {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        let layout = Layout::from_size_align(len, 4096).expect("layout");
        // SAFETY: not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        Arc::new(Self { base: NonNull::new(base).expect("memory"), layout })
    }

    /// Maps `len` bytes from `offset` on.
    pub(crate) fn map(
        self: &Arc<Self>,
        memory: &mut HostMemory,
        offset: usize,
        iova: u64,
        len: usize,
    ) -> Result<(), MapError> {
        assert!(offset + len <= self.layout.size());
        // SAFETY: within the allocation, as just checked.
        let base = unsafe { self.base.add(offset) };
        // SAFETY: the owner keeps the memory, which is accessed by copies only.
        unsafe { memory.map(iova, base, len, Some(self.clone())) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

const K4: usize = 4096;

#[test]
fn ranges_are_whole_pages_that_do_not_overlap() {
    let ram = Ram::new(4 * K4);
    let mut memory = HostMemory::default();
    for (iova, len) in [(1, K4), (0, 0), (0x1000, 100), (u64::MAX - 0xfff, 2 * K4)] {
        let error = ram.map(&mut memory, 0, iova, len).expect_err("refused");
        assert_eq!(error, MapError::Misaligned { iova, len: len as u64 });
    }
    ram.map(&mut memory, 0, 0x4000, 2 * K4).expect("map");
    for (iova, len) in
        [(0x4000, K4), (0x5000, K4), (0x3000, 2 * K4), (0x3000, 4 * K4), (0x5000, 2 * K4)]
    {
        let error = ram.map(&mut memory, 0, iova, len).expect_err("refused");
        assert_eq!(error, MapError::Overlaps { iova, len: len as u64 });
    }
    ram.map(&mut memory, 0, 0x3000, K4).expect("before");
    ram.map(&mut memory, 0, 0x6000, K4).expect("behind");
    ram.map(&mut memory, 0, u64::MAX - 0xfff, K4).expect("the last page");
    assert!(memory.piece(u64::MAX, 1).is_some());
}

#[test]
fn only_whole_mappings_are_unmapped() {
    let ram = Ram::new(8 * K4);
    let mut memory = HostMemory::default();
    ram.map(&mut memory, 0, 0x1000, 2 * K4).expect("map");
    ram.map(&mut memory, 0, 0x3000, K4).expect("map");
    ram.map(&mut memory, 0, 0x8000, K4).expect("map");
    for (iova, len) in
        [(0x1000, K4), (0x2000, K4), (0x2000, 2 * K4), (0x5000, K4), (0x0000, 2 * K4)]
    {
        let error = memory.unmap(iova, len).expect_err("refused");
        assert_eq!(error, MapError::NotMapped { iova, len: len as u64 });
    }
    assert!(matches!(memory.unmap(0x1000, 7), Err(MapError::Misaligned { .. })));
    memory.unmap(0x1000, 3 * K4).expect("two mappings");
    assert!(memory.piece(0x1000, 1).is_none() && memory.piece(0x3000, 1).is_none());
    assert_eq!(Arc::strong_count(&ram), 2);
    memory.clear();
    assert_eq!(Arc::strong_count(&ram), 1);
}

#[test]
fn pieces_end_where_their_mapping_ends() {
    let ram = Ram::new(4 * K4);
    let mut memory = HostMemory::default();
    ram.map(&mut memory, 0, 0x1000, 2 * K4).expect("map");
    ram.map(&mut memory, 3 * K4, 0x3000, K4).expect("map");
    for iova in [0, 0xfff, 0x4000, u64::MAX] {
        assert!(memory.piece(iova, 1).is_none(), "{iova:#x}");
    }
    let (first, piece) = memory.piece(0x2ff0, 100).expect("piece");
    assert_eq!(piece.len(), 16);
    let (second, rest) = memory.piece(0x3000, 84).expect("piece");
    assert_ne!(first, second);
    assert!(HostMemory::join((first, piece), (second, rest)).is_none());
    let whole = memory.piece(0x1000, 100).zip(memory.piece(0x1064, 50));
    let whole = whole.and_then(|(one, two)| HostMemory::join(one, two)).expect("joined");
    assert_eq!(whole.len(), 150);
    let (front, back) = whole.split_at(1000);
    assert_eq!((front.len(), back.len(), back.is_empty()), (150, 0, true));
}

#[test]
fn copies_cross_mappings() {
    let ram = Ram::new(2 * K4);
    let mut memory = HostMemory::default();
    ram.map(&mut memory, K4, 0x1000, K4).expect("map");
    ram.map(&mut memory, 0, 0x2000, K4).expect("map");
    memory.piece(0x1ffc, 4).expect("piece").1.copy_from(&[1, 2, 3, 4]);
    memory.piece(0x2000, 4).expect("piece").1.copy_from(&[5, 6, 7, 8]);
    let mut bytes = [0; 8];
    assert!(memory.read(0x1ffc, &mut bytes));
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!memory.read(0x2ffc, &mut bytes));
    memory.piece(0x1ffc, 4).expect("piece").1.zero();
    assert!(memory.read(0x1ffc, &mut bytes[..4]));
    assert_eq!(bytes, [0, 0, 0, 0, 5, 6, 7, 8]);
}

#[test]
fn dwords_are_aligned_and_mapped() {
    let ram = Ram::new(K4);
    let mut memory = HostMemory::default();
    ram.map(&mut memory, 0, 0x1000, K4).expect("map");
    assert!(memory.store(0x1ffc, 7));
    assert_eq!(memory.load(0x1ffc), Some(7));
    assert_eq!((memory.load(0x1ffe), memory.load(0x2000), memory.load(0xffc)), (None, None, None));
    assert!(!memory.store(0x2000, 1));
}

#[test]
fn rings_follow_the_map() {
    let ram = Ram::new(4 * K4);
    let mut memory = HostMemory::default();
    let mut ring = Ring::new(&memory, 0x1000, 2 * 4096);
    assert!(ring.read_entry(&memory, 0).is_none());
    assert!(!ring.write_entry(&memory, 0, [1, 2]));
    ram.map(&mut memory, 0, 0x1000, K4).expect("map");
    assert!(ring.write_entry(&memory, 0, [1, 2]));
    assert!(ring.read_entry(&memory, 64).is_none(), "the second page is not mapped");
    // Not contiguous in this process.
    ram.map(&mut memory, 2 * K4, 0x2000, K4).expect("map");
    assert!(ring.write_entry(&memory, 256, [3, 4]));
    assert_eq!(ring.read_entry(&memory, 64).expect("entry")[..2], [3, 4]);
    assert_eq!(ring.read_entry(&memory, 0).expect("entry")[..2], [1, 2]);
    assert!(ring.read_entry(&memory, 128).is_none(), "beyond the ring");
    assert!(!ring.write_entry(&memory, u32::MAX, [0, 0]));
    memory.unmap(0x1000, K4).expect("unmap");
    assert!(ring.read_entry(&memory, 0).is_none());
}
