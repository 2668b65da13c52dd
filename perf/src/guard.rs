//! Refuses to overwrite what somebody uses: drives and files that are mounted, swapped on or held.
//!
//! Reads sysfs and procfs only. What cannot be read counts as not in use: the consent of the user is needed anyway, and
//! block devices are opened exclusively besides.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::bail;

/// The places to look, which tests replace.
#[derive(Clone, Debug)]
pub struct Guard {
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for Guard {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

impl Guard {
    /// Allows a destructive workload on a driver's address, or says why not.
    ///
    /// # Errors
    /// Consent is missing, or the drive is in use.
    pub fn allow_address(
        &self,
        address: &str,
        bdf: Option<&str>,
        consent: bool,
    ) -> anyhow::Result<()> {
        ask(address, consent)?;
        for disk in bdf.map(|bdf| self.disks_of(bdf)).unwrap_or_default() {
            if let Some(reason) = self.use_of(&disk) {
                bail!("{address} is /dev/{disk}, and {reason}; it is not touched");
            }
        }
        Ok(())
    }

    /// Allows a destructive workload on a path, or says why not.
    ///
    /// # Errors
    /// Consent is missing, or the block device or file is in use.
    pub fn allow_path(&self, path: &Path, consent: bool) -> anyhow::Result<()> {
        let shown = path.display();
        ask(&shown.to_string(), consent)?;
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
        let reason = if metadata.file_type().is_block_device() {
            let device =
                format!("{}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
            let place =
                fs::canonicalize(self.sys.join("dev/block").join(device)).unwrap_or_default();
            file_name(&place).and_then(|name| self.use_of(&name))
        } else {
            self.swaps()
                .contains(&fs::canonicalize(path).unwrap_or_default())
                .then(|| "it is swap".to_owned())
        };
        match reason {
            Some(reason) => bail!("{shown}: {reason}; it is not touched"),
            None => Ok(()),
        }
    }

    /// Names of the block devices that the kernel's NVMe driver made of a PCI function.
    fn disks_of(&self, bdf: &str) -> Vec<String> {
        let controllers = children(&self.sys.join("bus/pci/devices").join(bdf).join("nvme"));
        let mut disks = BTreeSet::new();
        for path in controllers.iter().flat_map(|controller| children(controller)) {
            let Some(name) = file_name(&path).filter(|name| name.starts_with("nvme")) else {
                continue;
            };
            // With multipath, nvme0c1n1 is a path to the disk nvme0n1, which is what gets mounted.
            let disk = match (name.find('c'), name.rfind('n')) {
                (Some(path), Some(namespace)) if path < namespace => {
                    format!("{}{}", &name[..path], &name[namespace..])
                }
                _ => name,
            };
            disks.insert(disk);
        }
        disks.into_iter().filter(|disk| self.sys.join("class/block").join(disk).exists()).collect()
    }

    /// How a disk, or one of its partitions, or the disk of a partition, is used.
    fn use_of(&self, name: &str) -> Option<String> {
        let place = fs::canonicalize(self.sys.join("class/block").join(name))
            .or_else(|_| fs::canonicalize(self.sys.join("block").join(name)))
            .ok()?;
        let mut members = vec![place.clone()];
        if place.join("partition").exists() {
            members.extend(place.parent().map(Path::to_owned));
        } else {
            members.extend(
                children(&place).into_iter().filter(|child| child.join("partition").exists()),
            );
        }
        members.iter().find_map(|member| self.use_of_member(member))
    }

    fn use_of_member(&self, place: &Path) -> Option<String> {
        let name = file_name(place)?;
        if let Some(holder) = children(&place.join("holders")).first() {
            return Some(format!("{name} is held by {}", file_name(holder)?));
        }
        let number = fs::read_to_string(place.join("dev")).unwrap_or_default();
        let node = Path::new("/dev").join(&name);
        if let Some(mounted) = self.mount_of(number.trim(), &node) {
            return Some(format!("{name} is mounted on {mounted}"));
        }
        self.swaps().contains(&node).then(|| format!("{name} is swap"))
    }

    /// Where a block device is mounted.
    fn mount_of(&self, number: &str, node: &Path) -> Option<String> {
        let table = fs::read_to_string(self.proc.join("self/mountinfo")).ok()?;
        table.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (device, mounted) = (fields.nth(2)?, fields.nth(1)?);
            // Filesystems of several devices have numbers of their own, but name one of the devices.
            let source = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1));
            let same = device == number
                || source.is_some_and(|source| {
                    source.starts_with('/')
                        && fs::canonicalize(source).is_ok_and(|source| source == node)
                });
            same.then(|| mounted.to_owned())
        })
    }

    fn swaps(&self) -> BTreeSet<PathBuf> {
        let table = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        let paths = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        paths.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.into())).collect()
    }
}

fn ask(target: &str, consent: bool) -> anyhow::Result<()> {
    if !consent {
        bail!("this workload overwrites {target}; add --yes-destroy-data if that is what you want");
    }
    Ok(())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests;
