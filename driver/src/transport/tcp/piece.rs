//! Parts of callers' buffers while their commands are in flight: the one place where the bytes of a buffer are reached
//! without the [`Buffer`](crate::Buffer) at hand.

#![expect(unsafe_code, reason = "turns parts of buffers in flight into slices")]

use std::ptr;
use std::slice;

use crate::transport::Data;

/// Some bytes of a buffer that belongs to a command in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    base: *mut u8,
    len: usize,
}

// SAFETY: an address range that whoever holds the transport may access alone (`Piece::of`), from any thread.
unsafe impl Send for Piece {}

impl Piece {
    /// No bytes.
    pub(super) const NONE: Self = Self { base: ptr::dangling_mut(), len: 0 };

    /// The data of a command, from [`Transport::stage`](crate::transport::Transport::stage) to its completion.
    ///
    /// Sound because of what surrounds it: a [`Data`] is made of a buffer that the queue then keeps in the command's slot
    /// (`Data::of`, and the parts of operations), and `Connection` drops every piece of it before it reports the
    /// completion: when its bytes have left and the target has answered, or when the socket is closed.
    #[inline]
    pub(super) fn of(data: Data) -> Self {
        if data.len == 0 { Self::NONE } else { Self { base: data.base, len: data.len } }
    }

    /// Bytes.
    #[inline]
    pub(super) fn len(self) -> usize {
        self.len
    }

    /// `len` bytes from byte `from`, if they lie inside.
    #[inline]
    pub(super) fn part(self, from: usize, len: usize) -> Option<Self> {
        let inside = from <= self.len && len <= self.len - from;
        inside.then(|| Self { base: self.base.wrapping_add(from), len })
    }

    /// The bytes, to send or to sum up.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `of` says why the range is there and nobody else's; `part` stays inside.
        unsafe { slice::from_raw_parts(self.base, self.len) }
    }

    /// The bytes, to receive into.
    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`. Only the connection that holds the command makes slices, one at a time.
        unsafe { slice::from_raw_parts_mut(self.base, self.len) }
    }
}
