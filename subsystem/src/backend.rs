//! What stands behind a namespace: the seam between the command set and storage.
//!
//! A backend knows bytes, not blocks or commands. It is called by every controller of the subsystem at once, with
//! ranges that were checked against [`Backend::len`], and it copies straight between its medium and host memory. Calls
//! finish the work before they return, on the thread of the controller that asks.

pub mod file;
pub mod memory;
pub mod null;

use crate::memory::HostBytes;

/// Why a backend could not do what it was asked. Each becomes one status (see [`crate::controller`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The medium could not be read.
    #[error("the medium could not be read")]
    Unreadable,
    /// The medium could not be written, or written data could not be made durable.
    #[error("the medium could not be written")]
    Unwritable,
    /// There is no space left for the data.
    #[error("no space left")]
    Full,
    /// Host memory could not be reached.
    #[error("host memory could not be reached")]
    Host,
}

/// What a backend is like, as Identify Namespace reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Completed writes may be lost with the machine until they are flushed.
    pub volatile: bool,
    /// Storage is taken when written and given back when deallocated.
    pub thin: bool,
    /// What was deallocated reads as zeroes.
    pub zeroes: bool,
    /// [`Backend::prefetch`] does something.
    pub prefetches: bool,
    /// [`Backend::show`] shows every range.
    pub shows: bool,
}

/// The most ranges that [`Backend::show`] is asked for at once.
pub const TOGETHER: usize = 16;

/// Storage of a fixed number of bytes.
///
/// Offsets and lengths are multiples of the namespace's block size and lie within [`Backend::len`]. The pieces of one
/// call make up one contiguous range of the medium. Blocks are atomic: a read sees each block as one write left it.
#[expect(clippy::len_without_is_empty, reason = "a namespace of no bytes is refused")]
pub trait Backend: Send + Sync {
    /// Bytes; does not change.
    fn len(&self) -> u64;

    /// What the backend is like; does not change.
    fn properties(&self) -> Properties;

    /// Fills `into` with what is stored from `offset` on.
    ///
    /// # Errors
    /// [`MediaError::Unreadable`] or [`MediaError::Host`]; `into` holds anything then.
    fn read(&self, offset: u64, into: &[HostBytes<'_>]) -> Result<(), MediaError>;

    /// Shows what is stored in `ranges`, at most [`TOGETHER`] of an offset and a length each, to `look`, once: a piece for
    /// each in turn, as many of them as can be had at once. The last piece may be the beginning of its range only, of at
    /// least a block. Nobody changes them meanwhile, so `look` is quick. Called where [`Properties::shows`] is set.
    ///
    /// # Errors
    /// [`MediaError::Unreadable`] for the first range; `look` has not been called then.
    fn show(
        &self,
        ranges: &[(u64, usize)],
        look: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), MediaError> {
        let _ = (ranges, look);
        Err(MediaError::Unreadable)
    }

    /// Stores `from` from `offset` on.
    ///
    /// # Errors
    /// [`MediaError`]; each block holds old or new data then.
    fn write(&self, offset: u64, from: &[HostBytes<'_>]) -> Result<(), MediaError>;

    /// Makes durable every write that has returned.
    ///
    /// # Errors
    /// [`MediaError::Unwritable`] or [`MediaError::Full`].
    fn flush(&self) -> Result<(), MediaError>;

    /// Stores zeroes; gives the storage back where `deallocate` is set and that leaves zeroes.
    ///
    /// # Errors
    /// [`MediaError`]; each block holds old data or zeroes then.
    fn zero(&self, offset: u64, len: u64, deallocate: bool) -> Result<(), MediaError>;

    /// Gives storage back as far as the backend can; see [`Properties::zeroes`] for what is read afterwards.
    ///
    /// # Errors
    /// [`MediaError`]; each block holds old data or what deallocated blocks hold.
    fn deallocate(&self, offset: u64, len: u64) -> Result<(), MediaError>;

    /// Says that the data at `offset` is read or written soon. Called where [`Properties::prefetches`] is set.
    #[inline]
    fn prefetch(&self, offset: u64, write: bool) {
        let _ = (offset, write);
    }
}

/// Walks pieces of host memory in portions that the caller chooses.
pub(crate) struct Cursor<'p, 'a> {
    piece: Option<HostBytes<'a>>,
    more: std::slice::Iter<'p, HostBytes<'a>>,
}

impl<'p, 'a> Cursor<'p, 'a> {
    pub(crate) fn new(pieces: &'p [HostBytes<'a>]) -> Self {
        Self { piece: None, more: pieces.iter() }
    }

    /// The next bytes, at least one and at most `max`; `None` at the end.
    pub(crate) fn next(&mut self, max: usize) -> Option<HostBytes<'a>> {
        loop {
            if let Some(piece) = self.piece.take().filter(|piece| !piece.is_empty()) {
                let (now, later) = piece.split_at(max);
                self.piece = Some(later);
                return Some(now);
            }
            self.piece = Some(*self.more.next()?);
        }
    }
}
