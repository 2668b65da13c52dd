//! Log pages, and what is collected for them.

use std::collections::{BTreeSet, VecDeque};

use doorbell_spec::admin::{AdminOpcode, AsyncEvent, LogCdw10, LogCdw11, LogCdw14};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::identify::Csi;
use doorbell_spec::log::{
    ChangedNamespaceList, CommandEffects, CommandEffectsLog, CriticalWarning, ErrorLogEntry,
    FeatureEffects, FeatureEffectsLog, FirmwareSlotLog, Lid, LidSupport, SmartLog,
    SupportedLogPages,
};
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::status::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::core::{Core, Kind, Transfer};
use super::feature::{self, KELVIN};

/// ELPE: entries of the error log, minus one.
pub(crate) const ELPE_Z: u8 = 63;
/// PEL where no byte of the command is to blame.
const NO_LOCATION: u16 = 0xffff;
/// Bytes in a SMART data unit: a thousand sectors.
const DATA_UNIT: u64 = 512 * 1000;

/// CSP: the command is about a namespace.
const SCOPE_NAMESPACE: u16 = 1 << 0;
/// CSP: the command is about the controller.
const SCOPE_CONTROLLER: u16 = 1 << 1;

const PAGES: [Lid; 8] = [
    Lid::SUPPORTED_LOG_PAGES,
    Lid::ERROR_INFORMATION,
    Lid::SMART,
    Lid::FIRMWARE_SLOT,
    Lid::CHANGED_NAMESPACES,
    Lid::COMMAND_EFFECTS,
    Lid::FEATURE_EFFECTS,
    Lid::MI_EFFECTS,
];

/// The errors of late, newest first.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorLogEntry>,
}

impl ErrorLog {
    /// Keeps an error, and says so in its status.
    #[cold]
    pub(crate) fn record(&mut self, sqid: u16, sqe: &Sqe, status: Status) -> Status {
        let status = status.with_more();
        self.count += 1;
        let mut entry = ErrorLogEntry::new_zeroed();
        entry.ecnt.set(self.count);
        entry.sqid.set(sqid);
        entry.cid.set(sqe.cid());
        entry.status.set(status.into_bits() << 1);
        entry.pel.set(NO_LOCATION);
        entry.nsid.set(sqe.nsid);
        entry.opc = sqe.opcode();
        entry.lpver = 1;
        if sqid != 0 {
            entry.lba.set(sqe.slba());
        }
        self.entries.truncate(usize::from(ELPE_Z));
        self.entries.push_front(entry);
        status
    }
}

/// Namespaces that changed since the host last asked.
#[derive(Debug, Default)]
pub(crate) struct ChangedNamespaces(BTreeSet<u32>);

impl ChangedNamespaces {
    pub(crate) fn add(&mut self, nsid: u32) {
        self.0.insert(nsid);
    }
}

impl Core {
    pub(super) fn get_log_page(
        &mut self,
        sqe: &Sqe,
        data: &mut dyn Transfer,
    ) -> Result<u64, Status> {
        let lid = Lid(LogCdw10::from_bits(sqe.cdw10).lid());
        let page = self.log_page(lid, sqe, LogCdw14::from_bits(sqe.cdw14))?;
        self.give_page(sqe, &page, data)
    }

    /// Gives the host the part of `page` that it asks for.
    pub(crate) fn give_page(
        &mut self,
        sqe: &Sqe,
        page: &[u8],
        data: &mut dyn Transfer,
    ) -> Result<u64, Status> {
        let invalid = || Status::INVALID_FIELD.with_dnr();
        let request = LogCdw10::from_bits(sqe.cdw10);
        let upper = LogCdw11::from_bits(sqe.cdw11).numdu();
        let dwords = u64::from(request.numdl()) + (u64::from(upper) << 16) + 1;
        let options = LogCdw14::from_bits(sqe.cdw14);
        let offset = u64::from(sqe.cdw13) << 32 | u64::from(sqe.cdw12);
        let len = dwords * 4;
        if len > self.max_bytes() || options.ot() || !offset.is_multiple_of(4) {
            return Err(invalid());
        }
        let offset = usize::try_from(offset).map_err(|_| invalid())?;
        let rest = page.get(offset..).ok_or_else(invalid)?;
        let rest = rest.get(..len as usize).unwrap_or(rest);
        data.give(rest, len as usize)?;
        if !request.rae() {
            self.log_was_read(Lid(request.lid()));
        }
        Ok(0)
    }

    fn log_page(&self, lid: Lid, sqe: &Sqe, options: LogCdw14) -> Result<Vec<u8>, Status> {
        Ok(match lid {
            _ if self.kind == Kind::Discovery => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
            Lid::SUPPORTED_LOG_PAGES => supported_pages().as_bytes().to_vec(),
            Lid::ERROR_INFORMATION => {
                let mut page = vec![0; 64 * (usize::from(ELPE_Z) + 1)];
                for (to, from) in page.chunks_exact_mut(64).zip(&self.errors.entries) {
                    to.copy_from_slice(from.as_bytes());
                }
                page
            }
            // The controller's page only: LPA says that there is none per namespace.
            Lid::SMART if !matches!(sqe.nsid, 0 | NSID_ALL) => {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            Lid::SMART => self.smart().as_bytes().to_vec(),
            Lid::FIRMWARE_SLOT => self.firmware().as_bytes().to_vec(),
            Lid::CHANGED_NAMESPACES => {
                let ids = self.changed.0.iter().copied();
                ChangedNamespaceList::from_ids(ids).as_bytes().to_vec()
            }
            Lid::COMMAND_EFFECTS if options.csi() != Csi::NVM.0 => {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            Lid::COMMAND_EFFECTS => effects(self.kind).as_bytes().to_vec(),
            Lid::FEATURE_EFFECTS => features(self.kind).as_bytes().to_vec(),
            // No command of NVMe-MI is supported.
            Lid::MI_EFFECTS => vec![0; 4096],
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        })
    }

    /// The host has read a page and does not want its event retained.
    fn log_was_read(&mut self, lid: Lid) {
        match lid {
            Lid::ERROR_INFORMATION => self.events.rearm(AsyncEvent::TYPE_ERROR),
            Lid::SMART => self.events.rearm(AsyncEvent::TYPE_SMART),
            Lid::CHANGED_NAMESPACES => {
                self.changed = ChangedNamespaces::default();
                self.events.rearm(AsyncEvent::TYPE_NOTICE);
            }
            Lid::FIRMWARE_SLOT | Lid::DISCOVERY => self.events.rearm(AsyncEvent::TYPE_NOTICE),
            _ => {}
        }
    }

    fn smart(&self) -> SmartLog {
        let mut page = SmartLog::new_zeroed();
        let hot = self.features.too_hot_or_cold();
        page.cw = CriticalWarning::new().with_ttc(hot).into_bits();
        page.ctemp.set(KELVIN);
        page.avsp = 100;
        page.avspt = 10;
        let counters = &self.counters;
        page.dur.set(counters.bytes_read.div_ceil(DATA_UNIT).into());
        page.duw.set(counters.bytes_written.div_ceil(DATA_UNIT).into());
        page.hrc.set(counters.reads.into());
        page.hwc.set(counters.writes.into());
        page.pwrc.set(1);
        page.poh.set((self.now.as_secs() / 3600).into());
        page.mdie.set(counters.media_errors.into());
        page.neile.set(self.errors.count.into());
        page
    }

    fn firmware(&self) -> FirmwareSlotLog {
        let mut page = FirmwareSlotLog::new_zeroed();
        page.afi = 1;
        let [slot, ..] = &mut page.frs;
        *slot = *b"        ";
        for (to, from) in slot.iter_mut().zip(self.subsystem.firmware().into_bytes()) {
            *to = from;
        }
        page
    }
}

fn supported_pages() -> SupportedLogPages {
    let mut page = SupportedLogPages::new_zeroed();
    for lid in PAGES {
        page.set(lid, LidSupport::new().with_lsupp(true));
    }
    page
}

fn features(kind: Kind) -> FeatureEffectsLog {
    let mut page = FeatureEffectsLog::new_zeroed();
    for (fid, of_namespace) in feature::supported(kind) {
        let scope = if of_namespace {
            FeatureEffects::FSP_NAMESPACE
        } else {
            FeatureEffects::FSP_CONTROLLER
        };
        page.set(fid, FeatureEffects::new().with_fsupp(true).with_fsp(scope));
    }
    page
}

fn effects(kind: Kind) -> CommandEffectsLog {
    let mut page = CommandEffectsLog::new_zeroed();
    let administers = CommandEffects::new().with_csupp(true).with_csp(SCOPE_CONTROLLER);
    let reads = CommandEffects::new().with_csupp(true).with_csp(SCOPE_NAMESPACE);
    let writes = reads.with_lbcc(true);
    for opcode in [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
    ] {
        page.set_admin(opcode.0, administers);
    }
    let own: &[AdminOpcode] = match kind {
        Kind::Pcie => &[
            AdminOpcode::DELETE_IO_SQ,
            AdminOpcode::CREATE_IO_SQ,
            AdminOpcode::DELETE_IO_CQ,
            AdminOpcode::CREATE_IO_CQ,
            AdminOpcode::DOORBELL_BUFFER_CONFIG,
        ],
        Kind::Fabrics { .. } | Kind::Discovery => &[AdminOpcode::KEEP_ALIVE],
    };
    for opcode in own {
        page.set_admin(opcode.0, administers);
    }
    // It changes blocks and what a namespace is.
    if kind != Kind::Discovery {
        let formats = reads.with_lbcc(true).with_ncc(true);
        page.set_admin(AdminOpcode::FORMAT_NVM.0, formats);
    }
    for opcode in [NvmOpcode::FLUSH, NvmOpcode::READ, NvmOpcode::COMPARE, NvmOpcode::VERIFY] {
        page.set_io(opcode.0, reads);
    }
    for opcode in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT] {
        page.set_io(opcode.0, writes);
    }
    page
}
