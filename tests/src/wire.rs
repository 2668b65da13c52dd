//! vfio-user spoken by hand: both ends of a connection, message by message, for scripted peers that misbehave.
//!
//! [`Wire`] frames messages and does nothing else; [`Model`] answers as an honest server would, so that a script only
//! says where it differs. Every read has a timeout, so that a test fails rather than hangs.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell_spec::vfio_user::{
    CapabilityHeader, Command, DeviceInfo, Header, HeaderFlags, IrqInfo, RegionAccess, RegionInfo,
    SparseArea, SparseMmap, Version, region,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};

/// How long a peer in a test waits for the other side.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One message, as received.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// What follows.
    pub payload: Vec<u8>,
    /// File descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The command that it is, or answers.
    pub fn command(&self) -> Command {
        Command(self.header.command.get())
    }

    /// The error number of a reply; `None` where it has no error flag.
    pub fn error(&self) -> Option<i32> {
        let flags = HeaderFlags::from(self.header.flags.get());
        flags.error().then_some(self.header.error.get() as i32)
    }

    /// The structure that the payload begins with.
    ///
    /// # Panics
    /// If the payload is shorter.
    pub fn read<T: FromBytes>(&self) -> T {
        match T::read_from_prefix(&self.payload) {
            Ok((value, _)) => value,
            Err(_) => panic!("a payload of {} bytes is too short", self.payload.len()),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    next_id: u16,
}

impl Wire {
    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream, next_id: 0 }
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::new)
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent =
            sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        (&self.stream).write_all(&bytes[sent..])
    }

    /// Sends a message with this header; its size is filled in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(
        &self,
        mut header: Header,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        header.message_size = ((size_of::<Header>() + payload.len()) as u32).into();
        self.send_bytes(&[header.as_bytes(), payload].concat(), fds)
    }

    /// Receives one message; `None` at the end of the stream.
    ///
    /// # Errors
    /// What the kernel says; nothing within [`PATIENCE`] is an error.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0; size_of::<Header>()];
        let mut fds = Vec::new();
        let mut have = 0;
        while have < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut piece = [IoSliceMut::new(&mut bytes[have..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            // A timeout on the socket makes signals end the call.
            let received = match recvmsg(&self.stream, &mut piece, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => continue,
                received => received?.bytes,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if received == 0 {
                return if have == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            have += received;
        }
        let header = Header::read_from_bytes(&bytes).expect("exact size");
        let len = (header.message_size.get() as usize).saturating_sub(size_of::<Header>());
        let mut payload = vec![0; len];
        (&self.stream).read_exact(&mut payload)?;
        Ok(Some(Message { header, payload, fds }))
    }

    /// Sends a command and waits for the reply, as a client does.
    ///
    /// # Errors
    /// What the kernel says, and an end of the stream.
    pub fn call(
        &mut self,
        command: Command,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Message> {
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header {
            message_id: self.next_id.into(),
            command: command.0.into(),
            ..Header::default()
        };
        self.send(header, payload, fds)?;
        let reply = self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        assert_eq!(reply.header.message_id, header.message_id, "reply to another message");
        assert_eq!(HeaderFlags::from(reply.header.flags.get()).kind(), HeaderFlags::REPLY);
        Ok(reply)
    }

    /// Answers `message`, as a server does.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reply(&self, message: &Message, answer: Answer) -> io::Result<()> {
        let mut header = message.header;
        let flags = HeaderFlags::new().with_kind(HeaderFlags::REPLY);
        match answer {
            Answer::Reply(payload, fds) => {
                header.flags = u32::from(flags).into();
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                self.send(header, &payload, &fds)
            }
            Answer::Error(errno) => {
                header.flags = u32::from(flags.with_error(true)).into();
                header.error = (errno as u32).into();
                self.send(header, &[], &[])
            }
        }
    }
}

/// What a server answers.
#[derive(Debug)]
pub enum Answer {
    /// Done: payload and file descriptors.
    Reply(Vec<u8>, Vec<OwnedFd>),
    /// Refused, for this reason.
    Error(i32),
}

/// How a server hands out the doorbells in BAR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Not at all.
    Trapped,
    /// A file, and no sparse areas.
    Whole,
    /// One file for two sparse areas.
    OneFile,
    /// One file per sparse area.
    FilePerArea,
}

/// An honest server of a device without a function: registers are plain memory.
#[derive(Debug)]
pub struct Model {
    /// Text after the version; `None` sends none.
    pub capabilities: Option<String>,
    /// How the doorbells can be reached.
    pub sharing: Sharing,
    /// Registers, below 1000h of BAR0.
    pub registers: Vec<u8>,
    /// Configuration space.
    pub config: Vec<u8>,
    /// The file behind BAR0, doorbells at 1000h of it.
    pub doorbells: std::fs::File,
    /// Commands seen, in order.
    pub seen: Vec<Command>,
}

impl Model {
    /// A device of vendor 1234h.
    ///
    /// # Panics
    /// If the system has no memory files.
    pub fn new(sharing: Sharing) -> Self {
        let doorbells =
            rustix::fs::memfd_create("bar0", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        let doorbells = std::fs::File::from(doorbells);
        doorbells.set_len(0x4000).expect("length");
        let mut config = vec![0; 256];
        config[..4].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
        config[0x2c..0x30].copy_from_slice(&[0xcd, 0xab, 0x01, 0xef]);
        Self {
            capabilities: Some("{\"capabilities\":{\"max_msg_fds\":8}}".into()),
            sharing,
            registers: vec![0; 0x1000],
            config,
            doorbells,
            seen: Vec::new(),
        }
    }

    /// The answer of an honest server.
    ///
    /// # Panics
    /// If a message is too short for its command.
    pub fn answer(&mut self, message: &Message) -> Answer {
        self.seen.push(message.command());
        let done = |bytes: &[u8]| Answer::Reply(bytes.to_vec(), Vec::new());
        match message.command() {
            Command::VERSION => {
                let version = Version { major: 0.into(), minor: 1.into() };
                let mut payload = version.as_bytes().to_vec();
                if let Some(text) = &self.capabilities {
                    payload.extend_from_slice(text.as_bytes());
                    payload.push(0);
                }
                Answer::Reply(payload, Vec::new())
            }
            Command::DEVICE_GET_INFO => done(
                DeviceInfo {
                    argsz: 16.into(),
                    flags: (DeviceInfo::PCI | DeviceInfo::RESET).into(),
                    regions: region::COUNT.into(),
                    irqs: 5.into(),
                }
                .as_bytes(),
            ),
            Command::DEVICE_GET_REGION_INFO => self.region(&message.read()),
            Command::DEVICE_GET_IRQ_INFO => {
                let mut info: IrqInfo = message.read();
                info.flags = IrqInfo::EVENTFD.into();
                info.count = 4.into();
                done(info.as_bytes())
            }
            Command::REGION_READ | Command::REGION_WRITE => self.access(message),
            Command::DMA_UNMAP => done(&message.payload),
            Command::DMA_MAP | Command::DEVICE_SET_IRQS | Command::DEVICE_RESET => done(&[]),
            _ => Answer::Error(libc::EINVAL),
        }
    }

    fn region(&self, ask: &RegionInfo) -> Answer {
        let mut info = RegionInfo {
            argsz: 32.into(),
            flags: (RegionInfo::READ | RegionInfo::WRITE).into(),
            index: ask.index,
            ..RegionInfo::default()
        };
        if ask.index.get() == region::CONFIG {
            info.size = 256.into();
        }
        if ask.index.get() != region::BAR0 {
            return Answer::Reply(info.as_bytes().to_vec(), Vec::new());
        }
        info.size = 0x4000.into();
        let file = || OwnedFd::from(self.doorbells.try_clone().expect("clone"));
        let mut fds = Vec::new();
        let mut tail = Vec::new();
        if self.sharing != Sharing::Trapped {
            info.flags.set(info.flags.get() | RegionInfo::MMAP);
            fds.push(file());
        }
        if matches!(self.sharing, Sharing::OneFile | Sharing::FilePerArea) {
            info.flags.set(info.flags.get() | RegionInfo::CAPS);
            info.cap_offset = 32.into();
            let header = CapabilityHeader {
                id: CapabilityHeader::SPARSE_MMAP.into(),
                version: 1.into(),
                next: 0.into(),
            };
            let areas = [(0x1000_u64, 0x1000_u64), (0x3000, 0x1000)];
            let sparse = SparseMmap { nr_areas: 2.into(), ..SparseMmap::default() };
            tail = [header.as_bytes(), sparse.as_bytes()].concat();
            for (offset, size) in areas {
                let area = SparseArea { offset: offset.into(), size: size.into() };
                tail.extend_from_slice(area.as_bytes());
            }
            if self.sharing == Sharing::FilePerArea {
                fds.push(file());
            }
        }
        let full = 32 + tail.len() as u32;
        info.argsz = full.into();
        if ask.argsz.get() < full {
            return Answer::Reply(info.as_bytes().to_vec(), Vec::new());
        }
        Answer::Reply([info.as_bytes(), &tail].concat(), fds)
    }

    fn access(&mut self, message: &Message) -> Answer {
        let access: RegionAccess = message.read();
        let memory = match access.region.get() {
            region::BAR0 => &mut self.registers,
            region::CONFIG => &mut self.config,
            _ => return Answer::Error(libc::EINVAL),
        };
        let start = access.offset.get() as usize;
        let Some(bytes) = memory.get_mut(start..start + access.count.get() as usize) else {
            return Answer::Error(libc::EINVAL);
        };
        let mut payload = access.as_bytes().to_vec();
        if message.command() == Command::REGION_READ {
            payload.extend_from_slice(bytes);
        } else {
            bytes.copy_from_slice(&message.payload[size_of::<RegionAccess>()..]);
        }
        Answer::Reply(payload, Vec::new())
    }
}

/// A directory of its own for a test, removed at the end.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new, empty one, in the system's place for temporary files.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("doorbell-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary directory");
        Self(path)
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves one client at `path` with `script` on a thread, which ends when the script returns.
///
/// # Panics
/// If the socket cannot be made.
pub fn script<T: Send + 'static>(
    path: &Path,
    script: impl FnOnce(Wire) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = UnixListener::bind(path).expect("bind");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        script(Wire::new(stream))
    })
}

/// Answers honestly until the client leaves.
pub fn honest(wire: &Wire, model: &mut Model) {
    while let Ok(Some(message)) = wire.receive() {
        let answer = model.answer(&message);
        if wire.reply(&message, answer).is_err() {
            return;
        }
    }
}
