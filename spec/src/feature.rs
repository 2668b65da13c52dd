//! Features: identifiers and values of Set Features and Get Features.
//!
//! Owns Base 2.1 "Features" and the NVM command set's. Relies on nothing.

/// FID: Feature Identifier (Base 2.1, "Feature Identifiers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Fid(pub u8);

/// SEL: which value of a feature Get Features asks for (Base 2.1, "Get Features command").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Select(pub u8);
