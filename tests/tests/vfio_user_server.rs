//! The subsystem's vfio-user port: what clients get from it, one after another and several at once.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbell::device::vfio_user::VfioUser;
use doorbell::device::{Device, DeviceError, Properties, Width};
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::register::offset;
use doorbell_spec::status::Status;
use doorbell_spec::vfio_user::{Command, IrqSet, irq, region};
use doorbell_spec::{admin, nvm};
use doorbell_subsystem::port::vfio_user::{BindError, Stop};
use doorbell_tests::function::{map, memory, ring};
use doorbell_tests::host::{DATA, Host, IOVA, LEN};
use doorbell_tests::port::{bind, refusal, serve, subsystem, works};
use doorbell_tests::wire::{Directory, PATIENCE, Wire};
use zerocopy::IntoBytes;

#[test]
fn a_host_shaped_like_that_of_spdk() {
    let directory = Directory::new("server");
    let subsystem = subsystem();
    // Its layout: a directory.
    let running = serve(directory.path(), &subsystem);
    let socket = directory.join("cntrl");
    works(&socket);

    let mut host = Host::connect(&socket).expect("connect");
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    for round in 0..200_u64 {
        let block = vec![round as u8 ^ 0x5a; 512];
        host.memory.write_all_at(&block, DATA).expect("fill");
        let write = nvm::write(1, round, 0).with_prp(IOVA + DATA, 0);
        assert!(host.io(write).expect("write").status().is_success());
        let read = nvm::read(1, round, 0).with_prp(IOVA + DATA + 4096, 0);
        assert!(host.io(read).expect("read").status().is_success());
        let mut back = vec![0; 512];
        host.memory.read_exact_at(&mut back, DATA + 4096).expect("read");
        assert_eq!(back, block, "round {round}");
    }
    // Memory that was never mapped is an error of that command.
    let outside = nvm::read(1, 0, 0).with_prp(IOVA + LEN, 0);
    assert!(!host.io(outside).expect("an answer").status().is_success());
    drop(host);
    drop(running);
    assert!(!socket.exists(), "unlinked");
}

#[test]
fn interrupts_are_signalled_and_can_be_taken_away() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut host = Host::connect(&path).expect("connect");
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("event");
    let set = irqs(IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER, 0, 1);
    assert_eq!(refusal(&mut host.wire, Command::DEVICE_SET_IRQS, &set, &[event.as_fd()]), None);
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    let mut count = [0; 8];
    let signalled = |count: &mut [u8; 8]| {
        let mut poll = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&timeout)).expect("poll");
        rustix::io::read(&event, count)
    };
    signalled(&mut count).expect("admin completions");
    assert!(host.io(nvm::flush(1)).expect("flush").status().is_success());
    signalled(&mut count).expect("an I/O completion");

    // With neither descriptor nor count.
    let set = irqs(IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER, 0, 0);
    assert_eq!(refusal(&mut host.wire, Command::DEVICE_SET_IRQS, &set, &[]), None);
    let _ = rustix::io::read(&event, &mut count);
    assert!(host.io(nvm::flush(1)).expect("flush").status().is_success());
    // A register read comes back behind everything the controller did before.
    host.register(offset::CSTS).expect("csts");
    assert!(rustix::io::read(&event, &mut count).is_err(), "nothing more");
}

fn irqs(flags: u32, start: u32, count: u32) -> Vec<u8> {
    IrqSet {
        argsz: 20.into(),
        flags: flags.into(),
        index: irq::MSIX.into(),
        start: start.into(),
        count: count.into(),
    }
    .as_bytes()
    .to_vec()
}

#[test]
fn the_driver_and_one_client_after_another() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    for _ in 0..3 {
        let device = VfioUser::open(&path, PATIENCE).expect("open");
        let info = device.info();
        assert_eq!((info.pci.vendor, info.vectors), (0xd00b, 128));
        assert!(info.resettable && info.needs_descriptor && info.bar_len >= 0x4000);
        let cap = device.read(offset::CAP, Width::Qword).expect("CAP");
        assert_eq!(cap & 0xffff, 4095);
        let doorbells = device.doorbells(0x1000).expect("doorbells");
        ring(&doorbells, 1000, 1);
        let file = memory(LEN);
        map(&device, 0, LEN, Some((file.as_fd(), 0))).expect("map");
        let again = map(&device, LEN - 4096, LEN, Some((file.as_fd(), 0))).unwrap_err();
        assert!(matches!(again, DeviceError::Refused { .. }), "{again}");
        device.unmap_dma(0, LEN).expect("unmap");
        device.unmap_dma(0, LEN).expect_err("not mapped any more");
        // A second client is told why not, and the first does not notice.
        let second = VfioUser::open(&path, PATIENCE).unwrap_err();
        assert!(second.to_string().contains("another client is attached"), "{second}");
        device.reset().expect("reset");
        assert_eq!(device.read(offset::CC, Width::Dword).expect("CC"), 0);
    }
    works(&path);
}

#[test]
fn a_client_that_shortens_its_memory() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut host = Host::connect(&path).expect("connect");
    host.enable().expect("enable");
    let error = host.memory.set_len(0).expect_err("sealed when it was mapped");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(IOVA + DATA, 0);
    assert!(host.admin(identify).expect("identify").status().is_success());
}

#[test]
fn without_bus_mastering_no_memory_is_touched() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let mut host = Host::connect(&path).expect("connect");
    host.enable().expect("enable");
    host.write(region::CONFIG, 4, &[0x02, 0x04]).expect("bus mastering off");
    let queue = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(IOVA + DATA, 0);
    host.memory.write_all_at(queue.with_cid(0).to_words().as_bytes(), 0).expect("entry");
    host.write(region::BAR0, 0x1000, &1_u32.to_le_bytes()).expect("doorbell");
    for _ in 0..50 {
        host.register(offset::CSTS).expect("csts");
    }
    let mut cqe = [0xff; 16];
    host.memory.read_exact_at(&mut cqe, 4096).expect("read");
    assert_eq!(cqe, [0; 16]);
    host.write(region::CONFIG, 4, &[0x06, 0x04]).expect("bus mastering on");
    let started = Instant::now();
    while cqe == [0; 16] {
        assert!(started.elapsed() < PATIENCE, "then it is");
        host.memory.read_exact_at(&mut cqe, 4096).expect("read");
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let subsystem = subsystem();
    let _running = serve(&path, &subsystem);
    let mut host = Host::connect(&path).expect("connect");
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    host.memory.write_all_at(&[0x77; 512], DATA).expect("fill");
    let write = nvm::write(1, 9, 0).with_prp(IOVA + DATA, 0);
    assert!(host.io(write).expect("write").status().is_success());
    // Queues, memory and half a message are left.
    host.wire.send_bytes(&[1, 2, 3], &[]).expect("send");
    let memory = host.memory.try_clone().expect("clone");
    drop(host);

    let mut host = Host::connect(&path).expect("at once");
    assert_eq!(host.register(offset::CC).expect("CC"), 0, "reset");
    memory.write_all_at(&[0; 16], 4096).expect("what was its completion queue");
    host.enable().expect("enable");
    host.create_queue().expect("queues");
    let read = nvm::read(1, 9, 0).with_prp(IOVA + DATA, 0);
    assert_eq!(host.io(read).expect("read").status(), Status::SUCCESS);
    let mut block = [0; 512];
    host.memory.read_exact_at(&mut block, DATA).expect("read");
    assert_eq!(block, [0x77; 512], "the namespace keeps its contents");
    memory.read_exact_at(&mut block[..16], 4096).expect("read");
    assert_eq!(block[..16], [0; 16], "and the first client's memory is its own again");
}

#[test]
fn ports_share_namespaces_and_paths_are_not_shared() {
    let directory = Directory::new("server");
    let subsystem = subsystem();
    let (a, b) = (directory.join("a"), directory.join("b"));
    let first = serve(&a, &subsystem);
    let _second = serve(&b, &subsystem);
    assert!(matches!(bind(&a, &subsystem), Err(BindError::Taken { .. })));
    let mut hosts = [&a, &b].map(|path| {
        let mut host = Host::connect(path).expect("connect");
        host.enable().expect("enable");
        host.create_queue().expect("queues");
        host
    });
    hosts[0].memory.write_all_at(&[0x42; 512], DATA).expect("fill");
    let write = nvm::write(1, 3, 0).with_prp(IOVA + DATA, 0);
    assert!(hosts[0].io(write).expect("write").status().is_success());
    let read = nvm::read(1, 3, 0).with_prp(IOVA + DATA, 0);
    assert!(hosts[1].io(read).expect("read").status().is_success());
    let mut block = [0; 512];
    hosts[1].memory.read_exact_at(&mut block, DATA).expect("read");
    assert_eq!(block, [0x42; 512]);
    // A server that stops while a client is attached.
    first.stop().expect("stop");
    assert!(!a.exists());
    assert!(hosts[0].register(offset::CSTS).is_err());
    assert!(hosts[1].register(offset::CSTS).is_ok());
    serve(&a, &subsystem);
}

#[test]
fn an_idle_server_costs_next_to_nothing() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let subsystem = subsystem();
    let server = bind(&path, &subsystem).expect("bind");
    let stop = Stop::new().expect("stop");
    let theirs = Arc::clone(&stop);
    // A thread's own processor time can only be read by itself; it is read once the server has returned.
    let thread = std::thread::spawn(move || {
        server.run(&theirs).expect("run");
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    });
    let mut host = Host::connect(&path).expect("connect");
    host.enable().expect("enable");
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("event");
    let mut never = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
    let idle = rustix::event::Timespec { tv_sec: 1, tv_nsec: 500_000_000 };
    // What is measured is a time in which nothing happens.
    rustix::event::poll(&mut never, Some(&idle)).expect("poll");
    stop.stop();
    let used = thread.join().expect("join");
    // The two percent of this time, and what bringing the controller up took.
    assert!(used < Duration::from_millis(30 + 30), "{used:?} of 1.5 s");
}

#[test]
fn a_client_that_says_nothing_does_not_keep_others_out() {
    let directory = Directory::new("server");
    let path = directory.join("socket");
    let _running = serve(&path, &subsystem());
    let silent = Wire::connect(&path).expect("connect");
    let started = Instant::now();
    // Turned away at first; served once the silent one has had its time.
    loop {
        match Host::connect(&path) {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
                assert!(started.elapsed() < PATIENCE, "kept out");
                std::thread::yield_now();
            }
        }
    }
    assert!(started.elapsed() > Duration::from_secs(4));
    let end = silent.receive();
    assert!(matches!(end, Ok(None)) || end.is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock));
}
