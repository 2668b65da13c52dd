//! How DMA memory is made, and where it stands.

/// Kind of pages that memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Hugepages of 1 GiB.
    Huge1G,
    /// Hugepages of 2 MiB.
    Huge2M,
    /// Ordinary pages, transparently huge where the system has that for shared memory.
    Ordinary,
}

impl PageKind {
    /// Length of one page in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Huge1G => 1 << 30,
            Self::Huge2M => 2 << 20,
            Self::Ordinary => 4096,
        }
    }
}

/// How DMA memory is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Only pages of this kind. By default hugepages where they are free, ordinary pages otherwise, with a notice.
    pub pages: Option<PageKind>,
    /// Most bytes that the pool may take from the system. No limit by default.
    pub limit: Option<u64>,
    /// NUMA node to prefer, instead of the device's own.
    pub numa_node: Option<u32>,
}

/// Where DMA memory stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes that the pool has from the system.
    pub reserved: u64,
    /// Of these, bytes in hugepages.
    pub huge: u64,
    /// Bytes of the pool that are in buffers.
    pub in_use: u64,
    /// Bytes of the application's memory that are mapped.
    pub registered: u64,
    /// Mappings at the device.
    pub mappings: u32,
    /// Bytes that are kept for good, because the device might still write to them.
    pub leaked: u64,
}
