//! A namespace: its geometry, and the commands that fit it.

use doorbell_spec::command::Sqe;
use doorbell_spec::identify::IdentifyNamespace;
use doorbell_spec::nvm::{self, DsmAttributes, DsmRange};
use zerocopy::IntoBytes;

use crate::controller::Controller;
use crate::error::CommandError;
use crate::memory::Buffer;
use crate::queue::{Extent, Invalid, Io, Kind};
use crate::quirk::Quirks;

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// No such active namespace.
    #[error("{address}: there is no active namespace {nsid}; `identify` lists those there are")]
    Absent {
        /// Address as the user gave it.
        address: String,
        /// Namespace identifier.
        nsid: u32,
    },
    /// Its format cannot be used for I/O.
    #[error("{address}: namespace {nsid} {what}")]
    Unusable {
        /// Address as the user gave it.
        address: String,
        /// Namespace identifier.
        nsid: u32,
        /// What it reports, and what would be needed.
        what: String,
    },
    /// A command failed.
    #[error("{address}: identify namespace {nsid}: {source}")]
    Command {
        /// Address as the user gave it.
        address: String,
        /// Namespace identifier; 0 for the list of all.
        nsid: u32,
        /// The failure.
        source: CommandError,
    },
}

/// A namespace of a controller. Clones are handles to the same one.
///
/// # When it changes
/// A handle keeps the geometry that the namespace had when it was asked for. After the namespace has been formatted or
/// removed, a queue refuses every command of the handle ([`Invalid::Reformatted`]), so that none moves more data than
/// its buffer holds; ask for the namespace again. That holds from the moment at which this driver knows: at once for what
/// goes through [`Controller::admin`], which lets no I/O command be with the controller meanwhile; as soon as
/// [`Controller::poll`] has read the notice for what other hosts do. Until then a command is carried out in blocks of
/// the new size, and where those are larger a controller on this machine may move data to and from other memory that
/// is mapped for it, though to none that is not: whoever formats namespaces that others use has to tell them first.
/// Commands of handles older than the last format of another namespace take a slower way.
#[derive(Clone)]
pub struct Namespace {
    id: u32,
    block_shift: u8,
    /// No command may cross a multiple of this many blocks; 0 where it does not matter.
    boundary: u32,
    /// Blocks of a Write Zeroes.
    max_write_zeroes: u32,
    /// Blocks of a Verify.
    max_verify: u32,
    blocks: u64,
    /// As of the controller, whose queues alone take commands of this format: another might move more data for them.
    home: usize,
    /// As of [`Extent`]: a command of this handle is refused where the namespace has another format since.
    made: u32,
    identify: Box<IdentifyNamespace>,
    controller: Controller,
}

/// Blocks that the 16-bit field of a command can say.
const MAX_BLOCKS: u32 = 1 << 16;

impl Namespace {
    pub(crate) fn new(
        controller: Controller,
        nsid: u32,
        identify: Box<IdentifyNamespace>,
        made: u32,
    ) -> Result<Self, NamespaceError> {
        let address = || controller.address().to_owned();
        let unusable = |what: String| NamespaceError::Unusable { address: address(), nsid, what };
        if identify.is_absent() {
            return Err(NamespaceError::Absent { address: address(), nsid });
        }
        let Some(block_size) = identify.block_size() else {
            return Err(unusable("reports no LBA format that can be used".into()));
        };
        if identify.size().is_none() {
            return Err(unusable("reports a size of more than 2^64 bytes".into()));
        }
        let metadata = identify.lba_format().map_or(0, |format| format.ms.get());
        if metadata != 0 {
            let what = format!(
                "is formatted with {metadata} bytes of metadata a block; format it with an LBA format that has none"
            );
            return Err(unusable(what));
        }
        let limits = controller.limits();
        if block_size as usize > limits.max_transfer {
            let what = format!(
                "has blocks of {block_size} bytes, but the controller moves {} bytes a command",
                limits.max_transfer
            );
            return Err(unusable(what));
        }
        let block_shift = block_size.trailing_zeros() as u8;
        // A boundary that is no power of two is ignored, as everybody does.
        let boundary = u32::from(identify.noiob.get());
        let boundary = if boundary.is_power_of_two() { boundary } else { 0 };
        let stripe = u32::try_from(limits.max_transfer >> block_shift).unwrap_or(0);
        let boundary = match boundary {
            0 if controller.quirks().has(Quirks::STRIPE) && stripe.is_power_of_two() => stripe,
            other => other,
        };
        let blocks = |bytes: usize| {
            let blocks = u32::try_from(bytes >> block_shift).unwrap_or(u32::MAX);
            blocks.clamp(1, MAX_BLOCKS)
        };
        Ok(Self {
            id: nsid,
            block_shift,
            boundary,
            max_write_zeroes: blocks(limits.max_write_zeroes),
            max_verify: blocks(limits.max_verify),
            blocks: identify.nsze.get(),
            home: controller.home(),
            made,
            identify,
            controller,
        })
    }

    /// Namespace identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        1 << self.block_shift
    }

    /// Size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks << self.block_shift
    }

    /// What the controller says of the namespace.
    #[must_use]
    pub fn identify(&self) -> &IdentifyNamespace {
        &self.identify
    }

    /// The controller it was reached through.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Reads from block `lba` until `buffer` is full.
    #[inline(always)]
    pub fn read(&self, lba: u64, buffer: Buffer) -> Io {
        self.with_data(nvm::read(self.id, lba, 0), buffer)
    }

    /// Writes all of `buffer` from block `lba`.
    #[inline(always)]
    pub fn write(&self, lba: u64, buffer: Buffer) -> Io {
        self.with_data(nvm::write(self.id, lba, 0), buffer)
    }

    /// Compares the blocks from `lba` with `buffer`; a difference is status Compare Failure (2/85).
    #[inline(always)]
    pub fn compare(&self, lba: u64, buffer: Buffer) -> Io {
        self.with_data(nvm::compare(self.id, lba, 0), buffer)
    }

    /// Writes zeroes to `blocks` blocks from `lba`, without moving data.
    pub fn write_zeroes(&self, lba: u64, blocks: u64) -> Io {
        let command = nvm::write_zeroes(self.id, lba, 0);
        if self.controller.quirks().has(Quirks::NO_WRITE_ZEROES) {
            let broken = Invalid::Broken { what: "Write Zeroes" };
            return Io::whole(command, None, Kind::Invalid(broken), self.made);
        }
        self.without_data(command, blocks, self.max_write_zeroes)
    }

    /// Checks that `blocks` blocks from `lba` can be read, without moving data.
    pub fn verify(&self, lba: u64, blocks: u64) -> Io {
        self.without_data(nvm::verify(self.id, lba, 0), blocks, self.max_verify)
    }

    /// Makes every write that has completed durable.
    pub fn flush(&self) -> Io {
        Io::internal(nvm::flush(self.id)).at(self.home)
    }

    /// Says that the contents of `ranges` (first block, blocks), 1 to 256 of them, are no longer needed. The list goes
    /// through `buffer`, 16 bytes a range; give 4,096 bytes, which is what some controllers read whatever is listed.
    pub fn deallocate(&self, ranges: &[(u64, u32)], mut buffer: Buffer) -> Io {
        let len = buffer.len();
        let valid =
            (1..=256).contains(&ranges.len()) && len >= ranges.len() * size_of::<DsmRange>();
        let kind = if valid {
            for (entry, &(lba, blocks)) in
                buffer.chunks_exact_mut(size_of::<DsmRange>()).zip(ranges)
            {
                entry.copy_from_slice(DsmRange::new(lba, blocks).as_bytes());
            }
            Kind::Whole
        } else {
            Kind::Invalid(Invalid::Ranges { ranges: ranges.len(), len })
        };
        let ranges_z = ranges.len().wrapping_sub(1) as u8;
        let command = nvm::dsm(self.id, ranges_z, DsmAttributes::new().with_ad(true));
        Io::whole(command, Some(buffer), kind, self.made).at(self.home)
    }

    #[inline(always)]
    fn with_data(&self, command: Sqe, buffer: Buffer) -> Io {
        let extent = Extent {
            blocks: 0,
            block_shift: self.block_shift,
            boundary: self.boundary,
            max_blocks: MAX_BLOCKS,
            home: self.home,
            made: self.made,
        };
        Io::data(command, buffer, extent)
    }

    fn without_data(&self, command: Sqe, blocks: u64, max_blocks: u32) -> Io {
        let Self { block_shift, home, made, .. } = *self;
        let extent = Extent { blocks, block_shift, boundary: 0, max_blocks, home, made };
        Io::over(command, extent)
    }
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("controller", &self.controller.address())
            .field("id", &self.id)
            .field("block_size", &self.block_size())
            .field("blocks", &self.blocks)
            .finish()
    }
}
