//! Debian's kernel, for whatever must cope with the real one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::packages::{self, Closure};
use crate::process::stdout_of;

/// The package that always depends on the newest kernel of the release.
const META_PACKAGE: &str = "linux-image-amd64";

/// The newest kernel of the release, as it is booted.
pub fn kernel() -> Result<PathBuf> {
    fs::read_dir(package()?.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
        .context("Debian's kernel package has no vmlinuz")
}

/// A module of that kernel, by its path in the folder of all of them, without the ending.
pub fn module(path: &str) -> Result<PathBuf> {
    let versions = fs::read_dir(package()?.join("lib/modules"))?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join(format!("kernel/{path}.ko"))))
        .find(|path| path.exists())
        .with_context(|| format!("Debian's kernel package has no {path}"))
}

fn package() -> Result<PathBuf> {
    match packages::cached("linux")? {
        Some(root) => Ok(root),
        None => packages::fetch("linux", &[&newest()?], Closure::Named),
    }
}

/// The name of the package that the meta package depends on.
fn newest() -> Result<String> {
    let root = packages::fetch("linux-meta", &[META_PACKAGE], Closure::Named)?;
    let archive = fs::read_dir(root.with_file_name("archives"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("no package in the cache")?;
    let depends = stdout_of(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(archive)
            .arg("Depends"),
    )?;
    let name = depends.split_whitespace().next();
    Ok(name.context("the meta package depends on nothing")?.into())
}
