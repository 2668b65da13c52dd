//! Sparseness, and data across chunks.

use super::*;

fn read(memory: &Memory, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    memory.read(offset, &[HostBytes::of(&mut bytes)]).expect("read");
    bytes
}

fn write(memory: &Memory, offset: u64, bytes: &[u8]) {
    memory.write(offset, &[HostBytes::of(&mut bytes.to_vec())]).expect("write");
}

#[test]
fn storage_is_taken_when_written_and_given_back() {
    let memory = Memory::new(4 * CHUNK_U64).expect("memory");
    assert_eq!(memory.allocated(), 0);
    assert_eq!(read(&memory, CHUNK_U64 - 512, 1024), [0; 1024]);
    memory.zero(0, 4 * CHUNK_U64, false).expect("zero");
    assert_eq!(memory.allocated(), 0, "zeroes need no storage");
    write(&memory, CHUNK_U64 - 512, &[7; 1024]);
    assert_eq!(memory.allocated(), 2 * CHUNK_U64);
    assert_eq!(read(&memory, CHUNK_U64 - 512, 1024), [7; 1024]);
    memory.deallocate(CHUNK_U64 - 512, 512).expect("deallocate");
    assert_eq!(memory.allocated(), 2 * CHUNK_U64, "part of a chunk");
    assert_eq!(read(&memory, CHUNK_U64 - 512, 512), [0; 512]);
    memory.deallocate(0, 2 * CHUNK_U64).expect("deallocate");
    assert_eq!(memory.allocated(), 0);
    assert_eq!(read(&memory, CHUNK_U64, 512), [0; 512]);
}

#[test]
fn the_last_chunk_may_be_short() {
    let memory = Memory::new(CHUNK_U64 + 1024).expect("memory");
    write(&memory, CHUNK_U64 + 512, &[1; 512]);
    memory.zero(CHUNK_U64, 1024, true).expect("zero");
    assert_eq!(memory.allocated(), 0);
}

#[test]
fn pieces_and_chunks_need_not_agree() {
    let memory = Memory::new(3 * CHUNK_U64).expect("memory");
    let data: Vec<u8> = (0..8192u32).map(|at| (at % 253) as u8).collect();
    let mut parts: Vec<Vec<u8>> = data.chunks(1000).map(<[u8]>::to_vec).collect();
    let pieces: Vec<_> = parts.iter_mut().map(|part| HostBytes::of(part)).collect();
    memory.write(CHUNK_U64 - 4096, &pieces).expect("write");
    assert_eq!(read(&memory, CHUNK_U64 - 4096, 8192), data);
    let mut back: Vec<Vec<u8>> = data.chunks(700).map(|part| vec![0; part.len()]).collect();
    let pieces: Vec<_> = back.iter_mut().map(|part| HostBytes::of(part)).collect();
    memory.read(CHUNK_U64 - 4096, &pieces).expect("read");
    assert_eq!(back.concat(), data);
}

#[test]
fn too_large_is_an_error() {
    for len in [u64::MAX, MAX_LEN + 1] {
        assert_eq!(Memory::new(len).err(), Some(MediaError::Full));
    }
}

#[test]
fn ranges_are_shown_together_as_far_as_their_chunks_are_free() {
    let memory = Memory::new(3 * CHUNK_U64).expect("memory");
    write(&memory, 0, &[1; 8192]);
    write(&memory, CHUNK_U64 - 4096, &[2; 8192]);
    let show = |ranges: &[(u64, usize)]| {
        let mut seen = Vec::new();
        let shown = memory.show(ranges, &mut |pieces| {
            seen.extend(pieces.iter().map(|piece| (piece.first().copied(), piece.len())));
        });
        shown.map(|()| seen)
    };
    let ranges = [(4096, 4096), (CHUNK_U64, 4096), (0, 4096), (2 * CHUNK_U64, 4096)];
    let (one, two, none) = ((Some(1), 4096), (Some(2), 4096), (Some(0), 4096));
    assert_eq!(show(&ranges), Ok(vec![one, two, one, none]));
    // Somebody writes to the second chunk: what comes before it is shown, and nobody waits.
    let writer = memory.chunks[1].write();
    assert_eq!(show(&ranges), Ok(vec![one]));
    drop(writer);
    // A range that crosses chunks is shown as far as it lies in one piece, and is the last.
    assert_eq!(show(&[(0, 4096), (CHUNK_U64 - 4096, 8192), (0, 4096)]), Ok(vec![one, two]));
    assert_eq!(show(&[(3 * CHUNK_U64, 4096)]), Err(MediaError::Unreadable));
    assert_eq!(show(&[(0, 4096), (3 * CHUNK_U64, 4096)]), Ok(vec![one]));
}
