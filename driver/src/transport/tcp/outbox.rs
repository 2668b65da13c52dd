//! What is to be sent, in order: headers in a buffer of our own, data where the caller has them.
//!
//! Positions count the bytes of the stream from its beginning, so that whether a PDU, or all of a command's data, has
//! left is one comparison.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::piece::Piece;

/// Data up to this many bytes are copied behind their header: cheaper than a piece of their own.
const COPIED: usize = 512;
/// Bytes of sent headers that are kept before the others move up.
const SLACK: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
enum Segment {
    /// So many of the next bytes in `headers`.
    Headers(usize),
    Data(Piece),
}

/// Bytes queued and not yet taken by the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    headers: Vec<u8>,
    /// Bytes of `headers` that have been sent.
    gone: usize,
    segments: VecDeque<Segment>,
    queued: u64,
    sent: u64,
}

impl Outbox {
    /// Where the stream ends, with everything queued.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.queued
    }

    /// Where the stream stands: everything before was taken by the socket.
    #[inline]
    pub(super) fn position(&self) -> u64 {
        self.sent
    }

    /// Bytes that wait.
    #[inline]
    pub(super) fn waiting(&self) -> u64 {
        self.queued - self.sent
    }

    /// Queues header bytes, padding or a digest.
    #[inline]
    pub(super) fn header(&mut self, bytes: &[u8]) {
        self.headers.extend_from_slice(bytes);
        self.queued += bytes.len() as u64;
        match self.segments.back_mut() {
            Some(Segment::Headers(len)) => *len += bytes.len(),
            _ => self.segments.push_back(Segment::Headers(bytes.len())),
        }
    }

    /// Queues data, which are read when they are sent unless they are few.
    #[inline]
    pub(super) fn data(&mut self, data: Piece) {
        if data.len() <= COPIED {
            return self.header(data.bytes());
        }
        self.queued += data.len() as u64;
        self.segments.push_back(Segment::Data(data));
    }

    /// The next bytes to send; returns how many of `slices` were filled.
    #[inline]
    pub(super) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut headers = self.headers.get(self.gone..).unwrap_or_default();
        let mut count = 0;
        for (segment, slice) in self.segments.iter().zip(slices) {
            let bytes = match segment {
                Segment::Headers(len) => {
                    let Some((these, rest)) = headers.split_at_checked(*len) else { break };
                    headers = rest;
                    these
                }
                Segment::Data(piece) => piece.bytes(),
            };
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// The socket has taken `bytes` more.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        let mut left = bytes;
        self.sent += bytes as u64;
        if self.sent == self.queued {
            // The common case: everything went out.
            self.segments.clear();
            self.headers.clear();
            self.gone = 0;
            return;
        }
        while let Some(front) = self.segments.front_mut() {
            let len = match front {
                Segment::Headers(len) => *len,
                Segment::Data(piece) => piece.len(),
            };
            let taken = len.min(left);
            left -= taken;
            match front {
                Segment::Headers(len) => {
                    *len -= taken;
                    self.gone += taken;
                }
                Segment::Data(piece) => {
                    *piece = piece.part(taken, len - taken).unwrap_or(Piece::NONE);
                }
            }
            if taken < len {
                break;
            }
            self.segments.pop_front();
        }
        if self.gone > SLACK {
            self.headers.drain(..self.gone);
            self.gone = 0;
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn bytes(&self) -> usize {
        self.headers.capacity() + self.segments.capacity() * size_of::<Segment>()
    }
}
