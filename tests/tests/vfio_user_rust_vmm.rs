//! Both sides of Doorbell's vfio-user against rust-vmm's crate of that name, which Cloud Hypervisor uses: its server
//! under our client, and its client on our server.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use doorbell::device::vfio_user::VfioUser;
use doorbell::device::{Device, DeviceError, Properties, Width};
use doorbell_spec::register::{Aqa, Cc, Csts, offset};
use doorbell_spec::{admin, identify};
use doorbell_tests::function::{self, exercise};
use doorbell_tests::port::{self, works};
use doorbell_tests::wire::{Directory, Model, PATIENCE, Sharing};
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{
    Client, DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

const DEADLINE: Duration = Duration::from_secs(5);

struct Backend(Model, Vec<File>);

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let memory = if region == 0 { &self.0.registers } else { &self.0.config };
        let start = offset as usize;
        let bytes = memory.get(start..start + data.len()).ok_or(io::ErrorKind::InvalidInput)?;
        data.copy_from_slice(bytes);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let memory = if region == 0 { &mut self.0.registers } else { &mut self.0.config };
        let start = offset as usize;
        memory[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        assert_eq!(flags, DmaMapFlags::READ_WRITE);
        assert_eq!((offset, address, size), (0x20_0000, 0x1_0000_0000, 0x20_0000));
        self.1.push(fd.expect("a file"));
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        assert_eq!((address, size), (0x1_0000_0000, 0x20_0000));
        assert!(self.1.pop().is_some());
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_irqs(
        &mut self,
        _: u32,
        _: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        assert!(start < 4 && count == 1 && fds.len() <= 1);
        Ok(())
    }
}

fn serve(path: &Path, sparse: bool) -> std::thread::JoinHandle<()> {
    let model = Model::new(Sharing::Whole);
    let bar0 = model.doorbells.as_raw_fd();
    let regions = (0..9)
        .map(|index| {
            let size = match index {
                0 => 0x4000,
                7 => 256,
                _ => 0,
            };
            let flags = if index == 0 { 7 } else { 3 };
            let area = vfio_region_sparse_mmap_area { offset: 0x1000, size: 0x1000 };
            ServerRegion {
                region_info: vfio_region_info {
                    argsz: 32,
                    flags,
                    index,
                    size,
                    ..Default::default()
                },
                sparse_areas: if index == 0 && sparse {
                    vec![SparseArea { area }]
                } else {
                    Vec::new()
                },
                mmap_fd: (index == 0).then_some(bar0),
            }
        })
        .collect();
    let irqs = (0..5).map(|index| IrqInfo { index, flags: 1, count: 4 }).collect();
    let server = Server::new(path, true, irqs, regions).expect("server");
    std::thread::spawn(move || {
        let mut backend = Backend(model, Vec::new());
        server.run(&mut backend).expect("run");
    })
}

#[test]
fn with_a_sparse_area() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = serve(&path, true);
    let device = VfioUser::open(&path, DEADLINE).expect("open");
    exercise(&device);
    assert!(device.doorbells(0x1000).is_ok());
    let refused = device.read(0x2000, Width::Dword).unwrap_err();
    assert!(matches!(refused, DeviceError::Refused { .. }), "{refused}");
    device.read(0, Width::Dword).expect("still in step");
    drop(device);
    server.join().unwrap();
}

#[test]
fn without_sparse_areas_it_sends_no_file() {
    let directory = Directory::new("client");
    let path = directory.join("socket");
    let server = serve(&path, false);
    let error = VfioUser::open(&path, DEADLINE).unwrap_err();
    assert!(matches!(error, DeviceError::Unusable { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn its_client_drives_our_server() {
    let directory = Directory::new("rust-vmm");
    let path = directory.join("socket");
    let _running = port::serve(&path, &port::subsystem());
    let mut client = Client::new(&path).expect("connect");
    let bar0 = client.region(0).expect("BAR0");
    assert_eq!((bar0.size, bar0.sparse_areas.len()), (0x4000, 1));
    assert_eq!((bar0.sparse_areas[0].offset, bar0.sparse_areas[0].size), (0x1000, 0x1000));
    let shared = bar0.file_offset.as_ref().expect("a file");
    let doorbells = shared.file().try_clone().expect("clone");
    let start = shared.start() + 0x1000;
    assert_eq!(client.region(7).expect("configuration space").size, 4096);
    assert_eq!(client.get_irq_info(2).expect("MSI-X").count, 128);

    let mut id = [0; 4];
    client.region_read(7, 0, &mut id).expect("identity");
    assert_eq!(id, [0x0b, 0xd0, 1, 0]);
    client.region_write(7, 4, &[0x06, 0x04]).expect("bus master");
    let memory = File::from(function::memory(1 << 20));
    client.dma_map(0, 0x10_0000, 1 << 20, memory.as_raw_fd()).expect("map");
    let events: Vec<_> = (0..8)
        .map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("event"))
        .collect();
    let fds: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    client.set_irqs(2, 0x24, 0, 8, &fds).expect("interrupts");

    let write = |client: &mut Client, at: u64, value: &[u8]| {
        client.region_write(0, at, value).expect("register");
    };
    let aqa = Aqa::new().with_asqs_z(15).with_acqs_z(15);
    write(&mut client, offset::AQA, &aqa.into_bits().to_le_bytes());
    write(&mut client, offset::ASQ, &0x10_0000_u64.to_le_bytes());
    write(&mut client, offset::ACQ, &0x10_1000_u64.to_le_bytes());
    let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
    write(&mut client, offset::CC, &cc.into_bits().to_le_bytes());
    let mut csts = [0; 4];
    client.region_read(0, offset::CSTS, &mut csts).expect("status");
    assert!(Csts::from_bits(u32::from_le_bytes(csts)).rdy());

    let command = admin::identify(identify::Cns::CONTROLLER, 0, 0, identify::Csi::NVM);
    let words = command.with_cid(7).with_prp(0x10_2000, 0).to_words();
    memory.write_all_at(zerocopy::IntoBytes::as_bytes(&words), 0).expect("entry");
    doorbells.write_all_at(&1_u32.to_le_bytes(), start).expect("doorbell");
    let mut poll = [rustix::event::PollFd::new(&events[0], rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut poll, Some(&timeout)), Ok(1), "an interrupt");
    let mut cqe = [0; 16];
    memory.read_exact_at(&mut cqe, 0x1000).expect("completion");
    assert_eq!(cqe[12..], [7, 0, 1, 0], "identifier 7, phase 1, success");
    let mut serial = [0; 4];
    memory.read_exact_at(&mut serial, 0x2004).expect("data");
    assert_eq!(&serial, b"VFU0");

    client.reset().expect("reset");
    client.dma_unmap(0x10_0000, 1 << 20).expect("unmap");
    client.shutdown().expect("shut down");
    works(&path);
}
