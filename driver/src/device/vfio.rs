//! A PCIe function of this machine, through the kernel's VFIO: container, group and type 1 IOMMU.
//!
//! Registers and configuration space are read and written through the device's file rather than mapped: a function
//! that was unplugged then gives an error, where a mapping would raise SIGBUS, and nothing on the I/O path reads
//! registers. Doorbells are mapped. 64-bit registers are two dwords, the low one first, which every device takes.
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
use std::sync::{Arc, Mutex, PoisonError};

use doorbell_spec::pci::{Command, offset as config};
use doorbell_spec::register::offset::DOORBELLS;
use memmap2::{MmapOptions, MmapRaw};
use vfio_bindings::bindings::vfio as abi;

use self::capability::Region;
use self::container::Container;
pub use self::error::VfioError;
use self::sysfs::Function;
use super::{Device, DeviceError, DeviceInfo, DmaRange, Doorbells, PciId, Properties, Width};
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
    // The device closes before its container.
    file: File,
    bar0: Region,
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
    _mapping: MmapRaw,
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
        let open = Open { address: address.into(), file, bar0, config, container };
        open.enable(true).map_err(failed("turning memory decoding and bus mastering on"))?;
        let info = DeviceInfo {
            address: address.into(),
            pci: open.pci_id().map_err(failed("reading configuration space"))?,
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
}

impl Open {
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
        // A function that was unplugged cannot be written to any more, nor can it touch memory.
        let _ = self.enable(false);
    }
}

impl Properties for Vfio {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let function = &self.function;
        let place = function.register(offset, width)?;
        let dword = |place| {
            let mut bytes = [0; 4];
            let result = function.file.read_exact_at(&mut bytes, place);
            result.map_err(|error| function.unreachable("reading", offset, error))?;
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
            let result = function.file.write_all_at(&value.to_le_bytes(), place);
            result.map_err(|error| function.unreachable("writing", offset, error))
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
        let mapping = MmapOptions::new()
            .offset(bar0.offset + DOORBELLS)
            .len(size)
            .map_raw(&self.function.file)
            .map_err(|error| unmappable(error.to_string()))?;
        let Some(base) = NonNull::new(mapping.as_mut_ptr().cast::<u32>()) else {
            return Err(unmappable("it came at address 0".into()));
        };
        let owner = DoorbellOwner { _mapping: mapping, _function: Arc::clone(&self.function) };
        Ok(Doorbells { base, len, owner: Arc::new(owner) })
    }

    #[expect(unsafe_code, reason = "implements a method whose caller keeps the promise")]
    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.function.container.map(&range) }.map_err(|error| self.failed(error))
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        self.function.container.unmap(iova, len).map_err(|error| self.failed(error))
    }

    fn interrupt(&self, vector: u16, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        if vector >= self.info.vectors {
            return Err(DeviceError::Unusable {
                address: self.info.address.clone(),
                what: format!("vector {vector}: the device has {} vectors", self.info.vectors),
                hint: String::new(),
            });
        }
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        interrupts.set(self.function.file.as_fd(), vector, self.info.vectors, eventfd).map_err(
            |source| {
                let what = format!("setting interrupt vector {vector}");
                self.failed(VfioError::System { what, source })
            },
        )
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| self.failed(VfioError::System { what, source })
        };
        sys::reset(self.function.file.as_fd()).map_err(failed("resetting the function"))?;
        // The kernel restores configuration space; a device that needs it again gets it again.
        self.function.enable(true).map_err(failed("turning the function on after a reset"))
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
