//! The discovery service.

use std::time::Duration;

use doorbell_spec::admin::{self, LogRequest, async_event_request};
use doorbell_spec::fabrics::DISCOVERY_NQN;
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, RECORD, SubsystemType, TransportType,
};
use doorbell_spec::feature::{AsyncEventConfig, Fid};
use doorbell_spec::identify::{Cns, Csi, IdentifyController};
use doorbell_spec::log::Lid;
use doorbell_spec::nvm;
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::port::tcp::End;
use std::sync::Arc;
use zerocopy::FromBytes;

use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, Pdu, target};

fn discover(target: &Arc<Target>, kato: u32) -> Link {
    let mut link = Link::open(target, Options { kato, ..Options::default() });
    let data = ConnectData::new(HOSTID, 0xffff, DISCOVERY_NQN, HOSTNQN);
    assert!(link.say_connect(0, 31, &data).status().is_success());
    link.enable();
    link
}

/// The log, read in two parts as Linux does: header, then records.
fn log(link: &mut Link) -> (u64, Vec<DiscoveryEntry>) {
    let request = LogRequest::new(Lid::DISCOVERY, RECORD as u32 / 4 - 1);
    let (cqe, page) = link.read(admin::get_log_page(request), RECORD as u32);
    assert!(cqe.status().is_success());
    let header = DiscoveryHeader::read_from_bytes(&page).expect("1024");
    let count = header.numrec.get() as u32;
    if count == 0 {
        return (header.genctr.get(), Vec::new());
    }
    let len = count * RECORD as u32;
    let rest = LogRequest { lpo: RECORD as u64, numd_z: len / 4 - 1, ..request };
    let (cqe, page) = link.read(admin::get_log_page(rest), len);
    assert!(cqe.status().is_success());
    let entries = page.chunks(RECORD).map(DiscoveryEntry::read_from_bytes);
    (header.genctr.get(), entries.map(|entry| entry.expect("1024")).collect())
}

#[test]
fn the_log_shows_ports_subsystem_and_referrals() {
    let target = target(Limits::default());
    target.add_port("0.0.0.0:4420".parse().expect("address"));
    target.add_port("[2001:db8::7]:4421".parse().expect("address"));
    target.refer("192.0.2.9".parse().expect("referral"));
    let mut link = discover(&target, 0);
    let (genctr, entries) = log(&mut link);
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!((entry.trtype, entry.cntlid.get()), (TransportType::TCP, 0xffff));
            let address = format!("{}:{}", entry.address(), entry.service());
            (entry.subtype, entry.adrfam, address, entry.nqn().expect("NQN").to_owned())
        })
        .collect();
    let (v4, v6) = (AddressFamily::IPV4, AddressFamily::IPV6);
    let (own, nvm) = (SubsystemType::CURRENT, SubsystemType::NVM);
    let (here, there) = ("127.0.0.1:4420".to_owned(), "2001:db8::7:4421".to_owned());
    assert_eq!(
        shown,
        [
            (own, v4, here.clone(), DISCOVERY_NQN.to_owned()),
            (nvm, v4, here, NQN.to_owned()),
            (own, v6, there.clone(), DISCOVERY_NQN.to_owned()),
            (nvm, v6, there, NQN.to_owned()),
            (SubsystemType::REFERRAL, v4, "192.0.2.9:8009".to_owned(), DISCOVERY_NQN.to_owned()),
        ]
    );
    assert!(entries[0].flags().persistent() && !entries[0].flags().duplicate());
    assert!(entries[2].flags().persistent() && entries[2].flags().duplicate());
    assert!(entries[1].requirements().no_flow_control());
    // A host that may not connect is not shown what it may not have.
    target.allow(Some(vec!["nqn.2014-08.org.example:other".into()])).expect("names");
    let (changed, entries) = log(&mut link);
    assert_eq!(changed, genctr + 1, "each change counts once");
    assert!(entries.iter().all(|entry| entry.subtype != nvm));
    target.unrefer(&"192.0.2.9".parse().expect("referral"));
    target.remove_port("0.0.0.0:4420".parse().expect("address"));
    assert_eq!(log(&mut link).1.len(), 1);
}

#[test]
fn a_discovery_controller_does_little_else() {
    let target = target(Limits::default());
    let mut link = discover(&target, 0);
    let identify = |cns| admin::identify(cns, 0, 0, Csi::NVM);
    let (cqe, page) = link.read(identify(Cns::CONTROLLER), 4096);
    assert!(cqe.status().is_success());
    let page = IdentifyController::read_from_bytes(&page).expect("4096");
    assert_eq!(page.cntrltype, IdentifyController::CNTRLTYPE_DISCOVERY);
    assert_eq!((page.oaes.get(), page.nn.get()), (1 << 31, 0));
    assert_eq!(page.nqn().and_then(|nqn| nqn.as_str()), Some(DISCOVERY_NQN));
    let refused = link.read(identify(Cns::ACTIVE_NAMESPACES), 4096).0;
    assert!(refused.status().is(Status::INVALID_FIELD));
    let smart = admin::get_log_page(LogRequest::new(Lid::SMART, 127));
    assert!(link.read(smart, 512).0.status().is(Status::INVALID_LOG_PAGE));
    let queues = admin::set_features(Fid::NUMBER_OF_QUEUES, 0, 0, false);
    assert!(link.call(queues, &[]).0.status().is(Status::INVALID_FIELD));
    assert!(link.call(admin::create_io_cq(1, 31, None), &[]).0.status().is(Status::INVALID_OPCODE));
    let mut io = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, 1, DISCOVERY_NQN, HOSTNQN);
    let cqe = io.say_connect(1, 31, &data);
    assert_eq!((cqe.status().code(), cqe.dw0), (Status::FABRICS_CONNECT_INVALID.code(), 0x2a));
    // Its log is nobody else's.
    let mut other = Link::connect(&target, Options::default(), 0, 0xffff);
    other.enable();
    let log = admin::get_log_page(LogRequest::new(Lid::DISCOVERY, 255));
    assert!(other.read(log, 1024).0.status().is(Status::INVALID_LOG_PAGE));
    assert!(other.read(nvm::flush(1), 0).0.status().is(Status::INVALID_OPCODE));
}

#[test]
fn changes_are_reported_to_whoever_stays() {
    let target = target(Limits::default());
    let mut link = discover(&target, 30_000);
    let notices = AsyncEventConfig::new().with_dlpcn(true).into_bits();
    let set = admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, notices, false);
    assert!(link.call(set, &[]).0.status().is_success());
    for cid in [800, 801] {
        let capsule = link.capsule(async_event_request().with_cid(cid), &[]);
        link.send(&capsule);
    }
    target.add_port("127.0.0.1:4420".parse().expect("address"));
    target.refer("192.0.2.9".parse().expect("referral"));
    link.pass(Duration::from_millis(100));
    let [Pdu::Response(cqe)] = link.take()[..] else { panic!("one event") };
    assert_eq!((cqe.cid, cqe.dw0), (800, 0x0070_f002));
    // The next one waits until the log was read.
    target.remove_port("127.0.0.1:4420".parse().expect("address"));
    link.pass(Duration::from_millis(100));
    assert_eq!(link.take(), []);
    let request = LogRequest::new(Lid::DISCOVERY, 255);
    let capsule = {
        let sqe = admin::get_log_page(request).with_cid(1);
        link.capsule(sqe.with_sgl(doorbell_spec::fabrics::sgl::Sgl::transport(1024)), &[])
    };
    link.send(&capsule);
    let pdus = link.take();
    assert!(pdus.iter().any(|pdu| matches!(pdu, Pdu::Response(cqe) if cqe.cid == 801)), "{pdus:?}");
    // It lives as long as its host does.
    link.pass(Duration::from_secs(59));
    assert!(link.call(admin::keep_alive(), &[]).0.status().is_success());
    link.pass(Duration::from_secs(61));
    assert_eq!(link.connection.end(), Some(End::Expired));
}

#[test]
fn a_passing_guest_is_let_go_after_two_minutes() {
    let target = target(Limits::default());
    let mut link = discover(&target, 0);
    link.pass(Duration::from_secs(119));
    assert!(!link.connection.is_ended());
    link.pass(Duration::from_secs(2));
    assert!(link.connection.is_ended());
    assert_eq!(target.usage().controllers, 0);
}
