//! A namespace: blocks, and the names by which hosts know it, over a [`Backend`].

use crate::backend::{Backend, Properties};
use crate::ids;

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
    backend: Box<dyn Backend>,
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
        Ok(Self { backend, block_shift, blocks: len >> block_shift, properties, ids: None })
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
