//! What either side of a vfio-user connection can do: a small JSON text inside VERSION.
//!
//! Reads what any peer writes, and skips what it does not know. Nesting is bounded and nothing is allocated.

use core::fmt;

/// Capabilities of one side (vfio-user, VERSION); those not mentioned have their default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// File descriptors that it takes in one message.
    pub max_msg_fds: u32,
    /// Bytes of data that it takes in one message.
    pub max_data_xfer_size: u64,
    /// DMA ranges that it keeps at once.
    pub max_dma_maps: u32,
    /// Page sizes of DMA ranges, one bit each.
    pub pgsizes: u64,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { max_msg_fds: 1, max_data_xfer_size: 1 << 20, max_dma_maps: 65_535, pgsizes: 4096 }
    }
}

/// The text is not JSON, or a value has the wrong type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte of the text where that showed.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed capabilities at byte {}", self.at)
    }
}

impl core::error::Error for Malformed {}

impl Capabilities {
    /// Reads the text that follows [`super::Version`]; an empty one, or only zero bytes, gives the
    /// defaults.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let mut reader = Reader { text: text.get(..end).unwrap_or_default(), at: 0 };
        let mut found = Self::default();
        reader.space();
        if reader.peek().is_none() {
            return Ok(found);
        }
        reader.object(&mut |reader, name| match name {
            b"capabilities" => reader.object(&mut |reader, name| {
                match name {
                    b"max_msg_fds" => found.max_msg_fds = saturate(reader.number()?),
                    b"max_data_xfer_size" => found.max_data_xfer_size = reader.number()?,
                    b"max_dma_maps" => found.max_dma_maps = saturate(reader.number()?),
                    b"pgsizes" => found.pgsizes = reader.number()?,
                    _ => reader.skip(DEPTH)?,
                }
                Ok(())
            }),
            _ => reader.skip(DEPTH),
        })?;
        reader.space();
        if reader.peek().is_some() { reader.malformed() } else { Ok(found) }
    }
}

/// The text to send, without its final zero byte.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_msg_fds, max_data_xfer_size, max_dma_maps, pgsizes } = self;
        write!(
            f,
            "{{\"capabilities\":{{\"max_msg_fds\":{max_msg_fds},\
             \"max_data_xfer_size\":{max_data_xfer_size},\
             \"max_dma_maps\":{max_dma_maps},\"pgsizes\":{pgsizes}}}}}"
        )
    }
}

/// Nesting that is followed inside a value that is skipped.
const DEPTH: usize = 8;

fn saturate(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Called behind each name of an object; takes the value.
type Member<'m, 'a> = dyn FnMut(&mut Reader<'a>, &'a [u8]) -> Result<(), Malformed> + 'm;

/// Reads JSON from left to right.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed<T>(&self) -> Result<T, Malformed> {
        Err(Malformed { at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes `byte` if it is next.
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { self.malformed() }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// An object.
    fn object(&mut self, member: &mut Member<'_, 'a>) -> Result<(), Malformed> {
        self.space();
        self.expect(b'{')?;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            member(self, name)?;
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// A string, escapes left as they are: no name that we look for has any.
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek() {
                None => return self.malformed(),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        let content = self.text.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(content)
    }

    /// A whole number that is not negative; larger ones than fit saturate.
    fn number(&mut self) -> Result<u64, Malformed> {
        let start = self.at;
        let mut value = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            value = value.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let ends = !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        if self.at > start && ends { Ok(value) } else { self.malformed() }
    }

    /// Any value.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        let Some(depth) = depth.checked_sub(1) else { return self.malformed() };
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(&mut |reader, _| reader.skip(depth)),
            Some(b'[') => {
                self.at += 1;
                self.space();
                if self.take(b']') {
                    return Ok(());
                }
                loop {
                    self.skip(depth)?;
                    self.space();
                    if self.take(b']') {
                        return Ok(());
                    }
                    self.expect(b',')?;
                }
            }
            _ => {
                // true, false, null or any number.
                let start = self.at;
                while matches!(
                    self.peek(),
                    Some(b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E')
                ) {
                    self.at += 1;
                }
                if self.at > start { Ok(()) } else { self.malformed() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn what_others_send() {
        let libvfio_user = br#"{ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576,
            "migration": { "pgsize": 4096 }, "twin_socket": { "supported": true, "fd_index": 0 } } }"#;
        let found = Capabilities::parse(libvfio_user).unwrap();
        assert_eq!(found, Capabilities { max_msg_fds: 8, ..Capabilities::default() });

        let rust_vmm = b"{\"capabilities\":{\"max_msg_fds\":1,\"max_data_xfer_size\":1048576,\
            \"migration\":{\"pgsize\":4096}}}\0";
        assert_eq!(Capabilities::parse(rust_vmm).unwrap(), Capabilities::default());

        let qemu = br#"{"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 2097152,
            "pgsizes": 2101248, "max_dma_maps": 65535, "write_multiple": true, "x": [1, -2.5e3, []]}}"#;
        let found = Capabilities::parse(qemu).unwrap();
        assert_eq!(found.pgsizes, 0x20_1000);
        assert_eq!(found.max_data_xfer_size, 2 << 20);
    }

    #[test]
    fn nothing_gives_the_defaults() {
        for text in [&b""[..], b"\0", b"{}", b" { \"other\" : null } \0garbage"] {
            assert_eq!(Capabilities::parse(text), Ok(Capabilities::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let ours = Capabilities {
            max_msg_fds: 7,
            max_data_xfer_size: u64::MAX,
            max_dma_maps: 9,
            pgsizes: 1 << 63,
        };
        assert_eq!(Capabilities::parse(ours.to_string().as_bytes()), Ok(ours));
    }

    #[test]
    fn malformed_text_is_refused_and_never_panics() {
        let good = br#"{"capabilities":{"a":[{"b\"":"\\"},1.5,true],"max_msg_fds":8}}"#;
        assert!(Capabilities::parse(good).is_ok());
        for cut in 1..good.len() {
            assert!(Capabilities::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in (0..good.len()).step_by(if cfg!(miri) { 7 } else { 1 }) {
            for byte in [b'{', b'}', b'[', b'"', b'\\', b',', 0xff, b'0'] {
                let mut text = Vec::from(&good[..]);
                text[at] = byte;
                let _ = Capabilities::parse(&text);
            }
        }
        let deep = std::vec![b'['; if cfg!(miri) { 1_000 } else { 100_000 }];
        assert!(Capabilities::parse(&[&b"{\"x\":"[..], &deep].concat()).is_err());
        for text in ["{\"capabilities\":8}", "{\"capabilities\":{\"max_msg_fds\":-1}}", "[]", "8"] {
            assert!(Capabilities::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
