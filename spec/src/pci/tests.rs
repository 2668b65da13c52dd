//! Golden bits, and capability lists that do not end.

use super::*;

#[test]
fn bits_are_where_the_documents_put_them() {
    let command = Command::new().with_memory(true).with_bus_master(true).with_intx_disable(true);
    assert_eq!(u16::from(command), 0x0406);
    assert_eq!(u16::from(Command::new().with_serr(true).with_parity(true)), 0x0140);
    assert_eq!(u16::from(DeviceStatus::new().with_capabilities(true)), 0x0010);
    let control = msix::Control::new().with_size_z(31).with_enabled(true).with_masked(true);
    assert_eq!(u16::from(control), 0xc01f);
}

/// Configuration space with power management at 40h, PCI Express at 48h and MSI-X at 84h.
fn config() -> [u8; CONVENTIONAL_LEN] {
    let mut config = [0; CONVENTIONAL_LEN];
    config[offset::STATUS as usize] = 0x10;
    config[offset::CAPABILITIES as usize] = 0x40;
    config[0x40..0x42].copy_from_slice(&[capability::POWER, 0x48]);
    config[0x48..0x4a].copy_from_slice(&[capability::EXPRESS, 0x84]);
    config[0x84..0x86].copy_from_slice(&[capability::MSIX, 0]);
    config
}

#[test]
fn capabilities_in_order() {
    let config = config();
    let mut found = Capabilities::new(&config);
    assert_eq!(found.next(), Some((capability::POWER, 0x40)));
    assert_eq!(found.next(), Some((capability::EXPRESS, 0x48)));
    assert_eq!(found.next(), Some((capability::MSIX, 0x84)));
    assert_eq!(found.next(), None);
    assert_eq!(Capabilities::find(&config, capability::MSIX), Some(0x84));
    assert_eq!(Capabilities::find(&config, capability::MSI), None);
}

#[test]
fn lists_that_lead_nowhere_end() {
    let mut config = config();
    config[0x85] = 0x40;
    assert_eq!(Capabilities::new(&config).count(), 48);
    config[0x41] = 0x03;
    assert_eq!(Capabilities::new(&config).count(), 1);
    config[0x41] = 0xfc;
    assert_eq!(Capabilities::new(&config[..0x90]).count(), 1);
    config[offset::STATUS as usize] = 0;
    assert_eq!(Capabilities::new(&config).count(), 0);
    assert_eq!(Capabilities::new(&[]).count(), 0);
}

#[test]
fn location_of_the_msix_table() {
    let location = msix::Location::new(4, 0x2000);
    assert_eq!((location.0, location.bir(), location.offset()), (0x2004, 4, 0x2000));
}
