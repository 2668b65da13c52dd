//! Identify's lists: namespaces, controllers, and the descriptors that name a namespace.
//!
//! A device wrote them: every iterator ends within the page, whatever it holds.

use crate::open_set::open_set;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Namespace List, 4096 bytes (Base 2.1, "Namespace List").
///
/// Up to 1024 namespace identifiers in ascending order, all greater than the one that the command
/// gave, ended by a zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceList {
    /// The identifiers as they stand there; [`NamespaceList::after`] reads them with care.
    pub nsids: [U32; 1024],
}

const _: () = assert!(size_of::<NamespaceList>() == 4096);

impl NamespaceList {
    /// Identifiers that a list holds.
    pub const CAPACITY: usize = 1024;

    /// The list of these identifiers, the first [`NamespaceList::CAPACITY`] of them.
    #[must_use]
    pub fn from_ids(ids: impl IntoIterator<Item = u32>) -> NamespaceList {
        let mut list = NamespaceList::new_zeroed();
        for (to, from) in list.nsids.iter_mut().zip(ids) {
            to.set(from);
        }
        list
    }

    /// The identifiers, from the list that a command with NSID 0 asked for.
    #[must_use]
    pub fn iter(&self) -> Namespaces<'_> {
        self.after(0)
    }

    /// The identifiers, from the list that a command with this NSID asked for. Ends at the first
    /// one that is not greater than the one before (PIT-43).
    #[must_use]
    pub fn after(&self, nsid: u32) -> Namespaces<'_> {
        Namespaces { rest: self.nsids.iter(), last: nsid }
    }
}

impl<'a> IntoIterator for &'a NamespaceList {
    type Item = u32;
    type IntoIter = Namespaces<'a>;

    fn into_iter(self) -> Namespaces<'a> {
        self.iter()
    }
}

/// Iterator over the identifiers in a [`NamespaceList`].
#[derive(Clone, Debug)]
pub struct Namespaces<'a> {
    rest: core::slice::Iter<'a, U32>,
    last: u32,
}

impl Iterator for Namespaces<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let nsid = self.rest.next()?.get();
        if nsid <= self.last {
            self.rest = Default::default();
            return None;
        }
        self.last = nsid;
        Some(nsid)
    }
}

impl core::iter::FusedIterator for Namespaces<'_> {}

/// Controller List, 4096 bytes (Base 2.1, "Controller List").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerList {
    /// NUMID: Number of Identifiers.
    pub numid: U16,
    /// Controller identifiers, ascending.
    pub cntlids: [U16; 2047],
}

const _: () = assert!(size_of::<ControllerList>() == 4096);
const _: () = assert!(offset_of!(ControllerList, cntlids) == 2);

impl ControllerList {
    /// The list of these controllers, the first 2047 of them.
    #[must_use]
    pub fn from_ids(ids: impl IntoIterator<Item = u16>) -> ControllerList {
        let mut list = ControllerList::new_zeroed();
        let mut count = 0;
        for (to, from) in list.cntlids.iter_mut().zip(ids) {
            to.set(from);
            count += 1;
        }
        list.numid.set(count);
        list
    }

    /// The controllers, as many as NUMID says and the list can hold.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.cntlids.iter().take(usize::from(self.numid.get())).map(|id| id.get())
    }
}

open_set! {
    /// NIDT: Namespace Identifier Type (Base 2.1, "Namespace Identification Descriptor").
    pub struct IdentifierType(u8): "Unknown Identifier" {
        EUI64 = 0x1, "IEEE Extended Unique Identifier", "8 bytes";
        NGUID = 0x2, "Namespace Globally Unique Identifier", "16 bytes";
        UUID = 0x3, "Namespace UUID", "16 bytes";
        CSI = 0x4, "Command Set Identifier", "1 byte";
    }
}

impl IdentifierType {
    /// NIDL that this type must have, for a type that is known.
    #[must_use]
    pub const fn length(self) -> Option<usize> {
        match self {
            Self::EUI64 => Some(8),
            Self::NGUID | Self::UUID => Some(16),
            Self::CSI => Some(1),
            _ => None,
        }
    }
}

/// Namespace Identification Descriptor list, 4096 bytes (Base 2.1, "Namespace Identification
/// Descriptor list").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceDescriptorList {
    /// The descriptors: NIDT, NIDL, 2 reserved bytes, then NIDL bytes; ended by NIDL 0.
    pub bytes: [u8; 4096],
}

const _: () = assert!(size_of::<NamespaceDescriptorList>() == 4096);

impl NamespaceDescriptorList {
    const HEADER: usize = 4;

    /// The list of these descriptors, as many as fit the page.
    #[must_use]
    pub fn from_descriptors<'a>(
        descriptors: impl IntoIterator<Item = Descriptor<'a>>,
    ) -> NamespaceDescriptorList {
        let mut list = NamespaceDescriptorList::new_zeroed();
        let mut rest = list.bytes.as_mut_slice();
        for Descriptor { nidt, nid } in descriptors {
            let Ok(nidl) = u8::try_from(nid.len()) else { continue };
            let Some((header, after)) = rest.split_first_chunk_mut::<{ Self::HEADER }>() else {
                break;
            };
            let Some((to, after)) = after.split_at_mut_checked(nid.len()) else { break };
            *header = [nidt.0, nidl, 0, 0];
            to.copy_from_slice(nid);
            rest = after;
        }
        list
    }

    /// The descriptors. Ends at NIDL 0, at a length that is wrong for its type, and at one that
    /// reaches past the page (PIT-44, PIT-45).
    #[must_use]
    pub fn iter(&self) -> Descriptors<'_> {
        Descriptors { rest: &self.bytes }
    }

    /// EUI64, NGUID, UUID and CSI, each as the first descriptor of its type has it.
    #[must_use]
    pub fn identifiers(&self) -> Identifiers {
        let mut found = Identifiers::default();
        for Descriptor { nidt, nid } in self.iter() {
            match nidt {
                IdentifierType::EUI64 => found.eui64 = found.eui64.or(nid.try_into().ok()),
                IdentifierType::NGUID => found.nguid = found.nguid.or(nid.try_into().ok()),
                IdentifierType::UUID => found.uuid = found.uuid.or(nid.try_into().ok()),
                IdentifierType::CSI => found.csi = found.csi.or(nid.first().copied()),
                _ => {}
            }
        }
        found
    }
}

impl<'a> IntoIterator for &'a NamespaceDescriptorList {
    type Item = Descriptor<'a>;
    type IntoIter = Descriptors<'a>;

    fn into_iter(self) -> Descriptors<'a> {
        self.iter()
    }
}

/// Namespace Identification Descriptor (Base 2.1, "Namespace Identification Descriptor").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// NIDT: Namespace Identifier Type.
    pub nidt: IdentifierType,
    /// NID: Namespace Identifier, NIDL bytes.
    pub nid: &'a [u8],
}

/// Iterator over the descriptors in a [`NamespaceDescriptorList`].
#[derive(Clone, Debug)]
pub struct Descriptors<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Descriptors<'a> {
    type Item = Descriptor<'a>;

    fn next(&mut self) -> Option<Descriptor<'a>> {
        let rest = core::mem::take(&mut self.rest);
        let (&[nidt, nidl, _, _], after) = rest.split_first_chunk()?;
        let nidt = IdentifierType(nidt);
        let length = usize::from(nidl);
        if length == 0 || nidt.length().is_some_and(|expected| expected != length) {
            return None;
        }
        let (nid, after) = after.split_at_checked(length)?;
        self.rest = after;
        Some(Descriptor { nidt, nid })
    }
}

impl core::iter::FusedIterator for Descriptors<'_> {}

/// What names a namespace, out of its descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identifiers {
    /// EUI64: IEEE Extended Unique Identifier.
    pub eui64: Option<[u8; 8]>,
    /// NGUID: Namespace Globally Unique Identifier.
    pub nguid: Option<[u8; 16]>,
    /// Namespace UUID.
    pub uuid: Option<[u8; 16]>,
    /// CSI: Command Set Identifier.
    pub csi: Option<u8>,
}
