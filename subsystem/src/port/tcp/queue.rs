//! The queue that a connection has become, and how it runs I/O commands over the connection's buffers.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::{Cdw0, Sqe};
use doorbell_spec::fabrics::header::Layout;
use doorbell_spec::fabrics::sgl::SglId;
use doorbell_spec::nvm::{self, DsmRange, NvmOpcode};
use doorbell_spec::status::Status;

use super::connection::{End, MAX_H2C_DATA};
use super::reply::Reply;
use super::shown::Shown;
use super::transfer::Transfers;
use crate::backend::MediaError;
use crate::controller::io_command::{BOUNCE, Counters, Data, Io};
use crate::fabrics::Target;
use crate::fabrics::association::{Asked, Association, Published};
use crate::fabrics::connect::Connected;
use crate::fault::act::DataFault;
use crate::memory::HostBytes;
use crate::namespace::Namespace;
use crate::subsystem::Slots;

/// The queue that a connection has become.
pub(super) struct Queue {
    target: Arc<Target>,
    pub(super) association: Arc<Association>,
    pub(super) qid: u16,
    pub(super) entries: u32,
    pub(super) flow_control: bool,
    pub(super) head: u16,
    /// The enabling that an I/O queue belongs to.
    epoch: u32,
    namespaces: Slots,
    generation: u64,
    counters: Counters,
    published: Option<Arc<Published>>,
    bounce: Vec<u8>,
    max_bytes: u64,
    pub(super) transfers: Transfers,
    /// Data that is being sent.
    pub(super) reply: Option<Reply>,
    /// Reads that are being sent from where their blocks are stored.
    pub(super) shown: Shown,
    /// Of the admin queue: Aborts whose answer is still to come, by their identifiers.
    pub(super) aborts: Vec<(u16, Arc<Asked>)>,
}

/// The bytes of a command in one of the connection's buffers.
pub(super) struct Bytes<'a>(&'a mut [u8]);

impl Data for Bytes<'_> {
    #[inline]
    fn check_form(&self, sqe: &Sqe) -> Result<(), Status> {
        if sqe.cdw0.fuse() == 0 { Ok(()) } else { Err(Status::INVALID_FIELD.with_dnr()) }
    }

    #[inline]
    fn with<R>(
        &mut self,
        sqe: &Sqe,
        len: usize,
        f: impl FnOnce(&[HostBytes<'_>]) -> R,
    ) -> Result<R, Status> {
        if !suits(sqe, self.0.len() as u64, len as u64) {
            return Err(Status::INVALID_DATA_SGL_LENGTH.with_dnr());
        }
        Ok(f(&[HostBytes::of(self.0.get_mut(..len).unwrap_or_default())]))
    }
}

/// Whether a command whose fields ask for `len` bytes of data may come with `given`: with as many. Linux sends 256 ranges
/// to Dataset Management, however many of them count.
pub(super) fn suits(sqe: &Sqe, given: u64, len: u64) -> bool {
    const RANGES: u64 = 256 * size_of::<DsmRange>() as u64;
    let ranges = sqe.opcode() == NvmOpcode::DATASET_MANAGEMENT.0;
    given == len || ranges && (len..=RANGES).contains(&given)
}

/// Whether the data pointer is an SGL descriptor of this kind.
pub(super) fn check_pointer(sqe: &Sqe, id: SglId) -> Result<(), Status> {
    if sqe.cdw0.psdt() != Cdw0::PSDT_SGL {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if sqe.sgl().id != id {
        return Err(Status::INVALID_SGL_TYPE.with_dnr());
    }
    Ok(())
}

/// Where the data of a command from the host is.
pub(super) enum Source {
    /// In the capsule, from this byte of its data on.
    Capsule(usize, usize),
    /// Still with the host.
    Host(u32),
}

pub(super) fn source(sqe: &Sqe, layout: &Layout) -> Result<Source, Status> {
    let sgl = sqe.sgl();
    if sgl.id == SglId::TRANSPORT {
        check_pointer(sqe, SglId::TRANSPORT)?;
        return Ok(Source::Host(sgl.length));
    }
    check_pointer(sqe, SglId::IN_CAPSULE)?;
    let Some(left) = u64::from(layout.data).checked_sub(sgl.address) else {
        return Err(Status::INVALID_SGL_OFFSET.with_dnr());
    };
    if u64::from(sgl.length) > left {
        return Err(Status::INVALID_DATA_SGL_LENGTH.with_dnr());
    }
    Ok(Source::Capsule(sgl.address as usize, sgl.length as usize))
}

/// The namespace that a command is for, if it is there.
#[inline]
fn named<'a>(slots: &'a Slots, sqe: &Sqe) -> Option<&'a Arc<Namespace>> {
    slots.get((sqe.nsid as usize).wrapping_sub(1))?.as_ref()
}

impl Queue {
    pub(super) fn new(target: &Arc<Target>, connected: Connected, maxr2t_z: u32) -> Self {
        let subsystem = target.subsystem();
        let (generation, namespaces) = subsystem.snapshot();
        let association = connected.association;
        Self {
            epoch: association.epoch(),
            transfers: Transfers::new(connected.entries as usize, maxr2t_z, MAX_H2C_DATA),
            namespaces,
            generation,
            counters: Counters::default(),
            published: connected.published,
            bounce: Vec::new(),
            max_bytes: 4096 << target.limits().mdts.clamp(1, 16),
            target: Arc::clone(target),
            association,
            qid: connected.qid,
            entries: connected.entries,
            flow_control: connected.flow_control,
            head: 0,
            reply: None,
            shown: Shown::default(),
            aborts: Vec::new(),
        }
    }

    /// Whether the queue is still one; takes over what changed elsewhere.
    pub(super) fn attend(&mut self) -> Result<(), End> {
        if let Some(published) = &self.published {
            published.begin();
        }
        if self.association.is_ended() {
            return Err(End::Dissociated);
        }
        if self.qid != 0 {
            if self.association.epoch() != self.epoch {
                return Err(End::Reset);
            }
            let subsystem = self.target.subsystem();
            if subsystem.generation() != self.generation {
                (self.generation, self.namespaces) = subsystem.snapshot();
            }
        }
        Ok(())
    }

    /// No commands are carried out until [`Queue::attend`] is called again. Some were, if `heard`.
    pub(super) fn rest(&mut self, now: Duration, heard: bool) {
        if heard {
            self.association.hear(now);
        }
        if let Some(published) = &self.published {
            published.finish(&self.counters);
        }
    }

    /// The Aborts of its commands, if it is an I/O queue.
    pub(super) fn take_aborts(&self) -> Vec<Arc<Asked>> {
        self.published.as_ref().map(|published| published.take_aborts()).unwrap_or_default()
    }

    /// Takes note of a capsule; SQHD moves on.
    #[inline]
    pub(super) fn fetched(&mut self) {
        if self.flow_control {
            let next = u32::from(self.head) + 1;
            self.head = if next == self.entries { 0 } else { next as u16 };
        }
    }

    #[inline]
    pub(super) fn io<'a>(
        &'a mut self,
        sqe: &Sqe,
        bytes: &'a mut [u8],
        write_through: bool,
    ) -> Io<'a, Bytes<'a>> {
        let opcode = NvmOpcode(sqe.opcode());
        if self.bounce.is_empty() && matches!(opcode, NvmOpcode::COMPARE | NvmOpcode::VERIFY) {
            self.bounce = vec![0; BOUNCE];
        }
        Io {
            data: Bytes(bytes),
            slots: &self.namespaces,
            max_bytes: self.max_bytes,
            write_through,
            bounce: &mut self.bounce,
            counters: &mut self.counters,
        }
    }

    /// Carries out a command over all of its data.
    #[inline]
    pub(super) fn execute(&mut self, sqe: &Sqe, bytes: &mut [u8]) -> Status {
        let write_through = self.association.write_through();
        self.io(sqe, bytes, write_through).execute(sqe)
    }

    /// Carries out the part of a command that begins at the byte `at` of its data. It counts as the same command, and is
    /// made durable with the last part ([`Queue::seal`]).
    pub(super) fn execute_part(
        &mut self,
        sqe: &Sqe,
        at: u64,
        block: u32,
        bytes: &mut [u8],
    ) -> Status {
        self.execute_part_badly(sqe, at, block, bytes, None)
    }

    /// The same with a fault in the data of this part.
    pub(super) fn execute_part_badly(
        &mut self,
        sqe: &Sqe,
        at: u64,
        block: u32,
        bytes: &mut [u8],
        fault: Option<&DataFault>,
    ) -> Status {
        let blocks = bytes.len() as u64 / u64::from(block);
        let part = sqe
            .with_slba(sqe.slba().wrapping_add(at / u64::from(block)))
            .with_nlb_z(blocks.saturating_sub(1) as u16);
        let part = Sqe { cdw12: part.cdw12 & !(1 << 30), ..part };
        let (reads, writes) = (self.counters.reads, self.counters.writes);
        let mut io = self.io(&part, bytes, false);
        let status = match fault {
            None => io.execute(&part),
            Some(fault) => io.execute_badly(&part, fault),
        };
        if at != 0 {
            (self.counters.reads, self.counters.writes) = (reads, writes);
        }
        status
    }

    /// Bytes of a read, and of a block; where its data pointer asks for as many.
    #[inline]
    pub(super) fn read_span(&mut self, sqe: &Sqe) -> Result<(u64, u32), Status> {
        check_pointer(sqe, SglId::TRANSPORT)?;
        let (len, block) = self.io(sqe, &mut [], false).span(sqe)?;
        let fits = u64::from(sqe.sgl().length) == len;
        fits.then_some((len, block)).ok_or(Status::INVALID_DATA_SGL_LENGTH.with_dnr())
    }

    /// Takes a read whose data are shown, with those that wait already; false where they are not, or where something is
    /// wrong with it.
    #[inline]
    pub(super) fn show(&mut self, sqe: &Sqe, len: u32) -> bool {
        let Some(namespace) = named(&self.namespaces, sqe) else { return false };
        if !namespace.properties().shows || !self.shown.takes(namespace) {
            return false;
        }
        let Ok(offset) = self.io(sqe, &mut [], false).begin_read(sqe) else { return false };
        let Some(namespace) = named(&self.namespaces, sqe) else { return false };
        self.shown.push(namespace, *sqe, offset, len);
        true
    }

    /// The status of a read whose data cannot be shown after all.
    #[cold]
    pub(super) fn unreadable(&mut self, error: MediaError) -> Status {
        self.counters.failed(error)
    }

    /// Makes a write durable that was carried out in parts, if it has to be.
    pub(super) fn seal(&mut self, sqe: &Sqe) -> Status {
        let wanted = sqe.io_cdw12().fua() || self.association.write_through();
        if sqe.opcode() != NvmOpcode::WRITE.0 || !wanted {
            return Status::SUCCESS;
        }
        let flush = nvm::flush(sqe.nsid);
        self.io(&flush, &mut [], false).execute(&flush)
    }

    /// Bytes of data that a command takes from the host, and bytes of a block where it takes it block for block.
    pub(super) fn expected(&mut self, sqe: &Sqe) -> Result<(u64, Option<u32>), Status> {
        if sqe.opcode() == NvmOpcode::DATASET_MANAGEMENT.0 {
            return Ok((((u64::from(sqe.cdw10) & 0xff) + 1) * 16, None));
        }
        let (len, block) = self.io(sqe, &mut [], false).span(sqe)?;
        Ok((len, Some(block)))
    }

    pub(super) fn block(&self, sqe: &Sqe) -> u32 {
        // A namespace that is gone fails the command before the size of its blocks counts.
        named(&self.namespaces, sqe).map_or(512, |namespace| namespace.block_size())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.qid == 0 {
            self.target.dissociate(&self.association);
        } else {
            if let Some(published) = &self.published {
                published.finish(&self.counters);
            }
            self.association.close_queue(self.qid);
            // Nobody asks from here on; who did gets an answer.
            let aborts = self.take_aborts();
            aborts.iter().for_each(|asked| asked.answer(false));
        }
    }
}
