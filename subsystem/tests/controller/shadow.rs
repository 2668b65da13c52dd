//! Doorbell Buffer Config: DB-1 to DB-4.

use doorbell_spec::admin;
use doorbell_spec::nvm;
use doorbell_spec::status::Status;

use crate::host::{Host, config};
use crate::subsystem;

struct Buffer {
    host: Host,
    shadow: u64,
    events: u64,
}

impl Buffer {
    fn new() -> Self {
        let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
        let (shadow, events) = (host.pages(1), host.pages(1));
        host.pair(1, 8, 8);
        host.admin(admin::doorbell_buffer_config().with_prp(shadow, events));
        host.pair(2, 8, 8);
        Self { host, shadow, events }
    }

    fn dword(&self, page: u64, qid: u64, completion: bool) -> u32 {
        let bytes = self.host.ram.read(page + 8 * qid + 4 * u64::from(completion), 4);
        u32::from_le_bytes(bytes.try_into().expect("dword"))
    }

    fn store(&self, qid: u64, completion: bool, value: u32) {
        self.host
            .ram
            .write(self.shadow + 8 * qid + 4 * u64::from(completion), &value.to_le_bytes());
    }

    /// Whether a host that follows the rule would ring the register for a move from `old` to `new` (DB-1).
    fn must_ring(&self, qid: u64, old: u16, new: u16) -> bool {
        let event = self.dword(self.events, qid, false) as u16;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }
}

#[test]
fn pages_are_aligned_and_mapped() {
    let mut host = Host::ready(&subsystem(&[]), config());
    let page = host.pages(2);
    let config = admin::doorbell_buffer_config();
    host.refused(config.with_prp(page + 8, page), Status::INVALID_PRP_OFFSET);
    host.refused(config.with_prp(page, page + 8), Status::INVALID_PRP_OFFSET);
    host.refused(config.with_prp(page, 0x7000_0000), Status::DATA_TRANSFER_ERROR);
    host.refused(config.with_prp(0x7000_0000, page), Status::DATA_TRANSFER_ERROR);
    host.admin(config.with_prp(page, page + 4096));
}

#[test]
fn db_1_commands_arrive_through_the_shadow() {
    for qid in [1u16, 2] {
        let mut buffer = Buffer::new();
        let page = buffer.host.pages(1);
        let mut tail = 0u16;
        for round in 0..30u64 {
            buffer.host.stage(qid, nvm::read(1, round, 0).with_prp(page, 0));
            let old = tail;
            tail = (tail + 1) % 8;
            buffer.store(qid.into(), false, tail.into());
            if round > 0 {
                // The controller stopped at the old tail and said so.
                assert!(buffer.must_ring(qid.into(), old, old.wrapping_add(1)), "round {round}");
            }
            buffer.host.poll();
            let entry = buffer.host.reap(qid).expect("completion");
            assert!(entry.status().is_success());
            let head = buffer.host.pairs[&qid].head;
            buffer.store(qid.into(), true, head);
            // Nothing more: the event index follows.
            buffer.host.poll();
            assert_eq!(buffer.dword(buffer.events, qid.into(), false), u32::from(tail));
        }
    }
}

#[test]
fn db_1_existing_queues_keep_their_position() {
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config());
    host.pair(1, 8, 8);
    let page = host.pages(1);
    for _ in 0..3 {
        host.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
    }
    let (shadow, events) = (host.pages(1), host.pages(1));
    host.admin(admin::doorbell_buffer_config().with_prp(shadow, events));
    assert_eq!(host.ram.read(shadow + 8, 4), 3u32.to_le_bytes());
}

#[test]
fn db_2_admin_queue_stays_with_its_register() {
    let mut buffer = Buffer::new();
    buffer.store(0, false, 5);
    assert_eq!(buffer.host.poll(), 0);
    let page = buffer.host.pages(1);
    buffer.host.admin(
        admin::identify(
            doorbell_spec::identify::Cns::CONTROLLER,
            0,
            0,
            doorbell_spec::identify::Csi::NVM,
        )
        .with_prp(page, 0),
    );
}

#[test]
fn db_3_reset_returns_to_the_registers() {
    let mut buffer = Buffer::new();
    buffer.host.controller.write(doorbell_spec::register::offset::CC, 4, 0);
    buffer.host.enable(16, 0);
    buffer.host.pair(1, 8, 8);
    let page = buffer.host.pages(1);
    buffer.store(1, false, 3);
    assert_eq!(buffer.host.poll(), 0);
    buffer.host.expect(1, nvm::read(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
}

#[test]
fn db_4_shadow_values_are_checked() {
    let mut buffer = Buffer::new();
    let page = buffer.host.pages(1);
    for value in [8, 9, 0x1_0000, u32::MAX] {
        buffer.store(1, false, value);
        assert_eq!(buffer.host.poll(), 0);
    }
    buffer.host.stage(1, nvm::read(1, 0, 0).with_prp(page, 0));
    buffer.store(1, false, 1);
    assert_eq!(buffer.host.poll(), 1);
    assert!(!buffer.host.csts().cfs());
}
