//! The result, for people and for programs.

pub mod json;
pub mod picture;
pub mod text;
