//! Which commands a rule looks at: by queue, opcode, identifier, namespace, blocks and selector.

use std::ops::{Bound, Range, RangeBounds, RangeInclusive};

use doorbell_spec::admin::AdminOpcode;
use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::command::Fctype;
use doorbell_spec::nvm::NvmOpcode;

/// Which commands a rule looks at. Starts with a kind and is narrowed from there.
#[derive(Clone, Debug)]
pub struct Commands {
    queues: RangeInclusive<u16>,
    opcode: Option<u8>,
    cid: Option<u16>,
    nsid: Option<u32>,
    blocks: Option<Range<u64>>,
    selector: Option<u8>,
    fctype: Option<u8>,
}

impl Commands {
    const ALL: Self = Self {
        queues: 0..=u16::MAX,
        opcode: None,
        cid: None,
        nsid: None,
        blocks: None,
        selector: None,
        fctype: None,
    };

    /// Every command, of the admin queue as well.
    #[must_use]
    pub fn any() -> Self {
        Self::ALL
    }

    /// Every command of every I/O queue.
    #[must_use]
    pub fn any_io() -> Self {
        Self { queues: 1..=u16::MAX, ..Self::ALL }
    }

    /// Commands of the I/O queues with this opcode.
    #[must_use]
    pub fn io(opcode: NvmOpcode) -> Self {
        Self { opcode: Some(opcode.0), ..Self::any_io() }
    }

    /// Every command of the admin queue.
    #[must_use]
    pub fn any_admin() -> Self {
        Self { queues: 0..=0, ..Self::ALL }
    }

    /// Commands of the admin queue with this opcode.
    #[must_use]
    pub fn admin(opcode: AdminOpcode) -> Self {
        Self { opcode: Some(opcode.0), ..Self::any_admin() }
    }

    /// Fabrics commands of this type. No other selection has any of them: what a plan says of the commands of a queue
    /// holds for the queue over a network as well. The queue of Connect is the one that it is for.
    #[must_use]
    pub fn fabrics(fctype: Fctype) -> Self {
        Self { opcode: Some(AdminOpcode::FABRICS.0), fctype: Some(fctype.0), ..Self::ALL }
    }

    /// Only those of these submission queues.
    #[must_use]
    pub fn queues(mut self, queues: RangeInclusive<u16>) -> Self {
        self.queues = queues;
        self
    }

    /// Only those of this submission queue.
    #[must_use]
    pub fn queue(self, queue: u16) -> Self {
        self.queues(queue..=queue)
    }

    /// Only those with this command identifier.
    #[must_use]
    pub fn cid(mut self, cid: u16) -> Self {
        self.cid = Some(cid);
        self
    }

    /// Only those for this namespace.
    #[must_use]
    pub fn nsid(mut self, nsid: u32) -> Self {
        self.nsid = Some(nsid);
        self
    }

    /// Only I/O commands that name any of these blocks (SLBA and NLB; commands without them count as one block at
    /// what stands in dwords 10 and 11).
    #[must_use]
    pub fn blocks(mut self, blocks: impl RangeBounds<u64>) -> Self {
        let start = match blocks.start_bound() {
            Bound::Included(&block) => block,
            Bound::Excluded(&block) => block.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match blocks.end_bound() {
            Bound::Included(&block) => block.saturating_add(1),
            Bound::Excluded(&block) => block,
            Bound::Unbounded => u64::MAX,
        };
        self.blocks = Some(start..end);
        self
    }

    /// Only those with this byte in bits 7:0 of dword 10: CNS of Identify, LID of Get Log Page, FID of the features.
    #[must_use]
    pub fn selector(mut self, selector: u8) -> Self {
        self.selector = Some(selector);
        self
    }

    /// Only those with this opcode, whatever the queue.
    #[cfg(feature = "fault-file")]
    pub(super) fn opcode(mut self, opcode: u8) -> Self {
        self.opcode = Some(opcode);
        self
    }

    pub(super) fn pick(&self, queue: u16, sqe: &Sqe) -> bool {
        let first = sqe.cdw10_11();
        let opcode = NvmOpcode(sqe.opcode());
        let without = matches!(opcode, NvmOpcode::FLUSH | NvmOpcode::DATASET_MANAGEMENT);
        let count = if without { 1 } else { u64::from(sqe.nlb_z()) + 1 };
        let fabrics = AdminOpcode::FABRICS.0;
        self.queues.contains(&queue)
            && (!sqe.is_fabrics() || self.opcode == Some(fabrics))
            && self.fctype.is_none_or(|fctype| Fctype(fctype) == sqe.fctype())
            && self.opcode.is_none_or(|opcode| opcode == sqe.opcode())
            && self.cid.is_none_or(|cid| cid == sqe.cid())
            && self.nsid.is_none_or(|nsid| nsid == sqe.nsid)
            && self.selector.is_none_or(|selector| selector == sqe.cdw10 as u8)
            && self.blocks.as_ref().is_none_or(|blocks| {
                first < blocks.end && first.saturating_add(count) > blocks.start
            })
    }
}
