//! What the integration tests share.

pub mod function;
pub mod model;
pub mod rig;
pub mod wire;
