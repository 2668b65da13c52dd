//! The PCI function behind a connection: what each command of the protocol does to the controller.
//!
//! Owns the controller, configuration space, the MSI-X table and the client's memory maps. Every number in a request is
//! the client's and is checked before use; a refusal is an error number and changes nothing.
//!
//! BAR0 holds registers (0), doorbells (1000h, a file of their own that clients map), and behind those the MSI-X table
//! and its pending bits:
//!
//! ```text
//! 0000h registers    1000h doorbells    +len MSI-X table    +16 a vector, whole pages: pending bits
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use doorbell_spec::pci::msix;
use doorbell_spec::register::offset::DOORBELLS;
use doorbell_spec::vfio_user::{
    Capabilities, CapabilityHeader, Command, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, IrqSet,
    RegionAccess, RegionInfo, SparseArea, SparseMmap, Version, irq, region,
};
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::config::{Config, Identity};
use super::connection::{Answer, MAX_FDS, Request};
use super::sys::{Access, Mapping, map_into};
use crate::controller::Controller;
use crate::memory::MapError;

const PAGE: u64 = 4096;
/// Data of one access, as announced in VERSION: configuration space is the longest thing there is to read.
const MAX_DATA: u32 = 4096;
/// Ranges of memory of one client, as announced in VERSION. The kernel gives a process about 65,000 mappings.
const MAX_MAPS: u32 = 8192;

/// A controller as a PCI function.
pub(super) struct Function {
    controller: Controller,
    identity: Identity,
    config: Config,
    /// The bit of the command register, looked at in every round.
    bus_master: bool,
    /// The MSI-X table. Clients keep their own (interrupts are event file descriptors); this one reads back.
    table: Vec<u8>,
    /// The client's memory: length by I/O address.
    maps: BTreeMap<u64, u64>,
}

impl Function {
    pub(super) fn new(controller: Controller) -> Self {
        let settings = controller.config();
        let vectors = settings.vectors.clamp(1, msix::MAX_VECTORS);
        let table_len = (u64::from(vectors) * msix::ENTRY_LEN).next_multiple_of(PAGE);
        let msix_table = DOORBELLS + controller.doorbells().len() as u64;
        let msix_pending = msix_table + table_len;
        let identity = Identity {
            vendor: settings.vid,
            device: settings.did,
            vectors,
            bar0_len: (msix_pending + PAGE).next_power_of_two(),
            msix_table,
            msix_pending,
        };
        Self {
            controller,
            identity,
            config: Config::new(&identity),
            bus_master: false,
            table: vec![0; table_len as usize],
            maps: BTreeMap::new(),
        }
    }

    /// One round of the controller; the commands that it took. A function that is no bus master reaches no memory, so
    /// it has nothing to do.
    #[inline]
    pub(super) fn poll(&mut self, now: Duration) -> usize {
        if self.bus_master { self.controller.poll(now) } else { 0 }
    }

    /// Whether a command may come without a message, by a doorbell.
    pub(super) fn is_listening(&self) -> bool {
        self.bus_master && self.controller.is_running()
    }

    /// Takes everything back that a client has set up. Namespaces keep their contents.
    pub(super) fn detach(&mut self) {
        self.reset_function();
        self.controller.unmap_all();
        self.maps.clear();
        self.disconnect(0, self.identity.vectors);
    }

    /// The controller and configuration space as after power-on.
    fn reset_function(&mut self) {
        self.reset();
        self.config = Config::new(&self.identity);
        self.bus_master = false;
    }

    /// Puts the controller in its first state; memory and interrupts stay the client's business.
    fn reset(&mut self) {
        self.controller.reset();
        self.table.fill(0);
    }

    /// Does what a request says.
    pub(super) fn handle(&mut self, request: &mut Request) -> Answer {
        if request.oversized {
            return Err(Errno::TOOBIG);
        }
        match request.command() {
            Command::DEVICE_GET_INFO => device_info(request),
            Command::DEVICE_GET_REGION_INFO => self.region_info(request),
            Command::DEVICE_GET_IRQ_INFO => self.irq_info(request),
            Command::DEVICE_SET_IRQS => self.set_irqs(request),
            Command::REGION_READ => self.read(request),
            Command::REGION_WRITE => self.write(request),
            Command::DMA_MAP => self.map(request),
            Command::DMA_UNMAP => self.unmap(request),
            Command::DEVICE_RESET => {
                self.reset();
                Ok(Default::default())
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn region_info(&self, request: &Request) -> Answer {
        let ask: RegionInfo = request.read()?;
        let fixed = size_of::<RegionInfo>() as u32;
        if ask.argsz.get() < fixed || ask.index.get() >= region::COUNT {
            return Err(Errno::INVAL);
        }
        let mut info =
            RegionInfo { argsz: fixed.into(), index: ask.index, ..RegionInfo::default() };
        let both = RegionInfo::READ | RegionInfo::WRITE;
        match ask.index.get() {
            region::CONFIG => {
                info.flags = both.into();
                info.size = u64::from(MAX_DATA).into();
            }
            region::BAR0 => {
                info.flags = both.into();
                info.size = self.identity.bar0_len.into();
                if let Some(file) = self.controller.doorbells().fd() {
                    return self.sharing_doorbells(info, &ask, file.try_clone_to_owned());
                }
            }
            _ => {}
        }
        reply(&info)
    }

    /// BAR0 with the doorbells as the one part of it that can be mapped.
    fn sharing_doorbells(
        &self,
        mut info: RegionInfo,
        ask: &RegionInfo,
        file: std::io::Result<OwnedFd>,
    ) -> Answer {
        let header = CapabilityHeader {
            id: CapabilityHeader::SPARSE_MMAP.into(),
            version: 1.into(),
            next: 0.into(),
        };
        let sparse = SparseMmap { nr_areas: 1.into(), ..SparseMmap::default() };
        let area = SparseArea {
            offset: DOORBELLS.into(),
            size: (self.controller.doorbells().len() as u64).into(),
        };
        let tail = [header.as_bytes(), sparse.as_bytes(), area.as_bytes()].concat();
        info.flags.set(info.flags.get() | RegionInfo::MMAP);
        info.argsz.set(info.argsz.get() + tail.len() as u32);
        if ask.argsz < info.argsz {
            // The client asks again, with the room that `argsz` says.
            return reply(&info);
        }
        info.flags.set(info.flags.get() | RegionInfo::CAPS);
        info.cap_offset = (size_of::<RegionInfo>() as u32).into();
        let file = file.map_err(|_| Errno::MFILE)?;
        Ok(([info.as_bytes(), &tail].concat(), vec![file]))
    }

    fn irq_info(&self, request: &Request) -> Answer {
        let mut info: IrqInfo = request.read()?;
        let index = info.index.get();
        if info.argsz.get() < size_of::<IrqInfo>() as u32 || index >= irq::COUNT {
            return Err(Errno::INVAL);
        }
        info.argsz = (size_of::<IrqInfo>() as u32).into();
        info.flags = IrqInfo::EVENTFD.into();
        info.count = self.vectors(index).into();
        reply(&info)
    }

    /// Interrupts of a type.
    fn vectors(&self, index: u32) -> u32 {
        match index {
            irq::MSIX => u32::from(self.identity.vectors),
            // QEMU wants to be told of errors and requests to leave. It may say how; there never are any.
            irq::ERR | irq::REQ => 1,
            _ => 0,
        }
    }

    fn set_irqs(&mut self, request: &mut Request) -> Answer {
        let set: IrqSet = request.read()?;
        let (index, start, count) = (set.index.get(), set.start.get(), set.count.get());
        let (data, action) =
            (set.flags.get() & IrqSet::DATA_MASK, set.flags.get() & IrqSet::ACTION_MASKS);
        let vectors = self.vectors(index);
        let end = start.checked_add(count).filter(|end| *end <= vectors);
        let Some(end) = end.filter(|_| index < irq::COUNT) else { return Err(Errno::INVAL) };
        if action != IrqSet::ACTION_TRIGGER {
            // No interrupt here is said to be maskable.
            return Err(Errno::INVAL);
        }
        match data {
            IrqSet::DATA_NONE | IrqSet::DATA_EVENTFD if index != irq::MSIX => {}
            IrqSet::DATA_NONE if count == 0 && request.fds.is_empty() => {
                self.disconnect(0, vectors as u16);
            }
            IrqSet::DATA_EVENTFD if request.fds.is_empty() => {
                self.disconnect(start as u16, end as u16);
            }
            IrqSet::DATA_EVENTFD if request.fds.len() == count as usize => {
                if !request.fds.iter().all(is_eventfd) {
                    return Err(Errno::INVAL);
                }
                for (vector, fd) in (start as u16..).zip(request.fds.drain(..)) {
                    self.controller.set_interrupt(vector, Some(fd)).map_err(|_| Errno::INVAL)?;
                }
            }
            // Signalling from the client's side, which no client needs.
            IrqSet::DATA_NONE | IrqSet::DATA_BOOL => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::INVAL),
        }
        Ok(Default::default())
    }

    fn disconnect(&mut self, start: u16, end: u16) {
        for vector in start..end {
            // There is such a vector: `end` was checked, or is their number.
            let _ = self.controller.set_interrupt(vector, None);
        }
    }

    fn read(&mut self, request: &Request) -> Answer {
        let access: RegionAccess = request.read()?;
        let (at, len) = (access.offset.get(), access.count.get());
        if len > MAX_DATA {
            return Err(Errno::INVAL);
        }
        let mut payload = access.as_bytes().to_vec();
        match access.region.get() {
            region::CONFIG => {
                let bytes = self.config.read(at, len as usize).ok_or(Errno::INVAL)?;
                payload.extend_from_slice(bytes);
            }
            region::BAR0 => {
                let value = self.read_bar(at, self.width(at, len)?);
                payload.extend(value.to_le_bytes().iter().take(len as usize));
            }
            _ => return Err(Errno::INVAL),
        }
        Ok((payload, Vec::new()))
    }

    fn write(&mut self, request: &Request) -> Answer {
        let access: RegionAccess = request.read()?;
        let (at, len) = (access.offset.get(), access.count.get());
        let data = request.payload.get(size_of::<RegionAccess>()..).unwrap_or_default();
        if data.len() != len as usize {
            return Err(Errno::INVAL);
        }
        match access.region.get() {
            region::CONFIG => {
                if self.config.write(at, data).ok_or(Errno::INVAL)? {
                    self.reset_function();
                }
                self.bus_master = self.config.command().bus_master();
            }
            region::BAR0 => {
                let width = self.width(at, len)?;
                let mut value = [0; 8];
                if let Some(value) = value.get_mut(..data.len()) {
                    value.copy_from_slice(data);
                }
                self.write_bar(at, width, u64::from_le_bytes(value))?;
            }
            _ => return Err(Errno::INVAL),
        }
        reply(&access)
    }

    /// The width of an access to BAR0: natural, and inside.
    fn width(&self, at: u64, len: u32) -> Result<usize, Errno> {
        let inside =
            at.checked_add(u64::from(len)).is_some_and(|end| end <= self.identity.bar0_len);
        match len {
            1 | 2 | 4 | 8 if inside && at.is_multiple_of(u64::from(len)) => Ok(len as usize),
            _ => Err(Errno::INVAL),
        }
    }

    /// Registers, and the MSI-X table; everything else reads as zero.
    fn read_bar(&mut self, at: u64, width: usize) -> u64 {
        if let Some(bytes) = self.table_bytes(at, width) {
            return bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        if width >= 4 {
            return self.controller.read(at, width);
        }
        let in_dword = at % 4;
        self.controller.read(at - in_dword, 4) >> (8 * in_dword)
    }

    fn write_bar(&mut self, at: u64, width: usize, value: u64) -> Result<(), Errno> {
        if let Some(bytes) = self.table_bytes(at, width) {
            for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            return Ok(());
        }
        if width < 4 {
            return Err(Errno::INVAL);
        }
        self.controller.write(at, width, value);
        Ok(())
    }

    fn table_bytes(&mut self, at: u64, width: usize) -> Option<&mut [u8]> {
        let start = at.checked_sub(self.identity.msix_table)? as usize;
        self.table.get_mut(start..start.checked_add(width)?)
    }

    fn map(&mut self, request: &mut Request) -> Answer {
        let map: DmaMap = request.read()?;
        let (address, size) = (map.address.get(), map.size.get());
        let known = DmaMap::READ | DmaMap::WRITE | DmaMap::MMAP;
        let flags = map.flags.get();
        if map.argsz.get() < size_of::<DmaMap>() as u32 || flags & !known != 0 {
            return Err(Errno::INVAL);
        }
        let access = match flags & (DmaMap::READ | DmaMap::WRITE) {
            DmaMap::READ => Access::Read,
            0 => return Err(Errno::INVAL),
            _ => Access::ReadWrite,
        };
        // Memory is reached through its file, never by messages.
        let file = match (request.fds.pop(), request.fds.is_empty()) {
            (Some(file), true) => file,
            (None, _) => return Err(Errno::OPNOTSUPP),
            (Some(_), false) => return Err(Errno::INVAL),
        };
        let len = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        let aligned = (address | size).is_multiple_of(PAGE);
        if size == 0 || !aligned || address.checked_add(size - 1).is_none() {
            return Err(Errno::INVAL);
        }
        if self.maps.len() >= MAX_MAPS as usize {
            return Err(Errno::NOSPC);
        }
        let mapping = Mapping::new(file.as_fd(), map.offset.get(), len, access)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        map_into(&mut self.controller, address, mapping).map_err(|error| match error {
            MapError::Overlaps { .. } => Errno::EXIST,
            MapError::TooMany => Errno::NOSPC,
            _ => Errno::INVAL,
        })?;
        self.maps.insert(address, size);
        Ok(Default::default())
    }

    fn unmap(&mut self, request: &Request) -> Answer {
        let unmap: DmaUnmap = request.read()?;
        let (address, size) = (unmap.address.get(), unmap.size.get());
        if unmap.argsz.get() < size_of::<DmaUnmap>() as u32 {
            return Err(Errno::INVAL);
        }
        match unmap.flags.get() {
            0 => {
                // What was mapped at once is taken back at once, as libvfio-user has it.
                if self.maps.get(&address) != Some(&size) {
                    return Err(Errno::NOENT);
                }
                let len = usize::try_from(size).map_err(|_| Errno::INVAL)?;
                self.controller.unmap(address, len).map_err(|_| Errno::NOENT)?;
                self.maps.remove(&address);
            }
            DmaUnmap::ALL if address == 0 && size == 0 => {
                self.controller.unmap_all();
                self.maps.clear();
            }
            DmaUnmap::GET_DIRTY_BITMAP => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::INVAL),
        }
        reply(&unmap)
    }
}

/// The answer to VERSION, and what the client says that it can do.
pub(super) fn version(request: &Request) -> Answer {
    let version: Version = request.read()?;
    let text = request.payload.get(size_of::<Version>()..).unwrap_or_default();
    if request.oversized || version.major.get() != Version::MAJOR {
        return Err(Errno::INVAL);
    }
    // Nothing that the client says changes what it is sent: one file descriptor, with BAR0, and short messages.
    Capabilities::parse(text).map_err(|_| Errno::INVAL)?;
    let ours = Capabilities {
        max_msg_fds: MAX_FDS as u32,
        max_data_xfer_size: u64::from(MAX_DATA),
        max_dma_maps: MAX_MAPS,
        pgsizes: PAGE,
    };
    let minor = version.minor.get().min(Version::MINOR);
    let version = Version { major: Version::MAJOR.into(), minor: minor.into() };
    let payload = [version.as_bytes(), ours.to_string().as_bytes(), &[0]].concat();
    Ok((payload, Vec::new()))
}

fn device_info(request: &Request) -> Answer {
    let ask: DeviceInfo = request.read()?;
    if ask.argsz.get() < size_of::<DeviceInfo>() as u32 {
        return Err(Errno::INVAL);
    }
    reply(&DeviceInfo {
        argsz: (size_of::<DeviceInfo>() as u32).into(),
        flags: (DeviceInfo::PCI | DeviceInfo::RESET).into(),
        regions: region::COUNT.into(),
        irqs: irq::COUNT.into(),
    })
}

fn reply(payload: &(impl IntoBytes + Immutable)) -> Answer {
    Ok((payload.as_bytes().to_vec(), Vec::new()))
}

/// Whether `fd` can be signalled without waiting: a pipe, say, could be full.
fn is_eventfd(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}
