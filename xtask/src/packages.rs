//! Debian packages in the cache: downloaded and verified by apt, unpacked, never installed.
//!
//! A set of packages is one folder: `archives/` with the packages, `root/` with what is in them and `SHA256SUMS`, which
//! is written last, so that a folder with that file is whole. Apt checks each package against the signed index of the
//! machine's own sources; the checksums say afterwards what was unpacked.
//!
//! Everything that apt writes goes to the cache: neither the machine's package lists nor its locks are touched, and no
//! rights are needed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::process::{run, say, stdout_of};
use crate::tools::find_program;
use crate::workspace::cache_dir;

/// Which packages belong to a set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Exactly those named.
    Named,
    /// Also everything that they depend on and that this machine has not installed; from the backports, when those
    /// exist.
    DependenciesFromBackports,
}

/// How long downloaded package lists are good for.
const LISTS_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// The folder that holds the unpacked set `set`, if it is in the cache.
pub fn cached(set: &str) -> Result<Option<PathBuf>> {
    let dir = cache_dir()?.join("packages").join(set);
    Ok(dir.join("SHA256SUMS").exists().then(|| dir.join("root")))
}

/// The folder that holds the unpacked packages, which are downloaded unless the set is in the cache.
pub fn fetch(set: &str, packages: &[&str], closure: Closure) -> Result<PathBuf> {
    // One after the other: tests of several threads want the same set.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _fetching = FETCHING.lock();
    if let Some(root) = cached(set)? {
        return Ok(root);
    }
    for program in ["apt-get", "dpkg", "sha256sum"] {
        if find_program(program).is_none() {
            bail!(
                "cannot fetch the package {}: this needs Debian or Ubuntu ({program} not found)",
                packages.join(", ")
            );
        }
    }
    say(format!(
        "fetching {} into the cache (not installed)",
        packages.join(", ")
    ));
    let apt = PrivateApt::new()?;
    apt.update()?;

    // Under a name of its own until it is whole: two checkouts may do this at the same time.
    let dir = cache_dir()?.join("packages").join(set);
    let unfinished = dir.with_extension(format!("unfinished-{}", std::process::id()));
    let archives = unfinished.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    match closure {
        Closure::Named => run(apt
            .get()
            .arg("download")
            .args(packages)
            .current_dir(&archives))?,
        Closure::DependenciesFromBackports => {
            let mut install = apt.get();
            install.args([
                "install",
                "-y",
                "--download-only",
                "--no-install-recommends",
            ]);
            install
                .arg("-o")
                .arg(option("Dir::Cache::archives", &archives));
            // Nothing is installed, so the package database is only read.
            install.args(["-o", "Debug::NoLocking=1"]);
            if let Some(release) = &apt.backports {
                install.args(["-t", release]);
            }
            run(install.args(packages))?;
        }
    }
    unpack(&unfinished)?;
    if dir.exists() {
        fs::remove_dir_all(&unfinished)?;
    } else {
        fs::rename(&unfinished, &dir)?;
    }
    cached(set)?.with_context(|| format!("{} did not come into being", dir.display()))
}

/// Forgets a set, so that the next `fetch` starts over.
pub fn forget(set: &str) -> Result<()> {
    let dir = cache_dir()?.join("packages").join(set);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// Unpacks `archives/*.deb` into `root` and writes the checksums.
fn unpack(set: &Path) -> Result<()> {
    let mut debs: Vec<PathBuf> = fs::read_dir(set.join("archives"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    debs.sort();
    if debs.is_empty() {
        bail!("apt downloaded nothing");
    }
    let root = set.join("root");
    fs::create_dir_all(&root)?;
    let mut sums = Command::new("sha256sum");
    sums.current_dir(set.join("archives"));
    for deb in &debs {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(&root))?;
        sums.arg(deb.file_name().unwrap_or_default());
    }
    fs::write(set.join("SHA256SUMS"), stdout_of(&mut sums)?)?;
    Ok(())
}

/// Apt with the machine's sources (and its backports), but with lists and caches of its own.
struct PrivateApt {
    dir: PathBuf,
    /// The suite of the backports, where the machine's sources have a mirror for it.
    backports: Option<String>,
}

impl PrivateApt {
    fn new() -> Result<Self> {
        let dir = cache_dir()?.join("apt");
        let sources = dir.join("sources");
        if sources.exists() {
            fs::remove_dir_all(&sources)?;
        }
        fs::create_dir_all(&sources)?;
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("archives/partial"))?;
        let machine = Path::new("/etc/apt/sources.list.d");
        for entry in fs::read_dir(machine).into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
            {
                fs::copy(&path, sources.join(entry.file_name()))?;
            }
        }
        let backports = backports_source()?.map(|(suite, line)| -> Result<String> {
            fs::write(sources.join("oxen-backports.list"), line)?;
            Ok(suite)
        });
        Ok(PrivateApt {
            backports: backports.transpose()?,
            dir,
        })
    }

    fn get(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        for (name, path) in [
            ("Dir::Etc::sourceparts", self.dir.join("sources")),
            ("Dir::State::lists", self.dir.join("lists")),
            ("Dir::Cache", self.dir.clone()),
        ] {
            apt.arg("-o").arg(option(name, &path));
        }
        // Root's apt drops its rights for downloads, to a user who may not be able to enter the cache.
        if crate::tools::is_root() {
            apt.args(["-o", "APT::Sandbox::User=root"]);
        }
        apt
    }

    /// Downloads the package lists unless they are fresh.
    fn update(&self) -> Result<()> {
        let stamp = self.dir.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age < LISTS_LIFETIME) {
            return Ok(());
        }
        run(self.get().arg("update"))?;
        fs::write(stamp, "")?;
        Ok(())
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("{name}="));
    option.push(path);
    option
}

/// The suite of Debian's backports and the source line for it, on the mirror that the machine uses for its release;
/// `None` when this is not Debian, or when its sources name no mirror or have the backports already.
fn backports_source() -> Result<Option<(String, String)>> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        release.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix('=')
                .map(|value| value.trim_matches('"').to_string())
        })
    };
    let (Some("debian"), Some(codename)) = (field("ID").as_deref(), field("VERSION_CODENAME"))
    else {
        return Ok(None);
    };
    let targets = stdout_of(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CREATED_BY) $(COMPONENT) $(RELEASE) $(REPO_URI)",
    ]))?;
    Ok(backports_line(&targets, &codename))
}

/// Reads the mirror of `codename` from lines `Packages main RELEASE URI`.
fn backports_line(targets: &str, codename: &str) -> Option<(String, String)> {
    let suite = format!("{codename}-backports");
    let mirror = |release: &str| {
        targets.lines().find_map(|line| {
            line.strip_prefix("Packages main ")?
                .strip_prefix(release)?
                .strip_prefix(' ')
        })
    };
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let signed = if Path::new(keyring).exists() {
        format!("[signed-by={keyring}] ")
    } else {
        String::new()
    };
    let line = match mirror(&suite) {
        Some(_) => String::new(),
        None => format!("deb {signed}{} {suite} main\n", mirror(codename)?),
    };
    Some((suite, line))
}

#[cfg(test)]
mod tests {
    use super::backports_line;

    #[test]
    fn the_backports_come_from_the_mirror_of_the_release() {
        let targets = "DEP-11 main bookworm mirror:/a/\nPackages main bookworm-updates mirror:/b/\nPackages main bookworm mirror:/c/\n";
        let (suite, line) = backports_line(targets, "bookworm").unwrap();
        assert_eq!(suite, "bookworm-backports");
        assert!(
            line.starts_with("deb ") && line.ends_with("mirror:/c/ bookworm-backports main\n"),
            "{line}"
        );
        assert_eq!(backports_line(targets, "trixie"), None);
    }

    #[test]
    fn backports_that_the_machine_has_are_not_added_again() {
        let targets =
            "Packages main bookworm mirror:/c/\nPackages main bookworm-backports mirror:/c/\n";
        assert_eq!(
            backports_line(targets, "bookworm"),
            Some(("bookworm-backports".into(), String::new()))
        );
    }
}
