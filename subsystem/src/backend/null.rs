//! A backend that completes at once and moves no data: for measuring everything around it.

use super::{Backend, MediaError, Properties};
use crate::memory::HostBytes;

/// Accepts every write and leaves the memory of every read as it was.
#[derive(Debug)]
pub struct Null {
    len: u64,
}

impl Null {
    /// A null backend that claims `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { len }
    }
}

impl Backend for Null {
    fn len(&self) -> u64 {
        self.len
    }

    fn properties(&self) -> Properties {
        Properties::default()
    }

    fn read(&self, _offset: u64, _into: &[HostBytes<'_>]) -> Result<(), MediaError> {
        Ok(())
    }

    fn write(&self, _offset: u64, _from: &[HostBytes<'_>]) -> Result<(), MediaError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), MediaError> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64, _deallocate: bool) -> Result<(), MediaError> {
        Ok(())
    }

    fn deallocate(&self, _offset: u64, _len: u64) -> Result<(), MediaError> {
        Ok(())
    }
}
