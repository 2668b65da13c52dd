//! Namespaces that come and go while controllers run.

use std::sync::Arc;

use doorbell_spec::admin::{self, AsyncEvent, LogRequest};
use doorbell_spec::feature::Fid;
use doorbell_spec::log::{ChangedNamespaceList, Lid};
use doorbell_spec::nvm;
use doorbell_spec::status::Status;
use doorbell_subsystem::{Controller, NamespaceSpec};
use zerocopy::FromBytes;

use crate::host::{Host, config};
use crate::subsystem;

fn namespace(spec: &str) -> doorbell_subsystem::Namespace {
    spec.parse::<NamespaceSpec>().expect(spec).open().expect("namespace")
}

fn changed(host: &mut Host, rae: bool) -> Vec<u32> {
    let page = host.pages(1);
    let request = LogRequest { rae, ..LogRequest::new(Lid::CHANGED_NAMESPACES, 1023) };
    host.admin(admin::get_log_page(request).with_prp(page, 0));
    let page = host.ram.read(page, 4096);
    ChangedNamespaceList::read_from_bytes(&page).expect("page").iter().collect()
}

#[test]
fn added_and_removed_namespaces_are_reported() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut hosts = [Host::ready(&subsystem, config()), Host::ready(&subsystem, config())];
    for host in &mut hosts {
        let notices = 1 << 8;
        host.admin(admin::set_features(Fid::ASYNC_EVENT_CONFIG, 0, notices, false));
        host.pair(1, 8, 8);
        host.stage(0, admin::async_event_request());
        host.stage(0, admin::async_event_request());
        host.ring(0);
        host.poll();
    }
    assert_eq!(subsystem.add(namespace("memory:2MiB,block=4096")), Ok(2));
    for host in &mut hosts {
        let event = AsyncEvent::from_bits(host.wait(0).dw0);
        assert_eq!((event.aet(), event.aei(), event.lid()), (2, 0, 4));
        let page = host.pages(1);
        host.expect(1, nvm::write(2, 511, 0).with_prp(page, 0), Status::SUCCESS);
    }
    // Further changes wait for the log to be read; all of them are in it.
    assert!(subsystem.remove(1).is_some());
    assert_eq!(subsystem.add_as(7, namespace("null:1GiB")), Ok(7));
    for host in &mut hosts {
        host.poll();
        assert!(host.reap(0).is_none());
        assert_eq!(changed(host, true), [1, 2, 7]);
        assert_eq!(changed(host, false), [1, 2, 7]);
        assert_eq!(AsyncEvent::from_bits(host.wait(0).dw0).aet(), AsyncEvent::TYPE_NOTICE);
        assert_eq!(changed(host, false), []);
        let page = host.pages(1);
        host.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::INVALID_FIELD);
    }
}

#[test]
fn changes_are_not_reported_unless_asked_for() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut host = Host::ready(&subsystem, config());
    host.stage(0, admin::async_event_request());
    host.ring(0);
    host.poll();
    subsystem.remove(1).expect("namespace");
    host.poll();
    assert!(host.reap(0).is_none());
    assert_eq!(changed(&mut host, false), [1]);
}

#[test]
fn contents_outlive_controllers() {
    let subsystem = subsystem(&["memory:1MiB"]);
    {
        let mut host = Host::ready(&subsystem, config());
        host.pair(1, 8, 8);
        let page = host.pages(1);
        host.ram.write(page, &[3; 512]);
        host.expect(1, nvm::write(1, 5, 0).with_prp(page, 0), Status::SUCCESS);
    }
    let mut host = Host::ready(&subsystem, config());
    host.pair(1, 8, 8);
    let page = host.pages(1);
    host.expect(1, nvm::read(1, 5, 0).with_prp(page, 0), Status::SUCCESS);
    assert_eq!(host.ram.read(page, 512), [3; 512]);
}

#[test]
fn controller_identifiers_are_given_back() {
    let subsystem = subsystem(&[]);
    let make = || Controller::new(Arc::clone(&subsystem), config()).expect("controller");
    let (first, second) = (make(), make());
    assert_eq!((first.cntlid(), second.cntlid()), (1, 2));
    drop(first);
    assert_eq!(make().cntlid(), 1);
}

#[test]
fn settings_out_of_range() {
    let subsystem = subsystem(&[]);
    for (config, words) in [
        (doorbell_subsystem::ControllerConfig { mqes_z: 0, ..config() }, "mqes_z is 0"),
        (doorbell_subsystem::ControllerConfig { mdts: 0, ..config() }, "mdts is 0"),
        (doorbell_subsystem::ControllerConfig { max_io_queues: 0, ..config() }, "max_io_queues"),
        (doorbell_subsystem::ControllerConfig { dstrd: 16, ..config() }, "use 0 to 15"),
    ] {
        let error = Controller::new(Arc::clone(&subsystem), config).expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}
