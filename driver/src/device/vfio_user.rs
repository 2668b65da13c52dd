//! A PCIe function that another process serves over a Unix socket, by the vfio-user protocol.
//!
//! Registers and configuration space are messages, one exchange each; doorbells are shared memory, mapped once and
//! never a message; DMA memory is handed over by its file descriptor. Written against the protocol and not against one
//! server: libvfio-user's (SPDK, QEMU), rust-vmm's and our own differ in what they add, leave out or refuse.
//!
//! Owns the connection, behind a lock, since nothing here is on the I/O path. Every exchange has the deadline given to
//! [`VfioUser::open`]. Interrupts are set one a message, since one file descriptor is all that the protocol lets a
//! client take for granted.
//!
//! A server that dies leaves the memory behind the doorbells to whoever has it mapped. One that lives could shorten that
//! file, after which a doorbell write would raise SIGBUS: the file is sealed against that where it lets itself be
//! sealed, and then its length is checked. Servers that use a file of a file system instead of a memfd are trusted not
//! to shorten it, as they are trusted with the client's memory.

mod connection;
mod region;
mod socket;

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use doorbell_spec::pci::{self, offset as config};
use doorbell_spec::register::offset::DOORBELLS;
use doorbell_spec::vfio_user::{
    Command, DeviceInfo as WireDeviceInfo, DmaMap, DmaUnmap, IrqInfo, IrqSet, RegionAccess,
    RegionInfo, SOCKET_NAME, irq, region as index,
};
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{FromBytes, IntoBytes};

use self::connection::{Connection, MAX_REPLY, Request};
use self::region::Region;
use super::{
    Device, DeviceError, DeviceInfo, DmaRange, Doorbells, Interrupt, IovaLimits, PciId, Properties,
    Width,
};

/// Smallest page of DMA memory, whatever a server says.
const PAGE: u64 = 4096;
/// First I/O address that is used: 0 is left alone, since to many it means that there is none.
const IOVA_FIRST: u64 = 2 << 20;
/// Last one: servers keep I/O addresses in pointers, so half of the address space of a process is safe.
const IOVA_LAST: u64 = (1 << 47) - 1;
/// Time that dropping may take for turning bus mastering off.
const FAREWELL: Duration = Duration::from_secs(1);

/// A device on the other end of a vfio-user connection.
pub struct VfioUser {
    connection: Mutex<Connection>,
    info: DeviceInfo,
    bar0: Region,
}

impl VfioUser {
    /// Connects to the server whose socket is `path`, or lies in the directory `path` under the name `cntrl`.
    /// Every exchange, now and later, has `deadline`.
    ///
    /// # Errors
    /// [`DeviceError`]: no server, one that has a client already, does not answer, or serves something that cannot be
    /// driven.
    pub fn open(path: &Path, deadline: Duration) -> Result<Self, DeviceError> {
        let address = format!("vfio-user:{}", path.display());
        let socket = if path.is_dir() { path.join(SOCKET_NAME) } else { path.to_path_buf() };
        let mut connection = Connection::open(&socket, &address, deadline)?;

        let device = device_info(&mut connection)?;
        if device.flags.get() & WireDeviceInfo::PCI == 0 || device.regions.get() <= index::CONFIG {
            return Err(connection.unusable("the server serves no PCI function", ""));
        }
        let bar0 = region_info(&mut connection, index::BAR0)?;
        // Asked now rather than at the first queue: nothing works without.
        bar0.file(DOORBELLS, PAGE).map_err(|reason| no_doorbells(&connection, &reason))?;
        let vectors = match device.irqs.get() {
            0..=irq::MSIX => 0,
            _ => irq_count(&mut connection, irq::MSIX)?,
        };
        let pci = pci_id(&mut connection)?;
        let server = connection.server();
        let info = DeviceInfo {
            address,
            pci,
            numa_node: None,
            iova: IovaLimits {
                ranges: vec![IOVA_FIRST..=IOVA_LAST],
                page_size: (1_u64 << (server.pgsizes.trailing_zeros() % 64)).max(PAGE),
                max_mappings: Some(server.max_dma_maps),
            },
            bar_len: bar0.size,
            vectors,
            resettable: device.flags.get() & WireDeviceInfo::RESET != 0,
            needs_descriptor: true,
            traps: false,
        };
        enable(&mut connection, true)?;
        Ok(Self { connection: Mutex::new(connection), info, bar0 })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for VfioUser {
    fn drop(&mut self) {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        connection.hurry(FAREWELL);
        // A server that does not answer any more finds the connection closed, which ends DMA as well.
        let _ = enable(connection, false);
    }
}

impl std::fmt::Debug for VfioUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioUser").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Properties for VfioUser {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let mut connection = self.connection();
        match width {
            Width::Dword => read_region(&mut connection, index::BAR0, offset)
                .map(u32::from_le_bytes)
                .map(u64::from),
            Width::Qword => {
                read_region(&mut connection, index::BAR0, offset).map(u64::from_le_bytes)
            }
        }
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let mut connection = self.connection();
        match width {
            Width::Dword => {
                write_region(&mut connection, index::BAR0, offset, &(value as u32).to_le_bytes())
            }
            Width::Qword => {
                write_region(&mut connection, index::BAR0, offset, &value.to_le_bytes())
            }
        }
    }
}

impl Device for VfioUser {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError> {
        let unusable = |reason: &str| no_doorbells(&self.connection(), reason);
        let (file, offset) = self.bar0.file(DOORBELLS, len).map_err(|reason| unusable(&reason))?;
        let size = usize::try_from(len).map_err(|error| unusable(&error.to_string()))?;
        let mapping = MmapOptions::new()
            .offset(offset)
            .len(size)
            .map_raw(file)
            .map_err(|error| unusable(&error.to_string()))?;
        let Some(base) = NonNull::new(mapping.as_mut_ptr().cast::<u32>()) else {
            return Err(unusable("the kernel mapped it at address 0"));
        };
        let owner: Arc<MmapRaw> = Arc::new(mapping);
        Ok(Doorbells { base, len, owner })
    }

    #[expect(unsafe_code, reason = "implements a method whose caller keeps the promise")]
    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        let DmaRange { len, iova, file, .. } = range;
        let mut connection = self.connection();
        let what = format!("mapping {len} bytes of memory at {iova:x}h");
        let Some((file, offset)) = file else {
            return Err(connection.unusable(
                format!("{what}: there is no file behind the memory to hand over"),
                "; use memory that the driver allocates, or that a memfd is behind",
            ));
        };
        let map = DmaMap {
            argsz: (size_of::<DmaMap>() as u32).into(),
            flags: (DmaMap::READ | DmaMap::WRITE).into(),
            offset: offset.into(),
            address: iova.into(),
            size: len.into(),
        };
        exchange(&mut connection, Command::DMA_MAP, map.as_bytes(), &[file], &what).map(drop)
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        let unmap = DmaUnmap {
            argsz: (size_of::<DmaUnmap>() as u32).into(),
            flags: 0.into(),
            address: iova.into(),
            size: len.into(),
        };
        let what = format!("taking back {len} bytes of memory at {iova:x}h");
        let mut connection = self.connection();
        exchange(&mut connection, Command::DMA_UNMAP, unmap.as_bytes(), &[], &what).map(drop)
    }

    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        let mut connection = self.connection();
        let Interrupt::Vector(vector) = interrupt else {
            return Err(
                connection.unusable(format!("{interrupt:?}: the device signals vectors only"), "")
            );
        };
        if vector >= self.info.vectors {
            return Err(connection.unusable(
                format!("vector {vector}: the device has {} vectors", self.info.vectors),
                "",
            ));
        }
        let set = IrqSet {
            argsz: (size_of::<IrqSet>() as u32).into(),
            flags: (IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER).into(),
            index: irq::MSIX.into(),
            start: u32::from(vector).into(),
            count: 1.into(),
        };
        // Without a descriptor the vector is disconnected.
        let fds: Vec<BorrowedFd<'_>> = eventfd.iter().map(AsFd::as_fd).collect();
        let what = format!("setting interrupt vector {vector}");
        exchange(&mut connection, Command::DEVICE_SET_IRQS, set.as_bytes(), &fds, &what).map(drop)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let mut connection = self.connection();
        if !self.info.resettable {
            return Err(connection.unusable("the server does not let the device be reset", ""));
        }
        exchange(&mut connection, Command::DEVICE_RESET, &[], &[], "resetting the device")?;
        // A reset may have cleared the command register with everything else.
        enable(&mut connection, true)
    }
}

fn exchange(
    connection: &mut Connection,
    command: Command,
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
    what: &str,
) -> Result<connection::Reply, DeviceError> {
    connection.exchange(&Request { command, payload, fds, what })
}

fn device_info(connection: &mut Connection) -> Result<WireDeviceInfo, DeviceError> {
    let ask =
        WireDeviceInfo { argsz: (size_of::<WireDeviceInfo>() as u32).into(), ..Default::default() };
    let what = "asking what is served";
    let reply = exchange(connection, Command::DEVICE_GET_INFO, ask.as_bytes(), &[], what)?;
    reply.read().ok_or_else(|| too_short(connection, what))
}

fn region_info(connection: &mut Connection, number: u32) -> Result<Region, DeviceError> {
    let what = format!("asking for region {number}");
    let fixed = size_of::<RegionInfo>();
    // Room for the capabilities of any region seen so far; a server with more says so, and is asked again.
    let mut room = PAGE as usize;
    for _ in 0..2 {
        let ask = RegionInfo {
            argsz: (room as u32).into(),
            index: number.into(),
            ..RegionInfo::default()
        };
        let command = Command::DEVICE_GET_REGION_INFO;
        let reply = exchange(connection, command, ask.as_bytes(), &[], &what)?;
        let Some(info) = reply.read::<RegionInfo>() else {
            return Err(too_short(connection, &what));
        };
        let needed = info.argsz.get() as usize;
        if needed > room && reply.payload.len() <= fixed {
            room = needed.min(MAX_REPLY);
            continue;
        }
        return Region::parse(&reply.payload, reply.fds)
            .map_err(|reason| connection.unusable(format!("{what}: {reason}"), ""));
    }
    Err(connection.unusable(format!("{what}: the server's answer keeps growing"), ""))
}

fn irq_count(connection: &mut Connection, number: u32) -> Result<u16, DeviceError> {
    let ask = IrqInfo {
        argsz: (size_of::<IrqInfo>() as u32).into(),
        index: number.into(),
        ..IrqInfo::default()
    };
    let what = "asking for interrupt vectors";
    let command = Command::DEVICE_GET_IRQ_INFO;
    let reply = exchange(connection, command, ask.as_bytes(), &[], what)?;
    let info: IrqInfo = reply.read().ok_or_else(|| too_short(connection, what))?;
    let eventfds = info.flags.get() & IrqInfo::EVENTFD != 0;
    let count = if eventfds { info.count.get() } else { 0 };
    Ok(u16::try_from(count).unwrap_or(u16::MAX))
}

fn pci_id(connection: &mut Connection) -> Result<PciId, DeviceError> {
    let mut word = |offset| read_region(connection, index::CONFIG, offset).map(u16::from_le_bytes);
    Ok(PciId {
        vendor: word(config::VENDOR)?,
        device: word(config::DEVICE)?,
        revision: word(config::REVISION)? as u8,
        subsystem_vendor: word(config::SUBSYSTEM_VENDOR)?,
        subsystem: word(config::SUBSYSTEM)?,
    })
}

/// Memory decoding and bus mastering; the pin is never used.
fn enable(connection: &mut Connection, on: bool) -> Result<(), DeviceError> {
    let old = read_region(connection, index::CONFIG, config::COMMAND).map(u16::from_le_bytes)?;
    let new = pci::Command::from(old).with_memory(on).with_bus_master(on).with_intx_disable(true);
    write_region(connection, index::CONFIG, config::COMMAND, &u16::from(new).to_le_bytes())
}

fn read_region<const N: usize>(
    connection: &mut Connection,
    region: u32,
    offset: u64,
) -> Result<[u8; N], DeviceError> {
    let what = describe("reading", N, region, offset);
    let access =
        RegionAccess { offset: offset.into(), region: region.into(), count: (N as u32).into() };
    let reply = exchange(connection, Command::REGION_READ, access.as_bytes(), &[], &what)?;
    let data = reply.payload.get(size_of::<RegionAccess>()..).unwrap_or_default();
    match <[u8; N]>::read_from_bytes(data) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(connection
            .unusable(format!("{what}: the server's answer holds {} bytes", data.len()), "")),
    }
}

fn write_region(
    connection: &mut Connection,
    region: u32,
    offset: u64,
    data: &[u8],
) -> Result<(), DeviceError> {
    let what = describe("writing", data.len(), region, offset);
    let access = RegionAccess {
        offset: offset.into(),
        region: region.into(),
        count: (data.len() as u32).into(),
    };
    let payload = [access.as_bytes(), data].concat();
    let reply = exchange(connection, Command::REGION_WRITE, &payload, &[], &what)?;
    match reply.read::<RegionAccess>() {
        Some(done) if done.count.get() as usize == data.len() => Ok(()),
        _ => Err(connection.unusable(format!("{what}: the server took only a part"), "")),
    }
}

fn describe(verb: &str, len: usize, region: u32, offset: u64) -> String {
    let mut what = format!("{verb} {len} bytes at {offset:x}h of ");
    let _ = match region {
        index::CONFIG => write!(what, "configuration space"),
        number => write!(what, "BAR{number}"),
    };
    what
}

fn too_short(connection: &Connection, what: &str) -> DeviceError {
    connection.unusable(format!("{what}: the server's answer is too short"), "")
}

fn no_doorbells(connection: &Connection, reason: &str) -> DeviceError {
    connection.unusable(
        format!("the doorbells in BAR0 cannot be mapped: {reason}"),
        "; start the server so that BAR0 from 1000h can be mapped (SPDK: without -M, \
         disable_mappable_bar0)",
    )
}
