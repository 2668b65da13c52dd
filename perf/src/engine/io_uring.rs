//! The kernel's fastest general way: io_uring with a registered file and registered buffers.
//!
//! A buffer whose I/O is in flight belongs to the kernel: it is not handed out, and the memory outlives the ring's work.

#![expect(unsafe_code, reason = "entries of io_uring name memory by address")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use crate::engine::kernel::{Buffers, KernelTarget};
use crate::engine::{Code, Engine, Lost, Refused};
use crate::sys::Clear;
use crate::workload::Operation;

/// IORING_ENTER_GETEVENTS: completions that are due are delivered on the way.
const GET_EVENTS: u32 = 1;

/// A queue on a file or block device.
pub struct Uring {
    ring: IoUring,
    target: Arc<KernelTarget>,
    /// `None` once it had to be left to the kernel.
    buffers: Option<Buffers>,
    busy: Box<[bool]>,
    in_flight: u32,
    len: u32,
    registered: bool,
    iopoll: bool,
    /// Rings start disabled: the thread that enables one is the thread that may use it.
    enabled: bool,
    enters: u64,
}

impl Uring {
    /// A queue of `depth` I/Os of `len` bytes; with `iopoll` the kernel polls the drive.
    ///
    /// # Errors
    /// The kernel has no io_uring, forbids it, or lacks memory.
    pub fn new(target: Arc<KernelTarget>, depth: u32, len: u32, iopoll: bool) -> io::Result<Self> {
        let entries = depth.next_power_of_two();
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_r_disabled();
        if iopoll {
            builder.setup_iopoll();
        }
        let (ring, enabled) = match builder.build(entries) {
            // Kernels before 6.1 do not know these flags; the ring works without them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !iopoll => {
                (IoUring::new(entries)?, true)
            }
            other => (other?, false),
        };
        ring.submitter().register_files(&[target.file.as_raw_fd()])?;
        let mut buffers = Buffers::new(depth, len as usize)?;
        let pieces: Vec<libc::iovec> = (0..depth)
            .map(|tag| {
                let bytes = buffers.get(tag);
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
            })
            .collect();
        // SAFETY: the vectors name memory of `buffers`, which is unmapped only after the ring is gone (see Drop).
        let registered = unsafe { ring.submitter().register_buffers(&pieces) }.is_ok();
        Ok(Self {
            ring,
            target,
            buffers: Some(buffers),
            busy: vec![false; depth as usize].into_boxed_slice(),
            in_flight: 0,
            len,
            registered,
            iopoll,
            enabled,
            enters: 0,
        })
    }

    fn entry(&mut self, tag: u32, operation: Operation, lba: u64) -> squeue::Entry {
        let file = Fixed(0);
        let offset = lba * u64::from(self.target.block);
        let buffer = self.buffers.as_mut().map(|buffers| buffers.get(tag)).unwrap_or_default();
        let (pointer, len, index) = (buffer.as_mut_ptr(), buffer.len() as u32, tag as u16);
        let clear = |clear: Clear| {
            opcode::Fallocate::new(file, self.len.into()).offset(offset).mode(clear.mode()).build()
        };
        let entry = match operation {
            Operation::Read if self.registered => {
                opcode::ReadFixed::new(file, pointer, len, index).offset(offset).build()
            }
            Operation::Read => opcode::Read::new(file, pointer, len).offset(offset).build(),
            Operation::Write if self.registered => {
                opcode::WriteFixed::new(file, pointer, len, index).offset(offset).build()
            }
            Operation::Write => opcode::Write::new(file, pointer, len).offset(offset).build(),
            Operation::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
            Operation::Trim => clear(Clear::Hole),
            Operation::WriteZeroes => clear(Clear::Zeroes),
            // Refused before the run; the kernel would answer the same.
            Operation::Compare => opcode::Nop::new().build(),
        };
        entry.user_data(u64::from(tag) | (operation as u64) << 32)
    }

    /// Bytes that a completed operation must have moved.
    fn wanted(&self, user_data: u64) -> i32 {
        let moves = user_data >> 32 <= Operation::Write as u64;
        if moves { self.len.cast_signed() } else { 0 }
    }

    fn enter(&mut self, wait: bool) -> Result<(), Lost> {
        self.enters += 1;
        if !self.enabled {
            self.enabled = true;
            let enabled = self.ring.submitter().register_enable_rings();
            enabled.map_err(|error| self.lost("cannot enable the ring", &error))?;
        }
        let answer = if wait && !self.iopoll {
            // A bound, so that the caller looks at the time now and then.
            let bound = Timespec::from(Duration::from_millis(50));
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&bound))
        } else {
            let staged = self.ring.submission().len() as u32;
            // SAFETY: no argument is passed; the staged entries were pushed under the contract of `stage`.
            unsafe { self.ring.submitter().enter::<()>(staged, 0, GET_EVENTS, None) }
        };
        match answer {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => Ok(()),
                _ => Err(self.lost("cannot submit", &error)),
            },
        }
    }

    fn lost(&self, what: &str, error: &io::Error) -> Lost {
        Lost(format!("{}: io_uring {what}: {error}", self.target.path.display()))
    }
}

impl Engine for Uring {
    const SLEEPS: bool = true;

    fn depth(&self) -> u32 {
        self.busy.len() as u32
    }

    fn buffer(&mut self, tag: u32) -> &mut [u8] {
        match (self.busy.get(tag as usize), &mut self.buffers) {
            (Some(false), Some(buffers)) => buffers.get(tag),
            _ => &mut [],
        }
    }

    fn stage(&mut self, tag: u32, operation: Operation, lba: u64) -> Result<(), Refused> {
        if self.busy.get(tag as usize) != Some(&false) {
            return Err(Refused::Full);
        }
        let entry = self.entry(tag, operation, lba);
        // SAFETY: the buffer of the tag is marked busy below and is neither handed out nor unmapped until the
        // completion has been taken; file and registration live as long as the ring.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Refused::Full)?;
        if let Some(busy) = self.busy.get_mut(tag as usize) {
            *busy = true;
        }
        self.in_flight += 1;
        Ok(())
    }

    fn ring(&mut self) -> Result<(), Lost> {
        self.enter(false)
    }

    fn poll(
        &mut self,
        limit: u32,
        wait: bool,
        sink: &mut impl FnMut(u32, Code),
    ) -> Result<(), Lost> {
        if self.ring.completion().is_empty() && self.in_flight > 0 {
            self.enter(wait)?;
        }
        let mut taken = 0;
        while taken < limit {
            let Some(completion) = self.ring.completion().next() else { break };
            let (tag, result) = (completion.user_data() as u32, completion.result());
            let code = match result {
                negative if negative < 0 => Code::errno(-negative),
                moved if moved < self.wanted(completion.user_data()) => Code::errno(libc::EIO),
                _ => Code::OK,
            };
            if let Some(busy) = self.busy.get_mut(tag as usize) {
                *busy = false;
            }
            self.in_flight -= 1;
            taken += 1;
            sink(tag, code);
        }
        Ok(())
    }

    fn patience(&self) -> u32 {
        1000
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("system_calls", self.enters)]
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.in_flight > 0 && Instant::now() < deadline {
            if self.poll(u32::MAX, true, &mut |_, _| ()).is_err() {
                break;
            }
        }
        if self.in_flight > 0 {
            // The kernel may still write there: the memory is left to it for good.
            std::mem::forget(self.buffers.take());
        }
    }
}
