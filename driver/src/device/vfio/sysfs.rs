//! What the kernel's file trees say of a PCI function, before anything is opened.
//!
//! Owns the reading of /sys and /proc. Every function takes the root, so that tests use a made-up tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use doorbell_spec::pci::CLASS_NVME;

use super::error::VfioError;
use crate::address::Bdf;

/// Entries looked at in one directory; more are left out of messages.
const MAX_ENTRIES: usize = 4096;
/// Entries named in a message.
const MAX_NAMED: usize = 8;
/// Class of bridges; a group with one is viable all the same.
const CLASS_BRIDGE: u32 = 0x06;

/// A PCI function that is bound to VFIO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) bdf: Bdf,
    pub(super) group: u32,
    pub(super) numa_node: Option<u32>,
}

impl Function {
    /// Looks `bdf` up, and checks what can be checked without opening it.
    pub(super) fn find(root: &Path, bdf: Bdf) -> Result<Self, VfioError> {
        let place = place(root, bdf);
        if !place.is_dir() {
            return Err(VfioError::NoSuchFunction { bdf, known: known(root) });
        }
        let class = class(&place).unwrap_or_default();
        if class != CLASS_NVME {
            return Err(VfioError::NotNvme { class });
        }
        let group = link_name(&place.join("iommu_group")).and_then(|name| name.parse().ok());
        let group: u32 = group.ok_or(VfioError::NoIommu)?;
        match link_name(&place.join("driver")) {
            Some(driver) if is_vfio(&driver) => {}
            other => {
                let driver = other.unwrap_or_else(|| "no driver".into());
                return Err(VfioError::NotBound { driver, bdf });
            }
        }
        let name = root.join(format!("sys/kernel/iommu_groups/{group}/name"));
        if read(&name).is_some_and(|name| name == "vfio-noiommu") {
            return Err(VfioError::NoIommuMode);
        }
        // -1 where the platform does not tell.
        let numa_node = read(&place.join("numa_node")).and_then(|node| node.parse().ok());
        Ok(Self { bdf, group, numa_node })
    }

    /// The group's device node.
    pub(super) fn node(&self, root: &Path) -> PathBuf {
        root.join(format!("dev/vfio/{}", self.group))
    }

    /// The other functions of the group that keep it from being viable, each with its driver.
    pub(super) fn rivals(&self, root: &Path) -> String {
        let devices = root.join(format!("sys/kernel/iommu_groups/{}/devices", self.group));
        let rivals = names(&devices).into_iter().filter_map(|name| {
            let place = root.join("sys/bus/pci/devices").join(&name);
            let driver = link_name(&place.join("driver"))?;
            let harmless = is_vfio(&driver)
                || driver == "pci-stub"
                || class(&place).is_some_and(|class| class >> 16 == CLASS_BRIDGE);
            (name != self.bdf.to_string() && !harmless)
                .then(|| format!("{name} is bound to {driver}"))
        });
        list(rivals).unwrap_or_else(|| "the kernel uses another function".into())
    }
}

/// Who has `node` open, as far as this process may look: " by NAME (pid N)", or nothing.
pub(super) fn holder(root: &Path, node: &Path) -> String {
    let holders = names(&root.join("proc")).into_iter().filter_map(|pid| {
        let number: u32 = pid.parse().ok()?;
        let process = root.join("proc").join(&pid);
        let descriptors = process.join("fd");
        let holds = names(&descriptors)
            .iter()
            .any(|name| fs::read_link(descriptors.join(name)).is_ok_and(|target| target == node));
        if !holds {
            return None;
        }
        let name = read(&process.join("comm")).unwrap_or_else(|| "a process".into());
        Some(if number == std::process::id() {
            "this process itself".into()
        } else {
            format!("{name} (pid {number})")
        })
    });
    list(holders).map(|holders| format!(" by {holders}")).unwrap_or_default()
}

/// How many DMA mappings a container keeps, where the container itself does not say.
pub(super) fn entry_limit(root: &Path) -> Option<u32> {
    read(&root.join("sys/module/vfio_iommu_type1/parameters/dma_entry_limit"))?.parse().ok()
}

fn place(root: &Path, bdf: Bdf) -> PathBuf {
    root.join(format!("sys/bus/pci/devices/{bdf}"))
}

fn is_vfio(driver: &str) -> bool {
    // vfio-pci, and the drivers for one vendor's functions that are built on it: nvgrace-gpu-vfio-pci and others.
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

fn class(place: &Path) -> Option<u32> {
    let text = read(&place.join("class"))?;
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The NVMe functions of this machine, in words.
fn known(root: &Path) -> String {
    let devices = root.join("sys/bus/pci/devices");
    let drives = names(&devices).into_iter().filter(|name| {
        class(&devices.join(name)) == Some(CLASS_NVME) && name.parse::<Bdf>().is_ok()
    });
    match list(drives) {
        Some(drives) => format!("NVMe functions here: {drives}"),
        None => "there is no NVMe function here; embedded: works without one".into(),
    }
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.take(MAX_NAMED).collect();
    (!items.is_empty()).then(|| items.join(", "))
}

/// Names in a directory, sorted; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(MAX_ENTRIES);
    let names =
        entries.filter_map(|entry: io::Result<_>| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn read(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree of files that is removed when dropped.
    struct Tree(PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Tree {
        fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("doorbell-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(root.join("sys/bus/pci/devices")).unwrap();
            fs::create_dir_all(root.join("dev/vfio")).unwrap();
            Self(root)
        }

        fn put(&self, file: &str, text: &str) {
            let file = self.0.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn function(&self, bdf: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
            let place = format!("sys/bus/pci/devices/{bdf}");
            self.put(&format!("{place}/class"), &format!("{class}\n"));
            self.put(&format!("{place}/numa_node"), "-1\n");
            if let Some(driver) = driver {
                let target = format!("../../../../bus/pci/drivers/{driver}");
                symlink(target, self.0.join(&place).join("driver")).unwrap();
            }
            if let Some(group) = group {
                let devices = format!("sys/kernel/iommu_groups/{group}/devices");
                fs::create_dir_all(self.0.join(&devices)).unwrap();
                let target = format!("../../../../kernel/iommu_groups/{group}");
                symlink(target, self.0.join(&place).join("iommu_group")).unwrap();
                symlink(self.0.join(&place), self.0.join(devices).join(bdf)).unwrap();
            }
        }

        fn find(&self, bdf: &str) -> Result<Function, VfioError> {
            Function::find(&self.0, bdf.parse().unwrap())
        }
    }

    #[test]
    fn a_bound_drive_is_found() {
        let tree = Tree::new("bound");
        tree.function("0000:01:00.0", "0x010802", Some("vfio-pci"), Some(7));
        let function = tree.find("01:00.0").unwrap();
        assert_eq!((function.group, function.numa_node), (7, None));
        assert_eq!(function.node(&tree.0), tree.0.join("dev/vfio/7"));
        tree.put("sys/bus/pci/devices/0000:01:00.0/numa_node", "1\n");
        assert_eq!(tree.find("01:00.0").unwrap().numa_node, Some(1));
    }

    #[test]
    fn every_obstacle_is_told_apart() {
        let tree = Tree::new("obstacles");
        let message = |bdf: &str| tree.find(bdf).unwrap_err().to_string();
        assert!(message("77:00.0").contains("no NVMe function here"));
        tree.function("0000:01:00.0", "0x010802", Some("nvme"), Some(1));
        tree.function("0000:02:00.0", "0x010802", None, Some(2));
        tree.function("0000:03:00.0", "0x010802", Some("nvme"), None);
        tree.function("0000:00:1f.0", "0x060100", Some("vfio-pci"), Some(3));
        tree.function("0000:04:00.0", "0x010802", Some("vfio-pci"), Some(4));
        tree.put("sys/kernel/iommu_groups/4/name", "vfio-noiommu\n");
        assert!(message("77:00.0").contains("NVMe functions here: 0000:01:00.0, 0000:02:00.0"));
        let unbound = message("01:00.0");
        assert!(unbound.contains("bound to nvme") && unbound.contains("bind 0000:01:00.0"));
        assert!(message("02:00.0").contains("bound to no driver"));
        assert!(message("03:00.0").contains("intel_iommu=on"));
        assert!(message("00:1f.0").contains("class 060100h"));
        assert!(matches!(tree.find("04:00.0"), Err(VfioError::NoIommuMode)));
    }

    #[test]
    fn rivals_are_named_and_bridges_are_none() {
        let tree = Tree::new("rivals");
        tree.function("0000:01:00.0", "0x010802", Some("vfio-pci"), Some(1));
        tree.function("0000:01:00.1", "0x010802", Some("nvme"), Some(1));
        tree.function("0000:01:00.2", "0x020000", Some("e1000e"), Some(1));
        tree.function("0000:00:01.0", "0x060400", Some("pcieport"), Some(1));
        tree.function("0000:01:00.3", "0x020000", None, Some(1));
        let rivals = tree.find("01:00.0").unwrap().rivals(&tree.0);
        assert_eq!(rivals, "0000:01:00.1 is bound to nvme, 0000:01:00.2 is bound to e1000e");
    }

    #[test]
    fn holders_are_named() {
        let tree = Tree::new("holders");
        let node = tree.0.join("dev/vfio/5");
        assert_eq!(holder(&tree.0, &node), "");
        tree.put("proc/4000000/comm", "perf\n");
        fs::create_dir_all(tree.0.join("proc/4000000/fd")).unwrap();
        symlink(&node, tree.0.join("proc/4000000/fd/3")).unwrap();
        fs::create_dir_all(tree.0.join("proc/self")).unwrap();
        assert_eq!(holder(&tree.0, &node), " by perf (pid 4000000)");
        let own = format!("proc/{}/fd", std::process::id());
        fs::create_dir_all(tree.0.join(&own)).unwrap();
        symlink(&node, tree.0.join(own).join("9")).unwrap();
        assert!(holder(&tree.0, &node).contains("this process itself"));
    }
}
