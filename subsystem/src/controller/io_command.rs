//! I/O commands of the NVM command set (NVM 1.1): checked, then handed to the namespace's backend.
//!
//! Relies on the caller for a copy of the submission entry that nobody else can change. Every command finishes here;
//! the result is its status.

use std::sync::Arc;

use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::nvm::{DsmAttributes, DsmRange, MAX_DSM_RANGES, NvmOpcode};
use doorbell_spec::status::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::prp::{self, DataPointer};
use crate::backend::{Cursor, MediaError};
use crate::memory::{HostBytes, HostMemory};
use crate::namespace::Namespace;

mod badly;

/// What the I/O queues did, for the SMART log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) media_errors: u64,
}

impl Counters {
    /// Every counter, in a fixed order.
    pub(crate) fn values(&self) -> [u64; 5] {
        [self.reads, self.writes, self.bytes_read, self.bytes_written, self.media_errors]
    }

    pub(crate) fn from_values(values: [u64; 5]) -> Self {
        let [reads, writes, bytes_read, bytes_written, media_errors] = values;
        Self { reads, writes, bytes_read, bytes_written, media_errors }
    }

    pub(crate) fn add(&mut self, more: &Counters) {
        let mut values = self.values();
        for (to, from) in values.iter_mut().zip(more.values()) {
            *to += from;
        }
        *self = Self::from_values(values);
    }
}

/// Bytes of the memory that commands compare and verify in.
pub(crate) const BOUNCE: usize = 64 << 10;

/// Where the data of a command is, as its transport reaches it.
pub(crate) trait Data {
    /// Whether the command's data pointer is of the kind that there is here.
    fn check_form(&self, sqe: &Sqe) -> Result<(), Status>;

    /// Calls `f` with the host memory of a transfer of `len` bytes.
    fn with<R>(
        &mut self,
        sqe: &Sqe,
        len: usize,
        f: impl FnOnce(&[HostBytes<'_>]) -> R,
    ) -> Result<R, Status>;
}

/// A list of pieces, kept from one command to the next so that none of them allocates.
pub(crate) struct Pieces(Vec<HostBytes<'static>>);

impl Pieces {
    pub(crate) fn new(max: usize) -> Self {
        Self(Vec::with_capacity(max))
    }
}

/// Data behind PRP entries.
pub(crate) struct Prps<'a> {
    pub(crate) memory: &'a HostMemory,
    pub(crate) page_shift: u32,
    pub(crate) pieces: &'a mut Pieces,
}

/// Empties the list and keeps its memory, for pieces of another lifetime.
#[expect(clippy::unnecessary_filter_map, reason = "the items change their type")]
fn recycle<'b>(mut pieces: Vec<HostBytes<'_>>) -> Vec<HostBytes<'b>> {
    pieces.clear();
    // In place: the iterator is empty and the layouts are the same.
    pieces.into_iter().filter_map(|_| None).collect()
}

/// Everything that commands need beside themselves.
pub(crate) struct Io<'a, D> {
    pub(crate) data: D,
    pub(crate) slots: &'a [Option<Arc<Namespace>>],
    /// Most bytes of one transfer (MDTS).
    pub(crate) max_bytes: u64,
    /// The volatile write cache is off: every write is made durable.
    pub(crate) write_through: bool,
    /// [`BOUNCE`] bytes.
    pub(crate) bounce: &'a mut [u8],
    pub(crate) counters: &'a mut Counters,
}

impl<D: Data> Io<'_, D> {
    /// Carries out one command.
    #[inline]
    pub(crate) fn execute(&mut self, sqe: &Sqe) -> Status {
        let result = match NvmOpcode(sqe.opcode()) {
            NvmOpcode::READ => self.read(sqe),
            NvmOpcode::WRITE => self.write(sqe),
            opcode => self.other(opcode, sqe),
        };
        match result {
            Ok(()) => Status::SUCCESS,
            Err(status) => status,
        }
    }

    /// Bytes that a read, write or comparison moves, and bytes of a block, where nothing is wrong with it.
    pub(crate) fn span(&self, sqe: &Sqe) -> Result<(u64, u32), Status> {
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (_, len) = self.transfer(namespace, sqe)?;
        Ok((len as u64, namespace.block_size()))
    }

    /// Has the storage of a read or write fetched while the command before it is under way.
    #[inline]
    pub(crate) fn prefetch(&self, sqe: &Sqe) {
        let opcode = NvmOpcode(sqe.opcode());
        if opcode != NvmOpcode::READ && opcode != NvmOpcode::WRITE {
            return;
        }
        if let Ok(namespace) = namespace(self.slots, sqe.nsid)
            && namespace.properties().prefetches
            && let Ok((offset, _)) = extent(namespace, sqe)
        {
            namespace.backend().prefetch(offset, opcode == NvmOpcode::WRITE);
        }
    }

    #[inline]
    fn read(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (offset, len) = self.transfer(namespace, sqe)?;
        let backend = namespace.backend();
        self.data
            .with(sqe, len, |pieces| backend.read(offset, pieces))?
            .map_err(|error| self.counters.failed(error))?;
        self.counters.reads += 1;
        self.counters.bytes_read += len as u64;
        Ok(())
    }

    /// Checks and counts a read that somebody else carries out; returns the offset of its data.
    pub(crate) fn begin_read(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        self.data.check_form(sqe)?;
        let (offset, len) = self.transfer(namespace(self.slots, sqe.nsid)?, sqe)?;
        self.counters.reads += 1;
        self.counters.bytes_read += len as u64;
        Ok(offset)
    }

    #[inline]
    fn write(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (offset, len) = self.transfer(namespace, sqe)?;
        let options = sqe.io_cdw12();
        if options.dtype() != 0 {
            // No directive but the absence of one is supported.
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let backend = namespace.backend();
        self.data
            .with(sqe, len, |pieces| backend.write(offset, pieces))?
            .map_err(|error| self.counters.failed(error))?;
        if options.fua() || self.write_through {
            backend.flush().map_err(|error| self.counters.failed(error))?;
        }
        self.counters.writes += 1;
        self.counters.bytes_written += len as u64;
        Ok(())
    }

    #[inline(never)]
    fn other(&mut self, opcode: NvmOpcode, sqe: &Sqe) -> Result<(), Status> {
        match opcode {
            NvmOpcode::FLUSH => self.flush(sqe),
            NvmOpcode::COMPARE => self.compare(sqe),
            NvmOpcode::WRITE_ZEROES => self.write_zeroes(sqe),
            NvmOpcode::DATASET_MANAGEMENT => self.dataset_management(sqe),
            NvmOpcode::VERIFY => self.verify(sqe),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }

    fn flush(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let mut flush = |namespace: &Namespace| {
            namespace.backend().flush().map_err(|error| self.counters.failed(error))
        };
        if sqe.nsid == NSID_ALL {
            return self.slots.iter().flatten().try_for_each(|namespace| flush(namespace));
        }
        flush(namespace(self.slots, sqe.nsid)?)
    }

    fn compare(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (offset, len) = self.transfer(namespace, sqe)?;
        self.counters.reads += 1;
        let same = self
            .data
            .with(sqe, len, |pieces| matches(namespace, offset, pieces, self.bounce))?
            .map_err(|error| self.counters.failed(error))?;
        if same { Ok(()) } else { Err(Status::COMPARE_FAILURE.with_dnr()) }
    }

    fn write_zeroes(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (offset, len) = extent(namespace, sqe)?;
        let options = sqe.io_cdw12();
        let backend = namespace.backend();
        backend.zero(offset, len, options.deac()).map_err(|error| self.counters.failed(error))?;
        if options.fua() || self.write_through {
            backend.flush().map_err(|error| self.counters.failed(error))?;
        }
        self.counters.writes += 1;
        Ok(())
    }

    fn dataset_management(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        // NR is one byte, so there are never more ranges than fit; reserved bits are ignored (CMD-2).
        let count = (sqe.cdw10 & 0xff) as usize + 1;
        let mut ranges = [DsmRange::new_zeroed(); MAX_DSM_RANGES];
        let Some(ranges) = ranges.get_mut(..count) else { return Err(Status::INTERNAL_ERROR) };
        let len = ranges.as_bytes().len();
        self.data.with(sqe, len, |pieces| take(pieces, ranges.as_mut_bytes()))?;
        for range in ranges.iter() {
            blocks(namespace, range.slba.get(), u64::from(range.llb.get()))?;
        }
        if !DsmAttributes::from_bits(sqe.cdw11).ad() {
            // The other attributes are hints, which nothing here can use.
            return Ok(());
        }
        for range in ranges.iter() {
            let (offset, len) = blocks(namespace, range.slba.get(), u64::from(range.llb.get()))?;
            namespace
                .backend()
                .deallocate(offset, len)
                .map_err(|error| self.counters.failed(error))?;
        }
        Ok(())
    }

    fn verify(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.data.check_form(sqe)?;
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (mut offset, mut left) = extent(namespace, sqe)?;
        while left > 0 {
            let now = left.min(BOUNCE as u64);
            let Some(bytes) = self.bounce.get_mut(..now as usize) else {
                return Err(Status::INTERNAL_ERROR);
            };
            namespace
                .backend()
                .read(offset, &[HostBytes::of(bytes)])
                .map_err(|error| self.counters.failed(error))?;
            offset += now;
            left -= now;
        }
        Ok(())
    }

    /// Offset and length of a command that moves data.
    #[inline]
    fn transfer(&self, namespace: &Namespace, sqe: &Sqe) -> Result<(u64, usize), Status> {
        let (offset, len) = extent(namespace, sqe)?;
        if len > self.max_bytes {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok((offset, len as usize))
    }
}

impl Counters {
    /// The status for what a backend reports.
    #[cold]
    pub(crate) fn failed(&mut self, error: MediaError) -> Status {
        self.media_errors += 1;
        match error {
            MediaError::Unreadable => Status::UNRECOVERED_READ_ERROR,
            MediaError::Unwritable => Status::WRITE_FAULT,
            MediaError::Full => Status::CAPACITY_EXCEEDED,
            MediaError::Host => prp::unmapped(),
        }
    }
}

/// Whether what is stored from `offset` on is what the host has in `pieces`.
fn matches(
    namespace: &Namespace,
    mut offset: u64,
    pieces: &[HostBytes<'_>],
    bounce: &mut [u8],
) -> Result<bool, MediaError> {
    // Half of the bounce buffer for each side. Reads stay whole blocks, whatever the pieces.
    let (stored, given) = bounce.split_at_mut(BOUNCE / 2);
    let mut left: usize = pieces.iter().map(HostBytes::len).sum();
    let mut cursor = Cursor::new(pieces);
    while left > 0 {
        let now = left.min(BOUNCE / 2);
        let (Some(stored), Some(given)) = (stored.get_mut(..now), given.get_mut(..now)) else {
            return Err(MediaError::Host);
        };
        namespace.backend().read(offset, &[HostBytes::of(stored)])?;
        let mut filled = 0;
        while let Some(rest) = given.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let Some(piece) = cursor.next(rest.len()) else { return Err(MediaError::Host) };
            piece.copy_to(rest);
            filled += piece.len();
        }
        if stored != given {
            return Ok(false);
        }
        offset += now as u64;
        left -= now;
    }
    Ok(true)
}

/// Neither fused operations nor SGLs are supported.
#[inline]
pub(crate) fn check_form(sqe: &Sqe) -> Result<(), Status> {
    if sqe.cdw0.fuse() != 0 || sqe.cdw0.psdt() != 0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    Ok(())
}

/// The namespace that `nsid` names: 0/0B where no namespace can have that identifier, 0/02 where none has.
#[inline]
pub(crate) fn namespace(slots: &[Option<Arc<Namespace>>], nsid: u32) -> Result<&Namespace, Status> {
    match slots.get((nsid as usize).wrapping_sub(1)) {
        Some(Some(namespace)) => Ok(namespace),
        Some(None) => Err(Status::INVALID_FIELD.with_dnr()),
        None => Err(Status::INVALID_NAMESPACE.with_dnr()),
    }
}

/// Offset and length in bytes of the blocks that a command names.
#[inline]
fn extent(namespace: &Namespace, sqe: &Sqe) -> Result<(u64, u64), Status> {
    blocks(namespace, sqe.slba(), u64::from(sqe.nlb_z()) + 1)
}

#[inline]
fn blocks(namespace: &Namespace, slba: u64, count: u64) -> Result<(u64, u64), Status> {
    if slba > namespace.blocks() || count > namespace.blocks() - slba {
        return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
    }
    Ok((slba << namespace.block_shift(), count << namespace.block_shift()))
}

#[inline]
pub(crate) fn pointer(sqe: &Sqe) -> DataPointer {
    DataPointer { prp1: sqe.prp1, prp2: sqe.prp2 }
}

impl Data for Prps<'_> {
    #[inline]
    fn check_form(&self, sqe: &Sqe) -> Result<(), Status> {
        check_form(sqe)
    }

    /// One or two whole pages, which is nearly every command, take no list.
    #[inline]
    fn with<R>(
        &mut self,
        sqe: &Sqe,
        len: usize,
        f: impl FnOnce(&[HostBytes<'_>]) -> R,
    ) -> Result<R, Status> {
        let (memory, page_shift) = (self.memory, self.page_shift);
        let page = 1usize << page_shift;
        let first = page - (sqe.prp1 as usize & (page - 1));
        if sqe.prp1 & 3 == 0 {
            if len <= first {
                if let Some((_, piece)) = memory.piece(sqe.prp1, len)
                    && piece.len() == len
                {
                    return Ok(f(&[piece]));
                }
            } else if len <= first + page
                && sqe.prp2 as usize & (page - 1) == 0
                && let Some(head) = memory.piece(sqe.prp1, first)
                && head.1.len() == first
                && let Some(tail) = memory.piece(sqe.prp2, len - first)
                && tail.1.len() == len - first
            {
                return Ok(match HostMemory::join(head, tail) {
                    Some(whole) => f(&[whole]),
                    None => f(&[head.1, tail.1]),
                });
            }
        }
        let mut pieces = recycle(std::mem::take(&mut self.pieces.0));
        let gathered = prp::gather(memory, page_shift, pointer(sqe), len, &mut pieces);
        let result = gathered.map(|()| f(&pieces));
        self.pieces.0 = recycle(pieces);
        result
    }
}

/// Copies `data`, and zeroes behind it, to the host memory of a command.
pub(crate) fn give(pieces: &[HostBytes<'_>], mut data: &[u8]) {
    for piece in pieces {
        let (filled, rest) = piece.split_at(data.len());
        filled.copy_from(data);
        rest.zero();
        data = data.get(filled.len()..).unwrap_or_default();
    }
}

/// Copies the host memory of a command, once.
pub(crate) fn take(pieces: &[HostBytes<'_>], mut data: &mut [u8]) {
    for piece in pieces {
        piece.copy_to(data);
        data = data.get_mut(piece.len()..).unwrap_or_default();
    }
}
