//! A PCIe function of this machine, through the kernel's VFIO: container, group and type 1 IOMMU.
//!
//! Registers and configuration space are read and written through the device's file rather than mapped: that never
//! raises a signal, and nothing on the I/O path reads registers. Doorbells are mapped. 64-bit registers are two dwords,
//! the low one first, which every device takes.
//!
//! # A drive that is unplugged, and SIGBUS
//! Whoever stores to a mapped BAR dies of SIGBUS if the page is not there, and vfio-pci takes pages away: from Linux 5.8
//! on it empties the mapping before a reset of the function, before it changes the power state, and when memory decoding
//! is turned off through its file. The next store faults, waits until the reset is over, and finds the page again; but if
//! decoding is off by then, as far as that file goes, or the function lies in D3, the fault is a SIGBUS. Nothing else
//! is: a drive that was torn out leaves the mapping as it is, stores to it are lost on the bus, and reads through the
//! file give all-ones. So no signal handler is needed, provided that
//!
//! - decoding stays on for as long as doorbells are mapped: the owner of a mapping keeps the function open, and only the
//!   last to let go of the function turns it off (`Open`'s `Drop`); a reset does not touch it, and the power state is
//!   never changed;
//! - a function that is given back while queues exist gives up its doorbells first. The kernel does not finish a removal
//!   before its user has closed the function, mappings included, and asks for that by an eventfd
//!   ([`Interrupt::Removal`]). [`Device::give_back`] puts anonymous memory in the place of every mapping, in one step
//!   (`MAP_FIXED`), so that a thread that is about to ring stores into that and never finds nothing; only then decoding
//!   goes off and the files are closed, which also ends what the IOMMU let the drive reach.
//!
//! `container` owns the IOMMU's address space and `sysfs` what is known before anything is opened; `capability` parses
//! the kernel's answers and `sys` holds the ioctls. Each obstacle has its own [`VfioError`].

mod capability;
mod container;
mod error;
mod sys;
mod sysfs;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use doorbell_spec::pci::{Command, offset as config};
use doorbell_spec::register::offset::DOORBELLS;
use memmap2::{MmapOptions, MmapRaw};
use vfio_bindings::bindings::vfio as abi;

use self::capability::Region;
use self::container::Container;
pub use self::error::VfioError;
use self::sysfs::Function;
use super::{
    Device, DeviceError, DeviceInfo, DmaRange, Doorbells, Interrupt, PciId, Properties, Width,
};
use crate::address::Bdf;

/// A function that the kernel's VFIO gave to this process.
#[derive(Debug)]
pub struct Vfio {
    // Shared with mapped doorbells, which must not outlive memory decoding.
    function: Arc<Open>,
    info: DeviceInfo,
    interrupts: Mutex<Interrupts>,
}

/// The open function. Dropping it turns it off.
#[derive(Debug)]
struct Open {
    address: String,
    bar0: Region,
    /// Nothing once it has been given back.
    held: RwLock<Option<Held>>,
    /// The doorbells that are mapped.
    windows: Mutex<Vec<Weak<MmapRaw>>>,
}

/// What the kernel gave.
#[derive(Debug)]
struct Held {
    // The device closes before its container.
    file: File,
    config: Region,
    container: Container,
}

/// The eventfds of vectors 0 and up, as far as vectors are enabled.
#[derive(Debug, Default)]
struct Interrupts {
    eventfds: Vec<Option<OwnedFd>>,
}

/// Keeps mapped doorbells usable.
struct DoorbellOwner {
    // Unmapped before the function may be turned off.
    _mapping: Arc<MmapRaw>,
    _function: Arc<Open>,
}

impl Vfio {
    /// Opens the function at `bdf`, which must be bound to vfio-pci. The kernel resets it; memory decoding and bus
    /// mastering are on afterwards.
    ///
    /// # Errors
    /// [`DeviceError::Vfio`], which tells every obstacle apart and says how to remove it.
    pub fn open(bdf: Bdf) -> Result<Self, DeviceError> {
        let address = format!("pcie:{bdf}");
        Self::open_below(Path::new("/"), bdf, &address)
            .map_err(|source| DeviceError::Vfio { address, source })
    }

    fn open_below(root: &Path, bdf: Bdf, address: &str) -> Result<Self, VfioError> {
        let function = Function::find(root, bdf)?;
        let container = Container::open(root, &function)?;
        let file = File::from(container.device(bdf)?);
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| VfioError::System { what, source }
        };
        let device = file.as_fd();
        let flags = sys::device_info(device).map_err(failed("asking for the device"))?.flags;
        if flags & abi::VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::Outdated {
                what: "does not treat the device as a PCI function",
            });
        }
        let region = |index| {
            let answer = sys::region_info(device, index);
            let answer = answer.map_err(failed(&format!("asking for region {index}")))?;
            Region::parse(&answer).ok_or(VfioError::Outdated { what: "gives no word of a region" })
        };
        let bar0 = region(abi::VFIO_PCI_BAR0_REGION_INDEX)?;
        let config = region(abi::VFIO_PCI_CONFIG_REGION_INDEX)?;
        let vectors = sys::irq_count(device, abi::VFIO_PCI_MSIX_IRQ_INDEX).unwrap_or(0);

        let iova = container.limits().clone();
        let held = Held { file, config, container };
        held.enable(true).map_err(failed("turning memory decoding and bus mastering on"))?;
        let pci = held.pci_id().map_err(failed("reading configuration space"))?;
        let open = Open {
            address: address.into(),
            bar0,
            held: RwLock::new(Some(held)),
            windows: Mutex::default(),
        };
        let info = DeviceInfo {
            address: address.into(),
            pci,
            numa_node: function.numa_node,
            iova,
            bar_len: open.bar0.size,
            vectors: u16::try_from(vectors).unwrap_or(u16::MAX),
            resettable: flags & abi::VFIO_DEVICE_FLAGS_RESET != 0,
            needs_descriptor: false,
            traps: true,
        };
        Ok(Self { function: Arc::new(open), info, interrupts: Mutex::default() })
    }

    fn failed(&self, source: VfioError) -> DeviceError {
        DeviceError::Vfio { address: self.info.address.clone(), source }
    }

    /// Signals `eventfd` when the kernel has something to say of the device; kernels keep one of each kind.
    fn notify(&self, index: u32, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        let eventfd = eventfd.as_ref().map(AsFd::as_fd);
        self.function
            .with("a notice was set", |held| {
                sys::set_irqs(held.file.as_fd(), index, 0, &[eventfd])
            })?
            .map_err(|source| {
                let what = format!("asking for notices of kind {index}");
                self.failed(VfioError::System { what, source })
            })
    }
}

impl Held {
    /// Memory decoding and bus mastering; the pin is never used.
    fn enable(&self, on: bool) -> std::io::Result<()> {
        let place = self.config.offset + config::COMMAND;
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, place)?;
        let old = Command::from(u16::from_le_bytes(word));
        let new = old.with_memory(on).with_bus_master(on).with_intx_disable(true);
        self.file.write_all_at(&u16::from(new).to_le_bytes(), place)
    }

    fn pci_id(&self) -> std::io::Result<PciId> {
        let word = |offset: u64| {
            let mut bytes = [0; 2];
            self.file.read_exact_at(&mut bytes, self.config.offset + offset)?;
            std::io::Result::Ok(u16::from_le_bytes(bytes))
        };
        Ok(PciId {
            vendor: word(config::VENDOR)?,
            device: word(config::DEVICE)?,
            // The revision is the low byte of its word.
            revision: word(config::REVISION)? as u8,
            subsystem_vendor: word(config::SUBSYSTEM_VENDOR)?,
            subsystem: word(config::SUBSYSTEM)?,
        })
    }
}

impl Open {
    /// Does something with the function, unless it has been given back.
    fn with<T>(&self, what: &str, act: impl FnOnce(&Held) -> T) -> Result<T, DeviceError> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => Ok(act(held)),
            None => Err(DeviceError::Gone {
                address: self.address.clone(),
                what: format!("given back before {what}"),
            }),
        }
    }

    /// Where the register at `offset` stands in the device's file.
    fn register(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let len = match width {
            Width::Dword => 4,
            Width::Qword => 8,
        };
        let fits = offset.checked_add(len).is_some_and(|end| end <= DOORBELLS.min(self.bar0.size));
        if !fits || !offset.is_multiple_of(len) {
            let what = format!("there is no register of {len} bytes at {offset:x}h");
            return Err(DeviceError::Unusable {
                address: self.address.clone(),
                what,
                hint: String::new(),
            });
        }
        Ok(self.bar0.offset + offset)
    }

    fn unreachable(&self, what: &str, offset: u64, source: std::io::Error) -> DeviceError {
        let (address, what) = (self.address.clone(), format!("{what} the register at {offset:x}h"));
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => DeviceError::Gone { address, what },
            _ => DeviceError::Vfio { address, source: VfioError::System { what, source } },
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(held) = self.held.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // A function that was unplugged cannot be written to any more, nor can it touch memory.
            let _ = held.enable(false);
        }
    }
}

impl Properties for Vfio {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let function = &self.function;
        let place = function.register(offset, width)?;
        let dword = |place| {
            let mut bytes = [0; 4];
            function
                .with("a register was read", |held| held.file.read_exact_at(&mut bytes, place))?
                .map_err(|error| function.unreachable("reading", offset, error))?;
            Ok(u64::from(u32::from_le_bytes(bytes)))
        };
        match width {
            Width::Dword => dword(place),
            Width::Qword => Ok(dword(place)? | dword(place + 4)? << 32),
        }
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let function = &self.function;
        let place = function.register(offset, width)?;
        let dword = |place, value: u32| {
            function
                .with("a register was written", |held| {
                    held.file.write_all_at(&value.to_le_bytes(), place)
                })?
                .map_err(|error| function.unreachable("writing", offset, error))
        };
        dword(place, value as u32)?;
        match width {
            Width::Dword => Ok(()),
            Width::Qword => dword(place + 4, (value >> 32) as u32),
        }
    }
}

impl Device for Vfio {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError> {
        let bar0 = &self.function.bar0;
        let unmappable = |why: String| self.failed(VfioError::BarNotMappable { why });
        let need = DOORBELLS.saturating_add(len);
        if need > bar0.size || len == 0 {
            return Err(self.failed(VfioError::BarTooShort { need, have: bar0.size }));
        }
        bar0.mappable(DOORBELLS, len).map_err(unmappable)?;
        let size = usize::try_from(len).map_err(|error| unmappable(error.to_string()))?;
        let mut options = MmapOptions::new();
        options.offset(bar0.offset + DOORBELLS).len(size);
        let mapping = self.function.with("its doorbells were mapped", |held| {
            let mapping = Arc::new(options.map_raw(&held.file)?);
            // While the function is held: what is given back takes no mapping for one that it does not know.
            let mut windows = self.function.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.retain(|window| window.strong_count() > 0);
            windows.push(Arc::downgrade(&mapping));
            std::io::Result::Ok(mapping)
        })?;
        let mapping = mapping.map_err(|error| unmappable(error.to_string()))?;
        let Some(base) = NonNull::new(mapping.as_mut_ptr().cast::<u32>()) else {
            return Err(unmappable("it came at address 0".into()));
        };
        let owner = DoorbellOwner { _mapping: mapping, _function: Arc::clone(&self.function) };
        Ok(Doorbells { base, len, owner: Arc::new(owner) })
    }

    #[expect(unsafe_code, reason = "implements a method whose caller keeps the promise")]
    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        self.function
            .with("memory was mapped", |held| {
                // SAFETY: the caller's promise is the one that is asked for.
                unsafe { held.container.map(&range) }
            })?
            .map_err(|error| self.failed(error))
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        match &*self.function.held.read().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => held.container.unmap(iova, len).map_err(|error| self.failed(error)),
            // All of it went with the container.
            None => Ok(()),
        }
    }

    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        let vector = match interrupt {
            Interrupt::Vector(vector) => vector,
            Interrupt::Removal => return self.notify(abi::VFIO_PCI_REQ_IRQ_INDEX, eventfd),
            Interrupt::BusError => return self.notify(abi::VFIO_PCI_ERR_IRQ_INDEX, eventfd),
        };
        if vector >= self.info.vectors {
            return Err(DeviceError::Unusable {
                address: self.info.address.clone(),
                what: format!("vector {vector}: the device has {} vectors", self.info.vectors),
                hint: String::new(),
            });
        }
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        self.function
            .with("an interrupt was set", |held| {
                interrupts.set(held.file.as_fd(), vector, self.info.vectors, eventfd)
            })?
            .map_err(|source| {
                let what = format!("setting interrupt vector {vector}");
                self.failed(VfioError::System { what, source })
            })
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| self.failed(VfioError::System { what, source })
        };
        self.function.with("it was reset", |held| {
            sys::reset(held.file.as_fd()).map_err(failed("resetting the function"))?;
            // The kernel restores configuration space; a device that needs it again gets it again.
            held.enable(true).map_err(failed("turning the function on after a reset"))
        })?
    }

    fn give_back(&self) -> Result<(), DeviceError> {
        let function = &self.function;
        // Whoever is in the middle of something with the function comes first.
        let mut held = function.held.write().unwrap_or_else(PoisonError::into_inner);
        let mut windows = function.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for window in windows.iter().filter_map(Weak::upgrade) {
            sys::cover(&window).map_err(|source| {
                let what = "putting memory in the place of the doorbells".to_owned();
                self.failed(VfioError::System { what, source })
            })?;
        }
        windows.clear();
        if let Some(held) = held.take() {
            // As in `drop`; closed at the end of this block.
            let _ = held.enable(false);
        }
        Ok(())
    }
}

impl Interrupts {
    /// Kernels before 6.5 cannot enable a vector beside others that are enabled already. So vectors are enabled in
    /// blocks that double, all of them anew; an interrupt that arrives in between is lost, which polling makes good.
    fn set(
        &mut self,
        device: BorrowedFd<'_>,
        vector: u16,
        vectors: u16,
        eventfd: Option<OwnedFd>,
    ) -> std::io::Result<()> {
        const MSIX: u32 = abi::VFIO_PCI_MSIX_IRQ_INDEX;
        let index = usize::from(vector);
        if let Some(slot) = self.eventfds.get_mut(index) {
            sys::set_irqs(device, MSIX, vector.into(), &[eventfd.as_ref().map(AsFd::as_fd)])?;
            *slot = eventfd;
            return Ok(());
        }
        if eventfd.is_none() {
            return Ok(());
        }
        let count = (index + 1).next_power_of_two().min(vectors.into());
        if !self.eventfds.is_empty() {
            sys::disable_irqs(device, MSIX)?;
        }
        let before = self.eventfds.len();
        self.eventfds.resize_with(count, || None);
        if let Some(slot) = self.eventfds.get_mut(index) {
            *slot = eventfd;
        }
        let borrowed: Vec<_> =
            self.eventfds.iter().map(|fd| fd.as_ref().map(AsFd::as_fd)).collect();
        let result = sys::set_irqs(device, MSIX, 0, &borrowed);
        if result.is_err() {
            // Back to what there was; if that fails too, nothing is enabled and nothing claims to be.
            self.eventfds.truncate(before);
            let borrowed: Vec<_> =
                self.eventfds.iter().map(|fd| fd.as_ref().map(AsFd::as_fd)).collect();
            if before == 0 || sys::set_irqs(device, MSIX, 0, &borrowed).is_err() {
                self.eventfds.clear();
            }
        }
        result
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_not_there() {
        let bdf = Bdf { domain: 0xfffe, bus: 0xff, device: 31, function: 7 };
        let error = Vfio::open(bdf).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("pcie:fffe:ff:1f.7: there is no PCI function"), "{message}");
        assert!(matches!(
            error,
            DeviceError::Vfio { source: VfioError::NoSuchFunction { .. }, .. }
        ));
    }
}
