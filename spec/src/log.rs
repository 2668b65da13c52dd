//! Log pages: identifiers and contents.
//!
//! Owns Base 2.1 "Log Page Identifiers" and the pages with identifiers 00h to 05h. All are data
//! pages: little-endian integers of alignment 1.

use crate::open_set::open_set;
use bitfield_struct::bitfield;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::completion::StatusField;
use crate::feature::Fid;
use crate::identify::Text;
use crate::status::Status;

open_set! {
    /// LID: Log Page Identifier (Base 2.1, "Get Log Page - Log Page Identifiers").
    pub struct Lid(u8): "Unknown Log Page" {
        SUPPORTED_LOG_PAGES = 0x00, "Supported Log Pages";
        ERROR_INFORMATION = 0x01, "Error Information";
        SMART = 0x02, "SMART / Health Information";
        FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
        CHANGED_NAMESPACES = 0x04, "Changed Attached Namespace List";
        COMMAND_EFFECTS = 0x05, "Commands Supported and Effects";
        SELF_TEST = 0x06, "Device Self-test";
        TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
        TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
        ENDURANCE_GROUP = 0x09, "Endurance Group Information";
        PREDICTABLE_LATENCY = 0x0a, "Predictable Latency Per NVM Set";
        PREDICTABLE_LATENCY_EVENTS = 0x0b, "Predictable Latency Event Aggregate";
        ANA = 0x0c, "Asymmetric Namespace Access";
        PERSISTENT_EVENT = 0x0d, "Persistent Event";
        LBA_STATUS = 0x0e, "LBA Status Information";
        ENDURANCE_GROUP_EVENTS = 0x0f, "Endurance Group Event Aggregate";
        MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
        CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List";
        FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
        MI_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
        LOCKDOWN = 0x14, "Command and Feature Lockdown";
        BOOT_PARTITION = 0x15, "Boot Partition";
        ROTATIONAL_MEDIA = 0x16, "Rotational Media Information";
        DISPERSED_NAMESPACE = 0x17, "Dispersed Namespace Participating NVM Subsystems";
        MANAGEMENT_ADDRESSES = 0x18, "Management Address List";
        EYE_OPENING = 0x19, "Physical Interface Receiver Eye Opening Measurement";
        REACHABILITY_GROUPS = 0x1a, "Reachability Groups";
        REACHABILITY_ASSOCIATIONS = 0x1b, "Reachability Associations";
        CHANGED_ALLOCATED_NAMESPACES = 0x1c, "Changed Allocated Namespace List";
        FDP_CONFIGURATIONS = 0x20, "FDP Configurations";
        FDP_HANDLE_USAGE = 0x21, "Reclaim Unit Handle Usage";
        FDP_STATISTICS = 0x22, "FDP Statistics";
        FDP_EVENTS = 0x23, "FDP Events";
        DISCOVERY = 0x70, "Discovery";
        HOST_DISCOVERY = 0x71, "Host Discovery";
        AVE_DISCOVERY = 0x72, "AVE Discovery";
        PULL_MODEL_REQUEST = 0x73, "Pull Model DDC Request";
        RESERVATION = 0x80, "Reservation Notification";
        SANITIZE_STATUS = 0x81, "Sanitize Status";
        CHANGED_ZONES = 0xbf, "Changed Zone List";
    }
}

/// Supported Log Pages, LID 00h, 1024 bytes (Base 2.1, "Supported Log Pages").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SupportedLogPages {
    /// One [`LidSupport`] for each log page identifier.
    pub lids: [U32; 256],
}

const _: () = assert!(size_of::<SupportedLogPages>() == 1024);

impl SupportedLogPages {
    /// What is said about one log page.
    #[must_use]
    pub const fn support(&self, lid: Lid) -> LidSupport {
        LidSupport::from_bits(self.lids[lid.0 as usize].get())
    }

    /// Says something about one log page.
    pub fn set(&mut self, lid: Lid, support: LidSupport) {
        self.lids[usize::from(lid.0)].set(support.into_bits());
    }
}

/// LID Supported and Effects Data Structure, 4 bytes (Base 2.1, "Supported Log Pages").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LidSupport {
    /// LSUPP: the log page is supported.
    pub lsupp: bool,
    /// IOS: Index Offset Supported.
    pub ios: bool,
    #[bits(14)]
    __: u16,
    /// LIDSP: LID Specific Parameter.
    pub lidsp: u16,
}

/// Error Information entry, LID 01h, 64 bytes each (Base 2.1, "Error Information Log Entry").
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// ECNT: Error Count, unique to the error; 0: the entry is empty.
    pub ecnt: U64,
    /// SQID: Submission Queue ID; FFFFh: not specific to a command.
    pub sqid: U16,
    /// CID: Command ID; FFFFh: not specific to a command.
    pub cid: U16,
    /// Status Info, phase tag included; [`ErrorLogEntry::status`] reads it.
    pub status: U16,
    /// PEL: Parameter Error Location: byte in bits 7:0, bit in bits 10:8; FFFFh: none.
    pub pel: U16,
    /// LBA: the first one that failed.
    pub lba: U64,
    /// NSID: Namespace.
    pub nsid: U32,
    /// VSIA: Vendor Specific Information Available: the log page with more, or 0.
    pub vsia: u8,
    /// TRTYPE: Transport Type.
    pub trtype: u8,
    /// CSI: Command Set Indicator.
    pub csi: u8,
    /// OPC: Opcode.
    pub opc: u8,
    /// CSINFO: Command Specific Information.
    pub csinfo: U64,
    /// TTSI: Transport Type Specific Information.
    pub ttsi: U16,
    _reserved_42: [u8; 21],
    /// LPVER: Log Page Version.
    pub lpver: u8,
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);
const _: () = assert!(offset_of!(ErrorLogEntry, lba) == 16);
const _: () = assert!(offset_of!(ErrorLogEntry, csinfo) == 32);
const _: () = assert!(offset_of!(ErrorLogEntry, lpver) == 63);

impl ErrorLogEntry {
    /// The status of the command that failed.
    #[must_use]
    pub const fn status(&self) -> Status {
        StatusField::from_bits(self.status.get()).status()
    }
}

/// SMART / Health Information, LID 02h, 512 bytes (Base 2.1, "SMART / Health Information").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// CW: Critical Warning, a [`CriticalWarning`].
    pub cw: u8,
    /// CTEMP: Composite Temperature, in kelvins.
    pub ctemp: U16,
    /// AVSP: Available Spare, in percent.
    pub avsp: u8,
    /// AVSPT: Available Spare Threshold, in percent.
    pub avspt: u8,
    /// PUSED: Percentage Used of the expected life; may pass 100, stops at 255.
    pub pused: u8,
    /// EGCWS: Endurance Group Critical Warning Summary.
    pub egcws: u8,
    _reserved_7: [u8; 25],
    /// DUR: Data Units Read, in thousands of 512 bytes.
    pub dur: U128,
    /// DUW: Data Units Written, in thousands of 512 bytes.
    pub duw: U128,
    /// HRC: Host Read Commands.
    pub hrc: U128,
    /// HWC: Host Write Commands.
    pub hwc: U128,
    /// CBT: Controller Busy Time, in minutes.
    pub cbt: U128,
    /// PWRC: Power Cycles.
    pub pwrc: U128,
    /// POH: Power On Hours.
    pub poh: U128,
    /// UPL: Unexpected Power Losses.
    pub upl: U128,
    /// MDIE: Media and Data Integrity Errors.
    pub mdie: U128,
    /// NEILE: Number of Error Information Log Entries over the controller's life.
    pub neile: U128,
    /// WCTT: Warning Composite Temperature Time, in minutes.
    pub wctt: U32,
    /// CCTT: Critical Composite Temperature Time, in minutes.
    pub cctt: U32,
    /// TSEN1 to TSEN8: Temperature Sensors, in kelvins; 0: no such sensor.
    pub tsen: [U16; 8],
    /// TMT1TC: Thermal Management Temperature 1 Transition Count.
    pub tmt1tc: U32,
    /// TMT2TC: Thermal Management Temperature 2 Transition Count.
    pub tmt2tc: U32,
    /// TTTMT1: Total Time For Thermal Management Temperature 1, in seconds.
    pub tttmt1: U32,
    /// TTTMT2: Total Time For Thermal Management Temperature 2, in seconds.
    pub tttmt2: U32,
    _reserved_232: [u8; 280],
}

const _: () = assert!(size_of::<SmartLog>() == 512);
const _: () = assert!(offset_of!(SmartLog, ctemp) == 1);
const _: () = assert!(offset_of!(SmartLog, dur) == 32);
const _: () = assert!(offset_of!(SmartLog, wctt) == 192);
const _: () = assert!(offset_of!(SmartLog, tttmt2) == 228);

impl SmartLog {
    /// CW, named bit by bit.
    #[must_use]
    pub const fn critical_warning(&self) -> CriticalWarning {
        CriticalWarning::from_bits(self.cw)
    }

    /// The composite temperature in degrees Celsius, where it is reported.
    #[must_use]
    pub const fn celsius(&self) -> Option<i32> {
        match self.ctemp.get() {
            0 => None,
            kelvins => Some(kelvins as i32 - 273),
        }
    }
}

/// Critical Warning (Base 2.1, "SMART / Health Information").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct CriticalWarning {
    /// ASCBT: the available spare is below its threshold.
    pub ascbt: bool,
    /// TTC: a temperature has crossed a threshold.
    pub ttc: bool,
    /// NDR: reliability is degraded.
    pub ndr: bool,
    /// AMRO: all media is read only.
    pub amro: bool,
    /// VMBF: the backup of volatile memory has failed.
    pub vmbf: bool,
    /// PMRRO: the persistent memory region is read only or unreliable.
    pub pmrro: bool,
    #[bits(2)]
    __: u8,
}

/// Firmware Slot Information, LID 03h, 512 bytes (Base 2.1, "Firmware Slot Information").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// AFI: Active Firmware Info: the slot in use in bits 2:0, the one after the next reset in
    /// bits 6:4 (0 none).
    pub afi: u8,
    _reserved_1: [u8; 7],
    /// FRS1 to FRS7: Firmware Revision for Slot; read them with [`FirmwareSlotLog::revision`].
    pub frs: [[u8; 8]; 7],
    _reserved_64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlotLog>() == 512);
const _: () = assert!(offset_of!(FirmwareSlotLog, frs) == 8);

impl FirmwareSlotLog {
    /// The slot whose firmware runs.
    #[must_use]
    pub const fn active_slot(&self) -> u8 {
        self.afi & 7
    }

    /// The revision in slot 1 to 7, where there is one.
    #[must_use]
    pub fn revision(&self, slot: u8) -> Option<Text<'_>> {
        let field = self.frs.get(usize::from(slot).checked_sub(1)?)?;
        Some(Text::new(field)).filter(|text| !text.is_empty())
    }
}

/// Changed Attached Namespace List, LID 04h, 4096 bytes (Base 2.1, "Changed Attached Namespace
/// List").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedNamespaceList {
    /// Up to 1024 namespaces, ended by a zero; FFFFFFFFh first: more than fit have changed.
    pub nsids: [U32; 1024],
}

const _: () = assert!(size_of::<ChangedNamespaceList>() == 4096);

impl ChangedNamespaceList {
    /// The list of these namespaces, or the mark that there are too many for a list.
    #[must_use]
    pub fn from_ids(ids: impl IntoIterator<Item = u32>) -> ChangedNamespaceList {
        let mut list = ChangedNamespaceList::new_zeroed();
        let mut ids = ids.into_iter();
        for (to, from) in list.nsids.iter_mut().zip(&mut ids) {
            to.set(from);
        }
        if ids.next().is_some() {
            list = ChangedNamespaceList::new_zeroed();
            list.nsids[0].set(u32::MAX);
        }
        list
    }

    /// Whether more namespaces have changed than the list holds: look at all of them.
    #[must_use]
    pub const fn overflowed(&self) -> bool {
        self.nsids[0].get() == u32::MAX
    }

    /// The namespaces that changed, none if the list overflowed.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let ids = self.nsids.iter().map(|nsid| nsid.get());
        ids.take_while(|&nsid| nsid != 0 && nsid != u32::MAX)
    }
}

/// Commands Supported and Effects, LID 05h, 4096 bytes (Base 2.1, "Commands Supported and
/// Effects").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandEffectsLog {
    /// ACS: Admin Command Supported, one [`CommandEffects`] for each opcode.
    pub acs: [U32; 256],
    /// IOCS: I/O Command Supported, one [`CommandEffects`] for each opcode.
    pub iocs: [U32; 256],
    _reserved_2048: [u8; 2048],
}

const _: () = assert!(size_of::<CommandEffectsLog>() == 4096);
const _: () = assert!(offset_of!(CommandEffectsLog, iocs) == 1024);

impl CommandEffectsLog {
    /// What an admin command does.
    #[must_use]
    pub const fn admin(&self, opcode: u8) -> CommandEffects {
        CommandEffects::from_bits(self.acs[opcode as usize].get())
    }

    /// What an I/O command does.
    #[must_use]
    pub const fn io(&self, opcode: u8) -> CommandEffects {
        CommandEffects::from_bits(self.iocs[opcode as usize].get())
    }

    /// Says what an admin command does.
    pub fn set_admin(&mut self, opcode: u8, effects: CommandEffects) {
        self.acs[usize::from(opcode)].set(effects.into_bits());
    }

    /// Says what an I/O command does.
    pub fn set_io(&mut self, opcode: u8, effects: CommandEffects) {
        self.iocs[usize::from(opcode)].set(effects.into_bits());
    }
}

/// Commands Supported and Effects Data Structure, 4 bytes (Base 2.1, "Commands Supported and
/// Effects").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandEffects {
    /// CSUPP: Command Supported.
    pub csupp: bool,
    /// LBCC: Logical Block Content Change.
    pub lbcc: bool,
    /// NCC: Namespace Capability Change.
    pub ncc: bool,
    /// NIC: Namespace Inventory Change.
    pub nic: bool,
    /// CCC: Controller Capability Change.
    pub ccc: bool,
    #[bits(9)]
    __: u16,
    /// CSER: Command Submission and Execution Relaxations.
    #[bits(2)]
    pub cser: u8,
    /// CSE: Command Submission and Execution: 1 alone on its namespace, 2 alone on all of them.
    #[bits(3)]
    pub cse: u8,
    /// USS: UUID Selection Supported.
    pub uss: bool,
    /// CSP: Command Scope, one bit each: namespace, controller, NVM set, endurance group, domain,
    /// NVM subsystem.
    #[bits(12)]
    pub csp: u16,
}

/// Feature Identifiers Supported and Effects, LID 12h, 1024 bytes (Base 2.1, "Feature Identifiers
/// Supported and Effects").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FeatureEffectsLog {
    /// One [`FeatureEffects`] for each feature identifier.
    pub fids: [U32; 256],
}

const _: () = assert!(size_of::<FeatureEffectsLog>() == 1024);

impl FeatureEffectsLog {
    /// What is said about one feature.
    #[must_use]
    pub const fn effects(&self, fid: Fid) -> FeatureEffects {
        FeatureEffects::from_bits(self.fids[fid.0 as usize].get())
    }

    /// Says something about one feature.
    pub fn set(&mut self, fid: Fid, effects: FeatureEffects) {
        self.fids[usize::from(fid.0)].set(effects.into_bits());
    }
}

/// FID Supported and Effects Data Structure, 4 bytes (Base 2.1, "Feature Identifiers Supported and
/// Effects").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FeatureEffects {
    /// FSUPP: the feature is supported.
    pub fsupp: bool,
    /// UDCC: User Data Content Change.
    pub udcc: bool,
    /// NCC: Namespace Capability Change.
    pub ncc: bool,
    /// NIC: Namespace Inventory Change.
    pub nic: bool,
    /// CCC: Controller Capability Change.
    pub ccc: bool,
    #[bits(14)]
    __: u16,
    /// USS: UUID Selection Supported.
    pub uss: bool,
    /// FSP: Feature Scope, one bit each: namespace, controller, NVM set, endurance group, domain,
    /// NVM subsystem.
    #[bits(12)]
    pub fsp: u16,
}

impl FeatureEffects {
    /// Bit of FSP: the feature belongs to a namespace.
    pub const FSP_NAMESPACE: u16 = 1 << 0;
    /// Bit of FSP: the feature belongs to the controller.
    pub const FSP_CONTROLLER: u16 = 1 << 1;
}

#[cfg(test)]
mod tests;
