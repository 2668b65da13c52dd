//! What the integration tests share.

pub mod fabric;
pub mod function;
pub mod fuzz;
pub mod host;
pub mod load;
pub mod model;
pub mod port;
pub mod process;
pub mod proxy;
pub mod ram;
pub mod rig;
pub mod watched;
pub mod wire;
