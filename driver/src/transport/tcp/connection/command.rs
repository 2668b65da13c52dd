//! What a connection knows of each command in flight, and of the R2Ts that it still has to answer.

use crate::transport::tcp::piece::Piece;

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none in the slot.
    Idle,
    /// Its capsule is queued or sent.
    Sent,
    /// It has been answered, while some of its data still wait to be sent.
    Answered,
}

/// One command in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) cid: u16,
    pub(super) phase: Phase,
    /// The controller may send data.
    pub(super) to_host: bool,
    /// The controller asks for the data by R2T.
    pub(super) by_request: bool,
    /// Success with less data than there is room for is none.
    pub(super) exact: bool,
    /// Data came whose digest was wrong.
    pub(super) corrupt: bool,
    /// R2Ts outstanding.
    pub(super) requests: u8,
    /// Bytes received.
    pub(super) received: u32,
    /// Bytes that R2Ts have asked for.
    pub(super) requested: u32,
    pub(super) data: Piece,
    /// Where its capsule begins in the stream, and where it ends.
    pub(super) begins: u64,
    pub(super) ends: u64,
    /// The data are the outbox's until the stream has come this far.
    pub(super) busy_until: u64,
}

impl Command {
    pub(super) const IDLE: Self = Self {
        cid: 0,
        phase: Phase::Idle,
        to_host: false,
        by_request: false,
        exact: false,
        corrupt: false,
        requests: 0,
        received: 0,
        requested: 0,
        data: Piece::NONE,
        begins: 0,
        ends: 0,
        busy_until: 0,
    };

    /// Whether this is command `cid`, not answered yet.
    #[inline]
    pub(super) fn is_sent(&self, cid: u16) -> bool {
        self.phase == Phase::Sent && self.cid == cid
    }
}

/// What is left of one R2T.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) cid: u16,
    pub(super) ttag: u16,
    pub(super) offset: u32,
    pub(super) left: u32,
}
