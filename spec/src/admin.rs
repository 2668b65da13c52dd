//! Admin commands: opcodes, their command dwords, and a builder for each.
//!
//! Owns Base 2.1 "Admin Command Set". A builder sets everything but the command identifier and the
//! data pointer, which belong to the queue. A controller reads the same dwords back through the
//! `Cdw` types. The dwords of the less common commands are in `admin/dwords.rs`.

use crate::command::{NSID_ALL, Sqe, high, low};
use crate::feature::{Fid, Select};
use crate::identify::{Cns, Csi};
use crate::log::Lid;
use crate::open_set::open_set;

mod dwords;
pub use dwords::*;

open_set! {
    /// Opcode of an admin command (Base 2.1, "Opcodes for Admin Commands").
    pub struct AdminOpcode(u8): "Unknown Admin Command" {
        DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
        CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
        GET_LOG_PAGE = 0x02, "Get Log Page";
        DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
        CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
        IDENTIFY = 0x06, "Identify";
        ABORT = 0x08, "Abort";
        SET_FEATURES = 0x09, "Set Features";
        GET_FEATURES = 0x0a, "Get Features";
        ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
        NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
        FIRMWARE_COMMIT = 0x10, "Firmware Commit";
        FIRMWARE_DOWNLOAD = 0x11, "Firmware Image Download";
        SELF_TEST = 0x14, "Device Self-test";
        NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
        KEEP_ALIVE = 0x18, "Keep Alive";
        DIRECTIVE_SEND = 0x19, "Directive Send";
        DIRECTIVE_RECEIVE = 0x1a, "Directive Receive";
        VIRTUALIZATION_MANAGEMENT = 0x1c, "Virtualization Management";
        MI_SEND = 0x1d, "NVMe-MI Send";
        MI_RECEIVE = 0x1e, "NVMe-MI Receive";
        CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
        DISCOVERY_INFORMATION_MANAGEMENT = 0x21, "Discovery Information Management";
        FABRIC_ZONING_RECEIVE = 0x22, "Fabric Zoning Receive";
        LOCKDOWN = 0x24, "Lockdown";
        FABRIC_ZONING_LOOKUP = 0x25, "Fabric Zoning Lookup";
        CLEAR_EXPORTED_CONFIGURATION = 0x28, "Clear Exported NVM Resource Configuration";
        FABRIC_ZONING_SEND = 0x29, "Fabric Zoning Send";
        CREATE_EXPORTED_SUBSYSTEM = 0x2a, "Create Exported NVM Subsystem";
        MANAGE_EXPORTED_SUBSYSTEM = 0x2d, "Manage Exported NVM Subsystem";
        MANAGE_EXPORTED_NAMESPACE = 0x31, "Manage Exported Namespace";
        MANAGE_EXPORTED_PORT = 0x35, "Manage Exported Port";
        SEND_DISCOVERY_LOG = 0x39, "Send Discovery Log Page";
        TRACK_SEND = 0x3d, "Track Send";
        TRACK_RECEIVE = 0x3e, "Track Receive";
        MIGRATION_SEND = 0x41, "Migration Send";
        MIGRATION_RECEIVE = 0x42, "Migration Receive";
        CONTROLLER_DATA_QUEUE = 0x45, "Controller Data Queue";
        DOORBELL_BUFFER_CONFIG = 0x7c, "Doorbell Buffer Config";
        FABRICS = 0x7f, "Fabrics Commands";
        FORMAT_NVM = 0x80, "Format NVM";
        SECURITY_SEND = 0x81, "Security Send";
        SECURITY_RECEIVE = 0x82, "Security Receive";
        SANITIZE = 0x84, "Sanitize";
        GET_LBA_STATUS = 0x86, "Get LBA Status";
    }
}

impl AdminOpcode {
    /// Whether the opcode is one that vendors define, C0h to FFh.
    #[must_use]
    pub const fn is_vendor(self) -> bool {
        self.0 >= 0xc0
    }
}

const fn command(opcode: AdminOpcode) -> Sqe {
    Sqe::new(opcode.0)
}

/// Create I/O Completion Queue (Base 2.1, "Create I/O Completion Queue command").
///
/// The queue is contiguous: PRP1 takes its address. `iv` is the interrupt vector; without one the
/// queue is polled.
#[must_use]
pub const fn create_io_cq(qid: u16, size_z: u16, iv: Option<u16>) -> Sqe {
    let cdw11 = CreateCqCdw11::new().with_pc(true);
    let cdw11 = match iv {
        Some(iv) => cdw11.with_ien(true).with_iv(iv),
        None => cdw11,
    };
    Sqe {
        cdw10: CreateQueueCdw10::new().with_qid(qid).with_qsize_z(size_z).into_bits(),
        cdw11: cdw11.into_bits(),
        ..command(AdminOpcode::CREATE_IO_CQ)
    }
}

/// Create I/O Submission Queue (Base 2.1, "Create I/O Submission Queue command").
///
/// The queue is contiguous: PRP1 takes its address. `qprio` is one of [`CreateSqCdw11`]'s
/// `QPRIO_` constants and means something under weighted round robin only.
#[must_use]
pub const fn create_io_sq(qid: u16, size_z: u16, cqid: u16, qprio: u8) -> Sqe {
    let cdw11 = CreateSqCdw11::new().with_pc(true).with_qprio(qprio & 3).with_cqid(cqid);
    Sqe {
        cdw10: CreateQueueCdw10::new().with_qid(qid).with_qsize_z(size_z).into_bits(),
        cdw11: cdw11.into_bits(),
        ..command(AdminOpcode::CREATE_IO_SQ)
    }
}

/// Delete I/O Submission Queue (Base 2.1, "Delete I/O Submission Queue command").
#[must_use]
pub const fn delete_io_sq(qid: u16) -> Sqe {
    Sqe { cdw10: qid as u32, ..command(AdminOpcode::DELETE_IO_SQ) }
}

/// Delete I/O Completion Queue (Base 2.1, "Delete I/O Completion Queue command").
#[must_use]
pub const fn delete_io_cq(qid: u16) -> Sqe {
    Sqe { cdw10: qid as u32, ..command(AdminOpcode::DELETE_IO_CQ) }
}

/// Identify (Base 2.1, "Identify command"). Its data is always 4096 bytes.
///
/// `cntid` and `csi` are for the structures that take them, else 0 and [`Csi::NVM`].
#[must_use]
pub const fn identify(cns: Cns, nsid: u32, cntid: u16, csi: Csi) -> Sqe {
    Sqe {
        nsid,
        cdw10: IdentifyCdw10::new().with_cns(cns.0).with_cntid(cntid).into_bits(),
        cdw11: IdentifyCdw11::new().with_csi(csi.0).into_bits(),
        ..command(AdminOpcode::IDENTIFY)
    }
}

/// What [`get_log_page`] asks for. Start from [`LogRequest::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// LID: Log Page Identifier.
    pub lid: Lid,
    /// NUMD: Number of Dwords, minus one.
    pub numd_z: u32,
    /// The namespace, or [`NSID_ALL`] for the controller's page.
    pub nsid: u32,
    /// LPO: Log Page Offset in bytes, a multiple of 4.
    pub lpo: u64,
    /// RAE: Retain Asynchronous Event: reading does not re-arm the event that pointed here.
    pub rae: bool,
    /// LSP: Log Specific Parameter, 7 bits.
    pub lsp: u8,
    /// LSI: Log Specific Identifier.
    pub lsi: u16,
    /// CSI: Command Set Identifier, for pages that take one.
    pub csi: Csi,
    /// UUID Index, 7 bits.
    pub uuidx: u8,
}

impl LogRequest {
    /// The controller's page `lid`, `numd_z + 1` dwords from its start.
    #[must_use]
    pub const fn new(lid: Lid, numd_z: u32) -> LogRequest {
        LogRequest {
            lid,
            numd_z,
            nsid: NSID_ALL,
            lpo: 0,
            rae: false,
            lsp: 0,
            lsi: 0,
            csi: Csi::NVM,
            uuidx: 0,
        }
    }
}

/// Get Log Page (Base 2.1, "Get Log Page command").
#[must_use]
pub const fn get_log_page(request: LogRequest) -> Sqe {
    let numd = request.numd_z;
    Sqe {
        nsid: request.nsid,
        cdw10: LogCdw10::new()
            .with_lid(request.lid.0)
            .with_lsp(request.lsp & 0x7f)
            .with_rae(request.rae)
            .with_numdl(numd as u16)
            .into_bits(),
        cdw11: LogCdw11::new().with_numdu((numd >> 16) as u16).with_lsi(request.lsi).into_bits(),
        cdw12: low(request.lpo),
        cdw13: high(request.lpo),
        cdw14: LogCdw14::new().with_uuidx(request.uuidx & 0x7f).with_csi(request.csi.0).into_bits(),
        ..command(AdminOpcode::GET_LOG_PAGE)
    }
}

/// Set Features (Base 2.1, "Set Features command"). `save` is SV: keep the value over resets.
///
/// Features with more than one dword take the others in command dwords 12 to 15.
#[must_use]
pub const fn set_features(fid: Fid, nsid: u32, cdw11: u32, save: bool) -> Sqe {
    Sqe {
        nsid,
        cdw10: SetFeaturesCdw10::new().with_fid(fid.0).with_sv(save).into_bits(),
        cdw11,
        ..command(AdminOpcode::SET_FEATURES)
    }
}

/// Get Features (Base 2.1, "Get Features command"). The value comes in the completion's DW0, for
/// some features in a buffer.
#[must_use]
pub const fn get_features(fid: Fid, nsid: u32, select: Select, cdw11: u32) -> Sqe {
    Sqe {
        nsid,
        cdw10: GetFeaturesCdw10::new().with_fid(fid.0).with_sel(select.0 & 7).into_bits(),
        cdw11,
        ..command(AdminOpcode::GET_FEATURES)
    }
}

/// Abort (Base 2.1, "Abort command"). Bit 0 of the completion's DW0 is set if nothing was aborted.
#[must_use]
pub const fn abort(sqid: u16, cid: u16) -> Sqe {
    Sqe {
        cdw10: AbortCdw10::new().with_sqid(sqid).with_cid(cid).into_bits(),
        ..command(AdminOpcode::ABORT)
    }
}

/// Asynchronous Event Request (Base 2.1, "Asynchronous Event Request command"). It completes when
/// an event happens; [`AsyncEvent`] reads the completion's DW0.
#[must_use]
pub const fn async_event_request() -> Sqe {
    command(AdminOpcode::ASYNC_EVENT_REQUEST)
}

/// Keep Alive (Base 2.1, "Keep Alive command").
#[must_use]
pub const fn keep_alive() -> Sqe {
    command(AdminOpcode::KEEP_ALIVE)
}

/// Doorbell Buffer Config (Base 2.1, "Doorbell Buffer Config command").
///
/// PRP1 takes the page of shadow doorbells, PRP2 the page of event indices, both aligned to
/// CC.MPS.
#[must_use]
pub const fn doorbell_buffer_config() -> Sqe {
    command(AdminOpcode::DOORBELL_BUFFER_CONFIG)
}

/// Format NVM (Base 2.1, "Format NVM command").
#[must_use]
pub const fn format_nvm(nsid: u32, options: FormatCdw10) -> Sqe {
    Sqe { nsid, cdw10: options.into_bits(), ..command(AdminOpcode::FORMAT_NVM) }
}

/// Firmware Image Download (Base 2.1, "Firmware Image Download command"): `numd_z + 1` dwords of
/// the image, from its dword `offset`.
#[must_use]
pub const fn firmware_download(numd_z: u32, offset: u32) -> Sqe {
    Sqe { cdw10: numd_z, cdw11: offset, ..command(AdminOpcode::FIRMWARE_DOWNLOAD) }
}

/// Firmware Commit (Base 2.1, "Firmware Commit command").
#[must_use]
pub const fn firmware_commit(options: FirmwareCommitCdw10) -> Sqe {
    Sqe { cdw10: options.into_bits(), ..command(AdminOpcode::FIRMWARE_COMMIT) }
}

/// Device Self-test (Base 2.1, "Device Self-test command"). `stc` is one of the [`SelfTest`] codes.
#[must_use]
pub const fn self_test(nsid: u32, stc: SelfTest) -> Sqe {
    Sqe { nsid, cdw10: (stc.0 & 0xf) as u32, ..command(AdminOpcode::SELF_TEST) }
}

/// Sanitize (Base 2.1, "Sanitize command"). `pattern` is OVRPAT, for an overwrite.
#[must_use]
pub const fn sanitize(options: SanitizeCdw10, pattern: u32) -> Sqe {
    Sqe { cdw10: options.into_bits(), cdw11: pattern, ..command(AdminOpcode::SANITIZE) }
}

#[cfg(test)]
mod tests;
