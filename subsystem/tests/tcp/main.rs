//! The port over TCP, without sockets: a small host talks to connections in virtual time.

mod connect;
mod discovery;
mod fuzz;
mod host;
mod io;
mod life;
mod server;
mod shown;
mod violations;
