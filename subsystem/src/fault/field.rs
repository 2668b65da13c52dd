//! What a file can name: fields of CAP, of Identify Controller and of Identify Namespace, registers, opcodes and PDUs.

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::fabrics::command::Fctype;
use doorbell_spec::fabrics::pdu::PduType;
use doorbell_spec::identify::{IdentifyController, IdentifyNamespace};
use doorbell_spec::nvm::NvmOpcode;
use doorbell_spec::register::{Cap, offset};

/// Where a field of an Identify structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) at: usize,
    pub(super) len: usize,
}

/// The fields of `$structure` by the documents' names, in small letters.
macro_rules! fields {
    ($name:expr, $structure:ty: $($field:ident)*) => {{
        fn len<F>(_: impl Fn(&$structure) -> &F) -> usize {
            size_of::<F>()
        }
        $(
            // Zero-based fields are known without their ending.
            let known = stringify!($field);
            if known.strip_suffix("_z").unwrap_or(known) == $name {
                let at = std::mem::offset_of!($structure, $field);
                return Some(Field { at, len: len(|structure| &structure.$field) });
            }
        )*
        None
    }};
}

pub(super) fn of_controller(name: &str) -> Option<Field> {
    fields!(name, IdentifyController:
        vid ssvid sn mn fr rab ieee cmic mdts cntlid ver rtd3r rtd3e oaes ctratt rrls cntrltype fguid crdt1 crdt2 crdt3
        oacs acl_z aerl_z frmw lpa elpe_z npss_z avscc apsta wctemp cctemp mtfa hmpre hmmin tnvmcap unvmcap rpmbs edstt
        dsto fwug kas hctma mntmt mxtmt sanicap hmminds hmmaxd nsetidmax endgidmax anatt anacap anagrpmax nanagrpid pels
        domainid cqt sqes cqes maxcmd nn oncs fuses fna vwc awun_z awupf_z icsvscc nwpc acwu_z ocfs sgls mnan subnqn
        ioccsz iorcsz icdoff fcatt msdbd ofcs dctype)
}

pub(super) fn of_namespace(name: &str) -> Option<Field> {
    fields!(name, IdentifyNamespace:
        nsze ncap nuse nsfeat nlbaf_z flbas mc dpc dps nmic rescap dlfeat nawun_z nawupf_z nacwu_z nabsn_z nabo nabspf_z
        noiob nvmcap nguid eui64)
}

/// `value` in a field of CAP, and all bits of the field; `None` where there is no such field or it is too narrow.
pub(super) fn of_capabilities(name: &str, value: u64) -> Option<(Cap, Cap)> {
    macro_rules! fields {
        ($($known:literal $read:ident $write:ident;)*) => {
            match name {
                $($known => {
                    let most = Cap::from_bits(u64::MAX).$read();
                    let mask = Cap::new().$write(most);
                    let fits = value <= u64::from(most);
                    let value = value << mask.into_bits().trailing_zeros();
                    fits.then(|| (mask, Cap::from_bits(value)))
                })*
                _ => None,
            }
        };
    }
    fields! {
        "mqes" mqes_z with_mqes_z;
        "cqr" cqr with_cqr;
        "ams" ams with_ams;
        "to" to with_to;
        "dstrd" dstrd with_dstrd;
        "nssrs" nssrs with_nssrs;
        "css" css with_css;
        "bps" bps with_bps;
        "cps" cps with_cps;
        "mpsmin" mpsmin with_mpsmin;
        "mpsmax" mpsmax with_mpsmax;
        "pmrs" pmrs with_pmrs;
        "cmbs" cmbs with_cmbs;
        "nsss" nsss with_nsss;
        "crms" crms with_crms;
        "nsses" nsses with_nsses;
    }
}

/// The offset of a register.
pub(super) fn register(name: &str) -> Option<u64> {
    Some(match name {
        "CAP" => offset::CAP,
        "VS" => offset::VS,
        "INTMS" => offset::INTMS,
        "INTMC" => offset::INTMC,
        "CC" => offset::CC,
        "CSTS" => offset::CSTS,
        "NSSR" => offset::NSSR,
        "AQA" => offset::AQA,
        "ASQ" => offset::ASQ,
        "ACQ" => offset::ACQ,
        "CMBLOC" => offset::CMBLOC,
        "CMBSZ" => offset::CMBSZ,
        "BPINFO" => offset::BPINFO,
        "CMBMSC" => offset::CMBMSC,
        "CRTO" => offset::CRTO,
        "PMRCAP" => offset::PMRCAP,
        "PMRSTS" => offset::PMRSTS,
        _ => return None,
    })
}

/// The type of a PDU.
pub(super) fn pdu(name: &str) -> Option<PduType> {
    Some(match name {
        "icreq" => PduType::IC_REQ,
        "icresp" => PduType::IC_RESP,
        "h2c-term-req" => PduType::H2C_TERM_REQ,
        "c2h-term-req" => PduType::C2H_TERM_REQ,
        "capsule-command" => PduType::CAPSULE_COMMAND,
        "capsule-response" => PduType::CAPSULE_RESPONSE,
        "h2c-data" => PduType::H2C_DATA,
        "c2h-data" => PduType::C2H_DATA,
        "r2t" => PduType::R2T,
        _ => return None,
    })
}

/// An opcode, of an I/O command or of an admin command, or the type of a Fabrics command.
pub(super) enum Opcode {
    Io(NvmOpcode),
    Admin(AdminOpcode),
    Fabrics(Fctype),
}

pub(super) fn opcode(name: &str) -> Option<Opcode> {
    use Opcode::{Admin, Fabrics, Io};
    Some(match name {
        "flush" => Io(NvmOpcode::FLUSH),
        "write" => Io(NvmOpcode::WRITE),
        "read" => Io(NvmOpcode::READ),
        "compare" => Io(NvmOpcode::COMPARE),
        "write-zeroes" => Io(NvmOpcode::WRITE_ZEROES),
        "dataset-management" => Io(NvmOpcode::DATASET_MANAGEMENT),
        "verify" => Io(NvmOpcode::VERIFY),
        "delete-io-sq" => Admin(AdminOpcode::DELETE_IO_SQ),
        "create-io-sq" => Admin(AdminOpcode::CREATE_IO_SQ),
        "get-log-page" => Admin(AdminOpcode::GET_LOG_PAGE),
        "delete-io-cq" => Admin(AdminOpcode::DELETE_IO_CQ),
        "create-io-cq" => Admin(AdminOpcode::CREATE_IO_CQ),
        "identify" => Admin(AdminOpcode::IDENTIFY),
        "abort" => Admin(AdminOpcode::ABORT),
        "set-features" => Admin(AdminOpcode::SET_FEATURES),
        "get-features" => Admin(AdminOpcode::GET_FEATURES),
        "asynchronous-event-request" => Admin(AdminOpcode::ASYNC_EVENT_REQUEST),
        "keep-alive" => Admin(AdminOpcode::KEEP_ALIVE),
        "format-nvm" => Admin(AdminOpcode::FORMAT_NVM),
        "connect" => Fabrics(Fctype::CONNECT),
        "property-get" => Fabrics(Fctype::PROPERTY_GET),
        "property-set" => Fabrics(Fctype::PROPERTY_SET),
        "disconnect" => Fabrics(Fctype::DISCONNECT),
        "doorbell-buffer-config" => Admin(AdminOpcode::DOORBELL_BUFFER_CONFIG),
        _ => return None,
    })
}
