//! I/O commands: every status of the check table, and what is moved.

use doorbell_spec::command::{NSID_ALL, Sqe};
use doorbell_spec::nvm::{self, DsmAttributes, DsmRange};
use doorbell_spec::status::Status;
use zerocopy::IntoBytes;

use crate::host::{Host, config};
use crate::ram::BASE;
use crate::subsystem;

const BLOCKS: u64 = 2048;

fn host() -> Host {
    let mut host = Host::ready(&subsystem(&["memory:1MiB", "memory:1MiB,block=4096"]), config());
    host.pair(1, 16, 16);
    host
}

fn write(host: &mut Host, lba: u64, data: &[u8]) {
    let pages = host.aligned_pages(data.len().div_ceil(4096));
    host.ram.write(pages, data);
    for (index, chunk) in data.chunks(4096).enumerate() {
        let at = pages + index as u64 * 4096;
        let blocks = (chunk.len() / 512) as u16;
        host.expect(
            1,
            nvm::write(1, lba + index as u64 * 8, blocks - 1).with_prp(at, 0),
            Status::SUCCESS,
        );
    }
}

fn read(host: &mut Host, lba: u64, blocks: u16) -> Vec<u8> {
    let page = host.pages(2);
    host.expect(1, nvm::read(1, lba, blocks - 1).with_prp(page, page + 4096), Status::SUCCESS);
    host.ram.read(page, usize::from(blocks) * 512)
}

#[test]
fn cmd_3_unsupported_io_opcodes() {
    let mut host = host();
    for opcode in [0x03, 0x04, 0x0d, 0x0e, 0x15, 0x19, 0x79, 0x7d, 0x80, 0xff] {
        let entry = host.run(1, Sqe::new(opcode).with_nsid(1));
        assert!(entry.status().is(Status::INVALID_OPCODE), "{opcode:#x}");
        assert!(entry.status().dnr());
    }
}

#[test]
fn namespace_statuses() {
    let mut host = host();
    let page = host.pages(1);
    let commands = |nsid| {
        [
            nvm::read(nsid, 0, 0),
            nvm::write(nsid, 0, 0),
            nvm::compare(nsid, 0, 0),
            nvm::verify(nsid, 0, 0),
            nvm::write_zeroes(nsid, 0, 0),
            nvm::dsm(nsid, 0, DsmAttributes::DEALLOCATE),
        ]
    };
    for nsid in [0, 257, NSID_ALL - 1, NSID_ALL] {
        for sqe in commands(nsid) {
            host.expect(1, sqe.with_prp(page, 0), Status::INVALID_NAMESPACE);
        }
    }
    for sqe in commands(9) {
        host.expect(1, sqe.with_prp(page, 0), Status::INVALID_FIELD);
    }
    host.expect(1, nvm::flush(0), Status::INVALID_NAMESPACE);
    host.expect(1, nvm::flush(9), Status::INVALID_FIELD);
    host.expect(1, nvm::flush(NSID_ALL), Status::SUCCESS);
}

#[test]
fn lba_out_of_range_does_not_wrap() {
    let mut host = host();
    let page = host.pages(1);
    let cases =
        [(BLOCKS, 0), (BLOCKS - 1, 1), (0, 0xffff), (u64::MAX, 0), (u64::MAX, 1), (1 << 63, 7)];
    for (slba, nlb_z) in cases {
        for sqe in [
            nvm::read(1, slba, nlb_z),
            nvm::write(1, slba, nlb_z),
            nvm::compare(1, slba, nlb_z),
            nvm::verify(1, slba, nlb_z),
            nvm::write_zeroes(1, slba, nlb_z),
        ] {
            host.expect(1, sqe.with_prp(page, 0), Status::LBA_OUT_OF_RANGE);
        }
    }
    host.expect(1, nvm::read(1, BLOCKS - 1, 0).with_prp(page, 0), Status::SUCCESS);
}

#[test]
fn transfers_beyond_mdts() {
    let small = doorbell_subsystem::ControllerConfig { mdts: 1, ..config() };
    let mut host = Host::ready(&subsystem(&["memory:1MiB"]), small);
    host.pair(1, 8, 8);
    let page = host.pages(4);
    host.expect(1, nvm::read(1, 0, 15).with_prp(page, page + 4096), Status::SUCCESS);
    for sqe in [nvm::read(1, 0, 16), nvm::write(1, 0, 16), nvm::compare(1, 0, 16)] {
        host.expect(1, sqe.with_prp(page, page + 4096), Status::INVALID_FIELD);
    }
    // Commands that move no data are not limited.
    host.expect(1, nvm::write_zeroes(1, 0, 2047), Status::SUCCESS);
    host.expect(1, nvm::verify(1, 0, 2047), Status::SUCCESS);
}

#[test]
fn fused_sgl_and_directives_are_refused() {
    let mut host = host();
    let page = host.pages(1);
    let read = nvm::read(1, 0, 0).with_prp(page, 0);
    for fuse in [1, 2, 3] {
        host.expect(1, read.with_fuse(fuse), Status::INVALID_FIELD);
    }
    for psdt in [1, 2, 3] {
        let mut sgl = read;
        sgl.cdw0.set_psdt(psdt);
        host.expect(1, sgl, Status::INVALID_FIELD);
    }
    let mut stream = nvm::write(1, 0, 0).with_prp(page, 0);
    stream.cdw12 |= 1 << 20;
    host.expect(1, stream, Status::INVALID_FIELD);
}

#[test]
fn cmd_2_reserved_fields_are_ignored() {
    let mut host = host();
    let page = host.pages(1);
    let mut read = nvm::read(1, 0, 0).with_prp(page, u64::MAX);
    (read.cdw2, read.cdw3, read.mptr) = (u32::MAX, u32::MAX, u64::MAX);
    (read.cdw13, read.cdw14, read.cdw15) = (u32::MAX, u32::MAX, u32::MAX);
    host.expect(1, read, Status::SUCCESS);
}

#[test]
fn prp_statuses() {
    let mut host = host();
    let pages = host.aligned_pages(16);
    let list = host.pages(1);
    let fill = |host: &Host, entries: &[u64]| {
        host.ram.write(list, entries.as_bytes());
    };
    let one = nvm::read(1, 0, 7);
    let two = nvm::read(1, 0, 15);
    let three = nvm::read(1, 0, 23);
    // DPTR-1
    host.expect(1, one.with_prp(pages + 1, pages + 4096), Status::INVALID_PRP_OFFSET);
    host.expect(1, one.with_prp(pages + 4, pages + 4096), Status::SUCCESS);
    // DPTR-2
    host.expect(1, two.with_prp(pages, pages + 4096 + 512), Status::INVALID_PRP_OFFSET);
    host.expect(1, two.with_prp(pages, pages + 8192), Status::SUCCESS);
    host.expect(1, three.with_prp(pages, list + 4), Status::INVALID_PRP_OFFSET);
    // DPTR-3
    fill(&host, &[pages + 4096, pages + 8192 + 4]);
    host.expect(1, three.with_prp(pages, list), Status::INVALID_PRP_OFFSET);
    fill(&host, &[pages + 4096, pages + 8192]);
    host.expect(1, three.with_prp(pages, list), Status::SUCCESS);
    // Nothing mapped: data, second page, list, list entry.
    let nowhere = 0x7000_0000;
    host.expect(1, one.with_prp(nowhere, 0), Status::DATA_TRANSFER_ERROR);
    host.expect(1, two.with_prp(pages, nowhere), Status::DATA_TRANSFER_ERROR);
    host.expect(1, three.with_prp(pages, nowhere), Status::DATA_TRANSFER_ERROR);
    fill(&host, &[pages, nowhere]);
    host.expect(1, three.with_prp(pages, list), Status::DATA_TRANSFER_ERROR);
    fill(&host, &[!0xfff, pages]);
    host.expect(1, three.with_prp(pages, list), Status::DATA_TRANSFER_ERROR);
    host.expect(1, one.with_prp(!0xfff, 0), Status::DATA_TRANSFER_ERROR);
    host.expect(1, one.with_prp(BASE - 4096, 0), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn tgt_1_list_that_points_to_itself() {
    let mut host = host();
    let page = host.pages(1);
    // The list begins at the last slot of its page, so that its only entry is a pointer: to the page itself, whose
    // entries all point to it as well.
    host.ram.write(page, [page; 512].as_bytes());
    let sqe = nvm::read(1, 0, 2047).with_prp(page, page + 4088);
    host.expect(1, sqe, Status::SUCCESS);
}

#[test]
fn dptr_4_last_slot_holds_data_when_one_page_is_left() {
    let mut host = host();
    let data = host.aligned_pages(4);
    let list = host.pages(2);
    for (index, byte) in (1..=3u8).enumerate() {
        write(&mut host, index as u64 * 8, &vec![byte; 4096]);
    }
    // Two entries fit, two pages are left: no chain.
    host.ram.write(list + 4080, [data + 8192, data + 4096].as_bytes());
    host.expect(1, nvm::read(1, 0, 23).with_prp(data, list + 4080), Status::SUCCESS);
    assert_eq!(host.ram.read(data + 8192, 4096), [2; 4096]);
    assert_eq!(host.ram.read(data + 4096, 4096), [3; 4096]);
    // One entry fits, two pages are left: a chain, page aligned (DPTR-5).
    host.ram.write(list + 4088, [list + 4096].as_bytes());
    host.ram.write(list + 4096, [data + 4096, data + 8192].as_bytes());
    host.expect(1, nvm::read(1, 0, 23).with_prp(data, list + 4088), Status::SUCCESS);
    assert_eq!(host.ram.read(data + 4096, 4096), [2; 4096]);
    host.ram.write(list + 4088, [list + 4096 + 8].as_bytes());
    host.expect(1, nvm::read(1, 0, 23).with_prp(data, list + 4088), Status::INVALID_PRP_OFFSET);
}

#[test]
fn unwritten_blocks_read_as_zeroes() {
    let mut host = host();
    let page = host.pages(1);
    host.ram.write(page, &[0xff; 4096]);
    host.expect(1, nvm::read(1, 100, 7).with_prp(page, 0), Status::SUCCESS);
    assert_eq!(host.ram.read(page, 4096), [0; 4096]);
}

#[test]
fn compare() {
    let mut host = host();
    let data: Vec<u8> = (0..4096).map(|at| (at % 251) as u8).collect();
    write(&mut host, 40, &data);
    let page = host.pages(2);
    host.ram.write(page + 2048, &data);
    let compare = nvm::compare(1, 40, 7).with_prp(page + 2048, page + 4096);
    host.expect(1, compare, Status::SUCCESS);
    for at in [0, 2047, 2048, 4095] {
        let saved = host.ram.read(page + 2048 + at, 1);
        host.ram.write(page + 2048 + at, &[!saved[0]]);
        host.expect(1, compare, Status::COMPARE_FAILURE);
        host.ram.write(page + 2048 + at, &saved);
    }
    host.expect(1, compare, Status::SUCCESS);
}

#[test]
fn write_zeroes_and_deallocate() {
    for deallocate in [false, true] {
        let mut host = host();
        write(&mut host, 0, &vec![7; 16 * 512]);
        let zeroes = nvm::write_zeroes(1, 4, 7);
        let zeroes = if deallocate { zeroes.with_deallocate().with_fua() } else { zeroes };
        host.expect(1, zeroes, Status::SUCCESS);
        let mut expected = vec![7; 16 * 512];
        expected[4 * 512..12 * 512].fill(0);
        assert_eq!(read(&mut host, 0, 16), expected);
    }
}

#[test]
fn dataset_management() {
    let mut host = host();
    write(&mut host, 0, &vec![9; 16 * 512]);
    let page = host.pages(2);
    let ranges = [DsmRange::new(1, 2), DsmRange::new(0, 0), DsmRange::new(8, 4)];
    host.ram.write(page, ranges.as_bytes());
    // Hints alone change nothing.
    let hint = nvm::dsm(1, 2, DsmAttributes::new().with_idr(true)).with_prp(page, 0);
    host.expect(1, hint, Status::SUCCESS);
    assert_eq!(read(&mut host, 0, 16), vec![9; 16 * 512]);
    host.expect(1, nvm::dsm(1, 2, DsmAttributes::DEALLOCATE).with_prp(page, 0), Status::SUCCESS);
    let mut expected = vec![9; 16 * 512];
    expected[512..3 * 512].fill(0);
    expected[8 * 512..12 * 512].fill(0);
    assert_eq!(read(&mut host, 0, 16), expected);
    // One range out of bounds, and nothing is done.
    for bad in [DsmRange::new(BLOCKS, 1), DsmRange::new(u64::MAX, 2), DsmRange::new(5, u32::MAX)] {
        host.ram.write(page, [DsmRange::new(0, 16), bad].as_bytes());
        let dsm = nvm::dsm(1, 1, DsmAttributes::DEALLOCATE).with_prp(page, 0);
        host.expect(1, dsm, Status::LBA_OUT_OF_RANGE);
    }
    assert_eq!(read(&mut host, 0, 16), expected);
    // 256 ranges, across two pages.
    let many = [DsmRange::new(0, 1); 256];
    host.ram.write(page + 2048, many.as_bytes());
    let dsm = nvm::dsm(1, 255, DsmAttributes::DEALLOCATE).with_prp(page + 2048, page + 4096);
    host.expect(1, dsm, Status::SUCCESS);
}

#[test]
fn volatile_write_cache_off() {
    let mut host = host();
    let page = host.pages(1);
    let off = doorbell_spec::feature::Fid::VOLATILE_WRITE_CACHE;
    host.admin(doorbell_spec::admin::set_features(off, 0, 0, false));
    host.expect(1, nvm::write(1, 0, 0).with_prp(page, 0), Status::SUCCESS);
    host.expect(1, nvm::write(1, 0, 0).with_prp(page, 0).with_fua(), Status::SUCCESS);
    host.expect(1, nvm::write_zeroes(1, 0, 0), Status::SUCCESS);
}

#[test]
fn transfers_across_mappings() {
    let mut host = host();
    // Two host pages, contiguous in I/O addresses, swapped in memory.
    let pages = host.pages(2);
    let offset = (pages - BASE) as usize;
    let ram = host.ram.clone();
    ram.map(&mut host.controller, offset + 4096, 0x9000_0000, 4096).expect("map");
    ram.map(&mut host.controller, offset, 0x9000_1000, 4096).expect("map");
    write(&mut host, 0, &[vec![1; 4096], vec![2; 4096]].concat());
    let read = nvm::read(1, 0, 11).with_prp(0x9000_0800, 0x9000_1000);
    host.expect(1, read, Status::SUCCESS);
    assert_eq!(host.ram.read(pages + 4096 + 2048, 2048), [1; 2048]);
    assert_eq!(host.ram.read(pages, 2048), [1; 2048]);
    assert_eq!(host.ram.read(pages + 2048, 2048), [2; 2048]);
    host.controller.unmap(0x9000_0000, 8192).expect("unmap");
    host.expect(1, read, Status::DATA_TRANSFER_ERROR);
}
