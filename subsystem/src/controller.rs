//! The controller: registers, queues and everything between them, without a thread and without a clock.
//!
//! A port owns it, passes on what the host does to BAR0, and calls [`Controller::poll`] over and over. Doorbells are
//! shared memory ([`DoorbellPage`]), so a poll is all it takes to notice a command. One round fetches up to 32 commands
//! of each submission queue, carries them out and posts their completions; it ends even if the host never stops
//! (TGT-3).
//!
//! ```text
//!            write CC.EN=1, settings good            write CC.SHN
//!  disabled ------------------------------> running ----------------> shut down
//!     ^  \                                   |                            |
//!     |   '-- settings bad --> CSTS.CFS <----' DMA fault on a queue       |
//!     '--------------- write CC.EN=0, or function level reset ------------'
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::command::Sqe;
use doorbell_spec::register;
use doorbell_spec::status::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::doorbells::{DoorbellMemory, DoorbellPage};
use crate::memory::{HostMemory, MapError};
use crate::subsystem::Subsystem;

mod admin;
pub(crate) mod core;
pub(crate) mod event;
mod faulty;
mod feature;
pub(crate) mod identify;
pub(crate) mod io_command;
mod log;
pub(crate) mod prp;
pub(crate) mod queue;
mod queues;
pub(crate) mod registers;

use self::core::{Core, Kind};
use admin::DoorbellBuffer;
use io_command::{BOUNCE, Io, Pieces, Prps};
use queue::Answer;
use queues::Queues;
use registers::Registers;

/// Commands of one queue in one round.
const BURST: usize = 32;
/// Completions posted together: as many as share a cache line, which the host reads while it is written.
const TOGETHER: usize = 4;
/// Rounds that found nothing before the doorbells of queues that do not exist are looked at, one a round.
const SCAN_AFTER: u32 = 16;

/// What a controller is made like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Pairs of I/O queues, at least 1.
    pub max_io_queues: u16,
    /// CAP.MQES: entries of a queue, minus one; at least 1.
    pub mqes_z: u16,
    /// MDTS: bytes of one transfer, as `4096 << mdts`; 1 to 16.
    pub mdts: u8,
    /// CAP.MPSMAX: the largest page, as `4096 << mpsmax`; at most 4.
    pub mpsmax: u8,
    /// CAP.DSTRD: bytes from one doorbell to the next, as `4 << dstrd`; at most 15.
    pub dstrd: u8,
    /// Interrupt vectors, at least 1.
    pub vectors: u16,
    /// PCI Vendor ID, which Identify repeats.
    pub vid: u16,
    /// PCI Device ID, for the port's configuration space.
    pub did: u16,
    /// What the doorbells are made of.
    pub doorbells: DoorbellMemory,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            max_io_queues: 127,
            mqes_z: 4095,
            mdts: 8,
            mpsmax: 4,
            dstrd: 0,
            vectors: 128,
            vid: 0xd00b,
            did: 0x0001,
            doorbells: DoorbellMemory::default(),
        }
    }
}

/// Why a controller could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// The subsystem has handed out every controller identifier.
    #[error("the subsystem has no controller identifier left; drop a controller first")]
    Full,
    /// A setting is outside its range.
    #[error("controller setting {name} is {value}; use {range}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u32,
        /// Values that work.
        range: &'static str,
    },
    /// There is no memory for the doorbells.
    #[error("cannot make {len} bytes of doorbells: {source}")]
    Doorbells {
        /// Bytes.
        len: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An NVMe controller.
pub struct Controller {
    pub(crate) memory: HostMemory,
    core: Core,
    registers: Registers,
    doorbells: Arc<DoorbellPage>,
    queues: Queues,
    /// Enabled, not failed, not shut down.
    running: bool,
    page_shift: u32,
    pieces: Pieces,
    bounce: Box<[u8]>,
    batch: Box<[[u64; 8]; BURST]>,
    interrupts: Vec<Option<File>>,
    /// Where the host keeps shadow doorbells, once it has said so.
    buffer: Option<DoorbellBuffer>,
    /// Misbehaviour, where it is wanted.
    faults: Option<Box<faulty::Troubled>>,
    /// End of what CSTS.PP says.
    paused_until: Duration,
    idle_rounds: u32,
    scan: usize,
}

impl Controller {
    /// A controller of `subsystem`, disabled.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn new(
        subsystem: Arc<Subsystem>,
        config: ControllerConfig,
    ) -> Result<Self, ControllerError> {
        check(&config)?;
        let len =
            register::bar_size(config.max_io_queues, config.dstrd) - register::offset::DOORBELLS;
        let doorbells = usize::try_from(len)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
            .and_then(|len| DoorbellPage::new(len, config.doorbells))
            .map_err(|source| ControllerError::Doorbells { len, source })?;
        // Every page of the largest transfer in a piece of its own, and one more where it begins within a page.
        let max_pieces = (1 << config.mdts) + 1;
        Ok(Self {
            memory: HostMemory::default(),
            core: Core::new(subsystem, config, Kind::Pcie)?,
            registers: Registers::new(config.mqes_z, config.dstrd, config.mpsmax),
            doorbells: Arc::new(doorbells),
            queues: Queues::new(config.max_io_queues),
            running: false,
            page_shift: 12,
            pieces: Pieces::new(max_pieces),
            bounce: vec![0; BOUNCE].into(),
            batch: Box::new([[0; 8]; BURST]),
            interrupts: (0..config.vectors).map(|_| None).collect(),
            buffer: None,
            faults: None,
            paused_until: Duration::ZERO,
            idle_rounds: 0,
            scan: 0,
        })
    }

    /// The settings.
    pub fn config(&self) -> &ControllerConfig {
        &self.core.config
    }

    /// The subsystem.
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.core.subsystem
    }

    /// The controller identifier.
    pub fn cntlid(&self) -> u16 {
        self.core.cntlid
    }

    /// The doorbells, from BAR0 offset 1000h on.
    pub fn doorbells(&self) -> &Arc<DoorbellPage> {
        &self.doorbells
    }

    /// Whether it takes commands: enabled, not failed, not shut down.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Takes back the mappings that make up `len` bytes at `iova`. The controller does not touch them afterwards.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] where that is no whole number of mappings; nothing is unmapped then.
    pub fn unmap(&mut self, iova: u64, len: usize) -> Result<(), MapError> {
        self.memory.unmap(iova, len)
    }

    /// Takes back every mapping, as after a host has gone.
    pub fn unmap_all(&mut self) {
        self.memory.clear();
    }

    /// Signals `eventfd` for interrupts of `vector`, or stops doing so.
    ///
    /// # Errors
    /// Where there is no such vector.
    pub fn set_interrupt(&mut self, vector: u16, eventfd: Option<OwnedFd>) -> io::Result<()> {
        let Some(slot) = self.interrupts.get_mut(usize::from(vector)) else {
            let vectors = self.core.config.vectors;
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("there is no interrupt vector {vector}; the controller has {vectors}"),
            ));
        };
        *slot = eventfd.map(File::from);
        Ok(())
    }

    /// One round over all queues at the time `now`, which only ever grows. Returns the commands taken; 0 means idle.
    pub fn poll(&mut self, now: Duration) -> usize {
        self.core.now = now;
        let mut taken = 0;
        if self.faults.is_some() {
            taken += self.poll_faults();
        }
        if !self.running {
            return taken;
        }
        self.core.refresh();
        if self.registers.csts.pp() && !self.resumes() {
            return taken;
        }
        taken += self.poll_admin();
        if self.core.pause.is_some() && self.pauses() {
            return taken;
        }
        for turn in 0..self.queues.io_submissions() {
            if !self.running {
                break;
            }
            if let Some(at) = self.queues.at_turn(turn, &self.doorbells) {
                taken += match self.faults {
                    None => self.poll_io(at),
                    Some(_) => self.poll_io_faulty(at),
                };
                self.queues.watch(at);
            }
        }
        self.queues.rotate();
        if taken == 0 {
            self.idle();
        } else {
            self.idle_rounds = 0;
        }
        if self.queues.signals {
            self.signal();
        }
        taken
    }

    /// Takes up to [`BURST`] commands of one I/O submission queue, as far as their completions have room.
    #[inline]
    fn poll_io(&mut self, at: usize) -> usize {
        let Some((submission, completions)) = self.queues.io_queue(at) else { return 0 };
        if submission.look(&self.doorbells, &self.memory).is_err() {
            self.core.bad_doorbell_value();
            return 0;
        }
        let waiting = submission.waiting().min(BURST as u32);
        if waiting == 0 {
            return 0;
        }
        let completion = completions.get_mut(usize::from(submission.cqid)).and_then(Option::as_mut);
        let Some(completion) = completion else { return 0 };
        let Ok(room) = completion.room(waiting, &self.doorbells, &self.memory) else {
            self.core.bad_doorbell_value();
            return 0;
        };
        let count = waiting.min(room) as usize;
        // All entries first: their cache misses overlap, and the host sees its ring free early.
        let mut head = submission.head;
        for slot in self.batch.iter_mut().take(count) {
            let Some(words) = submission.ring.read_entry(&self.memory, head) else {
                self.fail();
                return 0;
            };
            *slot = words;
            head = submission.next(head);
        }
        submission.head = head;
        let mut io = Io {
            data: Prps {
                memory: &self.memory,
                page_shift: self.page_shift,
                pieces: &mut self.pieces,
            },
            slots: &self.core.namespaces,
            max_bytes: self.core.max_bytes(),
            write_through: !self.core.features.write_cache,
            bounce: &mut self.bounce,
            counters: &mut self.core.counters,
        };
        let mut reachable = true;
        let batch = self.batch.get(..count).unwrap_or_default();
        for group in batch.chunks(TOGETHER).enumerate() {
            let (first, group) = (group.0 * TOGETHER, group.1);
            let mut answers = [(0, Status::SUCCESS); TOGETHER];
            for (at, (words, answer)) in group.iter().zip(&mut answers).enumerate() {
                if let Some(next) = batch.get(first + at + 1) {
                    io.prefetch(&Sqe::from_words(*next));
                }
                let sqe = Sqe::from_words(*words);
                let mut status = io.execute(&sqe);
                if !status.is_success() {
                    status = self.core.errors.record(submission.id, &sqe, status);
                }
                *answer = (sqe.cid(), status);
            }
            for &(cid, status) in answers.iter().take(group.len()) {
                let sqhd = head as u16;
                let answer = Answer { sqid: submission.id, sqhd, cid, status, result: 0 };
                reachable &= completion.post(&self.memory, &answer);
            }
        }
        self.queues.signals |= completion.vector.is_some();
        if !reachable {
            self.fail();
        }
        count
    }

    /// Nothing to do: now and then, looks for doorbells that the host rang without a queue behind them.
    fn idle(&mut self) {
        self.idle_rounds = self.idle_rounds.saturating_add(1);
        if self.idle_rounds < SCAN_AFTER {
            return;
        }
        self.scan = if self.scan + 1 < self.doorbells.len() / 4 { self.scan + 1 } else { 0 };
        if self.doorbells.load(self.scan) != 0 && !self.queues.has_doorbell(self.scan) {
            self.doorbells.store(self.scan, 0);
            self.core.bad_doorbell_register();
        }
    }

    /// Signals the vectors of the completion queues that were posted to, each once.
    fn signal(&mut self) {
        self.queues.signals = false;
        for vector in self.queues.posted_vectors() {
            if let Some(Some(eventfd)) = self.interrupts.get(usize::from(vector)) {
                // A counter at its maximum has no room. The host has not looked yet, then, and nothing is missed; but the
                // write would wait until it does, which it may never do.
                let mut room = [PollFd::new(eventfd, PollFlags::OUT)];
                let _ = poll(&mut room, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
                if room.iter().any(|it| it.revents().contains(PollFlags::OUT)) {
                    let mut eventfd: &File = eventfd;
                    // There was room just now.
                    let _ = eventfd.write(&1u64.to_ne_bytes());
                }
            }
        }
    }

    /// Begins to process nothing (CSTS.PP), where that is due and has an end; the host has been told if it listens.
    #[cold]
    fn pauses(&mut self) -> bool {
        let pause = self.core.pause.take().unwrap_or_default();
        self.paused_until = self.core.now + pause;
        self.registers.csts.set_pp(self.running && pause != Duration::ZERO);
        self.registers.csts.pp()
    }

    /// Whether the pause is over.
    #[cold]
    fn resumes(&mut self) -> bool {
        if self.core.now >= self.paused_until {
            self.registers.csts.set_pp(false);
        }
        !self.registers.csts.pp()
    }

    /// Forgets what a Controller Reset clears (RST-1).
    fn forget(&mut self) {
        self.queues.clear();
        self.core.forget();
        self.buffer = None;
        if let Some(faults) = &mut self.faults {
            faults.reset();
        }
        self.idle_rounds = 0;
        self.doorbells.clear();
    }

    /// Posts the completion of an admin command, for which there is room.
    fn complete(&mut self, cid: u16, status: Status, result: u64) {
        let Some((submission, completion)) = self.queues.admin() else { return };
        let answer = Answer { sqid: 0, sqhd: submission.head as u16, cid, status, result };
        if self.faults.is_some() {
            return self.complete_faulty(answer);
        }
        let reachable = completion.post(&self.memory, &answer);
        self.queues.signals |= completion.vector.is_some();
        if !reachable {
            self.fail();
        }
    }
}

fn check(config: &ControllerConfig) -> Result<(), ControllerError> {
    let settings: [(_, u32, _, &'static str); 6] = [
        ("max_io_queues", config.max_io_queues.into(), 1..=65534, "1 to 65534"),
        ("mqes_z", config.mqes_z.into(), 1..=65535, "1 to 65535"),
        ("mdts", config.mdts.into(), 1..=16, "1 to 16"),
        ("mpsmax", config.mpsmax.into(), 0..=4, "0 to 4"),
        ("dstrd", config.dstrd.into(), 0..=15, "0 to 15"),
        ("vectors", config.vectors.into(), 1..=2048, "1 to 2048"),
    ];
    for (name, value, allowed, range) in settings {
        if !allowed.contains(&value) {
            return Err(ControllerError::Setting { name, value, range });
        }
    }
    Ok(())
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("cntlid", &self.core.cntlid)
            .field("csts", &self.registers.csts)
            .finish_non_exhaustive()
    }
}
