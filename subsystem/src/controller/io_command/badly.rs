//! Reads and writes that move too little, or the wrong data, and report success.

use doorbell_spec::command::Sqe;
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::status::Status;

use super::{Data, Io, give, namespace, take};
use crate::fault::act::DataFault;
use crate::memory::HostBytes;

impl<D: Data> Io<'_, D> {
    /// Carries out one command, with `fault` in its data if it is a read or a write.
    pub(crate) fn execute_badly(&mut self, sqe: &Sqe, fault: &DataFault) -> Status {
        let opcode = NvmOpcode(sqe.opcode());
        let len = match namespace(self.slots, sqe.nsid).and_then(|name| self.transfer(name, sqe)) {
            Ok((_, len)) if matches!(opcode, NvmOpcode::READ | NvmOpcode::WRITE) => len,
            _ => return self.execute(sqe),
        };
        let before = self.target(opcode, sqe, len);
        let status = self.execute(sqe);
        if !status.is_success() {
            return status;
        }
        let result = before.and_then(|before| {
            let mut data = self.target(opcode, sqe, len)?;
            spoil(&mut data, &before, fault);
            self.overwrite(opcode, sqe, &mut data)
        });
        result.err().unwrap_or(status)
    }

    /// What stands where the command puts its data: in the host's memory or on the medium.
    fn target(&mut self, opcode: NvmOpcode, sqe: &Sqe, len: usize) -> Result<Vec<u8>, Status> {
        let mut data = vec![0; len];
        if opcode == NvmOpcode::READ {
            self.data.with(sqe, len, |pieces| take(pieces, &mut data))?;
        } else {
            let namespace = namespace(self.slots, sqe.nsid)?;
            let (offset, _) = self.transfer(namespace, sqe)?;
            let read = namespace.backend().read(offset, &[HostBytes::of(&mut data)]);
            read.map_err(|error| self.counters.failed(error))?;
        }
        Ok(data)
    }

    fn overwrite(&mut self, opcode: NvmOpcode, sqe: &Sqe, data: &mut [u8]) -> Result<(), Status> {
        if opcode == NvmOpcode::READ {
            return self.data.with(sqe, data.len(), |pieces| give(pieces, data));
        }
        let namespace = namespace(self.slots, sqe.nsid)?;
        let (offset, _) = self.transfer(namespace, sqe)?;
        let write = namespace.backend().write(offset, &[HostBytes::of(data)]);
        write.map_err(|error| self.counters.failed(error))
    }
}

fn spoil(data: &mut [u8], before: &[u8], fault: &DataFault) {
    match fault {
        DataFault::Short(moved) => {
            for (byte, old) in data.iter_mut().zip(before).skip(*moved) {
                *byte = *old;
            }
        }
        DataFault::Corrupt(at, flip) => {
            for (byte, bits) in data.iter_mut().skip(*at).zip(flip) {
                *byte ^= bits;
            }
        }
    }
}
