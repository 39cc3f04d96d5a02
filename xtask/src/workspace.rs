//! Where things are: the project, what the commands leave in `target/oxen`, and the cache outside the project.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Target triple of the image and of the guests.
pub const BARE_TARGET: &str = "x86_64-unknown-none";

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&xtask)
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// `target/oxen`: everything that a command makes for people to use. Created when missing.
pub fn output_dir() -> Result<PathBuf> {
    make_dir(root().join("target/oxen"))
}

/// `target/oxen/logs`: the serial logs of tests. Created when missing.
pub fn logs_dir() -> Result<PathBuf> {
    make_dir(output_dir()?.join("logs"))
}

/// What is downloaded once for all checkouts: `$OXEN_CACHE`, else `oxen` in the user's cache folder. Created when missing.
pub fn cache_dir() -> Result<PathBuf> {
    let path = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = path("OXEN_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("oxen")))
        .or_else(|| path("HOME").map(|dir| dir.join(".cache/oxen")))
        .context("neither OXEN_CACHE nor XDG_CACHE_HOME nor HOME is set")?;
    make_dir(dir)
}

fn make_dir(dir: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
