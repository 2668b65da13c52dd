//! Controller registers: their offsets in BAR0, their bits, and where the doorbells are.
//!
//! Owns every figure of Base 2.1 "Controller Properties" that a PCIe controller has. Relies on
//! nothing; the driver's bring-up and the subsystem's register machine read and write through it.

use bitfield_struct::bitfield;

/// Offsets of the registers in BAR0 (Base 2.1, "Property Definitions").
pub mod offset {
    /// CAP: Controller Capabilities, 8 bytes, read only.
    pub const CAP: u64 = 0x00;
    /// VS: Version, 4 bytes, read only.
    pub const VS: u64 = 0x08;
    /// INTMS: Interrupt Mask Set. Pin and MSI only: undefined with MSI-X.
    pub const INTMS: u64 = 0x0c;
    /// INTMC: Interrupt Mask Clear. Pin and MSI only: undefined with MSI-X.
    pub const INTMC: u64 = 0x10;
    /// CC: Controller Configuration.
    pub const CC: u64 = 0x14;
    /// CSTS: Controller Status.
    pub const CSTS: u64 = 0x1c;
    /// NSSR: NVM Subsystem Reset, takes [`super::NSSR_MAGIC`].
    pub const NSSR: u64 = 0x20;
    /// AQA: Admin Queue Attributes.
    pub const AQA: u64 = 0x24;
    /// ASQ: Admin Submission Queue Base Address, 8 bytes.
    pub const ASQ: u64 = 0x28;
    /// ACQ: Admin Completion Queue Base Address, 8 bytes.
    pub const ACQ: u64 = 0x30;
    /// CMBLOC: Controller Memory Buffer Location.
    pub const CMBLOC: u64 = 0x38;
    /// CMBSZ: Controller Memory Buffer Size.
    pub const CMBSZ: u64 = 0x3c;
    /// BPINFO: Boot Partition Information.
    pub const BPINFO: u64 = 0x40;
    /// BPRSEL: Boot Partition Read Select.
    pub const BPRSEL: u64 = 0x44;
    /// BPMBL: Boot Partition Memory Buffer Location, 8 bytes.
    pub const BPMBL: u64 = 0x48;
    /// CMBMSC: Controller Memory Buffer Memory Space Control, 8 bytes.
    pub const CMBMSC: u64 = 0x50;
    /// CMBSTS: Controller Memory Buffer Status.
    pub const CMBSTS: u64 = 0x58;
    /// CMBEBS: Controller Memory Buffer Elasticity Buffer Size.
    pub const CMBEBS: u64 = 0x5c;
    /// CMBSWTP: Controller Memory Buffer Sustained Write Throughput.
    pub const CMBSWTP: u64 = 0x60;
    /// NSSD: NVM Subsystem Shutdown.
    pub const NSSD: u64 = 0x64;
    /// CRTO: Controller Ready Timeouts.
    pub const CRTO: u64 = 0x68;
    /// PMRCAP: Persistent Memory Region Capabilities.
    pub const PMRCAP: u64 = 0xe00;
    /// PMRCTL: Persistent Memory Region Control.
    pub const PMRCTL: u64 = 0xe04;
    /// PMRSTS: Persistent Memory Region Status.
    pub const PMRSTS: u64 = 0xe08;
    /// PMREBS: Persistent Memory Region Elasticity Buffer Size.
    pub const PMREBS: u64 = 0xe0c;
    /// PMRSWTP: Persistent Memory Region Sustained Write Throughput.
    pub const PMRSWTP: u64 = 0xe10;
    /// PMRMSCL: Persistent Memory Region Memory Space Control, lower half.
    pub const PMRMSCL: u64 = 0xe14;
    /// PMRMSCU: Persistent Memory Region Memory Space Control, upper half.
    pub const PMRMSCU: u64 = 0xe18;
    /// The first doorbell: the admin submission queue's tail (PCIe transport, "Doorbells").
    pub const DOORBELLS: u64 = 0x1000;
}

/// The value that resets the NVM subsystem when written to NSSR: "NVMe" (Base 2.1, NSSR).
pub const NSSR_MAGIC: u32 = 0x4e56_4d65;
/// A normal shutdown when written to NSSD: "Nrml" (Base 2.1, NSSD).
pub const NSSD_NORMAL: u32 = 0x4e72_6d6c;
/// An abrupt shutdown when written to NSSD: "Abpt" (Base 2.1, NSSD).
pub const NSSD_ABRUPT: u32 = 0x4162_7074;

/// Bytes from one doorbell to the next: `4 << DSTRD` (Base 2.1, CAP).
#[inline]
#[must_use]
pub const fn doorbell_stride(dstrd: u8) -> u64 {
    4 << (dstrd & 0xf)
}

/// Offset in BAR0 of SQyTDBL, the tail doorbell of submission queue `qid`.
///
/// In u64: queue 65535 with DSTRD 15 lies 16 GiB up (REG-3).
#[inline]
#[must_use]
pub const fn sq_tail_doorbell(qid: u16, dstrd: u8) -> u64 {
    offset::DOORBELLS + 2 * qid as u64 * doorbell_stride(dstrd)
}

/// Offset in BAR0 of CQyHDBL, the head doorbell of completion queue `qid`.
#[inline]
#[must_use]
pub const fn cq_head_doorbell(qid: u16, dstrd: u8) -> u64 {
    offset::DOORBELLS + (2 * qid as u64 + 1) * doorbell_stride(dstrd)
}

/// BAR0 bytes needed for the doorbells of the admin queue and `io_queues` pairs (REG-1).
#[inline]
#[must_use]
pub const fn bar_size(io_queues: u16, dstrd: u8) -> u64 {
    offset::DOORBELLS + 2 * (io_queues as u64 + 1) * doorbell_stride(dstrd)
}

/// CAP: Controller Capabilities (Base 2.1, "Controller Properties", CAP).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// MQES: Maximum Queue Entries Supported, minus one; at least 1.
    pub mqes_z: u16,
    /// CQR: Contiguous Queues Required.
    pub cqr: bool,
    /// AMS: Arbitration Mechanism Supported: bit 0 weighted round robin with urgent, bit 1 vendor.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// TO: Timeout, the longest wait for CSTS.RDY after CC.EN changes, in 500 ms units.
    pub to: u8,
    /// DSTRD: Doorbell Stride, `4 << DSTRD` bytes.
    #[bits(4)]
    pub dstrd: u8,
    /// NSSRS: NVM Subsystem Reset Supported.
    pub nssrs: bool,
    /// CSS: Command Sets Supported: bit 0 NVM, bit 6 I/O command sets, bit 7 none (admin only).
    pub css: u8,
    /// BPS: Boot Partition Support.
    pub bps: bool,
    /// CPS: Controller Power Scope: 0 not reported, 1 controller, 2 domain, 3 subsystem.
    #[bits(2)]
    pub cps: u8,
    /// MPSMIN: Memory Page Size Minimum, `2 ^ (12 + MPSMIN)` bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// MPSMAX: Memory Page Size Maximum, `2 ^ (12 + MPSMAX)` bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// PMRS: Persistent Memory Region Supported.
    pub pmrs: bool,
    /// CMBS: Controller Memory Buffer Supported.
    pub cmbs: bool,
    /// NSSS: NVM Subsystem Shutdown Supported.
    pub nsss: bool,
    /// CRMS: Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
    #[bits(2)]
    pub crms: u8,
    /// NSSES: NVM Subsystem Shutdown Enhancements Supported.
    pub nsses: bool,
    #[bits(2)]
    __: u8,
}

impl Cap {
    /// Bit of [`Cap::css`]: the NVM command set, selected with [`Cc::CSS_NVM`].
    pub const CSS_NVM: u8 = 1 << 0;
    /// Bit of [`Cap::css`]: one or more I/O command sets, selected with [`Cc::CSS_ALL`].
    pub const CSS_IOCS: u8 = 1 << 6;
    /// Bit of [`Cap::css`]: no I/O command set, selected with [`Cc::CSS_ADMIN_ONLY`].
    pub const CSS_NONE: u8 = 1 << 7;

    /// CRWMS: the controller can become ready together with its media.
    #[inline]
    #[must_use]
    pub const fn crwms(self) -> bool {
        self.crms() & 1 != 0
    }

    /// CRIMS: the controller can become ready before its media.
    #[inline]
    #[must_use]
    pub const fn crims(self) -> bool {
        self.crms() & 2 != 0
    }
}

/// VS: Version (Base 2.1, "Controller Properties", VS). Identify's VER has the same layout.
#[bitfield(u32)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Vs {
    /// TER: Tertiary Version Number.
    pub ter: u8,
    /// MNR: Minor Version Number.
    pub mnr: u8,
    /// MJR: Major Version Number.
    pub mjr: u16,
}

impl Vs {
    /// Revision 1.0.
    pub const V1_0: Vs = Vs::from_bits(0x0001_0000);
    /// Revision 1.1.
    pub const V1_1: Vs = Vs::from_bits(0x0001_0100);
    /// Revision 1.2.
    pub const V1_2: Vs = Vs::from_bits(0x0001_0200);
    /// Revision 1.3.
    pub const V1_3: Vs = Vs::from_bits(0x0001_0300);
    /// Revision 1.4.
    pub const V1_4: Vs = Vs::from_bits(0x0001_0400);
    /// Revision 2.0.
    pub const V2_0: Vs = Vs::from_bits(0x0002_0000);
    /// Revision 2.1.
    pub const V2_1: Vs = Vs::from_bits(0x0002_0100);
}

impl core::fmt::Display for Vs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.mjr(), self.mnr())?;
        if self.ter() != 0 { write!(f, ".{}", self.ter()) } else { Ok(()) }
    }
}

/// CC: Controller Configuration (Base 2.1, "Controller Properties", CC).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// EN: Enable. 1 to 0 is a Controller Reset.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// CSS: I/O Command Set Selected, one of the `CSS_` constants.
    #[bits(3)]
    pub css: u8,
    /// MPS: Memory Page Size, `2 ^ (12 + MPS)` bytes.
    #[bits(4)]
    pub mps: u8,
    /// AMS: Arbitration Mechanism Selected: 0 round robin, 1 weighted with urgent, 7 vendor.
    #[bits(3)]
    pub ams: u8,
    /// SHN: Shutdown Notification, one of the `SHN_` constants.
    #[bits(2)]
    pub shn: u8,
    /// IOSQES: I/O Submission Queue Entry Size, a power of two; 6 for 64 bytes.
    #[bits(4)]
    pub iosqes: u8,
    /// IOCQES: I/O Completion Queue Entry Size, a power of two; 4 for 16 bytes.
    #[bits(4)]
    pub iocqes: u8,
    /// CRIME: Controller Ready Independent of Media Enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

impl Cc {
    /// CSS: the NVM command set.
    pub const CSS_NVM: u8 = 0;
    /// CSS: all I/O command sets that the controller supports.
    pub const CSS_ALL: u8 = 6;
    /// CSS: admin commands only.
    pub const CSS_ADMIN_ONLY: u8 = 7;
    /// AMS: round robin.
    pub const AMS_ROUND_ROBIN: u8 = 0;
    /// AMS: weighted round robin with urgent priority class.
    pub const AMS_WEIGHTED: u8 = 1;
    /// SHN: no notification.
    pub const SHN_NONE: u8 = 0;
    /// SHN: normal shutdown.
    pub const SHN_NORMAL: u8 = 1;
    /// SHN: abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 2;
    /// IOSQES: entries of 64 bytes.
    pub const IOSQES_64: u8 = 6;
    /// IOCQES: entries of 16 bytes.
    pub const IOCQES_16: u8 = 4;
}

/// CSTS: Controller Status (Base 2.1, "Controller Properties", CSTS).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// RDY: Ready, follows CC.EN.
    pub rdy: bool,
    /// CFS: Controller Fatal Status.
    pub cfs: bool,
    /// SHST: Shutdown Status, one of the `SHST_` constants.
    #[bits(2)]
    pub shst: u8,
    /// NSSRO: NVM Subsystem Reset Occurred; write 1 to clear.
    pub nssro: bool,
    /// PP: Processing Paused.
    pub pp: bool,
    /// ST: Shutdown Type: what SHST is about, 0 the controller, 1 the NVM subsystem.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

impl Csts {
    /// SHST: no shutdown requested.
    pub const SHST_NORMAL: u8 = 0;
    /// SHST: shutdown under way.
    pub const SHST_OCCURRING: u8 = 1;
    /// SHST: shutdown complete.
    pub const SHST_COMPLETE: u8 = 2;
    /// All ones: what a read returns once the device has gone (RST-7, PIT-01).
    pub const ABSENT: Csts = Csts::from_bits(u32::MAX);

    /// Whether this is the all-ones answer of a device that is not there.
    #[inline]
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.into_bits() == u32::MAX
    }
}

/// AQA: Admin Queue Attributes (Base 2.1, "Controller Properties", AQA).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// ASQS: Admin Submission Queue Size, minus one; 1 to 4095.
    #[bits(12)]
    pub asqs_z: u16,
    #[bits(4)]
    __: u8,
    /// ACQS: Admin Completion Queue Size, minus one; 1 to 4095.
    #[bits(12)]
    pub acqs_z: u16,
    #[bits(4)]
    __: u8,
}

impl Aqa {
    /// The most entries an admin queue can have.
    pub const MAX_ENTRIES: u32 = 4096;
}

/// CMBLOC: Controller Memory Buffer Location (Base 2.1, "Controller Properties", CMBLOC).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmbLoc {
    /// BIR: Base Indicator Register; 0, 2, 3, 4 and 5 are valid (REG-4).
    #[bits(3)]
    pub bir: u8,
    /// CQMMS: queues may mix CMB and host memory.
    pub cqmms: bool,
    /// CQPDS: queues in the CMB may be physically discontiguous.
    pub cqpds: bool,
    /// CDPMLS: data pointers and command independent memory may be mixed.
    pub cdpmls: bool,
    /// CDPCILS: pointers to lists in the CMB may be independent of the command.
    pub cdpcils: bool,
    /// CDMMMS: data and metadata may mix CMB and host memory.
    pub cdmmms: bool,
    /// CQDA: queues need only dword alignment.
    pub cqda: bool,
    #[bits(3)]
    __: u8,
    /// OFST: Offset, in units of CMBSZ.SZU.
    #[bits(20)]
    pub ofst: u32,
}

/// CMBSZ: Controller Memory Buffer Size (Base 2.1, "Controller Properties", CMBSZ). 0: none.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmbSz {
    /// SQS: submission queues may be placed in the buffer.
    pub sqs: bool,
    /// CQS: completion queues may be placed in the buffer.
    pub cqs: bool,
    /// LISTS: PRP and SGL lists may be placed in the buffer.
    pub lists: bool,
    /// RDS: data of reads may be placed in the buffer.
    pub rds: bool,
    /// WDS: data of writes may be placed in the buffer.
    pub wds: bool,
    #[bits(3)]
    __: u8,
    /// SZU: Size Units, `2 ^ (12 + 4 * SZU)` bytes; 0 to 6.
    #[bits(4)]
    pub szu: u8,
    /// SZ: Size, in units of SZU.
    #[bits(20)]
    pub sz: u32,
}

impl CmbSz {
    /// Bytes in one unit of SZ and of CMBLOC.OFST, where SZU is one of the defined values.
    #[must_use]
    pub const fn unit(self) -> Option<u64> {
        if self.szu() <= 6 { Some(1 << (12 + 4 * self.szu() as u32)) } else { None }
    }
}

/// CMBMSC: Controller Memory Buffer Memory Space Control (Base 2.1, CMBMSC).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CmbMsc {
    /// CRE: Capabilities Registers Enabled: CMBLOC and CMBSZ read as zero without it.
    pub cre: bool,
    /// CMSE: Controller Memory Space Enable: CBA is valid.
    pub cmse: bool,
    #[bits(10)]
    __: u16,
    /// CBA: Controller Base Address, in 4 KiB pages.
    #[bits(52)]
    pub cba: u64,
}

/// CRTO: Controller Ready Timeouts (Base 2.1, "Controller Properties", CRTO).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// CRWMT: Controller Ready With Media Timeout, in 500 ms units.
    pub crwmt: u16,
    /// CRIMT: Controller Ready Independent of Media Timeout, in 500 ms units.
    pub crimt: u16,
}

/// BPINFO: Boot Partition Information (Base 2.1, "Controller Properties", BPINFO).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct BpInfo {
    /// BPSZ: Boot Partition Size, in units of 128 KiB.
    #[bits(15)]
    pub bpsz: u16,
    #[bits(9)]
    __: u16,
    /// BRS: Boot Read Status: 0 none requested, 1 in progress, 2 done, 3 error.
    #[bits(2)]
    pub brs: u8,
    #[bits(5)]
    __: u8,
    /// ABPID: Active Boot Partition ID.
    pub abpid: bool,
}

/// PMRCAP: Persistent Memory Region Capabilities (Base 2.1, PMRCAP).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PmrCap {
    #[bits(3)]
    __: u8,
    /// RDS: Read Data Support.
    pub rds: bool,
    /// WDS: Write Data Support.
    pub wds: bool,
    /// BIR: Base Indicator Register.
    #[bits(3)]
    pub bir: u8,
    /// PMRTU: Persistent Memory Region Time Units: 0 is 500 ms, 1 is minutes.
    #[bits(2)]
    pub pmrtu: u8,
    /// PMRWBM: Write Barrier Mechanisms: bit 0 a read of memory, bit 1 a read of PMRSTS.
    #[bits(4)]
    pub pmrwbm: u8,
    #[bits(2)]
    __: u8,
    /// PMRTO: Timeout, in PMRTU units.
    pub pmrto: u8,
    /// CMSS: Controller Memory Space Supported.
    pub cmss: bool,
    #[bits(7)]
    __: u8,
}

#[cfg(test)]
mod tests;
