//! Large reads, which leave from where their blocks are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::nvm;
use doorbell_spec::status::Status;
use doorbell_subsystem::backend::{Backend, MediaError, Properties};
use doorbell_subsystem::fabrics::{Limits, Target};
use doorbell_subsystem::memory::HostBytes;
use doorbell_subsystem::port::tcp::End;
use doorbell_subsystem::{Namespace, Subsystem};

use crate::fuzz::Random;
use crate::host::{Link, NQN, Options, Pdu, attach, target};

const HEADER: usize = 24;
const LEN: usize = 128 << 10;
const NLB_Z: u16 = (LEN / 4096 - 1) as u16;

/// Lets what the host sends arrive, and takes nothing of the answers.
fn arrive(io: &mut Link, bytes: &[u8]) {
    io.connection.room()[..bytes.len()].copy_from_slice(bytes);
    io.connection.received(bytes.len());
    io.connection.step(io.now);
}

/// Asks `times` for the first 128 KiB of a namespace of 4 KiB blocks.
fn begin(io: &mut Link, nsid: u32, times: u16) {
    let sqe = nvm::read(nsid, 0, NLB_Z).with_sgl(Sgl::transport(LEN as u32));
    let capsules: Vec<u8> = (0..times).flat_map(|cid| io.capsule(sqe.with_cid(cid), &[])).collect();
    arrive(io, &capsules);
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn reads_that_have_come_leave_in_one_call() {
    const ANSWER: usize = 24;
    for flow_control in [false, true] {
        let options = Options { flow_control, ..Options::default() };
        let (_admin, mut io) = attach(&target(Limits::default()), options);
        assert!(io.write_r2t(nvm::write(2, 0, NLB_Z), &[1; LEN]).status().is_success());
        begin(&mut io, 2, 9);
        let mut take = || {
            let mut lens = Vec::new();
            let took = io.connection.transmit(|pieces| {
                lens.extend(pieces.iter().map(|piece| piece.len()));
                Ok::<_, ()>(lens.iter().sum())
            });
            assert_eq!(took, Ok(lens.iter().sum()));
            io.connection.step(io.now);
            lens
        };
        let between = if flow_control { ANSWER + HEADER } else { HEADER };
        // A megabyte, behind one lock; then what is left.
        let mut first = [[between, LEN]; 8];
        first[0][0] = HEADER;
        assert_eq!(take(), first.concat());
        assert_eq!(take(), [between, LEN]);
        assert_eq!(take(), if flow_control { vec![ANSWER] } else { vec![] });
    }
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn bursts_of_reads_are_answered_in_turn_whatever_the_portions() {
    for seed in 0..120 {
        let mut random = Random(seed);
        let options = Options {
            flow_control: random.one_in(2),
            digests: (random.one_in(2), random.one_in(8)),
            hpda_z: [0, 15, 31][random.below(3)],
            cut: [1000, 4095, 24, 70_001, 300_000, usize::MAX][random.below(6)],
            ..Options::default()
        };
        let (_admin, mut io) = attach(&target(Limits::default()), options);
        let mut model = vec![0; 4 << 20];
        for _ in 0..4 {
            let (slba, value) = (random.below(1024 - 32) as u64, random.below(256) as u8);
            let cqe = io.write_r2t(nvm::write(2, slba, 31), &[value; 32 * 4096]);
            assert!(cqe.status().is_success());
            model[slba as usize * 4096..][..32 * 4096].fill(value);
            // Near enough to the border of a chunk to cross it, and to the end to go beyond it.
            let asked: Vec<(usize, usize)> = (0..1 + random.below(20))
                .map(|_| {
                    ([0, 400, 512, 1000][random.below(4)] + random.below(50), 1 + random.below(48))
                })
                .collect();
            let capsules: Vec<u8> = asked
                .iter()
                .zip(100..)
                .flat_map(|(&(slba, blocks), cid)| {
                    let sqe = nvm::read(2, slba as u64, blocks as u16 - 1).with_cid(cid);
                    io.capsule(sqe.with_sgl(Sgl::transport(blocks as u32 * 4096)), &[])
                })
                .collect();
            arrive(&mut io, &capsules);
            io.run();
            let mut pdus = io.take().into_iter();
            for (&(slba, blocks), cid) in asked.iter().zip(100..) {
                let mut data = Vec::new();
                let status = loop {
                    match pdus.next().expect("an answer") {
                        Pdu::Response(cqe) => {
                            assert_eq!(cqe.cid, cid, "seed {seed}");
                            break cqe.status();
                        }
                        Pdu::Data { cid: of, offset, bytes, last, success } => {
                            assert_eq!((of, offset as usize), (cid, data.len()), "seed {seed}");
                            data.extend(bytes);
                            assert_eq!(last, data.len() == blocks * 4096, "seed {seed}");
                            assert_eq!(success, last && !options.flow_control, "seed {seed}");
                            if success {
                                break Status::SUCCESS;
                            }
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                };
                if slba + blocks > 1024 {
                    assert!(status.is(Status::LBA_OUT_OF_RANGE) && data.is_empty(), "seed {seed}");
                } else {
                    assert!(status.is_success(), "seed {seed}: {status}");
                    assert!(data == model[slba * 4096..][..blocks * 4096], "seed {seed}: {slba}");
                }
            }
            assert_eq!(pdus.next(), None, "seed {seed}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_block_that_leaves_in_parts_is_as_one_write_left_it() {
    let options = Options { flow_control: false, ..Options::default() };
    for (cut, times) in [1, HEADER, HEADER + 1, HEADER + 4095, HEADER + 4096, 5000, 40_000, LEN]
        .into_iter()
        .flat_map(|cut| [(cut, 1), (cut, 3)])
    {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        let mut writer = Link::connect(&target, options, 2, 1);
        let mut fill = |value: u8| {
            let cqe = writer.write_r2t(nvm::write(2, 0, NLB_Z), &[value; LEN]);
            assert!(cqe.status().is_success());
        };
        fill(0);
        begin(&mut io, 2, times);
        let (mut bytes, mut writes) = (Vec::new(), 0);
        while io.connection.transmit_to(&mut bytes, cut) != 0 {
            io.connection.step(io.now);
            if writes < 60 && bytes.len() >= HEADER + writes * 6000 {
                writes += 1;
                fill(writes as u8);
            }
        }
        assert_eq!(bytes.len(), usize::from(times) * (HEADER + LEN), "cut {cut}");
        for pdu in bytes.chunks(HEADER + LEN) {
            for (at, block) in pdu[HEADER..].chunks(4096).enumerate() {
                assert!(
                    block.iter().all(|byte| *byte == block[0]),
                    "cut {cut}: block {at} is torn"
                );
            }
        }
        let last = bytes[HEADER + LEN - 1];
        assert!(cut >= 40_000 || last > 10, "cut {cut}: {last} writes came in between");
    }
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn holes_and_the_borders_of_chunks_are_data_like_any_other() {
    for cut in [usize::MAX, 4000] {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, Options { cut, ..Options::default() });
        // The second half of the namespace begins with a chunk of its own, and the first is never written.
        let half = 512;
        assert!(io.write_r2t(nvm::write(2, half, 15), &[7; 64 << 10]).status().is_success());
        let (cqe, data) = io.read(nvm::read(2, half - 100, 200), 201 * 4096);
        assert!(cqe.status().is_success());
        let (before, after) = data.split_at(100 * 4096);
        let (written, beyond) = after.split_at(64 << 10);
        assert!(before.iter().chain(beyond).all(|byte| *byte == 0));
        assert!(written.iter().all(|byte| *byte == 7));
    }
}

type Look<'a> = &'a mut dyn FnMut(&[&[u8]]);

/// A megabyte that is shown as a function does it.
struct Showing<F>(F);

impl<F: Fn(&[(u64, usize)], Look<'_>) -> Result<(), MediaError> + Send + Sync> Backend
    for Showing<F>
{
    fn len(&self) -> u64 {
        1 << 20
    }

    fn properties(&self) -> Properties {
        Properties { shows: true, ..Properties::default() }
    }

    fn read(&self, _: u64, _: &[HostBytes<'_>]) -> Result<(), MediaError> {
        Err(MediaError::Unreadable)
    }

    fn show(&self, ranges: &[(u64, usize)], look: Look<'_>) -> Result<(), MediaError> {
        (self.0)(ranges, look)
    }

    fn write(&self, _: u64, _: &[HostBytes<'_>]) -> Result<(), MediaError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, _: u64, _: u64, _: bool) -> Result<(), MediaError> {
        Ok(())
    }

    fn deallocate(&self, _: u64, _: u64) -> Result<(), MediaError> {
        Ok(())
    }
}

/// An admin queue and an I/O queue of a target whose only namespace is shown so.
fn showing(
    show: impl Fn(&[(u64, usize)], Look<'_>) -> Result<(), MediaError> + Send + Sync + 'static,
) -> (Link, Link) {
    let namespace = Namespace::new(Showing(show), 4096).expect("namespace");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let target = Target::new(subsystem, Limits::default()).expect("target");
    attach(&target, Options::default())
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_medium_that_fails_fails_the_read_or_ends_the_connection() {
    // Shows its first blocks so many times, and fails then.
    let good = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&good);
    let (_admin, mut io) = showing(move |ranges, look| {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |good| good.checked_sub(1))
            .map_err(|_| MediaError::Unreadable)?;
        look(&[&vec![1; ranges[0].1.min(16 << 10)]]);
        Ok(())
    });
    // Before anything was sent there is a status.
    let (cqe, _) = io.read(nvm::read(1, 0, NLB_Z), LEN as u32);
    assert!(cqe.status().is(Status::UNRECOVERED_READ_ERROR));
    // As long as it works, so does the read, in as many parts as the medium likes.
    good.store(8, Ordering::Relaxed);
    let (cqe, data) = io.read(nvm::read(1, 0, NLB_Z), LEN as u32);
    assert!(cqe.status().is_success());
    assert!(data.iter().all(|byte| *byte == 1));
    // In the middle of the data nothing else could be said.
    good.store(2, Ordering::Relaxed);
    begin(&mut io, 1, 1);
    io.run();
    assert!(io.connection.is_ended());
    assert_eq!(io.connection.end(), Some(End::Unreadable));
}

/// A backend that does not keep to what it is asked for costs a read, not the connection, and never another's data.
#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_medium_that_shows_too_much_or_too_little_does_no_harm() {
    let bytes = vec![1; 1 << 20];
    for lens in
        [&[][..], &[0], &[0, LEN], &[LEN + 5000; 3], &[LEN, 4096, LEN], &[LEN, 0, LEN], &[LEN; 20]]
    {
        let bytes = bytes.clone();
        let (_admin, mut io) = showing(move |_, look| {
            look(&lens.iter().map(|len| &bytes[..*len]).collect::<Vec<_>>());
            Ok(())
        });
        begin(&mut io, 1, 3);
        io.run();
        let mut answers = 0;
        for pdu in io.take() {
            match pdu {
                Pdu::Data { bytes, .. } => assert!(bytes == vec![1; LEN], "{lens:?}"),
                Pdu::Response(cqe) => {
                    let seen = lens.first().is_some_and(|len| *len != 0);
                    let expected =
                        [Status::UNRECOVERED_READ_ERROR, Status::SUCCESS][usize::from(seen)];
                    assert!(cqe.status().is(expected), "{lens:?}: {}", cqe.status());
                    answers += 1;
                }
                other => panic!("{lens:?}: {other:?}"),
            }
        }
        assert_eq!(answers, 3, "{lens:?}");
    }
    let (_admin, mut io) = showing(|_, _| Ok(()));
    assert!(
        io.read(nvm::read(1, 0, NLB_Z), LEN as u32).0.status().is(Status::UNRECOVERED_READ_ERROR)
    );
    // Data that have gone out are data, whatever is said of them afterwards.
    let (_admin, mut io) = showing(move |_, look| {
        look(&[&bytes[..LEN]]);
        Err(MediaError::Unreadable)
    });
    begin(&mut io, 1, 2);
    io.run();
    assert_eq!(io.connection.end(), Some(End::Unreadable));
}
