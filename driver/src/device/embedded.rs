//! Device `embedded`: a subsystem in this process, so that the driver runs anywhere.
//!
//! Two forms of the same thing: with a thread of its own, which is what `embedded:` addresses open, and stepped by its
//! caller on one thread. A [`SteppedClock`] steps the device whenever the driver waits, and time is then what the clock
//! says: tests and Miri run the whole driver deterministically.

#![expect(unsafe_code, reason = "passes the promise of `map_dma` on to the subsystem")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorbell_subsystem::backend::file::FileConfig;
use doorbell_subsystem::namespace_spec::BackendSpec;
use doorbell_subsystem::{Controller, ControllerConfig, InProcess, NamespaceSpec, Subsystem};

use super::{
    Device, DeviceError, DeviceInfo, DmaRange, Doorbells, Interrupt, IovaLimits, PciId, Properties,
    Width,
};
use crate::address::{Address, Backing, EmbeddedOptions};
use crate::clock::Clock;

/// A controller of a subsystem in this process.
#[derive(Debug)]
pub struct Embedded {
    info: DeviceInfo,
    port: InProcess,
}

impl Embedded {
    /// A subsystem with the namespaces that `options` ask for, and a thread that serves it.
    ///
    /// # Errors
    /// [`DeviceError`]: a file that cannot be opened, options that contradict each other, no thread.
    pub fn open(options: &EmbeddedOptions) -> Result<Self, DeviceError> {
        let (address, controller) = build(options)?;
        let port = InProcess::spawn(controller)
            .map_err(|source| refused(&address, "start the thread of the subsystem", source))?;
        Ok(Self::over(address, port))
    }

    /// The same, which does nothing but when it is stepped; see [`SteppedClock`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn stepped(options: &EmbeddedOptions) -> Result<Self, DeviceError> {
        let (address, controller) = build(options)?;
        Ok(Self::over(address, InProcess::stepped(controller)))
    }

    /// A controller that the caller has made, of a subsystem that the caller may share with other ports.
    #[must_use]
    pub fn over(address: String, port: InProcess) -> Self {
        let config = *port.config();
        let info = DeviceInfo {
            address,
            pci: PciId {
                vendor: config.vid,
                device: config.did,
                subsystem_vendor: config.vid,
                subsystem: config.did,
                revision: 0,
            },
            numa_node: None,
            iova: IovaLimits {
                ranges: vec![0x1000..=(1 << 47) - 1],
                page_size: 4096,
                max_mappings: None,
            },
            bar_len: doorbell_spec::register::offset::DOORBELLS + port.doorbells().len() as u64,
            vectors: config.vectors,
            resettable: true,
            needs_descriptor: false,
            traps: false,
        };
        Self { info, port }
    }

    /// The port, and through it the subsystem.
    #[must_use]
    pub fn port(&self) -> &InProcess {
        &self.port
    }
}

fn refused(address: &str, what: &str, source: io::Error) -> DeviceError {
    DeviceError::Refused {
        address: address.to_owned(),
        what: what.to_owned(),
        hint: String::new(),
        source,
    }
}

/// The controller that `options` describe, and the address that says so; for other ports to serve.
///
/// # Errors
/// [`DeviceError`] if a namespace cannot be made.
pub fn build(options: &EmbeddedOptions) -> Result<(String, Controller), DeviceError> {
    let address = Address::Embedded(options.clone()).to_string();
    let other = |what: &str, error: &dyn std::fmt::Display| {
        refused(&address, what, io::Error::other(error.to_string()))
    };
    let mut builder = Subsystem::builder();
    for _ in 0..options.namespaces.max(1) {
        let spec = match &options.backing {
            Backing::Memory => NamespaceSpec::memory(options.size_or_default(), options.block),
            Backing::Null => NamespaceSpec::null(options.size_or_default(), options.block),
            Backing::File(path) => {
                let file = FileConfig { path: path.clone(), size: options.size, direct: true };
                NamespaceSpec { backend: BackendSpec::File(file), block_size: options.block }
            }
        };
        let namespace = spec.open().map_err(|error| other("open the namespace", &error))?;
        builder = builder.namespace(namespace);
    }
    let mut config = ControllerConfig::default();
    if let Some(queues) = options.queues {
        config.max_io_queues = queues;
    }
    if let Some(mdts) = options.mdts {
        config.mdts = (mdts >> 12).max(1).ilog2() as u8;
    }
    let controller = Controller::new(builder.build(), config)
        .map_err(|error| other("make the controller", &error))?;
    Ok((address, controller))
}

fn bytes(width: Width) -> usize {
    match width {
        Width::Dword => 4,
        Width::Qword => 8,
    }
}

impl Properties for Embedded {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        Ok(self.port.read(offset, bytes(width)))
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.port.write(offset, bytes(width), value);
        Ok(())
    }
}

impl Device for Embedded {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError> {
        let page = self.port.doorbells();
        if len > page.len() as u64 {
            return Err(DeviceError::Unusable {
                address: self.info.address.clone(),
                what: format!("BAR0 has {} bytes of doorbells, not {len}", page.len()),
                hint: String::new(),
            });
        }
        Ok(Doorbells { base: page.as_ptr(), len: page.len() as u64, owner: page.clone() })
    }

    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        let len = usize::try_from(range.len).unwrap_or(usize::MAX);
        // SAFETY: the caller's promise covers what the subsystem asks for: the memory stays until it is unmapped or the
        // device is dropped, and no reference to it is used while a command names it.
        unsafe { self.port.map(range.iova, range.base, len, None) }
            .map_err(|error| refused(&self.info.address, "map memory", io::Error::other(error)))
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.port
            .unmap(iova, len)
            .map_err(|error| refused(&self.info.address, "unmap memory", io::Error::other(error)))
    }

    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        let Interrupt::Vector(vector) = interrupt else {
            return Err(DeviceError::Unusable {
                address: self.info.address.clone(),
                what: format!("{interrupt:?}: the device signals vectors only"),
                hint: String::new(),
            });
        };
        self.port
            .set_interrupt(vector, eventfd)
            .map_err(|source| refused(&self.info.address, "set an interrupt", source))
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.port.reset();
        Ok(())
    }
}

/// A clock that runs a stepped device whenever the driver waits. Time stands still otherwise.
#[derive(Debug)]
pub struct SteppedClock {
    device: Arc<Embedded>,
    now: Mutex<Duration>,
}

impl SteppedClock {
    /// Time that passes between two looks of a driver that waits for a completion.
    const LOOK: Duration = Duration::from_micros(1);

    /// A clock that begins at zero.
    #[must_use]
    pub fn new(device: Arc<Embedded>) -> Self {
        Self { device, now: Mutex::new(Duration::ZERO) }
    }

    /// Runs the device until it finds nothing more to do; returns the commands it took.
    pub fn settle(&self) -> usize {
        let mut total = 0;
        loop {
            let count = self.device.port.step(self.now());
            if count == 0 {
                return total;
            }
            total += count;
        }
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, round: u32, longest: Duration) {
        // Waiting costs more and more time, so that deadlines come within few steps.
        let pass = if round < 16 { Self::LOOK } else { longest };
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) += pass.min(longest);
        self.device.port.step(self.now());
    }
}
