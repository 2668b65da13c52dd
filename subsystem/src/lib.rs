//! An NVM subsystem in software: namespaces, controllers and the ports that serve them.
//!
//! ```text
//!   port::in_process   port::vfio_user   port::tcp  whose thread it is, what time it is
//!              \         /                  |
//!               Controller              fabrics     registers and queues; associations and connections
//!               /     |    \               |
//!     HostMemory      |   DoorbellPage     |        I/O addresses; shared doorbells
//!                     |                    |
//!                  controller::{core, io_command}   admin and I/O commands
//!                     |
//!                 Subsystem                         what controllers have in common
//!                     |
//!                 Namespace                         blocks and names
//!                     |
//!          backend::{memory, null, file}            bytes
//! ```
//!
//! A controller is a plain value without a thread and without a clock: a port gives it both. What the host can write
//! at any time (queue entries, lists of pages, doorbells) is copied once and then checked. Nothing that a host does can
//! make the controller panic, reach outside the memory it was given, or work without end.
//!
//! ```
//! use std::time::Duration;
//! use doorbell_subsystem::{Controller, ControllerConfig, InProcess, NamespaceSpec, Subsystem};
//!
//! let disk: NamespaceSpec = "memory:64MiB,block=4096".parse()?;
//! let subsystem = Subsystem::builder().serial("EXAMPLE1").namespace(disk.open()?).build();
//! let controller = Controller::new(subsystem.clone(), ControllerConfig::default())?;
//!
//! // A host reaches it through a port: here without a thread, one step at a time.
//! let port = InProcess::stepped(controller);
//! assert_eq!(port.read(0x08, 4), 0x0002_0000, "VS: revision 2.0");
//! assert_eq!(port.step(Duration::ZERO), 0, "nothing to do yet");
//!
//! // Namespaces come and go while controllers run.
//! let nsid = subsystem.add("null:1TiB".parse::<NamespaceSpec>()?.open()?)?;
//! assert_eq!(nsid, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it implements
//! NVM Express Base 2.0 and NVM command set 1.0, as an I/O controller on PCIe and over TCP.
//!
//! - **Registers**: CAP to CRTO as far as they are mandatory; every way in which enabling can fail ends in CSTS.CFS.
//!   Controller Reset, function level reset, shutdown notification (what was written becomes durable first). Page sizes
//!   4 KiB to 64 KiB; MQES, MDTS, DSTRD, the number of queues and of vectors are settings.
//! - **Queues**: contiguous, any number of submission queues on one completion queue. A full completion queue holds
//!   its submission queues back, and nobody else's. Interrupts by eventfd, each vector once a round.
//! - **Admin commands**: the mandatory ones and Doorbell Buffer Config. Identify 00-03, 05-08, 10-13, 1A-1C. Features 01,
//!   02, 04-0B, 0E, 0F (off), 16, 19, with every SEL. Log pages 00-05, 12, 13. Events: errors of doorbells,
//!   temperature threshold, namespaces changed.
//! - **I/O commands**: Flush, Write, Read, Compare, Write Zeroes, Dataset Management, Verify.
//! - **Misbehaviour**, by a seeded [plan of faults](fault).
//! - **Fabrics** (NVMe/TCP 1.0): Connect, Property Get and Set, Disconnect; header and data digests, in-capsule data, R2Ts
//!   as many as the host takes, SUCCESS, queues without flow control, HPDA; Keep Alive by traffic; a discovery service
//!   with referrals, persistent connections and its event; a list of allowed hosts; limits per host.
//! - **Namespaces** of 512 or 4096 byte blocks, in memory, in a file or nowhere, each shared by every controller.
//!
//! # What it does not implement
//! - SGLs beyond the one that fabrics need, fused commands, metadata and protection information, Write Uncorrectable, Copy, reservations, directives,
//!   streams, zones, key-value.
//! - Namespace management, Format, Sanitize, firmware update, self-test, security, NVMe-MI, virtualisation: their opcodes
//!   are answered with Invalid Command Opcode.
//! - The keep alive timer on PCIe, authentication and TLS over TCP, power states beyond one, host memory buffer, controller memory buffer, persistent memory
//!   region, boot partitions, NVM subsystem reset and shutdown, weighted round robin, pin and MSI interrupts. Interrupt
//!   coalescing is accepted and ignored.
//! - Abort stops Asynchronous Event Requests only: any other command that has been fetched is finished before the Abort
//!   is looked at. For the same reason identifiers in use are known, and a conflict reported, for event requests only
//!   (TGT-5).
//! - Commands are carried out one after another on the controller's thread. A backend that waits for a device makes the
//!   controller wait.

pub mod backend;
pub mod controller;
pub mod doorbells;
pub mod fabrics;
pub mod fault;
mod ids;
pub mod memory;
pub mod namespace;
pub mod namespace_spec;
pub mod port;
pub mod subsystem;

pub use backend::Backend;
pub use controller::{Controller, ControllerConfig, ControllerError};
pub use doorbells::{DoorbellMemory, DoorbellPage};
pub use memory::{HostBytes, MapError};
pub use namespace::{Namespace, NamespaceIds};
pub use namespace_spec::NamespaceSpec;
pub use port::in_process::InProcess;
pub use subsystem::{AddError, ChangeError, Subsystem, SubsystemBuilder};
