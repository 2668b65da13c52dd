//! A PCIe function used by hand, below the rings: what tests of devices have in common.

#![expect(unsafe_code, reason = "hands memory to a device, and stores through its mapping")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use doorbell::device::{Device, DeviceError, DmaRange, Doorbells, Interrupt, Width};

/// A memory file of `len` bytes.
///
/// # Panics
/// If the system has none.
pub fn memory(len: u64) -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("dma", flags).expect("memfd");
    rustix::fs::ftruncate(&file, len).expect("length");
    file
}

/// Maps `len` bytes of a file at `iova`. The memory is mapped nowhere in this process, so that nothing a device writes
/// to it can do harm here.
///
/// # Errors
/// What the device says.
pub fn map(
    device: &dyn Device,
    iova: u64,
    len: u64,
    file: Option<(BorrowedFd<'_>, u64)>,
) -> Result<(), DeviceError> {
    let range = DmaRange { base: NonNull::dangling(), len, iova, file };
    // SAFETY: the memory is the file's and no reference to it exists; a device of another process keeps the file.
    unsafe { device.map_dma(range) }
}

/// Stores `value` into doorbell `index`.
///
/// # Panics
/// If there is no such doorbell.
pub fn ring(doorbells: &Doorbells, index: usize, value: u32) {
    assert!((index as u64) < doorbells.len / 4, "no doorbell {index}");
    // SAFETY: within the mapping, which `doorbells` keeps alive.
    unsafe { doorbells.base.add(index).write_volatile(value) };
}

/// Registers, DMA, interrupts, reset, each once, against the device of [`crate::wire::Model`].
///
/// # Panics
/// If anything is not as it should be.
pub fn exercise(device: &dyn Device) {
    let info = device.info();
    assert_eq!((info.pci.vendor, info.pci.device), (0x1234, 0x5678));
    assert_eq!((info.pci.subsystem_vendor, info.pci.subsystem), (0xabcd, 0xef01));
    assert!(info.needs_descriptor && info.resettable);
    assert_eq!(info.vectors, 4);

    device.write(0x14, Width::Dword, 0xffff_ffff_dead_beef).expect("write");
    assert_eq!(device.read(0x14, Width::Dword).expect("read"), 0xdead_beef);
    device.write(0x28, Width::Qword, 0x0123_4567_89ab_cdef).expect("write");
    assert_eq!(device.read(0x28, Width::Qword).expect("read"), 0x0123_4567_89ab_cdef);

    let memory = memory(0x40_0000);
    map(device, 0x1_0000_0000, 0x20_0000, Some((memory.as_fd(), 0x20_0000))).expect("map");
    device.unmap_dma(0x1_0000_0000, 0x20_0000).expect("unmap");
    let error = map(device, 0x1_0000_0000, 0x20_0000, None).expect_err("no file");
    assert!(matches!(error, DeviceError::Unusable { .. }), "{error}");

    for vector in 0..4 {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("event");
        device.interrupt(Interrupt::Vector(vector), Some(event)).expect("connect");
        device.interrupt(Interrupt::Vector(vector), None).expect("disconnect");
    }
    for absent in [Interrupt::Vector(4), Interrupt::Removal] {
        assert!(matches!(device.interrupt(absent, None), Err(DeviceError::Unusable { .. })));
    }
    device.reset().expect("reset");
}
