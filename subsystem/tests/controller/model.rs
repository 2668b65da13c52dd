//! Random operations against a model of namespace contents: whatever is read is what was written last.

use std::collections::VecDeque;

use doorbell_spec::command::Sqe;
use doorbell_spec::nvm::{self, DsmAttributes, DsmRange};
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use crate::host::{Host, config};
use crate::random::Random;
use crate::subsystem;

const MAX_LEN: u64 = if cfg!(miri) { 16 << 10 } else { 64 << 10 };

/// What a namespace must hold.
struct Model {
    nsid: u32,
    block: u64,
    bytes: Vec<u8>,
}

/// A slot of host memory that a command uses: data pages in any order, and a list of them.
struct Slot {
    pages: Vec<u64>,
    list: u64,
}

impl Slot {
    fn new(host: &mut Host, random: &mut Random) -> Self {
        let count = (MAX_LEN / 4096 + 1) as usize;
        let first = host.pages(count);
        let mut pages: Vec<u64> = (0..count as u64).map(|index| first + index * 4096).collect();
        for index in (1..pages.len()).rev() {
            pages.swap(index, random.below(index as u64 + 1) as usize);
        }
        Self { pages, list: host.pages(2) }
    }

    /// The command with this slot as its data, from `offset` of the first page on.
    fn point(&self, host: &Host, sqe: Sqe, offset: u64, len: usize) -> Sqe {
        let pages = (offset as usize + len).div_ceil(4096);
        let first = self.pages[0] + offset;
        match pages {
            0 | 1 => sqe.with_prp(first, 0),
            2 => sqe.with_prp(first, self.pages[1]),
            _ => {
                // The list begins so late in its page that it has to be continued, now and then.
                let rest = &self.pages[1..pages];
                let slots = 1 + (first / 4096 % 4) as usize;
                let start = self.list + 4096 - slots as u64 * 8;
                if rest.len() <= slots {
                    host.ram.write(start, rest.as_bytes());
                } else {
                    host.ram.write(start, rest[..slots - 1].as_bytes());
                    host.ram.write(start + (slots as u64 - 1) * 8, [self.list + 4096].as_bytes());
                    host.ram.write(self.list + 4096, rest[slots - 1..].as_bytes());
                }
                sqe.with_prp(first, start)
            }
        }
    }

    fn copy(&self, offset: u64, len: usize, mut each: impl FnMut(u64, std::ops::Range<usize>)) {
        let (mut at, mut page, mut start) = (0, 0, offset);
        while at < len {
            let now = (len - at).min(4096 - start as usize);
            each(self.pages[page] + start, at..at + now);
            (at, page, start) = (at + now, page + 1, 0);
        }
    }
}

/// A command under way, and what has to be right once it is done.
struct Pending {
    cid: u16,
    slot: usize,
    status: Status,
    read: Option<(u64, Vec<u8>)>,
}

#[test]
fn contents_follow_the_model() {
    let mut random = Random::new("contents_follow_the_model");
    let dir = std::env::temp_dir().join(format!("doorbell-model-{}", std::process::id()));
    let file = format!("file:{},size=1MiB,block=4096", dir.display());
    let mut specs = vec!["memory:1MiB", "memory:2560KiB,block=4096"];
    if !cfg!(miri) {
        specs.push(&file);
    }
    let subsystem = subsystem(&specs);
    let _ = std::fs::remove_file(&dir);
    let mut models: Vec<Model> = (1..=specs.len() as u32)
        .map(|nsid| {
            let namespace = subsystem.namespace(nsid).expect("namespace");
            let block = u64::from(namespace.block_size());
            Model { nsid, block, bytes: vec![0; (namespace.blocks() * block) as usize] }
        })
        .collect();
    let mut host = Host::ready(&subsystem, config());
    host.pair(1, 16, 9);
    let slots: Vec<Slot> =
        (0..if cfg!(miri) { 2 } else { 8 }).map(|_| Slot::new(&mut host, &mut random)).collect();
    let mut free: Vec<usize> = (0..slots.len()).collect();
    let mut pending = VecDeque::new();
    let rounds = if cfg!(miri) { 20 } else { 6000 };
    for _ in 0..rounds {
        // Commands of one queue take effect in order here, so that the model can run ahead.
        while let Some(slot) = free.pop_if(|_| random.below(4) != 0) {
            let count = models.len() as u64;
            let model = &mut models[random.below(count) as usize];
            pending.push_back(operation(&mut host, &mut random, model, &slots[slot], slot));
        }
        host.ring(1);
        for _ in 0..random.below(4) {
            host.poll();
        }
        while let Some(entry) = host.reap(1) {
            let done: Pending = pending.pop_front().expect("no command was under way");
            assert_eq!(entry.cid, done.cid);
            assert!(entry.status().is(done.status), "{} for {}", entry.status(), done.status);
            if let Some((offset, expected)) = done.read {
                let mut found = vec![0; expected.len()];
                slots[done.slot].copy(offset, found.len(), |at, range| {
                    let len = range.len();
                    found[range].copy_from_slice(&host.ram.read(at, len));
                });
                assert!(found == expected, "data differs");
            }
            free.push(done.slot);
        }
    }
}

fn operation(
    host: &mut Host,
    random: &mut Random,
    model: &mut Model,
    slot: &Slot,
    index: usize,
) -> Pending {
    let blocks = model.bytes.len() as u64 / model.block;
    let most = (MAX_LEN / model.block).min(blocks);
    let limit = if random.below(3) == 0 { most } else { 4.min(most) };
    let count = 1 + random.below(limit);
    let lba = random.below(blocks - count + 1);
    let len = (count * model.block) as usize;
    let start = (lba * model.block) as usize;
    let offset = random.below(1024) * 4;
    let range = start..start + len;
    let (nsid, nlb_z) = (model.nsid, (count - 1) as u16);
    let mut status = Status::SUCCESS;
    let mut read = None;
    let sqe = match random.below(8) {
        0..=2 => {
            let seed = random.next();
            let data: Vec<u8> =
                (0..len as u64).map(|at| (seed.wrapping_mul(at + 1) >> 56) as u8).collect();
            slot.copy(offset, len, |at, part| host.ram.write(at, &data[part]));
            model.bytes[range].copy_from_slice(&data);
            slot.point(host, nvm::write(nsid, lba, nlb_z), offset, len)
        }
        3 | 4 => {
            read = Some((offset, model.bytes[range].to_vec()));
            slot.point(host, nvm::read(nsid, lba, nlb_z), offset, len)
        }
        5 => {
            let mut data = model.bytes[range].to_vec();
            if random.below(2) == 0 {
                let at = random.below(len as u64) as usize;
                data[at] ^= 1 << random.below(8);
                status = Status::COMPARE_FAILURE;
            }
            slot.copy(offset, len, |at, part| host.ram.write(at, &data[part]));
            slot.point(host, nvm::compare(nsid, lba, nlb_z), offset, len)
        }
        6 => {
            model.bytes[range].fill(0);
            let sqe = nvm::write_zeroes(nsid, lba, nlb_z);
            if random.below(2) == 0 { sqe.with_deallocate() } else { sqe }
        }
        _ => {
            let ranges = [DsmRange::new(lba, count as u32), DsmRange::new(0, 0)];
            model.bytes[range].fill(0);
            slot.copy(0, 32, |at, part| host.ram.write(at, &ranges.as_bytes()[part]));
            slot.point(host, nvm::dsm(nsid, 1, DsmAttributes::DEALLOCATE), 0, 32)
        }
    };
    let cid = host.stage(1, sqe);
    Pending { cid, slot: index, status, read }
}
