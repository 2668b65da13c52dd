//! Exercises the vfio device alone, on a real kernel: what the guests of tests/vm run, and anybody with a drive to
//! spare.
//!
//! usage: vfio-check BDF. Prints `ok NAME` or `failed NAME: WHY` per check; exit status 1 if one failed. Brings the
//! controller up with its admin queue only and sends one Identify; touches no namespace.

#![expect(unsafe_code, reason = "rings in shared memory, and the unsafe methods of the seam")]

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use doorbell::address::Bdf;
use doorbell::device::vfio::{Vfio, VfioError};
use doorbell::device::{Device, DeviceError, DmaRange, Interrupt, Properties, Width};
use doorbell::memory::{DmaMemory, MemoryConfig, MemoryError, PageKind};
use doorbell_spec::admin;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::register::{Aqa, Cap, Cc, Csts, offset};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

type Check = (&'static str, fn(Bdf) -> Outcome);
type Outcome = Result<(), Box<dyn Error>>;

const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> std::process::ExitCode {
    let Some(Ok(bdf)) = std::env::args().nth(1).map(|text| text.parse::<Bdf>()) else {
        eprintln!("usage: vfio-check 0000:01:00.0");
        return 2.into();
    };
    let checks: [Check; 8] = [
        ("facts", facts),
        ("registers", registers),
        ("doorbells", doorbells),
        ("mappings", mappings),
        ("mapping-limit", mapping_limit),
        ("nodes", nodes),
        ("interrupts-and-reset", interrupts_and_reset),
        ("turned-off", turned_off),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        match check(bdf) {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                println!("failed {name}: {why}");
                failed = 1;
            }
        }
    }
    failed.into()
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

fn open(bdf: Bdf) -> Result<Arc<Vfio>, DeviceError> {
    Vfio::open(bdf).map(Arc::new)
}

fn facts(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let info = device.info();
    println!("   {info:?}");
    ensure(info.pci.vendor != 0 && info.pci.vendor != 0xffff, || "no vendor".into())?;
    ensure(info.bar_len >= 0x2000 && info.vectors > 0, || "no BAR or no vectors".into())?;
    ensure(!info.iova.ranges.is_empty(), || "no I/O addresses".into())?;
    // x86 keeps a window for interrupt messages; a range that holds it would be no answer of the IOMMU.
    let window = 0xfee0_0000;
    ensure(!info.iova.ranges.iter().any(|range| range.contains(&window)), || "no hole".into())?;
    // One process, one holder: and the message names it.
    let error = Vfio::open(bdf).err().ok_or("opened twice")?;
    ensure(error.to_string().contains("this process itself"), || error.to_string())?;
    let busy = matches!(error, DeviceError::Vfio { source: VfioError::Busy { .. }, .. });
    ensure(busy, || format!("{error:?}"))
}

fn registers(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let whole = device.read(offset::CAP, Width::Qword)?;
    let low = device.read(offset::CAP, Width::Dword)?;
    let high = device.read(offset::CAP + 4, Width::Dword)?;
    ensure(whole == low | high << 32, || format!("{whole:x} is not {high:x}:{low:x}"))?;
    ensure(whole != 0 && whole != u64::MAX, || format!("CAP {whole:x}"))?;
    // AQA takes what is written; 64 bits reach both halves of ASQ.
    device.write(offset::ASQ, Width::Qword, 0x12_3456_7000)?;
    let back = device.read(offset::ASQ, Width::Qword)?;
    ensure(back == 0x12_3456_7000, || format!("ASQ {back:x}"))?;
    for (offset, width) in [(0x1000, Width::Dword), (0x3, Width::Dword), (0xffc, Width::Qword)] {
        ensure(device.read(offset, width).is_err(), || format!("{offset:x}h was read"))?;
    }
    Ok(())
}

fn doorbells(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let mapped = device.doorbells(0x1000)?;
    ensure(mapped.len == 0x1000, || "length".into())?;
    let too_long = device.doorbells(device.info().bar_len).err().ok_or("past the BAR")?;
    let short = matches!(too_long, DeviceError::Vfio { source: VfioError::BarTooShort { .. }, .. });
    ensure(short, || too_long.to_string())?;
    // They outlive the handle, and the function stays on as long: a write must not fault.
    drop(device);
    // SAFETY: inside the mapping. The controller is disabled, so it ignores the value (and QEMU's trace notes it).
    unsafe { AtomicU32::from_ptr(mapped.base.as_ptr()) }.store(0, Ordering::Relaxed);
    drop(mapped);
    open(bdf).map(drop).map_err(Into::into)
}

#[repr(align(4096))]
struct Pages([u8; 16384]);

fn mappings(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let mut pages = Box::new(Pages([0; 16384]));
    let base = NonNull::from(&mut pages.0).cast::<u8>();
    let range = |iova, len| DmaRange { base, len, iova, file: None };
    let first = 16 << 20;
    let last = *device.info().iova.ranges.last().ok_or("no range")?.end() & !0xfff;
    // SAFETY: the pages live until the device is dropped, and no command names them.
    let map = |iova, len| unsafe { device.map_dma(range(iova, len)) };
    map(first, 16384)?;
    ensure(map(first + 8192, 4096).is_err(), || "mapped over another mapping".into())?;
    ensure(map(first + 1, 4096).is_err(), || "mapped at a misaligned address".into())?;
    if last < u64::MAX - 0x1_0000 {
        ensure(map(last + 0x1000, 4096).is_err(), || "mapped past the last range".into())?;
    }
    map(last, 4096)?;
    device.unmap_dma(last, 4096)?;
    ensure(device.unmap_dma(last, 4096).is_err(), || "unmapped twice".into())?;
    device.unmap_dma(first, 16384)?;
    drop(device);
    Ok(())
}

/// As many mappings as the kernel keeps, and a clear word about one more.
fn mapping_limit(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let limit = device.info().iova.max_mappings.ok_or("no limit")?;
    if limit > 256 {
        println!(
            "   the limit is {limit}; load vfio_iommu_type1 with dma_entry_limit=16 to see it reached"
        );
        return Ok(());
    }
    let memory = DmaMemory::new(device, MemoryConfig::default())?;
    let register = || {
        let page = memmap2::MmapMut::map_anon(4096)?;
        Ok::<_, Box<dyn Error>>(memory.register(page)?)
    };
    let held = (0..limit).map(|_| register()).collect::<Result<Vec<_>, _>>()?;
    let error = register().err().ok_or("one more than the limit")?;
    let clear = matches!(error.downcast_ref(), Some(MemoryError::Mappings { .. }));
    ensure(clear, || error.to_string())?;
    drop(held);
    ensure(memory.stats().mappings == 0 && memory.stats().leaked == 0, || {
        format!("{:?}", memory.stats())
    })?;
    register().map(drop)
}

/// Memory lies on the node that is asked for, whatever it is made of.
fn nodes(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    for node in 0..2 {
        let place = std::path::PathBuf::from(format!("/sys/devices/system/node/node{node}"));
        if !place.is_dir() {
            println!("   there is no node {node}");
            return Ok(());
        }
        let free = place.join("hugepages/hugepages-2048kB/free_hugepages");
        let huge = std::fs::read_to_string(free)?.trim().parse::<u32>()? >= 2;
        let kinds = [(PageKind::Ordinary, true), (PageKind::Huge2M, huge)];
        for (pages, _) in kinds.into_iter().filter(|&(_, possible)| possible) {
            let mut config = MemoryConfig::default();
            (config.pages, config.numa_node) = (Some(pages), Some(node));
            let memory = DmaMemory::new(device.clone(), config)?;
            let buffer = memory.allocate(1)?;
            let maps = std::fs::read_to_string("/proc/self/numa_maps")?;
            let start = format!("{:x} ", buffer.as_ptr() as usize);
            let line = maps.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
            println!("   {pages:?} on node {node}: {line}");
            let others = (0..2).filter(|&other| other != node);
            let elsewhere = others.into_iter().any(|other| line.contains(&format!(" N{other}=")));
            ensure(line.contains(&format!(" N{node}=")) && !elsewhere, || line.into())?;
        }
    }
    Ok(())
}

/// Brings the controller up, has it identify itself with an interrupt, and resets it while it is enabled.
fn interrupts_and_reset(bdf: Bdf) -> Outcome {
    let device = open(bdf)?;
    let memory = DmaMemory::new(device.clone(), MemoryConfig::default())?;
    let doorbells = device.doorbells(0x1000)?;
    let vectors = device.info().vectors;
    ensure(device.interrupt(Interrupt::Vector(vectors), Some(event()?)).is_err(), || {
        "a vector too many".into()
    })?;
    let zero = event()?;
    // The last one first, so that the others are enabled beside it.
    device.interrupt(Interrupt::Vector(vectors - 1), Some(event()?))?;
    device.interrupt(Interrupt::Vector(0), Some(zero.try_clone()?))?;

    for round in 0..2 {
        let (asq, acq, data) =
            (memory.allocate(4096)?, memory.allocate(4096)?, memory.allocate(4096)?);
        let cap = Cap::from(device.read(offset::CAP, Width::Qword)?);
        let aqa = Aqa::new().with_asqs_z(15).with_acqs_z(15);
        device.write(offset::AQA, Width::Dword, u32::from(aqa).into())?;
        device.write(offset::ASQ, Width::Qword, asq.iova())?;
        device.write(offset::ACQ, Width::Qword, acq.iova())?;
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
        device.write(offset::CC, Width::Dword, u32::from(cc).into())?;
        wait_ready(&device)?;

        let sqe = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(data.iova(), 0);
        for (index, word) in sqe.to_words().into_iter().enumerate() {
            word_of(&asq, index).store(word, Ordering::Relaxed);
        }
        // SAFETY: the first doorbell, submission queue 0, whatever the stride.
        let doorbell = unsafe { AtomicU32::from_ptr(doorbells.base.as_ptr()) };
        doorbell.store(1, Ordering::Release);
        let mut fds = [PollFd::new(&zero, PollFlags::IN)];
        let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        ensure(poll(&mut fds, Some(&timeout))? == 1, || format!("round {round}: no interrupt"))?;
        let mut count = [0; 8];
        rustix::io::read(zero.as_fd(), &mut count)?;

        let completion = word_of(&acq, 1).load(Ordering::Acquire);
        ensure(completion >> 48 == 1, || format!("round {round}: completion {completion:x}"))?;
        let vendor = u16::from_le_bytes([data[0], data[1]]);
        ensure(vendor == device.info().pci.vendor, || format!("Identify says vendor {vendor:x}"))?;
        println!(
            "   CAP {:x}, serial '{}'",
            u64::from(cap),
            String::from_utf8_lossy(&data[4..24]).trim_end()
        );

        device.reset()?;
        let csts = Csts::from(device.read(offset::CSTS, Width::Dword)? as u32);
        ensure(!csts.rdy(), || "ready after a reset".into())?;
    }
    device.interrupt(Interrupt::Vector(0), None)?;
    Ok(())
}

fn wait_ready(device: &Vfio) -> Outcome {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        let csts = Csts::from(device.read(offset::CSTS, Width::Dword)? as u32);
        ensure(!csts.cfs(), || "controller fatal status".into())?;
        if csts.rdy() {
            return Ok(());
        }
        thread::yield_now();
    }
    Err("CSTS.RDY did not come".into())
}

fn word_of(ring: &doorbell::Buffer, index: usize) -> &AtomicU64 {
    assert!((index + 1) * 8 <= ring.len());
    // SAFETY: inside the buffer, aligned, and every access to it goes through atomics.
    unsafe { AtomicU64::from_ptr(ring.base().cast::<u64>().add(index).as_ptr()) }
}

fn event() -> Result<OwnedFd, rustix::io::Errno> {
    eventfd(0, EventfdFlags::CLOEXEC)
}

/// Once nobody holds the function, it masters the bus no more.
fn turned_off(bdf: Bdf) -> Outcome {
    let command = || -> Result<u8, std::io::Error> {
        let config = std::fs::read(format!("/sys/bus/pci/devices/{bdf}/config"))?;
        Ok(config.get(4).copied().unwrap_or(0xff))
    };
    let device = open(bdf)?;
    let on = command()?;
    ensure(on & 6 == 6, || format!("command register {on:x} while open"))?;
    let memory = DmaMemory::new(device.clone(), MemoryConfig::default())?;
    let buffer = memory.allocate(1)?;
    drop((device, memory));
    let held = command()?;
    ensure(held & 6 == 6, || format!("command register {held:x} while a buffer is held"))?;
    drop(buffer);
    let off = command()?;
    // Whether memory is decoded is up to the kernel, which restores what it found.
    ensure(off & 4 == 0, || format!("command register {off:x} after closing"))
}
