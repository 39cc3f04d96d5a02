//! `cargo xtask run` and `cargo xtask image`: a hypervisor with dom0 in a machine whose serial console is this terminal.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::debian;
use crate::guests;
use crate::image_build::{self, Built, Profile};
use crate::iso::{self, Entry, Payload};
use crate::process::{run, say};
use crate::qemu::{Accel, Firmware, Hypervisor, Machine, Medium, Qemu};
use crate::userland;
use crate::xen;

/// What runs as dom0 where Debian's kernel cannot be had.
const SMALLEST: &str = "hello";
/// Debian's kernel as dom0 talks to the hypervisor's console.
const DEBIAN_WORDS: &str = "console=hvc0";

/// What is booted, and with which words.
#[derive(Args, Debug)]
pub struct What {
    /// Boot Oxen, or Debian's Xen with the same modules.
    #[arg(long, value_enum, default_value = "oxen")]
    hypervisor: Hypervisor,
    /// The hypervisor's command line [default: dom0 gets half of the memory, the console is the serial port].
    #[arg(long, value_name = "WORDS")]
    cmdline: Option<String>,
    /// A micro-guest that runs as dom0 instead of Debian's kernel.
    #[arg(long, value_name = "NAME", conflicts_with = "kernel")]
    guest: Option<String>,
    /// A kernel that runs as dom0 instead of Debian's.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// dom0's initrd.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// dom0's command line.
    #[arg(long, value_name = "WORDS")]
    kernel_cmdline: Option<String>,
    /// The machine's memory, as QEMU takes it.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    memory: String,
    /// Build Oxen quickly, not optimised.
    #[arg(long)]
    debug: bool,
    /// Let GRUB read menu.lst, in the syntax of GRUB Legacy.
    #[arg(long)]
    menu_lst: bool,
}

/// A network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Net {
    /// Virtio's.
    Virtio,
    /// Intel's 82540EM.
    E1000,
    /// None.
    None,
}

impl Net {
    /// As QEMU's `-device` takes it: without the ROM by which firmware would boot from it.
    fn device(self) -> Option<&'static str> {
        match self {
            Net::Virtio => Some("virtio-net-pci,romfile=,netdev=net"),
            Net::E1000 => Some("e1000,romfile=,netdev=net"),
            Net::None => None,
        }
    }
}

/// The machine, and how it is looked at.
#[derive(Args, Debug)]
pub struct How {
    #[command(flatten)]
    what: What,
    /// How QEMU executes code.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    smp: u32,
    /// Start by UEFI firmware instead of a BIOS.
    #[arg(long)]
    uefi: bool,
    /// Start by QEMU's own loader (-kernel) instead of GRUB.
    #[arg(long, conflicts_with_all = ["uefi", "menu_lst"])]
    direct: bool,
    /// The network card, behind which QEMU's own network is.
    #[arg(long, value_enum, default_value = "virtio")]
    net: Net,
    /// Wait for a debugger on port 1234 before the first instruction.
    #[arg(long)]
    gdb: bool,
    /// More arguments for QEMU.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    qemu: Vec<String>,
}

/// `cargo xtask image`.
pub fn make_image(what: &What) -> Result<()> {
    let iso = iso::make("oxen", &what.payload()?, what.entry())?;
    println!("{}", iso.display());
    Ok(())
}

/// `cargo xtask run`.
pub fn run_machine(how: &How) -> Result<()> {
    let payload = how.what.payload()?;
    let medium = if how.direct {
        Medium::Direct(payload)
    } else {
        say("making the boot image");
        Medium::Iso(iso::make("oxen", &payload, how.what.entry())?)
    };
    let qemu = Qemu::find()?;
    let machine = Machine {
        name: "run".into(),
        accel: how.accel.resolve(),
        cpus: how.smp,
        options: &[],
        disk: None,
        memory: how.what.memory.clone(),
        firmware: if how.uefi {
            Firmware::Uefi
        } else {
            Firmware::Bios
        },
        medium,
    };
    let mut command = machine.command(&qemu)?;
    command.args(["-display", "none", "-serial", "mon:stdio"]);
    if let Some(card) = how.net.device() {
        command.args(["-netdev", "user,id=net", "-device", card]);
    }
    command.args(&how.qemu);
    if how.gdb {
        command.args(["-s", "-S"]);
        say(
            "waiting for a debugger: gdb target/x86_64-unknown-none/image/oxen -ex 'target remote :1234'",
        );
    }
    let accel = if machine.accel == Accel::Kvm {
        "KVM"
    } else {
        "TCG"
    };
    say(format!(
        "starting QEMU {} with {accel}; Ctrl-A X quits",
        qemu.major
    ));
    run(&mut command)
}

impl What {
    /// Everything that is booted, built. What is wrong with the words is said before anything takes time.
    fn payload(&self) -> Result<Payload> {
        let command_line = match &self.cmdline {
            Some(words) => words.clone(),
            // What went wrong stays on the screen.
            None => format!(
                "{} noreboot",
                default_command_line(memory_mib(&self.memory)?)
            ),
        };
        let there = |path: &PathBuf| {
            path.canonicalize()
                .with_context(|| format!("cannot find {}", path.display()))
        };
        let words = self.kernel_cmdline.clone();
        let (kernel, words, initrd) = match (&self.kernel, &self.guest) {
            (Some(kernel), _) => (
                there(kernel)?,
                words.unwrap_or_default(),
                self.initrd.as_ref().map(there).transpose()?,
            ),
            (None, Some(name)) => micro_guest(name, words)?,
            (None, None) => match debian(words.clone()) {
                Ok(dom0) => dom0,
                Err(error) => {
                    say(format!(
                        "no dom0 from Debian's packages: {error:#}; the micro-guest {SMALLEST} instead"
                    ));
                    micro_guest(SMALLEST, words)?
                }
            },
        };
        let built = match self.hypervisor {
            Hypervisor::Oxen => Some(image_build::build(if self.debug {
                Profile::Debug
            } else {
                Profile::Image
            })?),
            Hypervisor::Xen => None,
        };
        payload(built.as_ref(), command_line, kernel, words, initrd)
    }

    fn entry(&self) -> Entry {
        if self.menu_lst {
            Entry::MenuLst
        } else {
            Entry::Multiboot2
        }
    }
}

/// A kernel, its command line and its initrd.
pub type Dom0 = (PathBuf, String, Option<PathBuf>);

/// Debian's kernel with a login shell.
pub fn debian(words: Option<String>) -> Result<Dom0> {
    let kernel = debian::kernel()?;
    let words = words.unwrap_or_else(|| DEBIAN_WORDS.into());
    Ok((kernel, words, Some(userland::ram_disk()?)))
}

/// A micro-guest, built.
fn micro_guest(name: &str, words: Option<String>) -> Result<Dom0> {
    let guest = guests::find(name)?;
    guests::build()?;
    let words = words.unwrap_or_else(|| guest.command_line.clone());
    Ok((guest.kernel(), words, guest.initrd()?))
}

/// Oxen as built, or Debian's Xen, with its modules.
pub fn payload(
    built: Option<&Built>,
    command_line: String,
    kernel: PathBuf,
    kernel_command_line: String,
    initrd: Option<PathBuf>,
) -> Result<Payload> {
    let (hypervisor_name, hypervisor_compressed, hypervisor) = match built {
        Some(built) => ("oxen.gz", built.compressed.clone(), built.container.clone()),
        None => {
            let (compressed, unpacked) = xen::files()?;
            ("xen.gz", compressed, unpacked)
        }
    };
    Ok(Payload {
        hypervisor_name,
        hypervisor_compressed,
        hypervisor,
        command_line,
        kernel,
        kernel_command_line,
        initrd,
    })
}

/// Half of the machine's memory for dom0, and the serial console.
pub fn default_command_line(memory_mib: u64) -> String {
    command_line_with(&format!("{}m", memory_mib / 2))
}

/// A serial console, and memory for dom0 as `dom0_mem=` takes it.
pub fn command_line_with(dom0_mem: &str) -> String {
    format!("dom0_mem={dom0_mem} com1=115200,8n1 console=com1")
}

/// A size as QEMU's `-m` takes it (mebibytes, or with a unit), in mebibytes.
fn memory_mib(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "m" => 1,
        "g" => 1 << 10,
        "t" => 1 << 20,
        _ => 0,
    };
    let size = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|&size| size > 0);
    ensure!(
        size.is_some(),
        "{text} is not a size: a number of mebibytes, or one with M, G or T"
    );
    size.context("no size")
}

#[cfg(test)]
mod tests {
    use super::memory_mib;

    #[test]
    fn memory_sizes() {
        for (text, size) in [
            ("128", 128),
            ("128M", 128),
            ("2G", 2048),
            ("20g", 20480),
            ("1T", 1 << 20),
        ] {
            assert_eq!(memory_mib(text).ok(), Some(size), "{text}");
        }
        for text in [
            "",
            "G",
            "0",
            "12K",
            "-1G",
            "1.5G",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(memory_mib(text).is_err(), "{text}");
        }
    }
}
