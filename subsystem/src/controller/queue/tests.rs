//! Positions, phases and doorbell values.

use super::*;
use crate::doorbells::DoorbellMemory;
use crate::memory::tests::Ram;

fn setup() -> (HostMemory, DoorbellPage) {
    let ram = Ram::new(2 * 4096);
    let mut memory = HostMemory::default();
    ram.map(&mut memory, 0, 0, 2 * 4096).expect("map");
    (memory, DoorbellPage::new(4096, DoorbellMemory::Heap).expect("doorbells"))
}

fn answer(cid: u16) -> Answer {
    Answer { sqid: 1, sqhd: 0, cid, status: Status::SUCCESS, result: 7 << 32 | 9 }
}

#[test]
fn cq_3_phase_turns_with_every_pass() {
    let (memory, page) = setup();
    let ring = Ring::new(&memory, 0, 3 * 16);
    let mut queue = CompletionQueue::new(3, ring, Doorbell::new(1), None);
    for cid in 0..20u32 {
        assert_eq!(queue.room(1, &page, &memory), Ok(2));
        assert!(queue.post(&memory, &answer(cid as u16)));
        let mut bytes = [0; 16];
        assert!(memory.read(u64::from(cid % 3) * 16, &mut bytes));
        let words =
            [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("word")));
        let entry = Cqe::from_words(words);
        assert_eq!((entry.dw0, entry.dw1, entry.cid), (9, 7, cid as u16));
        assert_eq!(entry.phase(), (cid / 3).is_multiple_of(2));
        page.store(1, (cid + 1) % 3);
        queue.look(&page, &memory).expect("doorbell");
    }
}

#[test]
fn cq_2_room_is_known_without_the_doorbell_until_it_runs_out() {
    let (memory, page) = setup();
    let ring = Ring::new(&memory, 0, 8 * 16);
    let mut queue = CompletionQueue::new(8, ring, Doorbell::new(1), None);
    for cid in 0..5 {
        queue.post(&memory, &answer(cid));
    }
    page.store(1, 4);
    assert_eq!(queue.room(2, &page, &memory), Ok(2));
    assert_eq!(queue.head(), 0, "not looked at");
    assert_eq!(queue.room(3, &page, &memory), Ok(6));
    assert_eq!(queue.head(), 4);
}

#[test]
fn head_doorbells_stay_between_head_and_tail() {
    let (memory, page) = setup();
    let ring = Ring::new(&memory, 0, 8 * 16);
    let mut queue = CompletionQueue::new(8, ring, Doorbell::new(1), None);
    for cid in 0..3 {
        queue.post(&memory, &answer(cid));
    }
    for bad in [4, 7, 8, u32::MAX] {
        page.store(1, bad);
        assert_eq!(queue.look(&page, &memory), Err(BadDoorbell), "{bad}");
        assert_eq!(queue.look(&page, &memory), Ok(()), "reported once");
    }
    page.store(1, 3);
    assert_eq!(queue.look(&page, &memory), Ok(()));
    assert_eq!((queue.head(), queue.free()), (3, 7));
    page.store(1, 2);
    assert_eq!(queue.look(&page, &memory), Err(BadDoorbell), "backwards");
}

#[test]
fn tail_doorbells_stay_within_the_queue() {
    let (memory, page) = setup();
    let ring = Ring::new(&memory, 0, 4 * 64);
    let mut queue = SubmissionQueue::new(1, 1, 4, ring, Doorbell::new(2));
    assert_eq!((queue.look(&page, &memory), queue.waiting()), (Ok(()), 0));
    for bad in [4, 0x1_0001, u32::MAX] {
        page.store(2, bad);
        assert_eq!(queue.look(&page, &memory), Err(BadDoorbell));
        assert_eq!((queue.look(&page, &memory), queue.waiting()), (Ok(()), 0));
    }
    page.store(2, 3);
    assert_eq!((queue.look(&page, &memory), queue.waiting()), (Ok(()), 3));
    queue.head = queue.next(queue.next(queue.next(queue.head)));
    page.store(2, 1);
    assert_eq!((queue.look(&page, &memory), queue.waiting()), (Ok(()), 2));
    assert_eq!(queue.next(3), 0);
}
