//! `hugepages.sh` on a made-up /sys, /proc and /dev, in every shell that this machine has.
//!
//! Refusals and plans need no root here; that drives really move is the business of `tests/vm`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BDF: &str = "0000:01:00.0";

/// A tree with two NUMA nodes and one NVMe drive, alone in IOMMU group 7, that nobody uses.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new(test: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hugepages-{test}"));
        drop(fs::remove_dir_all(&root));
        let tree = Self { root };
        for node in 0..2 {
            for size in [2048, 1_048_576] {
                let pages =
                    format!("sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB");
                tree.write(&format!("{pages}/nr_hugepages"), "0\n");
                tree.write(&format!("{pages}/free_hugepages"), "0\n");
                tree.write(&format!("{pages}/surplus_hugepages"), "0\n");
            }
            let meminfo = format!("Node {node} MemTotal:       4194304 kB\n");
            tree.write(&format!("sys/devices/system/node/node{node}/meminfo"), &meminfo);
        }
        tree.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        tree.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        tree.function(BDF, "0x010802", Some("nvme"), Some(7));
        tree.write(
            &format!("sys/bus/pci/devices/{BDF}/nvme/nvme0/model"),
            "ACME Fast 1T            \n",
        );
        tree.namespace("nvme0", "nvme0n1", "259:0");
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder of the tree");
        fs::write(path, content).expect("a file of the tree");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("a file of the tree").trim().to_owned()
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder of the tree");
        symlink(target, path).expect("a link of the tree");
    }

    fn function(&self, bdf: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
        let function = format!("sys/bus/pci/devices/{bdf}");
        self.write(&format!("{function}/class"), format!("{class}\n"));
        self.write(&format!("{function}/vendor"), "0x1234\n");
        self.write(&format!("{function}/device"), "0x5678\n");
        self.write(&format!("{function}/numa_node"), "1\n");
        drop(fs::remove_file(self.path(&format!("{function}/driver"))));
        drop(fs::remove_file(self.path(&format!("{function}/iommu_group"))));
        if let Some(driver) = driver {
            self.link(
                &format!("{function}/driver"),
                &format!("../../../../bus/pci/drivers/{driver}"),
            );
        }
        if let Some(group) = group {
            self.link(
                &format!("{function}/iommu_group"),
                &format!("../../../../kernel/iommu_groups/{group}"),
            );
            self.write(&format!("sys/kernel/iommu_groups/{group}/devices/{bdf}"), "");
        }
    }

    fn namespace(&self, controller: &str, block: &str, numbers: &str) {
        self.write(&format!("sys/bus/pci/devices/{BDF}/nvme/{controller}/{block}/size"), "2048\n");
        self.block(block, numbers);
    }

    fn block(&self, block: &str, numbers: &str) {
        self.write(&format!("sys/class/block/{block}/dev"), format!("{numbers}\n"));
        self.write(&format!("sys/class/block/{block}/size"), "2048\n");
        self.write(&format!("dev/{block}"), vec![0; 1 << 20]);
    }

    /// Puts `bytes` at `offset` of the first namespace.
    fn data(&self, offset: usize, bytes: &[u8]) {
        let mut content = vec![0; 1 << 20];
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.write("dev/nvme0n1", content);
    }

    fn run_in(&self, shell: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hugepages.sh");
        let (program, first) = shell.split_first().expect("a shell");
        let Output { status, stdout, stderr } = Command::new(program)
            .args(first)
            .arg(script)
            .args(arguments)
            .env("DOORBELL_ROOT", &self.root)
            .output()
            .expect("the shell starts");
        let text = [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
        (status.code(), text)
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.run_in(&["sh"], arguments)
    }

    /// The script refuses to bind the drive, and says why.
    #[track_caller]
    fn refuses(&self, words: &str) {
        let (code, text) = self.run(&["bind", "--dry-run", BDF]);
        assert_eq!(code, Some(1), "not refused with '{words}': {text}");
        assert!(text.contains(words), "no '{words}' in: {text}");
    }

    /// The script would bind the drive.
    #[track_caller]
    fn binds(&self, arguments: &[&str]) {
        let (code, text) = self.run(&[&["bind", "--dry-run"], arguments].concat());
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("would go from nvme to vfio-pci, group 7"), "{text}");
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Kept for a look after a failure.
        if !std::thread::panicking() {
            drop(fs::remove_dir_all(&self.root));
        }
    }
}

const NODE0: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
const NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";

#[test]
fn reserve_spreads_over_nodes_and_release_gives_back() {
    for shell in [&["sh"][..], &["dash"], &["bash"], &["busybox", "sh"]] {
        if Command::new(shell[0]).args(&shell[1..]).args(["-c", ":"]).status().is_err() {
            eprintln!("no {shell:?} on this machine");
            continue;
        }
        let tree = Tree::new(&format!("reserve-{}", shell[0]));
        tree.write(NODE1, "3\n");
        let (code, text) = tree.run_in(shell, &["reserve", "1G"]);
        assert_eq!(
            (code, tree.read(NODE0), tree.read(NODE1)),
            (Some(0), "256".into(), "256".into()),
            "{text}"
        );
        let (code, text) = tree.run_in(shell, &["reserve", "512"]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.matches("already enough").count(), 2, "{text}");
        // What was there before is what stays, however often reserve ran.
        let (code, text) = tree.run_in(shell, &["reserve", "--node", "1", "300"]);
        assert_eq!((code, tree.read(NODE1)), (Some(0), "300".into()), "{text}");
        let (code, text) = tree.run_in(shell, &["release"]);
        assert_eq!(
            (code, tree.read(NODE0), tree.read(NODE1)),
            (Some(0), "0".into(), "3".into()),
            "{text}"
        );
        let (code, text) = tree.run_in(shell, &["release"]);
        assert_eq!((code, tree.read(NODE1)), (Some(0), "3".into()), "{text}");
    }
}

#[test]
fn reserve_rounds_up_and_takes_large_pages() {
    let tree = Tree::new("sizes");
    let (code, text) = tree.run(&["reserve", "--node=0", "5M"]);
    assert_eq!((code, tree.read(NODE0)), (Some(0), "3".into()), "{text}");
    let (code, text) = tree.run(&["reserve", "--size", "1G", "3GiB"]);
    let large = "sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages";
    assert_eq!((code, tree.read(large)), (Some(0), "2".into()), "{text}");
    let (code, text) = tree.run(&["release", "--all", "--size", "1G"]);
    assert_eq!((code, tree.read(large)), (Some(0), "0".into()), "{text}");
}

#[test]
fn dry_run_changes_nothing() {
    let tree = Tree::new("dry");
    let (code, text) = tree.run(&["reserve", "-n", "64"]);
    assert_eq!((code, tree.read(NODE0)), (Some(0), "0".into()), "{text}");
    assert!(text.contains("would go from 0 to 32"), "{text}");
    tree.binds(&[BDF]);
    assert!(!tree.path("run").exists());
}

#[test]
fn wrong_usage_names_the_part() {
    let tree = Tree::new("usage");
    for (arguments, words) in [
        (&["reserve", "lots"][..], "lots is neither a number of pages nor a size"),
        (&["reserve", "1", "2"], "reserve takes one amount"),
        (&["reserve", "--size", "4K"], "--size 4K: use 2M or 1G"),
        (&["reserve", "--node"], "--node needs a value"),
        (&["reserve", "--node", "x"], "--node x: use the number of a NUMA node"),
        (&["bind"], "bind needs a drive; the NVMe drives are: 0000:01:00.0"),
        (&["--frob"], "there is no option --frob"),
        (&["frob"], "there is no command frob"),
    ] {
        let (code, text) = tree.run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    let (code, text) = tree.run(&["reserve", "--node", "9", "1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("there is no NUMA node 9; there are: 0 1"), "{text}");
    let (code, text) = tree.run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("usage: hugepages.sh"), "{text}");
}

#[test]
fn a_drive_has_many_names() {
    let tree = Tree::new("names");
    for name in
        [BDF, "01:00.0", "pcie:0000:01:00.0", "nvme0", "nvme0n1", "/dev/nvme0n1", "nvme0n1p3"]
    {
        tree.binds(&[name]);
    }
    tree.function("0000:00:1f.0", "0x060100", None, None);
    for (name, words) in [
        ("02:00.0", "there is no PCI function 0000:02:00.0; the NVMe drives are: 0000:01:00.0"),
        ("0000:00:1f.0", "not an NVMe drive (PCI class 0x060100)"),
        ("nvme7", "no such drive"),
        ("nvme0n11", "no such drive"),
        ("/dev/sda", "no such drive"),
    ] {
        let (code, text) = tree.run(&["bind", "-n", name]);
        assert_eq!(code, Some(1), "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
    }
}

#[test]
fn a_mounted_drive_is_refused() {
    let tree = Tree::new("mounted");
    // In the mount namespace of a container only.
    tree.link("proc/1/ns/mnt", "mnt:[1]");
    tree.link("proc/4711/ns/mnt", "mnt:[2]");
    tree.write("proc/4711/mountinfo", "30 1 259:0 / /data rw shared:1 - ext4 /dev/nvme0n1 rw\n");
    tree.refuses("/dev/nvme0n1 mounted on /data");
    tree.binds(&[BDF, "--force"]);
}

#[test]
fn a_mounted_partition_is_refused() {
    let tree = Tree::new("partition");
    tree.write("sys/class/block/nvme0n1/nvme0n1p2/partition", "2\n");
    tree.block("nvme0n1p2", "259:2");
    // As btrfs shows it: a device number of its own, the source by name.
    let line = "30 1 0:44 / /home rw - btrfs /dev/nvme0n1p2 rw\n";
    tree.write("proc/self/mountinfo", line);
    tree.refuses("/dev/nvme0n1p2 mounted on /home");
}

#[test]
fn swap_is_refused() {
    let tree = Tree::new("swap");
    tree.write(
        "proc/swaps",
        "Filename Type Size Used Priority\n/dev/nvme0n1 partition 1048572 0 -2\n",
    );
    tree.refuses("/dev/nvme0n1 swapped on");
}

#[test]
fn holders_are_refused() {
    let tree = Tree::new("holders");
    tree.write("sys/class/block/nvme0n1/holders/dm-0", "");
    tree.write("sys/class/block/dm-0/dm/uuid", "LVM-abcdef\n");
    tree.write("sys/class/block/dm-0/dm/name", "vg-root\n");
    tree.write("sys/class/block/nvme0n1/holders/md127", "");
    tree.refuses("held by LVM dm-0 (vg-root)");
    tree.refuses("held by md array md127");
}

#[test]
fn an_opened_drive_is_refused() {
    let tree = Tree::new("opened");
    tree.write("proc/88/comm", "postgres\n");
    tree.link("proc/88/fd/3", "/dev/nvme0n1");
    tree.write("proc/89/comm", "(udev-worker)\n");
    tree.link("proc/89/fd/3", "/dev/nvme0n1");
    tree.write("proc/90/comm", "other\n");
    tree.link("proc/90/fd/3", "/dev/nvme0n12");
    tree.refuses("opened by postgres (pid 88)");
    let (_, text) = tree.run(&["status"]);
    assert!(!text.contains("udev") && !text.contains("other"), "{text}");
}

#[test]
fn a_native_multipath_head_is_found() {
    let tree = Tree::new("multipath");
    tree.namespace("nvme0", "nvme3c0n1", "0:0");
    fs::remove_dir_all(tree.path("sys/class/block/nvme3c0n1")).expect("a path has no block device");
    tree.block("nvme3n1", "259:5");
    tree.write("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme3n1 partition 1 0 -2\n");
    tree.refuses("/dev/nvme3n1 swapped on");
}

#[test]
fn data_is_refused() {
    let tree = Tree::new("signature");
    let sectors = 2048;
    for (offset, bytes, name) in [
        (0, &b"LUKS\xba\xbe"[..], "LUKS volume"),
        (512, b"LABELONE", "LVM physical volume"),
        (1536, b"LABELONE", "LVM physical volume"),
        (0, b"\xfc\x4e\x2b\xa9", "md member"),
        (4096, b"\xfc\x4e\x2b\xa9", "md member"),
        ((sectors - 16) * 512, b"\xfc\x4e\x2b\xa9", "md member"),
        ((sectors - 128) * 512, b"\xfc\x4e\x2b\xa9", "md member"),
        (0, b"XFSB", "xfs filesystem"),
        (1080, b"\x53\xef", "ext2/3/4 filesystem"),
        (65600, b"_BHRfS_M", "btrfs filesystem"),
        (4086, b"SWAPSPACE2", "swap area"),
        (1024, b"\x10\x20\xf5\xf2", "f2fs filesystem"),
        (131_072, b"\x0c\xb1\xba\x00", "ZFS member"),
        (32769, b"CD001", "iso9660 filesystem"),
        (512, b"EFI PART", "partition table (GPT)"),
        (4096, b"EFI PART", "partition table (GPT)"),
        (510, b"\x55\xaa", "boot sector"),
        (0, b"bluestore block device", "Ceph bluestore"),
    ] {
        tree.data(offset, bytes);
        tree.refuses(&format!("/dev/nvme0n1 holds data: {name}"));
    }
    // The bytes of a name anywhere else are no signature.
    tree.data(700, b"LABELONE XFSB LUKS\xba\xbe");
    tree.binds(&[BDF]);
}

#[test]
fn without_an_iommu_bind_says_how_to_get_one() {
    let tree = Tree::new("no-iommu");
    fs::remove_file(tree.path(&format!("sys/bus/pci/devices/{BDF}/iommu_group")))
        .expect("it was there");
    tree.refuses("boot with intel_iommu=on");
}

#[test]
fn a_shared_group_is_refused() {
    let tree = Tree::new("group");
    tree.function("0000:01:00.1", "0x040300", Some("snd_hda_intel"), Some(7));
    tree.function("0000:00:01.0", "0x060400", Some("pcieport"), Some(7));
    tree.function("0000:01:00.2", "0x010802", None, Some(7));
    // The kernel keeps them below the drive's own link too.
    let link = tree.path(&format!("sys/bus/pci/devices/{BDF}/iommu_group"));
    fs::remove_file(&link).expect("it was there");
    symlink(tree.path("sys/kernel/iommu_groups/7"), link).expect("a link of the tree");
    tree.refuses("IOMMU group 7 also holds 0000:01:00.1 (snd_hda_intel): a group goes to userspace as a whole");
    // Drives that go together are no obstacle to each other.
    tree.function("0000:01:00.1", "0x010802", Some("nvme"), Some(7));
    tree.binds(&[BDF, "01:00.1"]);
}

#[test]
fn status_shows_pages_and_drives() {
    let tree = Tree::new("status");
    tree.write(NODE0, "12\n");
    tree.function("0000:02:00.0", "0x010802", Some("vfio-pci"), Some(9));
    tree.write("run/doorbell/drives/0000:02:00.0", "driver nvme\nmodel ACME Small\n");
    tree.write("proc/55/comm", "doorbell-perf\n");
    tree.link("proc/55/fd/4", "/dev/vfio/9");
    let (code, text) = tree.run(&["status"]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "0        2M          12        0        0\n",
        "0000:01:00.0  ACME Fast 1T              nvme      7      1     nobody (nvme0n1)\n",
        "0000:02:00.0  ACME Small                vfio-pci  9      1     used by doorbell-perf (pid 55)\n",
    ] {
        assert!(text.contains(words), "no '{words}' in:\n{text}");
    }
}

#[test]
fn unbind_waits_for_nobody() {
    let tree = Tree::new("unbind");
    tree.function("0000:02:00.0", "0x010802", Some("vfio-pci"), Some(9));
    tree.write("run/doorbell/drives/0000:02:00.0", "driver other\nmodel ACME Small\n");
    tree.write("proc/55/comm", "doorbell-perf\n");
    tree.link("proc/55/fd/4", "/dev/vfio/9");
    let (code, text) = tree.run(&["unbind", "-n"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("used by doorbell-perf (pid 55)"), "{text}");
    let (code, text) = tree.run(&["unbind", "-n", "--force", "2:00.0"]);
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = tree.run(&["unbind", "-n", "--force", "02:00.0"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("would go from vfio-pci to other"), "{text}");
    let (code, text) = tree.run(&["unbind", "-n", BDF]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("not bound to vfio-pci but to nvme"), "{text}");
}
