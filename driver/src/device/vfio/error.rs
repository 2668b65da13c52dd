//! What stands between a user and a drive through VFIO: each obstacle is one variant, and says what removes it.

use std::io;

use crate::address::Bdf;

/// Why a function cannot be used through the kernel's VFIO.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// BAR0 does not reach as far as the doorbells that are wanted (REG-1).
    #[error("BAR0 has {have} bytes, but {need} are needed for the doorbells; use fewer queues")]
    BarTooShort {
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The kernel does not map the doorbells.
    #[error("the kernel does not let the doorbells be mapped ({why}); try a newer kernel")]
    BarNotMappable {
        /// What it offers instead.
        why: String,
    },
    /// Another process, or another controller of this one, uses the group.
    #[error(
        "{node} is in use{holder}: one process at a time can hold the functions of a group; end it, or leave the \
         drive to it"
    )]
    Busy {
        /// The group's device node.
        node: String,
        /// Who holds it, beginning with " by ", or empty where that cannot be seen.
        holder: String,
    },
    /// The limit on locked memory.
    #[error(
        "the limit on locked memory (memlock) is {limit} KiB, {locked} KiB are locked already and {wanted} KiB more are \
         needed; raise it: `ulimit -l unlimited` as root, LimitMEMLOCK=infinity for a service, or a memlock line in \
         /etc/security/limits.conf"
    )]
    LockLimit {
        /// KiB wanted now.
        wanted: u64,
        /// KiB that this device has locked.
        locked: u64,
        /// The limit in KiB.
        limit: u64,
    },
    /// The function belongs to no IOMMU group.
    #[error(
        "there is no IOMMU for this function; turn it on in the firmware (VT-d, AMD-Vi) and, on Intel, boot with the \
         kernel parameter intel_iommu=on"
    )]
    NoIommu,
    /// The group is in the kernel's no-IOMMU mode.
    #[error(
        "the function is bound without an IOMMU (enable_unsafe_noiommu_mode), where a wrong address overwrites any \
         memory; Doorbell refuses that: turn the IOMMU on and bind again"
    )]
    NoIommuMode,
    /// The group has no device node, though the function is bound.
    #[error(
        "{node} does not exist, though the function is bound; in a container, pass it and /dev/vfio/vfio in"
    )]
    NoNode {
        /// The group's device node.
        node: String,
    },
    /// The user may not open the group.
    #[error("no permission to open {node}; run ./hugepages.sh bind --user $USER {bdf} as root")]
    NoPermission {
        /// The device node.
        node: String,
        /// The function.
        bdf: Bdf,
    },
    /// No such function.
    #[error("there is no PCI function {bdf}; {known}")]
    NoSuchFunction {
        /// The function.
        bdf: Bdf,
        /// NVMe functions that there are.
        known: String,
    },
    /// The kernel has no VFIO, or it is not loaded.
    #[error(
        "/dev/vfio/vfio does not exist; run modprobe vfio-pci as root, or ./hugepages.sh bind {bdf}"
    )]
    NoVfio {
        /// The function.
        bdf: Bdf,
    },
    /// Bound to another driver, or to none.
    #[error(
        "the function is bound to {driver}, not to vfio-pci; run ./hugepages.sh bind {bdf} as root"
    )]
    NotBound {
        /// The driver, or "no driver".
        driver: String,
        /// The function.
        bdf: Bdf,
    },
    /// The function is something else.
    #[error(
        "the function is not an NVMe controller (class {class:06x}h, not 010802h); give the address of a drive"
    )]
    NotNvme {
        /// Its class code.
        class: u32,
    },
    /// Other functions of the group belong to the kernel.
    #[error(
        "IOMMU group {group} is not viable: {others}, in the same group; bind these too (./hugepages.sh bind), or \
         unbind them from their driver"
    )]
    NotViable {
        /// The group.
        group: u32,
        /// The other functions, with their drivers.
        others: String,
    },
    /// The kernel's VFIO lacks something that is needed.
    #[error("the kernel's VFIO {what}; Linux 4.16 or later with vfio_iommu_type1 is needed")]
    Outdated {
        /// What it lacks.
        what: &'static str,
    },
    /// A call that nothing above explains.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The platform cannot isolate interrupts.
    #[error(
        "the platform does not remap interrupts, so VFIO refuses the group; turn interrupt remapping (x2APIC) on in \
         the firmware, or, if every device here is trusted, load vfio_iommu_type1 with allow_unsafe_interrupts=1"
    )]
    UnsafeInterrupts,
}
