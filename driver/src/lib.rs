//! Doorbell: NVMe from userspace, polled.
//!
//! A queue pair belongs to one thread. Commands go into a ring in memory that the device reads, completions come out of
//! another one; nothing on the way takes a lock, makes a system call or reads a clock.
//!
//! ```
//! use doorbell::QueueConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Or "pcie:0000:01:00.0", "vfio-user:/run/disk.sock", "tcp://host:4420/nqn".
//! let controller = doorbell::attach("embedded:size=64MiB")?;
//! let namespace = controller.namespace(1)?;
//! let mut queue = controller.queue(QueueConfig::default())?;
//!
//! let mut buffer = controller.buffer(4096)?;
//! buffer[..5].copy_from_slice(b"hello");
//! let done = queue.run(namespace.write(0, buffer))?;
//!
//! // Many commands under one doorbell: stage, ring, poll.
//! for lba in 0..8 {
//!     queue.stage(namespace.read(lba, controller.buffer(512)?).tag(lba))?;
//! }
//! queue.ring();
//! let mut read = 0;
//! while read < 8 {
//!     read += queue.poll(|done| assert!(done.status.is_success()));
//! }
//! # drop(done);
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//! ```text
//!  Namespace     geometry; builds commands                       namespace
//!  Controller    bring-up, admin commands, queues, shutdown      controller
//!  Queue         slots, buffers in flight, divided operations;   queue
//!                as futures, or behind a mailbox for threads
//!  ------------  Transport: stage, ring, next                    transport
//!  Tcp           connections of NVMe/TCP                         transport::tcp
//!  Pcie          rings, doorbells, address lists                 transport::pcie
//!  ------------  Device: registers, DMA, interrupts, reset       device
//!  Vfio | VfioUser | Embedded                                    device::*
//! ```
//! DMA memory ([`memory`]) lies beside them: a [`Buffer`] knows its I/O address, and goes by value into the queue and
//! back out with the completion.
//!
//! # Across a network
//! Nothing runs behind the caller's back, so a controller at a `tcp:` address lives on being polled: [`Queue::poll`] of any
//! of its I/O queues, or [`Controller::poll`], a few times within the Keep Alive Timeout (5 s unless the address says
//! otherwise) sends Keep Alive, finds out about losses, and connects again. A loss ends every command in flight with an
//! [`Outcome`]; what is staged meanwhile waits. The new association begins only when the old one's writes can no longer
//! be carried out: at once if the controller confirms that, otherwise after two or three Keep Alive Timeouts and the
//! controller's Command Quiesce Time. Options of the address ([`address::TcpOptions`]) change any of these times.
//!
//! # What always holds
//! - A buffer given to the device belongs to the queue until its completion arrives, or until the device provably cannot
//!   touch it any more. Dropping a future, a queue or the controller frees no memory under DMA; memory of a device that
//!   cannot even be reset is kept, and said.
//! - Nothing that a device says is used as an index, a length or a bound before it was checked.
//! - Every wait has a deadline, on a [clock](clock::Clock) that is passed in.
//! - No global state, no signal handler, no thread (that of the embedded subsystem apart).
//!
//! # Features
//! - `embedded` (default): addresses `embedded:`, a whole subsystem in this process.
#![warn(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod address;
pub mod clock;
pub mod controller;
pub mod device;
pub mod discovery;
pub mod error;
pub mod memory;
#[cfg(doctest)]
mod misuse;
pub mod namespace;
pub mod queue;
pub mod quirk;
pub mod transport;

pub use doorbell_spec as spec;

pub use address::Address;
pub use controller::{Config, Controller, Event, QueueConfig, RecoveryConfig, RecoveryCounters};
pub use error::{AttachError, CommandError, QueueError};
pub use memory::{Buffer, DmaMemory};
pub use namespace::{Namespace, NamespaceError};
pub use queue::{Done, Io, Queue, Reason, Rejected, Retries, SharedQueue};
pub use transport::Outcome;

/// Opens the device at `address` and brings its controller up, with the default configuration.
///
/// # Errors
/// [`AttachError`], which says what to do about it.
pub fn attach(address: &str) -> Result<Controller, AttachError> {
    Controller::attach(&address.parse()?, Config::default())
}
