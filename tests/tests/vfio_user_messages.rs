//! The subsystem's vfio-user port, message by message: what it accepts, what it refuses, and what cannot hurt it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use doorbell_spec::register::offset;
use doorbell_spec::vfio_user::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Header, HeaderFlags, IrqInfo, IrqSet, RegionAccess,
    RegionInfo, irq, region,
};
use doorbell_tests::function::memory;
use doorbell_tests::model::Random;
use doorbell_tests::port::{greet, refusal, serve, subsystem, works};
use doorbell_tests::wire::{Directory, Message, Wire};
use zerocopy::IntoBytes;

fn irqs(flags: u32, start: u32, count: u32) -> Vec<u8> {
    IrqSet {
        argsz: 20.into(),
        flags: flags.into(),
        index: irq::MSIX.into(),
        start: start.into(),
        count: count.into(),
    }
    .as_bytes()
    .to_vec()
}

#[test]
fn hostile_messages_cost_their_sender_at_most_the_connection() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let header = |command: Command, size: u32, flags: u32| Header {
        message_id: 7.into(),
        command: command.0.into(),
        message_size: size.into(),
        flags: flags.into(),
        error: 0.into(),
    };
    let version = header(Command::VERSION, 20, 0);
    let version = [version.as_bytes(), &[0, 0, 1, 0]].concat();

    // Before a version: anything else, noise, another version, half of one, capabilities that are none.
    let garbage: [Vec<u8>; 9] = [
        vec![0xa5; 4096],
        vec![0; 4096],
        vec![0xff; 64],
        header(Command::DEVICE_RESET, 16, 0).as_bytes().to_vec(),
        header(Command::VERSION, 15, 0).as_bytes().to_vec(),
        header(Command::VERSION, u32::MAX, 0).as_bytes().to_vec(),
        [header(Command::VERSION, 20, 0).as_bytes(), &[1, 0, 0, 0]].concat(),
        [header(Command::VERSION, 25, 0).as_bytes(), &[0, 0, 1, 0], b"[[[[["].concat(),
        version[..18].to_vec(),
    ];
    for bytes in &garbage {
        let wire = Wire::connect(&path).expect("connect");
        // The server may close while we still write.
        let _ = wire.send_bytes(bytes, &[]);
        drop(wire);
        works(&path);
    }
    // After a version: the same, and replies that nobody asked for.
    for bytes in &garbage {
        let wire = greet(&path);
        let _ = wire.send_bytes(bytes, &[]);
        drop(wire);
        works(&path);
    }
    let mut wire = greet(&path);
    for flags in [1, 0x21, 2, 0xf] {
        wire.send_bytes(header(Command::REGION_READ, 16, flags).as_bytes(), &[]).expect("send");
    }
    assert_eq!(refusal(&mut wire, Command(999), &[1, 2, 3], &[]), Some(libc::EOPNOTSUPP));
    assert_eq!(refusal(&mut wire, Command::VERSION, &[0, 0, 1, 0], &[]), Some(libc::EINVAL));
    assert_eq!(refusal(&mut wire, Command::DMA_READ, &[0; 16], &[]), Some(libc::EOPNOTSUPP));
    for command in 2..20 {
        // Too short for whatever it is.
        let expected = if command == Command::DEVICE_RESET.0 {
            None
        } else if (2..=10).contains(&command) && command != 6 {
            Some(libc::EINVAL)
        } else {
            Some(libc::EOPNOTSUPP)
        };
        assert_eq!(refusal(&mut wire, Command(command), &[], &[]), expected, "{command}");
    }
    // Far too long, and the next is in step.
    let long = vec![0; 3 << 20];
    assert_eq!(refusal(&mut wire, Command::REGION_WRITE, &long, &[]), Some(libc::E2BIG));
    // More descriptors than it said it takes.
    let null: OwnedFd = File::open("/dev/null").expect("null").into();
    let many = vec![null.as_fd(); 40];
    assert_eq!(refusal(&mut wire, Command::DEVICE_RESET, &[], &many), Some(libc::E2BIG));
    assert_eq!(refusal(&mut wire, Command::DEVICE_RESET, &[], &many[..3]), None);
    // Without a wish for replies there are none.
    let flags = u32::from(HeaderFlags::new().with_no_reply(true));
    wire.send_bytes(header(Command(999), 16, flags).as_bytes(), &[]).expect("send");
    wire.send_bytes(header(Command::DEVICE_RESET, 16, flags).as_bytes(), &[]).expect("send");
    assert_eq!(refusal(&mut wire, Command::DEVICE_RESET, &[], &[]), None);
    drop(wire);
    works(&path);
}

#[test]
fn a_random_stream_of_commands_never_ends_the_server() {
    let mut random = Random::from_env();
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let file = memory(1 << 20);
    let edge = [0, 1, 4, 32, 4096, 0x2000, 1 << 20, 1 << 31, 1 << 63, u64::MAX - 4095, u64::MAX];
    for _ in 0..20 {
        let mut wire = greet(&path);
        for _ in 0..100 {
            let command = Command(random.below(20) as u16);
            if command == Command::VERSION {
                continue;
            }
            let words: Vec<u64> = (0..random.below(8))
                .map(|_| match random.below(3) {
                    0 => random.below(64),
                    1 => edge[random.below(edge.len() as u64) as usize],
                    _ => random.word(),
                })
                .collect();
            let fds = vec![file.as_fd(); random.below(3) as usize];
            wire.call(command, words.as_bytes(), &fds).expect("a reply to every command");
        }
    }
    works(&path);
}

#[test]
fn what_it_says_of_itself() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut wire = greet(&path);
    let ask = DeviceInfo { argsz: 16.into(), ..DeviceInfo::default() };
    let reply = wire.call(Command::DEVICE_GET_INFO, ask.as_bytes(), &[]).expect("info");
    let info: DeviceInfo = reply.read();
    assert_eq!((info.flags.get(), info.regions.get(), info.irqs.get()), (3, 9, 5));

    for index in 0..12 {
        let ask = RegionInfo { argsz: 32.into(), index: index.into(), ..RegionInfo::default() };
        let reply = wire.call(Command::DEVICE_GET_REGION_INFO, ask.as_bytes(), &[]).expect("reply");
        if index >= 9 {
            assert_eq!(reply.error(), Some(libc::EINVAL));
            continue;
        }
        let info: RegionInfo = reply.read();
        // Without room for capabilities there are none, no file, and the room they take.
        assert_eq!((reply.payload.len(), reply.fds.len()), (32, 0));
        let (size, argsz) = match index {
            region::BAR0 => (0x4000, 64),
            region::CONFIG => (4096, 32),
            _ => (0, 32),
        };
        assert_eq!((info.size.get(), info.argsz.get()), (size, argsz), "region {index}");
    }
    for index in 0..6 {
        let ask = IrqInfo { argsz: 16.into(), index: index.into(), ..IrqInfo::default() };
        let reply = wire.call(Command::DEVICE_GET_IRQ_INFO, ask.as_bytes(), &[]).expect("reply");
        match index {
            irq::MSIX => assert_eq!(reply.read::<IrqInfo>().count.get(), 128),
            5 => assert_eq!(reply.error(), Some(libc::EINVAL)),
            irq::ERR | irq::REQ => assert_eq!(reply.read::<IrqInfo>().count.get(), 1),
            _ => assert_eq!(reply.read::<IrqInfo>().count.get(), 0),
        }
    }
}

fn access(region: u32, offset: u64, count: u32, data: &[u8]) -> Vec<u8> {
    let access = RegionAccess { offset: offset.into(), region: region.into(), count: count.into() };
    [access.as_bytes(), data].concat()
}

#[test]
fn accesses_to_regions() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut wire = greet(&path);
    let mut read = |region, offset, count| -> Message {
        wire.call(Command::REGION_READ, &access(region, offset, count, &[]), &[]).expect("reply")
    };
    // Any length of configuration space, every natural width of BAR0.
    let config = read(region::CONFIG, 0, 4096);
    assert_eq!(config.payload[16..20], [0x0b, 0xd0, 1, 0]);
    assert_eq!(config.payload[16 + 9..16 + 12], [0x02, 0x08, 0x01]);
    assert_eq!(read(region::CONFIG, 0x34, 1).payload.len(), 17);
    let whole = read(region::BAR0, offset::VS, 4).payload[16..].to_vec();
    assert_eq!(read(region::BAR0, offset::VS + 1, 1).payload[16..], whole[1..2]);
    assert_eq!(read(region::BAR0, offset::VS + 2, 2).payload[16..], whole[2..4]);
    assert_eq!(read(region::BAR0, offset::CAP, 8).payload.len(), 24);
    for (region, offset, count) in [
        (region::CONFIG, 4095, 2),
        (region::CONFIG, u64::MAX, 4),
        (region::CONFIG, 0, 4097),
        (region::CONFIG, 0, u32::MAX),
        (region::BAR0, 0x4000, 4),
        (region::BAR0, 0x3ffc, 8),
        (region::BAR0, 2, 4),
        (region::BAR0, 0, 3),
        (region::BAR0, 0, 16),
        (region::BAR0, u64::MAX - 3, 4),
        (1, 0, 4),
        (u32::MAX, 0, 4),
    ] {
        assert_eq!(read(region, offset, count).error(), Some(libc::EINVAL), "{offset:x}h+{count}");
    }

    let mut write = |region, offset, count, data: &[u8]| {
        refusal(&mut wire, Command::REGION_WRITE, &access(region, offset, count, data), &[])
    };
    assert_eq!(write(region::BAR0, offset::AQA, 4, &[31, 0, 31, 0]), None);
    assert_eq!(write(region::BAR0, offset::AQA, 4, &[31, 0]), Some(libc::EINVAL));
    assert_eq!(write(region::BAR0, offset::AQA, 2, &[31, 0]), Some(libc::EINVAL));
    assert_eq!(write(region::BAR0, offset::AQA, 2, &[31, 0, 31, 0]), Some(libc::EINVAL));
    assert_eq!(write(region::CONFIG, 0x3c, 1, &[9]), None);
    assert_eq!(write(region::BAR0, 0x2004, 4, &[1, 2, 3, 4]), None);
    assert_eq!(write(region::BAR0, 0x1000, 4, &[1, 0, 0, 0]), None);
    let mut read = |region, offset, count| {
        let payload = access(region, offset, count, &[]);
        wire.call(Command::REGION_READ, &payload, &[]).expect("reply").payload[16..].to_vec()
    };
    assert_eq!(read(region::CONFIG, 0x3c, 2), [9, 0]);
    assert_eq!(read(region::BAR0, 0x2004, 4), [1, 2, 3, 4], "the MSI-X table reads back");
    assert_eq!(read(region::BAR0, offset::AQA, 4), [31, 0, 31, 0]);
    // A function level reset through PCI Express device control, at 58h.
    assert_eq!(read(region::CONFIG, 0x50, 1), [0x10]);
    let flr = access(region::CONFIG, 0x58, 2, &[0, 0x80]);
    assert_eq!(refusal(&mut wire, Command::REGION_WRITE, &flr, &[]), None);
    let aqa = wire.call(Command::REGION_READ, &access(0, offset::AQA, 4, &[]), &[]).expect("AQA");
    assert_eq!(aqa.payload[16..], [0; 4]);
}

#[test]
fn interrupts_are_checked() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut wire = greet(&path);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("event");
    let eight = vec![event.as_fd(); 8];
    let connect = IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER;
    let mut set = |flags, start, count, fds: &[BorrowedFd<'_>]| {
        refusal(&mut wire, Command::DEVICE_SET_IRQS, &irqs(flags, start, count), fds)
    };
    for start in (0..128).step_by(8) {
        assert_eq!(set(connect, start, 8, &eight), None, "few descriptors a message");
    }
    assert_eq!(set(connect, 5, 3, &[]), None, "disconnects");
    assert_eq!(set(connect, 121, 8, &eight), Some(libc::EINVAL));
    assert_eq!(set(connect, u32::MAX, 8, &eight), Some(libc::EINVAL));
    assert_eq!(set(connect, 0, u32::MAX, &[]), Some(libc::EINVAL));
    assert_eq!(set(connect, 0, 7, &eight), Some(libc::EINVAL));
    assert_eq!(set(IrqSet::ACTION_TRIGGER, 0, 1, &eight[..1]), Some(libc::EINVAL));
    assert_eq!(set(IrqSet::DATA_EVENTFD | IrqSet::ACTION_MASK, 0, 1, &[]), Some(libc::EINVAL));
    assert_eq!(set(u32::MAX, 0, 1, &[]), Some(libc::EINVAL));
    let none = IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER;
    assert_eq!(set(none, 0, 0, &[]), None);
    // A pipe could be full, and then the controller would wait for its client.
    let (_end, pipe) = rustix::pipe::pipe().expect("pipe");
    assert_eq!(set(connect, 0, 1, &[pipe.as_fd()]), Some(libc::EINVAL));
    let pin = IrqSet { index: irq::INTX.into(), ..IrqSet::default() };
    let pin = IrqSet { argsz: 20.into(), flags: none.into(), ..pin };
    assert_eq!(refusal(&mut wire, Command::DEVICE_SET_IRQS, pin.as_bytes(), &[]), None);
    let err = IrqSet { index: irq::ERR.into(), flags: connect.into(), count: 1.into(), ..pin };
    let err = refusal(&mut wire, Command::DEVICE_SET_IRQS, err.as_bytes(), &[event.as_fd()]);
    assert_eq!(err, None);
    let beyond = IrqSet { index: 5.into(), ..pin };
    let beyond = refusal(&mut wire, Command::DEVICE_SET_IRQS, beyond.as_bytes(), &[]);
    assert_eq!(beyond, Some(libc::EINVAL));
}

fn dma(flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    DmaMap {
        argsz: 32.into(),
        flags: flags.into(),
        offset: offset.into(),
        address: address.into(),
        size: size.into(),
    }
    .as_bytes()
    .to_vec()
}

fn undo(flags: u32, address: u64, size: u64) -> Vec<u8> {
    DmaUnmap { argsz: 24.into(), flags: flags.into(), address: address.into(), size: size.into() }
        .as_bytes()
        .to_vec()
}

#[test]
fn memory_maps_are_checked() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut wire = greet(&path);
    let file = memory(1 << 20);
    let both = DmaMap::READ | DmaMap::WRITE;
    let mut map = |flags, offset, address, size, fds: &[BorrowedFd<'_>]| {
        refusal(&mut wire, Command::DMA_MAP, &dma(flags, offset, address, size), fds)
    };
    let fd = [file.as_fd()];
    let high = u64::MAX - 4095;
    assert_eq!(map(both, 0, 0x10_0000, 1 << 20, &fd), None);
    assert_eq!(map(both, 0, 0x10_0000, 1 << 20, &fd), Some(libc::EEXIST));
    assert_eq!(map(both, 0, 0x1f_f000, 4096, &fd), Some(libc::EEXIST));
    assert_eq!(map(both, 0, 0, 1 << 20, &fd), None, "right below");
    assert_eq!(map(both, 0, high, 4096, &fd), None, "the last page there is");
    assert_eq!(map(both, 0, high - 4096, 8192, &fd), Some(libc::EEXIST));
    assert_eq!(map(both, 0, high, 8192, &fd), Some(libc::EINVAL), "wraps");
    assert_eq!(map(both, 0, 1 << 40, 0, &fd), Some(libc::EINVAL));
    assert_eq!(map(both, 0, 1 << 40, 4095, &fd), Some(libc::EINVAL));
    assert_eq!(map(both, 0, (1 << 40) + 1, 4096, &fd), Some(libc::EINVAL));
    assert_eq!(map(both, 1, 1 << 40, 4096, &fd), Some(libc::EINVAL), "the kernel says so");
    assert_eq!(map(both, 4096, 1 << 40, 1 << 20, &fd), Some(libc::EFBIG), "past its end");
    assert_eq!(map(both, u64::MAX - 4095, 1 << 40, 4096, &fd), Some(libc::EFBIG));
    assert_eq!(map(both, 0, 0, u64::MAX - 4095, &fd), Some(libc::EFBIG));
    assert_eq!(map(0, 0, 1 << 40, 4096, &fd), Some(libc::EINVAL));
    assert_eq!(map(u32::MAX, 0, 1 << 40, 4096, &fd), Some(libc::EINVAL));
    assert_eq!(map(both, 0, 1 << 40, 4096, &[]), Some(libc::EOPNOTSUPP), "no file");
    assert_eq!(map(both, 0, 1 << 40, 4096, &[fd[0]; 2]), Some(libc::EINVAL));
    assert_eq!(map(DmaMap::READ, 0, 1 << 40, 4096, &fd), None);
    let null = File::open("/dev/null").expect("null");
    assert_eq!(map(both, 0, 1 << 41, 4096, &[null.as_fd()]), Some(libc::EACCES));

    let mut unmap = |flags, address, size| {
        refusal(&mut wire, Command::DMA_UNMAP, &undo(flags, address, size), &[])
    };
    assert_eq!(unmap(0, 0x10_0000, 4096), Some(libc::ENOENT), "a part");
    assert_eq!(unmap(0, 0, 2 << 20), Some(libc::ENOENT), "two at once");
    assert_eq!(unmap(0, 0x10_0000, 1 << 20), None);
    assert_eq!(unmap(0, 0x10_0000, 1 << 20), Some(libc::ENOENT));
    assert_eq!(unmap(DmaUnmap::ALL, 4096, 0), Some(libc::EINVAL));
    assert_eq!(unmap(DmaUnmap::GET_DIRTY_BITMAP, 0, 1 << 20), Some(libc::EOPNOTSUPP));
    assert_eq!(unmap(u32::MAX, 0, 1 << 20), Some(libc::EINVAL));
    assert_eq!(unmap(DmaUnmap::ALL, 0, 0), None);
    assert_eq!(unmap(0, 0, 1 << 20), Some(libc::ENOENT));

    // Maps are bounded, and as many as announced.
    let mut refused = None;
    for number in 0..10_000_u64 {
        let payload = dma(both, 0, number * 8192, 4096);
        refused = refusal(&mut wire, Command::DMA_MAP, &payload, &fd);
        if refused.is_some() {
            assert_eq!(number, 8192);
            break;
        }
    }
    assert_eq!(refused, Some(libc::ENOSPC));
    drop(wire);
    works(&path);
}

#[test]
fn doorbells_cannot_be_taken_from_under_the_server() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut wire = greet(&path);
    let ask = RegionInfo { argsz: 64.into(), ..RegionInfo::default() };
    let reply = wire.call(Command::DEVICE_GET_REGION_INFO, ask.as_bytes(), &[]).expect("reply");
    let doorbells = File::from(reply.fds.into_iter().next().expect("a file"));
    doorbells.set_len(0).expect_err("sealed");
    doorbells.set_len(1 << 30).expect_err("sealed");
    // Every dword at once, and what no queue has.
    doorbells.write_all_at(&[0xff; 4096], 0x1000).expect("write");
    drop(wire);
    works(&path);
}
