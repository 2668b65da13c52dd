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
