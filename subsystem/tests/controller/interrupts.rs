//! Interrupts: which vector is signalled, and how often.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use doorbell_spec::admin;
use doorbell_spec::nvm;

use crate::host::{Host, config};
use crate::subsystem;

/// A vector's event as a stream: eight bytes come out for each signal.
struct Signals(UnixStream);

impl Signals {
    fn on(host: &mut Host, vector: u16) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("nonblocking");
        host.controller.set_interrupt(vector, Some(OwnedFd::from(theirs))).expect("vector");
        Self(ours)
    }

    fn count(&mut self) -> usize {
        let mut bytes = [0; 1024];
        self.0.read(&mut bytes).unwrap_or(0) / 8
    }
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn vectors_are_signalled_once_a_round() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    let mut admin_vector = Signals::on(&mut host, 0);
    let mut signals = Signals::on(&mut host, 5);
    let cq = host.aligned_pages(1);
    host.admin(admin::create_io_cq(1, 63, Some(5)).with_prp(cq, 0));
    host.submission_queue(1, 1, 64, cq, 64);
    assert_eq!(admin_vector.count(), 2);
    let page = host.pages(1);
    for _ in 0..20 {
        host.stage(1, nvm::read(1, 0, 0).with_prp(page, 0));
    }
    host.ring(1);
    host.poll();
    assert_eq!(std::iter::from_fn(|| host.reap(1)).count(), 20);
    host.poll();
    assert_eq!((signals.count(), admin_vector.count()), (1, 0));
    // Switched off, the vector is silent; without IEN there is none.
    host.controller.set_interrupt(5, None).expect("vector");
    host.stage(1, nvm::read(1, 0, 0).with_prp(page, 0));
    host.ring(1);
    host.poll();
    assert!(host.reap(1).is_some());
    assert_eq!(signals.count(), 0);
    host.pair(2, 8, 8);
    let before = admin_vector.count();
    host.stage(2, nvm::read(1, 0, 0).with_prp(page, 0));
    host.ring(2);
    host.poll();
    assert_eq!((before, admin_vector.count()), (2, 0));
    assert!(host.controller.set_interrupt(128, None).is_err());
}
