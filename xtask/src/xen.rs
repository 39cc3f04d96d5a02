//! Debian's Xen, for booting the same modules on it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::image_build::gunzip;
use crate::packages::{self, Closure};

/// Debian's Xen as it comes and unpacked, in this order.
pub fn files() -> Result<(PathBuf, PathBuf)> {
    let root = packages::fetch("xen-4.17", &["xen-hypervisor-4.17-amd64"], Closure::Named)?;
    let compressed = root.join("boot/xen-4.17-amd64.gz");
    let unpacked = root.join("boot/xen-4.17-amd64");
    if !unpacked.exists() {
        let bytes = fs::read(&compressed)
            .with_context(|| format!("cannot read {}", compressed.display()))?;
        fs::write(&unpacked, gunzip(&bytes)?)?;
    }
    Ok((compressed, unpacked))
}
