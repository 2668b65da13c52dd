//! This driver's own queue, over whatever its address leads to.

use doorbell::spec::status::Status;
use doorbell::{Buffer, Done, Namespace, Queue, Reason, Rejected};

use crate::engine::{Code, Engine, Lost, Refused};
use crate::workload::Operation;

/// A queue of the driver.
pub struct Doorbell {
    queue: Queue,
    namespace: Namespace,
    /// Buffers that are not in flight, by tag; none where the workload moves no data.
    buffers: Box<[Option<Buffer>]>,
    /// Blocks of one I/O.
    blocks: u64,
    /// Software on a processor of this machine answers, perhaps on this very one.
    emulated: bool,
    /// Ringing sends a message through the kernel.
    messages: bool,
}

impl Doorbell {
    /// A queue for I/Os of `blocks` blocks, with a buffer for each I/O in flight.
    pub fn new(
        queue: Queue,
        namespace: Namespace,
        buffers: Vec<Option<Buffer>>,
        blocks: u64,
    ) -> Self {
        let address = namespace.controller().address();
        let (emulated, messages) = (!address.starts_with("pcie:"), address.starts_with("tcp:"));
        Self { queue, namespace, buffers: buffers.into_boxed_slice(), blocks, emulated, messages }
    }

    #[inline(never)]
    fn stage_other(
        &mut self,
        tag: u32,
        operation: Operation,
        lba: u64,
        buffer: Option<Buffer>,
    ) -> Result<(), Refused> {
        let namespace = &self.namespace;
        let io = match (operation, buffer) {
            (Operation::Compare, Some(buffer)) => namespace.compare(lba, buffer),
            (Operation::Trim, Some(buffer)) => {
                namespace.deallocate(&[(lba, self.blocks as u32)], buffer)
            }
            (Operation::WriteZeroes, _) => namespace.write_zeroes(lba, self.blocks),
            // Setup gives a buffer to every operation that takes one.
            (_, buffer) => {
                drop(buffer);
                namespace.flush()
            }
        };
        self.queue.stage(io.tag(tag.into())).map_err(|rejected| self.refused(tag, rejected))
    }

    #[cold]
    fn refused(&mut self, tag: u32, rejected: Rejected) -> Refused {
        let reason = rejected.reason;
        if let Some(place) = self.buffers.get_mut(tag as usize) {
            *place = rejected.io.into_buffer();
        }
        match reason {
            Reason::Full => Refused::Full,
            other => Refused::Lost(self.lost(&other)),
        }
    }

    fn lost(&self, why: &dyn std::fmt::Display) -> Lost {
        Lost(format!("{}: {why}", self.namespace.controller().address()))
    }
}

impl Code {
    fn nvme(status: Status) -> Self {
        Self(status.code().into())
    }
}

impl Engine for Doorbell {
    const SLEEPS: bool = false;

    fn depth(&self) -> u32 {
        self.buffers.len() as u32
    }

    fn buffer(&mut self, tag: u32) -> &mut [u8] {
        match self.buffers.get_mut(tag as usize) {
            Some(Some(buffer)) => buffer,
            _ => &mut [],
        }
    }

    #[inline]
    fn stage(&mut self, tag: u32, operation: Operation, lba: u64) -> Result<(), Refused> {
        let Some(place) = self.buffers.get_mut(tag as usize) else { return Err(Refused::Full) };
        // Each kind of command is staged where it is made: it goes from registers into the ring, and nowhere between.
        let staged = match (operation, place.take()) {
            (Operation::Read, Some(buffer)) => {
                self.queue.stage(self.namespace.read(lba, buffer).tag(tag.into()))
            }
            (Operation::Write, Some(buffer)) => {
                self.queue.stage(self.namespace.write(lba, buffer).tag(tag.into()))
            }
            (_, buffer) => return self.stage_other(tag, operation, lba, buffer),
        };
        staged.map_err(|rejected| self.refused(tag, rejected))
    }

    #[inline]
    fn ring(&mut self) -> Result<(), Lost> {
        self.queue.ring();
        Ok(())
    }

    #[inline]
    fn poll(&mut self, limit: u32, _: bool, sink: &mut impl FnMut(u32, Code)) -> Result<(), Lost> {
        let buffers = &mut self.buffers;
        let mut finish = |Done { tag, status, buffer, .. }: Done| {
            if let Some(place) = buffers.get_mut(tag as usize) {
                *place = buffer;
            }
            sink(tag as u32, Code::nvme(status));
        };
        let mut taken = 0;
        if limit == u32::MAX {
            taken = self.queue.poll(finish);
        } else {
            while taken < limit as usize {
                let Some(done) = self.queue.reap() else { break };
                finish(done);
                taken += 1;
            }
        }
        if taken == 0
            && let Some(violation) = self.queue.failure()
        {
            return Err(self.lost(&violation));
        }
        Ok(())
    }

    fn patience(&self) -> u32 {
        if self.emulated { 8_000 } else { 200_000 }
    }

    fn batch(&self) -> u32 {
        // A doorbell in memory costs little, and both sides then work at the same time. One across a bus costs more,
        // and a real drive has enough to do; a message costs more than several commands.
        if self.emulated && !self.messages { (self.depth() / 8).max(4) } else { u32::MAX }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = self.queue.counters();
        vec![
            ("commands", counters.commands),
            ("completions", counters.completions),
            ("doorbells", counters.doorbells),
            ("polls", counters.polls),
            ("empty_polls", counters.empty_polls),
            ("divided", counters.divided),
            ("strays", counters.strays),
            ("violations", counters.violations),
            ("lost", counters.lost),
            ("retried", counters.retried),
        ]
    }
}
