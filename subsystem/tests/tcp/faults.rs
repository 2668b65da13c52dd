//! What the rules of a plan do to commands, completions, replies and registers behind the port.

use std::sync::Arc;
use std::time::Duration;

use doorbell_spec::admin::{self, AdminOpcode};
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{Fctype, property_get, property_set};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::nvm::{self, NvmOpcode};
use doorbell_spec::register::{Cap, Cc, Csts, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::fault::{Commands, Counters, Pdus, Plan, Rule};
use doorbell_subsystem::port::tcp::End;

use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, Pdu, attach, target};

struct Bench {
    target: Arc<Target>,
    admin: Link,
    io: Link,
    counters: Counters,
}

/// A controller that is up, and whose bring-up was under the rule already.
fn with(rule: Rule, options: Options) -> Bench {
    let target = target(Limits::default());
    let plan = Plan::new(7).rule(rule);
    let counters = plan.counters();
    target.set_faults(Some(plan));
    let (admin, io) = attach(&target, options);
    Bench { target, admin, io, counters }
}

fn plain(rule: Rule) -> Bench {
    with(rule, Options::default())
}

fn io() -> Commands {
    Commands::any_io()
}

/// Sends flushes and returns their identifiers.
fn send(io: &mut Link, count: usize) -> Vec<u16> {
    (0..count).map(|_| say(io, nvm::flush(1))).collect()
}

fn say(link: &mut Link, sqe: Sqe) -> u16 {
    let cid = link.cid();
    let capsule = link.capsule(sqe.with_cid(cid), &[]);
    link.send(&capsule);
    cid
}

/// Identifiers of the completions that have come.
fn cids(link: &mut Link) -> Vec<u16> {
    link.take()
        .into_iter()
        .map(|pdu| match pdu {
            Pdu::Response(cqe) => cqe.cid,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_plan_that_picks_nothing_changes_nothing_but_how_reads_are_answered() {
    for flow_control in [true, false] {
        let options = Options { flow_control, ..Options::default() };
        let mut bench = with(Rule::completion(Commands::any().queue(9)).lose(), options);
        let data = vec![0x5a; 64 << 10];
        assert!(bench.io.write_r2t(nvm::write(1, 8, 127), &data).status().is_success());
        let (cqe, read) = bench.io.read(nvm::read(1, 8, 127), 64 << 10);
        assert!(cqe.status().is_success() && read == data);
        let (cqe, _) = bench.io.read(nvm::read(1, 1 << 40, 0), 512);
        assert!(cqe.status().is(Status::LBA_OUT_OF_RANGE));
        assert!(!bench.io.connection.is_holding());
    }
}

#[test]
fn completions_lost_delayed_duplicated_reordered_flooded() {
    let run = |rule: Rule, count| {
        let mut bench = plain(rule);
        let sent = send(&mut bench.io, count);
        let came = cids(&mut bench.io);
        (bench, sent, came)
    };
    let rule = || Rule::completion(io());
    let (bench, sent, came) = run(rule().lose().nth(2), 3);
    assert_eq!(came, [sent[0], sent[2]]);
    assert_eq!(bench.counters.total(), 1);

    let (mut bench, sent, came) = run(rule().delay(Duration::from_millis(5)).nth(1), 2);
    assert_eq!(came, sent[1..]);
    assert!(bench.io.connection.is_holding());
    bench.io.pass(Duration::from_micros(4999));
    assert_eq!(cids(&mut bench.io), []);
    bench.io.pass(Duration::from_micros(1));
    assert_eq!(cids(&mut bench.io), sent[..1]);
    assert!(!bench.io.connection.is_holding());

    let (_, sent, came) = run(rule().duplicate().nth(2), 3);
    assert_eq!(came, [sent[0], sent[1], sent[1], sent[2]]);
    let (_, sent, came) = run(rule().reorder().nth(1), 3);
    assert_eq!(came, [sent[1], sent[0], sent[2]]);
    let (mut bench, sent, came) = run(rule().reorder().nth(1), 1);
    assert_eq!(came, [], "none to go first");
    bench.io.pass(Duration::from_millis(1));
    assert_eq!(cids(&mut bench.io), sent);
    let (_, sent, came) = run(rule().flood(), 1);
    assert_eq!(came, [sent[0]; 32]);
}

#[test]
fn every_field_of_a_completion() {
    let run = |rule| {
        let mut bench = plain(rule);
        let sent = send(&mut bench.io, 1)[0];
        match &bench.io.take()[..] {
            [Pdu::Response(cqe)] => (sent, *cqe),
            other => panic!("{other:?}"),
        }
    };
    let rule = || Rule::completion(io());
    let crd = Status::NAMESPACE_NOT_READY.with_crd(3);
    assert_eq!(run(rule().status(crd)).1.status(), crd);
    assert_eq!(run(rule().cid(0xbeef)).1.cid, 0xbeef);
    let (sent, cqe) = run(rule().flip_cid(0x8001));
    assert_eq!(cqe.cid, sent ^ 0x8001);
    assert_eq!(run(rule().sqid(3)).1.sqid, 3);
    assert_eq!(run(rule().sqhd(0xfff0)).1.sqhd, 0xfff0);
    assert_eq!(run(rule().result(5 << 32 | 6)).1.result(), 5 << 32 | 6);
}

#[test]
fn a_delay_without_end_holds_back_what_the_queue_has_room_for() {
    let mut bench = plain(Rule::completion(io()).delay(Duration::MAX));
    bench.io.pass(Duration::from_millis(1));
    let sent = send(&mut bench.io, 40);
    assert_eq!(cids(&mut bench.io), sent[32..], "a host that sends more than its 32 entries");
    bench.io.pass(Duration::from_secs(3600));
    assert_eq!(cids(&mut bench.io), []);
}

#[test]
fn commands_lost_answered_hanging() {
    let mut bench = plain(Rule::command(io()).lose().nth(1));
    let sent = send(&mut bench.io, 2);
    assert_eq!(cids(&mut bench.io), sent[1..]);

    let status = Status::new(7, 0xc1);
    let mut bench = plain(Rule::command(Commands::io(NvmOpcode::WRITE)).answer(status, 7 << 32));
    let cqe = bench.io.write(nvm::write(1, 0, 0), &[1; 512]);
    assert_eq!((cqe.status(), cqe.result()), (status, 7 << 32));
    let (cqe, read) = bench.io.read(nvm::read(1, 0, 0), 512);
    assert!(cqe.status().is_success() && read == [0; 512], "it was not carried out");

    let mut bench = plain(Rule::command(Commands::io(NvmOpcode::FLUSH)).hang());
    let sent = send(&mut bench.io, 2);
    assert_eq!(cids(&mut bench.io), []);
    let abort = say(&mut bench.admin, admin::abort(1, sent[0]));
    bench.io.pass(Duration::ZERO);
    let pdus = bench.io.take();
    let [Pdu::Response(cqe)] = &pdus[..] else { panic!("{pdus:?}") };
    assert_eq!((cqe.cid, cqe.status()), (sent[0], Status::ABORTED_BY_REQUEST));
    bench.admin.pass(Duration::ZERO);
    assert_eq!(cids(&mut bench.admin), [abort]);

    let mut bench = plain(Rule::command(Commands::admin(AdminOpcode::IDENTIFY)).hang());
    let hung = say(&mut bench.admin, identify(Cns::CONTROLLER).with_sgl(Sgl::transport(4096)));
    assert_eq!(cids(&mut bench.admin), []);
    let abort = say(&mut bench.admin, admin::abort(0, hung));
    assert_eq!(cids(&mut bench.admin), [hung, abort]);
}

fn identify(cns: Cns) -> Sqe {
    admin::identify(cns, 0, 0, Csi::NVM)
}

#[test]
fn data_too_short_or_wrong_in_both_directions() {
    let [write, read] = [NvmOpcode::WRITE, NvmOpcode::READ].map(Commands::io);
    for flow_control in [true, false] {
        for (blocks, in_capsule) in [(2, true), (2, false), (600, false)] {
            let len = blocks * 512;
            let options = Options { flow_control, h2c: 1000, ..Options::default() };
            let round = |rule: Rule| {
                let mut bench = with(rule, options);
                let sqe = nvm::write(1, 0, (blocks - 1) as u16);
                let data = vec![0x22; len];
                let cqe = match in_capsule {
                    true => bench.io.write(sqe, &data),
                    false => bench.io.write_r2t(sqe, &data),
                };
                assert!(cqe.status().is_success());
                let sqe = nvm::read(1, 0, (blocks - 1) as u16);
                let (cqe, back) = bench.io.read(sqe, len as u32);
                assert!(cqe.status().is_success());
                assert_eq!(bench.counters.total(), 1);
                back
            };
            let cut = len - 700;
            let short = [vec![0x22; cut], vec![0; 700]].concat();
            let mut flipped = vec![0x22; len];
            flipped[cut] ^= 0x80;
            flipped[cut + 1] ^= 1;
            for which in [&write, &read] {
                let what = format!("{which:?} {blocks} {in_capsule}");
                assert!(round(Rule::command(which.clone()).short(cut)) == short, "{what}");
                assert!(round(Rule::command(which.clone()).short(0)) == vec![0; len], "{what}");
                let corrupt = Rule::command(which.clone()).corrupt(cut, [0x80, 1]);
                assert!(round(corrupt) == flipped, "{what}");
            }
        }
    }
}

#[test]
fn registers_read_and_written() {
    let mut bench = plain(Rule::read(offset::CSTS).all_ones().after(1).times(1));
    assert_eq!(bench.admin.property(offset::CSTS, 4), 0xffff_ffff);
    assert_eq!(bench.admin.property(offset::CSTS, 4), 1);

    let mask = Cap::new().with_mqes_z(0xffff).with_to(0xff);
    let bench = plain(Rule::capabilities(mask, Cap::new().with_mqes_z(3).with_to(9)));
    let Bench { mut admin, .. } = bench;
    let cap = Cap::from_bits(admin.property(offset::CAP, 8));
    assert_eq!((cap.mqes_z(), cap.to(), cap.cqr()), (3, 9, true));
    let all = plain(Rule::read(offset::CAP).set_bits(1 << 63)).admin.property(offset::CAP, 8);
    assert_eq!(all >> 63, 1, "the upper half as well");

    let mut bench = plain(Rule::write(offset::CC).having(1, 0).delay(Duration::from_millis(3)));
    let disable = property_set(offset::CC as u32, 4, 0);
    assert!(bench.admin.call(disable, &[]).0.status().is_success());
    assert_eq!(bench.admin.property(offset::CSTS, 4), 1, "not yet");
    bench.admin.pass(Duration::from_millis(3));
    assert_eq!(bench.admin.property(offset::CSTS, 4), 0);

    let target = target(Limits::default());
    target.set_faults(Some(Plan::new(0).rule(Rule::never_ready())));
    let mut admin = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    assert!(admin.say_connect(0, 31, &data).status().is_success());
    let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
    let enable = property_set(offset::CC as u32, 4, cc.into_bits().into());
    assert!(admin.call(enable, &[]).0.status().is_success());
    assert_eq!(admin.property(offset::CSTS, 4), 0);
}

#[test]
fn fatal_status_is_seen_and_ends_with_a_reset() {
    let rules: [fn() -> Rule; 3] = [
        || Rule::command(io()).fatal().nth(2),
        || Rule::completion(io()).fatal().nth(2),
        || Rule::read(offset::CSTS).fatal().nth(2),
    ];
    for (at, rule) in rules.into_iter().enumerate() {
        let mut bench = plain(rule());
        let sent = send(&mut bench.io, 1);
        assert_eq!(cids(&mut bench.io), sent);
        if at < 2 {
            send(&mut bench.io, 2);
        }
        let csts = Csts::from_bits(bench.admin.property(offset::CSTS, 4) as u32);
        assert!(csts.cfs(), "rule {at}");
        send(&mut bench.io, 1);
        assert_eq!(cids(&mut bench.io), [], "nothing is carried out");
        say(&mut bench.admin, identify(Cns::CONTROLLER).with_sgl(Sgl::transport(4096)));
        assert_eq!(cids(&mut bench.admin), []);
        let disable = property_set(offset::CC as u32, 4, 0);
        assert!(bench.admin.call(disable, &[]).0.status().is_success());
        bench.admin.enable();
        let (cqe, _) = bench.admin.read(identify(Cns::CONTROLLER), 4096);
        assert!(cqe.status().is_success(), "back in service");
    }
}

#[test]
fn who_vanishes_says_nothing_more_and_can_be_connected_again() {
    let rules: [fn() -> Rule; 2] =
        [|| Rule::command(io()).vanish().nth(2), || Rule::completion(io()).vanish().nth(2)];
    for rule in rules {
        let mut bench = plain(rule());
        let sent = send(&mut bench.io, 3);
        assert_eq!(cids(&mut bench.io), sent[..1]);
        assert_eq!(bench.io.connection.end(), Some(End::Vanished));
        assert!(bench.io.connection.is_ended());
        bench.admin.pass(Duration::ZERO);
        assert_eq!(bench.admin.connection.end(), Some(End::Dissociated));
        let Bench { target, counters, .. } = bench;
        let (_admin, mut io) = attach(&target, Options::default());
        assert_eq!(send(&mut io, 2), cids(&mut io), "a new controller");
        assert_eq!(counters.total(), 1, "all controllers are counted together");
    }
    let mut bench = plain(Rule::read(offset::CSTS).vanish().nth(2));
    let cid = say(&mut bench.admin, property_get(offset::CSTS as u32, 4));
    assert_eq!(cids(&mut bench.admin), [], "{cid} is not answered");
    assert_eq!(bench.admin.connection.end(), Some(End::Vanished));
}

#[test]
fn replies_are_changed() {
    let mut bench = plain(Rule::identify_controller(|page| page.mdts = 77));
    assert_eq!(bench.admin.read(identify(Cns::CONTROLLER), 4096).1[77], 77);
    let mut bench = plain(Rule::identify_namespace(2, |page| page.nsze.set(3)));
    let page = |admin: &mut Link, nsid| {
        admin.read(admin::identify(Cns::NAMESPACE, nsid, 0, Csi::NVM), 4096).1[0]
    };
    assert_eq!(page(&mut bench.admin, 2), 3);
    assert_ne!(page(&mut bench.admin, 1), 3);
}

#[test]
fn fabrics_commands_are_picked_by_their_type_alone() {
    let bench = plain(Rule::command(Commands::any()).lose().times(0).named("any"));
    let seen = |counters: &Counters| counters.iter().next().expect("a rule").matched;
    assert_eq!(seen(&bench.counters), 0, "bring-up is nothing but Fabrics commands");
    let connects = Rule::command(Commands::fabrics(Fctype::CONNECT));
    let bench = plain(connects.lose().times(0));
    assert_eq!(seen(&bench.counters), 2);

    let target = target(Limits::default());
    let refuse = Rule::completion(Commands::fabrics(Fctype::CONNECT).queue(1))
        .status(Status::FABRICS_CONTROLLER_BUSY);
    target.set_faults(Some(Plan::new(0).rule(refuse)));
    let mut admin = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cqe = admin.say_connect(0, 31, &data);
    assert!(cqe.status().is_success());
    admin.enable();
    let mut io = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, cqe.dw0 as u16, NQN, HOSTNQN);
    assert_eq!(io.say_connect(1, 31, &data).status(), Status::FABRICS_CONTROLLER_BUSY);
}

#[test]
fn what_means_nothing_behind_a_network_is_not_counted() {
    let rules: [fn() -> Rule; 4] = [
        || Rule::completion(io()).wrong_phase(),
        || Rule::completion(io()).half_written(),
        || Rule::completion(io()).rewritten(),
        Rule::function_reset,
    ];
    for rule in rules {
        let mut bench = plain(rule());
        let sent = send(&mut bench.io, 2);
        assert_eq!(cids(&mut bench.io), sent);
        let count = bench.counters.iter().next().expect("a rule");
        assert_eq!((count.matched, count.injected), (0, 0));
    }
}

#[test]
fn discovery_is_spared() {
    let target = target(Limits::default());
    let plan = Plan::new(0)
        .rule(Rule::command(Commands::any_admin()).lose())
        .rule(Rule::read(offset::CSTS).all_ones());
    target.set_faults(Some(plan));
    let mut admin = Link::open(&target, Options::default());
    let nqn = "nqn.2014-08.org.nvmexpress.discovery";
    let data = ConnectData::new(HOSTID, 0xffff, nqn, HOSTNQN);
    assert!(admin.say_connect(0, 31, &data).status().is_success());
    admin.enable();
    assert!(admin.read(identify(Cns::CONTROLLER), 4096).0.status().is_success());
}

/// A host without scruples costs no memory beyond its queue.
#[test]
fn no_more_hang_than_a_queue_holds() {
    let mut bench = plain(Rule::command(io()).hang());
    let sent = send(&mut bench.io, 100);
    assert_eq!(cids(&mut bench.io), []);
    assert_eq!(bench.counters.total(), 100);
    say(&mut bench.admin, admin::abort(1, sent[99]));
    bench.io.pass(Duration::ZERO);
    assert_eq!(cids(&mut bench.io), [], "that one was forgotten");
}

#[test]
fn pdus_and_commands_are_under_one_plan() {
    let target = target(Limits::default());
    let plan = Plan::new(0)
        .rule(Rule::pdu(Pdus::any()).lose().times(0))
        .rule(Rule::completion(io()).lose().nth(1));
    let counters = plan.counters();
    target.set_faults(Some(plan));
    let (_admin, mut io) = attach(&target, Options::default());
    let sent = send(&mut io, 2);
    assert_eq!(cids(&mut io), sent[1..]);
    assert_eq!(counters.total(), 1);
    target.set_faults(None);
    let (_admin, mut io) = attach(&target, Options::default());
    assert_eq!(send(&mut io, 2), cids(&mut io), "new connections fare well again");
}
