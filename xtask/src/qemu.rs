//! Finding a QEMU that runs PV guests right, and the machines that the commands boot in it.
//!
//! QEMU 7.2 of Debian 12 gets two things wrong that PV guests depend on when it translates code (no KVM): the error
//! code of a #GP for `int n` from ring 3, and `iretq`/`lretq` from ring 3 while SMAP is on. Versions from 9 on do not, so one
//! of those is preferred, if need be out of Debian's backports.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::iso::Payload;
use crate::packages::{self, Closure};
use crate::process::{say, stdout_of};
use crate::tools::{Need, find_program, require};
use crate::workspace::output_dir;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// The first major version that is taken without looking further.
pub const GOOD_VERSION: u32 = 9;

/// Which hypervisor is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    /// This project's.
    Oxen,
    /// Debian's Xen, with the same modules.
    Xen,
}

/// How QEMU executes the machine's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM where it can run a plain kernel, else TCG.
    Auto,
    /// Translation; slow, the same everywhere.
    Tcg,
    /// The processor's virtualization.
    Kvm,
}

impl Accel {
    /// KVM only where the processor itself says that it virtualizes: a `/dev/kvm` that cannot run a plain kernel is common.
    pub fn resolve(self) -> Accel {
        let usable = || {
            let opens = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok();
            opens
                && has_virtualization(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
        };
        match self {
            Accel::Auto if usable() => Accel::Kvm,
            Accel::Auto => Accel::Tcg,
            chosen => chosen,
        }
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// A QEMU that can be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// The folder that its packages were unpacked into, if they are not installed.
    unpacked: Option<PathBuf>,
    /// Its major version.
    pub major: u32,
}

impl Qemu {
    /// Finds the best QEMU: `$OXEN_QEMU`; a good one on the path; a good one out of Debian's packages, in the cache; any.
    pub fn find() -> Result<Qemu> {
        if let Some(program) = std::env::var_os("OXEN_QEMU") {
            return Qemu::at(PathBuf::from(program), None);
        }
        let installed = find_program(PROGRAM).and_then(|program| Qemu::at(program, None).ok());
        if let Some(qemu) = installed.as_ref().filter(|qemu| qemu.major >= GOOD_VERSION) {
            return Ok(qemu.clone());
        }
        match Qemu::from_packages() {
            Ok(qemu)
                if installed
                    .as_ref()
                    .is_none_or(|installed| qemu.major > installed.major) =>
            {
                return Ok(qemu);
            }
            Ok(_) => {}
            Err(error) => say(format!("no newer QEMU from packages: {error:#}")),
        }
        if let Some(qemu) = installed {
            return Ok(qemu);
        }
        require(&[Need::Program(PROGRAM, PACKAGE)])?;
        Qemu::at(PathBuf::from(PROGRAM), None)
    }

    /// A QEMU from unpacked packages. What they depend on and the machine has installed is not among them, so a set
    /// that no longer starts is fetched again.
    fn from_packages() -> Result<Qemu> {
        let unpacked = |root: PathBuf| Qemu::at(root.join("usr/bin").join(PROGRAM), Some(root));
        if let Some(root) = packages::cached("qemu")? {
            match unpacked(root) {
                Ok(qemu) => return Ok(qemu),
                Err(_) => packages::forget("qemu")?,
            }
        }
        unpacked(packages::fetch(
            "qemu",
            &[PACKAGE],
            Closure::DependenciesFromBackports,
        )?)
    }

    fn at(program: PathBuf, unpacked: Option<PathBuf>) -> Result<Qemu> {
        let mut qemu = Qemu {
            program,
            unpacked,
            major: 0,
        };
        let banner = stdout_of(qemu.command().arg("--version"))?;
        qemu.major = major_version(&banner).with_context(|| format!("no version in: {banner}"))?;
        Ok(qemu)
    }

    /// The program with what it needs to find its own parts.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.unpacked {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
                .map(|dir| root.join(dir).into_os_string());
            command.env("LD_LIBRARY_PATH", libraries.join(&OsString::from(":")));
            command.env(
                "QEMU_MODULE_DIR",
                root.join("usr/lib/x86_64-linux-gnu/qemu"),
            );
            for dir in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(dir));
            }
        }
        command
    }
}

fn major_version(banner: &str) -> Option<u32> {
    banner
        .split("version ")
        .nth(1)?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// QEMU's SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// Where the hypervisor comes from.
#[derive(Clone, Debug)]
pub enum Medium {
    /// An ISO.
    Iso(PathBuf),
    /// QEMU's own multiboot 1 loader.
    Direct(Payload),
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What is on it, and what is written to.
    pub file: PathBuf,
    /// The device that it is, as QEMU's `-device` takes it.
    pub device: &'static str,
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// A word for files that the machine needs for itself.
    pub name: String,
    /// TCG or KVM.
    pub accel: Accel,
    /// Number of CPUs.
    pub cpus: u32,
    /// More of QEMU's options, behind the others: of two that contradict each other the last one counts.
    pub options: &'static [&'static str],
    /// A disk.
    pub disk: Option<Disk>,
    /// Memory, as QEMU's `-m` takes it.
    pub memory: String,
    /// What starts it.
    pub firmware: Firmware,
    /// What it boots.
    pub medium: Medium,
}

impl Machine {
    /// QEMU's command line for the machine, all but where its consoles go.
    pub fn command(&self, qemu: &Qemu) -> Result<Command> {
        let mut command = qemu.command();
        let (accel, cpu) = match self.accel.resolve() {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg | Accel::Auto => ("tcg", "max"),
        };
        command.args([
            "-nodefaults",
            "-machine",
            "q35",
            "-vga",
            "std",
            "-accel",
            accel,
            "-cpu",
            cpu,
        ]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory]);
        if self.firmware == Firmware::Uefi {
            let (code, variables) = ovmf()?;
            let own = output_dir()?.join(format!("{}.vars.fd", self.name));
            std::fs::copy(&variables, &own)
                .with_context(|| format!("cannot copy {}", variables.display()))?;
            for (file, options) in [(&code, ",readonly=on"), (&own, "")] {
                command.arg("-drive").arg(format!(
                    "if=pflash,format=raw{options},file={}",
                    doubled(&path_text(file)?)
                ));
            }
        }
        match &self.medium {
            Medium::Iso(iso) => {
                // From there, whatever else the machine has.
                command.arg("-cdrom").arg(iso).args(["-boot", "d"]);
            }
            Medium::Direct(payload) => {
                ensure!(
                    self.firmware == Firmware::Bios,
                    "QEMU's own loader works without UEFI only"
                );
                command
                    .arg("-kernel")
                    .arg(&payload.hypervisor)
                    .args(["-append", &payload.command_line]);
                let module = |file: &Path, arguments: &str| -> Result<String> {
                    let file = path_text(file)?;
                    ensure!(
                        !file.contains(' '),
                        "QEMU cannot take a module whose path holds a space: {file}"
                    );
                    Ok(doubled(format!("{file} {arguments}").trim_end()))
                };
                let mut modules = vec![module(&payload.kernel, &payload.kernel_command_line)?];
                if let Some(initrd) = &payload.initrd {
                    modules.push(module(initrd, "")?);
                }
                command.arg("-initrd").arg(modules.join(","));
            }
        }
        if let Some(disk) = &self.disk {
            let drive = format!("if=none,id=disk,format=raw,file={}", disk.file.display());
            let device = format!("{},drive=disk", disk.device);
            command.args(["-drive", &drive, "-device", &device]);
        }
        command.args(self.options);
        Ok(command)
    }
}

/// QEMU's way of writing a comma that separates nothing.
fn doubled(text: &str) -> String {
    text.replace(',', ",,")
}

fn path_text(path: &Path) -> Result<String> {
    Ok(path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?
        .to_string())
}

/// OVMF's code and its empty variable store: installed, or out of the package in the cache.
pub fn ovmf() -> Result<(PathBuf, PathBuf)> {
    const NAMES: [(&str, &str); 2] = [
        ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        ("OVMF_CODE.fd", "OVMF_VARS.fd"),
    ];
    let in_dir = |dir: &Path| {
        NAMES
            .map(|(code, variables)| (dir.join(code), dir.join(variables)))
            .into_iter()
            .find(|(code, variables)| code.exists() && variables.exists())
    };
    let dir = Path::new("usr/share/OVMF");
    if let Some(found) = in_dir(&Path::new("/").join(dir)) {
        return Ok(found);
    }
    let unpacked = packages::fetch("ovmf", &["ovmf"], Closure::Named)?.join(dir);
    match in_dir(&unpacked) {
        Some(found) => Ok(found),
        None => bail!("no OVMF_CODE and OVMF_VARS in {}", unpacked.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_banner() {
        assert_eq!(
            major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some(10)
        );
        assert_eq!(major_version("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn kvm_needs_a_processor_that_says_so() {
        assert!(has_virtualization(
            "processor: 0\nflags\t\t: fpu vme vmx sse\n"
        ));
        assert!(has_virtualization("flags : svm\n"));
        assert!(!has_virtualization(
            "model name : vmx\nflags : fpu vmx_like\nvmx flags : vnmi\n"
        ));
    }
}
