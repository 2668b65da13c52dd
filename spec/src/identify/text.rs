//! ASCII fields: padded with spaces, never terminated, and not to be trusted.

use core::fmt;

/// The text of an ASCII field, without its padding (INIT-14, PIT-48).
///
/// Shows as printable ASCII: any other byte becomes `?`. Two are equal when they show the same
/// bytes, so that fields of different lengths compare by the trailing-space rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// The text in `field`: from its first byte that is no space to its last, ending at a NUL.
    #[must_use]
    pub fn new(field: &'a [u8]) -> Text<'a> {
        let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
        Text(text.trim_ascii())
    }

    /// The bytes, as the device has them.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether nothing is there but padding.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The text as a string, where every byte is printable ASCII.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        let printable = self.0.iter().all(|byte| (0x20..0x7f).contains(byte));
        if printable { core::str::from_utf8(self.0).ok() } else { None }
    }

    /// The characters that [`fmt::Display`] shows.
    pub fn chars(self) -> impl Iterator<Item = char> + 'a {
        self.0.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { byte as char } else { '?' })
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let length = self.0.len();
        self.chars().try_for_each(|c| f.write_char(c))?;
        (length..f.width().unwrap_or(0)).try_for_each(|_| f.write_char(' '))
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Writes `text` into an ASCII field: cut to fit, padded with spaces.
pub(crate) fn fill(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}
