//! Sizes in words: `4096`, `4k`, `128KiB`, `1GiB`, `1T`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Suffixes k, M, G, T and KiB, MiB, GiB, TiB, in any case, are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a size does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no size; write 1073741824, 1048576k, 1024MiB or 1GiB")]
pub struct SizeError(String);

const UNITS: [(char, u32); 4] = [('t', 40), ('g', 30), ('m', 20), ('k', 10)];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.into());
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let suffix = suffix.to_ascii_lowercase();
        let shift = match suffix.as_str() {
            "" | "b" => 0,
            suffix => {
                // "1GB" is left out on purpose: some mean 10^9 bytes by it and some 2^30.
                let unit = suffix.strip_suffix("ib").unwrap_or(suffix);
                let found = UNITS.iter().find(|(letter, _)| unit.chars().eq([*letter]));
                found.ok_or_else(wrong)?.1
            }
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    /// The shortest exact form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((letter, shift)) => {
                write!(f, "{}{}iB", self.0 >> shift, letter.to_ascii_uppercase())
            }
            None => self.0.fmt(f),
        }
    }
}

// Safe code on strings and bytes: nothing that Miri would see, and slow there.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("128KiB", 128 << 10),
            ("1m", 1 << 20),
            ("3MiB", 3 << 20),
            ("1gib", 1 << 30),
            ("2T", 2 << 40),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in
            ["", "k", "-1", "+1", "1.5G", "1GB", "1 G", "1Ki", "1iB", "1kk", "16777216TiB", "1e9"]
        {
            assert!(text.parse::<Size>().unwrap_err().to_string().contains("1GiB"), "{text}");
        }
    }

    #[test]
    fn the_largest_exact_unit_is_printed() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (4096, "4KiB"),
            (4097, "4097"),
            (1536 << 20, "1536MiB"),
            (1 << 30, "1GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn round_trip(bits: u64, shift in 0..64u32) {
            let size = Size(bits << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
