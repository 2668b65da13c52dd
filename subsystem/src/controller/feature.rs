//! Features: what Set Features changes and Get Features tells.
//!
//! Nothing can be saved: every value is the default again after a reset.

use std::time::Duration;

use doorbell_spec::admin::{GetFeaturesCdw10, SetFeaturesCdw10};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::feature::{
    Arbitration, AsyncEventConfig, Capabilities, ErrorRecovery, Fid, HostBehavior, HostIdentifier,
    InterruptVectorConfig, NumberOfQueues, PowerManagement, Select, TemperatureThreshold,
    Timestamp, VolatileWriteCache,
};
use doorbell_spec::log::CriticalWarning;
use doorbell_spec::status::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::core::{Core, Kind, Transfer};
use super::io_command;

/// Composite temperature, in kelvins: that of a drive with nothing to heat it.
pub(crate) const KELVIN: u16 = 313;
/// WCTEMP.
pub(crate) const WARNING_KELVIN: u16 = 343;
/// CCTEMP.
pub(crate) const CRITICAL_KELVIN: u16 = 353;

/// Features of the controller.
const OF_CONTROLLER: [Fid; 14] = [
    Fid::ARBITRATION,
    Fid::POWER_MANAGEMENT,
    Fid::TEMPERATURE_THRESHOLD,
    Fid::VOLATILE_WRITE_CACHE,
    Fid::NUMBER_OF_QUEUES,
    Fid::INTERRUPT_COALESCING,
    Fid::INTERRUPT_VECTOR_CONFIG,
    Fid::WRITE_ATOMICITY,
    Fid::ASYNC_EVENT_CONFIG,
    Fid::TIMESTAMP,
    Fid::KEEP_ALIVE_TIMER,
    Fid::HOST_BEHAVIOR,
    Fid::IO_COMMAND_SET_PROFILE,
    Fid::HOST_IDENTIFIER,
];
/// Features that belong to a namespace.
const OF_NAMESPACE: [Fid; 1] = [Fid::ERROR_RECOVERY];

/// The values.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    arbitration: u32,
    over: u16,
    under: u16,
    recovery: Vec<(u32, u32)>,
    pub(crate) write_cache: bool,
    granted: NumberOfQueues,
    coalescing: u32,
    /// Vectors whose interrupts are not coalesced.
    immediate: Vec<u16>,
    atomicity: u32,
    pub(crate) events: AsyncEventConfig,
    /// Milliseconds, when they were set, and whether a host did.
    timestamp: (u64, Duration, bool),
    behavior: HostBehavior,
    /// Keep Alive Timeout in milliseconds; 0 is off.
    pub(crate) kato: u32,
    /// Host Identifier; 0 until a host has said who it is.
    pub(crate) host: [u8; 16],
}

impl Features {
    pub(crate) fn new(max_io_queues: u16) -> Self {
        let most = max_io_queues.saturating_sub(1);
        Self {
            arbitration: Arbitration::new().with_ab(5).into_bits(),
            over: WARNING_KELVIN,
            under: 0,
            recovery: Vec::new(),
            write_cache: true,
            granted: NumberOfQueues::new().with_nsq_z(most).with_ncq_z(most),
            coalescing: 0,
            immediate: Vec::new(),
            atomicity: 0,
            events: AsyncEventConfig::new(),
            timestamp: (0, Duration::ZERO, false),
            behavior: HostBehavior::new_zeroed(),
            kato: 0,
            host: [0; 16],
        }
    }

    /// The highest identifier of an I/O submission queue.
    pub(crate) fn granted_submissions(&self) -> u16 {
        self.granted.nsq_z().saturating_add(1)
    }

    /// The highest identifier of an I/O completion queue.
    pub(crate) fn granted_completions(&self) -> u16 {
        self.granted.ncq_z().saturating_add(1)
    }

    /// Whether the temperature is past a threshold.
    pub(crate) fn too_hot_or_cold(&self) -> bool {
        KELVIN >= self.over || KELVIN <= self.under
    }

    fn recovery(&self, nsid: u32) -> u32 {
        self.recovery.iter().find(|(id, _)| *id == nsid).map_or(0, |(_, value)| *value)
    }
}

fn invalid() -> Status {
    Status::INVALID_FIELD.with_dnr()
}

/// The features that a kind of controller supports, and whether they belong to a namespace.
pub(crate) fn supported(kind: Kind) -> impl Iterator<Item = (Fid, bool)> {
    let controllers = OF_CONTROLLER.into_iter().map(|fid| (fid, false));
    let all = controllers.chain(OF_NAMESPACE.into_iter().map(|fid| (fid, true)));
    all.filter(move |(fid, _)| match kind {
        Kind::Pcie => true,
        Kind::Fabrics { .. } => {
            !matches!(*fid, Fid::INTERRUPT_COALESCING | Fid::INTERRUPT_VECTOR_CONFIG)
        }
        Kind::Discovery => matches!(*fid, Fid::ASYNC_EVENT_CONFIG | Fid::KEEP_ALIVE_TIMER),
    })
}

fn capabilities(kind: Kind, fid: Fid) -> Option<Capabilities> {
    let (_, of_namespace) = supported(kind).find(|(supported, _)| *supported == fid)?;
    Some(Capabilities::new().with_changeable(true).with_namespace_specific(of_namespace))
}

impl Core {
    pub(super) fn set_features(
        &mut self,
        sqe: &Sqe,
        data: &mut dyn Transfer,
    ) -> Result<u64, Status> {
        let selection = SetFeaturesCdw10::from_bits(sqe.cdw10);
        let fid = Fid(selection.fid());
        let capabilities = capabilities(self.kind, fid).ok_or_else(invalid)?;
        if selection.sv() {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        if !capabilities.namespace_specific() && !matches!(sqe.nsid, 0 | NSID_ALL) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.with_dnr());
        }
        let value = sqe.cdw11;
        match fid {
            Fid::ARBITRATION => self.features.arbitration = value,
            // One power state, 0.
            Fid::POWER_MANAGEMENT if PowerManagement::from_bits(value).ps() != 0 => {
                return Err(invalid());
            }
            Fid::TEMPERATURE_THRESHOLD => self.set_threshold(value)?,
            Fid::ERROR_RECOVERY => self.set_recovery(sqe.nsid, value)?,
            Fid::VOLATILE_WRITE_CACHE => self.set_write_cache(value)?,
            Fid::NUMBER_OF_QUEUES => return self.set_queues(value),
            Fid::INTERRUPT_COALESCING => self.features.coalescing = value & 0xffff,
            Fid::INTERRUPT_VECTOR_CONFIG => self.set_vector(value)?,
            Fid::WRITE_ATOMICITY => self.features.atomicity = value & 1,
            Fid::ASYNC_EVENT_CONFIG => self.features.events = AsyncEventConfig::from_bits(value),
            Fid::TIMESTAMP => {
                let mut timestamp = Timestamp::new_zeroed();
                data.take(timestamp.as_mut_bytes())?;
                self.features.timestamp = (timestamp.millis(), self.now, true);
            }
            // On PCIe there is no timer, so it can only be off.
            Fid::KEEP_ALIVE_TIMER if value != 0 && self.kind == Kind::Pcie => {
                return Err(Status::INVALID_KEEP_ALIVE.with_dnr());
            }
            Fid::KEEP_ALIVE_TIMER => self.features.kato = value,
            Fid::HOST_BEHAVIOR => {
                let mut behavior = HostBehavior::new_zeroed();
                data.take(behavior.as_mut_bytes())?;
                if behavior.acre > 1 || behavior.lbafee > 1 {
                    return Err(invalid());
                }
                self.features.behavior = behavior;
            }
            Fid::IO_COMMAND_SET_PROFILE if value & 0x1ff != 0 => {
                return Err(Status::IO_COMMAND_SETS_REJECTED.with_dnr());
            }
            Fid::HOST_IDENTIFIER => self.set_host(HostIdentifier::from_bits(value), data)?,
            _ => {}
        }
        Ok(0)
    }

    fn set_threshold(&mut self, value: u32) -> Result<(), Status> {
        let threshold = TemperatureThreshold::from_bits(value);
        // The composite temperature, or all sensors, of which there is none other.
        if !matches!(threshold.tmpsel(), 0 | 0xf) {
            return Err(invalid());
        }
        match threshold.thsel() {
            0 => self.features.over = threshold.tmpth(),
            1 => self.features.under = threshold.tmpth(),
            _ => return Err(invalid()),
        }
        let reported = CriticalWarning::from_bits(self.features.events.smart());
        if self.features.too_hot_or_cold() && reported.ttc() {
            self.temperature_event();
        }
        Ok(())
    }

    fn set_recovery(&mut self, nsid: u32, value: u32) -> Result<(), Status> {
        if ErrorRecovery::from_bits(value).dulbe() {
            // No namespace knows which blocks were never written.
            return Err(invalid());
        }
        if nsid != NSID_ALL {
            io_command::namespace(&self.namespaces, nsid)?;
        }
        let ids = (1u32..).zip(&self.namespaces).filter(|(_, slot)| slot.is_some());
        let all: Vec<_> =
            ids.map(|(id, _)| id).filter(|id| nsid == NSID_ALL || *id == nsid).collect();
        self.features.recovery.retain(|(id, _)| !all.contains(id));
        self.features.recovery.extend(all.into_iter().map(|id| (id, value)));
        Ok(())
    }

    fn set_write_cache(&mut self, value: u32) -> Result<(), Status> {
        let on = VolatileWriteCache::from_bits(value).wce();
        if self.features.write_cache && !on {
            self.subsystem.flush().map_err(|_| Status::WRITE_FAULT)?;
        }
        self.features.write_cache = on;
        Ok(())
    }

    fn set_queues(&mut self, value: u32) -> Result<u64, Status> {
        if self.io_queues {
            return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let wanted = NumberOfQueues::from_bits(value);
        if wanted.nsq_z() == u16::MAX || wanted.ncq_z() == u16::MAX {
            return Err(invalid());
        }
        let most = self.config.max_io_queues.saturating_sub(1);
        let granted = NumberOfQueues::new()
            .with_nsq_z(wanted.nsq_z().min(most))
            .with_ncq_z(wanted.ncq_z().min(most));
        self.features.granted = granted;
        Ok(u64::from(granted.into_bits()))
    }

    fn set_vector(&mut self, value: u32) -> Result<(), Status> {
        let vector = InterruptVectorConfig::from_bits(value);
        if vector.iv() >= self.config.vectors {
            return Err(invalid());
        }
        self.features.immediate.retain(|iv| *iv != vector.iv());
        if vector.cd() {
            self.features.immediate.push(vector.iv());
        }
        Ok(())
    }

    /// Who the host is, it says once; over fabrics its Connect has said so already.
    fn set_host(&mut self, how: HostIdentifier, data: &mut dyn Transfer) -> Result<(), Status> {
        if self.kind != Kind::Pcie || self.features.host != [0; 16] {
            return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let mut host = [0; 16];
        data.take(host_identifier(&mut host, how))?;
        if host == [0; 16] {
            return Err(invalid());
        }
        self.features.host = host;
        Ok(())
    }

    pub(super) fn get_features(
        &mut self,
        sqe: &Sqe,
        data: &mut dyn Transfer,
    ) -> Result<u64, Status> {
        let selection = GetFeaturesCdw10::from_bits(sqe.cdw10);
        let fid = Fid(selection.fid());
        let capabilities = capabilities(self.kind, fid).ok_or_else(invalid)?;
        let defaults;
        let features = match Select(selection.sel()) {
            Select::CURRENT => &self.features,
            // Nothing is saved, so the saved value is the default.
            Select::DEFAULT | Select::SAVED => {
                defaults = Features::new(self.config.max_io_queues);
                &defaults
            }
            Select::CAPABILITIES => return Ok(u64::from(capabilities.into_bits())),
            _ => return Err(invalid()),
        };
        let value = match fid {
            Fid::ARBITRATION => features.arbitration,
            Fid::TEMPERATURE_THRESHOLD => threshold(features, sqe.cdw11)?,
            Fid::ERROR_RECOVERY => {
                if !matches!(sqe.nsid, 0 | NSID_ALL) {
                    io_command::namespace(&self.namespaces, sqe.nsid)?;
                }
                features.recovery(sqe.nsid)
            }
            Fid::VOLATILE_WRITE_CACHE => {
                VolatileWriteCache::new().with_wce(features.write_cache).into_bits()
            }
            Fid::NUMBER_OF_QUEUES => features.granted.into_bits(),
            Fid::INTERRUPT_COALESCING => features.coalescing,
            Fid::INTERRUPT_VECTOR_CONFIG => {
                let vector = InterruptVectorConfig::from_bits(sqe.cdw11);
                if vector.iv() >= self.config.vectors {
                    return Err(invalid());
                }
                vector.with_cd(features.immediate.contains(&vector.iv())).into_bits()
            }
            Fid::WRITE_ATOMICITY => features.atomicity,
            Fid::ASYNC_EVENT_CONFIG => features.events.into_bits(),
            Fid::TIMESTAMP => {
                let (millis, set, by_host) = features.timestamp;
                let passed = self.now.saturating_sub(set).as_millis() as u64;
                let mut timestamp = Timestamp::from_millis(millis.wrapping_add(passed));
                timestamp.attributes = u8::from(by_host) << 1;
                data.give(timestamp.as_bytes(), size_of::<Timestamp>())?;
                0
            }
            Fid::HOST_BEHAVIOR => {
                let behavior = features.behavior;
                data.give(behavior.as_bytes(), size_of::<HostBehavior>())?;
                0
            }
            Fid::KEEP_ALIVE_TIMER => features.kato,
            Fid::HOST_IDENTIFIER => {
                let how = HostIdentifier::from_bits(sqe.cdw11);
                if self.kind != Kind::Pcie && !how.exhid() {
                    return Err(invalid());
                }
                let mut host = features.host;
                let host = host_identifier(&mut host, how);
                data.give(host, host.len())?;
                0
            }
            // Power state 0, command set combination 0.
            _ => 0,
        };
        Ok(u64::from(value))
    }
}

/// All 16 bytes, or the 8 that a host without EXHID knows of.
fn host_identifier(host: &mut [u8; 16], how: HostIdentifier) -> &mut [u8] {
    let len = if how.exhid() { 16 } else { 8 };
    host.get_mut(..len).unwrap_or_default()
}

fn threshold(features: &Features, selection: u32) -> Result<u32, Status> {
    let threshold = TemperatureThreshold::from_bits(selection);
    let kelvin = match (threshold.tmpsel(), threshold.thsel()) {
        (0, 0) => features.over,
        (0, 1) => features.under,
        _ => return Err(invalid()),
    };
    Ok(TemperatureThreshold::new().with_tmpth(kelvin).into_bits())
}
