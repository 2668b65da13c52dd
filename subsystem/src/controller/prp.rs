//! PRP entries onto pieces of host memory (TGT-1, DPTR-1 to DPTR-6).
//!
//! Reads list entries once and trusts none of them. The number of entries read follows from the length of the transfer
//! alone, so that no list can hold the walker up.

use doorbell_spec::status::Status;

use crate::memory::{HostBytes, HostMemory};

/// Where the data of a command is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataPointer {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
}

const ENTRY: u64 = 8;
/// List entries copied at once.
const CHUNK: usize = 64;

/// Appends to `pieces` the host memory of a transfer of `len` bytes, with pages of `1 << page_shift` bytes. Pieces that
/// lie side by side become one.
pub(crate) fn gather<'a>(
    memory: &'a HostMemory,
    page_shift: u32,
    pointer: DataPointer,
    len: usize,
    pieces: &mut Vec<HostBytes<'a>>,
) -> Result<(), Status> {
    let mut out = Output { memory, pieces, last: None };
    let page = 1usize << page_shift;
    let in_page = page as u64 - 1;
    let DataPointer { prp1, prp2 } = pointer;
    if prp1 & 3 != 0 {
        return Err(Status::INVALID_PRP_OFFSET.with_dnr());
    }
    let first = len.min(page - (prp1 & in_page) as usize);
    out.add(prp1, first)?;
    let mut left = len - first;
    if left == 0 {
        return Ok(());
    }
    if left <= page {
        if prp2 & in_page != 0 {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        return out.add(prp2, left);
    }
    if prp2 & (ENTRY - 1) != 0 {
        return Err(Status::INVALID_PRP_OFFSET.with_dnr());
    }
    let mut list = prp2;
    // Each round either takes a whole list page of at least 511 pages or is the first one, which may begin at the last
    // slot of its page and then holds nothing but the pointer to the next.
    while left > 0 {
        let slots = ((page as u64 - (list & in_page)) / ENTRY) as usize;
        let pages = left.div_ceil(page);
        let chained = pages > slots;
        let data = if chained { slots - 1 } else { pages };
        let mut entries = [0u64; CHUNK];
        let mut done = 0;
        while done < data {
            let count = CHUNK.min(data - done);
            let Some(entries) = entries.get_mut(..count) else { break };
            read_list(memory, list + done as u64 * ENTRY, entries)?;
            for &mut entry in entries {
                if entry & in_page != 0 {
                    return Err(Status::INVALID_PRP_OFFSET.with_dnr());
                }
                let now = left.min(page);
                out.add(entry, now)?;
                left -= now;
            }
            done += count;
        }
        if chained {
            let mut next = [0u64];
            read_list(memory, list + data as u64 * ENTRY, &mut next)?;
            [list] = next;
            if list & in_page != 0 {
                return Err(Status::INVALID_PRP_OFFSET.with_dnr());
            }
        }
    }
    Ok(())
}

fn read_list(memory: &HostMemory, iova: u64, entries: &mut [u64]) -> Result<(), Status> {
    let bytes = zerocopy::IntoBytes::as_mut_bytes(entries);
    if memory.read(iova, bytes) { Ok(()) } else { Err(unmapped()) }
}

/// The status for I/O addresses that are not mapped.
pub(crate) fn unmapped() -> Status {
    Status::DATA_TRANSFER_ERROR.with_dnr()
}

struct Output<'p, 'a> {
    memory: &'a HostMemory,
    pieces: &'p mut Vec<HostBytes<'a>>,
    last: Option<(usize, HostBytes<'a>)>,
}

impl<'a> Output<'_, 'a> {
    fn add(&mut self, mut iova: u64, mut len: usize) -> Result<(), Status> {
        while len > 0 {
            let (region, piece) = self.memory.piece(iova, len).ok_or_else(unmapped)?;
            iova = iova.wrapping_add(piece.len() as u64);
            len -= piece.len();
            let joined = self.last.and_then(|last| HostMemory::join(last, (region, piece)));
            match (joined, self.pieces.last_mut()) {
                (Some(joined), Some(last)) => {
                    *last = joined;
                    self.last = Some((region, joined));
                }
                _ => {
                    self.pieces.push(piece);
                    self.last = Some((region, piece));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
