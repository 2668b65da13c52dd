//! Admin commands: Identify, log pages, features, and passthrough.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::{self as commands, AdminOpcode, LogRequest};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::fabrics::command::Fctype;
use doorbell_spec::feature::{Fid, Select};
use doorbell_spec::identify::{
    Cns, Csi, IdentifyNamespace, NamespaceDescriptorList, NamespaceList,
};
use doorbell_spec::log::Lid;
use doorbell_spec::register::Vs;
use doorbell_spec::status::Status;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Controller;
use super::format::Formats;
use crate::error::CommandError;
use crate::memory::{Buffer, DmaMemory};
use crate::namespace::{Namespace, NamespaceError};
use crate::queue::{Done, Invalid, Io, Queue, Reason, Rejected};
use crate::quirk::Quirks;

/// A log page as a type: its identifier and its layout.
pub trait LogPage: FromBytes {
    /// Log Page Identifier.
    const LID: Lid;
}

impl LogPage for doorbell_spec::log::SmartLog {
    const LID: Lid = Lid::SMART;
}
impl LogPage for doorbell_spec::log::FirmwareSlotLog {
    const LID: Lid = Lid::FIRMWARE_SLOT;
}
impl LogPage for doorbell_spec::log::ChangedNamespaceList {
    const LID: Lid = Lid::CHANGED_NAMESPACES;
}
impl LogPage for doorbell_spec::log::CommandEffectsLog {
    const LID: Lid = Lid::COMMAND_EFFECTS;
}
impl LogPage for doorbell_spec::log::SupportedLogPages {
    const LID: Lid = Lid::SUPPORTED_LOG_PAGES;
}
impl LogPage for doorbell_spec::log::ErrorLogEntry {
    const LID: Lid = Lid::ERROR_INFORMATION;
}

/// Runs `command`, which returns data, and copies them out of the buffer once.
pub(super) fn fetch<T: FromBytes>(
    queue: &mut Queue,
    memory: &Arc<DmaMemory>,
    command: Sqe,
) -> Result<Box<T>, CommandError> {
    let mut buffer = memory.allocate(size_of::<T>()).map_err(CommandError::Memory)?;
    // A controller that returns less must not show what the buffer held before (PIT-59).
    buffer.fill(0);
    let done = queue.run(Io::raw(command, Some(buffer)))?;
    let data = done.buffer.as_deref().unwrap_or_default();
    // The copy is what is parsed: the page may change under us (PIT-27).
    T::read_from_prefix(data)
        .map(|(value, _)| Box::new(value))
        .map_err(|_| CommandError::Short { expected: size_of::<T>(), got: data.len() })
}

impl Controller {
    /// Sends any admin command and waits for it: passthrough.
    ///
    /// The data are all of `buffer`, which comes back with the completion or with the error. Commands that would
    /// change what the driver's memory safety rests on (queue creation and deletion, Doorbell Buffer Config, the Host
    /// Memory Buffer) are refused, and so are Asynchronous Event Request, which does not end, and those that make or end
    /// an association across a network or write its properties.
    ///
    /// Format NVM, Namespace Management (but for creation) and Capacity Management are carried out while no I/O command is
    /// with the controller: whatever is in flight on its queues ends with [`Outcome::Indeterminate`] unless it had
    /// completed, the queues go on by themselves, and handles of the namespaces concerned are refused from then on.
    ///
    /// [`Outcome::Indeterminate`]: crate::Outcome::Indeterminate
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn admin(&self, command: Sqe, buffer: Option<Buffer>) -> Result<Done, CommandError> {
        self.admin_within(command, buffer, self.inner.admin_timeout)
    }

    /// [`admin`](Self::admin) with a deadline of its own, for commands that may take long: a format, a self-test.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn admin_within(
        &self,
        command: Sqe,
        buffer: Option<Buffer>,
        timeout: Duration,
    ) -> Result<Done, CommandError> {
        let io = Io::raw(command, buffer);
        if let Some(what) = reserved(&command) {
            return Err(Rejected { reason: Reason::Invalid(Invalid::Reserved { what }), io }.into());
        }
        match Formats::of(&command, self.identify().fna().fns()) {
            Formats::None => self.inner.with_admin(|admin| admin.run_within(io, timeout)),
            formats => self.inner.reformat(io, formats, timeout),
        }
    }

    fn fetch<T: FromBytes>(&self, command: Sqe) -> Result<Box<T>, CommandError> {
        self.inner.with_admin(|admin| fetch(admin, &self.inner.memory, command))
    }

    /// Identify Namespace (CNS 00h) of `nsid`, as the controller tells it now.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn identify_namespace(&self, nsid: u32) -> Result<Box<IdentifyNamespace>, CommandError> {
        self.fetch(commands::identify(Cns::NAMESPACE, nsid, 0, Csi::NVM))
    }

    /// Namespace Identification Descriptor list (CNS 03h) of `nsid`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn identify_descriptors(
        &self,
        nsid: u32,
    ) -> Result<Box<NamespaceDescriptorList>, CommandError> {
        if self.quirks().has(Quirks::NO_DESCRIPTORS) {
            return Ok(Box::new(NamespaceDescriptorList::new_zeroed()));
        }
        self.fetch(commands::identify(Cns::NAMESPACE_DESCRIPTORS, nsid, 0, Csi::NVM))
    }

    /// Identifiers of the active namespaces, ascending.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn namespace_ids(&self) -> Result<Vec<u32>, CommandError> {
        /// Namespaces listed at most: more than any controller has, fewer than a hostile one can make up.
        const MOST: usize = 1 << 16;
        if self.version() < Vs::V1_1 || self.quirks().has(Quirks::NO_LISTS) {
            // No list before 1.1: all up to NN, which is small there.
            return Ok((1..=self.identify().nn.get().min(1024)).collect());
        }
        let mut ids: Vec<u32> = Vec::new();
        while ids.len() < MOST {
            let last = ids.last().copied().unwrap_or(0);
            let list: Box<NamespaceList> =
                self.fetch(commands::identify(Cns::ACTIVE_NAMESPACES, last, 0, Csi::NVM))?;
            let before = ids.len();
            ids.extend(list.after(last).take_while(|&nsid| nsid < NSID_ALL));
            // Nothing can follow the highest identifier, and a controller refuses to be asked.
            let highest = ids.last().is_some_and(|&last| last == NSID_ALL - 1);
            if ids.len() - before < NamespaceList::CAPACITY || highest {
                break;
            }
        }
        self.inner.told_namespaces(&ids);
        Ok(ids)
    }

    /// The namespace `nsid`, ready for I/O.
    ///
    /// # Errors
    /// [`NamespaceError`]: it does not exist, or this driver cannot do I/O on its format.
    pub fn namespace(&self, nsid: u32) -> Result<Namespace, NamespaceError> {
        // Before: a change that comes between must not go unseen.
        let made = self.inner.gate.count();
        let identify = self.identify_namespace(nsid).map_err(|source| NamespaceError::Command {
            address: self.address().into(),
            nsid,
            source,
        })?;
        let mark = identify.clone();
        let namespace = Namespace::new(self.clone(), nsid, identify, made)?;
        self.inner.recovery.used(nsid, &mark);
        Ok(namespace)
    }

    /// All namespaces that I/O can be done on.
    ///
    /// # Errors
    /// [`NamespaceError`] of the list. A single namespace that cannot be used is left out; ask for it by
    /// [`namespace`](Self::namespace) to learn why.
    pub fn namespaces(&self) -> Result<Vec<Namespace>, NamespaceError> {
        let ids = self.namespace_ids().map_err(|source| NamespaceError::Command {
            address: self.address().into(),
            nsid: 0,
            source,
        })?;
        Ok(ids.into_iter().filter_map(|nsid| self.namespace(nsid).ok()).collect())
    }

    /// The log page `T` of the controller, from its start. Does not clear events that point to it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn log_page<T: LogPage>(&self) -> Result<Box<T>, CommandError> {
        let dwords_z = (size_of::<T>() / 4 - 1) as u32;
        let request = LogRequest { rae: true, ..LogRequest::new(T::LID, dwords_z) };
        self.fetch(commands::get_log_page(request))
    }

    /// The same, and the controller may report the next event that points to this page: for whoever got one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn event_page<T: LogPage>(&self) -> Result<Box<T>, CommandError> {
        let dwords_z = (size_of::<T>() / 4 - 1) as u32;
        self.fetch(commands::get_log_page(LogRequest::new(T::LID, dwords_z)))
    }

    /// The error log, newest entry first, without the entries that were never used.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn error_log(&self) -> Result<Vec<doorbell_spec::log::ErrorLogEntry>, CommandError> {
        type Entry = doorbell_spec::log::ErrorLogEntry;
        let count = usize::from(self.identify().elpe_z) + 1;
        let mut entries = vec![Entry::new_zeroed(); count];
        let bytes = entries.as_mut_bytes();
        let mut buffer = self.buffer(bytes.len()).map_err(CommandError::Memory)?;
        buffer.fill(0);
        let dwords_z = (bytes.len() / 4 - 1) as u32;
        let request = LogRequest { rae: true, ..LogRequest::new(Lid::ERROR_INFORMATION, dwords_z) };
        let done = self.admin(commands::get_log_page(request), Some(buffer))?;
        if let Some(data) = done.buffer.as_deref().and_then(|data| data.get(..bytes.len())) {
            bytes.copy_from_slice(data);
        }
        entries.retain(|entry| entry.ecnt.get() != 0);
        Ok(entries)
    }

    /// The current value of a feature: dword 0 of the completion.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn feature(&self, fid: Fid, nsid: u32, cdw11: u32) -> Result<u32, CommandError> {
        let command = commands::get_features(fid, nsid, Select::CURRENT, cdw11);
        self.admin(command, None).map(|done| done.result as u32)
    }

    /// Sets a feature that is one dword, until the next reset. Returns dword 0 of the completion.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn set_feature(&self, fid: Fid, nsid: u32, value: u32) -> Result<u32, CommandError> {
        let command = commands::set_features(fid, nsid, value, false);
        self.admin(command, None).map(|done| done.result as u32)
    }

    /// Asks the controller to abort command `cid` of queue `sqid`. True if it says that it did.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn abort(&self, sqid: u16, cid: u16) -> Result<bool, CommandError> {
        match self.admin(commands::abort(sqid, cid), None) {
            Ok(done) => Ok(done.result & 1 == 0),
            Err(error)
                if error.status().is_some_and(|status| status.is(Status::ABORT_LIMIT_EXCEEDED)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// What of `command` is the driver's own business, if anything.
fn reserved(command: &Sqe) -> Option<&'static str> {
    match AdminOpcode(command.opcode()) {
        AdminOpcode::FABRICS => match command.fctype() {
            Fctype::PROPERTY_SET => Some("Property Set"),
            Fctype::CONNECT => Some("Connect"),
            Fctype::DISCONNECT => Some("Disconnect"),
            _ => None,
        },
        AdminOpcode::DELETE_IO_SQ | AdminOpcode::CREATE_IO_SQ => {
            Some("submission queue management")
        }
        AdminOpcode::DELETE_IO_CQ | AdminOpcode::CREATE_IO_CQ => {
            Some("completion queue management")
        }
        AdminOpcode::DOORBELL_BUFFER_CONFIG => Some("Doorbell Buffer Config"),
        AdminOpcode::ASYNC_EVENT_REQUEST => Some("Asynchronous Event Request"),
        AdminOpcode::SET_FEATURES if command.cdw10 as u8 == Fid::HOST_MEMORY_BUFFER.0 => {
            Some("the Host Memory Buffer")
        }
        _ => None,
    }
}
