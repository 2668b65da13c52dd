//! Features: identifiers, and the values of Set Features and Get Features.
//!
//! Owns Base 2.1 "Features" and the NVM command set's. A value is command dword 11 of Set Features
//! and the completion's DW0 of Get Features, unless its item says otherwise; the values that move
//! through a buffer are data pages, in `feature/data.rs`.

use crate::open_set::open_set;
use bitfield_struct::bitfield;

mod data;
pub use data::{
    AutonomousPowerState, HostBehavior, HostMemoryAttributes, HostMemoryDescriptor, LbaRange,
    Timestamp,
};

open_set! {
    /// FID: Feature Identifier (Base 2.1 and NVM 1.1, "Feature Identifiers").
    pub struct Fid(u8): "Unknown Feature" {
        ARBITRATION = 0x01, "Arbitration";
        POWER_MANAGEMENT = 0x02, "Power Management";
        LBA_RANGE_TYPE = 0x03, "LBA Range Type";
        TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
        ERROR_RECOVERY = 0x05, "Error Recovery";
        VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
        NUMBER_OF_QUEUES = 0x07, "Number of Queues";
        INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
        INTERRUPT_VECTOR_CONFIG = 0x09, "Interrupt Vector Configuration";
        WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
        ASYNC_EVENT_CONFIG = 0x0b, "Asynchronous Event Configuration";
        AUTONOMOUS_POWER_STATES = 0x0c, "Autonomous Power State Transition";
        HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
        TIMESTAMP = 0x0e, "Timestamp";
        KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
        THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management";
        NON_OPERATIONAL_POWER_STATES = 0x11, "Non-Operational Power State Config";
        READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
        PREDICTABLE_LATENCY_CONFIG = 0x13, "Predictable Latency Mode Config";
        PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
        LBA_STATUS_ATTRIBUTES = 0x15, "LBA Status Information Attributes";
        HOST_BEHAVIOR = 0x16, "Host Behavior Support";
        SANITIZE_CONFIG = 0x17, "Sanitize Config";
        ENDURANCE_GROUP_EVENTS = 0x18, "Endurance Group Event Configuration";
        IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
        SPINUP_CONTROL = 0x1a, "Spinup Control";
        POWER_LOSS_SIGNALING = 0x1b, "Power Loss Signaling Config";
        PERFORMANCE_CHARACTERISTICS = 0x1c, "Performance Characteristics";
        FLEXIBLE_DATA_PLACEMENT = 0x1d, "Flexible Data Placement";
        DATA_PLACEMENT_EVENTS = 0x1e, "Flexible Data Placement Events";
        NAMESPACE_ADMIN_LABEL = 0x1f, "Namespace Admin Label";
        KEY_VALUE_CONFIG = 0x20, "Key Value Configuration";
        CONTROLLER_DATA_QUEUE = 0x21, "Controller Data Queue";
        EMBEDDED_MANAGEMENT_ADDRESS = 0x78, "Embedded Management Controller Address";
        HOST_MANAGEMENT_ADDRESS = 0x79, "Host Management Agent Address";
        ENHANCED_CONTROLLER_METADATA = 0x7d, "Enhanced Controller Metadata";
        CONTROLLER_METADATA = 0x7e, "Controller Metadata";
        NAMESPACE_METADATA = 0x7f, "Namespace Metadata";
        SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
        HOST_IDENTIFIER = 0x81, "Host Identifier";
        RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
        RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
        NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
        BOOT_PARTITION_PROTECTION = 0x85, "Boot Partition Write Protection Config";
    }
}

open_set! {
    /// SEL: which value of a feature Get Features asks for (Base 2.1, "Get Features command").
    pub struct Select(u8): "Unknown Selection" {
        CURRENT = 0, "Current";
        DEFAULT = 1, "Default";
        SAVED = 2, "Saved";
        CAPABILITIES = 3, "Supported Capabilities";
    }
}

/// Completion DW0 of Get Features with [`Select::CAPABILITIES`] (Base 2.1, "Get Features command").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// The value can be saved.
    pub saveable: bool,
    /// The value belongs to a namespace.
    pub namespace_specific: bool,
    /// The value can be changed.
    pub changeable: bool,
    #[bits(29)]
    __: u32,
}

/// Arbitration, FID 01h (Base 2.1, "Arbitration").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// AB: Arbitration Burst, a power of two; 7: no limit.
    #[bits(3)]
    pub ab: u8,
    #[bits(5)]
    __: u8,
    /// LPW: Low Priority Weight, minus one.
    pub lpw_z: u8,
    /// MPW: Medium Priority Weight, minus one.
    pub mpw_z: u8,
    /// HPW: High Priority Weight, minus one.
    pub hpw_z: u8,
}

/// Power Management, FID 02h (Base 2.1, "Power Management").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PowerManagement {
    /// PS: Power State.
    #[bits(5)]
    pub ps: u8,
    /// WH: Workload Hint.
    #[bits(3)]
    pub wh: u8,
    #[bits(24)]
    __: u32,
}

/// LBA Range Type, FID 03h (NVM 1.1, "LBA Range Type"). The ranges are [`LbaRange`]s in a buffer.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LbaRangeType {
    /// NUM: Number of LBA Ranges, minus one.
    #[bits(6)]
    pub num_z: u8,
    #[bits(26)]
    __: u32,
}

/// Temperature Threshold, FID 04h (Base 2.1, "Temperature Threshold").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TemperatureThreshold {
    /// TMPTH: Temperature Threshold, in kelvins.
    pub tmpth: u16,
    /// TMPSEL: Threshold Temperature Select: 0 composite, 1 to 8 a sensor, 15 all (Set only).
    #[bits(4)]
    pub tmpsel: u8,
    /// THSEL: Threshold Type Select: 0 over, 1 under.
    #[bits(2)]
    pub thsel: u8,
    /// TMPTHH: Temperature Threshold Hysteresis, in kelvins.
    #[bits(3)]
    pub tmpthh: u8,
    #[bits(7)]
    __: u8,
}

/// Error Recovery, FID 05h (NVM 1.1, "Error Recovery").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ErrorRecovery {
    /// TLER: Time Limited Error Recovery, in 100 ms; 0 no limit.
    pub tler: u16,
    /// DULBE: Deallocated or Unwritten Logical Block Error Enable.
    pub dulbe: bool,
    #[bits(15)]
    __: u16,
}

/// Volatile Write Cache, FID 06h (Base 2.1, "Volatile Write Cache").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VolatileWriteCache {
    /// WCE: Volatile Write Cache Enable.
    pub wce: bool,
    #[bits(31)]
    __: u32,
}

/// Number of Queues, FID 07h (Base 2.1, "Number of Queues"): in command dword 11 what the host
/// asks for, in the completion's DW0 what the controller grants. FFFFh is not a valid request.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// NSQR or NSQA: Number of I/O Submission Queues, minus one.
    pub nsq_z: u16,
    /// NCQR or NCQA: Number of I/O Completion Queues, minus one.
    pub ncq_z: u16,
}

/// Interrupt Coalescing, FID 08h (PCIe transport, "Interrupt Coalescing").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptCoalescing {
    /// THR: Aggregation Threshold, minus one.
    pub thr_z: u8,
    /// TIME: Aggregation Time, in 100 us; 0 no delay.
    pub time: u8,
    __: u16,
}

/// Interrupt Vector Configuration, FID 09h (PCIe transport, "Interrupt Vector Configuration").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptVectorConfig {
    /// IV: Interrupt Vector.
    pub iv: u16,
    /// CD: Coalescing Disable.
    pub cd: bool,
    #[bits(15)]
    __: u16,
}

/// Write Atomicity Normal, FID 0Ah (NVM 1.1, "Write Atomicity Normal").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteAtomicity {
    /// DN: Disable Normal: only the power fail unit is promised.
    pub dn: bool,
    #[bits(31)]
    __: u32,
}

/// Asynchronous Event Configuration, FID 0Bh (Base 2.1, "Asynchronous Event Configuration").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventConfig {
    /// SMART: which bits of the critical warning raise an event, a [`crate::log::CriticalWarning`].
    pub smart: u8,
    /// NAN: Attached Namespace Attribute Notices.
    pub nan: bool,
    /// FAN: Firmware Activation Notices.
    pub fan: bool,
    /// TLN: Telemetry Log Notices.
    pub tln: bool,
    /// ANACN: Asymmetric Namespace Access Change Notices.
    pub anacn: bool,
    /// PLEACNT: Predictable Latency Event Aggregate Log Change Notices.
    pub pleacnt: bool,
    /// LSIAN: LBA Status Information Alert Notices.
    pub lsian: bool,
    /// EGEALPCN: Endurance Group Event Aggregate Log Page Change Notices.
    pub egealpcn: bool,
    /// NNSSHDN: Normal NVM Subsystem Shutdown.
    pub nnsshdn: bool,
    /// TTHRY: Temperature Threshold Hysteresis Recovery.
    pub tthry: bool,
    /// RASSN: Reachability Association Notices.
    pub rassn: bool,
    /// RGRP0: Reachability Group Notices.
    pub rgrp0: bool,
    /// ANSAN: Allocated Namespace Attribute Notices.
    pub ansan: bool,
    #[bits(7)]
    __: u8,
    /// ZDCN: Zone Descriptor Changed Notices.
    pub zdcn: bool,
    /// PMDRLPCN: Pull Model DDC Request Log Page Change Notices.
    pub pmdrlpcn: bool,
    /// ADLPCN: AVE Discovery Log Page Change Notices.
    pub adlpcn: bool,
    /// HDLPCN: Host Discovery Log Page Change Notices.
    pub hdlpcn: bool,
    /// DLPCN: Discovery Log Page Change Notices.
    pub dlpcn: bool,
}

/// Autonomous Power State Transition, FID 0Ch (Base 2.1, "Autonomous Power State Transition"). The
/// transitions are 32 [`AutonomousPowerState`]s in a buffer.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AutonomousPowerStates {
    /// APSTE: Autonomous Power State Transition Enable.
    pub apste: bool,
    #[bits(31)]
    __: u32,
}

/// Host Memory Buffer, FID 0Dh (Base 2.1, "Host Memory Buffer"). Command dwords 12 to 15 take the
/// fields of [`HostMemoryAttributes`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostMemoryBuffer {
    /// EHM: Enable Host Memory.
    pub ehm: bool,
    /// MR: Memory Return: the memory is what the controller had before.
    pub mr: bool,
    /// HMNARE: Host Memory Non-operational Access Restriction Enable.
    pub hmnare: bool,
    #[bits(29)]
    __: u32,
}

/// Host Controlled Thermal Management, FID 10h (Base 2.1, "Host Controlled Thermal Management").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ThermalManagement {
    /// TMT2: Thermal Management Temperature 2, in kelvins: slow down whatever it costs.
    pub tmt2: u16,
    /// TMT1: Thermal Management Temperature 1, in kelvins: slow down gently.
    pub tmt1: u16,
}

/// Host Identifier, FID 81h (Base 2.1, "Host Identifier"). The identifier is in a buffer: 8 bytes,
/// or 16 with EXHID.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostIdentifier {
    /// EXHID: Enable Extended Host Identifier.
    pub exhid: bool,
    #[bits(31)]
    __: u32,
}

/// Namespace Write Protection Config, FID 84h (Base 2.1, "Namespace Write Protection Config").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteProtection {
    /// WPS: Write Protection State: 0 none, 1 protected, 2 until power cycle, 3 for good.
    #[bits(3)]
    pub wps: u8,
    #[bits(29)]
    __: u32,
}

#[cfg(test)]
mod tests;
