//! A device that passes everything on and remembers the order in which it was asked.

#![expect(unsafe_code, reason = "passes the promise of `map_dma` on")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use doorbell::device::embedded::Embedded;
use doorbell::device::{
    Device, DeviceError, DeviceInfo, DmaRange, Doorbells, Interrupt, Properties, Width,
};
use doorbell::spec::register::offset;

/// What a device was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Read(u64),
    Write(u64, u64),
    Map,
    /// And whether the controller could have reached the memory at that moment: enabled, as CC and CSTS have it.
    Unmap {
        reachable: bool,
    },
    Reset,
    /// To be given back; and whether the controller was enabled at that moment.
    GiveBack {
        enabled: bool,
    },
}

/// The device.
pub(crate) struct Spy {
    inner: Arc<Embedded>,
    events: Mutex<Vec<Event>>,
    /// First I/O address, bytes and where it is in this process, of what is mapped.
    mapped: Mutex<Vec<(u64, u64, usize)>>,
    removal: Mutex<Option<OwnedFd>>,
    bus_error: Mutex<Option<OwnedFd>>,
    returnable: AtomicBool,
    shrinks: AtomicBool,
}

impl Spy {
    pub(crate) fn new(inner: Arc<Embedded>) -> Self {
        let (returnable, shrinks) = (AtomicBool::new(false), AtomicBool::new(false));
        let (events, mapped) = (Mutex::default(), Mutex::default());
        let (removal, bus_error) = (Mutex::default(), Mutex::default());
        Self { inner, events, mapped, removal, bus_error, returnable, shrinks }
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    /// Dwords 0 and 10 of the commands that were sent to the admin queue since it was enabled, if they are fewer than its
    /// entries. Nobody else touches the queue meanwhile.
    pub(crate) fn admin_commands(&self) -> Vec<(u8, u32)> {
        let events = self.events();
        let asq = events.iter().rev().find_map(|event| match event {
            Event::Write(offset::ASQ, iova) => Some(*iova),
            _ => None,
        });
        let asq = asq.expect("an admin queue");
        let mapped = self.mapped.lock().unwrap().clone();
        let (iova, _, base) = mapped
            .into_iter()
            .find(|(iova, len, _)| (*iova..iova + len).contains(&asq))
            .expect("mapped memory");
        let entry = |index: usize, dword: usize| {
            let at = base + (asq - iova) as usize + index * 64 + dword * 4;
            // SAFETY: an entry of the ring, which is mapped and whose owner waits for this thread.
            unsafe { std::ptr::with_exposed_provenance::<u32>(at).read_volatile() }
        };
        (0..64)
            .map(|index| (entry(index, 0), entry(index, 10)))
            .take_while(|(cdw0, _)| *cdw0 != 0)
            .map(|(cdw0, cdw10)| (cdw0 as u8, cdw10))
            .collect()
    }

    /// From now on it can be given back while handles are held, as over the kernel's VFIO.
    pub(crate) fn returnable(&self) {
        self.returnable.store(true, Ordering::Relaxed);
    }

    /// The pool gives memory back that nothing is in any more, while the controller works.
    pub(crate) fn shrinks(&self) {
        self.shrinks.store(true, Ordering::Relaxed);
    }

    /// Asks for the device, as the kernel does before a drive is unplugged.
    pub(crate) fn ask_for_removal(&self) {
        Self::signal(&self.removal);
    }

    /// Reports an error of the bus, as the kernel does.
    pub(crate) fn report_bus_error(&self) {
        Self::signal(&self.bus_error);
    }

    fn signal(notice: &Mutex<Option<OwnedFd>>) {
        let notice = notice.lock().unwrap();
        rustix::io::write(notice.as_ref().expect("asked to be told"), &1u64.to_ne_bytes())
            .expect("signalled");
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// How often `is` holds of what was asked so far.
    pub(crate) fn count(&self, is: impl Fn(Event) -> bool) -> usize {
        self.events().into_iter().filter(|event| is(*event)).count()
    }
}

/// Whatever a test is about: no memory was ever unmapped while the controller could reach it. The last handle drops this.
impl Drop for Spy {
    fn drop(&mut self) {
        let reachable = self.count(|event| event == Event::Unmap { reachable: true });
        let fine = reachable == 0 || self.shrinks.load(Ordering::Relaxed);
        assert!(fine || std::thread::panicking(), "memory was taken from the controller");
    }
}

impl Properties for Spy {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        self.note(Event::Read(offset));
        self.inner.read(offset, width)
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        self.note(Event::Write(offset, value));
        self.inner.write(offset, width, value)
    }
}

impl Device for Spy {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError> {
        self.inner.doorbells(len)
    }

    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        self.note(Event::Map);
        let base = range.base.as_ptr().expose_provenance();
        self.mapped.lock().unwrap().push((range.iova, range.len, base));
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.map_dma(range) }
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        self.mapped.lock().unwrap().retain(|(first, ..)| *first != iova);
        let reachable = self.inner.port().is_running();
        self.note(Event::Unmap { reachable });
        self.inner.unmap_dma(iova, len)
    }

    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        match interrupt {
            Interrupt::Removal => *self.removal.lock().unwrap() = eventfd,
            Interrupt::BusError => *self.bus_error.lock().unwrap() = eventfd,
            Interrupt::Vector(_) => return self.inner.interrupt(interrupt, eventfd),
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.note(Event::Reset);
        self.inner.reset()
    }

    fn give_back(&self) -> Result<(), DeviceError> {
        if !self.returnable.load(Ordering::Relaxed) {
            return self.inner.give_back();
        }
        let enabled = self.inner.port().is_running();
        self.note(Event::GiveBack { enabled });
        self.inner.reset()
    }
}
