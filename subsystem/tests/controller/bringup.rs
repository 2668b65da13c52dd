//! From registers to the first read.

use doorbell_spec::admin;
use doorbell_spec::feature::Fid;
use doorbell_spec::identify::{Cns, Csi, IdentifyController, IdentifyNamespace, NamespaceList};
use doorbell_spec::nvm;
use doorbell_spec::register::{Cap, Vs, offset};
use doorbell_spec::status::Status;
use zerocopy::FromBytes;

use crate::host::{Host, config};
use crate::subsystem;

#[test]
fn first_write_and_read() {
    let subsystem = subsystem(&["memory:1MiB", "null:1TiB,block=4096"]);
    let mut host = Host::ready(&subsystem, config());
    let cap = Cap::from_bits(host.controller.read(offset::CAP, 8));
    assert_eq!((cap.mqes_z(), cap.mpsmin(), cap.mpsmax()), (4095, 0, 4));
    assert_eq!(Vs::from_bits(host.controller.read(offset::VS, 4) as u32), Vs::V2_0);

    let page = host.identify(Cns::CONTROLLER, 0, 0, Csi::NVM);
    let identify = IdentifyController::read_from_bytes(&page).expect("page");
    assert_eq!(identify.max_transfer(0), Some(1 << 20));
    let page = host.identify(Cns::ACTIVE_NAMESPACES, 0, 0, Csi::NVM);
    let list = NamespaceList::read_from_bytes(&page).expect("page");
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2]);
    let page = host.identify(Cns::NAMESPACE, 2, 0, Csi::NVM);
    let namespace = IdentifyNamespace::read_from_bytes(&page).expect("page");
    assert_eq!((namespace.block_size(), namespace.size()), (Some(4096), Some(1 << 40)));

    let granted = host.admin(admin::set_features(Fid::NUMBER_OF_QUEUES, 0, 0x00ff_00ff, false));
    assert_eq!(granted.dw0, 0x0007_0007);
    host.pair(1, 16, 16);
    let (from, to) = (host.pages(1), host.pages(1));
    host.ram.write(from, &[0x5a; 4096]);
    host.expect(1, nvm::write(1, 8, 7).with_prp(from, 0), Status::SUCCESS);
    host.expect(1, nvm::read(1, 8, 7).with_prp(to, 0), Status::SUCCESS);
    assert_eq!(host.ram.read(to, 4096), [0x5a; 4096]);
    host.expect(1, nvm::flush(1), Status::SUCCESS);
    host.expect(1, nvm::read(2, 0, 0).with_prp(to, 0), Status::SUCCESS);
}

#[test]
fn rings_wrap() {
    let subsystem = subsystem(&["memory:1MiB"]);
    let mut host = Host::ready(&subsystem, config());
    host.pair(1, 4, 3);
    let page = host.pages(1);
    for round in 0..100u64 {
        host.expect(1, nvm::read(1, round, 0).with_prp(page, 0), Status::SUCCESS);
    }
}
