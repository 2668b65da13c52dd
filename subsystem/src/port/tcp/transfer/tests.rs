//! Data that comes in every order and size.

use doorbell_spec::nvm;

use super::*;

const BLOCK: u32 = 512;

/// Sends all data of one write in PDUs of `piece` bytes, R2T by R2T in the given order, and returns what was written.
fn write_all(len: u32, piece: usize, maxr2t_z: u32, newest_first: bool) -> Vec<u8> {
    let data: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ at as u8).collect();
    let mut transfers = Transfers::new(4, maxr2t_z, 4096);
    let mut requests = Vec::new();
    let sqe = nvm::write(1, 0, 0).with_cid(3);
    transfers.begin(sqe, len, Some(BLOCK), &mut |r| requests.push(r)).expect("room");
    let mut stored = vec![0; len as usize];
    loop {
        let request = if newest_first { requests.pop().expect("one") } else { requests.remove(0) };
        let (from, end) = (request.offset, request.offset + request.len);
        let mut at = from;
        while at < end {
            let now = (piece as u32).min(end - at);
            let header = Header {
                cccid: request.cid,
                ttag: request.ttag,
                datao: at,
                datal: now,
                last: at + now == end,
            };
            let place = transfers.place(&header).expect("asked for");
            let mut bytes = data[at as usize..(at + now) as usize].to_vec();
            transfers.take(place, &mut bytes, true, |_, at, bytes| {
                assert_eq!(bytes.len() as u32 % BLOCK, 0, "whole blocks");
                assert_eq!(at % BLOCK, 0);
                stored[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
                Status::SUCCESS
            });
            at += now;
            if let Some(done) = transfers.advance(place, &mut |r| requests.push(r)) {
                assert!(done.status.is_success());
                assert_eq!((done.sqe.cid(), transfers.holds(3)), (3, false));
                assert_eq!(stored, data);
                return stored;
            }
        }
    }
}

#[test]
fn blocks_come_together_from_any_pieces() {
    // Under Miri a byte at a time takes minutes.
    let pieces: &[usize] =
        if cfg!(miri) { &[513, 100_000] } else { &[1, 3, 511, 512, 513, 4096, 100_000] };
    for &piece in pieces {
        for (len, maxr2t_z) in [(512, 0), (4096, 0), (8192 + 512, 0), (8192 + 512, 1), (20_480, 9)]
        {
            for newest_first in [false, true] {
                assert_eq!(write_all(len, piece, maxr2t_z, newest_first).len(), len as usize);
            }
        }
    }
}

#[test]
fn a_failure_is_told_when_nothing_is_outstanding_any_more() {
    let mut transfers = Transfers::new(1, 1, 4096);
    let mut requests = Vec::new();
    let sqe = nvm::write(1, 0, 0).with_cid(3);
    transfers.begin(sqe, 16_384, Some(BLOCK), &mut |r| requests.push(r)).expect("room");
    assert_eq!(requests.len(), 2);
    assert_eq!(
        transfers.begin(sqe.with_cid(4), 512, Some(BLOCK), &mut |_| {}),
        Err(Violation::SEQUENCE)
    );
    let mut done = None;
    for (at, request) in requests.clone().into_iter().enumerate() {
        let Request { cid, ttag, offset, len } = request;
        let header = Header { cccid: cid, ttag, datao: offset, datal: len, last: true };
        let place = transfers.place(&header).expect("asked for");
        let mut bytes = vec![1; len as usize];
        transfers.take(place, &mut bytes, true, |_, _, _| {
            assert_eq!(at, 0, "nothing is written after a failure");
            Status::WRITE_FAULT
        });
        assert!(done.is_none());
        done = transfers.advance(place, &mut |_| panic!("no more is asked for"));
    }
    assert!(done.expect("done").status.is(Status::WRITE_FAULT));
    // Its place is free again.
    assert!(transfers.begin(sqe, 512, Some(BLOCK), &mut |_| {}).is_ok());
}

#[test]
fn few_r2ts_serve_many_commands_one_after_another() {
    let mut transfers = Transfers::new(500, 15, 4096);
    let mut requests = VecDeque::new();
    let commands = if cfg!(miri) { 70 } else { 500 };
    for cid in 0..commands {
        let sqe = nvm::write(1, 0, 0).with_cid(cid);
        transfers.begin(sqe, 8192, Some(BLOCK), &mut |r| requests.push_back(r)).expect("room");
        assert!(requests.len() <= MAX_GRANTED);
    }
    let (mut done, mut most) = (Vec::new(), 0);
    while let Some(Request { cid, ttag, offset, len }) = requests.pop_front() {
        most = most.max(requests.len() + 1);
        let header = Header { cccid: cid, ttag, datao: offset, datal: len, last: true };
        let place = transfers.place(&header).expect("asked for");
        transfers.take(place, &mut vec![0; len as usize], true, |_, _, _| Status::SUCCESS);
        done.extend(transfers.advance(place, &mut |r| requests.push_back(r)));
    }
    assert_eq!(most, MAX_GRANTED);
    let order: Vec<u16> = done.iter().map(|pending| pending.sqe.cid()).collect();
    assert_eq!(order, (0..commands).collect::<Vec<_>>(), "each in its turn");
    assert!(!transfers.holds(499));
}

#[test]
fn little_data_is_kept_until_it_is_complete() {
    let mut transfers = Transfers::new(1, 0, 4096);
    let mut request = None;
    let sqe = nvm::dsm(1, 0, nvm::DsmAttributes::DEALLOCATE).with_cid(8);
    transfers.begin(sqe, 16, None, &mut |r| request = Some(r)).expect("room");
    let Request { cid, ttag, .. } = request.expect("an R2T");
    for (at, byte) in (0..16u32).zip(100..) {
        let header = Header { cccid: cid, ttag, datao: at, datal: 1, last: at == 15 };
        let place = transfers.place(&header).expect("asked for");
        transfers.take(place, &mut [byte], true, |_, _, _| panic!("not block for block"));
        if let Some(done) = transfers.advance(place, &mut |_| panic!("all was asked for")) {
            assert_eq!((at, done.whole), (15, (100..116).collect()));
            return;
        }
    }
    panic!("never done");
}
