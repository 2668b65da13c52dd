//! The port over TCP, without sockets: a small host talks to connections in virtual time.

#[cfg(feature = "fault-file")]
#[path = "../controller/acts.rs"]
mod acts;
mod connect;
mod discovery;
mod faults;
mod fuzz;
mod host;
mod io;
mod life;
#[cfg(feature = "fault-file")]
mod plans;
mod server;
mod shown;
mod violations;
