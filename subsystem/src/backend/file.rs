//! A backend in a file or on a block device.
//!
//! Owns the descriptors. Transfers go straight between host memory and the file: with direct I/O where the file system
//! has it and address, offset and length are aligned for it, through the page cache otherwise. Discards become holes,
//! flush is fdatasync. The file is never mapped, so that a file cut short is an error and not a signal.

#![expect(unsafe_code, reason = "vectored reads and writes of raw memory; fallocate")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Backend, Cursor, MediaError, Properties};
use crate::memory::HostBytes;

/// Pieces handed to the kernel in one call.
const VECTOR: usize = 64;
/// Alignment for direct I/O where the kernel does not tell.
const DIRECT_ALIGN: u64 = 4096;
/// Zeroes written by one call where the file system cannot do it by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// How a file backend is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileConfig {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Bytes of storage: a file is created, or made longer, to hold them. `None` takes what there is.
    pub size: Option<u64>,
    /// Whether to bypass the page cache where that can be done.
    pub direct: bool,
}

/// Why a file could not become a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file does not exist and nobody said how large it should be.
    #[error("{path}: no such file; give size=1GiB (say) to have it created")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither regular nor a block device.
    #[error("{path}: neither a regular file nor a block device; give one of those")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// The file is longer than asked for.
    #[error("{path}: has {actual} bytes, not {asked}; leave size= out to use all of it")]
    Size {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        asked: u64,
        /// What there is.
        actual: u64,
    },
    /// The kernel refused.
    #[error("{path}: cannot {what}: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Storage in a file.
#[derive(Debug)]
pub struct FileBackend {
    len: u64,
    buffered: File,
    /// The same file, opened for direct I/O.
    direct: Option<Direct>,
    regular: bool,
    punches: bool,
}

#[derive(Debug)]
struct Direct {
    file: File,
    /// Cleared when the file system takes the flag but not the transfers.
    usable: AtomicBool,
    memory_align: u64,
    offset_align: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl FileBackend {
    /// Opens, and where asked for creates, the file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(config: &FileConfig) -> Result<Self, FileError> {
        let path = &config.path;
        let refused = |what| move |source| FileError::Refused { path: path.clone(), what, source };
        let buffered = OpenOptions::new()
            .read(true)
            .write(true)
            .create(config.size.is_some())
            .truncate(false)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound if config.size.is_none() => {
                    FileError::Missing { path: path.clone() }
                }
                _ => FileError::Refused { path: path.clone(), what: "open it", source },
            })?;
        let metadata = buffered.metadata().map_err(refused("look at it"))?;
        let regular = metadata.is_file();
        if !regular && !metadata.file_type().is_block_device() {
            return Err(FileError::Kind { path: path.clone() });
        }
        let actual =
            if regular { metadata.len() } else { end_of(&buffered).map_err(refused("size it"))? };
        let len = config.size.unwrap_or(actual);
        if len > actual && regular {
            buffered.set_len(len).map_err(refused("make it longer"))?;
        } else if len != actual {
            return Err(FileError::Size { path: path.clone(), asked: len, actual });
        }
        let direct = if config.direct { open_direct(path) } else { None };
        // Past the end of a file there is nothing to lose: a probe.
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punches = regular && fallocate(&buffered, hole, len, 4096).is_ok();
        Ok(Self { len, buffered, direct, regular, punches })
    }

    /// Whether aligned transfers bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.usable.load(Ordering::Relaxed))
    }

    fn transfer(&self, way: Way, offset: u64, pieces: &[HostBytes<'_>]) -> Result<(), MediaError> {
        if let Some(direct) = &self.direct
            && direct.usable.load(Ordering::Relaxed)
            && direct.takes(offset, pieces)
        {
            match run(&direct.file, way, offset, pieces) {
                // The alignment was right, so it is the file system that will not.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    direct.usable.store(false, Ordering::Relaxed);
                }
                result => return result.map_err(|error| media(way, &error)),
            }
        }
        run(&self.buffered, way, offset, pieces).map_err(|error| media(way, &error))
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> Result<(), MediaError> {
        while len > 0 {
            let now = len.min(ZEROES.len() as u64);
            let zeroes = ZEROES.get(..now as usize).unwrap_or(&ZEROES);
            self.buffered
                .write_all_at(zeroes, offset)
                .map_err(|error| media(Way::Write, &error))?;
            offset += now;
            len -= now;
        }
        Ok(())
    }
}

impl Backend for FileBackend {
    fn len(&self) -> u64 {
        self.len
    }

    fn properties(&self) -> Properties {
        Properties {
            volatile: true,
            thin: self.regular,
            zeroes: self.punches,
            prefetches: false,
            shows: false,
        }
    }

    fn read(&self, offset: u64, into: &[HostBytes<'_>]) -> Result<(), MediaError> {
        self.transfer(Way::Read, offset, into)
    }

    fn write(&self, offset: u64, from: &[HostBytes<'_>]) -> Result<(), MediaError> {
        self.transfer(Way::Write, offset, from)
    }

    fn flush(&self) -> Result<(), MediaError> {
        // Both descriptors name one file, so one call covers the direct writes' metadata too.
        self.buffered.sync_data().map_err(|error| media(Way::Write, &error))
    }

    fn zero(&self, offset: u64, len: u64, deallocate: bool) -> Result<(), MediaError> {
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let ways = if deallocate { [hole, zero] } else { [zero, hole] };
        for mode in ways {
            match fallocate(&self.buffered, mode, offset, len) {
                Ok(()) => return Ok(()),
                Err(error) if cannot(&error) => {}
                Err(error) => return Err(media(Way::Write, &error)),
            }
        }
        self.write_zeroes(offset, len)
    }

    fn deallocate(&self, offset: u64, len: u64) -> Result<(), MediaError> {
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.buffered, hole, offset, len) {
            // Advice that the file system cannot follow.
            Err(error) if !cannot(&error) => Err(media(Way::Write, &error)),
            _ => Ok(()),
        }
    }
}

impl Direct {
    fn takes(&self, offset: u64, pieces: &[HostBytes<'_>]) -> bool {
        offset.is_multiple_of(self.offset_align)
            && pieces.iter().all(|piece| {
                (piece.as_ptr().addr() as u64).is_multiple_of(self.memory_align)
                    && (piece.len() as u64).is_multiple_of(self.offset_align)
            })
    }
}

fn open_direct(path: &Path) -> Option<Direct> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    let (memory_align, offset_align) =
        direct_alignment(&file).unwrap_or((DIRECT_ALIGN, DIRECT_ALIGN));
    if memory_align == 0 || offset_align == 0 {
        return None;
    }
    Some(Direct { file, usable: AtomicBool::new(true), memory_align, offset_align })
}

/// What the kernel asks of memory and of offset and length in direct I/O; zero where it has none.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn direct_alignment(file: &File) -> Option<(u64, u64)> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty path with AT_EMPTY_PATH means the descriptor; `answer` has room for what is written.
    let rc = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: integers only: zeroed memory is a value of it, and so is what the kernel wrote.
    let answer = unsafe { answer.assume_init() };
    let known = rc == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    known.then_some((u64::from(answer.stx_dio_mem_align), u64::from(answer.stx_dio_offset_align)))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn direct_alignment(_file: &File) -> Option<(u64, u64)> {
    None
}

/// Moves every byte of `pieces`, in as many calls as the kernel wants.
fn run(file: &File, way: Way, mut offset: u64, pieces: &[HostBytes<'_>]) -> io::Result<()> {
    let mut cursor = Cursor::new(pieces);
    loop {
        let mut vector = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; VECTOR];
        let mut count = 0;
        for entry in &mut vector {
            let Some(piece) = cursor.next(usize::MAX) else { break };
            *entry = libc::iovec { iov_base: piece.as_ptr().cast(), iov_len: piece.len() };
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < count {
            let rest = vector.get(at..count).unwrap_or_default();
            let moved = vectored(file, way, offset, rest)?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += moved as u64;
            at = advance(&mut vector, at, count, moved);
        }
    }
}

/// Takes `moved` bytes off the front of the entries `at..count`; returns the first that has bytes left.
fn advance(vector: &mut [libc::iovec], mut at: usize, count: usize, mut moved: usize) -> usize {
    while at < count
        && let Some(entry) = vector.get_mut(at)
    {
        if moved < entry.iov_len {
            entry.iov_base = entry.iov_base.wrapping_byte_add(moved);
            entry.iov_len -= moved;
            break;
        }
        moved -= entry.iov_len;
        at += 1;
    }
    at
}

fn vectored(file: &File, way: Way, offset: u64, vector: &[libc::iovec]) -> io::Result<usize> {
    let count = vector.len() as libc::c_int;
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: the entries come from pieces that outlive the call, and stay within them; the kernel copies, and
        // answers EFAULT for memory that is not there.
        let moved = unsafe {
            match way {
                Way::Read => libc::preadv(file.as_raw_fd(), vector.as_ptr(), count, offset),
                Way::Write => libc::pwritev(file.as_raw_fd(), vector.as_ptr(), count, offset),
            }
        };
        if let Ok(moved) = usize::try_from(moved) {
            return Ok(moved);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    if len == 0 {
        return Ok(());
    }
    loop {
        // SAFETY: plain call on a descriptor of ours.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn end_of(file: &File) -> io::Result<u64> {
    use std::io::Seek;
    let mut file = file;
    file.seek(io::SeekFrom::End(0))
}

fn cannot(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

fn media(way: Way, error: &io::Error) -> MediaError {
    match error.raw_os_error() {
        Some(libc::EFAULT) => MediaError::Host,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => MediaError::Full,
        _ if way == Way::Read => MediaError::Unreadable,
        _ => MediaError::Unwritable,
    }
}

#[cfg(test)]
mod tests;
