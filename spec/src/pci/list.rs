//! The list of capabilities in configuration space (PCI 6.7).

use super::offset;

/// Identifier and offset of each capability in a configuration space.
///
/// Ends where the list does, outside the bytes given, and after as many steps as there is room for
/// capabilities: the device wrote it.
#[derive(Clone, Debug)]
pub struct Capabilities<'a> {
    config: &'a [u8],
    next: u8,
    steps: u8,
}

impl<'a> Capabilities<'a> {
    /// The bit of the status register that says there is a list.
    const LISTED: u8 = 1 << 4;
    /// Capabilities of 4 bytes that fit between the header and the end of conventional space.
    const MAX: u8 = 48;
    /// The first byte after the header.
    const START: usize = 0x40;

    /// The list in these bytes, which begin with the header.
    #[must_use]
    pub fn new(config: &'a [u8]) -> Capabilities<'a> {
        let byte = |at: u64| config.get(at as usize).copied().unwrap_or(0);
        let listed = byte(offset::STATUS) & Self::LISTED != 0;
        let next = if listed { byte(offset::CAPABILITIES) } else { 0 };
        Capabilities { config, next, steps: Self::MAX }
    }

    /// Where the first capability with this identifier stands.
    #[must_use]
    pub fn find(config: &'a [u8], id: u8) -> Option<usize> {
        Capabilities::new(config).find_map(|(found, at)| (found == id).then_some(at))
    }
}

impl Iterator for Capabilities<'_> {
    type Item = (u8, usize);

    fn next(&mut self) -> Option<(u8, usize)> {
        let at = usize::from(self.next & !3);
        if at < Self::START {
            return None;
        }
        self.steps = self.steps.checked_sub(1)?;
        let (id, next) = (*self.config.get(at)?, *self.config.get(at + 1)?);
        self.next = next;
        Some((id, at))
    }
}
