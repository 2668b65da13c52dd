//! Options of the emulated controller: what its namespaces are made of, and its limits.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Wrong;
use super::size::Size;

/// Bytes of a namespace unless said otherwise.
const DEFAULT_SIZE: u64 = 1 << 30;
const DEFAULT_BLOCK: u32 = 512;
const MAX_NAMESPACES: u32 = 256;
const MAX_QUEUES: u16 = 0xfffe;

const SIZE_EXAMPLE: &str = "embedded:size=1GiB,block=4096";
const FILE_EXAMPLE: &str = "embedded:file=disk.img,size=1GiB";
const NULL_EXAMPLE: &str = "embedded:null=1TiB";
const LIMITS_EXAMPLE: &str = "embedded:namespaces=2,queues=16,mdts=128KiB";

/// What keeps the blocks of an emulated namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Sparse memory of this process.
    Memory,
    /// A file, created if it does not exist and a size is given.
    File(PathBuf),
    /// Nothing: commands complete and move no data. For measuring.
    Null,
}

/// What stands behind `embedded:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddedOptions {
    /// What keeps the blocks.
    pub backing: Backing,
    /// Bytes of each namespace, `size=1GiB` or `null=1TiB`. `None` leaves it to the file, or to the default.
    pub size: Option<u64>,
    /// Bytes of a block, 512 or 4096.
    pub block: u32,
    /// How many namespaces; more than one only without a file.
    pub namespaces: u32,
    /// I/O queue pairs that the controller offers, at most; `None` leaves it to the controller.
    pub queues: Option<u16>,
    /// Largest transfer of one command, in bytes: a power of two from 4 KiB; `None` leaves it to the controller.
    pub mdts: Option<u64>,
}

impl EmbeddedOptions {
    /// Bytes of each namespace, where the file does not decide.
    pub fn size_or_default(&self) -> u64 {
        self.size.unwrap_or(DEFAULT_SIZE)
    }
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            backing: Backing::Memory,
            size: None,
            block: DEFAULT_BLOCK,
            namespaces: 1,
            queues: None,
            mdts: None,
        }
    }
}

impl EmbeddedOptions {
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let mut options = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=') else {
                return Err((format!("'{option}' has no value"), SIZE_EXAMPLE));
            };
            if seen.contains(&name) {
                return Err((format!("'{name}' is given twice"), SIZE_EXAMPLE));
            }
            options.set(name, value)?;
            // A name that `set` knows, so there are few.
            seen.push(name);
        }
        let given = |names: [&str; 2]| names.iter().all(|name| seen.contains(name));
        if given(["null", "size"]) || given(["null", "file"]) {
            let what = "'null' says how large, and that there is neither memory nor file";
            return Err((what.into(), NULL_EXAMPLE));
        }
        if matches!(options.backing, Backing::File(_)) && options.namespaces > 1 {
            return Err((
                "'file' makes one namespace; leave 'namespaces' out".into(),
                FILE_EXAMPLE,
            ));
        }
        match options.size {
            Some(size) if size == 0 || !size.is_multiple_of(options.block.into()) => {
                let block = options.block;
                Err((format!("the size {size} is no multiple of the block, {block}"), SIZE_EXAMPLE))
            }
            _ => Ok(options),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        match name {
            "size" => self.size = Some(size(value, SIZE_EXAMPLE)?),
            "null" => {
                self.backing = Backing::Null;
                self.size = Some(size(value, NULL_EXAMPLE)?);
            }
            "file" => {
                let path = unescape(value);
                if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
                    return Err(("'file' does not name one".into(), FILE_EXAMPLE));
                }
                self.backing = Backing::File(path);
            }
            "block" => {
                self.block = match size(value, SIZE_EXAMPLE)? {
                    512 => 512,
                    4096 => 4096,
                    _ => {
                        return Err((
                            format!("the block '{value}' is not 512 or 4096"),
                            SIZE_EXAMPLE,
                        ));
                    }
                };
            }
            "namespaces" => self.namespaces = number(name, value, MAX_NAMESPACES)?,
            "queues" => {
                // At most MAX_QUEUES, so nothing is cut off.
                self.queues = Some(number(name, value, MAX_QUEUES.into())? as u16);
            }
            "mdts" => {
                let bytes = size(value, LIMITS_EXAMPLE)?;
                if !bytes.is_power_of_two() || bytes < 4096 {
                    let what = format!("mdts '{value}' is no power of two from 4KiB");
                    return Err((what, LIMITS_EXAMPLE));
                }
                self.mdts = Some(bytes);
            }
            _ => {
                let names = "size, block, file, null, namespaces, queues and mdts";
                return Err((format!("'{name}' is no option; options are {names}"), SIZE_EXAMPLE));
            }
        }
        Ok(())
    }
}

fn size(value: &str, example: &'static str) -> Result<u64, Wrong> {
    value.parse::<Size>().map(|size| size.0).map_err(|error| (error.to_string(), example))
}

fn number(name: &str, value: &str, most: u32) -> Result<u32, Wrong> {
    let number = value.parse().ok().filter(|number| (1..=most).contains(number));
    number
        .ok_or_else(|| (format!("{name} '{value}' is no number from 1 to {most}"), LIMITS_EXAMPLE))
}

impl fmt::Display for EmbeddedOptions {
    /// What differs from the default, comma-separated.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.map(|size| Size(size).to_string());
        let file = match &self.backing {
            Backing::File(path) => Some(escape(path)),
            _ => None,
        };
        let (size, null) = match self.backing {
            Backing::Null => (None, Some(size.unwrap_or_else(|| Size(DEFAULT_SIZE).to_string()))),
            _ => (size, None),
        };
        let differs = |value: u32, default: u32| (value != default).then(|| value.to_string());
        let options = [
            ("file", file),
            ("null", null),
            ("size", size),
            ("block", differs(self.block, DEFAULT_BLOCK)),
            ("namespaces", differs(self.namespaces, 1)),
            ("queues", self.queues.map(|queues| queues.to_string())),
            ("mdts", self.mdts.map(|mdts| Size(mdts).to_string())),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (index, (name, value)) in given.enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Bytes that end an option, and those that are not text, as %XX.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ',' | '%' => text.push_str(&format!("%{:02X}", c as u32)),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The reverse; a '%' that no two digits follow stands for itself.
pub(super) fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(b'%');
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> EmbeddedOptions {
        EmbeddedOptions::parse(text).unwrap_or_else(|(what, _)| panic!("{text}: {what}"))
    }

    #[test]
    fn documented_forms() {
        let options = parse("size=1GiB,block=4096");
        assert_eq!((options.size, options.block), (Some(1 << 30), 4096));
        assert_eq!(options.to_string(), "size=1GiB,block=4096");
        let options = parse("file=disk.img");
        assert_eq!(options.backing, Backing::File("disk.img".into()));
        assert_eq!(options.size, None);
        let options = parse("null=1TiB");
        assert_eq!((options.backing, options.size), (Backing::Null, Some(1 << 40)));
        let options = parse("namespaces=2,queues=16,mdts=128k,");
        assert_eq!(
            (options.namespaces, options.queues, options.mdts),
            (2, Some(16), Some(131_072))
        );
    }

    #[test]
    fn paths_may_hold_anything() {
        let text = "file=/tmp/a%2Cb 100%25 %zz,block=4096";
        let options = parse(text);
        assert_eq!(options.backing, Backing::File("/tmp/a,b 100% %zz".into()));
        assert_eq!(parse(&options.to_string()), options);
    }

    #[test]
    fn a_null_namespace_without_a_size_prints_the_default() {
        let options = EmbeddedOptions { backing: Backing::Null, ..EmbeddedOptions::default() };
        assert_eq!(options.to_string(), "null=1GiB");
    }
}
