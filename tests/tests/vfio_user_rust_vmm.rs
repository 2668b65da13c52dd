//! The two sides of Doorbell's vfio-user against rust-vmm's crate of that name: its server under our client.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use doorbell::device::vfio_user::VfioUser;
use doorbell::device::{Device, DeviceError, Properties, Width};
use doorbell_tests::function::exercise;
use doorbell_tests::wire::{Directory, Model, Sharing};
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
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
