//! A plan out of a file does behind the port what the same plan in code does, and each does something.

use std::time::Duration;

use doorbell_spec::admin;
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::{ConnectCdw11, connect, property_get, property_set};
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::nvm;
use doorbell_spec::register::{Cc, offset};
use doorbell_subsystem::fabrics::Limits;
use doorbell_subsystem::fault::{Plan, Rule};
use zerocopy::IntoBytes;

use crate::acts::{CASES, For, as_text, in_code};
use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, target};

/// What comes back for a command, as far as it does.
fn say(link: &mut Link, sqe: Sqe, data: &[u8]) -> String {
    if link.connection.is_ended() {
        return format!("{:?}", link.connection.end());
    }
    let capsule = link.capsule(sqe, data);
    link.send(&capsule);
    look(link)
}

fn look(link: &mut Link) -> String {
    link.pass(Duration::ZERO);
    format!("{:?} {:?}", link.take(), link.connection.end())
}

/// All that a host sees of a controller under a plan, however far that lets it come up.
fn seen(plan: Option<Plan>) -> Vec<String> {
    let target = target(Limits::default());
    target.set_faults(plan);
    let mut seen = Vec::new();
    let mut admin = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, 0xffff, NQN, HOSTNQN);
    let cntlid = admin.say_connect(0, 31, &data).dw0 as u16;
    let enabled = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true).into_bits();
    let set = |value: u32| property_set(offset::CC as u32, 4, value.into()).with_cid(21);
    seen.push(say(&mut admin, set(enabled), &[]));
    let mut io = Link::open(&target, Options::default());
    let data = ConnectData::new(HOSTID, cntlid, NQN, HOSTNQN);
    let sqe = connect(1, ConnectCdw11::new().with_sqsize_z(31), 0).with_sgl(Sgl::in_capsule(1024));
    seen.push(say(&mut io, sqe, data.as_bytes()));
    let get = |admin: &mut Link, at: u64, size| {
        say(admin, property_get(at as u32, size).with_cid(1), &[])
    };
    seen.push(get(&mut admin, offset::CAP, 8));
    seen.push(get(&mut admin, offset::CSTS, 4));
    for (cns, nsid) in [(Cns::CONTROLLER, 0), (Cns::NAMESPACE, 1)] {
        let sqe = admin::identify(cns, nsid, 0, Csi::NVM).with_sgl(Sgl::transport(4096));
        seen.push(say(&mut admin, sqe.with_cid(2), &[]));
    }
    let data = [0x22; 1024];
    let write = nvm::write(1, 8, 1).with_sgl(Sgl::in_capsule(1024)).with_cid(11);
    seen.push(say(&mut io, write, &data));
    let read = nvm::read(1, 8, 1).with_sgl(Sgl::transport(1024)).with_cid(12);
    seen.push(say(&mut io, read, &[]));
    for cid in 13..16 {
        seen.push(say(&mut io, nvm::flush(1).with_cid(cid), &[]));
    }
    for millis in [1, 5] {
        for link in [&mut admin, &mut io] {
            link.pass(Duration::from_millis(millis));
            seen.push(look(link));
        }
    }
    seen.push(say(&mut admin, admin::abort(1, 12).with_cid(20), &[]));
    seen.extend([&mut io, &mut admin].map(look));
    for value in [0, enabled] {
        seen.push(say(&mut admin, set(value), &[]));
        seen.push(get(&mut admin, offset::CSTS, 4));
        admin.pass(Duration::from_secs(3));
        seen.push(look(&mut admin));
        seen.push(get(&mut admin, offset::CSTS, 4));
    }
    seen
}

#[test]
fn code_and_file_do_the_same() {
    // Picks nothing, but a plan answers reads by capsules of their own.
    let clean = seen(Some(Plan::new(3).rule(Rule::function_reset())));
    for case in CASES {
        let (code, text) = (seen(Some(in_code(case))), seen(Some(as_text(case))));
        for (code, text) in code.iter().zip(&text) {
            assert!(code == text, "{}:\n{code}\n{text}", case.0);
        }
        assert_eq!(code.len(), text.len());
        assert_eq!(code != clean, case.2 != For::Pcie, "{}: whether it does anything", case.0);
    }
}
