//! The server of the vfio-user port, and what a client may send it.
//!
//! Input: a byte of modes, and a list of messages: command, flags, size, payload, up to three descriptors. Each reply is
//! well formed and answers what was sent, in order; whatever comes, the next client is served, and no descriptor of this
//! one is left. One server, on its thread, takes all inputs.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use doorbell_spec::vfio_user::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Header, HeaderFlags, IrqInfo, IrqSet, RegionAccess,
    RegionInfo, irq, region,
};
use doorbell_subsystem::port::vfio_user::Running;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use zerocopy::{FromBytes, IntoBytes};

use super::{Input, descriptors};
use crate::port::{greet, serve, subsystem};
use crate::wire::{Directory, Wire};

const HEADER: usize = size_of::<Header>();
/// Messages of an input, as many as have room in the socket's buffers with all their replies.
const MESSAGES: usize = 16;
/// Memory of a client.
const MEMORY: u64 = 64 << 10;
/// The largest error number.
const MAX_ERRNO: u32 = 4095;

/// The server, and its socket, whose name is gone.
struct Served {
    running: Running,
    path: PathBuf,
    _socket: OwnedFd,
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let directory = Directory::new("fuzz");
        let path = directory.join("socket");
        let running = serve(&path, &subsystem());
        // By its descriptor it can be reached once the directory is gone.
        let socket =
            open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("the socket");
        let path = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        Served { running, path, _socket: socket }
    })
}

/// Numbers at which something changes.
fn edge(input: &mut Input<'_>) -> u64 {
    let byte = input.byte();
    match byte >> 4 {
        0 => byte.into(),
        1 => 1 << (byte & 15),
        2 => 4096 * u64::from(byte & 15),
        3 => MEMORY.wrapping_mul((byte & 15).into()),
        4 => 0x1000 + 4 * u64::from(byte & 15),
        5 => 1 << (32 + u64::from(byte & 15) * 2),
        6 => u64::MAX - u64::from(byte & 15),
        7 => u64::MAX - 4095,
        _ => u64::from(input.half()) << (byte & 15),
    }
}

/// A structure of the command, with numbers of the input.
fn payload(command: Command, input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.byte();
    let honest = choice & 1 == 0;
    match command {
        Command::VERSION => [0, 0, 1, 0].to_vec(),
        Command::DMA_MAP => DmaMap {
            argsz: 32.into(),
            flags: if honest { 3.into() } else { u32::from(choice >> 1).into() },
            offset: edge(input).into(),
            address: edge(input).into(),
            size: edge(input).into(),
        }
        .as_bytes()
        .to_vec(),
        Command::DMA_UNMAP => DmaUnmap {
            argsz: 24.into(),
            flags: u32::from(choice >> 6).into(),
            address: edge(input).into(),
            size: edge(input).into(),
        }
        .as_bytes()
        .to_vec(),
        Command::DEVICE_GET_INFO => {
            DeviceInfo { argsz: u32::from(choice).into(), ..DeviceInfo::default() }
                .as_bytes()
                .to_vec()
        }
        Command::DEVICE_GET_REGION_INFO => RegionInfo {
            argsz: if honest { 4096.into() } else { u32::from(choice).into() },
            index: (edge(input) as u32).into(),
            ..RegionInfo::default()
        }
        .as_bytes()
        .to_vec(),
        Command::DEVICE_GET_IRQ_INFO => IrqInfo {
            argsz: u32::from(choice).into(),
            index: (edge(input) as u32).into(),
            ..IrqInfo::default()
        }
        .as_bytes()
        .to_vec(),
        Command::DEVICE_SET_IRQS => IrqSet {
            argsz: 20.into(),
            flags: if honest {
                (IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER).into()
            } else {
                u32::from(choice >> 1).into()
            },
            index: if choice & 0x80 == 0 { irq::MSIX.into() } else { (edge(input) as u32).into() },
            start: (edge(input) as u32).into(),
            count: (edge(input) as u32).into(),
        }
        .as_bytes()
        .to_vec(),
        Command::REGION_READ | Command::REGION_WRITE => {
            let region = if honest { region::BAR0 } else { region::CONFIG };
            let width = 1 << (choice >> 1 & 3);
            let count = if choice & 8 == 0 { width } else { edge(input) as u32 };
            let offset = if choice & 16 == 0 { u64::from(input.byte()) } else { edge(input) };
            let access =
                RegionAccess { offset: offset.into(), region: region.into(), count: count.into() };
            let mut bytes = access.as_bytes().to_vec();
            if command == Command::REGION_WRITE {
                let value = if choice & 32 == 0 { input.half().into() } else { edge(input) };
                bytes.extend(value.to_le_bytes().iter().take(width as usize));
            }
            bytes
        }
        _ => input.bytes(usize::from(choice)).to_vec(),
    }
}

/// A descriptor such as a client would send, or another.
fn descriptor(kind: u8, memory: &OwnedFd) -> OwnedFd {
    match kind & 7 {
        0..=2 => memory.try_clone().expect("a descriptor"),
        3 | 4 => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event"),
        5 => {
            // Full: the next signal would have to wait, and does not.
            let event = eventfd(0, EventfdFlags::CLOEXEC).expect("an event");
            rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).expect("room");
            event
        }
        6 => fs::File::open("/dev/null").expect("null").into(),
        _ => rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe").0,
    }
}

/// A client, and what it may expect.
struct Client {
    wire: Wire,
    /// Commands sent whole whose replies are to come, by identifier and command.
    awaited: Vec<(u16, u16)>,
    /// What of the stream is no whole message yet.
    partial: Vec<u8>,
    /// The server may end the connection, and take back what it has said.
    ends: bool,
    introduced: bool,
}

impl Client {
    /// Keeps account of bytes that the server gets.
    fn sent(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while !self.ends
            && let Ok((header, _)) = Header::read_from_prefix(&self.partial)
        {
            let size = header.message_size.get() as usize;
            if size < HEADER {
                self.ends = true;
            }
            if self.ends || self.partial.len() < size {
                return;
            }
            self.partial.drain(..size);
            let flags = HeaderFlags::from(header.flags.get());
            if flags.kind() != HeaderFlags::COMMAND {
                continue;
            }
            if !flags.no_reply() {
                self.awaited.push((header.message_id.get(), header.command.get()));
            }
            // Who does not begin with a version that the server speaks is not heard further.
            self.ends |= !self.introduced;
        }
    }

    /// Replies that have come; how many.
    fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        while let Ok((header, rest)) = Header::read_from_prefix(bytes) {
            let size = header.message_size.get() as usize;
            assert!(size >= HEADER && size - HEADER <= rest.len(), "a reply of {size} bytes");
            let flags = HeaderFlags::from(header.flags.get());
            assert_eq!(flags.kind(), HeaderFlags::REPLY, "{header:?}");
            assert!(count < self.awaited.len(), "{header:?} answers nothing");
            let reply = (header.message_id.get(), header.command.get());
            assert_eq!(reply, self.awaited[count], "{header:?} is out of turn");
            let error = header.error.get();
            assert_eq!(flags.error(), error != 0, "{header:?}");
            assert!(error <= MAX_ERRNO, "{header:?}");
            assert!(error == 0 || size == HEADER, "{header:?}");
            bytes = &bytes[size..];
            count += 1;
        }
        assert!(bytes.is_empty(), "{} bytes of a reply", bytes.len());
        count
    }
}

fn message(input: &mut Input<'_>, client: &mut Client, memory: &OwnedFd, together: bool) {
    let (which, shape) = (input.byte(), input.byte());
    let command = match which {
        0..=0x7f => Command(u16::from(which & 15)),
        0x80..=0xbf => Command::REGION_WRITE,
        _ => Command(u16::from(which) << (which & 8)),
    };
    let payload = match shape & 3 {
        3 => {
            let count = usize::from(input.byte());
            input.bytes(count).to_vec()
        }
        _ => payload(command, input),
    };
    let size = (HEADER + payload.len()) as u32;
    let size = match shape >> 2 & 7 {
        6 => size.wrapping_add(u32::from(input.half()).wrapping_sub(16)),
        7 => u32::from(input.half()) << (input.byte() & 16),
        _ => size,
    };
    let odd = shape & 0x20 != 0;
    let flags = if odd { u32::from(input.byte()) } else { 0 };
    let header = Header {
        message_id: if odd { input.half() } else { which.into() }.into(),
        command: command.0.into(),
        message_size: size.into(),
        flags: flags.into(),
        error: if odd { u32::from(input.byte()) } else { 0 }.into(),
    };
    let kinds = input.bytes(usize::from(shape >> 6)).to_vec();
    let fds: Vec<OwnedFd> = kinds.iter().map(|kind| descriptor(*kind, memory)).collect();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let bytes = [header.as_bytes(), &payload].concat();
    client.sent(&bytes);
    if client.wire.send_bytes(&bytes, &fds).is_err() {
        // Not taken any more: only where that may be.
        assert!(client.ends, "the server closed the connection for no reason");
        return;
    }
    while !together && !client.ends && !client.awaited.is_empty() {
        let reply = client.wire.receive().expect("a reply").expect("a reply");
        let bytes = [reply.header.as_bytes(), &reply.payload].concat();
        assert_eq!(client.take(&bytes), 1);
        client.awaited.remove(0);
    }
}

/// The server serves a new client, after which there are as many descriptors as before the input.
fn still_serves(served: &Served, before: usize) {
    assert!(!served.running.is_finished(), "the server has ended");
    let client = greet(&served.path);
    end(&client);
    drop(client);
    assert_eq!(descriptors(), before, "descriptors behind the clients");
}

/// Says goodbye, and waits until the server has heard; what it still said.
fn end(wire: &Wire) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    // It fails where the server was first.
    let _ = wire.stream().shutdown(Shutdown::Write);
    let whole = wire.stream().read_to_end(&mut bytes);
    let lost = whole.err().map(|error| error.kind());
    assert!(
        lost.is_none_or(|kind| kind == std::io::ErrorKind::ConnectionReset),
        "the server does not end the connection: {lost:?}"
    );
    (bytes, lost.is_none())
}

fn connect(path: &Path, introduced: bool) -> Wire {
    if introduced { greet(path) } else { Wire::connect(path).expect("a connection") }
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let served = served();
    let before = descriptors();
    let mut input = Input(bytes);
    let mode = input.byte();
    let introduced = mode & 3 != 0;
    let together = mode & 4 != 0;
    let memory = crate::function::memory(MEMORY);
    // What the memory holds: rings, for controllers that are set up.
    let first = usize::from(input.byte());
    let mut file = fs::File::from(memory.try_clone().expect("a descriptor"));
    file.write_all(input.bytes(first)).expect("written");
    let mut client = Client {
        wire: connect(&served.path, introduced),
        awaited: Vec::new(),
        partial: Vec::new(),
        ends: false,
        introduced,
    };
    for _ in 0..MESSAGES {
        if input.0.is_empty() || client.ends {
            break;
        }
        message(&mut input, &mut client, &memory, together);
    }
    // Where all is well, an answer to everything comes before the end.
    let (replies, whole) = end(&client.wire);
    assert!(whole || client.ends, "the server threw messages away");
    let replies = if whole { client.take(&replies) } else { 0 };
    assert!(client.ends || replies == client.awaited.len(), "{:?}", &client.awaited[replies..]);
    drop((client, memory, file));
    still_serves(served, before);
}
