//! The driver's vfio-user client, and what a server may answer it.
//!
//! Input: a byte of modes, and for each exchange what becomes of the honest answer: sent as it is, changed in its payload
//! or its header, cut, replaced, an error, with descriptors too many or missing, after a command of the server's own. The
//! server says no more once it is out of step, so that nothing has to wait for a deadline. Opening and every call of a
//! device end, errors name the server, and no descriptor is left.

use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use doorbell::device::vfio_user::VfioUser;
use doorbell::device::{Device, DeviceError, Interrupt, Properties, Width};
use doorbell_spec::vfio_user::{Command, Header, HeaderFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use zerocopy::IntoBytes;

use super::{Input, descriptors};
use crate::function::{map, memory, ring};
use crate::wire::{Answer, Directory, Message, Model, Sharing, Wire};

/// Of every exchange. None has to pass.
const DEADLINE: Duration = Duration::from_secs(5);
/// Exchanges whose answers the input changes.
const EXCHANGES: usize = 64;

/// Where the servers of all inputs listen, one after another; the name of the socket is gone.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    _socket: OwnedFd,
}

fn listening() -> &'static Listening {
    static LISTENING: OnceLock<Listening> = OnceLock::new();
    LISTENING.get_or_init(|| {
        let directory = Directory::new("fuzz");
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        // By its descriptor it can be reached once the directory is gone.
        let socket =
            open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("the socket");
        let path = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        Listening { listener, path, _socket: socket }
    })
}

/// The honest answer as a message.
fn honest(message: &Message, model: &mut Model) -> (Header, Vec<u8>, Vec<OwnedFd>) {
    let flags = HeaderFlags::new().with_kind(HeaderFlags::REPLY);
    let header = Header { flags: u32::from(flags).into(), ..message.header };
    match model.answer(message) {
        Answer::Reply(payload, fds) => (header, payload, fds),
        Answer::Error(errno) => {
            let flags = u32::from(flags.with_error(true)).into();
            (Header { flags, error: (errno as u32).into(), ..header }, Vec::new(), Vec::new())
        }
    }
}

/// What a server may hand over with an answer that needs no descriptor.
fn stray(kind: u8) -> OwnedFd {
    match kind & 3 {
        0 => memory(0x4000),
        1 => memory(0),
        2 => std::fs::File::open("/dev/null").expect("null").into(),
        _ => eventfd(0, EventfdFlags::CLOEXEC).expect("an event"),
    }
}

/// Sends a command of the server's own, which the client refuses.
fn ask(wire: &Wire, input: &mut Input<'_>) {
    let (id, no_reply) = (input.half(), input.byte() & 1 != 0);
    let len = usize::from(input.half() & 0x3fff);
    let flags = u32::from(HeaderFlags::new().with_no_reply(no_reply)).into();
    let command = Command::DMA_READ.0.into();
    let header = Header { message_id: id.into(), command, flags, ..Header::default() };
    if wire.send(header, &vec![id as u8; len], &[]).is_err() || no_reply {
        return;
    }
    // A client that is gone does not answer.
    let Ok(Some(reply)) = wire.receive() else { return };
    assert_eq!(reply.header.message_id.get(), id);
    assert_eq!(reply.error(), Some(libc::EOPNOTSUPP));
}

/// One exchange; false once the client cannot know any more where a message begins.
fn exchange(wire: &Wire, message: &Message, model: &mut Model, input: &mut Input<'_>) -> bool {
    let act = input.byte();
    let (mut header, mut payload, mut fds) = honest(message, model);
    let mut in_step = true;
    match act & 15 {
        0..=5 => {}
        6 | 7 => {
            // As many bytes of the payload as the act says.
            for _ in 0..=act >> 5 {
                let (at, value) = (usize::from(input.byte()), input.byte());
                let at = at % payload.len().max(1);
                if let Some(byte) = payload.get_mut(at) {
                    *byte = if act & 16 == 0 { *byte ^ value } else { value };
                }
            }
        }
        8 => {
            let (at, value) = (usize::from(input.byte()), input.byte());
            header.message_size = ((size_of::<Header>() + payload.len()) as u32).into();
            let mut bytes = [header.as_bytes(), &payload].concat();
            bytes[at % size_of::<Header>()] ^= value;
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let _ = wire.send_bytes(&bytes, &borrowed);
            return false;
        }
        9 => {
            let count = usize::from(input.byte());
            let _ = wire.send_bytes(input.bytes(count), &[]);
            return false;
        }
        10 => {
            header.flags = u32::from(HeaderFlags::new().with_kind(1).with_error(true)).into();
            header.error = u32::from(input.half()).into();
        }
        11 => {
            // More than the client takes at once, or a few.
            let count = [1, 2, 16, 40][usize::from(act >> 4 & 3)];
            let kind = input.byte();
            let place = if act & 0x40 == 0 { fds.len() } else { 0 };
            fds.splice(place..place, (0..count).map(|_| stray(kind)));
            in_step = count < 40;
        }
        12 => drop(fds.pop()),
        13 => payload.truncate(usize::from(input.byte())),
        14 => {
            // Longer than it should be, and than what is allowed.
            let more = usize::from(input.half()) << (act >> 6);
            payload.resize(payload.len() + more, act);
            in_step = payload.len() <= 64 << 10;
        }
        _ if act >> 4 < 8 => ask(wire, input),
        _ => return false,
    }
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    wire.send(header, &payload, &fds).is_ok() && in_step
}

/// Serves one client as the input says.
fn server(wire: &Wire, bytes: &[u8], sharing: Sharing) {
    let mut input = Input(bytes);
    let mut model = Model::new(sharing);
    for round in 0.. {
        let Ok(Some(message)) = wire.receive() else { return };
        if round >= EXCHANGES {
            input = Input(&[]);
        }
        if !exchange(wire, &message, &mut model, &mut input) {
            break;
        }
    }
    // What the client still waits for does not come, and it learns that at once.
    let _ = wire.stream().shutdown(Shutdown::Write);
    while let Ok(Some(_)) = wire.receive() {}
}

/// Every call of a device, whatever comes of it.
fn calls(device: &VfioUser, address: &str) {
    let says = |error: DeviceError| {
        let text = error.to_string();
        assert!(text.contains(address), "no address in {text:?}");
    };
    let info = device.info();
    assert!(info.iova.page_size.is_power_of_two() && info.iova.page_size >= 4096, "{info:?}");
    assert!(info.iova.ranges.is_sorted_by(|one, next| one.end() < next.start()), "{info:?}");
    let vectors = info.vectors;
    device.read(0, Width::Qword).map_or_else(says, drop);
    device.read(0x1c, Width::Dword).map_or_else(says, |value| assert!(value <= u32::MAX.into()));
    device.write(0x14, Width::Dword, 0x46_0001).map_or_else(says, drop);
    device.write(0x28, Width::Qword, 0x1000).map_or_else(says, drop);
    for len in [0x1000, 0x2000, 0x8000] {
        match device.doorbells(len) {
            Ok(doorbells) => {
                assert!(doorbells.len >= len && doorbells.base.as_ptr().is_aligned());
                ring(&doorbells, 3, 1);
                ring(&doorbells, (len / 4 - 1) as usize, 1);
            }
            Err(error) => says(error),
        }
    }
    let file = memory(0x2000);
    map(device, 0x20_0000, 0x2000, Some((file.as_fd(), 0))).map_or_else(says, drop);
    device.unmap_dma(0x20_0000, 0x2000).map_or_else(says, drop);
    for vector in [0, vectors.saturating_sub(1), vectors] {
        let event = eventfd(0, EventfdFlags::CLOEXEC).expect("an event");
        let vector = Interrupt::Vector(vector);
        device.interrupt(vector, Some(event)).map_or_else(says, drop);
        device.interrupt(vector, None).map_or_else(says, drop);
    }
    device.reset().map_or_else(says, drop);
    device.read(0x08, Width::Dword).map_or_else(says, drop);
}

/// What must hold for any bytes.
///
/// # Panics
/// If something does not.
pub fn body(bytes: &[u8]) {
    let Listening { listener, path, .. } = listening();
    let before = descriptors();
    let started = Instant::now();
    let (mode, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let sharing = [Sharing::FilePerArea, Sharing::OneFile, Sharing::Whole, Sharing::Trapped];
    let sharing = sharing[usize::from(mode & 3)];
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (stream, _) = listener.accept().expect("a client");
            server(&Wire::new(stream), rest, sharing);
        });
        let address = format!("vfio-user:{}", path.display());
        match VfioUser::open(path, DEADLINE) {
            Ok(device) => calls(&device, &address),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(&address), "no address in {text:?}");
            }
        }
        server.join().expect("the server");
    });
    assert!(started.elapsed() < DEADLINE, "waited for a deadline: {:?}", started.elapsed());
    assert_eq!(descriptors(), before, "descriptors behind the client");
}
