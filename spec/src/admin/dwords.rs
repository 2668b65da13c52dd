//! Command dwords of the admin commands, one type per figure (Base 2.1, "Admin Command Set").

use crate::open_set::open_set;
use bitfield_struct::bitfield;

/// Command Dword 10 of Create I/O Submission Queue and Create I/O Completion Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateQueueCdw10 {
    /// QID: Queue Identifier.
    pub qid: u16,
    /// QSIZE: Queue Size, minus one.
    pub qsize_z: u16,
}

/// Command Dword 11 of Create I/O Completion Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateCqCdw11 {
    /// PC: Physically Contiguous: PRP1 is the queue's address, not a list of its pages.
    pub pc: bool,
    /// IEN: Interrupts Enabled.
    pub ien: bool,
    #[bits(14)]
    __: u16,
    /// IV: Interrupt Vector.
    pub iv: u16,
}

/// Command Dword 11 of Create I/O Submission Queue.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateSqCdw11 {
    /// PC: Physically Contiguous: PRP1 is the queue's address, not a list of its pages.
    pub pc: bool,
    /// QPRIO: Queue Priority, one of the `QPRIO_` constants.
    #[bits(2)]
    pub qprio: u8,
    #[bits(13)]
    __: u16,
    /// CQID: Completion Queue Identifier.
    pub cqid: u16,
}

impl CreateSqCdw11 {
    /// QPRIO: urgent.
    pub const QPRIO_URGENT: u8 = 0;
    /// QPRIO: high.
    pub const QPRIO_HIGH: u8 = 1;
    /// QPRIO: medium.
    pub const QPRIO_MEDIUM: u8 = 2;
    /// QPRIO: low.
    pub const QPRIO_LOW: u8 = 3;
}

/// Command Dword 10 of Identify.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw10 {
    /// CNS: Controller or Namespace Structure, a [`crate::identify::Cns`].
    pub cns: u8,
    __: u8,
    /// CNTID: Controller Identifier.
    pub cntid: u16,
}

/// Command Dword 11 of Identify.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw11 {
    /// CNSSID: CNS Specific Identifier.
    pub cnssid: u16,
    __: u8,
    /// CSI: Command Set Identifier, a [`crate::identify::Csi`].
    pub csi: u8,
}

/// Command Dword 10 of Get Log Page.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LogCdw10 {
    /// LID: Log Page Identifier, a [`crate::log::Lid`].
    pub lid: u8,
    /// LSP: Log Specific Parameter (4 bits before revision 2.0).
    #[bits(7)]
    pub lsp: u8,
    /// RAE: Retain Asynchronous Event.
    pub rae: bool,
    /// NUMDL: Number of Dwords, minus one, lower half.
    pub numdl: u16,
}

/// Command Dword 11 of Get Log Page.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LogCdw11 {
    /// NUMDU: Number of Dwords, minus one, upper half.
    pub numdu: u16,
    /// LSI: Log Specific Identifier.
    pub lsi: u16,
}

/// Command Dword 14 of Get Log Page.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct LogCdw14 {
    /// UUID Index.
    #[bits(7)]
    pub uuidx: u8,
    #[bits(16)]
    __: u16,
    /// OT: Offset Type: the offset is an index of entries, not of bytes.
    pub ot: bool,
    /// CSI: Command Set Identifier.
    pub csi: u8,
}

/// Command Dword 10 of Set Features.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SetFeaturesCdw10 {
    /// FID: Feature Identifier, a [`crate::feature::Fid`].
    pub fid: u8,
    #[bits(23)]
    __: u32,
    /// SV: Save the value over resets and power cycles.
    pub sv: bool,
}

/// Command Dword 10 of Get Features.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetFeaturesCdw10 {
    /// FID: Feature Identifier, a [`crate::feature::Fid`].
    pub fid: u8,
    /// SEL: Select, a [`crate::feature::Select`].
    #[bits(3)]
    pub sel: u8,
    #[bits(21)]
    __: u32,
}

/// Command Dword 10 of Abort.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AbortCdw10 {
    /// SQID: Submission Queue Identifier of the command to abort.
    pub sqid: u16,
    /// CID: Command Identifier of the command to abort.
    pub cid: u16,
}

/// Command Dword 10 of Format NVM.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FormatCdw10 {
    /// LBAFL: LBA Format, lower 4 bits of its index.
    #[bits(4)]
    pub lbafl: u8,
    /// MSET: Metadata Settings: metadata follows each block's data.
    pub mset: bool,
    /// PI: Protection Information: 0 none, else its type.
    #[bits(3)]
    pub pi: u8,
    /// PIL: Protection Information Location: first in the metadata.
    pub pil: bool,
    /// SES: Secure Erase Settings: 0 none, 1 user data, 2 cryptographic.
    #[bits(3)]
    pub ses: u8,
    /// LBAFU: LBA Format, upper 2 bits of its index; needs Host Behavior Support's LBAFEE.
    #[bits(2)]
    pub lbafu: u8,
    #[bits(18)]
    __: u32,
}

/// Command Dword 10 of Firmware Commit.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FirmwareCommitCdw10 {
    /// FS: Firmware Slot; 0 lets the controller choose.
    #[bits(3)]
    pub fs: u8,
    /// CA: Commit Action.
    #[bits(3)]
    pub ca: u8,
    #[bits(25)]
    __: u32,
    /// BPID: Boot Partition ID.
    pub bpid: bool,
}

/// Command Dword 10 of Sanitize.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SanitizeCdw10 {
    /// SANACT: Sanitize Action: 1 exit failure mode, 2 block erase, 3 overwrite, 4 crypto erase,
    /// 5 exit media verification.
    #[bits(3)]
    pub sanact: u8,
    /// AUSE: Allow Unrestricted Sanitize Exit.
    pub ause: bool,
    /// OWPASS: Overwrite Pass Count; 0 is 16 passes.
    #[bits(4)]
    pub owpass: u8,
    /// OIPBP: Overwrite Invert Pattern Between Passes.
    pub oipbp: bool,
    /// NDAS: No-Deallocate After Sanitize.
    pub ndas: bool,
    #[bits(22)]
    __: u32,
}

open_set! {
    /// STC: Self-test Code (Base 2.1, "Device Self-test command").
    pub struct SelfTest(u8): "Unknown Self-test" {
        SHORT = 0x1, "Short";
        EXTENDED = 0x2, "Extended";
        HOST_INITIATED_REFRESH = 0x3, "Host-Initiated Refresh";
        VENDOR = 0xe, "Vendor Specific";
        ABORT = 0xf, "Abort";
    }
}

/// Completion DW0 of Asynchronous Event Request (Base 2.1, "Asynchronous Event Request command").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEvent {
    /// AET: Asynchronous Event Type, one of the `TYPE_` constants.
    #[bits(3)]
    pub aet: u8,
    #[bits(5)]
    __: u8,
    /// AEI: Asynchronous Event Information, whose meaning depends on the type.
    pub aei: u8,
    /// LID: the log page that says more, a [`crate::log::Lid`].
    pub lid: u8,
    __: u8,
}

impl AsyncEvent {
    /// AET: error.
    pub const TYPE_ERROR: u8 = 0;
    /// AET: SMART / health status.
    pub const TYPE_SMART: u8 = 1;
    /// AET: notice.
    pub const TYPE_NOTICE: u8 = 2;
    /// AET: immediate.
    pub const TYPE_IMMEDIATE: u8 = 3;
    /// AET: I/O command specific status.
    pub const TYPE_IO_COMMAND: u8 = 6;
    /// AET: vendor specific.
    pub const TYPE_VENDOR: u8 = 7;
    /// AEI of an error: write to an invalid doorbell register.
    pub const ERROR_INVALID_DOORBELL: u8 = 0;
    /// AEI of an error: invalid doorbell write value.
    pub const ERROR_INVALID_DOORBELL_VALUE: u8 = 1;
    /// AEI of an error: diagnostic failure.
    pub const ERROR_DIAGNOSTIC: u8 = 2;
    /// AEI of an error: persistent internal error.
    pub const ERROR_PERSISTENT: u8 = 3;
    /// AEI of an error: transient internal error.
    pub const ERROR_TRANSIENT: u8 = 4;
    /// AEI of an error: firmware image load error.
    pub const ERROR_FIRMWARE_LOAD: u8 = 5;
    /// AEI of SMART: the NVM subsystem's reliability is compromised.
    pub const SMART_RELIABILITY: u8 = 0;
    /// AEI of SMART: temperature threshold.
    pub const SMART_TEMPERATURE: u8 = 1;
    /// AEI of SMART: spare below threshold.
    pub const SMART_SPARE: u8 = 2;
    /// AEI of a notice: namespace attribute changed.
    pub const NOTICE_NAMESPACE_CHANGED: u8 = 0;
    /// AEI of a notice: firmware activation starting.
    pub const NOTICE_FIRMWARE_STARTING: u8 = 1;
    /// AEI of a notice: telemetry log changed.
    pub const NOTICE_TELEMETRY: u8 = 2;
    /// AEI of a notice: asymmetric namespace access change.
    pub const NOTICE_ANA_CHANGE: u8 = 3;
    /// AEI of a notice: discovery log page change.
    pub const NOTICE_DISCOVERY: u8 = 0xf0;
}
