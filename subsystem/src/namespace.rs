//! A namespace: blocks, and the names by which hosts know it, over a [`Backend`].

use std::sync::Arc;

use crate::backend::{Backend, MediaError, Properties};
use crate::ids;

/// log2 of the block sizes that are served: the LBA formats, in their order.
pub(crate) const FORMATS: [u32; 2] = [9, 12];

/// Why a namespace cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The block size is not one of those that are served.
    #[error("blocks of {0} bytes are not served; use 512 or 4096")]
    BlockSize(u32),
    /// The backend does not hold a whole number of blocks, or not one.
    #[error(
        "{len} bytes are no whole number of blocks of {block_size} bytes; make it a multiple, not 0"
    )]
    Length {
        /// Bytes of the backend.
        len: u64,
        /// Bytes of a block.
        block_size: u32,
    },
}

/// The names of a namespace; all zero means that it has none of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// Namespace Globally Unique Identifier.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier.
    pub eui64: [u8; 8],
    /// Universally Unique Identifier.
    pub uuid: [u8; 16],
}

/// Blocks over a backend.
pub struct Namespace {
    backend: Arc<dyn Backend>,
    block_shift: u32,
    blocks: u64,
    properties: Properties,
    ids: Option<NamespaceIds>,
}

impl Namespace {
    /// A namespace of blocks of `block_size` bytes, 512 or 4096, over `backend`. The subsystem names it.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn new(backend: impl Backend + 'static, block_size: u32) -> Result<Self, NamespaceError> {
        Self::boxed(Box::new(backend), block_size)
    }

    /// As [`Namespace::new`], for a backend that is boxed already.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn boxed(backend: Box<dyn Backend>, block_size: u32) -> Result<Self, NamespaceError> {
        if block_size != 512 && block_size != 4096 {
            return Err(NamespaceError::BlockSize(block_size));
        }
        let len = backend.len();
        if len == 0 || !len.is_multiple_of(u64::from(block_size)) {
            return Err(NamespaceError::Length { len, block_size });
        }
        let block_shift = block_size.trailing_zeros();
        let properties = backend.properties();
        let backend = backend.into();
        Ok(Self { backend, block_shift, blocks: len >> block_shift, properties, ids: None })
    }

    /// The same storage under the same names, of as many whole blocks as `bytes` make: what
    /// [`Subsystem::resize`](crate::Subsystem::resize) puts in this one's place.
    ///
    /// # Errors
    /// [`NamespaceError::Length`]: not one block, or more than the backend holds.
    pub fn resized(&self, bytes: u64) -> Result<Self, NamespaceError> {
        let block_size = self.block_size();
        if bytes > self.backend.len() || !bytes.is_multiple_of(block_size.into()) || bytes == 0 {
            return Err(NamespaceError::Length { len: bytes, block_size });
        }
        Ok(self.view(self.block_shift, bytes))
    }

    /// The same storage under the same names, in blocks of another size: what
    /// [`Subsystem::format`](crate::Subsystem::format) puts in this one's place. What does not make a whole block is
    /// left out.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn reformatted(&self, block_size: u32) -> Result<Self, NamespaceError> {
        let shift = FORMATS.into_iter().find(|shift| 1 << shift == block_size);
        let shift = shift.ok_or(NamespaceError::BlockSize(block_size))?;
        let len = self.backend.len();
        if len >> shift == 0 {
            return Err(NamespaceError::Length { len, block_size });
        }
        Ok(self.view(shift, len))
    }

    fn view(&self, block_shift: u32, bytes: u64) -> Self {
        let Self { ref backend, properties, ids, .. } = *self;
        Self {
            backend: Arc::clone(backend),
            block_shift,
            blocks: bytes >> block_shift,
            properties,
            ids,
        }
    }

    /// Makes everything that is stored read as zeroes.
    pub(crate) fn erase(&self) -> Result<(), MediaError> {
        let len = self.blocks << self.block_shift;
        match self.properties.zeroes {
            true => self.backend.deallocate(0, len),
            false => self.backend.zero(0, len, true),
        }
    }

    /// The same namespace under names of the caller's choice.
    #[must_use]
    pub fn with_ids(mut self, ids: NamespaceIds) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        1 << self.block_shift
    }

    /// Blocks.
    #[inline]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The names, once the namespace is part of a subsystem.
    pub fn ids(&self) -> NamespaceIds {
        self.ids.unwrap_or_default()
    }

    /// The storage.
    #[inline]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What the storage is like.
    #[inline]
    pub fn properties(&self) -> Properties {
        self.properties
    }

    #[inline]
    pub(crate) fn block_shift(&self) -> u32 {
        self.block_shift
    }

    /// Gives the namespace the names of `other`, if it has none.
    pub(crate) fn name_like(&mut self, other: &Self) {
        self.ids = self.ids.or(other.ids);
    }

    /// Gives the namespace names derived from where it stands, if it has none.
    pub(crate) fn name(&mut self, nqn: &str, serial: &str, nsid: u32) {
        self.ids.get_or_insert_with(|| NamespaceIds {
            nguid: ids::nguid(&[nqn, serial], nsid),
            eui64: [0; 8],
            uuid: ids::uuid(&[nqn, serial], nsid),
        });
    }
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("blocks", &self.blocks)
            .field("block_size", &self.block_size())
            .finish_non_exhaustive()
    }
}
