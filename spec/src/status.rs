//! Status: how a command ended.
//!
//! Owns the 15-bit status of a completion (Base 2.1, "Status Field Definition"). The codes, with
//! names and meanings, stand in one file per status code type: `status/generic.rs`,
//! `status/command.rs`, `status/media.rs`, `status/path.rs`.

use core::fmt;

mod command;
mod generic;
mod media;
mod path;

/// The status of a command, without the phase tag (Base 2.1, "Status Field Definition").
///
/// Two of them are equal when all their bits are: compare [`Status::code`] to ignore retry hints.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(u16);

impl Status {
    /// SCT: Generic Command Status.
    pub const SCT_GENERIC: u8 = 0;
    /// SCT: Command Specific Status.
    pub const SCT_COMMAND: u8 = 1;
    /// SCT: Media and Data Integrity Errors.
    pub const SCT_MEDIA: u8 = 2;
    /// SCT: Path Related Status.
    pub const SCT_PATH: u8 = 3;
    /// SCT: Vendor Specific.
    pub const SCT_VENDOR: u8 = 7;

    const DNR: u16 = 1 << 14;
    const MORE: u16 = 1 << 13;

    /// The status with this status code type and status code.
    #[inline]
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Status {
        Status((sct as u16 & 7) << 8 | sc as u16)
    }

    /// The status with these 15 bits (bits 15:1 of the completion's last half dword).
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Status {
        Status(bits & 0x7fff)
    }

    /// All 15 bits.
    #[inline]
    #[must_use]
    pub const fn into_bits(self) -> u16 {
        self.0
    }

    /// SC: Status Code.
    #[inline]
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// SCT: Status Code Type.
    #[inline]
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// CRD: Command Retry Delay: 0 none, else which of Identify Controller's CRDT1 to CRDT3.
    #[inline]
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 3
    }

    /// M: More: the Error Information log page has more about this error.
    #[inline]
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// DNR: Do Not Retry: the same command would fail again.
    #[inline]
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & Self::DNR != 0
    }

    /// The same status with DNR set.
    #[inline]
    #[must_use]
    pub const fn with_dnr(self) -> Status {
        Status(self.0 | Self::DNR)
    }

    /// The same status with M set.
    #[inline]
    #[must_use]
    pub const fn with_more(self) -> Status {
        Status(self.0 | Self::MORE)
    }

    /// The same status with this command retry delay.
    #[inline]
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Status {
        Status(self.0 & !(3 << 11) | (crd as u16 & 3) << 11)
    }

    /// Whether the command succeeded: type and code are both zero.
    #[inline]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Type and code alone, `SCT << 8 | SC`: what to match on.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether type and code are those of `other`, whatever the retry hints.
    #[inline]
    #[must_use]
    pub const fn is(self, other: Status) -> bool {
        self.code() == other.code()
    }

    /// The documents' name of this status, as the base and the I/O command sets have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.text() {
            Some(text) => text.name,
            None => self.unlisted(),
        }
    }

    /// What happened, in one line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self.text() {
            Some(text) => text.meaning,
            None if self.is_vendor() => "The vendor of the controller defines this status.",
            None => "No document that this crate follows defines this status.",
        }
    }

    /// The name of a status that answers a Fabrics command: its command specific codes from 80h
    /// mean something else there.
    #[must_use]
    pub const fn fabrics_name(self) -> &'static str {
        match self.fabrics_text() {
            Some(text) => text.name,
            None => self.name(),
        }
    }

    /// What a status that answers a Fabrics command means, in one line.
    #[must_use]
    pub const fn fabrics_meaning(self) -> &'static str {
        match self.fabrics_text() {
            Some(text) => text.meaning,
            None => self.meaning(),
        }
    }

    const fn text(self) -> Option<Text> {
        match self.sct() {
            Self::SCT_GENERIC => generic::text(self.sc()),
            Self::SCT_COMMAND => match command::text(self.sc()) {
                Some(text) => Some(text),
                None => command::io::text(self.sc()),
            },
            Self::SCT_MEDIA => media::text(self.sc()),
            Self::SCT_PATH => path::text(self.sc()),
            _ => None,
        }
    }

    const fn fabrics_text(self) -> Option<Text> {
        if self.sct() == Self::SCT_COMMAND { command::fabrics::text(self.sc()) } else { None }
    }

    const fn is_vendor(self) -> bool {
        self.sct() == Self::SCT_VENDOR || self.sc() >= 0xc0
    }

    const fn unlisted(self) -> &'static str {
        match self.sct() {
            _ if self.is_vendor() => "Vendor Specific Status",
            Self::SCT_COMMAND if self.sc() >> 4 == 7 => "Directive Specific Status",
            Self::SCT_GENERIC => "Unknown Generic Status",
            Self::SCT_COMMAND => "Unknown Command Specific Status",
            Self::SCT_MEDIA => "Unknown Media or Data Integrity Error",
            Self::SCT_PATH => "Unknown Path Related Status",
            _ => "Unknown Status",
        }
    }
}

/// Shows as `Invalid Field in Command (0/02)`: the name, then type and code in hexadecimal.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:x}/{:02x})", self.name(), self.sct(), self.sc())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:x}/{:02x}", self.sct(), self.sc())?;
        if self.crd() != 0 {
            write!(f, ", crd {}", self.crd())?;
        }
        if self.more() {
            f.write_str(", more")?;
        }
        if self.dnr() {
            f.write_str(", dnr")?;
        }
        f.write_str(")")
    }
}

impl From<u16> for Status {
    fn from(bits: u16) -> Status {
        Status::from_bits(bits)
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> u16 {
        status.into_bits()
    }
}

/// What the tables hold about one code.
struct Text {
    name: &'static str,
    meaning: &'static str,
}

/// Defines the constants of one status code type and the table of their names and meanings.
macro_rules! codes {
    ($sct:ident: $($constant:ident = $sc:literal, $name:literal, $meaning:literal;)*) => {
        impl $crate::status::Status {
            $(
                #[doc = concat!($name, ": ", $meaning)]
                pub const $constant: Self = Self::new(Self::$sct, $sc);
            )*
        }

        pub(in $crate::status) const fn text(sc: u8) -> Option<$crate::status::Text> {
            match sc {
                $($sc => Some($crate::status::Text { name: $name, meaning: $meaning }),)*
                _ => None,
            }
        }
    };
}
use codes;

#[cfg(test)]
mod tests;
