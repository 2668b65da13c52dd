//! The driver's vfio-user client against servers that others wrote, and against scripted ones that misbehave.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use doorbell::device::vfio_user::VfioUser;
use doorbell::device::{Device, DeviceError, Interrupt, Properties, Width};
use doorbell_spec::vfio_user::{
    Command, DmaMap, DmaUnmap, Header, HeaderFlags, IrqSet, RegionAccess, irq, region,
};
use doorbell_tests::function::{exercise, map, memory, ring};
use doorbell_tests::wire::{Answer, Directory, Message, Model, Sharing, Wire, honest, script};
use zerocopy::IntoBytes;

const DEADLINE: Duration = Duration::from_secs(5);
/// For tests in which it passes.
const SHORT: Duration = Duration::from_millis(150);

fn open(path: &Path) -> VfioUser {
    VfioUser::open(path, DEADLINE).expect("open")
}

#[test]
fn every_way_of_sharing_doorbells() {
    for sharing in [Sharing::Whole, Sharing::OneFile, Sharing::FilePerArea] {
        let directory = Directory::new("client");
        let path = directory.join("socket");
        let mut model = Model::new(sharing);
        let file = model.doorbells.try_clone().unwrap();
        let server = script(&path, move |wire| {
            honest(&wire, &mut model);
            model
        });
        let device = open(&path);
        exercise(&device);

        let doorbells = device.doorbells(0x1000).unwrap();
        ring(&doorbells, 2, 0x7777);
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0x1008).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x7777, "{sharing:?}");
        let error = device.doorbells(0x10_0000).err().expect("past the end");
        assert!(error.to_string().contains("past its end"), "{error}");
        drop(doorbells);
        drop(device);

        let model = server.join().unwrap();
        let command = u16::from_le_bytes([model.config[4], model.config[5]]);
        assert_eq!(command & 0x406, 0x400, "bus master and memory off after drop, pin off");
        assert!(model.seen.contains(&Command::DEVICE_RESET));
    }
}

#[test]
fn bus_mastering_is_on_while_the_device_is_open() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let (send, receive) = std::sync::mpsc::channel();
    let server = script(&path, move |wire| {
        let mut model = Model::new(Sharing::Whole);
        while let Ok(Some(message)) = wire.receive() {
            let answer = model.answer(&message);
            wire.reply(&message, answer).unwrap();
            send.send(u16::from_le_bytes([model.config[4], model.config[5]])).unwrap();
        }
    });
    let device = open(&path);
    let last = receive.try_iter().last();
    // The reply may reach us before the script has reported; one more exchange orders them.
    device.read(0, Width::Dword).unwrap();
    let last = receive.recv_timeout(DEADLINE).ok().or(last).unwrap();
    assert_eq!(last & 0x406, 0x406);
    drop(device);
    server.join().unwrap();
}

#[test]
fn a_directory_in_the_layout_of_spdk() {
    let directory = Directory::new("client");
    let server = script(&directory.join("cntrl"), |wire| {
        honest(&wire, &mut Model::new(Sharing::OneFile));
    });
    let device = open(directory.path());
    assert_eq!(device.info().address, format!("vfio-user:{}", directory.path().display()));
    drop(device);
    server.join().unwrap();
}

#[test]
fn servers_with_few_and_odd_capabilities() {
    let texts = [
        None,
        Some("{}"),
        Some("{\"capabilities\":{}}"),
        Some("{\"capabilities\":{\"max_msg_fds\":0,\"max_dma_maps\":16,\"pgsizes\":2097152}}"),
        Some("{\"capabilities\":{\"pgsizes\":0,\"unknown\":[1,{\"a\":null}]},\"more\":true}"),
    ];
    for text in texts {
        let directory = Directory::new("client");
        let path = directory.join("socket");
        let server = script(&path, move |wire| {
            let mut model = Model::new(Sharing::OneFile);
            model.capabilities = text.map(String::from);
            // No message may carry more than the one descriptor that every server takes.
            while let Ok(Some(message)) = wire.receive() {
                assert!(message.fds.len() <= 1, "{:?}", message.command());
                let answer = model.answer(&message);
                wire.reply(&message, answer).unwrap();
            }
        });
        let device = open(&path);
        exercise(&device);
        let iova = &device.info().iova;
        match text {
            Some(text) if text.contains("16") => {
                assert_eq!((iova.page_size, iova.max_mappings), (2 << 20, Some(16)));
            }
            _ => assert_eq!((iova.page_size, iova.max_mappings), (4096, Some(65_535))),
        }
        assert!(iova.ranges.iter().all(|range| range.end() < &(1 << 47)));
        drop(device);
        server.join().unwrap();
    }
}

#[test]
fn replies_in_single_bytes() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| {
        let mut model = Model::new(Sharing::OneFile);
        while let Ok(Some(message)) = wire.receive() {
            let Answer::Reply(payload, fds) = model.answer(&message) else { panic!() };
            let header = reply_header(&message, payload.len());
            let bytes = [header.as_bytes(), &payload].concat();
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            wire.send_bytes(&bytes[..1], &fds).unwrap();
            for byte in &bytes[1..] {
                wire.stream().write_all(&[*byte]).unwrap();
            }
        }
    });
    let device = open(&path);
    exercise(&device);
    assert!(device.doorbells(0x1000).is_ok());
    drop(device);
    server.join().unwrap();
}

#[test]
fn trapped_doorbells_are_refused_with_the_remedy() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| honest(&wire, &mut Model::new(Sharing::Trapped)));
    let error = VfioUser::open(&path, DEADLINE).unwrap_err();
    assert!(matches!(error, DeviceError::Unusable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("doorbells") && text.contains("disable_mappable_bar0"), "{text}");
    server.join().unwrap();
}

#[test]
fn a_file_too_short_for_its_doorbells() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| {
        let mut model = Model::new(Sharing::OneFile);
        model.doorbells.set_len(0x1800).unwrap();
        honest(&wire, &mut model);
    });
    let error = VfioUser::open(&path, DEADLINE).unwrap_err();
    assert!(error.to_string().contains("past the end of its file"), "{error}");
    server.join().unwrap();
}

#[test]
fn error_replies_carry_their_reason_and_leave_the_connection_whole() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| {
        let mut model = Model::new(Sharing::OneFile);
        while let Ok(Some(message)) = wire.receive() {
            let answer = match message.command() {
                // A header alone, where the client would otherwise expect a payload.
                Command::DMA_UNMAP => Answer::Error(libc::ENOENT),
                Command::DMA_MAP => Answer::Error(libc::ENOMEM),
                Command::DEVICE_SET_IRQS => Answer::Error(0),
                Command::DEVICE_RESET => Answer::Error(i32::MAX),
                Command::REGION_READ if message.read::<RegionAccess>().offset.get() == 0x44 => {
                    Answer::Error(libc::EINVAL)
                }
                _ => model.answer(&message),
            };
            wire.reply(&message, answer).unwrap();
        }
    });
    let device = open(&path);
    let errno = |error: DeviceError| match error {
        DeviceError::Refused { source, .. } => source.raw_os_error(),
        other => panic!("{other}"),
    };
    assert_eq!(errno(device.unmap_dma(0, 4096).unwrap_err()), Some(libc::ENOENT));
    let memory = memory(4096);
    let error = map(&device, 4096, 4096, Some((memory.as_fd(), 0))).unwrap_err();
    assert_eq!(errno(error), Some(libc::ENOMEM));
    assert_eq!(errno(device.interrupt(Interrupt::Vector(0), None).unwrap_err()), None);
    assert_eq!(errno(device.reset().unwrap_err()), None);
    assert_eq!(errno(device.read(0x44, Width::Dword).unwrap_err()), Some(libc::EINVAL));
    // None of it has cost the connection.
    device.write(0x14, Width::Dword, 1).unwrap();
    assert_eq!(device.read(0x14, Width::Dword).unwrap(), 1);
    drop(device);
    server.join().unwrap();
}

#[test]
fn what_the_messages_say() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| {
        let mut model = Model::new(Sharing::OneFile);
        let mut kept = Vec::new();
        while let Ok(Some(message)) = wire.receive() {
            let answer = model.answer(&message);
            wire.reply(&message, answer).unwrap();
            kept.push(message);
        }
        kept
    });
    let device = open(&path);
    exercise(&device);
    drop(device);
    let messages = server.join().unwrap();
    let find = |command| -> &Message {
        messages.iter().find(|message| message.command() == command).unwrap()
    };

    let version = &find(Command::VERSION).payload;
    assert_eq!(version[..4], [0, 0, 1, 0]);
    assert_eq!(version.last(), Some(&0));
    let map: DmaMap = find(Command::DMA_MAP).read();
    assert_eq!(
        (map.argsz.get(), map.flags.get(), map.offset.get(), map.address.get(), map.size.get()),
        (32, 3, 0x20_0000, 0x1_0000_0000, 0x20_0000)
    );
    assert_eq!(find(Command::DMA_MAP).fds.len(), 1);
    let unmap: DmaUnmap = find(Command::DMA_UNMAP).read();
    assert_eq!((unmap.flags.get(), unmap.address.get()), (0, 0x1_0000_0000));
    let set: IrqSet = find(Command::DEVICE_SET_IRQS).read();
    assert_eq!(
        (set.flags.get(), set.index.get(), set.start.get(), set.count.get()),
        (IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER, irq::MSIX, 0, 1)
    );
    let commands = messages.iter().filter(|message| {
        message.command() == Command::REGION_WRITE
            && message.read::<RegionAccess>().region.get() == region::CONFIG
    });
    for write in commands {
        let access: RegionAccess = write.read();
        assert_eq!((access.offset.get(), access.count.get()), (4, 2), "the command register");
    }
    let mut ids: Vec<_> = messages.iter().map(|message| message.header.message_id.get()).collect();
    ids.dedup();
    assert_eq!(ids.len(), messages.len(), "identifiers differ from one message to the next");
}

#[test]
fn commands_of_the_server_are_answered_with_an_error() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = script(&path, |wire| {
        let mut model = Model::new(Sharing::OneFile);
        while let Ok(Some(message)) = wire.receive() {
            for (command, flags, len) in [
                (Command::DMA_READ, HeaderFlags::new(), 16),
                (Command::DMA_WRITE, HeaderFlags::new(), 5000),
                (Command(999), HeaderFlags::new().with_no_reply(true), 0),
            ] {
                let header = Header {
                    message_id: message.header.message_id,
                    command: command.0.into(),
                    flags: u32::from(flags).into(),
                    ..Header::default()
                };
                wire.send(header, &vec![0; len], &[]).unwrap();
                if flags.no_reply() {
                    continue;
                }
                let reply = wire.receive().unwrap().unwrap();
                assert_eq!(reply.command(), command);
                assert_eq!(reply.error(), Some(libc::EOPNOTSUPP));
            }
            let answer = model.answer(&message);
            wire.reply(&message, answer).unwrap();
        }
    });
    let device = open(&path);
    exercise(&device);
    drop(device);
    server.join().unwrap();
}

fn reply_header(message: &Message, payload: usize) -> Header {
    Header {
        flags: u32::from(HeaderFlags::new().with_kind(HeaderFlags::REPLY)).into(),
        message_size: ((size_of::<Header>() + payload) as u32).into(),
        error: 0.into(),
        ..message.header
    }
}

/// Opens a device whose server misbehaves at the first register access, and returns what that access gave.
fn misbehave(
    name: &str,
    deadline: Duration,
    act: impl Fn(&Wire, &Message, Vec<u8>) + Send + 'static,
) -> (VfioUser, Result<u64, DeviceError>) {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    script(&path, move |wire| {
        let mut model = Model::new(Sharing::OneFile);
        while let Ok(Some(message)) = wire.receive() {
            let answer = model.answer(&message);
            let registers = message.command() == Command::REGION_READ
                && message.read::<RegionAccess>().region.get() == region::BAR0;
            match answer {
                Answer::Reply(payload, _) if registers => {
                    act(&wire, &message, payload);
                    // Stays connected, silent, until the client leaves.
                    while let Ok(Some(_)) = wire.receive() {}
                    return;
                }
                answer => wire.reply(&message, answer).unwrap(),
            }
        }
    });
    let device = VfioUser::open(&path, deadline).unwrap_or_else(|error| panic!("{name}: {error}"));
    let started = Instant::now();
    let result = device.read(0x1c, Width::Dword);
    let waited = started.elapsed();
    assert!(waited < deadline + Duration::from_secs(2), "{name}: {waited:?}");
    (device, result)
}

#[test]
fn breaches_of_the_protocol_end_the_connection() {
    type Act = fn(&Wire, &Message, Vec<u8>);
    let acts: [(&str, Act); 8] = [
        ("another identifier", |wire, message, payload| {
            let mut header = reply_header(message, payload.len());
            header.message_id.set(header.message_id.get() ^ 1);
            wire.send(header, &payload, &[]).unwrap();
        }),
        ("a huge size", |wire, message, payload| {
            let mut header = reply_header(message, payload.len());
            header.message_size.set(u32::MAX);
            wire.send_bytes(&[header.as_bytes(), &payload].concat(), &[]).unwrap();
        }),
        ("a size below the header", |wire, message, payload| {
            let mut header = reply_header(message, payload.len());
            header.message_size.set(15);
            wire.send_bytes(&[header.as_bytes(), &payload].concat(), &[]).unwrap();
        }),
        ("neither command nor reply", |wire, message, payload| {
            let mut header = reply_header(message, payload.len());
            header.flags.set(2);
            wire.send(header, &payload, &[]).unwrap();
        }),
        ("a huge error reply", |wire, message, payload| {
            let mut header = reply_header(message, payload.len());
            header.flags.set(0x21);
            header.message_size.set(0x7fff_ffff);
            wire.send_bytes(header.as_bytes(), &[]).unwrap();
        }),
        ("a huge command", |wire, message, _| {
            let mut header = reply_header(message, 0);
            header.flags.set(0);
            header.message_size.set(0x7fff_ffff);
            wire.send_bytes(header.as_bytes(), &[]).unwrap();
        }),
        ("60 descriptors", |wire, message, payload| {
            let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            let fds = vec![file.as_fd(); 60];
            let header = reply_header(message, payload.len());
            wire.send_bytes(&[header.as_bytes(), &payload].concat(), &fds).unwrap();
        }),
        ("noise", |wire, _, _| {
            wire.send_bytes(&[0xa5; 64], &[]).unwrap();
        }),
    ];
    for (name, act) in acts {
        let (device, result) = misbehave(name, DEADLINE, act);
        let error = result.expect_err(name);
        assert!(matches!(error, DeviceError::Unusable { .. }), "{name}: {error}");
        assert!(error.to_string().contains("vfio-user protocol"), "{name}: {error}");
        // Nothing that follows can be trusted.
        let again = device.write(0x14, Width::Dword, 0).unwrap_err();
        assert!(matches!(again, DeviceError::Gone { .. }), "{name}: {again}");
    }
}

#[test]
fn a_reply_too_short_for_its_data() {
    let (device, result) = misbehave("short", DEADLINE, |wire, message, payload| {
        let header = reply_header(message, 0);
        wire.send(header, &payload[..18], &[]).unwrap();
    });
    assert!(matches!(result, Err(DeviceError::Unusable { .. })), "{result:?}");
    drop(device);
}

#[test]
fn silence_ends_at_the_deadline() {
    type Act = fn(&Wire, &Message, Vec<u8>);
    let acts: [(&str, Act); 3] = [
        ("silent", |_, _, _| {}),
        ("half a header", |wire, message, _| {
            wire.send_bytes(&reply_header(message, 20).as_bytes()[..7], &[]).unwrap();
        }),
        ("half a payload", |wire, message, payload| {
            let header = reply_header(message, payload.len());
            let bytes = [header.as_bytes(), &payload].concat();
            wire.send_bytes(&bytes[..bytes.len() - 1], &[]).unwrap();
        }),
    ];
    for (name, act) in acts {
        let (_device, result) = misbehave(name, SHORT, act);
        let error = result.expect_err(name);
        assert!(matches!(error, DeviceError::TimedOut { .. }), "{name}: {error}");
    }
}

#[test]
fn a_server_that_dies() {
    type Act = fn(&Wire, &Message, Vec<u8>);
    let acts: [(&str, Act); 2] = [
        ("before it answers", |wire, _, _| {
            wire.stream().shutdown(std::net::Shutdown::Both).unwrap();
        }),
        ("in the middle of its answer", |wire, message, payload| {
            let header = reply_header(message, payload.len());
            wire.send_bytes(&header.as_bytes()[..9], &[]).unwrap();
            wire.stream().shutdown(std::net::Shutdown::Both).unwrap();
        }),
    ];
    for (name, act) in acts {
        let (device, result) = misbehave(name, DEADLINE, act);
        let error = result.expect_err(name);
        assert!(matches!(error, DeviceError::Gone { .. }), "{name}: {error}");
        for _ in 0..3 {
            let again = device.write(0x14, Width::Dword, 0).unwrap_err();
            assert!(matches!(again, DeviceError::Gone { .. }), "{name}: {again}");
        }
    }
}

#[test]
fn no_server_there() {
    let directory = Directory::new("client");
    let text = |path: &Path| VfioUser::open(path, SHORT).unwrap_err().to_string();
    let missing = text(&directory.join("missing"));
    assert!(missing.contains("is the server running"), "{missing}");
    let empty = text(directory.path());
    assert!(empty.contains("cntrl") && empty.contains("is the server running"), "{empty}");

    let stale = directory.join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let stale = text(&stale);
    assert!(stale.contains("it has ended"), "{stale}");
    let long = text(&directory.join(&"x".repeat(200)));
    assert!(long.contains("107 bytes"), "{long}");

    // Listens and never accepts; then its backlog is full as well.
    let deaf = directory.join("deaf");
    let listener = std::os::unix::net::UnixListener::bind(&deaf).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    for _ in 0..3 {
        let started = Instant::now();
        let error = VfioUser::open(&deaf, SHORT).unwrap_err();
        assert!(matches!(error, DeviceError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("another client"), "{error}");
        assert!(started.elapsed() < SHORT + Duration::from_secs(2));
    }
}

#[test]
fn a_server_that_refuses_or_speaks_another_version() {
    type Act = fn(&Message) -> Answer;
    let acts: [(Act, &str); 4] = [
        (|_| Answer::Error(libc::EBUSY), "another client is attached"),
        (|_| Answer::Reply(vec![1, 0, 0, 0], Vec::new()), "vfio-user 1.0"),
        (|_| Answer::Reply(vec![0, 0], Vec::new()), "no version"),
        (|_| Answer::Reply(b"\0\0\x01\0{\"capab".to_vec(), Vec::new()), "malformed"),
    ];
    for (act, expected) in acts {
        let directory = Directory::new("client");
        let path = directory.join("socket");
        let server = script(&path, move |wire| {
            let message = wire.receive().unwrap().unwrap();
            wire.reply(&message, act(&message)).unwrap();
        });
        let error = VfioUser::open(&path, DEADLINE).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        server.join().unwrap();
    }
}
