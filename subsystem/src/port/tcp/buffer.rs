//! A buffer of fixed size between a socket and the connection: filled at one end, taken from at the other.

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer. Memory is taken as it is first written.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into(), start: 0, end: 0 }
    }

    /// Bytes in the buffer.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The bytes in the buffer.
    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// `len` of them, from the byte `at` on.
    #[inline]
    pub(super) fn part(&mut self, at: usize, len: usize) -> &mut [u8] {
        let from = self.start + at;
        match self.bytes.get_mut(from..(from + len).min(self.end)) {
            Some(part) => part,
            None => &mut [],
        }
    }

    /// Takes bytes out.
    #[inline]
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Drops what is behind the first `len` bytes.
    #[inline]
    pub(super) fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
        self.consume(0);
    }

    /// The free bytes behind the last one.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Whether `len` bytes fit behind the last one; moves what is there to the front if that helps.
    #[inline]
    pub(super) fn make_room(&mut self, len: usize) -> bool {
        if self.bytes.len() - self.end >= len {
            return true;
        }
        if self.bytes.len() - self.len() < len {
            return false;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        true
    }

    /// Takes over bytes that were put into [`Buffer::room`].
    #[inline]
    pub(super) fn commit(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// Puts bytes in, as far as they fit.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.room().get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.commit(bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_whatever_the_portions() {
        let mut buffer = Buffer::new(16);
        let (mut sent, mut seen) = (0u8, 0u8);
        for portion in (1..=7).cycle().take(200) {
            if buffer.make_room(portion) {
                let bytes: Vec<u8> = (0..portion as u8).map(|at| sent.wrapping_add(at)).collect();
                buffer.put(&bytes);
                sent = sent.wrapping_add(portion as u8);
            }
            let take = (portion * 3 % 5).min(buffer.len());
            for byte in &buffer.filled()[..take] {
                assert_eq!(*byte, seen);
                seen = seen.wrapping_add(1);
            }
            buffer.consume(take);
            assert!(buffer.len() <= 16);
        }
        assert!(sent > 100);
        assert!(!buffer.make_room(17));
        assert_eq!(buffer.part(100, 4), &mut []);
        buffer.consume(16);
        buffer.put(&[1, 2, 3, 4]);
        buffer.consume(1);
        buffer.truncate(5);
        assert_eq!(buffer.filled(), [2, 3, 4]);
        buffer.truncate(2);
        assert_eq!(buffer.filled(), [2, 3]);
    }
}
