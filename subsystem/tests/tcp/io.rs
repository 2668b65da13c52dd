//! Reads and writes, with every way of moving their data.

use std::time::Duration;

use doorbell_spec::admin::{self, LogRequest};
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::connect::ConnectData;
use doorbell_spec::fabrics::sgl::Sgl;
use doorbell_spec::feature::Fid;
use doorbell_spec::log::{Lid, SmartLog};
use doorbell_spec::nvm::{self, DsmAttributes, DsmRange};
use doorbell_spec::status::Status;
use doorbell_subsystem::fabrics::Limits;
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{HOSTID, HOSTNQN, Link, NQN, Options, Pdu, attach, target};

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}

fn every_option() -> Vec<Options> {
    let mut all = Vec::new();
    for digests in [(false, false), (true, false), (false, true), (true, true)] {
        for (hpda_z, maxr2t_z, flow_control, h2c, cut) in [
            (0, 0, true, 128 << 10, usize::MAX),
            (31, 3, false, 4096, 1000),
            (7, 15, true, 1000, 77),
        ] {
            let kato = 0;
            all.push(Options { digests, hpda_z, maxr2t_z, flow_control, kato, h2c, cut });
        }
    }
    all
}

#[test]
fn data_arrives_as_it_was_sent_whatever_the_options() {
    // Under Miri a few bytes take long.
    let (options, longest) = if cfg!(miri) { (3, 12 << 10) } else { (12, 1 << 20) };
    for options in every_option().into_iter().rev().take(options) {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        for (nsid, shift) in [(1, 9), (2, 12)] {
            for len in [4096usize, 8192, 12 << 10, 300 << 10, 1 << 20] {
                if len > longest {
                    continue;
                }
                let data = pattern(len, len as u32);
                let nlb_z = ((len >> shift) - 1) as u16;
                if len <= 8192 {
                    let cqe = io.write(nvm::write(nsid, 8, nlb_z), &data);
                    assert!(cqe.status().is_success(), "{options:?} {len}");
                    let (cqe, read) = io.read(nvm::read(nsid, 8, nlb_z), len as u32);
                    assert!(cqe.status().is_success());
                    assert!(read == data, "{options:?} {len}");
                }
                let data = pattern(len, 1);
                let cqe = io.write_r2t(nvm::write(nsid, 3, nlb_z), &data);
                assert!(cqe.status().is_success(), "{options:?} {len}: {}", cqe.status());
                let (cqe, read) = io.read(nvm::read(nsid, 3, nlb_z), len as u32);
                assert!(cqe.status().is_success());
                assert!(read == data, "{options:?} {len}");
                assert!(io.write_r2t(nvm::compare(nsid, 3, nlb_z), &data).status().is_success());
                let mut other = data;
                other[len - 1] ^= 1;
                let cqe = io.write_r2t(nvm::compare(nsid, 3, nlb_z), &other);
                assert!(cqe.status().is(Status::COMPARE_FAILURE));
            }
        }
    }
}

#[test]
fn one_byte_at_a_time_is_as_good() {
    for digests in [(false, false), (true, true)] {
        let options = Options { digests, cut: 1, h2c: 1, maxr2t_z: 1, ..Options::default() };
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        let data = pattern(1536, 5);
        assert!(io.write_r2t(nvm::write(1, 0, 2), &data).status().is_success());
        let (cqe, read) = io.read(nvm::read(1, 0, 2), 1536);
        assert!(cqe.status().is_success() && read == data);
    }
}

#[test]
#[cfg_attr(miri, ignore = "a megabyte")]
fn as_many_r2ts_are_outstanding_as_the_host_takes() {
    for (maxr2t_z, count, each) in [(0, 1, 1 << 20), (1, 2, 128 << 10), (100, 8, 128 << 10)] {
        let options = Options { maxr2t_z, ..Options::default() };
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, options);
        let sqe = nvm::write(1, 0, 2047).with_cid(5).with_sgl(Sgl::transport(1 << 20));
        let capsule = io.capsule(sqe, &[]);
        io.send(&capsule);
        let requests = io.take();
        assert_eq!(requests.len(), count);
        let data = pattern(1 << 20, 9);
        // The last one first, where there are several.
        let mut todo: Vec<Pdu> = requests.into_iter().rev().collect();
        let mut completed = false;
        while let Some(pdu) = todo.pop() {
            match pdu {
                Pdu::Request { cid: 5, ttag, offset, len } => {
                    assert_eq!(len, each);
                    io.answer(5, ttag, offset, &data[offset as usize..][..len as usize]);
                    let more = io.take();
                    todo.splice(0..0, more);
                }
                Pdu::Response(cqe) => completed = cqe.status().is_success(),
                other => panic!("{other:?}"),
            }
        }
        assert!(completed);
        let (cqe, read) = io.read(nvm::read(1, 0, 2047), 1 << 20);
        assert!(cqe.status().is_success() && read == data);
    }
}

/// The longest PDUs there are, in portions that leave part of one at every place of the buffer.
#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn long_pdus_never_fill_the_buffer_for_good() {
    for cut in [4096, 60_000, 100_001, 131_000, 200_000] {
        let target = target(Limits::default());
        let (_admin, mut io) = attach(&target, Options { maxr2t_z: 7, ..Options::default() });
        let data = pattern(1 << 20, 4);
        let sqe = nvm::write(1, 0, 2047).with_cid(5).with_sgl(Sgl::transport(1 << 20));
        let capsule = io.capsule(sqe, &[]);
        io.send(&capsule);
        let mut all = Vec::new();
        for pdu in io.take() {
            let Pdu::Request { cid, ttag, offset, len } = pdu else { panic!("{pdu:?}") };
            let part = &data[offset as usize..][..len as usize];
            all.extend_from_slice(&io.h2c(cid, ttag, offset, part, true));
        }
        io.options.cut = cut;
        io.send(&all);
        assert!(
            matches!(io.take()[..], [Pdu::Response(cqe)] if cqe.status().is_success()),
            "{cut}"
        );
    }
}

#[test]
fn a_failing_write_fails_without_its_data() {
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, Options::default());
    let beyond = nvm::write(1, 8192, 0);
    // PEER-1: there is no R2T for data that nobody wants.
    let capsule = io.capsule(beyond.with_cid(1).with_sgl(Sgl::transport(512)), &[]);
    io.send(&capsule);
    let [Pdu::Response(cqe)] = io.take()[..] else { panic!("a response alone") };
    assert!(cqe.status().is(Status::LBA_OUT_OF_RANGE));
    assert!(io.write(beyond, &[0; 512]).status().is(Status::LBA_OUT_OF_RANGE));
    assert!(io.read(nvm::read(1, 8191, 1), 1024).0.status().is(Status::LBA_OUT_OF_RANGE));
    assert!(io.read(nvm::read(99, 0, 0), 512).0.status().is(Status::INVALID_FIELD));
    let long = nvm::write(1, 0, 2048).with_sgl(Sgl::transport(2049 * 512));
    assert!(io.call(long, &[]).0.status().is(Status::INVALID_FIELD), "MDTS");
}

#[test]
fn descriptors_have_to_fit_the_command() {
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, Options::default());
    let length = Status::INVALID_DATA_SGL_LENGTH;
    assert!(io.read(nvm::read(1, 0, 0), 1024).0.status().is(length));
    assert!(io.read(nvm::read(1, 0, 0), 0).0.status().is(length));
    assert!(io.write(nvm::write(1, 0, 0), &[0; 1024]).status().is(length));
    assert!(io.write_r2t(nvm::write(1, 0, 0), &[]).status().is(length));
    let in_capsule = nvm::read(1, 0, 0).with_sgl(Sgl::in_capsule(512));
    assert!(io.call(in_capsule, &[]).0.status().is(Status::INVALID_SGL_TYPE));
    let prps = nvm::read(1, 0, 0).with_prp(0x1000, 0);
    assert!(io.call(prps, &[]).0.status().is(Status::INVALID_FIELD));
    let fused = nvm::read(1, 0, 0).with_fuse(1).with_sgl(Sgl::transport(512));
    assert!(io.call(fused, &[]).0.status().is(Status::INVALID_FIELD));
    // None of these hurt.
    assert!(io.read(nvm::read(1, 0, 0), 512).0.status().is_success());
}

#[test]
#[cfg_attr(miri, ignore = "a megabyte")]
fn commands_without_data_and_with_ranges() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    assert!(io.write(nvm::write(1, 0, 7), &[0x55; 4096]).status().is_success());
    assert!(io.call(nvm::flush(1), &[]).0.status().is_success());
    assert!(io.call(nvm::verify(1, 0, 7), &[]).0.status().is_success());
    assert!(io.call(nvm::write_zeroes(1, 0, 0), &[]).0.status().is_success());
    let (_, read) = io.read(nvm::read(1, 0, 1), 1024);
    assert_eq!((read[0], read[512]), (0, 0x55));
    let ranges = [DsmRange::new(1, 1), DsmRange::new(2, 1)];
    let dsm = nvm::dsm(1, 1, DsmAttributes::DEALLOCATE);
    assert!(io.write(dsm, ranges.as_bytes()).status().is_success());
    assert!(io.write_r2t(dsm, ranges.as_bytes()).status().is_success());
    // Linux sends all the ranges there can be, whose rest does not count; one short of them is refused.
    let whole = [ranges.as_bytes(), &[0xff; 4096 - 32]].concat();
    assert!(io.write(dsm, &whole).status().is_success());
    assert!(io.write_r2t(dsm, &whole).status().is_success());
    for wrong in [&whole[..16], &[whole.as_slice(), &[0; 16]].concat()] {
        assert!(io.write(dsm, wrong).status().is(Status::INVALID_DATA_SGL_LENGTH));
        assert!(io.write_r2t(dsm, wrong).status().is(Status::INVALID_DATA_SGL_LENGTH));
    }
    let (_, read) = io.read(nvm::read(1, 0, 3), 2048);
    assert_eq!((read[512], read[1024], read[1536]), (0, 0, 0x55));
    let out = [DsmRange::new(1 << 40, 1), DsmRange::new(2, 1)];
    assert!(io.write(dsm, out.as_bytes()).status().is(Status::LBA_OUT_OF_RANGE));
    assert!(io.call(Sqe::new(0x7d), &[]).0.status().is(Status::INVALID_OPCODE));
    // The SMART log counts each command once, in however many parts it went.
    io.write_r2t(nvm::write(1, 0, 2047), &pattern(1 << 20, 3));
    io.read(nvm::read(1, 0, 2047), 1 << 20);
    let smart = admin::get_log_page(LogRequest::new(Lid::SMART, 127));
    let (cqe, page) = admin.read(smart, 512);
    assert!(cqe.status().is_success());
    let page = SmartLog::read_from_bytes(&page).expect("512");
    assert_eq!((page.hrc.get(), page.hwc.get()), (3, 3));
}

#[test]
#[cfg_attr(miri, ignore = "a megabyte")]
fn without_the_write_cache_every_write_is_durable() {
    let target = target(Limits::default());
    let (mut admin, mut io) = attach(&target, Options::default());
    let off = admin::set_features(Fid::VOLATILE_WRITE_CACHE, 0, 0, false);
    assert!(admin.call(off, &[]).0.status().is_success());
    assert!(io.write_r2t(nvm::write(1, 0, 2047), &pattern(1 << 20, 2)).status().is_success());
    assert!(io.write(nvm::write(1, 0, 0).with_fua(), &[1; 512]).status().is_success());
}

#[test]
fn a_wrong_data_digest_fails_the_command_and_no_more() {
    let options = Options { digests: (true, true), ..Options::default() };
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, options);
    assert!(io.write(nvm::write(1, 0, 0), &[0x11; 512]).status().is_success());
    let sqe = nvm::write(1, 0, 0).with_cid(40).with_sgl(Sgl::in_capsule(512));
    let mut capsule = io.capsule(sqe, &[0x22; 512]);
    let at = capsule.len() - 5;
    capsule[at] ^= 1;
    io.send(&capsule);
    let [Pdu::Response(cqe)] = io.take()[..] else { panic!("a response") };
    assert!(cqe.status().is(Status::TRANSIENT_TRANSPORT_ERROR) && !cqe.status().dnr());
    let sqe = nvm::write(1, 0, 3).with_cid(41).with_sgl(Sgl::transport(2048));
    let capsule = io.capsule(sqe, &[]);
    io.send(&capsule);
    let [Pdu::Request { cid: 41, ttag, .. }] = io.take()[..] else { panic!("an R2T") };
    let mut data = io.h2c(41, ttag, 0, &[0x33; 1024], false);
    let at = data.len() - 1;
    data[at] ^= 0x80;
    io.send(&data);
    assert_eq!(io.take(), [], "the rest is still to come");
    let data = io.h2c(41, ttag, 1024, &[0x33; 1024], true);
    io.send(&data);
    let [Pdu::Response(cqe)] = io.take()[..] else { panic!("a response") };
    assert!(cqe.status().is(Status::TRANSIENT_TRANSPORT_ERROR));
    let (_, read) = io.read(nvm::read(1, 0, 0), 512);
    assert_eq!(read, [0x11; 512], "nothing of it was written");
}

#[test]
fn flow_control_counts_and_its_absence_says_so() {
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, Options::default());
    // 32 entries; the Connect was the first.
    for expected in 2..=70u16 {
        let (cqe, _) = io.read(nvm::read(1, 0, 0), 512);
        assert_eq!((cqe.sqhd, cqe.sqid), (expected % 32, 1));
    }
    let options = Options { flow_control: false, ..Options::default() };
    let (_admin, mut io) = attach(&target, options);
    let sqe = nvm::read(1, 0, 0).with_cid(1).with_sgl(Sgl::transport(512));
    let capsule = io.capsule(sqe, &[]);
    io.send(&capsule);
    assert!(matches!(io.take()[..], [Pdu::Data { cid: 1, last: true, success: true, .. }]));
    let beyond = io.read(nvm::read(1, 8192, 0), 512).0;
    assert!(beyond.status().is(Status::LBA_OUT_OF_RANGE));
    assert_eq!(beyond.sqhd, 0xffff);
}

#[test]
#[cfg_attr(miri, ignore = "megabytes")]
fn a_host_that_does_not_read_stops_its_own_queue() {
    let target = target(Limits::default());
    let (_admin, mut io) = attach(&target, Options::default());
    let sqe = nvm::read(1, 0, 255).with_sgl(Sgl::transport(128 << 10));
    let capsules: Vec<u8> = (0..30).flat_map(|cid| io.capsule(sqe.with_cid(cid), &[])).collect();
    let room = io.connection.room();
    room[..capsules.len()].copy_from_slice(&capsules);
    io.connection.received(capsules.len());
    for _ in 0..1000 {
        io.connection.step(io.now);
    }
    let held = io.connection.transmit(|pieces| Err::<usize, _>(pieces[0].len()));
    assert!(held.is_err_and(|held| held <= 256 << 10), "bounded");
    assert_eq!(io.connection.step(io.now), 0, "and at rest");
    // Another connection of the same controller goes on meanwhile.
    let mut other = Link::connect(&target, Options::default(), 2, 1);
    assert!(other.read(nvm::read(1, 0, 0), 512).0.status().is_success());
    io.run();
    let responses = io.take().iter().filter(|pdu| matches!(pdu, Pdu::Response(_))).count();
    assert_eq!(responses, 30, "everything comes once it is read");
}

#[test]
fn hosts_align_their_data_as_they_are_told() {
    assert_eq!(Limits::default().cpda_z, 0, "Linux takes nothing else");
    for cpda_z in [7, 31, 200] {
        for options in [Options::default(), Options { digests: (true, true), ..Options::default() }]
        {
            let target = target(Limits { cpda_z, ..Limits::default() });
            let (_admin, mut io) = attach(&target, options);
            assert_eq!(io.framing.alignment, 4 * (u32::from(cpda_z.min(31)) + 1));
            let data = pattern(4096, cpda_z.into());
            assert!(io.write(nvm::write(1, 0, 7), &data).status().is_success());
            assert!(io.write_r2t(nvm::write(1, 8, 7), &data).status().is_success());
            let (_, read) = io.read(nvm::read(1, 0, 15), 8192);
            assert!(read == [&data[..], &data[..]].concat());
            // Data where another connection may have it.
            io.framing.alignment = 4;
            let sqe = nvm::write(1, 0, 0).with_cid(9).with_sgl(Sgl::in_capsule(512));
            let capsule = io.capsule(sqe, &data[..512]);
            io.send(&capsule);
            assert!(matches!(io.take()[..], [Pdu::Terminated(..)]), "CPDA {cpda_z}");
        }
    }
}

#[test]
fn commands_that_wait_for_their_data_can_be_aborted() {
    let target = target(Limits::default());
    let (mut admin, first) = attach(&target, Options::default());
    drop(first);
    let data = ConnectData::new(HOSTID, 1, NQN, HOSTNQN);
    let mut io = Link::open(&target, Options::default());
    assert!(io.say_connect(2, 127, &data).status().is_success());
    let cids: Vec<u16> = (100..170).collect();
    for &cid in &cids {
        let sqe = nvm::write(1, u64::from(cid), 0).with_cid(cid).with_sgl(Sgl::transport(512));
        let capsule = io.capsule(sqe, &[]);
        io.send(&capsule);
    }
    let asked: Vec<_> = io.take();
    assert_eq!(asked.len(), 64, "as many R2Ts as there may be");
    let abort = |admin: &mut Link, sqid: u16, cid: u16| {
        let own = admin.cid();
        let capsule = admin.capsule(admin::abort(sqid, cid).with_cid(own), &[]);
        admin.send(&capsule);
        own
    };
    // One whose data is not asked for, one whose data is, one that is none; and one too many.
    let own = [(2, 169), (2, 100), (2, 999), (2, 168), (2, 167)]
        .map(|(sqid, cid)| abort(&mut admin, sqid, cid));
    let [Pdu::Response(refused)] = admin.take()[..] else { panic!("one answer") };
    assert!(refused.cid == own[4] && refused.status().is(Status::ABORT_LIMIT_EXCEEDED));
    let moment = Duration::from_millis(100);
    admin.pass(moment);
    assert!(admin.take().is_empty(), "nobody has looked");
    io.pass(moment);
    let ended = |pdus: Vec<Pdu>| {
        let response = |pdu| if let Pdu::Response(cqe) = pdu { Some(cqe) } else { None };
        pdus.into_iter().filter_map(response).map(|cqe| (cqe.cid, cqe.status())).collect::<Vec<_>>()
    };
    let gone = ended(io.take());
    assert_eq!(gone.iter().map(|it| it.0).collect::<Vec<_>>(), [169, 168]);
    assert!(gone.iter().all(|(_, status)| status.is(Status::ABORTED_BY_REQUEST)));
    admin.pass(moment);
    let answers: Vec<_> = admin
        .take()
        .into_iter()
        .map(
            |pdu| if let Pdu::Response(cqe) = pdu { (cqe.cid, cqe.dw0) } else { panic!("{pdu:?}") },
        )
        .collect();
    assert_eq!(answers, [(own[0], 0), (own[1], 1), (own[2], 1), (own[3], 0)]);
    // The data that was asked for comes, and is not written.
    let mut statuses = std::collections::BTreeMap::new();
    let mut requests = asked;
    while !requests.is_empty() {
        for pdu in std::mem::take(&mut requests) {
            match pdu {
                Pdu::Request { cid, ttag, offset, .. } => {
                    io.answer(cid, ttag, offset, &[cid as u8; 512])
                }
                Pdu::Response(cqe) => {
                    assert!(statuses.insert(cqe.cid, cqe.status()).is_none(), "twice");
                }
                other => panic!("{other:?}"),
            }
        }
        requests = io.take();
    }
    assert_eq!(statuses.len(), cids.len() - 2, "all others have ended");
    for (cid, status) in statuses {
        assert_eq!(status.is(Status::ABORTED_BY_REQUEST), cid == 100, "{cid}: {status}");
        let (_, read) = io.read(nvm::read(1, u64::from(cid), 0), 512);
        let expected = if cid == 100 { 0 } else { cid as u8 };
        assert!(read.iter().all(|&byte| byte == expected), "{cid}");
    }
    // An Abort whose queue goes is answered all the same.
    let own = abort(&mut admin, 2, 5);
    drop(io);
    admin.pass(moment);
    let [Pdu::Response(answer)] = admin.take()[..] else { panic!("an answer") };
    assert_eq!((answer.cid, answer.dw0), (own, 1));
}
