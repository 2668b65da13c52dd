//! A plan out of a file does what the same plan in code does, and each does something.

use std::time::Duration;

use doorbell_spec::admin;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::nvm;
use doorbell_spec::register::{Csts, offset};
use doorbell_subsystem::fault::Plan;

use crate::acts::{CASES, For, as_text, in_code};
use crate::host::{Host, config};
use crate::subsystem;

/// All that a host sees of a controller under a plan: registers, data, and what stands in its completion queues.
fn seen(plan: Option<Plan>) -> Vec<String> {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    host.pair(1, 16, 16);
    let page = host.pages(5);
    let mut seen = Vec::new();
    let look = |host: &mut Host, seen: &mut Vec<String>, what: &str| {
        host.poll();
        let rings: Vec<_> = [0, 1]
            .map(|qid| (0..16).map(|at| host.ram.read(host.pairs[&qid].cq + at * 16, 16)).collect())
            .to_vec();
        let rings: Vec<Vec<Vec<u8>>> = rings;
        let used = rings.iter().flatten().filter(|entry| entry.iter().any(|byte| *byte != 0));
        seen.push(format!("{what}: {used:?}"));
    };
    host.controller.set_faults(plan);
    for at in [offset::CAP, offset::CSTS, offset::CSTS] {
        seen.push(format!("{:x}", host.controller.read(at, if at == offset::CAP { 8 } else { 4 })));
    }
    for (at, (cns, nsid)) in [(Cns::CONTROLLER, 0), (Cns::NAMESPACE, 1)].into_iter().enumerate() {
        let sqe = admin::identify(cns, nsid, 0, Csi::NVM).with_prp(page + at as u64 * 4096, 0);
        host.stage(0, sqe);
        host.ring(0);
        look(&mut host, &mut seen, "identify");
    }
    host.ram.write(page + 2 * 4096, &[0x22; 1024]);
    let hung = [
        nvm::write(1, 8, 1).with_prp(page + 2 * 4096, 0).with_cid(11),
        nvm::read(1, 8, 1).with_prp(page + 3 * 4096, 0).with_cid(12),
        nvm::flush(1).with_cid(13),
        nvm::flush(1).with_cid(14),
        nvm::flush(1).with_cid(15),
    ];
    for sqe in hung {
        host.stage_as(1, sqe);
        host.ring(1);
        look(&mut host, &mut seen, "I/O");
    }
    for millis in [1, 5] {
        host.now = Duration::from_millis(millis);
        look(&mut host, &mut seen, "later");
    }
    host.stage(0, admin::abort(1, 12));
    host.ring(0);
    look(&mut host, &mut seen, "abort");
    seen.push(format!("{:?}", host.ram.read(page, 5 * 4096)));
    let csts = |host: &mut Host| {
        format!("{:?}", Csts::from_bits(host.controller.read(offset::CSTS, 4) as u32))
    };
    let enabled = host.cc(0).with_en(true).into_bits().into();
    for (at, value) in [0, enabled].into_iter().enumerate() {
        host.controller.write(offset::CC, 4, value);
        seen.push(csts(&mut host));
        host.now = Duration::from_secs(3 * (at as u64 + 1));
        look(&mut host, &mut seen, "CC");
        seen.push(csts(&mut host));
    }
    host.controller.reset();
    seen.push(csts(&mut host));
    seen
}

#[test]
fn code_and_file_do_the_same() {
    let clean = seen(None);
    assert_eq!(clean, seen(Some(Plan::new(3))), "a plan without rules");
    for case in CASES {
        let (code, text) = (seen(Some(in_code(case))), seen(Some(as_text(case))));
        for (code, text) in code.iter().zip(&text) {
            assert!(code == text, "{}:\n{code}\n{text}", case.0);
        }
        assert_eq!(code.len(), text.len());
        assert_eq!(code != clean, case.2 != For::Fabrics, "{}: whether it does anything", case.0);
    }
}
