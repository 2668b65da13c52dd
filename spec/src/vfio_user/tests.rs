//! Messages byte for byte.

use super::*;

#[test]
fn a_dma_map_command_byte_for_byte() {
    let header = Header {
        message_id: 0x1234.into(),
        command: Command::DMA_MAP.0.into(),
        message_size: 48.into(),
        flags: u32::from(HeaderFlags::new().with_kind(HeaderFlags::COMMAND)).into(),
        error: 0.into(),
    };
    assert_eq!(header.as_bytes(), [0x34, 0x12, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let map = DmaMap {
        argsz: 32.into(),
        flags: (DmaMap::READ | DmaMap::WRITE).into(),
        offset: 0x20_0000.into(),
        address: 0x1_0000_0000.into(),
        size: 0x40_0000.into(),
    };
    assert_eq!(
        map.as_bytes(),
        [
            32, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x40,
            0, 0, 0, 0, 0
        ]
    );
}

#[test]
fn flags_of_a_header() {
    let error = HeaderFlags::new().with_kind(HeaderFlags::REPLY).with_error(true);
    assert_eq!(u32::from(error), 0x21);
    assert!(HeaderFlags::from(0x10).no_reply());
    assert_eq!(HeaderFlags::from(0xffff_fff1).kind(), HeaderFlags::REPLY);
}

#[test]
fn a_region_with_sparse_areas_byte_for_byte() {
    let info = RegionInfo {
        argsz: 64.into(),
        flags: (RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP | RegionInfo::CAPS).into(),
        index: region::BAR0.into(),
        cap_offset: 32.into(),
        size: 0x4000.into(),
        offset: 0x0807_0605_0403_0201.into(),
    };
    assert_eq!(
        info.as_bytes(),
        [
            64, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 1, 2, 3,
            4, 5, 6, 7, 8
        ]
    );
    let header = CapabilityHeader {
        id: CapabilityHeader::SPARSE_MMAP.into(),
        version: 1.into(),
        next: 0.into(),
    };
    assert_eq!(header.as_bytes(), [1, 0, 1, 0, 0, 0, 0, 0]);
    let sparse = SparseMmap { nr_areas: 1.into(), reserved: 0.into() };
    assert_eq!(sparse.as_bytes(), [1, 0, 0, 0, 0, 0, 0, 0]);
    let area = SparseArea { offset: 0x1000.into(), size: 0x2000.into() };
    assert_eq!(area.as_bytes(), [0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn accesses_and_interrupts_byte_for_byte() {
    let access = RegionAccess { offset: 0x14.into(), region: 7.into(), count: 4.into() };
    assert_eq!(access.as_bytes(), [0x14, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0]);
    let dma = DmaAccess { address: 0x1000.into(), count: 64.into() };
    assert_eq!(dma.as_bytes(), [0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]);
    let set = IrqSet {
        argsz: 20.into(),
        flags: (IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER).into(),
        index: irq::MSIX.into(),
        start: 1.into(),
        count: 3.into(),
    };
    assert_eq!(set.as_bytes(), [20, 0, 0, 0, 0x24, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
    let unmap = DmaUnmap {
        argsz: 24.into(),
        flags: DmaUnmap::ALL.into(),
        address: 0.into(),
        size: 0x1_0000.into(),
    };
    assert_eq!(
        unmap.as_bytes(),
        [24, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    );
    let info = DeviceInfo { argsz: 16.into(), flags: 3.into(), regions: 9.into(), irqs: 5.into() };
    assert_eq!(info.as_bytes(), [16, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0]);
    let version = Version { major: Version::MAJOR.into(), minor: Version::MINOR.into() };
    assert_eq!(version.as_bytes(), [0, 0, 1, 0]);
}

/// The numbers that libvfio-user's header has.
#[test]
fn numbers_of_commands() {
    let commands = [
        (Command::VERSION, 1),
        (Command::DMA_MAP, 2),
        (Command::DMA_UNMAP, 3),
        (Command::DEVICE_GET_INFO, 4),
        (Command::DEVICE_GET_REGION_INFO, 5),
        (Command::DEVICE_GET_REGION_IO_FDS, 6),
        (Command::DEVICE_GET_IRQ_INFO, 7),
        (Command::DEVICE_SET_IRQS, 8),
        (Command::REGION_READ, 9),
        (Command::REGION_WRITE, 10),
        (Command::DMA_READ, 11),
        (Command::DMA_WRITE, 12),
        (Command::DEVICE_RESET, 13),
        (Command::REGION_WRITE_MULTI, 15),
        (Command::DEVICE_FEATURE, 16),
        (Command::MIG_DATA_READ, 17),
        (Command::MIG_DATA_WRITE, 18),
    ];
    for (command, number) in commands {
        assert_eq!(command, Command(number), "{}", command.name());
    }
}
