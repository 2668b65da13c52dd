//! Namespaces in words: `memory:1GiB`, `null:1TiB,block=4096`, `file:disk.img,size=1GiB`.
//!
//! Owns the grammar, for command lines and addresses. Printing a specification gives back what parses.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::backend::MediaError;
use crate::backend::file::{FileBackend, FileConfig, FileError};
use crate::backend::memory::Memory;
use crate::backend::null::Null;
use crate::namespace::{Namespace, NamespaceError};

/// Bytes of a block where nothing else is said.
pub const DEFAULT_BLOCK_SIZE: u32 = 512;

/// Where the blocks of a namespace are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendSpec {
    /// Sparse memory of this many bytes.
    Memory(u64),
    /// Nowhere: this many bytes are claimed.
    Null(u64),
    /// A file or block device.
    File(FileConfig),
}

/// What to make a namespace of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Where the blocks are kept.
    pub backend: BackendSpec,
    /// Bytes of a block, 512 or 4096.
    pub block_size: u32,
}

/// Why a specification does not parse. Each names the wrong part and shows a right one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No kind, or an unknown one.
    #[error("'{0}' is no kind of namespace; use memory:1GiB, null:1TiB or file:disk.img")]
    Kind(String),
    /// No such size.
    #[error("'{0}' is no size; write 1073741824, 1024MiB or 1GiB")]
    Size(String),
    /// The size is missing.
    #[error("'{0}' does not say how large; write {0}:1GiB")]
    NoSize(String),
    /// The path is missing.
    #[error("'file' does not say which; write file:disk.img,size=1GiB")]
    NoPath,
    /// No such block size.
    #[error("'{0}' is no block size; use block=512 or block=4096")]
    Block(String),
    /// Neither on nor off.
    #[error("'{0}' is neither on nor off; use direct=on or direct=off")]
    Switch(String),
    /// No such option for this kind.
    #[error("'{option}' is no option of {kind}; use {usage}")]
    Option {
        /// What was given.
        option: String,
        /// Of which kind.
        kind: &'static str,
        /// A right one.
        usage: &'static str,
    },
}

/// Why a namespace could not be made of its specification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Memory ran out.
    #[error("no memory for the table of a namespace of {0} bytes; make it smaller")]
    Memory(u64),
    /// Size and block size do not fit.
    #[error("{spec}: {source}")]
    Namespace {
        /// The specification.
        spec: String,
        /// What is wrong.
        source: NamespaceError,
    },
}

impl NamespaceSpec {
    /// Sparse memory of `len` bytes in blocks of `block_size`.
    pub fn memory(len: u64, block_size: u32) -> Self {
        Self { backend: BackendSpec::Memory(len), block_size }
    }

    /// `len` bytes that are not kept, in blocks of `block_size`.
    pub fn null(len: u64, block_size: u32) -> Self {
        Self { backend: BackendSpec::Null(len), block_size }
    }

    /// Makes the namespace.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self) -> Result<Namespace, OpenError> {
        let namespace = match &self.backend {
            BackendSpec::Memory(len) => {
                let memory = Memory::new(*len).map_err(|_: MediaError| OpenError::Memory(*len))?;
                Namespace::new(memory, self.block_size)
            }
            BackendSpec::Null(len) => Namespace::new(Null::new(*len), self.block_size),
            BackendSpec::File(config) => {
                Namespace::new(FileBackend::open(config)?, self.block_size)
            }
        };
        namespace.map_err(|source| OpenError::Namespace { spec: self.to_string(), source })
    }
}

impl FromStr for NamespaceSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut parts = rest.split(',');
        let subject = parts.next().unwrap_or_default();
        let mut spec = match kind {
            "memory" | "null" if subject.is_empty() => {
                return Err(ParseError::NoSize(kind.to_owned()));
            }
            "memory" => Self::memory(parse_size(subject)?, DEFAULT_BLOCK_SIZE),
            "null" => Self::null(parse_size(subject)?, DEFAULT_BLOCK_SIZE),
            "file" if subject.is_empty() => return Err(ParseError::NoPath),
            "file" => Self {
                backend: BackendSpec::File(FileConfig {
                    path: PathBuf::from(subject),
                    size: None,
                    direct: true,
                }),
                block_size: DEFAULT_BLOCK_SIZE,
            },
            _ => return Err(ParseError::Kind(kind.to_owned())),
        };
        for option in parts {
            spec.apply(option)?;
        }
        Ok(spec)
    }
}

impl NamespaceSpec {
    fn apply(&mut self, option: &str) -> Result<(), ParseError> {
        match (option.split_once('='), &mut self.backend) {
            (Some(("block", value)), _) => {
                self.block_size = match parse_size(value) {
                    Ok(512) => 512,
                    Ok(4096) => 4096,
                    _ => return Err(ParseError::Block(value.to_owned())),
                };
            }
            (Some(("size", value)), BackendSpec::File(config)) => {
                config.size = Some(parse_size(value)?);
            }
            (Some(("direct", value)), BackendSpec::File(config)) => {
                config.direct = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(ParseError::Switch(value.to_owned())),
                };
            }
            (_, backend) => {
                let (kind, usage) = match backend {
                    BackendSpec::Memory(_) => ("memory", "memory:1GiB,block=4096"),
                    BackendSpec::Null(_) => ("null", "null:1TiB,block=4096"),
                    BackendSpec::File(_) => {
                        ("file", "file:disk.img,size=1GiB,block=4096,direct=off")
                    }
                };
                return Err(ParseError::Option { option: option.to_owned(), kind, usage });
            }
        }
        Ok(())
    }
}

impl fmt::Display for NamespaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            BackendSpec::Memory(len) => write!(f, "memory:{}", Size(*len))?,
            BackendSpec::Null(len) => write!(f, "null:{}", Size(*len))?,
            BackendSpec::File(config) => {
                write!(f, "file:{}", config.path.display())?;
                if let Some(size) = config.size {
                    write!(f, ",size={}", Size(size))?;
                }
                if !config.direct {
                    f.write_str(",direct=off")?;
                }
            }
        }
        if self.block_size != DEFAULT_BLOCK_SIZE {
            write!(f, ",block={}", self.block_size)?;
        }
        Ok(())
    }
}

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Bytes, in the largest unit that has no remainder.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Parses a number of bytes: digits, then nothing or a binary unit (`KiB`, `K`, `k`, `kib`).
///
/// # Errors
/// [`ParseError::Size`] for anything else, zero, and what does not fit.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let wrong = || ParseError::Size(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    match number.checked_mul(1 << shift) {
        Some(size) if size != 0 => Ok(size),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests;
