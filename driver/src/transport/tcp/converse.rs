//! What a connection makes of any bytes at all: for fuzzers, and for tests of parsers.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, OnceLock};

use doorbell_spec::fabrics::pdu::Digests;
use doorbell_spec::nvm;

use super::connection::{Connection, Parameters};
use super::piece::Piece;
use crate::memory::{Buffer, DmaMemory, MemoryConfig, PageKind};
use crate::transport::{Completion, Data};

/// Bytes of the data of each command that [`converse`] has in flight: two reads, a write in its capsule, a write by R2T.
pub const LENGTHS: [usize; 4] = [4096, 65_536, 512, 32_768];

/// Has a connection with four commands in flight receive `bytes`, which arrive in portions of `cut`. Command `n` has the
/// identifier `n + 4`, and [`LENGTHS`]`[n]` bytes of data. Returns what became of those that were sent, and whether the
/// connection was still of use in the end.
///
/// # Panics
/// If something does not hold that must: each command ends once, and its memory is left alone from then on.
#[doc(hidden)]
pub fn converse(bytes: &[u8], cut: usize, digests: u8) -> (Vec<Completion>, bool) {
    static MEMORY: OnceLock<Arc<DmaMemory>> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| {
        let config = MemoryConfig { pages: Some(PageKind::Ordinary), ..MemoryConfig::default() };
        DmaMemory::without_device("converse", config).expect("memory")
    });
    let allocate = |len: usize| memory.allocate(len).expect("memory");
    let mut connection = Connection::new(Parameters {
        depth: 4,
        digests: Digests::from_bits(digests & 3),
        hpda_z: 0,
        maxr2t_z: 3,
        max_in_capsule: 8192,
        input: 8192,
    });
    // Between them, so that what goes past one is seen.
    let mut buffers: Vec<Buffer> = Vec::new();
    for len in LENGTHS {
        buffers.push(allocate(len));
        buffers.push(allocate(4096));
    }
    buffers.iter_mut().for_each(|buffer| buffer.fill(GUARD));
    let mut ended: BTreeMap<u16, Completion> = BTreeMap::new();
    let mut staged = false;
    let mut alive = true;
    let mut left = bytes;
    let note = |ended: &mut BTreeMap<u16, Completion>, buffers: &mut [Buffer], done: Completion| {
        assert!(ended.insert(done.cid, done).is_none(), "command {} ends twice", done.cid);
        let buffer = buffers.get_mut(2 * usize::from(done.cid - 4)).expect("of a command");
        buffer.fill(GUARD);
    };
    while alive {
        drain(&mut connection);
        if connection.is_initialized() && !staged {
            staged = true;
            let commands = [
                nvm::read(1, 0, 7),
                nvm::read(1, 0, 127),
                nvm::write(1, 0, 0),
                nvm::write(1, 0, 63),
            ];
            for ((command, slot), buffer) in commands.into_iter().zip(0..).zip(buffers.chunks(2)) {
                let data = buffer.first().map_or(Piece::NONE, |buffer| Piece::of(Data::of(buffer)));
                connection.stage(slot, slot + 4, command, data, true);
            }
            drain(&mut connection);
        }
        match connection.next() {
            Ok(Some(done)) => note(&mut ended, &mut buffers, done),
            Ok(None) if left.is_empty() => break,
            Ok(None) => {
                let (first, second) = connection.space();
                let count = (first.len() + second.len()).min(cut.max(1)).min(left.len());
                assert!(count > 0, "it can always receive more");
                let (now, rest) = left.split_at(count);
                first.iter_mut().chain(second).zip(now).for_each(|(to, from)| *to = *from);
                connection.received(count);
                left = rest;
            }
            Err(_) => {
                let _last_words = connection.termination();
                alive = false;
            }
        }
    }
    while let Some(done) = connection.give_up() {
        note(&mut ended, &mut buffers, done);
    }
    assert_eq!(ended.len(), if staged { LENGTHS.len() } else { 0 }, "each command ends");
    for buffer in &buffers {
        assert!(buffer.iter().all(|&byte| byte == GUARD), "memory is written that is nobody's");
    }
    (ended.into_values().collect(), alive)
}

const GUARD: u8 = 0x5a;

/// Takes what the connection would send.
fn drain(connection: &mut Connection) {
    while connection.has_output() {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = connection.output(&mut slices);
        let bytes = slices.iter().take(count).map(|slice| slice.len()).sum();
        connection.sent(bytes);
    }
}
