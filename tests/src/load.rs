//! Load that knows what must be there: every cell of a region is written with rising generations and read back, each
//! command is accounted for, and what was acknowledged is never missing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use doorbell::transport::Violation;
use doorbell::{Buffer, Controller, Done, Namespace, Queue, Reason};

/// Bytes of a logical block, which is whole whatever happens; a cell of several may be of several generations.
const BLOCK: usize = 512;
/// Bytes of a cell, written and read by one command.
const CELL: usize = 4096;
/// Logical blocks of a cell.
const STEP: u64 = (CELL / BLOCK) as u64;

/// What is known of a cell.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// No older generation can be there.
    acknowledged: u64,
    /// No newer one.
    issued: u64,
    /// A command about it is in flight.
    busy: bool,
    /// And it is a write.
    writing: bool,
}

/// Cells that one worker writes and reads, with what they should hold. Survives the controllers through which it is
/// reached.
#[derive(Debug)]
pub struct Region {
    first: u64,
    cells: Vec<Cell>,
}

/// What became of the commands of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Succeeded.
    pub done: u64,
    /// Ended in any other way.
    pub lost: u64,
}

/// How far a worker has come, for others to watch.
#[derive(Debug, Default)]
pub struct Progress {
    /// Commands that succeeded.
    pub done: AtomicU64,
    /// Nothing new is to be begun.
    pub stop: AtomicBool,
}

impl Region {
    /// Region `index` of `cells` cells, which nobody has written to, or which is [erased](Self::erase) first.
    #[must_use]
    pub fn new(index: u64, cells: usize) -> Self {
        let first = index * cells as u64 * STEP;
        Self { first, cells: vec![Cell::default(); cells] }
    }

    fn lba(&self, cell: usize) -> u64 {
        self.first + cell as u64 * STEP
    }

    fn fill(&self, cell: usize, generation: u64, data: &mut [u8]) {
        let place = self.lba(cell) << 8;
        for (index, word) in data.chunks_exact_mut(8).enumerate() {
            // The place within its block, so that blocks of a neighbour are told apart, and halves of blocks.
            let value = generation << 40 | (place + index as u64) & ((1 << 40) - 1);
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Each block is whole, of this place, and of a generation that can be there; the oldest.
    fn judge(&self, cell: usize, data: &[u8]) -> u64 {
        let Cell { acknowledged, issued, .. } = self.cells[cell];
        let mut oldest = u64::MAX;
        let mut expected = vec![0; CELL];
        for (index, block) in data.chunks_exact(BLOCK).enumerate() {
            let generation = u64::from_le_bytes(block[..8].try_into().expect("8 bytes")) >> 40;
            let known = format!("cell at block {}, block {index}", self.lba(cell));
            assert!(
                (acknowledged..=issued).contains(&generation),
                "{known}: generation {generation}, but {acknowledged} was acknowledged and {issued} the last written"
            );
            if generation == 0 {
                assert!(block.iter().all(|&byte| byte == 0), "{known}: neither empty nor written");
            } else {
                self.fill(cell, generation, &mut expected);
                let range = index * BLOCK..(index + 1) * BLOCK;
                assert!(block == &expected[range], "{known}: a mixture");
            }
            oldest = oldest.min(generation);
        }
        oldest
    }

    /// Writes zeros everywhere.
    ///
    /// # Panics
    /// If that fails.
    pub fn erase(&mut self, controller: &Controller, namespace: &Namespace, queue: &mut Queue) {
        for cell in 0..self.cells.len() {
            let mut buffer = controller.buffer(CELL).expect("memory");
            buffer.fill(0);
            queue.run(namespace.write(self.lba(cell), buffer)).expect("written");
        }
        self.cells.fill(Cell::default());
    }

    /// Reads everything: nothing that was acknowledged is missing. What was indeterminate is settled from here on.
    ///
    /// # Panics
    /// If something is missing, or cannot be read.
    pub fn check(&mut self, controller: &Controller, namespace: &Namespace, queue: &mut Queue) {
        for cell in 0..self.cells.len() {
            let buffer = controller.buffer(CELL).expect("memory");
            let done = queue.run(namespace.read(self.lba(cell), buffer)).expect("read");
            let oldest = self.judge(cell, &done.buffer.expect("a buffer"));
            self.cells[cell].acknowledged = oldest;
        }
    }

    /// Writes and reads through `queue`, as deep as it is, until it is stopped or the queue takes no more. Every command
    /// ends exactly once, with its buffer.
    ///
    /// # Panics
    /// If one does not, or something is missing.
    pub fn work(
        &mut self,
        controller: &Controller,
        namespace: &Namespace,
        queue: &mut Queue,
        progress: &Progress,
    ) -> Tally {
        let depth = queue.depth().min(self.cells.len());
        let mut free: Vec<Buffer> =
            (0..depth).map(|_| controller.buffer(CELL).expect("memory")).collect();
        let (mut tally, mut next) = (Tally::default(), 0);
        let mut ended = None;
        while self.cells.iter().any(|cell| cell.busy)
            || (ended.is_none() && !progress.stop.load(Ordering::Relaxed))
        {
            while ended.is_none()
                && !progress.stop.load(Ordering::Relaxed)
                && !self.cells[next].busy
                && let Some(buffer) = free.pop()
            {
                match self.begin(next, namespace, queue, buffer) {
                    Ok(()) => next = (next + 1) % self.cells.len(),
                    Err((buffer, why)) => {
                        free.push(buffer);
                        ended = why;
                        break;
                    }
                }
            }
            queue.ring();
            let count = queue.poll(|done| {
                free.push(self.end(done, &mut tally));
            });
            if count > 0 {
                progress.done.store(tally.done, Ordering::Relaxed);
            } else {
                std::thread::yield_now();
            }
            ended = ended.or(queue.failure());
        }
        assert_eq!(free.len(), depth, "every buffer is back");
        assert_eq!(queue.outstanding(), 0);
        tally
    }

    /// Stages a command about an idle cell; gives the buffer back if the queue takes none, and says whether for good.
    fn begin(
        &mut self,
        cell: usize,
        namespace: &Namespace,
        queue: &mut Queue,
        mut buffer: Buffer,
    ) -> Result<(), (Buffer, Option<Violation>)> {
        let generation = self.cells[cell].issued + 1;
        let write = !self.cells[cell].writing;
        let io = if write {
            self.fill(cell, generation, &mut buffer);
            namespace.write(self.lba(cell), buffer)
        } else {
            namespace.read(self.lba(cell), buffer)
        };
        queue.stage(io.tag(cell as u64)).map_err(|rejected| {
            let why = match rejected.reason {
                Reason::Full => None,
                Reason::Failed(violation) => Some(violation),
                other => panic!("refused: {other}"),
            };
            (rejected.io.into_buffer().expect("the buffer comes back"), why)
        })?;
        let known = &mut self.cells[cell];
        (known.busy, known.writing) = (true, write);
        if write {
            known.issued = generation;
        }
        Ok(())
    }

    fn end(&mut self, done: Done, tally: &mut Tally) -> Buffer {
        let cell = done.tag as usize;
        let buffer = done.buffer.expect("a buffer");
        let known = &mut self.cells[cell];
        assert!(std::mem::replace(&mut known.busy, false), "cell {cell} ended twice");
        if !done.status.is_success() {
            tally.lost += 1;
            return buffer;
        }
        tally.done += 1;
        if known.writing {
            known.acknowledged = known.issued;
        } else {
            self.judge(cell, &buffer);
        }
        buffer
    }
}
