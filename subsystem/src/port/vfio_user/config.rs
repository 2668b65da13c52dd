//! Configuration space of the function that is served: a PCI Express endpoint with power management and MSI-X.
//!
//! Owns its bytes and which of them a client can change. Nothing here has an effect of its own; what a write sets in
//! motion is returned to `function`.
//!
//! ```text
//! 00h header    40h power management    50h PCI Express    90h MSI-X    100h no extended capability
//! ```

use doorbell_spec::pci::{
    BAR_MEMORY_64, CLASS_NVME, CONFIG_LEN, Command, DeviceStatus, capability, express, msix,
    offset, power,
};

const POWER: u64 = 0x40;
const EXPRESS: u64 = 0x50;
const MSIX: u64 = 0x90;
const _: () = assert!(POWER + power::LEN <= EXPRESS);
const _: () = assert!(EXPRESS + express::LEN <= MSIX);

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) vendor: u16,
    pub(super) device: u16,
    /// At least 1 and at most [`msix::MAX_VECTORS`].
    pub(super) vectors: u16,
    /// Bytes of BAR0; a power of two.
    pub(super) bar0_len: u64,
    /// Where in BAR0 the MSI-X table lies, and behind it the pending bits.
    pub(super) msix_table: u64,
    pub(super) msix_pending: u64,
}

/// Configuration space.
#[derive(Clone, Debug)]
pub(super) struct Config {
    bytes: Vec<u8>,
    /// Bits that a client can change.
    writable: Vec<u8>,
}

impl Config {
    /// As after power-on.
    pub(super) fn new(identity: &Identity) -> Self {
        let mut config = Self { bytes: vec![0; CONFIG_LEN], writable: vec![0; CONFIG_LEN] };
        config.set(offset::VENDOR, &identity.vendor.to_le_bytes());
        config.set(offset::DEVICE, &identity.device.to_le_bytes());
        config.set(offset::SUBSYSTEM_VENDOR, &identity.vendor.to_le_bytes());
        config.set(offset::SUBSYSTEM, &identity.device.to_le_bytes());
        config.set(offset::REVISION, &(CLASS_NVME << 8 | 1).to_le_bytes());
        let status = DeviceStatus::new().with_capabilities(true);
        config.set(offset::STATUS, &u16::from(status).to_le_bytes());
        let command = Command::new()
            .with_memory(true)
            .with_bus_master(true)
            .with_parity(true)
            .with_serr(true)
            .with_intx_disable(true);
        config.allow(offset::COMMAND, &u16::from(command).to_le_bytes());
        config.allow(offset::CACHE_LINE, &[0xff]);
        config.allow(offset::INTERRUPT_LINE, &[0xff]);

        // A client finds the size of a BAR by which address bits it can set.
        config.set(offset::BAR0, &BAR_MEMORY_64.to_le_bytes());
        config.allow(offset::BAR0, &(!(identity.bar0_len - 1)).to_le_bytes());

        config.set(offset::CAPABILITIES, &[POWER as u8]);
        config.set(POWER, &[capability::POWER, EXPRESS as u8]);
        config.set(POWER + power::CAPABILITIES, &power::VERSION.to_le_bytes());
        config.set(POWER + power::CONTROL, &power::NO_SOFT_RESET.to_le_bytes());
        config.allow(POWER + power::CONTROL, &power::STATE_MASK.to_le_bytes());

        config.set(EXPRESS, &[capability::EXPRESS, MSIX as u8]);
        config.set(EXPRESS + express::CAPABILITIES, &express::ENDPOINT_V2.to_le_bytes());
        let device = express::FLR | express::ROLE_BASED;
        config.set(EXPRESS + express::DEVICE_CAPABILITIES, &device.to_le_bytes());
        config.allow(EXPRESS + express::DEVICE_CONTROL, &u16::MAX.to_le_bytes());
        let link = express::LINK_X1_GEN1.to_le_bytes();
        config.set(EXPRESS + express::LINK_CAPABILITIES, &link);
        config.set(EXPRESS + express::LINK_STATUS, &link);

        config.set(MSIX, &[capability::MSIX, 0]);
        let size_z = identity.vectors.clamp(1, msix::MAX_VECTORS) - 1;
        let control = msix::Control::new().with_size_z(size_z);
        config.set(MSIX + msix::CONTROL, &u16::from(control).to_le_bytes());
        let control = msix::Control::new().with_masked(true).with_enabled(true);
        config.allow(MSIX + msix::CONTROL, &u16::from(control).to_le_bytes());
        // The low three bits name the BAR: 0.
        config.set(MSIX + msix::TABLE, &(identity.msix_table as u32).to_le_bytes());
        config.set(MSIX + msix::PENDING, &(identity.msix_pending as u32).to_le_bytes());
        config
    }

    /// `len` bytes from `at`; `None` past the end.
    pub(super) fn read(&self, at: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(at).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    /// Writes what can be written of `data` at `at`. True if that starts a function level reset.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Option<bool> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(data.len())?;
        let bytes = self.bytes.get_mut(start..end)?;
        let writable = self.writable.get(start..end)?;
        for ((byte, mask), new) in bytes.iter_mut().zip(writable).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
        let control = self.word(EXPRESS + express::DEVICE_CONTROL);
        let reset = control & express::INITIATE_FLR != 0;
        if reset {
            let control = control & !express::INITIATE_FLR;
            self.set(EXPRESS + express::DEVICE_CONTROL, &control.to_le_bytes());
        }
        Some(reset)
    }

    /// The command register.
    pub(super) fn command(&self) -> Command {
        Command::from(self.word(offset::COMMAND))
    }

    fn word(&self, at: u64) -> u16 {
        self.read(at, 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
    }

    fn set(&mut self, at: u64, value: &[u8]) {
        copy(&mut self.bytes, at, value);
    }

    fn allow(&mut self, at: u64, mask: &[u8]) {
        copy(&mut self.writable, at, mask);
    }
}

fn copy(to: &mut [u8], at: u64, from: &[u8]) {
    let start = at as usize;
    if let Some(to) = to.get_mut(start..start + from.len()) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0xd00b,
        device: 1,
        vectors: 128,
        bar0_len: 0x4000,
        msix_table: 0x2000,
        msix_pending: 0x3000,
    };

    #[test]
    fn the_capability_list_ends_and_has_all_three() {
        let config = Config::new(&IDENTITY);
        assert_eq!(config.read(0, 4).unwrap(), [0x0b, 0xd0, 1, 0]);
        assert_eq!(config.read(8, 4).unwrap(), [1, 0x02, 0x08, 0x01]);
        assert_ne!(config.read(6, 1).unwrap()[0] & 0x10, 0);
        let mut at = config.read(0x34, 1).unwrap()[0];
        let mut found = Vec::new();
        while at != 0 && found.len() < 16 {
            let capability = config.read(u64::from(at), 2).unwrap();
            found.push(capability[0]);
            at = capability[1];
        }
        assert_eq!(found, [0x01, 0x10, 0x11]);
        assert_eq!(config.read(MSIX + 2, 2).unwrap(), [127, 0]);
        assert_eq!(config.read(MSIX + 4, 8).unwrap(), [0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        assert_eq!(config.read(0x100, 4).unwrap(), [0; 4], "no extended capability");
    }

    #[test]
    fn a_bar_shows_its_size() {
        let mut config = Config::new(&IDENTITY);
        assert_eq!(config.write(0x10, &[0xff; 8]), Some(false));
        assert_eq!(config.read(0x10, 8).unwrap(), (!0x3fff_u64 | 4).to_le_bytes());
        config.write(0x10, &0xfebf_1234_u32.to_le_bytes()).unwrap();
        assert_eq!(config.read(0x10, 4).unwrap(), 0xfebf_0004_u32.to_le_bytes());
        config.write(0x18, &[0xff; 4]).unwrap();
        assert_eq!(config.read(0x18, 4).unwrap(), [0; 4], "there is no BAR2");
    }

    #[test]
    fn what_can_be_written() {
        let mut config = Config::new(&IDENTITY);
        config.write(4, &[0xff, 0xff]).unwrap();
        assert_eq!(u16::from(config.command()), 0x0546);
        config.write(0, &[0xff; 4]).unwrap();
        assert_eq!(config.read(0, 2).unwrap(), [0x0b, 0xd0]);
        let control = EXPRESS + express::DEVICE_CONTROL;
        assert_eq!(config.write(control, &0x8010_u16.to_le_bytes()), Some(true));
        assert_eq!(config.read(control, 2).unwrap(), 0x0010_u16.to_le_bytes(), "reads back 0");
        assert_eq!(config.write(control + 1, &[0x80]), Some(true), "by its one byte as well");
    }

    #[test]
    fn nothing_lies_past_the_end() {
        let mut config = Config::new(&IDENTITY);
        assert!(config.read(0, CONFIG_LEN).is_some());
        assert!(config.read(1, CONFIG_LEN).is_none());
        assert!(config.read(u64::MAX, 1).is_none());
        assert!(config.write(u64::MAX - 1, &[0; 4]).is_none());
        assert!(config.write(CONFIG_LEN as u64 - 1, &[0; 2]).is_none());
    }
}
