//! The plainest way through the kernel: pread and pwrite, one I/O at a time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::engine::kernel::{Buffers, KernelTarget};
use crate::engine::{Code, Engine, Lost, Refused};
use crate::sys::{Clear, clear_range};
use crate::workload::Operation;

/// A queue of depth 1 on a file or block device.
#[derive(Debug)]
pub struct Pread {
    target: Arc<KernelTarget>,
    buffers: Buffers,
    pending: Option<(u32, Operation, u64)>,
}

impl Pread {
    /// A queue for I/Os of `len` bytes.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(target: Arc<KernelTarget>, len: usize) -> io::Result<Self> {
        Ok(Self { target, buffers: Buffers::new(1, len)?, pending: None })
    }

    fn execute(&mut self, tag: u32, operation: Operation, lba: u64) -> io::Result<()> {
        let file = &self.target.file;
        let offset = lba * u64::from(self.target.block);
        let buffer = self.buffers.get(tag);
        let len = buffer.len() as u64;
        match operation {
            Operation::Read => file.read_exact_at(buffer, offset),
            Operation::Write => file.write_all_at(buffer, offset),
            Operation::Flush => file.sync_data(),
            Operation::Trim => clear_range(file.as_fd(), Clear::Hole, offset, len),
            Operation::WriteZeroes => clear_range(file.as_fd(), Clear::Zeroes, offset, len),
            Operation::Compare => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }
}

impl Engine for Pread {
    const SLEEPS: bool = true;

    fn depth(&self) -> u32 {
        1
    }

    fn buffer(&mut self, tag: u32) -> &mut [u8] {
        self.buffers.get(tag)
    }

    fn stage(&mut self, tag: u32, operation: Operation, lba: u64) -> Result<(), Refused> {
        if self.pending.is_some() {
            return Err(Refused::Full);
        }
        self.pending = Some((tag, operation, lba));
        Ok(())
    }

    fn ring(&mut self) -> Result<(), Lost> {
        Ok(())
    }

    fn poll(&mut self, _: u32, _: bool, sink: &mut impl FnMut(u32, Code)) -> Result<(), Lost> {
        if let Some((tag, operation, lba)) = self.pending.take() {
            let code = match self.execute(tag, operation, lba) {
                Ok(()) => Code::OK,
                Err(error) => Code::errno(error.raw_os_error().unwrap_or(libc::EIO)),
            };
            sink(tag, code);
        }
        Ok(())
    }

    fn patience(&self) -> u32 {
        u32::MAX
    }
}
