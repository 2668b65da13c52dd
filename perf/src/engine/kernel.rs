//! What both kernel engines share: an open file or block device, its geometry, and memory for direct I/O.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use memmap2::MmapMut;

/// A file or block device, open for measuring.
#[derive(Debug)]
pub struct KernelTarget {
    /// Where it is.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Bytes of a logical block.
    pub block: u32,
    /// Bytes in all.
    pub bytes: u64,
    /// Whether it is a block device.
    pub is_block_device: bool,
    /// Whether the page cache is bypassed.
    pub direct: bool,
    /// Whether it is a file with holes.
    pub is_sparse: bool,
}

impl KernelTarget {
    /// Opens a path, with direct I/O where the filesystem has it.
    ///
    /// # Errors
    /// It cannot be opened, or is neither a file nor a block device.
    pub fn open(path: &Path, write: bool, exclusive: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        let metadata = std::fs::metadata(path).with_context(|| {
            format!(
                "{shown}: this engine needs a block device or file (truncate -s 1G FILE makes one)"
            )
        })?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            bail!("{shown} is neither a block device nor a file");
        }
        // On a block device, O_EXCL makes the kernel refuse what is mounted or held.
        let exclusive = if exclusive && kind.is_block_device() { libc::O_EXCL } else { 0 };
        let open = |flags| {
            OpenOptions::new().read(true).write(write).custom_flags(flags | exclusive).open(path)
        };
        let (mut file, direct) = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(0), false),
            other => (other, true),
        }
        .map_file(|| format!("{shown}: cannot open{}", if write { " for writing" } else { "" }))?;
        let bytes = file.seek(SeekFrom::End(0)).with_context(|| format!("{shown}: no size"))?;
        let block = if kind.is_block_device() { logical_block(metadata.rdev()) } else { 512 };
        Ok(Self {
            path: path.to_owned(),
            file,
            block,
            bytes,
            is_block_device: kind.is_block_device(),
            direct,
            is_sparse: kind.is_file() && metadata.blocks() * 512 < bytes,
        })
    }
}

/// Adds context to the first half of a pair.
trait MapFile {
    fn map_file(self, what: impl FnOnce() -> String) -> anyhow::Result<(File, bool)>;
}

impl MapFile for (io::Result<File>, bool) {
    fn map_file(self, what: impl FnOnce() -> String) -> anyhow::Result<(File, bool)> {
        Ok((self.0.with_context(what)?, self.1))
    }
}

/// Logical block size of a block device, partitions included.
fn logical_block(device: u64) -> u32 {
    let base =
        PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    ["queue/logical_block_size", "../queue/logical_block_size"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(base.join(file)).ok()?.trim().parse().ok())
        .next()
        .unwrap_or(512)
}

/// One page-aligned buffer for each tag.
#[derive(Debug)]
pub(crate) struct Buffers {
    memory: MmapMut,
    each: usize,
}

impl Buffers {
    pub(crate) fn new(depth: u32, each: usize) -> io::Result<Self> {
        let page = each.next_multiple_of(4096);
        Ok(Self { memory: MmapMut::map_anon(page * depth as usize)?, each })
    }

    pub(crate) fn get(&mut self, tag: u32) -> &mut [u8] {
        let start = self.each.next_multiple_of(4096) * tag as usize;
        self.memory.get_mut(start..start + self.each).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut buffers = Buffers::new(3, 512).expect("memory");
        let first = buffers.get(0).as_ptr() as usize;
        assert_eq!(first % 4096, 0);
        assert_eq!(buffers.get(2).as_ptr() as usize - first, 8192);
        assert_eq!((buffers.get(2).len(), buffers.get(3).len()), (512, 0));
    }
}
