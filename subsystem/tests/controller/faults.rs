//! Each thing that a rule can do, as a host sees it; and that a plan without effect changes nothing.

use std::time::Duration;

use doorbell_spec::admin::{self, AdminOpcode};
use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::nvm::{self, NvmOpcode};
use doorbell_spec::register::{Cap, Csts, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fault::{Commands, Count, Plan, Rule};

use crate::host::{Host, config};
use crate::subsystem;

fn host() -> Host {
    let mut host = Host::ready(&subsystem(&["memory:1MiB", "memory:1MiB"]), config());
    host.pair(1, 16, 16);
    host.pair(2, 16, 16);
    host
}

fn with(rule: Rule) -> Host {
    let mut host = host();
    host.controller.set_faults(Some(Plan::new(7).rule(rule)));
    host
}

fn flush() -> Sqe {
    nvm::flush(1)
}

/// Sends flushes to queue 1, one doorbell for all; returns their identifiers.
fn send(host: &mut Host, count: usize) -> Vec<u16> {
    let cids = (0..count).map(|_| host.stage(1, flush())).collect();
    host.ring(1);
    host.poll();
    cids
}

fn reap_all(host: &mut Host, qid: u16) -> Vec<Cqe> {
    std::iter::from_fn(|| host.reap(qid)).collect()
}

fn cids(entries: &[Cqe]) -> Vec<u16> {
    entries.iter().map(|entry| entry.cid).collect()
}

#[test]
fn a_plan_that_picks_nothing_changes_nothing() {
    let nowhere = Commands::any().queue(9);
    let mut host = with(Rule::completion(nowhere).lose());
    let page = host.pages(2);
    host.ram.write(page, &[0x5a; 4096]);
    host.expect(1, nvm::write(1, 8, 7).with_prp(page, 0), Status::SUCCESS);
    host.expect(2, nvm::read(1, 8, 7).with_prp(page + 4096, 0), Status::SUCCESS);
    assert_eq!(host.ram.read(page + 4096, 4096), [0x5a; 4096]);
    host.expect(1, nvm::read(1, 1 << 40, 0).with_prp(page, 0), Status::LBA_OUT_OF_RANGE);
    host.expect(1, nvm::read(9, 0, 0).with_prp(page, 0), Status::INVALID_FIELD);
    for _ in 0..100 {
        assert_eq!(host.run(1, flush()).sqid, 1);
    }
}

#[test]
fn rules_pick_by_queue_opcode_namespace_block_selector_and_identifier() {
    let read = |nsid, lba, blocks_z| nvm::read(nsid, lba, blocks_z);
    let io = |opcode| Commands::io(opcode);
    let cases: [(Commands, Sqe, u16, bool); 14] = [
        (Commands::any(), flush(), 1, true),
        (Commands::any_io(), flush(), 1, true),
        (Commands::any_admin(), flush(), 1, false),
        (Commands::any_io().queue(2), flush(), 1, false),
        (Commands::any_io().queues(1..=2), flush(), 2, true),
        (io(NvmOpcode::READ), flush(), 1, false),
        (io(NvmOpcode::FLUSH), flush(), 1, true),
        (Commands::admin(AdminOpcode::GET_LOG_PAGE), read(1, 0, 0), 1, false),
        (io(NvmOpcode::READ).nsid(2), read(1, 0, 0), 1, false),
        (io(NvmOpcode::READ).blocks(10..20), read(1, 3, 6), 1, false),
        (io(NvmOpcode::READ).blocks(10..20), read(1, 3, 7), 1, true),
        (io(NvmOpcode::READ).blocks(10..=20), read(1, 20, 0), 1, true),
        (io(NvmOpcode::READ).blocks(10..20), read(1, 20, 0), 1, false),
        (io(NvmOpcode::READ).blocks(10..).selector(12), read(1, 12, 0), 1, true),
    ];
    for (commands, sqe, qid, picked) in cases {
        let label = format!("{commands:?} {sqe:?}");
        let mut host = with(Rule::command(commands).answer(Status::new(7, 0xc1), 0x1_0000_0002));
        let page = host.pages(2);
        let entry = host.run(qid, sqe.with_prp(page, page + 4096));
        assert_eq!(entry.status().is(Status::new(7, 0xc1)), picked, "{label}");
        assert_eq!(entry.result() == 0x1_0000_0002, picked, "{label}");
    }
    let mut host = with(Rule::command(Commands::any().cid(77)).lose());
    host.stage_as(1, flush().with_cid(76));
    host.stage_as(1, flush().with_cid(77));
    host.stage_as(1, flush().with_cid(78));
    host.ring(1);
    host.poll();
    assert_eq!(cids(&reap_all(&mut host, 1)), [76, 78]);
}

#[test]
fn after_times_nth_and_probability() {
    let lost = |rule: Rule| {
        let mut host = with(rule);
        let sent = send(&mut host, 12);
        let came = cids(&reap_all(&mut host, 1));
        sent.iter().map(|cid| !came.contains(cid)).collect::<Vec<bool>>()
    };
    let lose = || Rule::completion(Commands::any_io()).lose();
    let places = |lost: Vec<bool>| -> Vec<usize> {
        lost.iter().enumerate().filter_map(|(at, lost)| lost.then_some(at)).collect()
    };
    assert_eq!(places(lost(lose().nth(3))), [2]);
    assert_eq!(places(lost(lose().after(9))), [9, 10, 11]);
    assert_eq!(places(lost(lose().after(2).times(2))), [2, 3]);
    assert_eq!(places(lost(lose().probability(0.0))), []);
    assert_eq!(places(lost(lose().probability(1.0))).len(), 12);
    let half = lost(lose().probability(0.5));
    assert_eq!(half, lost(lose().probability(0.5)), "equal seeds, equal dice");
    assert!(half.contains(&true) && half.contains(&false));
}

#[test]
fn completions_delayed_reordered_duplicated() {
    let io = || Commands::any_io();
    let mut host = with(Rule::completion(io()).delay(Duration::from_millis(5)).nth(1));
    let sent = send(&mut host, 2);
    assert_eq!(cids(&reap_all(&mut host, 1)), [sent[1]]);
    host.now = Duration::from_micros(4999);
    host.poll();
    assert!(host.reap(1).is_none());
    host.now = Duration::from_millis(5);
    assert_eq!(host.poll(), 1);
    assert_eq!(cids(&reap_all(&mut host, 1)), [sent[0]]);

    let mut host = with(Rule::completion(io()).reorder().nth(1));
    let sent = send(&mut host, 3);
    assert_eq!(cids(&reap_all(&mut host, 1)), [sent[1], sent[0], sent[2]]);

    let mut host = with(Rule::completion(io()).duplicate().nth(2));
    let sent = send(&mut host, 3);
    assert_eq!(cids(&reap_all(&mut host, 1)), [sent[0], sent[1], sent[1], sent[2]]);
}

#[test]
fn a_duplicate_counts_where_there_is_room_for_it() {
    let plan = Plan::new(1).rule(Rule::completion(Commands::any_io()).duplicate().named("twice"));
    let counters = plan.counters();
    let mut host = host();
    host.controller.set_faults(Some(plan));
    // More entries than the queue holds; nobody takes any while the first are posted.
    let sent = send(&mut host, 15);
    let mut seen = cids(&reap_all(&mut host, 1));
    while host.poll() != 0 {
        seen.extend(cids(&reap_all(&mut host, 1)));
    }
    let twice = counters.injected("twice");
    assert!((1..15).contains(&twice), "{twice}");
    assert_eq!(seen.len() as u64, 15 + twice);
    seen.dedup();
    assert_eq!(seen, sent);
}

#[test]
fn a_delay_without_end_is_one() {
    let mut host = with(Rule::completion(Commands::any_io()).delay(Duration::MAX).nth(1));
    host.now = Duration::from_millis(1);
    host.poll();
    let sent = send(&mut host, 2);
    assert_eq!(cids(&reap_all(&mut host, 1)), sent[1..]);
    host.now = Duration::from_secs(3600);
    host.poll();
    assert!(host.reap(1).is_none());
}

#[test]
fn held_completions_keep_their_room() {
    let late = Rule::completion(Commands::any_io()).delay(Duration::from_millis(1)).times(10);
    let mut host = with(late);
    let sent = send(&mut host, 15);
    host.pairs.get_mut(&1).expect("queue").lazy = true;
    host.now = Duration::from_millis(1);
    host.poll();
    assert_eq!(reap_all(&mut host, 1).len(), sent.len(), "none was dropped for want of room");
}

#[test]
fn every_field_of_a_completion() {
    let io = || Rule::completion(Commands::any_io());
    let run = |rule| {
        let mut host = with(rule);
        let [sent] = send(&mut host, 1)[..] else { panic!("one") };
        (sent, host.reap(1).expect("a completion"))
    };
    assert_eq!(run(io().cid(0xbeef)).1.cid, 0xbeef);
    let (sent, entry) = run(io().flip_cid(0x8001));
    assert_eq!(entry.cid, sent ^ 0x8001);
    assert_eq!(run(io().sqid(3)).1.sqid, 3);
    assert_eq!(run(io().sqhd(0xfff0)).1.sqhd, 0xfff0);
    assert_eq!(run(io().result(5 << 32 | 6)).1.result(), 5 << 32 | 6);
    let crd = Status::NAMESPACE_NOT_READY.with_crd(3);
    assert_eq!(run(io().status(crd)).1.status(), crd);
}

#[test]
fn wrong_phase_halves_and_floods() {
    let io = || Rule::completion(Commands::any_io());
    let mut host = with(io().wrong_phase().nth(1));
    send(&mut host, 2);
    assert!(host.reap(1).is_none(), "the queue has moved on past the host");

    let mut host = with(io().half_written().nth(1));
    let sent = send(&mut host, 1);
    let pair = &host.pairs[&1];
    let at = pair.cq;
    assert_eq!(host.ram.word(at + 8), Cqe::PHASE_BIT, "the phase over what was there: zeros");
    host.poll();
    assert_eq!(cids(&reap_all(&mut host, 1)), sent);

    let mut host = with(io().rewritten().nth(1));
    let at = host.pairs[&1].cq;
    let sent = send(&mut host, 1);
    assert_eq!(cids(&reap_all(&mut host, 1)), sent);
    host.poll();
    assert_eq!((host.ram.word(at + 8) >> 32) as u16, !sent[0]);

    let mut host = with(io().flood().nth(1));
    let [sent] = send(&mut host, 1)[..] else { panic!("one") };
    let all = reap_all(&mut host, 1);
    assert_eq!(cids(&all), [sent; 16]);
}

#[test]
fn what_hangs_ends_by_abort_or_with_its_queue() {
    let mut host = with(Rule::command(Commands::any_io()).hang());
    let sent = send(&mut host, 2);
    assert!(host.reap(1).is_none());
    let entry = host.admin(admin::abort(1, sent[0]));
    assert_eq!(entry.dw0, 0, "aborted");
    let entry = host.reap(1).expect("the aborted command");
    assert_eq!((entry.cid, entry.status()), (sent[0], Status::ABORTED_BY_REQUEST));
    assert_eq!(host.admin(admin::abort(1, sent[0])).dw0, 1, "not a second time");
    host.admin(admin::delete_io_sq(1));
    let entry = host.reap(1).expect("the other one");
    assert_eq!((entry.cid, entry.status()), (sent[1], Status::ABORTED_SQ_DELETION));
}

#[test]
fn what_is_lost_stays_lost() {
    let mut host = with(Rule::command(Commands::any_io()).lose());
    let sent = send(&mut host, 2);
    assert_eq!(host.admin(admin::abort(1, sent[0])).dw0, 1, "no such command");
    host.admin(admin::delete_io_sq(1));
    assert!(host.reap(1).is_none());
}

#[test]
fn data_too_short_or_wrong_in_both_directions() {
    let mut host = host();
    let page = host.pages(3);
    let (out, back) = (page, page + 4096);
    let mut round = |rule: Option<Rule>, wrong_write: bool| {
        host.controller.set_faults(None);
        host.ram.write(out, &[0x11; 1024]);
        host.expect(1, nvm::write(1, 0, 1).with_prp(out, 0), Status::SUCCESS);
        host.ram.write(out, &[0x22; 1024]);
        host.ram.write(back, &[0xee; 1024]);
        let plan = rule.map(|rule| Plan::new(1).rule(rule));
        host.controller.set_faults(plan);
        host.expect(1, nvm::write(1, 0, 1).with_prp(out, 0), Status::SUCCESS);
        if wrong_write {
            host.controller.set_faults(None);
        }
        host.expect(1, nvm::read(1, 0, 1).with_prp(back, 0), Status::SUCCESS);
        host.ram.read(back, 1024)
    };
    let [write, read] = [NvmOpcode::WRITE, NvmOpcode::READ].map(Commands::io);
    assert_eq!(round(None, true), [0x22; 1024]);
    let short = |old: u8| [[0x22; 512], [old; 512]].concat();
    assert_eq!(round(Some(Rule::command(write.clone()).short(512)), true), short(0x11));
    assert_eq!(round(Some(Rule::command(read.clone()).short(512)), false), short(0xee));
    let mut flipped = [0x22; 1024];
    flipped[600] ^= 0x80;
    flipped[601] ^= 1;
    let flip = [0x80, 1];
    assert_eq!(round(Some(Rule::command(write).corrupt(600, flip)), true), flipped);
    assert_eq!(round(Some(Rule::command(read).corrupt(600, flip)), false), flipped);
}

#[test]
fn registers_read_and_written() {
    let mut host = with(Rule::read(offset::CSTS).all_ones().after(1).times(1));
    assert!(host.csts().rdy());
    assert!(host.csts().is_absent());
    assert!(host.csts().rdy());

    let mask = Cap::new().with_mqes_z(0xffff).with_mpsmin(0xf);
    let cap = Cap::new().with_mqes_z(1).with_mpsmin(2);
    let mut host = with(Rule::capabilities(mask, cap));
    let seen = Cap::from_bits(host.controller.read(offset::CAP, 8));
    assert_eq!((seen.mqes_z(), seen.mpsmin(), seen.cqr()), (1, 2, true));
    let high = host.controller.read(offset::CAP + 4, 4);
    assert_eq!(high, seen.into_bits() >> 32, "by halves as well");

    let mut host = with(Rule::write(offset::CC).having(1, 0).delay(Duration::from_millis(3)));
    host.controller.write(offset::CC, 4, 0);
    assert!(host.csts().rdy(), "not yet");
    assert!(host.run(1, flush()).status().is_success(), "goes on meanwhile");
    host.now = Duration::from_millis(3);
    host.poll();
    assert!(!host.csts().rdy());

    let mut host = Host::new(&subsystem(&[]), config());
    host.controller.set_faults(Some(Plan::new(0).rule(Rule::never_ready())));
    let cc = host.cc(0).with_en(true);
    host.controller.write(offset::CC, 4, cc.into_bits().into());
    assert_eq!(host.csts(), Csts::new());
}

#[test]
fn fatal_and_vanished() {
    let mut host = with(Rule::command(Commands::any_io()).fatal().nth(2));
    let sent = send(&mut host, 3);
    assert!(host.csts().cfs());
    assert_eq!(cids(&reap_all(&mut host, 1)), sent[..1]);

    let mut host = with(Rule::completion(Commands::any_io()).vanish().nth(2));
    let sent = send(&mut host, 3);
    assert_eq!(cids(&reap_all(&mut host, 1)), sent[..1]);
    assert!(host.csts().is_absent());
    host.controller.write(offset::CC, 4, 0);
    host.controller.reset();
    assert_eq!(host.controller.read(offset::CAP, 8), u64::MAX, "and stays so");
    host.controller.set_faults(None);
    assert_eq!(host.csts(), Csts::new(), "back, as after power on");

    let mut host = with(Rule::read(offset::CSTS).fatal().nth(1));
    assert!(host.csts().cfs(), "the read that brings it about shows it");

    let mut host = with(Rule::function_reset().times(1));
    host.controller.reset();
    assert!(host.csts().rdy(), "a reset without effect");
    host.controller.reset();
    assert!(!host.csts().rdy());
}

#[test]
fn replies_and_admin_commands() {
    let mut host = with(Rule::identify_controller(|page| page.mdts = 77));
    assert_eq!(host.identify(Cns::CONTROLLER, 0, 0, Csi::NVM)[77], 77);
    assert_eq!(host.identify(Cns::NAMESPACE, 1, 0, Csi::NVM)[77], 0);
    let mut host = with(Rule::identify_namespace(2, |page| page.nsze.set(3)));
    assert_eq!(host.identify(Cns::NAMESPACE, 2, 0, Csi::NVM)[0], 3);
    assert_ne!(host.identify(Cns::NAMESPACE, 1, 0, Csi::NVM)[..8], 3u64.to_le_bytes());

    let refuse = Commands::admin(AdminOpcode::DELETE_IO_SQ);
    let mut host = with(Rule::command(refuse).answer(Status::INTERNAL_ERROR, 0));
    host.refused(admin::delete_io_sq(1), Status::INTERNAL_ERROR);
    assert!(host.run(1, flush()).status().is_success(), "it was not carried out");
    let refuse = Commands::admin(AdminOpcode::DELETE_IO_SQ);
    let mut host = with(Rule::completion(refuse).status(Status::INTERNAL_ERROR));
    host.refused(admin::delete_io_sq(1), Status::INTERNAL_ERROR);
    host.refused(admin::delete_io_sq(1), Status::INTERNAL_ERROR);
    host.controller.set_faults(None);
    host.refused(admin::delete_io_sq(1), Status::INVALID_QUEUE_ID);
}

#[test]
fn everything_injected_is_counted() {
    let plan = Plan::new(3)
        .rule(Rule::completion(Commands::any_io()).lose().nth(2).named("lost"))
        .rule(Rule::completion(Commands::any_admin()).delay(Duration::ZERO));
    let counters = plan.counters();
    let mut host = host();
    host.controller.set_faults(Some(plan));
    send(&mut host, 5);
    assert_eq!(reap_all(&mut host, 1).len(), 4);
    let counts: Vec<Count<'_>> = counters.iter().collect();
    let expected = Count { name: "lost", matched: 5, injected: 1 };
    assert_eq!(counts, [expected, Count { name: "rule 2", matched: 0, injected: 0 }]);
    assert_eq!((counters.injected("lost"), counters.total()), (1, 1));
}
