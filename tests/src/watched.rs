//! A device in this process that is watched: which memory it was given, which commands it was sent, what it reads as.
//!
//! The memory of the driver can be read and written where the device could have done so, by I/O address.

#![expect(unsafe_code, reason = "reaches memory as the device under it does")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use doorbell::device::embedded::Embedded;
use doorbell::device::{
    Device, DeviceError, DeviceInfo, DmaRange, Doorbells, Interrupt, Properties, Width,
};
use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::command::Sqe;
use doorbell_spec::register::offset;

/// What is known of a device by what was asked of it.
#[derive(Default)]
struct Seen {
    /// First I/O address, bytes, and where it is in this process.
    mapped: Vec<(u64, u64, usize)>,
    asq: u64,
    /// How often ASQ was written.
    epoch: u64,
    /// A register has read as all ones, as all those of a device that is gone do.
    gone: bool,
    /// Memory was taken away while the controller could have reached it.
    torn: u64,
}

/// The device. Only one thread uses it, and the driver over it.
pub struct Watched {
    inner: Arc<Embedded>,
    seen: Mutex<Seen>,
}

impl Watched {
    /// Watches `inner`.
    #[must_use]
    pub fn new(inner: Arc<Embedded>) -> Self {
        Self { inner, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often memory was unmapped under an enabled controller that had never read as one that is gone; from that,
    /// memory may be taken back at any time.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.seen().torn
    }

    /// How often the admin queues were set up.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.seen().epoch
    }

    fn word(&self, iova: u64) -> Option<usize> {
        if !iova.is_multiple_of(8) {
            return None;
        }
        let within = |(first, len, _): &&(u64, u64, usize)| iova.wrapping_sub(*first) < *len;
        let seen = self.seen();
        let (first, _, base) = seen.mapped.iter().find(within)?;
        Some(base + (iova - first) as usize)
    }

    /// The eight bytes at an I/O address, which is aligned to them; `None` where nothing is mapped.
    #[must_use]
    pub fn load(&self, iova: u64) -> Option<u64> {
        let at = self.word(iova)?;
        // SAFETY: eight aligned bytes of memory that the device was given, which is there until it is taken back; its
        // address was exposed then. The one thread there is does nothing else meanwhile.
        Some(
            unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) }
                .load(Ordering::Acquire),
        )
    }

    /// Stores eight bytes at an I/O address, as the device would; false where nothing is mapped.
    pub fn store(&self, iova: u64, value: u64) -> bool {
        let Some(at) = self.word(iova) else { return false };
        // SAFETY: as in `load`; a device may write this memory at any time.
        unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(at)) }
            .store(value, Ordering::Release);
        true
    }

    /// The submission entry at an I/O address.
    #[must_use]
    pub fn sqe(&self, iova: u64) -> Option<Sqe> {
        let mut words = [0; 8];
        for (word, at) in words.iter_mut().zip((iova..).step_by(8)) {
            *word = self.load(at)?;
        }
        Some(Sqe::from_words(words))
    }

    /// The last of the first `entries` commands of the admin queue, since it was enabled, that has this opcode.
    #[must_use]
    pub fn admin_command(&self, opcode: AdminOpcode, entries: u64) -> Option<Sqe> {
        let asq = self.seen().asq;
        (0..entries)
            .map_while(|index| self.sqe(asq + index * 64).filter(|sqe| sqe.to_words()[0] != 0))
            .filter(|sqe| sqe.opcode() == opcode.0)
            .last()
    }
}

impl Properties for Watched {
    fn read(&self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let value = self.inner.read(offset, width)?;
        let ones = match width {
            Width::Dword => u64::from(u32::MAX),
            Width::Qword => u64::MAX,
        };
        if value == ones {
            self.seen().gone = true;
        }
        Ok(value)
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        if offset == offset::ASQ {
            let mut seen = self.seen();
            seen.asq = value;
            seen.epoch += 1;
        }
        self.inner.write(offset, width, value)
    }
}

impl Device for Watched {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn doorbells(&self, len: u64) -> Result<Doorbells, DeviceError> {
        self.inner.doorbells(len)
    }

    unsafe fn map_dma(&self, range: DmaRange<'_>) -> Result<(), DeviceError> {
        let base = range.base.as_ptr().expose_provenance();
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.map_dma(range) }?;
        self.seen().mapped.push((range.iova, range.len, base));
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), DeviceError> {
        let reachable = self.inner.port().is_running();
        let mut seen = self.seen();
        seen.torn += u64::from(reachable && !seen.gone);
        seen.mapped.retain(|(first, ..)| *first != iova);
        drop(seen);
        self.inner.unmap_dma(iova, len)
    }

    fn interrupt(&self, interrupt: Interrupt, eventfd: Option<OwnedFd>) -> Result<(), DeviceError> {
        self.inner.interrupt(interrupt, eventfd)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.inner.reset()
    }
}
