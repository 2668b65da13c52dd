//! The way to the drive: one trait, implemented by the driver and by two ways through the kernel.
//!
//! An engine is one queue. It owns a buffer for each I/O that can be in flight, named by a tag; every I/O has the size
//! that the engine was opened with. Engines are chosen once per run, so the hot loop is compiled for each of them.

pub mod doorbell;
pub mod io_uring;
pub mod kernel;
pub mod pread;

use std::fmt;

use ::doorbell::spec::status::Status;

use crate::workload::Operation;

/// One queue to one device.
pub trait Engine: Send {
    /// Whether [`Engine::poll`] may sleep in the kernel.
    const SLEEPS: bool;

    /// Tags are below this.
    fn depth(&self) -> u32;

    /// The buffer of a tag; empty while its I/O is in flight.
    fn buffer(&mut self, tag: u32) -> &mut [u8];

    /// Prepares an I/O on the blocks from `lba` on.
    ///
    /// # Errors
    /// Nothing was started: the queue is full for now, or lost for good.
    fn stage(&mut self, tag: u32, operation: Operation, lba: u64) -> Result<(), Refused>;

    /// Starts what was staged.
    ///
    /// # Errors
    /// The queue is lost.
    fn ring(&mut self) -> Result<(), Lost>;

    /// Takes up to `limit` completions; `wait` says that the caller has nothing else to do.
    ///
    /// # Errors
    /// The queue is lost.
    fn poll(
        &mut self,
        limit: u32,
        wait: bool,
        sink: &mut impl FnMut(u32, Code),
    ) -> Result<(), Lost>;

    /// Empty polls in a row after which, at the latest, the caller should let others have the processor.
    fn patience(&self) -> u32;

    /// Commands that are best staged before a doorbell, at most.
    fn batch(&self) -> u32 {
        u32::MAX
    }

    /// Counters for the report, by name.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Why an I/O was not staged.
#[derive(Debug)]
pub enum Refused {
    /// There is no room until something completes.
    Full,
    /// The queue will not take anything any more.
    Lost(Lost),
}

/// The queue is of no more use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost(pub String);

/// How an I/O ended: zero for success, an NVMe status, or an error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u32);

const ERRNO: u32 = 1 << 31;

impl Code {
    /// Success.
    pub const OK: Self = Self(0);
    /// The I/O had not completed when the run was given up.
    pub const UNFINISHED: Self = Self(1 << 30);

    /// An error number of the kernel.
    pub fn errno(errno: i32) -> Self {
        Self(ERRNO | errno.unsigned_abs() & (ERRNO - 1))
    }

    /// Whether the I/O succeeded.
    #[inline]
    pub fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OK => write!(f, "success"),
            Self::UNFINISHED => write!(f, "no answer before the run was given up"),
            Self(code) if code & ERRNO != 0 => {
                write!(f, "{}", std::io::Error::from_raw_os_error((code & !ERRNO) as i32))
            }
            Self(code) => write!(f, "{}", Status::from_bits(code as u16)),
        }
    }
}
