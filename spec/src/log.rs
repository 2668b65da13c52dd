//! Log pages: identifiers and contents.
//!
//! Owns Base 2.1 "Log Page Identifiers" and the pages with identifiers 00h to 05h. Relies on nothing.

/// LID: Log Page Identifier (Base 2.1, "Get Log Page - Log Page Identifiers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Lid(pub u8);
