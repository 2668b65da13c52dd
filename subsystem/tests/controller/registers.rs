//! The register machine: every branch of RST-8, reset, shutdown.

use doorbell_spec::admin;
use doorbell_spec::nvm;
use doorbell_spec::register::{Aqa, Cap, Cc, Csts, Vs, offset};
use doorbell_spec::status::Status;

use crate::host::{Host, config};
use crate::subsystem;

fn host() -> Host {
    Host::new(&subsystem(&["memory:1MiB"]), config())
}

/// Registers as a driver would set them, for tests that spoil one of them.
fn prepare(host: &mut Host) -> Cc {
    let (sq, cq) = (host.aligned_pages(1), host.aligned_pages(1));
    let aqa = Aqa::new().with_asqs_z(15).with_acqs_z(15);
    host.controller.write(offset::AQA, 4, aqa.into_bits().into());
    host.controller.write(offset::ASQ, 8, sq);
    host.controller.write(offset::ACQ, 8, cq);
    host.cc(0).with_en(true)
}

#[track_caller]
fn fails(host: &mut Host, cc: Cc) {
    host.controller.write(offset::CC, 4, cc.into_bits().into());
    assert_eq!(host.csts(), Csts::new().with_cfs(true));
    assert_eq!(host.poll(), 0);
    // A reset recovers from it.
    host.controller.write(offset::CC, 4, 0);
    assert_eq!(host.csts(), Csts::new());
}

#[test]
fn registers_after_power_on() {
    let mut host = host();
    let cap = Cap::from_bits(host.controller.read(offset::CAP, 8));
    assert!(cap.cqr() && cap.crwms() && !cap.nssrs() && !cap.cmbs() && !cap.pmrs());
    assert_eq!(cap.css(), Cap::CSS_NVM | Cap::CSS_IOCS);
    assert_ne!(cap.to(), 0);
    assert_eq!(host.controller.read(offset::VS, 4), u64::from(Vs::V2_0.into_bits()));
    for at in [offset::CC, offset::CSTS, offset::AQA, offset::NSSR, offset::CMBSZ, offset::PMRCAP] {
        assert_eq!(host.controller.read(at, 4), 0, "{at:#x}");
    }
    assert_ne!(host.controller.read(offset::CRTO, 4), 0);
    assert_eq!(host.poll(), 0);
}

#[test]
fn rst_8_misaligned_asq() {
    let mut host = host();
    let cc = prepare(&mut host);
    let asq = host.controller.read(offset::ASQ, 8);
    host.controller.write(offset::ASQ, 8, asq + 0x800);
    fails(&mut host, cc);
}

#[test]
fn rst_8_misaligned_acq_for_large_pages() {
    let mut host = host();
    let cc = prepare(&mut host).with_mps(2);
    let acq = host.controller.read(offset::ACQ, 8);
    host.controller.write(offset::ACQ, 8, acq + 4096);
    fails(&mut host, cc);
}

#[test]
fn rst_8_page_size_out_of_range() {
    let mut host = host();
    let cc = prepare(&mut host).with_mps(5);
    fails(&mut host, cc);
}

#[test]
fn rst_8_command_set_not_in_cap() {
    for css in [1, 2, 5, Cc::CSS_ADMIN_ONLY] {
        let mut host = host();
        let cc = prepare(&mut host).with_css(css);
        fails(&mut host, cc);
    }
}

#[test]
fn rst_8_arbitration_not_in_cap() {
    let mut host = host();
    let cc = prepare(&mut host).with_ams(Cc::AMS_WEIGHTED);
    fails(&mut host, cc);
}

#[test]
fn rst_8_admin_queue_of_one_entry() {
    for aqa in [Aqa::new().with_acqs_z(15), Aqa::new().with_asqs_z(15)] {
        let mut host = host();
        let cc = prepare(&mut host);
        host.controller.write(offset::AQA, 4, aqa.into_bits().into());
        fails(&mut host, cc);
    }
}

#[test]
fn rst_8_unmapped_admin_queue_is_fatal_once_used() {
    let mut host = host();
    let cc = prepare(&mut host);
    host.controller.write(offset::ASQ, 8, 0x7000_0000);
    host.controller.write(offset::CC, 4, cc.into_bits().into());
    assert!(host.csts().rdy() && !host.csts().cfs());
    host.ring_value(0, false, 1);
    host.poll();
    assert!(host.csts().cfs());
}

#[test]
fn rst_8_read_only_registers_and_odd_accesses() {
    let mut host = host();
    let cap = host.controller.read(offset::CAP, 8);
    for at in [offset::CAP, offset::VS, offset::CSTS, offset::NSSR, offset::CRTO, 0xffc] {
        host.controller.write(at, 4, 0xffff_ffff);
    }
    assert_eq!(host.controller.read(offset::CAP, 8), cap);
    assert_eq!(host.csts(), Csts::new());
    for width in [0, 1, 2, 3, 5, 16, usize::MAX] {
        host.controller.write(offset::AQA, width, 0x001f_001f);
        assert_eq!(host.controller.read(offset::VS, width), 0, "width {width}");
    }
    host.controller.write(offset::AQA + 2, 4, 0x001f_001f);
    host.controller.write(offset::AQA, 8, 0x001f_001f);
    assert_eq!(host.controller.read(offset::AQA, 4), 0);
    assert_eq!(host.controller.read(offset::VS + 1, 4), 0);
    assert_eq!(host.controller.read(offset::VS + 4, 8), 0);
    for at in [offset::DOORBELLS, u64::MAX - 7, u64::MAX - 3] {
        host.controller.write(at, 4, 1);
        assert_eq!(host.controller.read(at, 4), 0, "{at:#x}");
    }
}

#[test]
fn halves_of_64_bit_registers() {
    let mut host = host();
    host.controller.write(offset::ASQ, 4, 0x89ab_c000);
    host.controller.write(offset::ASQ + 4, 4, 0x0123_4567);
    assert_eq!(host.controller.read(offset::ASQ, 8), 0x0123_4567_89ab_c000);
    assert_eq!(host.controller.read(offset::ASQ + 4, 4), 0x0123_4567);
    host.controller.write(offset::INTMS, 4, 5);
    host.controller.write(offset::INTMC, 4, 1);
    assert_eq!(host.controller.read(offset::INTMS, 4), 4);
}

#[test]
fn settings_do_not_change_while_enabled() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    let cc = host.cc(3).with_en(true).with_css(0).with_iosqes(0);
    host.controller.write(offset::CC, 4, cc.into_bits().into());
    let now = Cc::from_bits(host.controller.read(offset::CC, 4) as u32);
    assert_eq!((now.mps(), now.css(), now.iosqes()), (0, Cc::CSS_ALL, 0));
    // Queues need the entry sizes that there are.
    let page = host.pages(1);
    let create = admin::create_io_cq(1, 7, None).with_prp(page, 0);
    host.refused(create, Status::INVALID_QUEUE_SIZE);
}

#[test]
fn rst_1_controller_reset_forgets_queues_and_keeps_aqa() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    host.pair(1, 8, 8);
    let saved = [offset::AQA, offset::ASQ, offset::ACQ].map(|at| host.controller.read(at, 4));
    let page = host.pages(1);
    host.stage(1, nvm::read(1, 0, 0).with_prp(page, 0));
    host.ring(1);
    host.controller.write(offset::CC, 4, 0);
    assert_eq!(host.csts(), Csts::new());
    // TGT-7: nothing completes once RDY is 0.
    assert_eq!(host.poll(), 0);
    assert!(host.reap(1).is_none());
    let kept = [offset::AQA, offset::ASQ, offset::ACQ].map(|at| host.controller.read(at, 4));
    assert_eq!(saved, kept);
    host.enable(16, 0);
    host.pairs.remove(&1);
    host.refused(admin::delete_io_sq(1), Status::INVALID_QUEUE_ID);
    host.pair(1, 8, 8);
    host.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
}

#[test]
fn reset_clears_every_register() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    host.controller.reset();
    for at in [offset::CC, offset::CSTS, offset::AQA, offset::ASQ, offset::ACQ] {
        assert_eq!(host.controller.read(at, 4), 0, "{at:#x}");
    }
    host.enable(16, 1);
}

#[test]
fn rst_5_shutdown_completes_and_stops() {
    for shn in [Cc::SHN_NORMAL, Cc::SHN_ABRUPT] {
        let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
        let cc = host.cc(0).with_en(true).with_shn(shn);
        host.controller.write(offset::CC, 4, cc.into_bits().into());
        assert_eq!(host.csts().shst(), Csts::SHST_COMPLETE);
        host.stage(0, admin::keep_alive());
        host.ring(0);
        assert_eq!(host.poll(), 0);
        host.controller.write(offset::CC, 4, 0);
        assert_eq!(host.csts(), Csts::new());
        host.enable(16, 0);
    }
}

#[test]
fn tgt_6_unmapped_completion_queue_is_fatal() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    let (sq, page) = (host.pages(1), host.pages(1));
    host.admin(admin::create_io_cq(1, 7, None).with_prp(0x7000_0000, 0));
    host.admin(admin::create_io_sq(1, 7, 1, 0).with_prp(sq, 0));
    host.ram
        .write(sq, &nvm::read(1, 0, 0).with_prp(page, 0).to_words().map(u64::to_ne_bytes).concat());
    host.ring_value(1, false, 1);
    host.poll();
    assert!(host.csts().cfs());
    assert_eq!(host.poll(), 0);
}

#[test]
fn unmapping_takes_the_rings_away() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    host.controller.unmap_all();
    host.ring_value(0, false, 1);
    host.poll();
    assert!(host.csts().cfs());
}
