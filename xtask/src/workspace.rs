//! Where things are: the project, what the commands leave in `target/oxen`, and the cache outside the project.

use std::env;
use std::fs;
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

/// Where Cargo leaves what it builds for the bare target with the profile whose folder is `profile`.
pub fn bare_artifacts(profile: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join(BARE_TARGET).join(profile)
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

/// The folders of the workspace's crates.
pub fn members() -> Result<Vec<String>> {
    folders("members")
}

/// The names of the packages that run on the host: the workspace's default members.
pub fn host_packages() -> Result<Vec<String>> {
    let packages = folders("default-members")?
        .into_iter()
        .map(|folder| package_name(&manifest(&root().join(folder).join("Cargo.toml"))?));
    packages.collect()
}

/// Reads a `Cargo.toml`.
pub fn manifest(path: &Path) -> Result<toml::Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("in {}", path.display()))
}

/// The name of the package that a `Cargo.toml` describes.
pub fn package_name(manifest: &toml::Table) -> Result<String> {
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str);
    Ok(name.context("a package has no name")?.to_string())
}

fn folders(list: &str) -> Result<Vec<String>> {
    let workspace = manifest(&root().join("Cargo.toml"))?;
    let folders = workspace
        .get("workspace")
        .and_then(|workspace| workspace.get(list))
        .and_then(toml::Value::as_array);
    let folders = folders.with_context(|| format!("the workspace has no {list}"))?;
    Ok(folders
        .iter()
        .filter_map(|folder| folder.as_str().map(str::to_string))
        .collect())
}

/// The folder, made if it was missing.
pub fn make_dir(dir: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
