//! The micro-guests: their list (`tests/guests/guests.toml`, where its fields are described) and building them.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{cargo, run, say};
use crate::qemu::Hypervisor;
use crate::run::{command_line_with, default_command_line};
use crate::workspace::{BARE_TARGET, bare_artifacts, output_dir, root};

/// One boot of a micro-guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The test's name.
    pub name: String,
    binary: Option<String>,
    /// What the guest is given as its command line.
    #[serde(default)]
    pub command_line: String,
    initrd_bytes: Option<usize>,
    /// How it should end.
    pub expect: Verdict,
    /// What is typed once the guest is ready.
    pub types: Option<String>,
    #[serde(default)]
    xen: Vec<String>,
    #[serde(default)]
    oxen: Vec<String>,
    timeout_s: u64,
    /// Memory of the machine.
    pub memory_mib: u64,
    /// CPUs of the machine.
    #[serde(default = "one")]
    pub cpus: u32,
    /// How much of it the guest gets, if not half: what stands behind `dom0_mem=`.
    dom0_mem: Option<String>,
    /// More words on the hypervisor's command line.
    hypervisor: Option<String>,
}

fn one() -> u32 {
    1
}

/// How a boot should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The guest says that it passed.
    Pass,
    /// The hypervisor ends the guest and says why.
    Crash,
}

#[derive(Deserialize)]
struct Manifest {
    guest: Vec<Guest>,
}

impl Guest {
    /// The name of its binary, which is the one in its verdict line too.
    pub fn binary(&self) -> &str {
        self.binary.as_deref().unwrap_or(&self.name)
    }

    /// Where the binary is, once built.
    pub fn kernel(&self) -> PathBuf {
        bare_artifacts("image").join(self.binary())
    }

    /// Writes the initrd that it is to be given and returns where; `None` when it gets none.
    pub fn initrd(&self) -> Result<Option<PathBuf>> {
        let Some(size) = self.initrd_bytes else {
            return Ok(None);
        };
        let path = output_dir()?.join(format!("initrd-{size}"));
        let bytes: Vec<u8> = (0..size)
            .map(|index| u8::try_from(index * 7 % 251).unwrap_or_default())
            .collect();
        // Once: another machine, for which it was written, may be reading it.
        static WRITING: Mutex<()> = Mutex::new(());
        let _writing = WRITING.lock();
        if !fs::read(&path).is_ok_and(|there| there == bytes) {
            fs::write(&path, bytes)?;
        }
        Ok(Some(path))
    }

    /// The patterns that the log must show.
    pub fn patterns(&self, hypervisor: Hypervisor) -> &[String] {
        match hypervisor {
            Hypervisor::Oxen => &self.oxen,
            Hypervisor::Xen => &self.xen,
        }
    }

    /// The hypervisor's command line where it needs another than the usual one.
    pub fn hypervisor_line(&self) -> Option<String> {
        let line = self.dom0_mem.as_deref().map(command_line_with);
        match &self.hypervisor {
            Some(more) => {
                let line = line.unwrap_or_else(|| default_command_line(self.memory_mib));
                Some(format!("{line} {more}"))
            }
            None => line,
        }
    }

    /// How long it may take from power on.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

/// All micro-guests, in the order of their list.
pub fn list() -> Result<Vec<Guest>> {
    let path = root().join("tests/guests/guests.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Guest>> {
    Ok(toml::from_str::<Manifest>(text)?.guest)
}

/// The micro-guest called `name`.
pub fn find(name: &str) -> Result<Guest> {
    let guests = list()?;
    let names = guests
        .iter()
        .map(|guest| guest.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    guests
        .into_iter()
        .find(|guest| guest.name == name)
        .with_context(|| format!("no micro-guest is called {name}; there are: {names}"))
}

/// Builds all micro-guests.
pub fn build() -> Result<()> {
    crate::toolchain::ensure()?;
    say("building the micro-guests");
    run(cargo().args([
        "build",
        "--quiet",
        "--package",
        "oxen-guests",
        "--bins",
        "--target",
        BARE_TARGET,
        "--profile",
        "image",
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_defaults_and_unknown_fields_are_refused() {
        let one = "[[guest]]\nname = \"a\"\nexpect = \"pass\"\ntimeout_s = 5\nmemory_mib = 64\n";
        let guests = parse(one).unwrap();
        assert_eq!(
            (
                guests.len(),
                guests[0].binary(),
                guests[0].command_line.as_str()
            ),
            (1, "a", "")
        );
        assert!(
            parse(&format!("{one}binary = \"b\"\n")).is_ok_and(|guests| guests[0].binary() == "b")
        );
        assert!(parse(&format!("{one}colour = \"b\"\n")).is_err());
        assert!(parse(&one.replace("pass", "win")).is_err());
    }
}
