//! Quirks: what particular drives get wrong, as data, and what the driver does about it.
//!
//! Drives are known by their PCI identity, or by model and firmware. An address can add quirks or leave some out:
//! `pcie:0000:01:00.0,quirks=delay-ready`, `...,quirks=^bogus-ids`, `...,quirks=none`; so can
//! [`Config::quirks`](crate::Config::quirks).

use std::fmt;
use std::str::FromStr;

use doorbell_spec::identify::IdentifyController;

use crate::device::PciId;

/// A set of quirks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quirks(u16);

impl Quirks {
    /// None.
    pub const NONE: Self = Self(0);
    /// CSTS may not be read for 2.3 s after CC.EN has changed.
    pub const DELAY_READY: Self = Self(1 << 0);
    /// Registers may not be touched for 2 s after a function level reset.
    pub const DELAY_AFTER_RESET: Self = Self(1 << 1);
    /// CAP.MQES is 0 and means 63.
    pub const MQES_ZERO: Self = Self(1 << 2);
    /// Identify knows CNS 00h and 01h only: no lists.
    pub const NO_LISTS: Self = Self(1 << 3);
    /// Claims 1.3 and fails at the Namespace Identification Descriptor list.
    pub const NO_DESCRIPTORS: Self = Self(1 << 4);
    /// EUI64, NGUID and UUID are not unique, or change.
    pub const BOGUS_IDS: Self = Self(1 << 5);
    /// SUBNQN is not unique.
    pub const IGNORE_SUBNQN: Self = Self(1 << 6);
    /// Write Zeroes does not work, though it is reported.
    pub const NO_WRITE_ZEROES: Self = Self(1 << 7);
    /// Fast only where no command crosses a multiple of its largest transfer.
    pub const STRIPE: Self = Self(1 << 8);
    /// Never reports the end of a shutdown.
    pub const NO_SHUTDOWN_STATUS: Self = Self(1 << 9);
    /// One command at a time in each I/O queue.
    pub const DEPTH_ONE: Self = Self(1 << 10);
    /// Doorbells in memory get lost.
    pub const NO_SHADOW_DOORBELLS: Self = Self(1 << 11);

    /// By name, as an address has them.
    const NAMES: [(&'static str, Self); 12] = [
        ("delay-ready", Self::DELAY_READY),
        ("delay-after-reset", Self::DELAY_AFTER_RESET),
        ("mqes-zero", Self::MQES_ZERO),
        ("no-lists", Self::NO_LISTS),
        ("no-descriptors", Self::NO_DESCRIPTORS),
        ("bogus-ids", Self::BOGUS_IDS),
        ("ignore-subnqn", Self::IGNORE_SUBNQN),
        ("no-write-zeroes", Self::NO_WRITE_ZEROES),
        ("stripe", Self::STRIPE),
        ("no-shutdown-status", Self::NO_SHUTDOWN_STATUS),
        ("depth-one", Self::DEPTH_ONE),
        ("no-shadow-doorbells", Self::NO_SHADOW_DOORBELLS),
    ];

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are among them.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of a function with this identity.
    #[must_use]
    pub fn of_function(pci: PciId) -> Self {
        let rows = FUNCTIONS
            .iter()
            .filter(|(vendor, devices, _)| *vendor == pci.vendor && devices.contains(&pci.device));
        rows.fold(Self::NONE, |all, (_, _, quirks)| all.and(*quirks))
    }

    /// Those of a drive that calls itself so.
    #[must_use]
    pub fn of_drive(identify: &IdentifyController) -> Self {
        let (model, firmware) = (identify.model().to_string(), identify.firmware().to_string());
        let rows = DRIVES.iter().filter(|(name, revision, _)| {
            model == *name && revision.is_none_or(|revision| revision == firmware)
        });
        rows.fold(Self::NONE, |all, (_, _, quirks)| all.and(*quirks))
    }
}

/// Vendor, devices, quirks. Facts from the tables of Linux and SPDK.
const FUNCTIONS: &[(u16, &[u16], Quirks)] = &[
    (0x8086, &[0x0953, 0x0a53, 0x0a54], Quirks::STRIPE.and(Quirks::DELAY_AFTER_RESET)),
    (0x8086, &[0x0a55], Quirks::STRIPE),
    (0x8086, &[0x5845], Quirks::NO_LISTS.and(Quirks::NO_WRITE_ZEROES).and(Quirks::BOGUS_IDS)),
    (0x8086, &[0xf1a5], Quirks::NO_WRITE_ZEROES),
    (0x8086, &[0x0a54], Quirks::IGNORE_SUBNQN.and(Quirks::BOGUS_IDS)),
    (0x8086, &[0xf1a6], Quirks::IGNORE_SUBNQN),
    (0x106b, &[0x2001], Quirks::DEPTH_ONE),
    (0x106b, &[0x2005], Quirks::NO_LISTS),
    (0x1bb1, &[0x0100], Quirks::DELAY_READY.and(Quirks::NO_DESCRIPTORS)),
    (0x1c58, &[0x0003, 0x0023], Quirks::DELAY_READY),
    (0x1c5f, &[0x0540], Quirks::DELAY_READY),
    (0x144d, &[0xa821, 0xa822], Quirks::DELAY_READY.and(Quirks::MQES_ZERO)),
    (0x144d, &[0xa826], Quirks::DELAY_READY),
    (0x144d, &[0xa822], Quirks::NO_WRITE_ZEROES.and(Quirks::IGNORE_SUBNQN)),
    (0x144d, &[0xa80b, 0xa809], Quirks::NO_WRITE_ZEROES),
    (0x144d, &[0xa80b, 0xa802], Quirks::BOGUS_IDS),
    (0x1987, &[0x5019, 0x5021], Quirks::NO_WRITE_ZEROES),
    (0x1987, &[0x5012, 0x5016], Quirks::BOGUS_IDS),
    (0x1987, &[0x5016], Quirks::IGNORE_SUBNQN),
    (0x1c5c, &[0x1504, 0x1d59], Quirks::NO_WRITE_ZEROES),
    (0x1c5c, &[0x174a], Quirks::BOGUS_IDS),
    (0x15b7, &[0x2001], Quirks::NO_WRITE_ZEROES),
    (0x1d97, &[0x2263], Quirks::NO_WRITE_ZEROES.and(Quirks::BOGUS_IDS)),
    (0x1d97, &[0x1d97, 0x2269], Quirks::BOGUS_IDS),
    (0x1d97, &[0x2269], Quirks::IGNORE_SUBNQN),
    (0x1cc4, &[0x6303, 0x6302], Quirks::NO_WRITE_ZEROES),
    (0x2646, &[0x5018, 0x5016, 0x501a, 0x501b, 0x501e, 0x502f], Quirks::NO_WRITE_ZEROES),
    (0x126f, &[0x1001], Quirks::IGNORE_SUBNQN),
    (0x126f, &[0x2262, 0x2263], Quirks::BOGUS_IDS),
    (0x126f, &[0x2263], Quirks::NO_DESCRIPTORS),
    (0x1b4b, &[0x1092], Quirks::IGNORE_SUBNQN.and(Quirks::NO_DESCRIPTORS)),
    (0x10ec, &[0x5762], Quirks::IGNORE_SUBNQN),
    (0x10ec, &[0x5762, 0x5763, 0x5765], Quirks::BOGUS_IDS),
    (0x1cc1, &[0x8201], Quirks::IGNORE_SUBNQN),
    (0x1cc1, &[0x33f8, 0x5350], Quirks::BOGUS_IDS),
    (0x1344, &[0x5407], Quirks::IGNORE_SUBNQN),
    (0x1344, &[0x6001], Quirks::BOGUS_IDS),
    (0x1b36, &[0x0010], Quirks::BOGUS_IDS),
    (0x1f40, &[0x1202, 0x5236], Quirks::BOGUS_IDS),
    (0x1e4b, &[0x1001, 0x1002, 0x1202, 0x1602], Quirks::BOGUS_IDS),
    (0x1dbe, &[0x5216, 0x5236], Quirks::BOGUS_IDS),
    (0xc0a9, &[0x540a], Quirks::BOGUS_IDS),
    (0x15ad, &[0x07f0], Quirks::NO_SHUTDOWN_STATUS),
];

/// Model, firmware revision if it matters, quirks.
const DRIVES: &[(&str, Option<&str>, Quirks)] =
    &[("Samsung Portable SSD X5", None, Quirks::DELAY_READY)];

/// Quirks that somebody knows better than the tables: those added, and those left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Override {
    /// Added.
    pub add: Quirks,
    /// Left out, whatever the tables say.
    pub remove: Quirks,
}

impl Override {
    /// What it makes of `known`.
    #[must_use]
    pub const fn apply(self, known: Quirks) -> Quirks {
        known.without(self.remove).and(self.add)
    }
}

/// A quirk that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no quirk; there are {}", names())]
pub struct UnknownQuirk {
    name: String,
}

fn names() -> String {
    let names: Vec<&str> = Quirks::NAMES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl FromStr for Override {
    type Err = UnknownQuirk;

    /// Names joined by `+`; one with `^` before it is left out; `none` leaves out all.
    fn from_str(text: &str) -> Result<Self, UnknownQuirk> {
        let mut all = Self::default();
        for name in text.split('+') {
            if name == "none" {
                all.remove = Quirks(u16::MAX >> (16 - Quirks::NAMES.len()));
                continue;
            }
            let (known, removed) = match name.strip_prefix('^') {
                Some(name) => (name, true),
                None => (name, false),
            };
            let found = Quirks::NAMES.iter().find(|(name, _)| *name == known);
            let Some((_, quirk)) = found else { return Err(UnknownQuirk { name: name.into() }) };
            let set = if removed { &mut all.remove } else { &mut all.add };
            *set = set.and(*quirk);
        }
        // What is said to be there is there.
        all.remove = all.remove.without(all.add);
        Ok(all)
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (mark, set) in [("^", self.remove), ("", self.add)] {
            for (name, _) in Quirks::NAMES.iter().filter(|(_, quirk)| set.has(*quirk)) {
                write!(f, "{between}{mark}{name}")?;
                between = "+";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up() {
        let of = |vendor, device| Quirks::of_function(PciId { vendor, device, ..PciId::default() });
        assert_eq!(of(0x1234, 0x5678), Quirks::NONE);
        let intel = of(0x8086, 0x0a54);
        assert!(intel.has(Quirks::STRIPE.and(Quirks::BOGUS_IDS).and(Quirks::DELAY_AFTER_RESET)));
        assert!(!intel.has(Quirks::DELAY_READY));
        assert!(of(0x144d, 0xa822).has(Quirks::MQES_ZERO.and(Quirks::NO_WRITE_ZEROES)));
        for (_, devices, quirks) in FUNCTIONS {
            assert!(!devices.is_empty() && *quirks != Quirks::NONE);
        }
    }

    #[test]
    fn overrides_print_and_parse() {
        for text in
            ["delay-ready", "^bogus-ids", "^stripe+delay-ready+no-lists", "none", "none+stripe"]
        {
            let parsed: Override = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{text}");
        }
        let all = Quirks(u16::MAX);
        assert_eq!("none".parse::<Override>().unwrap().apply(all).0 & 0x7ff, 0);
        assert_eq!(
            "none+stripe".parse::<Override>().unwrap().apply(all).0 & 0x7ff,
            Quirks::STRIPE.0
        );
        for (name, quirk) in Quirks::NAMES {
            assert_eq!(name.parse::<Override>().unwrap().apply(Quirks::NONE), quirk);
        }
        let error = "delay".parse::<Override>().unwrap_err().to_string();
        assert!(error.contains("'delay'") && error.contains("delay-ready"), "{error}");
    }
}
