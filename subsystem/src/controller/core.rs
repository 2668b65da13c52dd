//! What a controller is, however its host reaches it: admin commands, features, logs and events.
//!
//! Owns the controller identifier and the view of the namespaces. Rings and capsules stay outside: they pass the copy
//! of a command in, with a [`Transfer`] for its data, and carry the result out.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::{AdminOpcode, FormatCdw10};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::status::Status;

use super::event::Events;
use super::feature::Features;
use super::io_command::{self, Counters};
use super::log::{ChangedNamespaces, ErrorLog};
use super::{ControllerConfig, ControllerError};
use crate::namespace::FORMATS;
use crate::subsystem::{ChangeError, Slots, Subsystem};

/// Host memory of one admin command, as its transport reaches it.
pub(crate) trait Transfer {
    /// Copies `data` to the host, followed by zeroes up to `len` bytes.
    fn give(&mut self, data: &[u8], len: usize) -> Result<(), Status>;

    /// Copies all of `data` from the host, once.
    fn take(&mut self, data: &mut [u8]) -> Result<(), Status>;
}

/// How an admin command goes on.
pub(crate) enum Outcome {
    /// It is done, with this result.
    Done(u64),
    /// It stays outstanding.
    Held,
}

/// What kind of controller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An I/O controller with rings in host memory.
    Pcie,
    /// An I/O controller that a host connected to; I/O commands carry up to `in_capsule` bytes.
    Fabrics {
        /// Bytes.
        in_capsule: u32,
    },
    /// A discovery controller.
    Discovery,
}

/// A controller without its queues.
pub(crate) struct Core {
    pub(crate) subsystem: Arc<Subsystem>,
    pub(crate) config: ControllerConfig,
    pub(crate) cntlid: u16,
    pub(crate) kind: Kind,
    pub(crate) namespaces: Slots,
    /// The subsystem's count that `namespaces` belongs to.
    generation: u64,
    pub(crate) features: Features,
    pub(crate) events: Events,
    pub(crate) errors: ErrorLog,
    pub(crate) changed: ChangedNamespaces,
    pub(crate) counters: Counters,
    /// I/O queues exist, so that their number is settled.
    pub(crate) io_queues: bool,
    /// The time, as the port has it.
    pub(crate) now: Duration,
    /// Activations of firmware that it knows of.
    activations: u64,
    /// Nothing is to be processed for so long, once the host has been told.
    pub(crate) pause: Option<Duration>,
}

impl Core {
    pub(crate) fn new(
        subsystem: Arc<Subsystem>,
        config: ControllerConfig,
        kind: Kind,
    ) -> Result<Self, ControllerError> {
        let cntlid = subsystem.enter().ok_or(ControllerError::Full)?;
        let (generation, namespaces) = subsystem.snapshot();
        let (activations, _) = subsystem.activations();
        Ok(Self {
            subsystem,
            config,
            cntlid,
            kind,
            namespaces,
            generation,
            features: Features::new(config.max_io_queues),
            events: Events::default(),
            errors: ErrorLog::default(),
            changed: ChangedNamespaces::default(),
            counters: Counters::default(),
            io_queues: false,
            now: Duration::ZERO,
            activations,
            pause: None,
        })
    }

    /// Most bytes of one transfer (MDTS).
    #[inline]
    pub(crate) fn max_bytes(&self) -> u64 {
        4096 << self.config.mdts
    }

    /// The commands that every kind of controller has in common.
    pub(crate) fn admin_command(
        &mut self,
        sqe: &Sqe,
        data: &mut dyn Transfer,
    ) -> Result<Outcome, Status> {
        let result = match AdminOpcode(sqe.opcode()) {
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(sqe, data)?,
            AdminOpcode::IDENTIFY => self.identify(sqe, data)?,
            AdminOpcode::SET_FEATURES => self.set_features(sqe, data)?,
            AdminOpcode::GET_FEATURES => self.get_features(sqe, data)?,
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                if !self.events.hold(sqe.cid()) {
                    return Err(Status::EVENT_LIMIT_EXCEEDED.with_dnr());
                }
                return Ok(Outcome::Held);
            }
            AdminOpcode::FORMAT_NVM => self.format(sqe)?,
            // On PCIe there is no timer to keep from expiring.
            AdminOpcode::KEEP_ALIVE if self.kind != Kind::Pcie => 0,
            _ => return Err(Status::INVALID_OPCODE.with_dnr()),
        };
        Ok(Outcome::Done(result))
    }

    /// Takes over the subsystem's namespaces, where they changed, and reports what is different (Base 2.1, Changed
    /// Namespace List).
    #[inline]
    pub(crate) fn refresh(&mut self) {
        if self.subsystem.generation() != self.generation {
            self.namespaces_changed();
            self.look_for_firmware();
        }
    }

    fn look_for_firmware(&mut self) {
        let (activations, pause) = self.subsystem.activations();
        if std::mem::replace(&mut self.activations, activations) != activations {
            self.pause = Some(pause);
            self.firmware_notice();
        }
    }

    /// Format NVM, of one namespace or all. The host that asks for it knows: only other controllers report the change.
    fn format(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        let invalid = || Status::INVALID_FIELD.with_dnr();
        let options = FormatCdw10::from_bits(sqe.cdw10);
        let index = usize::from(options.lbafl() | options.lbafu() << 4);
        let shift = FORMATS.get(index).ok_or(Status::INVALID_FORMAT.with_dnr())?;
        // No metadata, no protection, and no cryptographic erase, which FNA would name.
        if options.mset() || options.pi() != 0 || options.ses() > 1 || self.kind == Kind::Discovery
        {
            return Err(invalid());
        }
        self.refresh();
        let nsids: Vec<u32> = match sqe.nsid {
            NSID_ALL => {
                let active = self.namespaces.iter().zip(1u32..);
                active.filter_map(|(slot, nsid)| slot.is_some().then_some(nsid)).collect()
            }
            nsid => {
                io_command::namespace(&self.namespaces, nsid)?;
                vec![nsid]
            }
        };
        for nsid in nsids {
            self.subsystem.format(nsid, 1 << shift).map_err(|error| match error {
                ChangeError::Absent(_) => Status::INVALID_FIELD,
                ChangeError::Namespace(_) => Status::INVALID_FORMAT.with_dnr(),
                ChangeError::Erase { .. } => Status::WRITE_FAULT,
            })?;
            let slot = self.namespaces.get_mut(nsid as usize - 1);
            if let (Some(slot), now) = (slot, self.subsystem.namespace(nsid)) {
                *slot = now;
            }
        }
        Ok(0)
    }

    #[cold]
    fn namespaces_changed(&mut self) {
        let (generation, namespaces) = self.subsystem.snapshot();
        let mut changes = false;
        for (slot, (old, new)) in self.namespaces.iter().zip(&namespaces).enumerate() {
            let same = match (old, new) {
                (None, None) => true,
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                _ => false,
            };
            if !same {
                self.changed.add(slot as u32 + 1);
                changes = true;
            }
        }
        self.generation = generation;
        self.namespaces = namespaces;
        if changes {
            self.namespace_notice();
        }
    }

    /// Forgets what a Controller Reset clears (RST-1).
    pub(crate) fn forget(&mut self) {
        self.events = Events::default();
        let host = self.features.host;
        self.features = Features::new(self.config.max_io_queues);
        if self.kind != Kind::Pcie {
            // As Connect has told it, which is still in force.
            self.features.host = host;
        }
        self.changed = ChangedNamespaces::default();
        self.pause = None;
        self.io_queues = false;
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.subsystem.leave(self.cntlid);
    }
}
