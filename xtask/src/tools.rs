//! Programs of the system that the commands need: found, or installed where that may be done, or named.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{run, say};

/// Something that must exist, and the Debian package that brings it.
pub enum Need {
    /// A program on the path.
    Program(&'static str, &'static str),
    /// A file or folder.
    Path(&'static str, &'static str),
}

impl Need {
    fn is_met(&self) -> bool {
        match self {
            Need::Program(name, _) => find_program(name).is_some(),
            Need::Path(path, _) => Path::new(path).exists(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Need::Program(name, _) | Need::Path(name, _) => name,
        }
    }

    fn package(&self) -> &'static str {
        match self {
            Need::Program(_, package) | Need::Path(_, package) => package,
        }
    }
}

/// Makes sure that every need is met. What is missing is installed when this runs as root on a system with `apt-get`,
/// after one line that says so; otherwise the error holds the command to type.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|need| need.name())
        .collect::<Vec<_>>()
        .join(", ");
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package()).collect();
    packages.sort_unstable();
    packages.dedup();
    if !is_root() || find_program("apt-get").is_none() {
        bail!(
            "missing: {names}. On Debian or Ubuntu: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    say(format!(
        "missing: {names}; running as root, so installing {}",
        packages.join(" ")
    ));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y"]);
        apt
    };
    run(apt().arg("update"))?;
    run(apt()
        .args(["install", "--no-install-recommends"])
        .args(&packages))?;
    match missing.iter().find(|need| !need.is_met()) {
        Some(need) => bail!(
            "{} is still missing after {} was installed",
            need.name(),
            need.package()
        ),
        None => Ok(()),
    }
}

/// The first file called `name` in a folder of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether this program runs as root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
