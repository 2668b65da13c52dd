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

use crate::host::{Link, NQN, Options, attach, target};

const HEADER: usize = 24;
const LEN: usize = 128 << 10;
const NLB_Z: u16 = (LEN / 4096 - 1) as u16;

/// Asks for the first 128 KiB of a namespace of 4 KiB blocks and takes nothing of the answer.
fn begin(io: &mut Link, nsid: u32) {
    let sqe = nvm::read(nsid, 0, NLB_Z).with_cid(9).with_sgl(Sgl::transport(LEN as u32));
    let capsule = io.capsule(sqe, &[]);
    io.connection.room()[..capsule.len()].copy_from_slice(&capsule);
    io.connection.received(capsule.len());
    io.connection.step(io.now);
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_block_that_leaves_in_parts_is_as_one_write_left_it() {
    let options = Options { flow_control: false, ..Options::default() };
    for cut in [1, HEADER, HEADER + 1, HEADER + 4095, HEADER + 4096, 5000, 40_000, LEN] {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        let mut writer = Link::connect(&target, options, 2, 1);
        let mut fill = |value: u8| {
            let cqe = writer.write_r2t(nvm::write(2, 0, NLB_Z), &[value; LEN]);
            assert!(cqe.status().is_success());
        };
        fill(0);
        begin(&mut io, 2);
        let (mut bytes, mut writes) = (Vec::new(), 0);
        while io.connection.transmit_to(&mut bytes, cut) != 0 {
            io.connection.step(io.now);
            if writes < 20 && bytes.len() >= HEADER + writes * 6000 {
                writes += 1;
                fill(writes as u8);
            }
        }
        assert_eq!(bytes.len(), HEADER + LEN, "cut {cut}");
        for (at, block) in bytes[HEADER..].chunks(4096).enumerate() {
            assert!(block.iter().all(|byte| *byte == block[0]), "cut {cut}: block {at} is torn");
        }
        let last = bytes[bytes.len() - 1];
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

/// Shows its first blocks `good` times, and fails then.
struct Failing {
    good: Arc<AtomicUsize>,
}

impl Backend for Failing {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn properties(&self) -> Properties {
        Properties { shows: true, ..Properties::default() }
    }

    fn read(&self, _: u64, _: &[HostBytes<'_>]) -> Result<(), MediaError> {
        Err(MediaError::Unreadable)
    }

    fn show(
        &self,
        ranges: &[(u64, usize)],
        look: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), MediaError> {
        let good = self
            .good
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |good| good.checked_sub(1));
        good.map_err(|_| MediaError::Unreadable)?;
        look(&[&vec![1; ranges[0].1.min(16 << 10)]]);
        Ok(())
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

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_medium_that_fails_fails_the_read_or_ends_the_connection() {
    let good = Arc::new(AtomicUsize::new(0));
    let namespace = Namespace::new(Failing { good: Arc::clone(&good) }, 4096).expect("namespace");
    let subsystem = Subsystem::builder().nqn(NQN).namespace(namespace).build();
    let target = Target::new(subsystem, Limits::default()).expect("target");
    let (_admin, mut io) = attach(&target, Options::default());
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
    begin(&mut io, 1);
    io.run();
    assert!(io.connection.is_ended());
    assert_eq!(io.connection.end(), Some(End::Unreadable));
}
