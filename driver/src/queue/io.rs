//! What goes into a queue and what comes out: [`Io`], [`Done`], [`Rejected`].

use std::fmt;

use doorbell_spec::command::Sqe;
use doorbell_spec::status::Status;

use crate::error::CommandError;
use crate::memory::Buffer;
use crate::transport::{Outcome, Violation};

/// How the blocks of a command may be divided among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Blocks from the command's first; more than one command can carry is allowed.
    pub(crate) blocks: u64,
    /// log2 of the block size in bytes.
    pub(crate) block_shift: u8,
    /// No command may cross a multiple of this many blocks (a power of two); 0 where it does not matter.
    pub(crate) boundary: u32,
    /// Blocks one command may have, whatever the data: 65,536 or a limit of the command.
    pub(crate) max_blocks: u32,
    /// As of the controller whose namespace it is, which alone takes the command; 0 if it names none.
    pub(crate) home: usize,
    /// Format changes of the controller's namespaces when this one was identified; see [`Gate`](super::Gate).
    pub(crate) made: u32,
}

impl Extent {
    /// Of commands that cannot be divided.
    const NONE: Self =
        Self { blocks: 0, block_shift: 0, boundary: 0, max_blocks: 0, home: 0, made: 0 };

    /// Whether `len` bytes are not whole blocks.
    #[inline(always)]
    pub(crate) fn is_partial(&self, len: usize) -> bool {
        len & ((1 << self.block_shift) - 1) != 0
    }

    /// Whether the blocks from `lba` lie across a boundary.
    #[inline(always)]
    pub(crate) fn crosses(&self, lba: u64) -> bool {
        self.boundary != 0 && {
            let boundary = u64::from(self.boundary);
            (lba & (boundary - 1)).wrapping_add(self.blocks) > boundary
        }
    }

    /// Whether one command can cover the blocks from `lba`: at least one, not too many, and across no boundary. Whether
    /// the namespace has them is for the controller to say.
    pub(crate) fn fits_one(&self, lba: u64) -> bool {
        self.blocks.wrapping_sub(1) < u64::from(self.max_blocks) && !self.crosses(lba)
    }
}

/// What kind of handling a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Blocks: one command if it can carry them, otherwise several.
    Blocks,
    /// One command, whose data are described by itself, and cannot be divided.
    Whole,
    /// One command of the caller's making: nothing is known of how much data it moves.
    Raw,
    /// One of the driver's own commands, with a data pointer of its own.
    Internal,
    /// Never sent.
    Invalid(Invalid),
}

/// Why a command was never sent: it contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// Data must be whole blocks, and at least one.
    #[error(
        "{len} bytes of data are not a whole number of {block_size}-byte blocks (at least one)"
    )]
    PartialBlock {
        /// Bytes given.
        len: usize,
        /// Block size in bytes.
        block_size: u32,
    },
    /// A range of no blocks, or past the last block address.
    #[error("no command can cover {blocks} blocks from block {lba}")]
    BlockRange {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u64,
    },
    /// Dataset Management takes 1 to 256 ranges, and 16 bytes of buffer for each.
    #[error(
        "{ranges} ranges in a buffer of {len} bytes: 1 to 256 ranges fit a command, 16 bytes each"
    )]
    Ranges {
        /// Ranges given.
        ranges: usize,
        /// Bytes of the buffer.
        len: usize,
    },
    /// The drive is known to do it wrong.
    #[error("{what} does not work on this drive; override its quirks to try it all the same")]
    Broken {
        /// Which command.
        what: &'static str,
    },
    /// The namespace is one controller's, the queue another's.
    #[error(
        "the namespace belongs to one controller and the queue to another; open the namespace through the queue's"
    )]
    Elsewhere,
    /// The namespace has another format than the one that the command was made for.
    #[error(
        "namespace {nsid} has, or may have, another format than this command was made for; ask the controller for the namespace again"
    )]
    Reformatted {
        /// Namespace identifier.
        nsid: u32,
    },
    /// The command would change what the driver's own memory safety rests on.
    #[error("{what} is the driver's to send; it cannot be passed through")]
    Reserved {
        /// Which command or field.
        what: &'static str,
    },
}

/// A command with its data, ready for [`Queue::stage`](crate::Queue::stage).
///
/// Made by [`Namespace`](crate::Namespace) (`read`, `write`, ...) or, for any other command, by [`Io::raw`].
#[must_use = "a command does nothing until it is staged"]
pub struct Io {
    pub(crate) command: Sqe,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) tag: u64,
    pub(crate) kind: Kind,
    pub(crate) extent: Extent,
}

impl Io {
    /// Any command, as it stands. Identifier and data pointer are filled in; the data are all of `buffer`.
    ///
    /// A command that moves more data than `buffer` holds runs into unmapped addresses and fails; it reaches no other
    /// memory. Fields that would (a metadata pointer, an SGL), and fused halves, are refused when staged.
    pub fn raw(mut command: Sqe, buffer: Option<Buffer>) -> Self {
        let reserved = |what| Kind::Invalid(Invalid::Reserved { what });
        let kind = if command.mptr != 0 {
            reserved("a metadata pointer")
        } else if command.cdw0.psdt() != 0 {
            reserved("an SGL data pointer")
        } else if command.cdw0.fuse() != 0 {
            reserved("half of a fused operation")
        } else {
            Kind::Raw
        };
        (command.prp1, command.prp2) = (0, 0);
        Self { command, buffer, tag: 0, kind, extent: Extent::NONE }
    }

    /// One of the driver's own commands, with whatever data pointer it has.
    pub(crate) fn internal(command: Sqe) -> Self {
        Self { command, buffer: None, tag: 0, kind: Kind::Internal, extent: Extent::NONE }
    }

    /// A command whose data are described by itself, and can neither be divided nor be more than `buffer`; `made` as in
    /// [`Extent`].
    pub(crate) fn whole(command: Sqe, buffer: Option<Buffer>, kind: Kind, made: u32) -> Self {
        Self { command, buffer, tag: 0, kind, extent: Extent { made, ..Extent::NONE } }
    }

    /// A command that moves all of `buffer` to or from its blocks.
    #[inline(always)]
    pub(crate) fn data(command: Sqe, buffer: Buffer, mut extent: Extent) -> Self {
        extent.blocks = (buffer.len() >> extent.block_shift) as u64;
        // Of whole blocks the same as their number less one, and what is not whole is never sent.
        let blocks_z = buffer.len().wrapping_sub(1) >> extent.block_shift;
        let command = command.with_nlb_z(blocks_z as u16);
        Self { command, buffer: Some(buffer), tag: 0, kind: Kind::Blocks, extent }
    }

    /// A command over the blocks of `extent`, without data.
    pub(crate) fn over(command: Sqe, extent: Extent) -> Self {
        let command = command.with_nlb_z(extent.blocks.wrapping_sub(1) as u16);
        Self { command, buffer: None, tag: 0, kind: Kind::Blocks, extent }
    }

    /// About a namespace of the controller `home`.
    pub(crate) fn at(mut self, home: usize) -> Self {
        self.extent.home = home;
        self
    }

    /// What is wrong with a command over blocks, if anything is.
    pub(crate) fn invalid(&self) -> Option<Invalid> {
        if let Some(buffer) = &self.buffer {
            let len = buffer.len();
            let block_size = 1u32 << self.extent.block_shift;
            if len == 0 || len & (block_size as usize - 1) != 0 {
                return Some(Invalid::PartialBlock { len, block_size });
            }
        }
        let (lba, blocks) = (self.command.slba(), self.extent.blocks);
        if blocks == 0 || lba.checked_add(blocks).is_none() {
            return Some(Invalid::BlockRange { lba, blocks });
        }
        None
    }

    /// Sets what [`Done::tag`] says on completion. Without it, 0.
    #[inline(always)]
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Forces the data to the medium before completion (FUA, cdw12 bit 30 of Read, Write, Write Zeroes, Compare).
    #[inline(always)]
    pub fn fua(mut self) -> Self {
        self.command = self.command.with_fua();
        self
    }

    /// The command, without identifier and data pointer.
    pub fn command(&self) -> &Sqe {
        &self.command
    }

    /// Gives the buffer back.
    pub fn into_buffer(self) -> Option<Buffer> {
        self.buffer
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("opcode", &self.command.cdw0.opc())
            .field("tag", &self.tag)
            .field("bytes", &self.buffer.as_ref().map_or(0, |buffer| buffer.len()))
            .field("kind", &self.kind)
            .finish()
    }
}

/// A completed command.
pub struct Done {
    /// What [`Io::tag`] set.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Dwords 0 (low) and 1 (high) of the completion. Of a command that was divided: of its last part.
    pub result: u64,
    /// What became of it. Where it is [`Outcome::NotSent`] or [`Outcome::Indeterminate`], the status is the driver's own:
    /// Host Pathing Error (3/70h), or Command Aborted By Host (3/71h).
    pub outcome: Outcome,
    /// The buffer the command was staged with.
    pub buffer: Option<Buffer>,
}

impl Done {
    /// This completion if it was successful, otherwise an error that still holds the buffer.
    ///
    /// # Errors
    /// [`CommandError::Status`], or [`CommandError::Lost`] if the controller has not completed it.
    #[inline]
    pub fn ok(self) -> Result<Self, CommandError> {
        let Self { status, outcome, .. } = self;
        if status.is_success() {
            return Ok(self);
        }
        Err(match outcome {
            outcome if outcome == Outcome::of(status) => {
                CommandError::Status { status, buffer: self.buffer }
            }
            outcome => CommandError::Lost { outcome, buffer: self.buffer },
        })
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done")
            .field("tag", &self.tag)
            .field("status", &self.status)
            .field("result", &self.result)
            .field("outcome", &self.outcome)
            .field("bytes", &self.buffer.as_ref().map_or(0, |buffer| buffer.len()))
            .finish()
    }
}

/// Why a queue did not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// All slots are in use: poll, then stage again.
    #[error("the queue is full; poll it and stage the command again")]
    Full,
    /// One command cannot carry so much data, and this one cannot be divided.
    #[error("{len} bytes of data, but one command carries {max} at most on this queue")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes possible.
        max: usize,
    },
    /// The command contradicts itself.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The queue has failed and takes no more commands; drop it and create another.
    #[error("the queue has failed ({0}); drop it and create another")]
    Failed(Violation),
    /// The buffer was allocated or registered with another controller.
    #[error(
        "the buffer belongs to another controller, and this one cannot reach it; use this controller's memory"
    )]
    Foreign,
    /// The owner of the queue has dropped it, and its mailbox with it.
    #[error("nobody serves the queue behind this mailbox any more; create another")]
    Closed,
}

/// A command that was not staged, given back whole.
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// The command with its buffer.
    pub io: Io,
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).field("io", &self.io).finish()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for Rejected {}
