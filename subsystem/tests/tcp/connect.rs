//! Connect and properties: every way in, and every way in which it does not work.

use doorbell_spec::admin::{self, async_event_request};
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{
    ConnectCdw11, connect, disconnect, property_get, property_set,
};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::fabrics::{DISCOVERY_NQN, nqn_field};
use doorbell_spec::identify::{Cns, Csi, IdentifyController};
use doorbell_spec::nvm;
use doorbell_spec::register::{Cap, Cc, Csts, offset};
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::Limits;
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, attach, target};

/// Status and DW0 of a Connect.
fn refusal(
    options: Options,
    qid: u16,
    sqsize_z: u16,
    cntlid: u16,
    change: impl FnOnce(&mut ConnectData),
) -> (Status, u32) {
    let target = target(Limits::default());
    let (_admin, _io) = attach(&target, Options::default());
    let mut data = ConnectData::new(HOSTID, cntlid, NQN, HOSTNQN);
    change(&mut data);
    let cqe = Link::open(&target, options).say_connect(qid, sqsize_z, &data);
    // Whoever asks for a queue that exists may be early, and ask again.
    let early = cqe.status().is(Status::COMMAND_SEQUENCE_ERROR);
    assert!(cqe.status().is_success() || cqe.status().dnr() != early);
    (Status::from_bits(cqe.status().code()), cqe.dw0)
}

#[test]
fn parameters_of_a_connect_are_refused_by_their_place() {
    let refused = |qid, sqsize_z, cntlid, change: &dyn Fn(&mut ConnectData)| {
        refusal(Options::default(), qid, sqsize_z, cntlid, change)
    };
    let invalid = Status::FABRICS_CONNECT_INVALID;
    let none = |_: &mut ConnectData| {};
    for (qid, sqsize_z, cntlid, dw0) in [
        (0, 0, 0xffff, 0x2c),
        (0, 1024, 0xffff, 0x2c),
        (0, 31, 0xfffe, 0x1_0010),
        (0, 31, 1, 0x1_0010),
        (1, 31, 0xffff, 0x1_0010),
        (2, 31, 77, 0x1_0010),
        (129, 31, 1, 0x2a),
        (2, 0, 1, 0x2c),
    ] {
        let got = refused(qid, sqsize_z, cntlid, &none);
        assert_eq!(got, (invalid, dw0), "QID {qid} SQSIZE {sqsize_z} CNTLID {cntlid:x}");
    }
    type Change = fn(&mut ConnectData);
    let change: [(Change, u32); 6] = [
        (|data| data.subnqn = nqn_field("nqn.2014-08.org.example:other"), 0x1_0100),
        (|data| data.subnqn = [b'n'; 256], 0x1_0100),
        (|data| data.hostnqn = [0; 256], 0x1_0200),
        (|data| data.hostnqn = nqn_field("iqn.1992-01.com.example"), 0x1_0200),
        (|data| data.hostid = [0; 16], 0x1_0000),
        (|data| data.hostnqn[4] = 0xff, 0x1_0200),
    ];
    for (change, dw0) in change {
        assert_eq!(refused(0, 31, 0xffff, &change), (invalid, dw0));
    }
    // An I/O queue belongs to the host that made the controller.
    let other = |data: &mut ConnectData| data.hostnqn = nqn_field("nqn.2014-08.org.example:two");
    assert_eq!(refused(2, 31, 1, &other), (invalid, 0x1_0200));
    assert_eq!(refused(2, 31, 1, &|data| data.hostid = [8; 16]), (invalid, 0x1_0000));
    assert_eq!(refused(1, 31, 1, &none), (Status::COMMAND_SEQUENCE_ERROR, 0), "taken");
    assert_eq!(refused(2, 31, 1, &none), (Status::SUCCESS, 1));
}

#[test]
fn a_connect_needs_its_data_in_the_capsule() {
    let target = target(Limits::default());
    let mut link = Link::open(&target, Options::default());
    let queue = ConnectCdw11::new().with_sqsize_z(31);
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let short = connect(0, queue, 0).with_sgl(Sgl::in_capsule(1000));
    let (cqe, _) = link.call(short, &data.as_bytes()[..1000]);
    assert!(cqe.status().is(Status::INVALID_DATA_SGL_LENGTH));
    let (cqe, _) = link.call(connect(0, queue, 0).with_sgl(Sgl::transport(1024)), &[]);
    assert!(cqe.status().is(Status::INVALID_SGL_TYPE));
    let mut beyond = Sgl::in_capsule(1024);
    beyond.address = 4;
    let (cqe, _) = link.call(connect(0, queue, 0).with_sgl(beyond), data.as_bytes());
    assert!(cqe.status().is(Status::INVALID_DATA_SGL_LENGTH));
    beyond.address = 1 << 40;
    let (cqe, _) = link.call(connect(0, queue, 0).with_sgl(beyond), data.as_bytes());
    assert!(cqe.status().is(Status::INVALID_SGL_OFFSET));
    let format = Sqe { cdw10: 1, ..connect(0, queue, 0) }.with_sgl(Sgl::in_capsule(1024));
    let (cqe, _) = link.call(format, data.as_bytes());
    assert!(cqe.status().is(Status::FABRICS_INCOMPATIBLE_FORMAT));
    // After all of that it can still be done right, once.
    assert!(link.say_connect(0, 31, &data).status().is_success());
    assert!(link.say_connect(0, 31, &data).status().is(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn nothing_goes_before_connect_and_little_before_enabling() {
    let target = target(Limits::default());
    let mut link = Link::open(&target, Options::default());
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    for sqe in [identify, property_get(offset::CAP as u32, 8), disconnect(), nvm::flush(1)] {
        let cqe = link.read(sqe, 4096).0;
        assert_eq!(cqe.status(), Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cqe = link.say_connect(0, 31, &data);
    let cntlid = cqe.dw0 as u16;
    assert!(link.read(identify, 4096).0.status().is(Status::COMMAND_SEQUENCE_ERROR));
    let mut io = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, cntlid, NQN, HOSTNQN);
    assert!(io.say_connect(1, 31, &data).status().is(Status::COMMAND_SEQUENCE_ERROR));
    link.enable();
    assert!(io.say_connect(1, 31, &data).status().is_success());
    let (cqe, page) = link.read(identify, 4096);
    assert!(cqe.status().is_success());
    let page = IdentifyController::read_from_bytes(&page).expect("4096");
    // What Linux checks before it goes on.
    assert_eq!(page.cntlid.get(), cntlid);
    assert!(page.kas.get() != 0 && page.ioccsz.get() >= 4 && page.iorcsz.get() == 1);
    assert_eq!((page.icdoff.get(), page.msdbd), (0, 1));
    assert!(page.sgls().sgls() == 1 && page.sgls().offset() && page.sgls().transport());
    assert_eq!(page.max_in_capsule(), 8192);
    assert_eq!((page.maxcmd.get(), page.cntrltype), (1024, IdentifyController::CNTRLTYPE_IO));
    assert!(page.ctratt().tbkas() && page.ctratt().hids());
    assert_eq!(page.nqn().and_then(|nqn| nqn.as_str()), Some(NQN));
}

#[test]
fn properties_keep_their_rules() {
    let target = target(Limits::default());
    let mut link = Link::connect(&target, Options::default(), 0, 0xffff);
    let cap = Cap::from_bits(link.property(offset::CAP, 8));
    assert_eq!((cap.mqes_z(), cap.mpsmin(), cap.mpsmax(), cap.cqr()), (1023, 0, 0, true));
    assert_eq!(link.property(offset::VS, 4), 0x0002_0000);
    let refused = |link: &mut Link, sqe| {
        let (cqe, _) = link.call(sqe, &[]);
        assert!(cqe.status().is(Status::INVALID_FIELD) && cqe.status().dnr(), "{sqe:?}");
    };
    refused(&mut link, property_get(offset::CAP as u32, 4));
    refused(&mut link, property_get(offset::VS as u32, 8));
    refused(&mut link, property_get(offset::ASQ as u32, 8));
    refused(&mut link, property_get(0x1000, 4));
    refused(&mut link, property_get(u32::MAX, 4));
    refused(&mut link, Sqe { cdw10: 2, ..property_get(offset::CAP as u32, 8) });
    refused(&mut link, property_set(offset::CC as u32, 8, 1));
    refused(&mut link, property_set(offset::CAP as u32, 8, 1));
    refused(&mut link, property_set(offset::CSTS as u32, 4, 1));
    // Entry sizes that there are not, and page sizes that there are not.
    for cc in
        [Cc::new().with_en(true), Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).with_mps(1)]
    {
        let set = |cc: Cc| property_set(offset::CC as u32, 4, cc.into_bits().into());
        assert!(link.call(set(cc), &[]).0.status().is_success());
        let csts = Csts::from_bits(link.property(offset::CSTS, 4) as u32);
        assert!(csts.cfs() && !csts.rdy());
        assert!(link.call(set(cc.with_en(false)), &[]).0.status().is_success());
    }
    link.enable();
    // Shutdown: complete at once, and nothing more is done.
    let cc = link.property(offset::CC, 4) as u32;
    let cc = Cc::from_bits(cc).with_shn(Cc::SHN_NORMAL);
    link.call(property_set(offset::CC as u32, 4, cc.into_bits().into()), &[]);
    let csts = Csts::from_bits(link.property(offset::CSTS, 4) as u32);
    assert_eq!(csts.shst(), Csts::SHST_COMPLETE);
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    assert!(link.read(identify, 4096).0.status().is(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn a_reset_ends_the_io_queues_and_nothing_else() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    let request = async_event_request().with_cid(900);
    let capsule = admin.capsule(request, &[]);
    admin.send(&capsule);
    admin.call(property_set(offset::CC as u32, 4, 0), &[]);
    assert_eq!(admin.property(offset::CSTS, 4), 0);
    admin.enable();
    io.run();
    assert!(io.connection.is_ended(), "an old I/O queue of a reset controller");
    drop(io);
    let mut io = Link::connect(&target, Options::default(), 1, 1);
    assert!(io.read(nvm::read(1, 0, 0), 512).0.status().is_success());
    let queues =
        admin::set_features(doorbell_spec::feature::Fid::NUMBER_OF_QUEUES, 0, 0x0003_0003, false);
    assert!(admin.call(queues, &[]).0.status().is(Status::COMMAND_SEQUENCE_ERROR));
    drop(io);
    let (cqe, _) = admin.call(queues, &[]);
    assert_eq!((cqe.status(), cqe.dw0), (Status::SUCCESS, 0x0003_0003));
}

#[test]
fn disconnect_ends_an_io_queue_and_no_other() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    assert!(admin.call(disconnect(), &[]).0.status().is(Status::FABRICS_INVALID_QUEUE_TYPE));
    let wrong = Sqe { cdw10: 1, ..disconnect() };
    assert!(io.call(wrong, &[]).0.status().is(Status::FABRICS_INCOMPATIBLE_FORMAT));
    let get = property_get(offset::CSTS as u32, 4);
    assert!(io.call(get, &[]).0.status().is(Status::FABRICS_INVALID_QUEUE_TYPE));
    assert!(io.call(disconnect(), &[]).0.status().is_success());
    assert!(io.connection.is_ended());
    // Its identifier is free again, and the controller goes on.
    let mut io = Link::connect(&target, Options::default(), 1, 1);
    assert!(io.read(nvm::read(1, 0, 0), 512).0.status().is_success());
}

#[test]
fn only_hosts_on_the_list_get_in() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    let other = "nqn.2014-08.org.example:other".to_owned();
    target.allow(Some(vec![other.clone()])).expect("names");
    // The controllers of hosts that are not on it end.
    admin.run();
    io.run();
    assert!(admin.connection.is_ended() && io.connection.is_ended());
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cqe = Link::open(&target, Options::default()).say_connect(0, 31, &data);
    assert_eq!(cqe.status(), Status::FABRICS_INVALID_HOST.with_dnr());
    assert_eq!(cqe.dw0, 0x0001_0200);
    let data = ConnectData::new(HOSTID, 0xffff, NQN, &other);
    assert!(
        Link::open(&target, Options::default()).say_connect(0, 31, &data).status().is_success()
    );
    // Discovery is for everybody.
    let data = ConnectData::new(HOSTID, 0xffff, DISCOVERY_NQN, HOSTNQN);
    assert!(
        Link::open(&target, Options::default()).say_connect(0, 31, &data).status().is_success()
    );
    assert!(target.allow(Some(vec!["host".into()])).is_err());
}
