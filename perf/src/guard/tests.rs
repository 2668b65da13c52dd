//! The guard against made-up trees of sysfs and procfs.

use std::os::unix::fs::symlink;

use super::*;

const BDF: &str = "0000:01:00.0";

/// A machine with one drive of two partitions, nothing in use.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root =
            std::env::temp_dir().join(format!("doorbell-guard-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let machine = Self { root };
        let disk = format!("sys/devices/{BDF}/nvme/nvme0/nvme0n1");
        machine.file(&format!("{disk}/dev"), "259:0\n");
        machine.directory(&format!("{disk}/holders"));
        for (partition, number) in [("nvme0n1p1", "259:1\n"), ("nvme0n1p2", "259:2\n")] {
            machine.file(&format!("{disk}/{partition}/dev"), number);
            machine.file(&format!("{disk}/{partition}/partition"), "1\n");
            machine.directory(&format!("{disk}/{partition}/holders"));
        }
        machine.link(&format!("sys/devices/{BDF}"), &format!("sys/bus/pci/devices/{BDF}"));
        machine.link(&disk, "sys/class/block/nvme0n1");
        machine.link(&format!("{disk}/nvme0n1p1"), "sys/class/block/nvme0n1p1");
        machine.file("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        machine.file("proc/swaps", "Filename Type Size Used Priority\n");
        machine
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        fs::write(path, text).expect("writes");
    }

    fn directory(&self, path: &str) {
        fs::create_dir_all(self.root.join(path)).expect("creates");
    }

    fn link(&self, to: &str, from: &str) {
        let from = self.root.join(from);
        fs::create_dir_all(from.parent().expect("has a parent")).expect("creates");
        symlink(self.root.join(to), from).expect("links");
    }

    fn refusal(&self, consent: bool) -> Option<String> {
        let guard = Guard { sys: self.root.join("sys"), proc: self.root.join("proc") };
        let answer = guard.allow_address(&format!("pcie:{BDF}"), Some(BDF), consent);
        answer.err().map(|error| error.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn an_unused_drive_needs_consent_only() {
    let machine = Machine::new("unused");
    assert_eq!(machine.refusal(true), None);
    let refusal = machine.refusal(false).expect("refuses");
    assert!(refusal.contains("--yes-destroy-data"), "{refusal}");
}

#[test]
fn a_mounted_partition_protects_the_drive() {
    let machine = Machine::new("mounted");
    machine.file("proc/self/mountinfo", "30 22 259:2 / /srv rw shared:1 - xfs /dev/nvme0n1p2 rw\n");
    let refusal = machine.refusal(true).expect("refuses");
    assert!(refusal.contains("nvme0n1p2 is mounted on /srv"), "{refusal}");
}

#[test]
fn a_holder_protects_the_drive() {
    let machine = Machine::new("held");
    machine.directory(&format!("sys/devices/{BDF}/nvme/nvme0/nvme0n1/nvme0n1p1/holders/dm-3"));
    let refusal = machine.refusal(true).expect("refuses");
    assert!(refusal.contains("nvme0n1p1 is held by dm-3"), "{refusal}");
}

#[test]
fn swap_protects_the_drive() {
    let machine = Machine::new("swap");
    machine
        .file("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p1 partition 9 0 -2\n");
    let refusal = machine.refusal(true).expect("refuses");
    assert!(refusal.contains("nvme0n1p1 is swap"), "{refusal}");
}

#[test]
fn a_multipath_name_leads_to_the_disk() {
    let machine = Machine::new("multipath");
    let controller = format!("sys/devices/{BDF}/nvme/nvme0");
    fs::rename(
        machine.root.join(format!("{controller}/nvme0n1")),
        machine.root.join("sys/devices/nvme0n1"),
    )
    .expect("moves");
    fs::remove_file(machine.root.join("sys/class/block/nvme0n1")).expect("removes");
    machine.link("sys/devices/nvme0n1", "sys/class/block/nvme0n1");
    machine.directory(&format!("{controller}/nvme0c0n1"));
    machine.file("proc/self/mountinfo", "30 22 259:1 / /srv rw - xfs /dev/nvme0n1p1 rw\n");
    let refusal = machine.refusal(true).expect("refuses");
    assert!(refusal.contains("mounted on /srv"), "{refusal}");
}

#[test]
fn a_file_needs_consent() {
    let file = std::env::temp_dir().join(format!("doorbell-guard-file-{}", std::process::id()));
    fs::write(&file, "x").expect("writes");
    let guard = Guard::default();
    assert!(guard.allow_path(&file, false).is_err());
    assert!(guard.allow_path(&file, true).is_ok());
    fs::remove_file(file).expect("removes");
}
