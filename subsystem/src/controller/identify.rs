//! Identify: what the controller says about itself and its namespaces.

use doorbell_spec::admin::{IdentifyCdw10, IdentifyCdw11};
use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::identify::{
    Cmic, Cns, ControllerList, Csi, Ctratt, Descriptor, Dlfeat, Frmw, IdentifierType,
    IdentifyController, IdentifyNamespace, IndependentNamespace, LbaFormat, Lpa,
    NamespaceDescriptorList, NamespaceList, Nsfeat, Oacs, Oncs, SIZE, Sgls, Vwc,
};
use doorbell_spec::status::Status;
use zerocopy::{FromZeros, IntoBytes};

use super::core::{Core, Kind, Transfer};
use super::event::AERL_Z;
use super::feature::{CRITICAL_KELVIN, WARNING_KELVIN};
use super::io_command::namespace;
use super::log::ELPE_Z;
use super::registers::VERSION;
use crate::namespace::{FORMATS, Namespace};

/// Abort Command Limit, minus one.
pub(crate) const ACL_Z: u8 = 3;

/// Event kinds that AEC can switch on, beside the SMART bits: Namespace Attribute Notices (OAES bit 8) and Firmware
/// Activation Notices (bit 9).
const OAES: u32 = 1 << 8 | 1 << 9;
/// OAES of a discovery controller: Discovery Log Page Change Notices.
const OAES_DISCOVERY: u32 = 1 << 31;
/// KAS: the keep alive timer counts in units of 100 ms; this is a second.
pub(crate) const KAS: u16 = 10;
/// NMIC and CMIC: namespaces may be attached to several controllers.
const SHARED: u8 = 1;

impl Core {
    pub(super) fn identify(&mut self, sqe: &Sqe, data: &mut dyn Transfer) -> Result<u64, Status> {
        let selection = IdentifyCdw10::from_bits(sqe.cdw10);
        let page = self.identify_page(sqe, selection)?;
        data.give(&page, SIZE)?;
        Ok(0)
    }

    fn identify_page(&self, sqe: &Sqe, selection: IdentifyCdw10) -> Result<[u8; SIZE], Status> {
        let mut page = [0; SIZE];
        let nsid = sqe.nsid;
        let first = selection.cntid();
        if self.kind == Kind::Discovery && Cns(selection.cns()) != Cns::CONTROLLER {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        match Cns(selection.cns()) {
            Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                if let Some(namespace) = self.named(nsid)? {
                    page = into_page(&describe(namespace));
                }
            }
            Cns::CONTROLLER => page = into_page(&self.describe_controller()),
            Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES => page = self.list(nsid)?,
            Cns::NAMESPACE_DESCRIPTORS => {
                page = into_page(&names(namespace(&self.namespaces, nsid)?));
            }
            Cns::IO_NAMESPACE => {
                only_nvm(sqe)?;
                // Nothing of what the NVM command set says here is supported: zeroes, found or not.
                self.named(nsid)?;
            }
            // Zeroes: no limit but MDTS, none for the commands that move no data.
            Cns::IO_CONTROLLER => only_nvm(sqe)?,
            Cns::IO_ACTIVE_NAMESPACES | Cns::IO_ALLOCATED_NAMESPACES => {
                only_nvm(sqe)?;
                page = self.list(nsid)?;
            }
            Cns::INDEPENDENT_NAMESPACE => {
                if self.named(nsid)?.is_some() {
                    page = into_page(&independent());
                }
            }
            Cns::NAMESPACE_CONTROLLERS => {
                namespace(&self.namespaces, nsid)?;
                page = into_page(&self.controllers(first));
            }
            Cns::CONTROLLERS => page = into_page(&self.controllers(first)),
            // One combination: the NVM command set alone.
            Cns::IO_COMMAND_SETS => {
                let [combination, ..] = &mut page;
                *combination = 1 << Csi::NVM.0;
            }
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        }
        Ok(page)
    }

    /// The namespace; nothing where the identifier is valid and unused.
    fn named(&self, nsid: u32) -> Result<Option<&Namespace>, Status> {
        match self.namespaces.get((nsid as usize).wrapping_sub(1)) {
            Some(slot) => Ok(slot.as_deref()),
            None => Err(Status::INVALID_NAMESPACE.with_dnr()),
        }
    }

    /// The active namespaces above `nsid`.
    fn list(&self, nsid: u32) -> Result<[u8; SIZE], Status> {
        if nsid >= NSID_ALL - 1 {
            return Err(Status::INVALID_NAMESPACE.with_dnr());
        }
        let active = self.namespaces.iter().zip(1u32..).filter(|(slot, _)| slot.is_some());
        let above = active.map(|(_, id)| id).filter(|id| *id > nsid);
        Ok(into_page(&NamespaceList::from_ids(above)))
    }

    fn controllers(&self, first: u16) -> ControllerList {
        ControllerList::from_ids(self.subsystem.controllers(first, 2047))
    }

    fn describe_controller(&self) -> IdentifyController {
        let mut page = IdentifyController::new_zeroed();
        page.vid.set(self.config.vid);
        page.ssvid.set(self.config.vid);
        page.set_serial(self.subsystem.serial());
        page.set_model(self.subsystem.model());
        page.set_firmware(&self.subsystem.firmware());
        page.set_nqn(self.subsystem.nqn());
        page.rab = 5;
        page.cmic = Cmic::new().with_mctrs(true).into_bits();
        page.mdts = self.config.mdts;
        page.cntlid.set(self.cntlid);
        page.ver.set(VERSION.into_bits());
        page.oaes.set(OAES);
        page.ctratt.set(Ctratt::new().with_hids(true).into_bits());
        page.cntrltype = IdentifyController::CNTRLTYPE_IO;
        page.acl_z = ACL_Z;
        page.aerl_z = AERL_Z;
        page.frmw = Frmw::new().with_ffsro(true).with_nofs(1).into_bits();
        page.lpa = Lpa::new().with_cses(true).with_lpeds(true).with_mlps(true).into_bits();
        page.elpe_z = ELPE_Z;
        page.wctemp.set(WARNING_KELVIN);
        page.cctemp.set(CRITICAL_KELVIN);
        page.sqes = 0x66;
        page.cqes = 0x44;
        page.nn.set(self.subsystem.max_namespaces());
        page.mnan.set(self.subsystem.max_namespaces());
        let oncs = Oncs::new()
            .with_nvmcmps(true)
            .with_nvmdsmsv(true)
            .with_nvmwzsv(true)
            .with_ssfs(true)
            .with_tss(true)
            .with_nvmvfys(true);
        page.oncs.set(oncs.into_bits());
        page.vwc = Vwc::new().with_vwcp(true).with_fb(Vwc::FLUSH_ALL_SUPPORTED).into_bits();
        let [state, ..] = &mut page.psd;
        // 25 W, in hundredths.
        state.mp.set(2500);
        match self.kind {
            Kind::Pcie => page.oacs.set(Oacs::new().with_fnvms(true).with_dbcs(true).into_bits()),
            Kind::Fabrics { in_capsule } => self.describe_fabrics(&mut page, in_capsule),
            Kind::Discovery => {
                self.describe_fabrics(&mut page, 0);
                page.cntrltype = IdentifyController::CNTRLTYPE_DISCOVERY;
                page.oaes.set(OAES_DISCOVERY);
                page.lpa = Lpa::new().with_lpeds(true).into_bits();
                page.nn.set(0);
                page.mnan.set(0);
                page.oacs.set(0);
                page.oncs.set(0);
                page.vwc = 0;
            }
        }
        page
    }
}

impl Core {
    /// What only a controller that hosts connect to says (PEER-10 and what a Linux host refuses).
    fn describe_fabrics(&self, page: &mut IdentifyController, in_capsule: u32) {
        page.oacs.set(Oacs::new().with_fnvms(true).into_bits());
        page.vid.set(0);
        page.ssvid.set(0);
        page.cmic = Cmic::new().with_mports(true).with_mctrs(true).into_bits();
        page.ctratt.set(Ctratt::new().with_hids(true).with_tbkas(true).into_bits());
        page.kas.set(KAS);
        page.maxcmd.set(self.config.mqes_z.saturating_add(1));
        // Any alignment; data in the capsule at an offset, or moved by the transport.
        page.sgls.set(Sgls::new().with_sgls(1).with_offset(true).with_transport(true).into_bits());
        page.ioccsz.set((64 + in_capsule) / 16);
        page.iorcsz.set(1);
        page.msdbd = 1;
        page.ofcs.set(IdentifyController::OFCS_DISCONNECT);
    }
}

fn describe(namespace: &Namespace) -> IdentifyNamespace {
    let mut page = IdentifyNamespace::new_zeroed();
    let properties = namespace.properties();
    page.nsze.set(namespace.blocks());
    page.ncap.set(namespace.blocks());
    page.nuse.set(namespace.blocks());
    page.nsfeat = Nsfeat::new().with_thinp(properties.thin).into_bits();
    page.nmic = SHARED;
    if properties.zeroes {
        page.dlfeat = Dlfeat::new().with_drb(Dlfeat::READS_ZEROES).with_wzds(true).into_bits();
    }
    page.nvmcap.set(u128::from(namespace.backend().len()));
    page.nguid = namespace.ids().nguid;
    page.eui64 = namespace.ids().eui64;
    // Zero-based; the index of the format in use stands in bits 3:0.
    page.nlbaf_z = FORMATS.len() as u8 - 1;
    for (index, (format, shift)) in page.lbaf.iter_mut().zip(FORMATS).enumerate() {
        *format = LbaFormat::new(shift as u8);
        if shift == namespace.block_shift() {
            page.flbas = index as u8;
        }
    }
    page
}

fn names(namespace: &Namespace) -> NamespaceDescriptorList {
    let ids = namespace.ids();
    let csi = [Csi::NVM.0];
    let names = [
        (IdentifierType::EUI64, ids.eui64.as_slice()),
        (IdentifierType::NGUID, ids.nguid.as_slice()),
        (IdentifierType::UUID, ids.uuid.as_slice()),
    ];
    let given = names.into_iter().filter(|(_, id)| id.iter().any(|byte| *byte != 0));
    let all = given.chain([(IdentifierType::CSI, csi.as_slice())]);
    NamespaceDescriptorList::from_descriptors(all.map(|(nidt, nid)| Descriptor { nidt, nid }))
}

fn independent() -> IndependentNamespace {
    let mut page = IndependentNamespace::new_zeroed();
    page.nmic = SHARED;
    page.nstat = IndependentNamespace::NRDY;
    page
}

fn only_nvm(sqe: &Sqe) -> Result<(), Status> {
    if IdentifyCdw11::from_bits(sqe.cdw11).csi() != Csi::NVM.0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    Ok(())
}

fn into_page<T: IntoBytes + zerocopy::Immutable>(structure: &T) -> [u8; SIZE] {
    let mut page = [0; SIZE];
    for (to, from) in page.iter_mut().zip(structure.as_bytes()) {
        *to = *from;
    }
    page
}
