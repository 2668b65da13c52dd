//! What a controller that has just become ready is asked and told, in the order of INIT-11.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin as commands;
use doorbell_spec::command::Sqe;
use doorbell_spec::feature::{Fid, HostBehavior, HostIdentifier};
use doorbell_spec::identify::{Cns, Csi, IdentifyController, NvmController};
use doorbell_spec::register::{Cap, Vs};
use zerocopy::{FromZeros, IntoBytes};

use super::admin::fetch;
use super::bringup::Capabilities;
use super::event;
use super::{Config, Function, Inner, Limits, lock};
use crate::device::DeviceInfo;
use crate::error::{AttachError, CommandError};
use crate::memory::DmaMemory;
use crate::queue::{Io, Queue};
use crate::quirk::Quirks;
use crate::transport::pcie::ShadowDoorbells;
use crate::transport::tcp::Host;

/// INIT-11, INIT-12: who the controller is and what it carries, on an admin queue that works.
pub(super) fn set_up(
    admin: &mut Queue,
    memory: &Arc<DmaMemory>,
    capabilities: &Capabilities,
    wanted_queues: u16,
    address: &str,
) -> Result<(Box<IdentifyController>, Limits), AttachError> {
    let address = || address.to_owned();
    let command = |what| move |source| AttachError::Command { address: address(), what, source };
    let identify = commands::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    let identity: Box<IdentifyController> =
        fetch(admin, memory, identify).map_err(command("Identify Controller"))?;
    let (sqes, cqes) = (identity.sqes(), identity.cqes());
    // A discovery controller has no I/O queues.
    let io = identity.cntrltype != IdentifyController::CNTRLTYPE_DISCOVERY;
    if io && (sqes.0 > 6 || sqes.1 < 6 || cqes.0 > 4 || cqes.1 < 4) {
        let what = format!(
            "queue entries of 64 and 16 bytes are outside what the controller takes (SQES {sqes:?}, CQES {cqes:?})"
        );
        return Err(AttachError::Unusable { address: address(), what });
    }
    event::ask(admin, &identity).map_err(command("asking for events"))?;
    let max_transfer = bytes(identity.max_transfer(capabilities.cap.mpsmin()));
    let (max_write_zeroes, max_verify) = match io {
        true => without_data(admin, memory, capabilities, max_transfer)
            .map_err(command("Identify Controller of the NVM command set"))?,
        false => (max_transfer, max_transfer),
    };
    let max_io_queues = match wanted_queues {
        wanted @ 1.. if io => {
            number_of_queues(admin, wanted).map_err(command("Set Features, Number of Queues"))?
        }
        _ => 0,
    };
    let limits = Limits {
        max_transfer,
        max_write_zeroes,
        max_verify,
        max_queue_entries: capabilities.max_entries(),
        max_io_queues,
        page_size: 1 << capabilities.page_shift,
    };
    Ok((identity, limits))
}

/// A limit that is given as `None` where there is none.
fn bytes(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Bytes of one Write Zeroes and of one Verify. A controller that does not say takes at least what it moves.
fn without_data(
    admin: &mut Queue,
    memory: &Arc<DmaMemory>,
    capabilities: &Capabilities,
    max_transfer: usize,
) -> Result<(usize, usize), CommandError> {
    let Capabilities { cap, vs, .. } = capabilities;
    if *vs < Vs::V2_0 && cap.css() & Cap::CSS_IOCS == 0 {
        return Ok((max_transfer, max_transfer));
    }
    let identify = commands::identify(Cns::IO_CONTROLLER, 0, 0, Csi::NVM);
    match fetch::<NvmController>(admin, memory, identify) {
        Ok(page) => {
            let of = |limit| bytes(NvmController::bytes(limit, cap.mpsmin()));
            Ok((of(page.wzsl), of(page.vsl)))
        }
        Err(CommandError::Status { .. }) => Ok((max_transfer, max_transfer)),
        Err(error) => Err(error),
    }
}

/// INIT-12: asks for `wanted` (not 0) queues of each kind; returns how many there are.
fn number_of_queues(admin: &mut Queue, wanted: u16) -> Result<u16, CommandError> {
    match admin.run(Io::raw(queues_wanted(wanted), None)) {
        Ok(done) => Ok(queues_granted(done.result, wanted)),
        // A controller that has no I/O queues to give is still good for admin commands.
        Err(CommandError::Status { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The command that asks for `wanted` (not 0) queues of each kind.
pub(super) fn queues_wanted(wanted: u16) -> Sqe {
    let wanted_z = u32::from(wanted.min(u16::MAX - 1) - 1);
    commands::set_features(Fid::NUMBER_OF_QUEUES, 0, wanted_z | wanted_z << 16, false)
}

/// How many its completion grants.
pub(super) fn queues_granted(result: u64, wanted: u16) -> u16 {
    let granted = (result as u16).min((result >> 16) as u16);
    // Never more than asked for; FFFFh would wrap to none (PIT-51).
    granted.saturating_add(1).min(wanted)
}

/// What the controller means by its delays 1 to 3 (CRDT1 to CRDT3); none where it has none.
pub(super) fn retry_delays(identity: &IdentifyController) -> [Duration; 3] {
    let delays = [identity.crdt1, identity.crdt2, identity.crdt3];
    delays.map(|crdt| Duration::from_millis(100) * u32::from(crdt.get()))
}

/// What the host tells of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Introduction {
    /// Host Identifier; all zero is not told.
    pub(super) host: [u8; 16],
    /// Doorbells are to have shadows, if the controller takes them.
    pub(super) shadows: bool,
}

impl Introduction {
    pub(super) const WHAT: &'static str = "what the host tells of itself";

    /// What `config` has to say to `device`.
    pub(super) fn of(config: &Config, device: &DeviceInfo) -> Self {
        let host = config.host_id.or_else(Host::id_of_machine);
        Self { host: host.unwrap_or_default(), shadows: device.traps || config.shadow_doorbells }
    }

    /// The pages to offer the controller, which are its own until it is disabled.
    pub(super) fn shadows(
        &self,
        memory: &Arc<DmaMemory>,
        identity: &IdentifyController,
        page: usize,
        quirks: Quirks,
    ) -> Option<Arc<ShadowDoorbells>> {
        let wanted = self.shadows && !quirks.has(Quirks::NO_SHADOW_DOORBELLS);
        // Without the memory for them the registers do.
        (wanted && identity.oacs().dbcs())
            .then(|| ShadowDoorbells::allocate(memory, page).ok())
            .flatten()
    }

    /// Tells `identity` how its host behaves, where doorbells have `shadows`, and who its host is. Nothing depends on it, so
    /// a controller may refuse any of it: true if there are shadow doorbells.
    pub(super) fn tell(
        &self,
        admin: &mut Queue,
        memory: &Arc<DmaMemory>,
        identity: &IdentifyController,
        shadows: Option<&ShadowDoorbells>,
    ) -> Result<bool, CommandError> {
        enable_retry_delays(admin, memory, identity)?;
        let shadowed = match shadows.map(ShadowDoorbells::iovas) {
            Some((values, events)) => {
                let command = commands::doorbell_buffer_config().with_prp(values, events);
                accepted(admin.run(Io::internal(command)).map(drop))?
            }
            None => false,
        };
        let exhid = identity.ctratt().hids();
        // Reservations rest on it; a controller without them need not know the feature.
        if self.host != [0; 16] && (exhid || identity.oncs().reservs()) {
            let host = self.host.get(..if exhid { 16 } else { 8 }).unwrap_or_default();
            let how = HostIdentifier::new().with_exhid(exhid).into_bits();
            let command = commands::set_features(Fid::HOST_IDENTIFIER, 0, how, false);
            hand(admin, memory, command, host)?;
        }
        Ok(shadowed)
    }
}

impl Inner {
    /// Tells the controller what a reset has made it forget.
    pub(super) fn introduce(
        &self,
        function: &Function,
        admin: &mut Queue,
        identity: &IdentifyController,
    ) -> Result<(), AttachError> {
        let Function { introduction, shadows, .. } = function;
        let quirks = self.capabilities.quirks;
        let pages = introduction.shadows(&self.memory, identity, self.limits.page_size, quirks);
        *lock(shadows) = pages.clone();
        let told = introduction.tell(admin, &self.memory, identity, pages.as_deref());
        let told = told.map_err(|source| AttachError::Command {
            address: self.address.clone(),
            what: Introduction::WHAT,
            source,
        })?;
        if !told {
            *lock(shadows) = None;
        }
        Ok(())
    }
}

/// Tells the controller that its delays are kept, without which it must not ask for any (CQ-13). If it refuses, it asks
/// for none.
pub(super) fn enable_retry_delays(
    admin: &mut Queue,
    memory: &Arc<DmaMemory>,
    identity: &IdentifyController,
) -> Result<(), CommandError> {
    match host_behavior(identity) {
        Some((command, behavior)) => hand(admin, memory, command, behavior.as_bytes()),
        None => Ok(()),
    }
}

/// The command that tells it, and its data; none for a controller without delays.
pub(super) fn host_behavior(identity: &IdentifyController) -> Option<(Sqe, HostBehavior)> {
    let mut behavior = HostBehavior::new_zeroed();
    behavior.acre = 1;
    let command = commands::set_features(Fid::HOST_BEHAVIOR, 0, 0, false);
    (identity.crdt1.get() != 0).then_some((command, behavior))
}

/// Runs `command` with `data` for the controller, which may refuse it.
fn hand(
    admin: &mut Queue,
    memory: &Arc<DmaMemory>,
    command: Sqe,
    data: &[u8],
) -> Result<(), CommandError> {
    // A page, so that no controller finds anything else behind the data.
    let mut buffer = memory.allocate(4096).map_err(CommandError::Memory)?;
    buffer.fill(0);
    for (to, from) in buffer.iter_mut().zip(data) {
        *to = *from;
    }
    accepted(admin.run(Io::raw(command, Some(buffer))).map(drop)).map(drop)
}

/// Whether the controller did not refuse.
fn accepted(result: Result<(), CommandError>) -> Result<bool, CommandError> {
    match result {
        Ok(()) => Ok(true),
        Err(CommandError::Status { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
