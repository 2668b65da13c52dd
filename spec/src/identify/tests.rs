//! Golden offsets, and pages that a device got wrong.

use super::*;
use core::mem::offset_of;
use std::format;
use std::string::String;
use std::vec::Vec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

macro_rules! offsets {
    ($type:ident: $($field:ident $offset:literal),* $(,)?) => {
        $(assert_eq!(offset_of!($type, $field), $offset, stringify!($field));)*
    };
}

#[test]
fn controller_offsets() {
    offsets!(IdentifyController:
        sn 4, mn 24, fr 64, ieee 73, cmic 76, mdts 77, cntlid 78, ver 80, rtd3r 84, rtd3e 88,
        oaes 92, ctratt 96, cntrltype 111, fguid 112, crdt1 128, oacs 256, acl_z 258, aerl_z 259,
        frmw 260, lpa 261, elpe_z 262, npss_z 263, wctemp 266, mtfa 270, hmpre 272, hmmin 276,
        tnvmcap 280, edstt 316, fwug 319, kas 320, sanicap 328, hmminds 332, hmmaxd 336,
        anatt 342, anacap 343, anagrpmax 344, nanagrpid 348, pels 352, domainid 356, sqes 512,
        cqes 513, maxcmd 514, nn 516, oncs 520, fuses 522, fna 524, vwc 525, awun_z 526,
        awupf_z 528, icsvscc 530, nwpc 531, acwu_z 532, ocfs 534, sgls 536, mnan 540, oaqd 564,
        subnqn 768, ioccsz 1792, iorcsz 1796, icdoff 1800, fcatt 1802, msdbd 1803, ofcs 1804,
        psd 2048, vs 3072,
    );
    offsets!(PowerState: mp 0, flags 3, enlat 4, exlat 8, rrt 12, rwl 15, idlp 16, ips 18,
        actp 20, apws 22, epfrt 23);
}

#[test]
fn limits_of_the_nvm_command_set() {
    let mut bytes = [0; SIZE];
    bytes[..8].copy_from_slice(&[5, 6, 7, 255, 1, 2, 0, 0]);
    let page = NvmController::read_from_bytes(&bytes).unwrap();
    assert_eq!(
        (page.vsl, page.wzsl, page.wusl, page.dmrl, page.dmrsl.get()),
        (5, 6, 7, 255, 0x201)
    );
    assert_eq!(NvmController::bytes(page.wzsl, 0), Some(64 << 12));
    assert_eq!(NvmController::bytes(page.vsl, 1), Some(32 << 13));
    assert_eq!(NvmController::bytes(0, 0), None);
    assert_eq!(NvmController::bytes(255, 15), None);
}

#[test]
fn namespace_offsets() {
    offsets!(IdentifyNamespace:
        nsze 0, ncap 8, nuse 16, nsfeat 24, nlbaf_z 25, flbas 26, mc 27, dpc 28, dps 29, nmic 30,
        rescap 31, fpi 32, dlfeat 33, nawun_z 34, nawupf_z 36, nacwu_z 38, nabsn_z 40, nabo 42,
        nabspf_z 44, noiob 46, nvmcap 48, npwg_z 64, npwa_z 66, npdg_z 68, npda_z 70, nows_z 72,
        mssrl 74, mcl 76, msrc_z 80, nulbaf 82, anagrpid 92, nsattr 99, nvmsetid 100, endgid 102,
        nguid 104, eui64 120, lbaf 128, vs 384,
    );
}

#[test]
fn controller_texts() {
    let mut id = IdentifyController::new_zeroed();
    id.set_serial("S1");
    id.set_model("A drive with a name that is longer than forty bytes");
    id.set_firmware("1.0");
    id.set_nqn("nqn.2014-08.org.nvmexpress:uuid:0");
    assert_eq!(id.as_bytes()[4..24], *b"S1                  ");
    assert_eq!(format!("{}", id.model()), "A drive with a name that is longer than");
    assert_eq!(id.firmware().as_str(), Some("1.0"));
    assert_eq!(id.nqn().unwrap().as_str(), Some("nqn.2014-08.org.nvmexpress:uuid:0"));
}

/// PIT-48: all ones, control bytes, no padding.
#[test]
fn controller_texts_that_are_not() {
    let mut id = IdentifyController::new_zeroed();
    id.sn = [0xff; 20];
    id.fr = *b" a\x1b\x7f\xc3\xa9b ";
    assert_eq!(format!("{}", id.serial()), "?".repeat(20));
    assert_eq!(id.serial().as_str(), None);
    assert_eq!(format!("{}", id.firmware()), "a????b");
    assert_eq!(format!("{:?}", id.firmware()), "\"a????b\"");
    assert!(id.model().is_empty());
    assert_eq!(Text::new(b"ab  "), Text::new(b"ab\0junk"));
    assert_eq!(format!("[{:6}]", Text::new(b"ab  ")), "[ab    ]");
}

/// PIT-49: an NQN that is empty or does not end.
#[test]
fn names_that_are_not() {
    let mut id = IdentifyController::new_zeroed();
    assert_eq!(id.nqn(), None);
    id.subnqn = [b'n'; 256];
    assert_eq!(id.nqn(), None);
    id.set_nqn(&String::from_utf8(std::vec![b'n'; 300]).unwrap());
    assert_eq!(id.nqn().unwrap().as_bytes().len(), 255);
}

#[test]
fn controller_limits() {
    let mut id = IdentifyController::new_zeroed();
    assert_eq!(id.max_transfer(0), None);
    id.mdts = 5;
    assert_eq!(id.max_transfer(0), Some(128 << 10));
    assert_eq!(id.max_transfer(4), Some(2 << 20));
    id.mdts = 255;
    assert_eq!(id.max_transfer(15), None);
    id.mdts = 51;
    assert_eq!(id.max_transfer(0), Some(1 << 63));
    (id.sqes, id.cqes) = (0x66, 0x44);
    assert_eq!((id.sqes(), id.cqes()), ((6, 6), (4, 4)));
    id.ver.set(0x0002_0100);
    assert_eq!(id.version(), crate::register::Vs::V2_1);
}

#[test]
fn capability_bits() {
    let mut id = IdentifyController::new_zeroed();
    id.oacs.set(0x0108);
    id.oncs.set(0x0084);
    id.vwc = 0x07;
    id.sgls.set(0x0010_0002);
    id.ctratt.set(1 << 15);
    id.lpa = 0x26;
    id.frmw = 0x12;
    id.fna = 0x05;
    id.cmic = 0x08;
    assert!(id.oacs().nms() && id.oacs().dbcs() && !id.oacs().fnvms());
    assert!(id.oncs().nvmdsmsv() && id.oncs().nvmvfys());
    assert!(id.vwc().vwcp() && id.vwc().fb() == Vwc::FLUSH_ALL_SUPPORTED);
    assert!(id.sgls().offset() && id.sgls().sgls() == 2);
    assert!(id.ctratt().elbas() && id.lpa().cses() && id.lpa().lpeds() && id.lpa().mlps());
    assert!(id.frmw().nofs() == 1 && id.frmw().fawr() && id.fna().fns() && id.fna().cryes());
    assert!(id.cmic().anars());
}

fn namespace(lbads: u8) -> IdentifyNamespace {
    let mut id = IdentifyNamespace::new_zeroed();
    id.nsze.set(1000);
    id.ncap.set(1000);
    id.lbaf[0] = LbaFormat::new(lbads);
    id
}

#[test]
fn formats() {
    assert_eq!(namespace(9).block_size(), Some(512));
    assert_eq!(namespace(12).block_size(), Some(4096));
    assert_eq!(namespace(12).size(), Some(4_096_000));
    let mut id = namespace(9);
    (id.nlbaf_z, id.flbas) = (15, 0x21);
    id.lbaf[1] = LbaFormat::new(12);
    assert_eq!((id.format_index(), id.block_size()), (1, Some(4096)));
    id.nlbaf_z = 16;
    assert_eq!((id.format_index(), id.lba_format()), (17, None));
    (id.nlbaf_z, id.flbas) = (63, 0x6f);
    id.lbaf[63] = LbaFormat::new(13);
    assert_eq!((id.format_index(), id.block_size()), (63, Some(8192)));
    (id.nlbaf_z, id.nulbaf) = (15, 1);
    (id.flbas, id.lbaf[16]) = (0x20, LbaFormat::new(10));
    assert_eq!((id.formats(), id.format_index(), id.block_size()), (17, 16, Some(1024)));
    id.flbas = 0x10;
    assert!(id.flbas().extended());
}

/// PIT-36 to PIT-39: formats and sizes that cannot be.
#[test]
fn formats_that_are_not() {
    for lbads in [0, 1, 8, 32, 64, 255] {
        assert_eq!(namespace(lbads).block_size(), None, "LBADS {lbads}");
        assert_eq!(namespace(lbads).size(), None);
    }
    let mut id = namespace(9);
    id.flbas = 1;
    assert_eq!(id.lba_format(), None);
    (id.nlbaf_z, id.flbas) = (255, 0x0f);
    assert_eq!(id.lba_format(), None);
    (id.nlbaf_z, id.nulbaf) = (63, 1);
    assert_eq!(id.lba_format(), None);
    let mut id = namespace(9);
    id.nsze.set(u64::MAX);
    assert_eq!(id.size(), None);
    id.ncap.set(0);
    assert!(id.is_absent() && !namespace(9).is_absent());
}

#[test]
fn namespace_lists() {
    let list = NamespaceList::from_ids([1, 2, 7]);
    assert_eq!(list.as_bytes()[..16], [1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2, 7]);
    let full = NamespaceList::from_ids(5..5000);
    assert_eq!(full.after(4).count(), NamespaceList::CAPACITY);
}

/// PIT-43: lists that are not sorted, repeat, or go back to what was seen.
#[test]
fn namespace_lists_that_are_not() {
    let ids = |ids: &[u32], after| {
        NamespaceList::from_ids(ids.iter().copied()).after(after).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[3, 2, 9], 0), [3]);
    assert_eq!(ids(&[3, 3, 9], 0), [3]);
    assert_eq!(ids(&[1, 0, 9], 0), [1]);
    assert_eq!(ids(&[4, 5], 4), [] as [u32; 0]);
    let list = NamespaceList::from_ids([3, 2, 9]);
    let mut iter = list.iter();
    assert_eq!([iter.next(), iter.next(), iter.next()], [Some(3), None, None]);
}

#[test]
fn controller_lists() {
    let list = ControllerList::from_ids([1, 0x0203]);
    assert_eq!(list.as_bytes()[..6], [2, 0, 1, 0, 3, 2]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 0x0203]);
    let mut list = ControllerList::new_zeroed();
    list.numid.set(u16::MAX);
    assert_eq!(list.iter().count(), 2047);
}

fn descriptors(bytes: &[u8]) -> NamespaceDescriptorList {
    let mut list = NamespaceDescriptorList::new_zeroed();
    list.bytes[..bytes.len()].copy_from_slice(bytes);
    list
}

#[test]
fn descriptor_lists() {
    let uuid = *b"0123456789abcdef";
    let list = NamespaceDescriptorList::from_descriptors([
        Descriptor { nidt: IdentifierType::UUID, nid: &uuid },
        Descriptor { nidt: IdentifierType::CSI, nid: &[2] },
    ]);
    assert_eq!(list.bytes[..4], [3, 16, 0, 0]);
    assert_eq!(list.bytes[20..26], [4, 1, 0, 0, 2, 0]);
    assert_eq!(list.iter().count(), 2);
    let found = list.identifiers();
    assert_eq!((found.uuid, found.csi, found.eui64), (Some(uuid), Some(2), None));
    let unknown = descriptors(&[9, 2, 0, 0, 1, 2, 4, 1, 0, 0, 5]);
    assert_eq!(unknown.iter().next(), Some(Descriptor { nidt: IdentifierType(9), nid: &[1, 2] }));
    assert_eq!(unknown.identifiers().csi, Some(5));
}

/// PIT-44 and PIT-45: wrong lengths, an end in the middle, a chain past the page.
#[test]
fn descriptor_lists_that_are_not() {
    assert_eq!(descriptors(&[1, 16, 0, 0, 1]).iter().next(), None);
    assert_eq!(descriptors(&[4, 1, 0, 0, 2, 4, 0, 0, 0, 4, 1]).iter().count(), 1);
    let mut list = NamespaceDescriptorList::new_zeroed();
    for entry in list.bytes.chunks_mut(128) {
        (entry[0], entry[1]) = (9, 124);
    }
    assert_eq!(list.iter().count(), 32);
    list.bytes[31 * 128 + 1] = 125;
    let mut iter = list.iter();
    assert_eq!(iter.by_ref().count(), 31);
    assert_eq!(iter.next(), None);
    assert_eq!(NamespaceDescriptorList { bytes: [0xff; 4096] }.iter().count(), 15);
}

#[test]
fn descriptors_that_do_not_fit_are_left_out() {
    let long = [7; 255];
    let nidt = IdentifierType(9);
    let list = NamespaceDescriptorList::from_descriptors([Descriptor { nidt, nid: &long }; 20]);
    assert_eq!(list.iter().count(), 15);
    let list = NamespaceDescriptorList::from_descriptors([Descriptor { nidt, nid: &[0; 256] }]);
    assert_eq!(list.iter().count(), 0);
}

#[test]
fn pages_read_from_any_buffer() {
    let bytes = [0xff; SIZE + 1];
    let id = IdentifyNamespace::ref_from_bytes(&bytes[1..]).unwrap();
    assert_eq!(id.block_size(), None);
    assert_eq!(IdentifyController::ref_from_bytes(&bytes[1..]).unwrap().max_transfer(15), None);
}

#[test]
fn names() {
    assert_eq!(format!("{}", Cns::ACTIVE_NAMESPACES), "Active Namespace ID List (02h)");
    assert_eq!(format!("{:?}", Csi::ZNS), "Csi(0x02)");
    assert_eq!(Csi(0x30).name(), "Unknown Command Set");
}
