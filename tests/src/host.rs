//! A small NVMe host of its own over vfio-user, shaped after SPDK's: it shares no code with the driver.
//!
//! Memory and doorbells are files that the server maps; this side uses them by file reads and writes at offsets, so
//! that it holds no pointer at all. Message identifiers are always 0, VERSION carries no capabilities, and the request
//! for a region is padded far beyond its structure.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use doorbell_spec::command::Sqe;
use doorbell_spec::completion::Cqe;
use doorbell_spec::pci;
use doorbell_spec::register::{Aqa, Cc, Csts, offset};
use doorbell_spec::vfio_user::{
    Command, DmaMap, Header, HeaderFlags, RegionAccess, RegionInfo, SparseArea, region,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::function;
use crate::wire::{Message, PATIENCE, Wire};

/// I/O address of the host's memory.
pub const IOVA: u64 = 0x2_0000_0000;
/// Bytes of it.
pub const LEN: u64 = 4 << 20;
/// Entries of each queue.
const ENTRIES: u16 = 64;
/// Offsets in the memory: queue `n` has its submissions at `n * 2` pages, its completions one page behind.
const PAGE: u64 = 4096;
/// Where data may lie: behind the queues.
pub const DATA: u64 = 1 << 20;

/// A connected host.
#[derive(Debug)]
pub struct Host {
    /// The connection.
    pub wire: Wire,
    /// Memory that is shared with the controller.
    pub memory: File,
    doorbells: File,
    queues: Vec<Queue>,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    tail: u16,
    head: u16,
    phase: bool,
}

impl Host {
    /// Connects, and does what SPDK's host does before it touches a register.
    ///
    /// # Errors
    /// What the kernel says; a refusal of the server is an error of its number.
    ///
    /// # Panics
    /// If the server's doorbells are not as that host needs them.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let wire = Wire::connect(path)?;
        call(&wire, Command::VERSION, &[0, 0, 1, 0], None)?;

        let ask =
            RegionInfo { argsz: 4064.into(), index: region::BAR0.into(), ..RegionInfo::default() };
        let mut padded = ask.as_bytes().to_vec();
        padded.resize(4064, 0);
        let mut reply = call(&wire, Command::DEVICE_GET_REGION_INFO, &padded, None)?;
        let info: RegionInfo = reply.read();
        assert_eq!(info.flags.get() & 0xf, 0xf, "read, write, mmap, capabilities");
        assert!(info.size.get() >= 0x4000 && info.size.get().is_power_of_two());
        let areas = reply.payload.get(48..).expect("areas");
        assert_eq!(areas.len(), size_of::<SparseArea>(), "one area");
        let area = SparseArea::read_from_bytes(areas).expect("exact");
        assert_eq!((area.offset.get(), area.size.get()), (0x1000, 0x1000));
        assert_eq!(reply.fds.len(), 1, "one file per area");
        let doorbells = File::from(reply.fds.remove(0));
        assert!(doorbells.metadata()?.len() >= info.offset.get() + 0x2000);

        let host = Self {
            wire,
            memory: File::from(function::memory(LEN)),
            doorbells,
            queues: vec![Queue { tail: 0, head: 0, phase: true }],
        };
        let mut command = [0; 2];
        host.read(region::CONFIG, pci::offset::COMMAND, &mut command)?;
        let command = pci::Command::from(u16::from_le_bytes(command))
            .with_memory(true)
            .with_bus_master(true)
            .with_intx_disable(true);
        host.write(region::CONFIG, pci::offset::COMMAND, &u16::from(command).to_le_bytes())?;
        host.map(IOVA, LEN, 0)?;
        Ok(host)
    }

    /// Maps part of the host's memory.
    ///
    /// # Errors
    /// As [`Host::connect`].
    pub fn map(&self, address: u64, size: u64, offset: u64) -> io::Result<()> {
        let map = DmaMap {
            argsz: 32.into(),
            flags: (DmaMap::READ | DmaMap::WRITE).into(),
            offset: offset.into(),
            address: address.into(),
            size: size.into(),
        };
        call(&self.wire, Command::DMA_MAP, map.as_bytes(), Some(&self.memory)).map(drop)
    }

    /// Reads from a region.
    ///
    /// # Errors
    /// As [`Host::connect`].
    pub fn read(&self, region: u32, at: u64, data: &mut [u8]) -> io::Result<()> {
        let access = RegionAccess {
            offset: at.into(),
            region: region.into(),
            count: (data.len() as u32).into(),
        };
        let reply = call(&self.wire, Command::REGION_READ, access.as_bytes(), None)?;
        data.copy_from_slice(&reply.payload[size_of::<RegionAccess>()..]);
        Ok(())
    }

    /// Writes to a region.
    ///
    /// # Errors
    /// As [`Host::connect`].
    pub fn write(&self, region: u32, at: u64, data: &[u8]) -> io::Result<()> {
        let access = RegionAccess {
            offset: at.into(),
            region: region.into(),
            count: (data.len() as u32).into(),
        };
        let payload = [access.as_bytes(), data].concat();
        call(&self.wire, Command::REGION_WRITE, &payload, None).map(drop)
    }

    /// Reads a 4-byte register.
    ///
    /// # Errors
    /// As [`Host::connect`].
    pub fn register(&self, at: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read(region::BAR0, at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Enables the controller with its admin queues.
    ///
    /// # Errors
    /// As [`Host::connect`].
    ///
    /// # Panics
    /// If the controller does not become ready.
    pub fn enable(&mut self) -> io::Result<()> {
        self.memory.write_all_at(&vec![0; DATA as usize], 0)?;
        self.queues = vec![Queue { tail: 0, head: 0, phase: true }];
        let aqa = Aqa::new().with_asqs_z(ENTRIES - 1).with_acqs_z(ENTRIES - 1);
        self.write(region::BAR0, offset::AQA, &aqa.into_bits().to_le_bytes())?;
        self.write(region::BAR0, offset::ASQ, &IOVA.to_le_bytes())?;
        self.write(region::BAR0, offset::ACQ, &(IOVA + PAGE).to_le_bytes())?;
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
        self.write(region::BAR0, offset::CC, &cc.into_bits().to_le_bytes())?;
        let started = Instant::now();
        while !Csts::from_bits(self.register(offset::CSTS)?).rdy() {
            assert!(started.elapsed() < PATIENCE, "not ready");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Creates one pair of I/O queues, number 1.
    ///
    /// # Errors
    /// As [`Host::connect`].
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn create_queue(&mut self) -> io::Result<()> {
        use doorbell_spec::admin;
        let cq = admin::create_io_cq(1, ENTRIES - 1, Some(0)).with_prp(IOVA + 3 * PAGE, 0);
        assert!(self.admin(cq)?.status().is_success());
        let sq = admin::create_io_sq(1, ENTRIES - 1, 1, 0).with_prp(IOVA + 2 * PAGE, 0);
        assert!(self.admin(sq)?.status().is_success());
        self.queues.push(Queue { tail: 0, head: 0, phase: true });
        Ok(())
    }

    /// Carries out an admin command.
    ///
    /// # Errors
    /// As [`Host::connect`]; an answer that does not come is [`io::ErrorKind::TimedOut`].
    pub fn admin(&mut self, sqe: Sqe) -> io::Result<Cqe> {
        self.run(0, sqe)
    }

    /// Carries out an I/O command.
    ///
    /// # Errors
    /// As [`Host::admin`].
    pub fn io(&mut self, sqe: Sqe) -> io::Result<Cqe> {
        self.run(1, sqe)
    }

    fn run(&mut self, id: usize, sqe: Sqe) -> io::Result<Cqe> {
        let queue = &mut self.queues[id];
        let base = id as u64 * 2 * PAGE;
        let cid = queue.tail;
        let words = sqe.with_cid(cid).to_words();
        self.memory.write_all_at(words.as_bytes(), base + u64::from(queue.tail) * 64)?;
        queue.tail = (queue.tail + 1) % ENTRIES;
        let doorbell = offset::DOORBELLS + 8 * id as u64;
        self.doorbells.write_all_at(&u32::from(queue.tail).to_le_bytes(), doorbell)?;

        let at = base + PAGE + u64::from(queue.head) * 16;
        let started = Instant::now();
        let mut bytes = [0; 16];
        let cqe = loop {
            self.memory.read_exact_at(&mut bytes, at)?;
            let words: [u64; 2] = zerocopy::transmute!(bytes);
            let cqe = Cqe::from_words(words);
            if cqe.phase() == queue.phase {
                break cqe;
            }
            if started.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::yield_now();
        };
        assert_eq!(cqe.cid, cid, "completion of another command");
        queue.head = (queue.head + 1) % ENTRIES;
        queue.phase ^= queue.head == 0;
        self.doorbells.write_all_at(&u32::from(queue.head).to_le_bytes(), doorbell + 4)?;
        Ok(cqe)
    }
}

/// One exchange, with identifier 0.
fn call(wire: &Wire, command: Command, payload: &[u8], file: Option<&File>) -> io::Result<Message> {
    let header = Header { command: command.0.into(), ..Header::default() };
    let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    wire.send(header, payload, &fds)?;
    let reply = wire.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    assert_eq!(reply.header.message_id.get(), 0);
    assert_eq!(HeaderFlags::from(reply.header.flags.get()).kind(), HeaderFlags::REPLY);
    match reply.error() {
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Ok(reply),
    }
}
