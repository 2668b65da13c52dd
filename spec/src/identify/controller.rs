//! Identify Controller (Base 2.1, "Identify Controller Data Structure").

use super::flags::{Cmic, Ctratt, Fna, Frmw, Lpa, Oacs, Oncs, Sgls, Vwc};
use super::text::{Text, fill};
use crate::register::Vs;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Controller, CNS 01h, 4096 bytes (Base 2.1, "Identify Controller Data Structure").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// VID: PCI Vendor ID.
    pub vid: U16,
    /// SSVID: PCI Subsystem Vendor ID.
    pub ssvid: U16,
    /// SN: Serial Number; read it with [`IdentifyController::serial`].
    pub sn: [u8; 20],
    /// MN: Model Number; read it with [`IdentifyController::model`].
    pub mn: [u8; 40],
    /// FR: Firmware Revision; read it with [`IdentifyController::firmware`].
    pub fr: [u8; 8],
    /// RAB: Recommended Arbitration Burst, a power of two.
    pub rab: u8,
    /// IEEE: IEEE OUI Identifier, least significant byte first.
    pub ieee: [u8; 3],
    /// CMIC: Controller Multi-Path I/O and Namespace Sharing Capabilities, a [`super::Cmic`].
    pub cmic: u8,
    /// MDTS: Maximum Data Transfer Size; see [`IdentifyController::max_transfer`].
    pub mdts: u8,
    /// CNTLID: Controller ID.
    pub cntlid: U16,
    /// VER: Version, as in the VS register.
    pub ver: U32,
    /// RTD3R: RTD3 Resume Latency, in microseconds; 0 not reported.
    pub rtd3r: U32,
    /// RTD3E: RTD3 Entry Latency, in microseconds; 0 not reported.
    pub rtd3e: U32,
    /// OAES: Optional Asynchronous Events Supported, bits as in
    /// [`crate::feature::AsyncEventConfig`].
    pub oaes: U32,
    /// CTRATT: Controller Attributes, a [`super::Ctratt`].
    pub ctratt: U32,
    /// RRLS: Read Recovery Levels Supported.
    pub rrls: U16,
    /// BPCAP: Boot Partition Capabilities.
    pub bpcap: u8,
    _reserved_103: u8,
    /// NSSL: NVM Subsystem Shutdown Latency, in microseconds.
    pub nssl: U32,
    _reserved_108: [u8; 2],
    /// PLSI: Power Loss Signaling Information.
    pub plsi: u8,
    /// CNTRLTYPE: Controller Type: 0 not reported, 1 I/O, 2 discovery, 3 administrative.
    pub cntrltype: u8,
    /// FGUID: FRU Globally Unique Identifier, most significant byte first.
    pub fguid: [u8; 16],
    /// CRDT1: Command Retry Delay Time 1, in 100 ms.
    pub crdt1: U16,
    /// CRDT2: Command Retry Delay Time 2, in 100 ms.
    pub crdt2: U16,
    /// CRDT3: Command Retry Delay Time 3, in 100 ms.
    pub crdt3: U16,
    /// CRCAP: Controller Reachability Capabilities.
    pub crcap: u8,
    _reserved_135: [u8; 118],
    /// NVMSR: NVM Subsystem Report.
    pub nvmsr: u8,
    /// VWCI: VPD Write Cycle Information.
    pub vwci: u8,
    /// MEC: Management Endpoint Capabilities.
    pub mec: u8,
    /// OACS: Optional Admin Command Support, an [`super::Oacs`].
    pub oacs: U16,
    /// ACL: Abort Command Limit, minus one.
    pub acl_z: u8,
    /// AERL: Asynchronous Event Request Limit, minus one.
    pub aerl_z: u8,
    /// FRMW: Firmware Updates, a [`super::Frmw`].
    pub frmw: u8,
    /// LPA: Log Page Attributes, an [`super::Lpa`].
    pub lpa: u8,
    /// ELPE: Error Log Page Entries, minus one.
    pub elpe_z: u8,
    /// NPSS: Number of Power States Support, minus one.
    pub npss_z: u8,
    /// AVSCC: Admin Vendor Specific Command Configuration.
    pub avscc: u8,
    /// APSTA: Autonomous Power State Transition Attributes.
    pub apsta: u8,
    /// WCTEMP: Warning Composite Temperature Threshold, in kelvins.
    pub wctemp: U16,
    /// CCTEMP: Critical Composite Temperature Threshold, in kelvins.
    pub cctemp: U16,
    /// MTFA: Maximum Time for Firmware Activation, in 100 ms; 0 unknown.
    pub mtfa: U16,
    /// HMPRE: Host Memory Buffer Preferred Size, in 4 KiB.
    pub hmpre: U32,
    /// HMMIN: Host Memory Buffer Minimum Size, in 4 KiB.
    pub hmmin: U32,
    /// TNVMCAP: Total NVM Capacity, in bytes.
    pub tnvmcap: U128,
    /// UNVMCAP: Unallocated NVM Capacity, in bytes.
    pub unvmcap: U128,
    /// RPMBS: Replay Protected Memory Block Support.
    pub rpmbs: U32,
    /// EDSTT: Extended Device Self-test Time, in minutes.
    pub edstt: U16,
    /// DSTO: Device Self-test Options.
    pub dsto: u8,
    /// FWUG: Firmware Update Granularity, in 4 KiB; 0 unknown, FFh none.
    pub fwug: u8,
    /// KAS: Keep Alive Support: granularity of the timer, in 100 ms; 0 none.
    pub kas: U16,
    /// HCTMA: Host Controlled Thermal Management Attributes.
    pub hctma: U16,
    /// MNTMT: Minimum Thermal Management Temperature, in kelvins.
    pub mntmt: U16,
    /// MXTMT: Maximum Thermal Management Temperature, in kelvins.
    pub mxtmt: U16,
    /// SANICAP: Sanitize Capabilities.
    pub sanicap: U32,
    /// HMMINDS: Host Memory Buffer Minimum Descriptor Entry Size, in 4 KiB.
    pub hmminds: U32,
    /// HMMAXD: Host Memory Maximum Descriptors Entries.
    pub hmmaxd: U16,
    /// NSETIDMAX: NVM Set Identifier Maximum.
    pub nsetidmax: U16,
    /// ENDGIDMAX: Endurance Group Identifier Maximum.
    pub endgidmax: U16,
    /// ANATT: ANA Transition Time, in seconds.
    pub anatt: u8,
    /// ANACAP: Asymmetric Namespace Access Capabilities.
    pub anacap: u8,
    /// ANAGRPMAX: ANA Group Identifier Maximum.
    pub anagrpmax: U32,
    /// NANAGRPID: Number of ANA Group Identifiers.
    pub nanagrpid: U32,
    /// PELS: Persistent Event Log Size, in 64 KiB.
    pub pels: U32,
    /// DOMAINID: Domain Identifier.
    pub domainid: U16,
    /// KPIOC: Key Per I/O Capabilities.
    pub kpioc: u8,
    _reserved_359: u8,
    /// MPTFAWR: Maximum Processing Time for Firmware Activation Without Reset, in 100 ms.
    pub mptfawr: U16,
    _reserved_362: [u8; 6],
    /// MEGCAP: Maximum Endurance Group Capacity, in bytes.
    pub megcap: U128,
    /// TMPTHHA: Temperature Threshold Hysteresis Attributes.
    pub tmpthha: u8,
    _reserved_385: u8,
    /// CQT: Command Quiesce Time, in milliseconds.
    pub cqt: U16,
    _reserved_388: [u8; 124],
    /// SQES: Submission Queue Entry Size: smallest in bits 3:0, largest in 7:4, powers of
    /// two.
    pub sqes: u8,
    /// CQES: Completion Queue Entry Size: smallest in bits 3:0, largest in 7:4, powers of
    /// two.
    pub cqes: u8,
    /// MAXCMD: Maximum Outstanding Commands per queue; 0 not reported.
    pub maxcmd: U16,
    /// NN: Number of Namespaces: the largest valid NSID. Never allocate by it (PIT-41).
    pub nn: U32,
    /// ONCS: Optional NVM Command Support, an [`super::Oncs`].
    pub oncs: U16,
    /// FUSES: Fused Operation Support: bit 0 is Compare and Write.
    pub fuses: U16,
    /// FNA: Format NVM Attributes, a [`super::Fna`].
    pub fna: u8,
    /// VWC: Volatile Write Cache, a [`super::Vwc`].
    pub vwc: u8,
    /// AWUN: Atomic Write Unit Normal, in blocks, minus one.
    pub awun_z: U16,
    /// AWUPF: Atomic Write Unit Power Fail, in blocks, minus one.
    pub awupf_z: U16,
    /// ICSVSCC: I/O Command Set Vendor Specific Command Configuration.
    pub icsvscc: u8,
    /// NWPC: Namespace Write Protection Capabilities.
    pub nwpc: u8,
    /// ACWU: Atomic Compare and Write Unit, in blocks, minus one.
    pub acwu_z: U16,
    /// OCFS: Optional Copy Formats Supported, one bit a format.
    pub ocfs: U16,
    /// SGLS: SGL Support, a [`super::Sgls`].
    pub sgls: U32,
    /// MNAN: Maximum Number of Allowed Namespaces.
    pub mnan: U32,
    /// MAXDNA: Maximum Domain Namespace Attachments.
    pub maxdna: U128,
    /// MAXCNA: Maximum I/O Controller Namespace Attachments.
    pub maxcna: U32,
    /// OAQD: Optimal Aggregated Queue Depth.
    pub oaqd: U32,
    /// RHIRI: Recommended Host-Initiated Refresh Interval.
    pub rhiri: u8,
    /// HIRT: Host-Initiated Refresh Time.
    pub hirt: u8,
    /// CMMRTD: Controller Maximum Memory Range Tracking Descriptors.
    pub cmmrtd: U16,
    /// NMMRTD: NVM Subsystem Maximum Memory Range Tracking Descriptors.
    pub nmmrtd: U16,
    /// MINMRTG: Minimum Memory Range Tracking Granularity.
    pub minmrtg: u8,
    /// MAXMRTG: Maximum Memory Range Tracking Granularity.
    pub maxmrtg: u8,
    /// TRATTR: Tracking Attributes.
    pub trattr: u8,
    _reserved_577: u8,
    /// MCUDMQ: Maximum Controller User Data Migration Queues.
    pub mcudmq: U16,
    /// MNSUDMQ: Maximum NVM Subsystem User Data Migration Queues.
    pub mnsudmq: U16,
    /// MCMR: Maximum CDQ Memory Ranges.
    pub mcmr: U16,
    /// NMCMR: NVM Subsystem Maximum CDQ Memory Ranges.
    pub nmcmr: U16,
    /// MCDQPC: Maximum Controller Data Queue PRP Count.
    pub mcdqpc: U16,
    _reserved_588: [u8; 180],
    /// SUBNQN: NVM Subsystem NVMe Qualified Name; read it with [`IdentifyController::nqn`].
    pub subnqn: [u8; 256],
    _reserved_1024: [u8; 768],
    /// IOCCSZ: I/O Queue Command Capsule Supported Size, in 16 bytes (fabrics).
    pub ioccsz: U32,
    /// IORCSZ: I/O Queue Response Capsule Supported Size, in 16 bytes (fabrics).
    pub iorcsz: U32,
    /// ICDOFF: In Capsule Data Offset, in 16 bytes (fabrics).
    pub icdoff: U16,
    /// FCATT: Fabrics Controller Attributes.
    pub fcatt: u8,
    /// MSDBD: Maximum SGL Data Block Descriptors (fabrics).
    pub msdbd: u8,
    /// OFCS: Optional Fabrics Commands Support.
    pub ofcs: U16,
    /// DCTYPE: Discovery Controller Type.
    pub dctype: u8,
    _reserved_1807: [u8; 241],
    /// PSD: Power State Descriptors; NPSS says how many there are.
    pub psd: [PowerState; 32],
    /// VS: Vendor Specific.
    pub vs: [u8; 1024],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(offset_of!(IdentifyController, nssl) == 104);
const _: () = assert!(offset_of!(IdentifyController, plsi) == 110);
const _: () = assert!(offset_of!(IdentifyController, nvmsr) == 253);
const _: () = assert!(offset_of!(IdentifyController, mptfawr) == 360);
const _: () = assert!(offset_of!(IdentifyController, megcap) == 368);
const _: () = assert!(offset_of!(IdentifyController, cqt) == 386);
const _: () = assert!(offset_of!(IdentifyController, sqes) == 512);
const _: () = assert!(offset_of!(IdentifyController, mcudmq) == 578);
const _: () = assert!(offset_of!(IdentifyController, subnqn) == 768);
const _: () = assert!(offset_of!(IdentifyController, ioccsz) == 1792);
const _: () = assert!(offset_of!(IdentifyController, psd) == 2048);

impl IdentifyController {
    /// CNTRLTYPE: an I/O controller.
    pub const CNTRLTYPE_IO: u8 = 1;
    /// CNTRLTYPE: a discovery controller.
    pub const CNTRLTYPE_DISCOVERY: u8 = 2;
    /// CNTRLTYPE: an administrative controller.
    pub const CNTRLTYPE_ADMIN: u8 = 3;
    /// OFCS: the Disconnect command.
    pub const OFCS_DISCONNECT: u16 = 1;

    /// The most in-capsule data of an I/O command in bytes, by IOCCSZ; 0 where there is none, or
    /// IOCCSZ makes no sense.
    #[must_use]
    pub const fn max_in_capsule(&self) -> u32 {
        self.ioccsz.get().saturating_mul(16).saturating_sub(64)
    }

    /// SN, without padding.
    #[must_use]
    pub fn serial(&self) -> Text<'_> {
        Text::new(&self.sn)
    }

    /// MN, without padding.
    #[must_use]
    pub fn model(&self) -> Text<'_> {
        Text::new(&self.mn)
    }

    /// FR, without padding.
    #[must_use]
    pub fn firmware(&self) -> Text<'_> {
        Text::new(&self.fr)
    }

    /// SUBNQN, where it is there and terminated within the field (INIT-14, PIT-49).
    #[must_use]
    pub fn nqn(&self) -> Option<Text<'_>> {
        let terminated = self.subnqn.contains(&0);
        let text = Text::new(&self.subnqn);
        (terminated && !text.is_empty()).then_some(text)
    }

    /// Sets SN: cut to 20 bytes, padded with spaces.
    pub fn set_serial(&mut self, serial: &str) {
        fill(&mut self.sn, serial);
    }

    /// Sets MN: cut to 40 bytes, padded with spaces.
    pub fn set_model(&mut self, model: &str) {
        fill(&mut self.mn, model);
    }

    /// Sets FR: cut to 8 bytes, padded with spaces.
    pub fn set_firmware(&mut self, firmware: &str) {
        fill(&mut self.fr, firmware);
    }

    /// Sets SUBNQN: cut to 255 bytes, padded with zeroes.
    pub fn set_nqn(&mut self, nqn: &str) {
        self.subnqn.fill(0);
        for (to, from) in self.subnqn.iter_mut().take(255).zip(nqn.bytes()) {
            *to = from;
        }
    }

    /// VER: Version.
    #[must_use]
    pub const fn version(&self) -> Vs {
        Vs::from_bits(self.ver.get())
    }

    /// The largest data transfer of one command in bytes, given CAP.MPSMIN. None: not limited, or
    /// past what 64 bits count (PIT-33, PIT-34).
    #[must_use]
    pub const fn max_transfer(&self, mpsmin: u8) -> Option<u64> {
        let shift = self.mdts as u32 + 12 + mpsmin as u32;
        if self.mdts == 0 || shift > 63 { None } else { Some(1 << shift) }
    }

    /// CMIC, named bit by bit.
    #[must_use]
    pub const fn cmic(&self) -> Cmic {
        Cmic::from_bits(self.cmic)
    }

    /// CTRATT, named bit by bit.
    #[must_use]
    pub const fn ctratt(&self) -> Ctratt {
        Ctratt::from_bits(self.ctratt.get())
    }

    /// OACS, named bit by bit.
    #[must_use]
    pub const fn oacs(&self) -> Oacs {
        Oacs::from_bits(self.oacs.get())
    }

    /// ONCS, named bit by bit.
    #[must_use]
    pub const fn oncs(&self) -> Oncs {
        Oncs::from_bits(self.oncs.get())
    }

    /// FRMW, named bit by bit.
    #[must_use]
    pub const fn frmw(&self) -> Frmw {
        Frmw::from_bits(self.frmw)
    }

    /// LPA, named bit by bit.
    #[must_use]
    pub const fn lpa(&self) -> Lpa {
        Lpa::from_bits(self.lpa)
    }

    /// FNA, named bit by bit.
    #[must_use]
    pub const fn fna(&self) -> Fna {
        Fna::from_bits(self.fna)
    }

    /// VWC, named bit by bit.
    #[must_use]
    pub const fn vwc(&self) -> Vwc {
        Vwc::from_bits(self.vwc)
    }

    /// SGLS, named bit by bit.
    #[must_use]
    pub const fn sgls(&self) -> Sgls {
        Sgls::from_bits(self.sgls.get())
    }

    /// Smallest and largest submission queue entry, as powers of two (SQES).
    #[must_use]
    pub const fn sqes(&self) -> (u8, u8) {
        (self.sqes & 0xf, self.sqes >> 4)
    }

    /// Smallest and largest completion queue entry, as powers of two (CQES).
    #[must_use]
    pub const fn cqes(&self) -> (u8, u8) {
        (self.cqes & 0xf, self.cqes >> 4)
    }
}

/// Power State Descriptor, 32 bytes (Base 2.1, "Power State Descriptor Data Structure").
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
pub struct PowerState {
    /// MP: Maximum Power, in 0.01 W, or 0.0001 W with MXPS.
    pub mp: U16,
    _reserved_2: u8,
    /// MXPS in bit 0: the scale of MP; NOPS in bit 1: no I/O in this state.
    pub flags: u8,
    /// ENLAT: Entry Latency, in microseconds.
    pub enlat: U32,
    /// EXLAT: Exit Latency, in microseconds.
    pub exlat: U32,
    /// RRT: Relative Read Throughput, lower is better.
    pub rrt: u8,
    /// RRL: Relative Read Latency, lower is better.
    pub rrl: u8,
    /// RWT: Relative Write Throughput, lower is better.
    pub rwt: u8,
    /// RWL: Relative Write Latency, lower is better.
    pub rwl: u8,
    /// IDLP: Idle Power, in units of IPS.
    pub idlp: U16,
    /// IPS: Idle Power Scale, in bits 7:6.
    pub ips: u8,
    _reserved_19: u8,
    /// ACTP: Active Power, in units of APS.
    pub actp: U16,
    /// APW in bits 2:0: Active Power Workload; APS in bits 7:6: Active Power Scale.
    pub apws: u8,
    /// EPFRT: Emergency Power Fail Recovery Time.
    pub epfrt: u8,
    /// FQVT: Forced Quiescence Vault Time.
    pub fqvt: u8,
    /// EPFVT: Emergency Power Fail Vault Time.
    pub epfvt: u8,
    /// EPFRTS in bits 3:0 and FQVTS in bits 7:4: the scales of EPFRT and FQVT.
    pub epfr_fqv_ts: u8,
    /// EPFVTS in bits 3:0: the scale of EPFVT.
    pub epfvts: u8,
    _reserved_28: [u8; 4],
}

const _: () = assert!(size_of::<PowerState>() == 32);
const _: () = assert!(offset_of!(PowerState, flags) == 3);
const _: () = assert!(offset_of!(PowerState, actp) == 20);
const _: () = assert!(offset_of!(PowerState, epfvts) == 27);
