//! Debian's kernel and its modules, for whatever must cope with the real ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::endian::LittleEndian;

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

/// A module of that kernel.
#[derive(Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub file: PathBuf,
    /// Its place below `/`.
    pub place: String,
    /// The names of those that it needs, directly.
    pub needs: Vec<String>,
    /// Patterns of the devices that it drives, and other names by which it is asked for.
    pub aliases: Vec<String>,
}

/// Modules by their names, and all that they need: each behind those.
pub fn modules(names: &[&str]) -> Result<Vec<Module>> {
    let root = package()?;
    let mut files = BTreeMap::new();
    find_modules(&root.join("lib/modules"), &mut files)?;
    let mut list = Vec::new();
    for name in names {
        add_module(&plain(name), &root, &files, &mut list)?;
    }
    Ok(list)
}

/// A module's name as the kernel writes it.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            files.insert(plain(&name), path);
        }
    }
    Ok(())
}

fn add_module(
    name: &str,
    root: &Path,
    files: &BTreeMap<String, PathBuf>,
    list: &mut Vec<Module>,
) -> Result<()> {
    if list.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let file = files
        .get(name)
        .with_context(|| format!("Debian's kernel package has no module {name}"))?;
    let about = about(&fs::read(file)?).with_context(|| format!("in {}", file.display()))?;
    let values = |key: &str| {
        let values = about.iter().filter_map(move |line| line.strip_prefix(key));
        values.map(str::to_string).collect::<Vec<_>>()
    };
    let needs: Vec<String> = values("depends=")
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|need| !need.is_empty())
        .map(plain)
        .collect();
    for need in &needs {
        add_module(need, root, files, list)?;
    }
    list.push(Module {
        name: name.into(),
        file: file.clone(),
        place: file.strip_prefix(root)?.to_string_lossy().into_owned(),
        needs,
        aliases: values("alias="),
    });
    Ok(())
}

/// What a module says of itself: texts `key=value`.
fn about(module: &[u8]) -> Result<Vec<String>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(module)?;
    let section = file
        .section_header_by_name(".modinfo")?
        .context("no .modinfo")?;
    let (bytes, _) = file.section_data(&section)?;
    let texts = bytes.split(|&byte| byte == 0);
    Ok(texts
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect())
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
