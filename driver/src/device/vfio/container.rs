//! The container: one IOMMU address space, here of one group and one device.
//!
//! Owns /dev/vfio/vfio and the group's node. What an open character device of its own (iommufd) would do instead is
//! behind the same four functions: open, device, map, unmap.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use vfio_bindings::bindings::vfio as abi;

use super::error::VfioError;
use super::sysfs::{self, Function};
use super::{capability, sys};
use crate::address::Bdf;
use crate::device::{DmaRange, IovaLimits};

/// An IOMMU address space with the group of one function in it.
#[derive(Debug)]
pub(super) struct Container {
    // The group closes first, which takes it out of the container.
    group: File,
    file: File,
    limits: IovaLimits,
    /// Bytes mapped, and so locked.
    mapped: AtomicU64,
}

impl Container {
    /// Opens a container for the group of `function`.
    pub(super) fn open(root: &Path, function: &Function) -> Result<Self, VfioError> {
        let bdf = function.bdf;
        let file = open(&root.join("dev/vfio/vfio"), bdf, |_| VfioError::NoVfio { bdf })?;
        let failed =
            |what: &'static str| move |source| VfioError::System { what: what.into(), source };
        let version =
            sys::api_version(file.as_fd()).map_err(failed("asking for VFIO's version"))?;
        if version != abi::VFIO_API_VERSION as i32 {
            return Err(VfioError::Outdated { what: "speaks another version of its interface" });
        }
        let kind = abi::VFIO_TYPE1v2_IOMMU;
        if !sys::has_extension(file.as_fd(), kind).map_err(failed("asking for a type 1 IOMMU"))? {
            return Err(VfioError::Outdated { what: "has no type 1 (v2) IOMMU driver loaded" });
        }

        let node = function.node(root);
        let group = open(&node, bdf, |error| match error.raw_os_error() {
            Some(libc::EBUSY) => busy(root, &node),
            _ => VfioError::NoNode { node: node.display().to_string() },
        })?;
        let flags =
            sys::group_flags(group.as_fd()).map_err(failed("asking for the group's state"))?;
        if flags & abi::VFIO_GROUP_FLAGS_VIABLE == 0 {
            let others = function.rivals(root);
            return Err(VfioError::NotViable { group: function.group, others });
        }
        sys::set_container(group.as_fd(), file.as_fd()).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EBUSY | libc::EINVAL) => busy(root, &node),
                _ => {
                    VfioError::System { what: "putting the group into a container".into(), source }
                }
            }
        })?;
        sys::set_iommu(file.as_fd(), kind).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => VfioError::UnsafeInterrupts,
            _ => VfioError::System { what: "choosing the type 1 IOMMU".into(), source },
        })?;

        let answer =
            sys::iommu_info(file.as_fd()).map_err(failed("asking what the IOMMU can map"))?;
        let limits = capability::iova_limits(&answer, sysfs::entry_limit(root));
        let limits = limits.ok_or(VfioError::Outdated { what: "says nothing of its IOMMU" })?;
        Ok(Self { group, file, limits, mapped: AtomicU64::new(0) })
    }

    /// Opens a function of the group. The kernel resets it.
    pub(super) fn device(&self, bdf: Bdf) -> Result<OwnedFd, VfioError> {
        let failed =
            |source| VfioError::System { what: format!("opening {bdf} in its group"), source };
        let name = CString::new(bdf.to_string()).map_err(|error| failed(error.into()))?;
        sys::device(self.group.as_fd(), &name).map_err(failed)
    }

    /// What the IOMMU can map.
    pub(super) fn limits(&self) -> &IovaLimits {
        &self.limits
    }

    /// Maps memory for the device.
    ///
    /// # Safety
    /// As [`crate::device::Device::map_dma`].
    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    pub(super) unsafe fn map(&self, range: &DmaRange<'_>) -> Result<(), VfioError> {
        // SAFETY: the caller's promise.
        unsafe { sys::map_dma(self.file.as_fd(), range) }.map_err(|source| {
            let what = format!("mapping {} bytes at I/O address {:x}h", range.len, range.iova);
            match (source.raw_os_error(), sys::lock_limit()) {
                (Some(libc::ENOMEM), Some(limit)) => VfioError::LockLimit {
                    wanted: range.len.div_ceil(1024),
                    locked: self.mapped.load(Ordering::Relaxed) / 1024,
                    limit: limit / 1024,
                },
                _ => VfioError::System { what, source },
            }
        })?;
        self.mapped.fetch_add(range.len, Ordering::Relaxed);
        Ok(())
    }

    /// Takes memory back.
    pub(super) fn unmap(&self, iova: u64, len: u64) -> Result<(), VfioError> {
        let failed = |source| {
            let what = format!("unmapping {len} bytes at I/O address {iova:x}h");
            VfioError::System { what, source }
        };
        let unmapped = sys::unmap_dma(self.file.as_fd(), iova, len).map_err(failed)?;
        if unmapped != len {
            return Err(failed(io::Error::other(format!("the kernel unmapped {unmapped} bytes"))));
        }
        self.mapped.fetch_sub(len, Ordering::Relaxed);
        Ok(())
    }
}

/// Opens a node of /dev/vfio; `other` explains what is neither a lack of permission nor of a known kind.
fn open(
    node: &Path,
    bdf: Bdf,
    other: impl FnOnce(&io::Error) -> VfioError,
) -> Result<File, VfioError> {
    OpenOptions::new().read(true).write(true).open(node).map_err(|source| {
        let name = node.display().to_string();
        match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => VfioError::NoPermission { node: name, bdf },
            Some(libc::ENOENT | libc::EBUSY | libc::ENODEV | libc::ENXIO) => other(&source),
            _ => VfioError::System { what: format!("opening {name}"), source },
        }
    })
}

fn busy(root: &Path, node: &Path) -> VfioError {
    VfioError::Busy { node: node.display().to_string(), holder: sysfs::holder(root, node) }
}
