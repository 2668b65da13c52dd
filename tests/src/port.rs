//! A subsystem behind a vfio-user port, in this process.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use doorbell_spec::admin;
use doorbell_spec::identify::{Cns, Csi};
use doorbell_spec::vfio_user::{Capabilities, Command};
use doorbell_subsystem::port::vfio_user::{BindError, Running, Server};
use doorbell_subsystem::{Controller, ControllerConfig, NamespaceSpec, Subsystem};

use crate::host::{DATA, Host, IOVA};
use crate::wire::Wire;

/// A subsystem with one namespace of 64 MiB, serial number VFU0.
///
/// # Panics
/// If there is no memory for it.
pub fn subsystem() -> Arc<Subsystem> {
    let subsystem = Subsystem::builder().serial("VFU0").build();
    subsystem.add(NamespaceSpec::memory(64 << 20, 512).open().expect("memory")).expect("add");
    subsystem
}

/// Listens at `path` with a controller of its own.
///
/// # Errors
/// [`BindError`]
///
/// # Panics
/// If there is no controller to be had.
pub fn bind(path: &Path, subsystem: &Arc<Subsystem>) -> Result<Server, BindError> {
    let controller = Controller::new(Arc::clone(subsystem), ControllerConfig::default());
    Server::bind(path, controller.expect("controller"))
}

/// Serves at `path` on a thread.
///
/// # Panics
/// If that cannot be.
pub fn serve(path: &Path, subsystem: &Arc<Subsystem>) -> Running {
    bind(path, subsystem).expect("bind").spawn().expect("spawn")
}

/// Connects, and greets as a modern client does.
///
/// # Panics
/// If the greeting is not answered.
pub fn greet(path: &Path) -> Wire {
    let mut wire = Wire::connect(path).expect("connect");
    let payload = [&[0, 0, 1, 0], b"{\"capabilities\":{\"max_msg_fds\":8}}\0".as_slice()].concat();
    let reply = wire.call(Command::VERSION, &payload, &[]).expect("version");
    assert_eq!(reply.error(), None);
    assert_eq!(reply.payload[..4], [0, 0, 1, 0]);
    let capabilities = Capabilities::parse(&reply.payload[4..]).expect("capabilities");
    assert_eq!((capabilities.max_msg_fds, capabilities.pgsizes), (16, 4096));
    wire
}

/// What the server answers to a command: an error number, or nothing where it did it.
///
/// # Panics
/// If it does not answer.
pub fn refusal(
    wire: &mut Wire,
    command: Command,
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Option<i32> {
    wire.call(command, payload, fds).expect("a reply").error()
}

/// Asserts that the server still does what it should, for a client that is new.
///
/// # Panics
/// If it does not.
pub fn works(path: &Path) {
    let mut host = Host::connect(path).expect("connect");
    host.enable().expect("enable");
    let identify = admin::identify(Cns::CONTROLLER, 0, 0, Csi::NVM).with_prp(IOVA + DATA, 0);
    assert!(host.admin(identify).expect("identify").status().is_success());
    let mut serial = [0; 4];
    host.memory.read_exact_at(&mut serial, DATA + 4).expect("read");
    assert_eq!(&serial, b"VFU0");
}
