//! Capability bytes of Identify, bit by bit.

use bitfield_struct::bitfield;

/// CMIC: Controller Multi-Path I/O and Namespace Sharing Capabilities (Base 2.1, "Identify
/// Controller Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Cmic {
    /// MPORTS: the subsystem may have more than one port.
    pub mports: bool,
    /// MCTRS: the subsystem may have two or more controllers.
    pub mctrs: bool,
    /// FCTT: the controller is of an SR-IOV virtual function.
    pub fctt: bool,
    /// ANARS: asymmetric namespace access reporting.
    pub anars: bool,
    #[bits(4)]
    __: u8,
}

/// CTRATT: Controller Attributes (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Ctratt {
    /// HIDS: Host Identifier Support: 128-bit identifiers.
    pub hids: bool,
    /// NOPSPM: Non-Operational Power State Permissive Mode.
    pub nopspm: bool,
    /// NSETS: NVM Sets.
    pub nsets: bool,
    /// RRLVLS: Read Recovery Levels.
    pub rrlvls: bool,
    /// EGS: Endurance Groups.
    pub egs: bool,
    /// PLM: Predictable Latency Mode.
    pub plm: bool,
    /// TBKAS: Traffic Based Keep Alive Support.
    pub tbkas: bool,
    /// NG: Namespace Granularity.
    pub ng: bool,
    /// SQA: SQ Associations.
    pub sqa: bool,
    /// ULIST: UUID List.
    pub ulist: bool,
    /// MDS: Multi-Domain Subsystem.
    pub mds: bool,
    /// FCM: Fixed Capacity Management.
    pub fcm: bool,
    /// VCM: Variable Capacity Management.
    pub vcm: bool,
    /// DEG: Delete Endurance Group.
    pub deg: bool,
    /// DNVMS: Delete NVM Set.
    pub dnvms: bool,
    /// ELBAS: Extended LBA Formats Supported: more than 16 formats, and protection of 32 and 64
    /// bits.
    pub elbas: bool,
    /// MEM: MDTS and Size Limits Exclude Metadata.
    pub mem: bool,
    /// HMBR: Host Memory Buffer Restrict Non-Operational Power State Access.
    pub hmbr: bool,
    /// RHII: Reservations and Host Identifier Interaction.
    pub rhii: bool,
    /// FDPS: Flexible Data Placement Support.
    pub fdps: bool,
    #[bits(12)]
    __: u16,
}

/// OACS: Optional Admin Command Support (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Oacs {
    /// SSRS: Security Send and Security Receive.
    pub ssrs: bool,
    /// FNVMS: Format NVM.
    pub fnvms: bool,
    /// FWDS: Firmware Commit and Firmware Image Download.
    pub fwds: bool,
    /// NMS: Namespace Management and Attachment.
    pub nms: bool,
    /// DSTS: Device Self-test.
    pub dsts: bool,
    /// DIRS: Directives.
    pub dirs: bool,
    /// NSRS: NVMe-MI Send and Receive.
    pub nsrs: bool,
    /// VMS: Virtualization Management.
    pub vms: bool,
    /// DBCS: Doorbell Buffer Config.
    pub dbcs: bool,
    /// GLSS: Get LBA Status.
    pub glss: bool,
    /// CFLS: Command and Feature Lockdown.
    pub cfls: bool,
    /// HMLMS: Host Managed Live Migration.
    pub hmlms: bool,
    #[bits(4)]
    __: u8,
}

/// FRMW: Firmware Updates (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Frmw {
    /// FFSRO: First Firmware Slot Read Only.
    pub ffsro: bool,
    /// NOFS: Number of Firmware Slots, 1 to 7.
    #[bits(3)]
    pub nofs: u8,
    /// FAWR: Firmware Activation Without Reset.
    pub fawr: bool,
    /// SMUD: Support Multiple Update Detection.
    pub smud: bool,
    #[bits(2)]
    __: u8,
}

/// LPA: Log Page Attributes (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Lpa {
    /// SMARTS: SMART / Health Information per namespace.
    pub smarts: bool,
    /// CSES: Commands Supported and Effects log page.
    pub cses: bool,
    /// LPEDS: Log Page Extended Data Support: 32-bit NUMD, and LPO.
    pub lpeds: bool,
    /// TS: Telemetry.
    pub ts: bool,
    /// PES: Persistent Event log page.
    pub pes: bool,
    /// MLPS: Miscellaneous Log Page Support: pages 00h, 12h, 13h and their like.
    pub mlps: bool,
    /// DA4S: Telemetry Data Area 4.
    pub da4s: bool,
    #[bits(1)]
    __: u8,
}

/// ONCS: Optional NVM Command Support (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Oncs {
    /// NVMCMPS: Compare.
    pub nvmcmps: bool,
    /// NVMWUSV: Write Uncorrectable.
    pub nvmwusv: bool,
    /// NVMDSMSV: Dataset Management.
    pub nvmdsmsv: bool,
    /// NVMWZSV: Write Zeroes.
    pub nvmwzsv: bool,
    /// SSFS: Save and Select Feature Support.
    pub ssfs: bool,
    /// RESERVS: Reservations.
    pub reservs: bool,
    /// TSS: Timestamp.
    pub tss: bool,
    /// NVMVFYS: Verify.
    pub nvmvfys: bool,
    /// NVMCPYS: Copy.
    pub nvmcpys: bool,
    /// NVMCSAFC: Copy Single Atomicity / Fast Copy.
    pub nvmcsafc: bool,
    /// NVMAFC: All Fast Copy.
    pub nvmafc: bool,
    /// MAXWZD: Maximum Write Zeroes with Deallocate: WZDSL limits it.
    pub maxwzd: bool,
    /// NSZS: Namespace Zeroes.
    pub nszs: bool,
    #[bits(3)]
    __: u8,
}

/// FNA: Format NVM Attributes (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Fna {
    /// FNS: a format applies to all namespaces.
    pub fns: bool,
    /// SENS: a secure erase applies to all namespaces.
    pub sens: bool,
    /// CRYES: cryptographic erase.
    pub cryes: bool,
    /// BCNSID: Format NVM with NSID FFFFFFFFh is not supported.
    pub bcnsid: bool,
    #[bits(4)]
    __: u8,
}

/// VWC: Volatile Write Cache (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Vwc {
    /// VWCP: a volatile write cache is present.
    pub vwcp: bool,
    /// FB: Flush Behavior for NSID FFFFFFFFh: 0 not reported, 2 not supported, 3 supported.
    #[bits(2)]
    pub fb: u8,
    #[bits(5)]
    __: u8,
}

impl Vwc {
    /// FB: Flush does not take NSID FFFFFFFFh.
    pub const FLUSH_ALL_NOT_SUPPORTED: u8 = 2;
    /// FB: Flush takes NSID FFFFFFFFh.
    pub const FLUSH_ALL_SUPPORTED: u8 = 3;
}

/// SGLS: SGL Support (Base 2.1, "Identify Controller Data Structure").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Sgls {
    /// SGLS: 0 no SGLs, 1 any alignment, 2 dword alignment and granularity.
    #[bits(2)]
    pub sgls: u8,
    /// Keyed SGL Data Block descriptor.
    pub keyed: bool,
    #[bits(5)]
    __: u8,
    /// SDT: SGL Descriptor Threshold.
    pub sdt: u8,
    /// SGL Bit Bucket descriptor.
    pub bit_bucket: bool,
    /// Contiguous metadata may be aligned to a byte.
    pub metadata_byte_aligned: bool,
    /// SGLs may be longer than the data.
    pub oversize: bool,
    /// MPTR may hold the address of an SGL.
    pub metadata_sgl: bool,
    /// The address of a descriptor may be an offset.
    pub offset: bool,
    /// Transport SGL Data Block descriptor.
    pub transport: bool,
    #[bits(10)]
    __: u16,
}

/// NSFEAT: Namespace Features (NVM 1.1, "Identify Namespace Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Nsfeat {
    /// THINP: Thin Provisioning: NCAP may be less than NSZE.
    pub thinp: bool,
    /// NSABP: the namespace's own NAWUN, NAWUPF and NACWU hold.
    pub nsabp: bool,
    /// DAE: Deallocated Error: reading deallocated blocks can be made to fail.
    pub dae: bool,
    /// UIDREUSE: NGUID and EUI64 are never reused.
    pub uidreuse: bool,
    /// OPTPERF: bit 0: NPWG, NPWA, NPDG, NPDA and NOWS hold; bit 1: NPDGL holds (NVM 1.1).
    #[bits(2)]
    pub optperf: u8,
    /// MAM: Multiple Atomicity Mode.
    pub mam: bool,
    /// OPTRPERF: Optimal Read Performance: NPRG, NPRA and NORS hold.
    pub optrperf: bool,
}

/// FLBAS: Formatted LBA Size (NVM 1.1, "Identify Namespace Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Flbas {
    /// FIDXL: Format Index Lower.
    #[bits(4)]
    pub lower: u8,
    /// MTELBA: metadata is transferred at the end of each block's data.
    pub extended: bool,
    /// FIDXU: Format Index Upper.
    #[bits(2)]
    pub upper: u8,
    #[bits(1)]
    __: u8,
}

/// DLFEAT: Deallocate Logical Block Features (NVM 1.1, "Identify Namespace Data Structure").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Dlfeat {
    /// DRB: Deallocation Read Behavior: 0 not reported, 1 zeroes, 2 all ones.
    #[bits(3)]
    pub drb: u8,
    /// WZDS: Write Zeroes may deallocate.
    pub wzds: bool,
    /// GDS: the guard of a deallocated block is the CRC of what it reads as.
    pub gds: bool,
    #[bits(3)]
    __: u8,
}

impl Dlfeat {
    /// DRB: deallocated blocks read as zeroes.
    pub const READS_ZEROES: u8 = 1;
    /// DRB: deallocated blocks read as all ones.
    pub const READS_ONES: u8 = 2;
}
