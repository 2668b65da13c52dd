//! What the integration tests share.

pub mod function;
pub mod wire;
