//! Addresses of controllers: `pcie:0000:01:00.0`, `vfio-user:PATH`, `embedded:OPTIONS`, `tcp://HOST:PORT/NQN`.
//!
//! Owns the grammar. Printing an address gives back text that parses to the same address; a wrong one gets an error
//! that names the part and shows a right one. Nothing is opened here.

mod embedded;
mod size;
mod tcp;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::quirk::Override;
pub use embedded::{Backing, EmbeddedOptions};
pub use size::Size;
pub use tcp::TcpOptions;
pub(crate) use tcp::{parse_uuid, print_uuid};

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A function of this machine, through the kernel's VFIO: `pcie:0000:01:00.0`; `01:00.0` will do.
    Pcie(Bdf),
    /// A controller that another process serves on a Unix socket: `vfio-user:/run/x.sock`.
    VfioUser(PathBuf),
    /// A controller emulated in this process: `embedded:size=1GiB,block=4096`.
    Embedded(EmbeddedOptions),
    /// Any of the above but the network, with quirks that its user knows of: `pcie:0000:01:00.0,quirks=delay-ready`.
    Quirky {
        /// The controller.
        address: Box<Address>,
        /// Its quirks.
        quirks: Override,
    },
    /// A subsystem across a network, over NVMe/TCP: `tcp://HOST:PORT/NQN,OPTIONS`; without an NQN the one there is.
    Tcp(TcpOptions),
}

/// Place of a PCI function: domain, bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bdf {
    /// Domain (segment); above FFFFh behind some storage bridges.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device on the bus, below 32.
    pub device: u8,
    /// Function of the device, below 8.
    pub function: u8,
}

/// Why an address does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address '{address}': {what}; a right one is {example}")]
pub struct AddressError {
    /// The address as given.
    address: String,
    /// The part that is wrong, and why.
    what: String,
    /// An address that parses.
    example: &'static str,
}

impl AddressError {
    /// An address that parses, of the kind that was meant.
    pub fn example(&self) -> &'static str {
        self.example
    }
}

/// A wrong part, before it is known of which address.
type Wrong = (String, &'static str);

const PCIE_EXAMPLE: &str = "pcie:0000:01:00.0";
const QUIRKS_EXAMPLE: &str = "pcie:0000:01:00.0,quirks=delay-ready";
const VFIO_USER_EXAMPLE: &str = "vfio-user:/run/doorbell.sock";

impl Default for Address {
    /// `embedded:`, so that everything runs on a machine without a spare drive.
    fn default() -> Self {
        Self::Embedded(EmbeddedOptions::default())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|(what, example)| AddressError { address: text.into(), what, example })
    }
}

fn parse(text: &str) -> Result<Address, Wrong> {
    match split_quirks(text) {
        Some((address, quirks)) => match quirks.parse() {
            Ok(quirks) => {
                let address = Box::new(parse_plain(address)?);
                Ok(Address::Quirky { address, quirks })
            }
            // A path may hold anything.
            Err(_) if text.starts_with("vfio-user:") => parse_plain(text),
            Err(error) => Err((error.to_string(), QUIRKS_EXAMPLE)),
        },
        None => parse_plain(text),
    }
}

/// Where quirks are given, at the end: what is before them, and they themselves.
fn split_quirks(text: &str) -> Option<(&str, &str)> {
    if text.starts_with("tcp:") {
        return None;
    }
    let (before, quirks) = text.rsplit_once("quirks=")?;
    let address = match before.strip_suffix(',') {
        Some(address) => address,
        // The first option of all.
        None if before == "embedded:" => before,
        None => return None,
    };
    Some((address, quirks))
}

fn parse_plain(text: &str) -> Result<Address, Wrong> {
    // A bare place has colons too, so the kind is looked for first and a place tried where there is none.
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "pcie" => Ok(Address::Pcie(parse_bdf(rest)?)),
        "vfio-user" if rest.is_empty() => Err(("the path is missing".into(), VFIO_USER_EXAMPLE)),
        "vfio-user" if rest.contains('\0') => {
            Err(("the path holds a zero byte".into(), VFIO_USER_EXAMPLE))
        }
        "vfio-user" => Ok(Address::VfioUser(rest.into())),
        "embedded" => Ok(Address::Embedded(EmbeddedOptions::parse(rest)?)),
        "tcp" => Ok(Address::Tcp(TcpOptions::parse(rest)?)),
        "" => Err(("it is empty or begins with ':'".into(), "embedded:")),
        _ if text.contains('/') => {
            Err((format!("'{kind}' is no kind; a socket needs one"), VFIO_USER_EXAMPLE))
        }
        _ if looks_like_bdf(text) => Ok(Address::Pcie(parse_bdf(text)?)),
        _ => {
            let kinds = "pcie:, vfio-user:, tcp: and embedded:";
            Err((format!("'{kind}' is no kind, and no PCI place; kinds are {kinds}"), PCIE_EXAMPLE))
        }
    }
}

fn looks_like_bdf(text: &str) -> bool {
    text.contains(':') && text.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
}

impl FromStr for Bdf {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse_bdf(text).map_err(|(what, example)| AddressError {
            address: text.into(),
            what,
            example,
        })
    }
}

fn parse_bdf(text: &str) -> Result<Bdf, Wrong> {
    let wrong = |what: String| (what, PCIE_EXAMPLE);
    let Some((head, function)) = text.rsplit_once('.') else {
        return Err(wrong("the function, '.0' to '.7', is missing at the end".into()));
    };
    let parts: Vec<&str> = head.split(':').collect();
    let (domain, bus, device) = match parts.as_slice() {
        [bus, device] => ("0000", *bus, *device),
        [domain, bus, device] => (*domain, *bus, *device),
        _ => return Err(wrong(format!("'{head}' is not domain:bus:device or bus:device"))),
    };
    let field = |name: &str, text: &str, digits: usize, most: u32| {
        let well_formed =
            (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value =
            u32::from_str_radix(text, 16).ok().filter(|&value| well_formed && value <= most);
        value.ok_or_else(|| {
            wrong(format!("the {name} '{text}' is no hexadecimal number up to {most:x}"))
        })
    };
    let byte = |name, text, most: u8| {
        // The field is at most `most`, so nothing is cut off.
        field(name, text, 2, most.into()).map(|value| value as u8)
    };
    Ok(Bdf {
        domain: field("domain", domain, 8, u32::MAX)?,
        bus: byte("bus", bus, 0xff)?,
        device: byte("device", device, 31)?,
        function: byte("function", function, 7)?,
    })
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcie(bdf) => write!(f, "pcie:{bdf}"),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Embedded(options) => write!(f, "embedded:{options}"),
            Self::Quirky { address, quirks } => write!(f, "{address},quirks={quirks}"),
            Self::Tcp(options) => write!(f, "tcp:{options}"),
        }
    }
}

// Safe code on strings and bytes: nothing that Miri would see, and slow there.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_in_every_form() {
        let bdf = Bdf { domain: 0, bus: 1, device: 0x1f, function: 7 };
        for text in ["pcie:0000:01:1f.7", "pcie:01:1f.7", "0000:01:1f.7", "01:1f.7", "1:1F.7"] {
            assert_eq!(text.parse(), Ok(Address::Pcie(bdf)), "{text}");
        }
        assert_eq!("10000:e1:00.0".parse::<Address>().unwrap().to_string(), "pcie:10000:e1:00.0");
        assert_eq!("01:00.0".parse::<Bdf>().unwrap().to_string(), "0000:01:00.0");
    }

    #[test]
    fn the_default_needs_no_hardware() {
        assert_eq!(Address::default().to_string(), "embedded:");
        assert_eq!("embedded:".parse(), Ok(Address::default()));
        assert_eq!("embedded".parse(), Ok(Address::default()));
    }

    #[test]
    fn a_wrong_address_is_told_what_and_shown_a_right_one() {
        for (text, part) in [
            ("", "empty"),
            (":", "empty"),
            ("nvme0", "'nvme0'"),
            ("/dev/nvme0n1", "'/dev/nvme0n1'"),
            ("pcie:", "function"),
            ("pcie:0000:01:00", "function"),
            ("pcie:0000:01:00.8", "function '8'"),
            ("pcie:0000:01:20.0", "device '20'"),
            ("pcie:0000:101:00.0", "bus '101'"),
            ("pcie:123456789:01:00.0", "domain '123456789'"),
            ("pcie:+1:00.0", "bus '+1'"),
            ("pcie:0:0:0:0.0", "'0:0:0:0'"),
            ("pcie:::.", "domain ''"),
            ("1:2", "function"),
            ("vfio-user:", "path"),
            ("tcp://host:4420/nqm", "'nqm'"),
            ("embedded:size=0", "size"),
            ("embedded:size=12parsecs", "'12parsecs'"),
            ("embedded:block=520", "'520'"),
            ("embedded:colour=red", "'colour'"),
            ("embedded:size", "'size'"),
            ("embedded:file=", "file"),
            ("embedded:null=1TiB,size=1GiB", "null"),
            ("embedded:size=1GiB,size=2GiB", "twice"),
            ("embedded:size=1000,block=512", "multiple"),
            ("embedded:namespaces=0", "'0'"),
            ("embedded:queues=x", "'x'"),
            ("embedded:mdts=5000", "'5000'"),
            ("pcie:01:00.0,quirks=slow", "'slow'"),
            ("embedded:quirks=", "''"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            let message = error.to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(error.example().parse::<Address>().is_ok(), "{text}: {message}");
            assert!(message.ends_with(error.example()), "{message}");
        }
    }

    #[test]
    fn quirks_come_last() {
        for (text, printed) in [
            ("pcie:01:00.0,quirks=stripe", "pcie:0000:01:00.0,quirks=stripe"),
            ("embedded:quirks=^stripe", "embedded:,quirks=^stripe"),
            ("vfio-user:/a,b,quirks=no-lists+stripe", "vfio-user:/a,b,quirks=no-lists+stripe"),
        ] {
            let address: Address = text.parse().unwrap();
            assert!(matches!(address, Address::Quirky { .. }), "{text}");
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
        let path = "vfio-user:/odd,quirks=name";
        assert_eq!(path.parse(), Ok(Address::VfioUser("/odd,quirks=name".into())));
    }

    fn embedded() -> impl Strategy<Value = EmbeddedOptions> {
        let path = proptest::collection::vec(1u8.., 1..20);
        let backing = prop_oneof![
            Just(Backing::Memory),
            Just(Backing::Null),
            path.prop_map(|bytes| {
                use std::os::unix::ffi::OsStringExt;
                Backing::File(std::ffi::OsString::from_vec(bytes).into())
            })
        ];
        let block = prop_oneof![Just(512u32), Just(4096)];
        let mdts = proptest::option::of((12..=30u32).prop_map(|shift| 1u64 << shift));
        let queues = proptest::option::of(1u16..=0xfffe);
        (backing, 1..1u64 << 40, block, 1..=256u32, queues, mdts, any::<bool>()).prop_map(
            |(backing, blocks, block, namespaces, queues, mdts, sized)| {
                // A file makes one namespace.
                let namespaces = if matches!(backing, Backing::File(_)) { 1 } else { namespaces };
                let given = sized || !matches!(backing, Backing::File(_));
                let size = given.then_some(blocks * u64::from(block));
                EmbeddedOptions { backing, size, block, namespaces, queues, mdts }
            },
        )
    }

    proptest! {
        #[test]
        fn printing_gives_back_what_parses(
            options in embedded(),
            domain: u32, bus: u8, device in 0..32u8, function in 0..8u8,
            path in "[^\0]{1,40}",
        ) {
            let bdf = Bdf { domain, bus, device, function };
            for address in [
                Address::Embedded(options),
                Address::Pcie(bdf),
                Address::VfioUser(path.into()),
            ] {
                let text = address.to_string();
                prop_assert_eq!(text.parse::<Address>(), Ok(address), "{}", text);
            }
        }

        #[test]
        fn no_text_panics_and_what_parses_prints_and_parses(text in "(pcie|embedded|vfio-user)?:?\\PC*") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }

        #[test]
        fn options_that_parse_print_and_parse(
            text in "embedded:((size|block|null|file|queues|namespaces|mdts)=[0-9a-z%,]{1,6}(KiB|MiB|G|T)?,?){0,4}"
        ) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
