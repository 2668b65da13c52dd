//! The few calls that the standard library lacks: the processor's counter, pinning, the interrupt key, holes in files.
//!
//! Called by the modules that own the purpose; nothing here keeps state but the one flag that the signal handler sets.

#![expect(unsafe_code, reason = "system calls and one instruction without a safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The processor's time stamp counter; 0 where there is none.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the counter touches no memory; every x86-64 processor has the instruction.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Binds the calling thread, which is one of the tool's own workers, to a core.
///
/// # Errors
/// What the kernel answers, above all for a core that does not exist.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    const BITS: usize = u64::BITS as usize;
    let mut mask = [0u64; 16];
    let word = mask.get_mut(core / BITS).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (core % BITS);
    // SAFETY: the mask is an array of the length passed, alive during the call; 0 names the calling thread.
    let answer = unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Nanoseconds of processor time that the calling thread has taken: its own, and the kernel's on its behalf.
pub fn thread_cpu() -> (u64, u64) {
    // SAFETY: an all-zero rusage is a valid value of that plain C structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is alive during the call, which fills it.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) } != 0 {
        return (0, 0);
    }
    let nanoseconds = |time: libc::timeval| {
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_usec.unsigned_abs() * 1000
    };
    (nanoseconds(usage.ru_utime), nanoseconds(usage.ru_stime))
}

/// From now on SIGINT and SIGTERM set the flag that [`interrupted`] reads; a second one ends the process.
pub fn catch_interrupts() {
    // SAFETY: an all-zero sigaction is a valid value of that plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the action is initialised and its handler only stores to an atomic, which a handler may do.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether the user asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// What [`clear_range`] leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// A hole: the blocks are given back.
    Hole,
    /// Zeroes.
    Zeroes,
}

impl Clear {
    /// The flags of fallocate(2).
    pub fn mode(self) -> i32 {
        match self {
            Self::Hole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Self::Zeroes => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

/// Clears a range of a file or block device.
///
/// # Errors
/// What the kernel answers.
pub fn clear_range(file: BorrowedFd<'_>, clear: Clear, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (offset.cast_signed(), len.cast_signed());
    // SAFETY: the descriptor is open for the borrow's lifetime; the call touches no memory of ours.
    let answer = unsafe { libc::fallocate(file.as_raw_fd(), clear.mode(), offset, len) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
