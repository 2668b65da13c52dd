//! I/O queues: creation, deletion, back-pressure, fairness, doorbells that break the rules.

use doorbell_spec::admin::{self, AsyncEvent};
use doorbell_spec::command::Sqe;
use doorbell_spec::feature::Fid;
use doorbell_spec::nvm;
use doorbell_spec::status::Status;

use crate::host::{Host, config};
use crate::subsystem;

fn host() -> Host {
    Host::ready(&subsystem(&["memory:1MiB", "null:1GiB"]), config())
}

fn read(page: u64) -> Sqe {
    nvm::read(1, 0, 0).with_prp(page, 0)
}

#[test]
fn create_completion_queue_statuses() {
    let mut host = host();
    let page = host.pages(1);
    let create = |qid, size_z| admin::create_io_cq(qid, size_z, None).with_prp(page, 0);
    host.refused(create(0, 7), Status::INVALID_QUEUE_ID);
    host.refused(create(9, 7), Status::INVALID_QUEUE_ID);
    host.refused(create(u16::MAX, 7), Status::INVALID_QUEUE_ID);
    host.refused(create(1, 0), Status::INVALID_QUEUE_SIZE);
    host.refused(create(1, 4096), Status::INVALID_QUEUE_SIZE);
    host.refused(create(1, 7).with_prp(page + 8, 0), Status::INVALID_PRP_OFFSET);
    let vector = admin::create_io_cq(1, 7, Some(128)).with_prp(page, 0);
    host.refused(vector, Status::INVALID_INTERRUPT_VECTOR);
    let mut scattered = create(1, 7);
    scattered.cdw11 &= !1;
    host.refused(scattered, Status::INVALID_FIELD);
    host.admin(create(1, 7));
    host.refused(create(1, 7), Status::INVALID_QUEUE_ID);
}

#[test]
fn create_submission_queue_statuses() {
    let mut host = host();
    host.completion_queue(1, 8);
    let page = host.pages(1);
    let create = |qid, size_z, cqid| admin::create_io_sq(qid, size_z, cqid, 0).with_prp(page, 0);
    host.refused(create(1, 7, 0), Status::INVALID_QUEUE_ID);
    host.refused(create(1, 7, 9), Status::INVALID_QUEUE_ID);
    host.refused(create(1, 7, 2), Status::COMPLETION_QUEUE_INVALID);
    host.refused(create(0, 7, 1), Status::INVALID_QUEUE_ID);
    host.refused(create(9, 7, 1), Status::INVALID_QUEUE_ID);
    host.refused(create(1, 0, 1), Status::INVALID_QUEUE_SIZE);
    host.refused(create(1, 4096, 1), Status::INVALID_QUEUE_SIZE);
    host.refused(create(1, 7, 1).with_prp(page + 4, 0), Status::INVALID_PRP_OFFSET);
    let mut scattered = create(1, 7, 1);
    scattered.cdw11 &= !1;
    host.refused(scattered, Status::INVALID_FIELD);
    host.admin(create(1, 7, 1));
    host.refused(create(1, 7, 1), Status::INVALID_QUEUE_ID);
    // Queue identifiers need not come in order, nor match.
    host.admin(create(8, 7, 1));
}

#[test]
fn delete_queue_statuses() {
    let mut host = host();
    host.pair(1, 8, 8);
    host.refused(admin::delete_io_sq(0), Status::INVALID_QUEUE_ID);
    host.refused(admin::delete_io_cq(0), Status::INVALID_QUEUE_ID);
    host.refused(admin::delete_io_sq(2), Status::INVALID_QUEUE_ID);
    host.refused(admin::delete_io_cq(2), Status::INVALID_QUEUE_ID);
    host.refused(admin::delete_io_cq(1), Status::INVALID_QUEUE_DELETION);
    host.admin(admin::delete_io_sq(1));
    host.refused(admin::delete_io_sq(1), Status::INVALID_QUEUE_ID);
    host.admin(admin::delete_io_cq(1));
    host.refused(admin::delete_io_cq(1), Status::INVALID_QUEUE_ID);
    host.pair(1, 8, 8);
}

#[test]
fn number_of_queues() {
    let mut host = host();
    let set = |value| admin::set_features(Fid::NUMBER_OF_QUEUES, 0, value, false);
    host.refused(set(0xffff_0000), Status::INVALID_FIELD);
    host.refused(set(0x0000_ffff), Status::INVALID_FIELD);
    assert_eq!(host.admin(set(0x0001_0003)).dw0, 0x0001_0003);
    // Two completion queues were granted, four submission queues.
    let page = host.pages(1);
    host.refused(admin::create_io_cq(3, 7, None).with_prp(page, 0), Status::INVALID_QUEUE_ID);
    host.admin(admin::create_io_cq(2, 7, None).with_prp(page, 0));
    host.refused(set(0), Status::COMMAND_SEQUENCE_ERROR);
    host.refused(admin::create_io_sq(5, 7, 2, 0).with_prp(page, 0), Status::INVALID_QUEUE_ID);
    host.admin(admin::create_io_sq(4, 7, 2, 0).with_prp(page, 0));
}

#[test]
fn cq_2_full_completion_queue_holds_completions() {
    let mut host = host();
    host.pair(1, 16, 4);
    host.pairs.get_mut(&1).expect("pair").lazy = true;
    let page = host.pages(1);
    let cids: Vec<u16> = (0..10).map(|_| host.stage(1, read(page))).collect();
    host.ring(1);
    for _ in 0..10 {
        host.poll();
    }
    // Three fit. The others wait until the head moves, in order, none lost.
    let mut seen = Vec::new();
    for expected in [3, 0] {
        let mut count = 0;
        while let Some(entry) = host.reap(1) {
            seen.push(entry.cid);
            count += 1;
        }
        assert_eq!(count, expected);
        host.poll();
    }
    host.ring_value(1, true, 1);
    host.poll();
    seen.extend(host.reap(1).map(|entry| entry.cid));
    assert!(host.reap(1).is_none(), "one slot was free, so one completion comes");
    host.pairs.get_mut(&1).expect("pair").lazy = false;
    let head = host.pairs[&1].head;
    host.ring_value(1, true, head);
    while seen.len() < 10 {
        seen.push(host.wait(1).cid);
    }
    assert_eq!(seen, cids);
}

#[test]
fn cq_2_shared_completion_queue() {
    let mut host = host();
    let cq = host.completion_queue(3, 8);
    for qid in 1..=3 {
        host.submission_queue(qid, 3, 8, cq, 8);
    }
    let page = host.pages(1);
    let mut expected = Vec::new();
    for _ in 0..6 {
        for qid in 1..=3 {
            expected.push((qid, host.stage(qid, read(page))));
        }
    }
    (1..=3).for_each(|qid| host.ring(qid));
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let entry = host.wait(3);
        seen.push((entry.sqid, entry.cid));
    }
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    host.refused(admin::delete_io_cq(3), Status::INVALID_QUEUE_DELETION);
    (1..=3).for_each(|qid| {
        host.admin(admin::delete_io_sq(qid));
    });
    host.admin(admin::delete_io_cq(3));
}

#[test]
fn tgt_3_no_queue_starves_another() {
    let mut host = host();
    host.pair(1, 256, 256);
    host.pair(2, 256, 256);
    let page = host.pages(1);
    for qid in [1, 2] {
        (0..200).for_each(|_| {
            host.stage(qid, read(page));
        });
        host.ring(qid);
    }
    host.poll();
    for qid in [1, 2] {
        let done = std::iter::from_fn(|| host.reap(qid)).count();
        assert_eq!(done, 32, "queue {qid} after one round");
    }
}

#[test]
fn tgt_3_a_full_completion_queue_stops_only_its_own() {
    let mut host = host();
    host.pair(1, 64, 2);
    host.pair(2, 64, 64);
    host.pairs.get_mut(&1).expect("pair").lazy = true;
    let page = host.pages(1);
    for _ in 0..10 {
        host.stage(1, read(page));
    }
    host.ring(1);
    for _ in 0..20 {
        host.expect(2, read(page), Status::SUCCESS);
    }
    host.admin(admin::delete_io_sq(1));
    host.admin(admin::delete_io_cq(1));
}

#[test]
fn tgt_4_deleting_a_queue_aborts_what_it_holds() {
    let mut host = host();
    host.pair(1, 16, 16);
    let page = host.pages(1);
    let cids: Vec<u16> =
        (0..5).map(|_| host.stage(1, nvm::read(77, 0, 0).with_prp(page, 0))).collect();
    // The deletion is seen first: admin commands go before others.
    let cid = host.stage(0, admin::delete_io_sq(1));
    host.ring(1);
    host.ring(0);
    let done = host.wait(0);
    assert_eq!((done.cid, done.status().is_success()), (cid, true));
    let aborted: Vec<_> = std::iter::from_fn(|| host.reap(1)).collect();
    assert_eq!(aborted.iter().map(|entry| entry.cid).collect::<Vec<_>>(), cids);
    assert!(aborted.iter().all(|entry| entry.status().is(Status::ABORTED_SQ_DELETION)));
    host.poll();
    assert!(host.reap(1).is_none());
}

#[test]
fn sqhd_follows_the_head() {
    let mut host = host();
    host.pair(1, 4, 8);
    let page = host.pages(1);
    let heads: Vec<u16> = (0..6).map(|_| host.run(1, read(page)).sqhd).collect();
    assert_eq!(heads, [1, 2, 3, 0, 1, 2]);
}

/// Arms one event request; returns its identifier.
fn listen(host: &mut Host) -> u16 {
    let cid = host.stage(0, admin::async_event_request());
    host.ring(0);
    host.poll();
    assert!(host.reap(0).is_none());
    cid
}

#[track_caller]
fn event(host: &mut Host, cid: u16, aei: u8) {
    let entry = host.wait(0);
    assert_eq!(entry.cid, cid);
    let event = AsyncEvent::from_bits(entry.dw0);
    assert_eq!((event.aet(), event.aei(), event.lid()), (AsyncEvent::TYPE_ERROR, aei, 1));
}

#[test]
fn rst_8_doorbell_value_beyond_the_queue() {
    let mut host = host();
    host.pair(1, 8, 8);
    let cid = listen(&mut host);
    host.ring_value(1, false, 8);
    event(&mut host, cid, AsyncEvent::ERROR_INVALID_DOORBELL_VALUE);
    // The queue goes on where it was.
    let page = host.pages(1);
    host.expect(1, read(page), Status::SUCCESS);
}

#[test]
fn rst_8_head_doorbell_past_the_tail() {
    let mut host = host();
    host.pair(1, 8, 4);
    let cid = listen(&mut host);
    host.ring_value(1, true, 2);
    let page = host.pages(1);
    // The doorbell is looked at when the queue seems full.
    host.pairs.get_mut(&1).expect("pair").lazy = true;
    for _ in 0..5 {
        host.stage(1, read(page));
    }
    host.ring_value(1, true, 3);
    host.ring(1);
    event(&mut host, cid, AsyncEvent::ERROR_INVALID_DOORBELL_VALUE);
}

#[test]
fn rst_8_doorbell_of_no_queue() {
    // Written as a message: noticed at once.
    let mut host = host();
    let cid = listen(&mut host);
    host.controller.write(0x1000 + 8 * 5, 4, 1);
    event(&mut host, cid, AsyncEvent::ERROR_INVALID_DOORBELL);
    // Stored into shared memory: noticed sooner or later.
    let mut host = self::host();
    let cid = listen(&mut host);
    host.ring_value(5, false, 1);
    for _ in 0..3000 {
        host.poll();
    }
    event(&mut host, cid, AsyncEvent::ERROR_INVALID_DOORBELL);
}

#[test]
fn doorbells_by_message() {
    let mut host = host();
    host.pair(1, 8, 8);
    let page = host.pages(1);
    host.stage(1, read(page));
    host.controller.write(0x1008, 4, 1);
    assert!(host.wait(1).status().is_success());
    // Misaligned and odd-sized ones are ignored.
    host.stage(1, read(page));
    host.controller.write(0x100a, 4, 2);
    host.controller.write(0x1008, 8, 2);
    host.controller.write(0x1008, 2, 2);
    assert_eq!(host.poll(), 0);
}

#[test]
fn doorbell_strides() {
    for dstrd in [0, 1, 4] {
        let config = doorbell_subsystem::ControllerConfig { dstrd, ..config() };
        let mut host = Host::ready(&subsystem(&["memory:1MiB"]), config);
        host.pair(3, 8, 8);
        let page = host.pages(1);
        for _ in 0..20 {
            host.expect(3, read(page), Status::SUCCESS);
        }
    }
}

#[test]
fn queues_of_every_page_size() {
    for mps in 0..=4 {
        let mut host = Host::new(&subsystem(&["memory:1MiB"]), config());
        host.enable(8, mps);
        host.pair(1, 300, 70);
        let page = host.pages(1);
        for _ in 0..10 {
            host.expect(1, read(page), Status::SUCCESS);
        }
        if mps > 0 {
            let at = host.aligned_pages(32) + 4096;
            let create = admin::create_io_cq(2, 7, None).with_prp(at, 0);
            host.refused(create, Status::INVALID_PRP_OFFSET);
        }
    }
}

#[test]
fn garbage_entries_and_doorbells_end_every_time() {
    let mut host = host();
    let mut random = crate::random::Random::new("garbage_entries_and_doorbells_end_every_time");
    host.pair(1, 64, 64);
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    for _ in 0..rounds {
        let qid = random.below(2) as u16;
        let pair = &host.pairs[&qid];
        let (sq, size) = (pair.sq, u64::from(pair.sq_size));
        for index in 0..size {
            let mut words: [u64; 8] = std::array::from_fn(|_| random.next());
            // Mostly opcodes that exist, and addresses and blocks that might.
            words[0] = words[0] & !0xc3ff | random.below(0x90);
            words[0] = words[0] & 0xffff_ffff | random.below(4) << 32;
            words[3] &= 0x00ff_ffff;
            words[3] += crate::ram::BASE;
            words[4] = if random.below(2) == 0 { words[3] & !0xfff } else { words[4] };
            words[5] &= 0xfff;
            host.ram.write(sq + index * 64, &words.map(u64::to_ne_bytes).concat());
        }
        host.ring_value(qid, false, random.below(80) as u32);
        host.ring_value(qid, true, random.below(80) as u32);
        host.poll();
        if random.below(50) == 0 || !host.csts().rdy() || host.csts().cfs() {
            host = self::host();
            host.pair(1, 64, 64);
        }
    }
}
