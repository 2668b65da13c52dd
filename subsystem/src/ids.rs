//! Names derived from names: the same subsystem gives the same namespace the same identifiers in every run.

/// A UUID of version 8 (RFC 9562: the contents are ours) for namespace `nsid` of the subsystem with these names.
pub(crate) fn uuid(names: &[&str], nsid: u32) -> [u8; 16] {
    let mut id = digest(names, nsid, 1);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// An NGUID; locally assigned, since we hold no IEEE company identifier.
pub(crate) fn nguid(names: &[&str], nsid: u32) -> [u8; 16] {
    let mut id = digest(names, nsid, 2);
    // The first byte of the OUI stands at offset 8: "locally administered", not a group address.
    id[8] = id[8] & 0xfc | 0x02;
    id
}

/// The UUID in its usual text form.
pub(crate) fn text(uuid: [u8; 16]) -> String {
    let number = u128::from_be_bytes(uuid);
    let part = |shift: u32, digits: u32| (number >> shift) & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 8),
        part(80, 4),
        part(64, 4),
        part(48, 4),
        part(0, 12)
    )
}

/// FNV-1a with 128 bits: spreads names well enough to tell them apart; nothing here is secret.
fn digest(names: &[&str], nsid: u32, kind: u8) -> [u8; 16] {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let names = names.iter().flat_map(|name| name.bytes().chain([0]));
    let all = names.chain(nsid.to_le_bytes()).chain([kind]);
    let hash = all.fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    hash.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_repeat_and_differ() {
        assert_eq!(uuid(&["a", "b"], 1), uuid(&["a", "b"], 1));
        assert_ne!(uuid(&["a", "b"], 1), uuid(&["a", "b"], 2));
        assert_ne!(uuid(&["a", "b"], 1), uuid(&["ab", ""], 1));
        assert_ne!(uuid(&["a", "b"], 1), nguid(&["a", "b"], 1));
    }

    #[test]
    fn uuid_text_shows_version_and_variant() {
        let text = text(uuid(&["a"], 1));
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'8');
        assert!(b"89ab".contains(&text.as_bytes()[19]));
    }
}
