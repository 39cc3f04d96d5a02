//! Tests that boot a machine: what one is, and the bench that runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::debian;
use crate::guests::{self, Guest, Verdict};
use crate::image_build::{self, Built, Profile};
use crate::iso::{self, Entry};
use crate::linux;
use crate::qemu::{Accel, Disk, Firmware, GOOD_VERSION, Hypervisor, Machine, Medium, Qemu};
use crate::run::{default_command_line, payload};
use crate::session::{Expect, Session};
use crate::workspace::output_dir;

/// How the hypervisor gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// GRUB on a BIOS.
    Bios(Entry),
    /// GRUB on UEFI, by multiboot 2.
    Uefi,
    /// QEMU's own loader.
    Direct,
}

/// What is handed over as dom0's kernel.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// The micro-guest of this name, with its command line and initrd.
    Guest(String),
    /// The same, but the binary ends after so many thousandths.
    Truncated(String, usize),
    /// The same with an initrd of so many mebibytes.
    WithInitrd(String, u64),
    /// The hypervisor itself: an ELF64 kernel that is no PV kernel.
    Hypervisor,
    /// A text.
    Text,
    /// Debian's, with a RAM disk of one program.
    Linux,
    /// The same on a machine with a disk, which is such a device.
    LinuxWithDisk(&'static str),
    /// Debian's, with what `cargo xtask run` boots.
    LoginShell,
}

/// A test that boots a machine.
#[derive(Clone, Debug)]
pub struct MachineTest {
    /// Its name.
    pub name: String,
    /// How the machine starts.
    pub way: Way,
    /// The machine's memory.
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// More of QEMU's options.
    pub options: &'static [&'static str],
    /// The hypervisor's command line; half of the memory for dom0 and a serial console if `None`.
    pub command_line: Option<String>,
    /// What runs as dom0.
    pub kernel: Kernel,
    /// What must be seen on Oxen.
    pub expect: Vec<Expect>,
    /// What must be seen on Xen.
    pub expect_on_xen: Vec<Expect>,
    /// Whether it also says something about Xen.
    pub on_xen: bool,
    /// Whether it is left to `--full`.
    pub only_full: bool,
    /// Whether a QEMU older than [`GOOD_VERSION`] gets wrong what it depends on, when it translates.
    pub needs_good_qemu: bool,
    /// When it has failed, from power on.
    pub limit: Duration,
}

/// One test for each entry in the list of micro-guests.
pub fn guest_tests(guests: &[Guest]) -> Vec<MachineTest> {
    guests.iter().map(guest_test).collect()
}

fn guest_test(guest: &Guest) -> MachineTest {
    let expect = |hypervisor| {
        let patterns = guest.patterns(hypervisor).iter().cloned();
        let patterns = patterns.map(Expect::Pattern);
        match guest.expect {
            Verdict::Pass => guest
                .types
                .iter()
                .flat_map(|text| [Expect::Line("ready".into()), Expect::Type(text.clone())])
                .chain([Expect::Pass(guest.binary().into())])
                .chain(patterns)
                .collect(),
            Verdict::Crash => patterns
                .chain([Expect::Never(format!("GUEST {}:", guest.binary()))])
                .collect(),
        }
    };
    MachineTest {
        name: format!("guests/{}", guest.name),
        way: Way::Direct,
        memory_mib: guest.memory_mib,
        cpus: guest.cpus,
        options: &[],
        command_line: guest.hypervisor_line(),
        kernel: Kernel::Guest(guest.name.clone()),
        expect: expect(Hypervisor::Oxen),
        expect_on_xen: expect(Hypervisor::Xen),
        on_xen: true,
        only_full: false,
        // `int n`, `iretq` and `lretq` in ring 3 are the bread and butter of these.
        needs_good_qemu: ["exceptions", "privileged", "descriptors"].contains(&guest.name.as_str()),
        limit: guest.limit(),
    }
}

/// What all machine tests share: the hypervisor, the guests and QEMU.
pub struct Bench {
    hypervisor: Hypervisor,
    built: Option<Built>,
    guests: Vec<Guest>,
    qemu: Qemu,
}

impl Bench {
    /// Builds and fetches everything.
    pub fn new(hypervisor: Hypervisor) -> Result<Bench> {
        let built = match hypervisor {
            Hypervisor::Oxen => Some(image_build::build(Profile::Image)?),
            Hypervisor::Xen => {
                crate::xen::files()?;
                None
            }
        };
        guests::build()?;
        crate::qemu::ovmf()?;
        Ok(Bench {
            hypervisor,
            built,
            guests: guests::list()?,
            qemu: Qemu::find()?,
        })
    }

    /// QEMU's major version.
    pub fn qemu_version(&self) -> u32 {
        self.qemu.major
    }

    /// Why the test would say nothing here, if so.
    pub fn reason_to_skip(&self, test: &MachineTest) -> Option<String> {
        let needs_debian = matches!(
            test.kernel,
            Kernel::Linux | Kernel::LinuxWithDisk(_) | Kernel::LoginShell
        );
        if needs_debian && let Err(error) = debian::kernel() {
            return Some(format!("no kernel from Debian's packages: {error:#}"));
        }
        let too_old = test.needs_good_qemu && self.qemu.major < GOOD_VERSION;
        too_old.then(|| {
            format!(
                "QEMU {} gets `int n` or `iretq` in ring 3 wrong; needs {GOOD_VERSION}",
                self.qemu.major
            )
        })
    }

    /// Boots the machine and compares what it shows with what is expected.
    pub fn run(&self, test: &MachineTest, log: &Path) -> Result<()> {
        let file_name = test.name.replace('/', "-");
        let (kernel, words, initrd) = self.kernel(&test.kernel, &file_name)?;
        let command_line = test
            .command_line
            .clone()
            .unwrap_or_else(|| default_command_line(test.memory_mib));
        let payload = payload(self.built.as_ref(), command_line, kernel, words, initrd)?;
        let grub = |entry| iso::make(&file_name, &payload, entry).map(Medium::Iso);
        let (firmware, medium) = match test.way {
            Way::Bios(entry) => (Firmware::Bios, grub(entry)?),
            Way::Uefi => (Firmware::Uefi, grub(Entry::Multiboot2)?),
            Way::Direct => (Firmware::Bios, Medium::Direct(payload)),
        };
        let memory = format!("{}M", test.memory_mib);
        let disk = match test.kernel {
            Kernel::LinuxWithDisk(device) => {
                let file = output_dir()?.join(format!("{file_name}.disk"));
                fs::write(&file, linux::disk())?;
                Some(Disk { file, device })
            }
            _ => None,
        };
        // KVM would hide what depends on timing and differ from machine to machine.
        let machine = Machine {
            name: file_name,
            accel: Accel::Tcg,
            cpus: test.cpus,
            options: test.options,
            disk,
            memory,
            firmware,
            medium,
        };
        let mut session = Session::start(machine.command(&self.qemu)?, log, test.limit)?;
        session.expect(match self.hypervisor {
            Hypervisor::Oxen => &test.expect,
            Hypervisor::Xen => &test.expect_on_xen,
        })?;
        drop(session);
        for kind in ["iso", "module", "vars.fd", "disk"] {
            let file = output_dir()?.join(format!("{}.{kind}", machine.name));
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    /// The file, the command line and the initrd of dom0's kernel.
    fn kernel(
        &self,
        kernel: &Kernel,
        file_name: &str,
    ) -> Result<(PathBuf, String, Option<PathBuf>)> {
        let guest = |name: &str| {
            self.guests
                .iter()
                .find(|guest| guest.name == name)
                .with_context(|| format!("no micro-guest is called {name}"))
        };
        let own = output_dir()?.join(format!("{file_name}.module"));
        Ok(match kernel {
            Kernel::Guest(name) => {
                let guest = guest(name)?;
                (guest.kernel(), guest.command_line.clone(), guest.initrd()?)
            }
            Kernel::Truncated(name, thousandths) => {
                let bytes = fs::read(guest(name)?.kernel())?;
                fs::write(
                    &own,
                    bytes
                        .get(..bytes.len() * thousandths / 1000)
                        .unwrap_or_default(),
                )?;
                (own, String::new(), None)
            }
            Kernel::WithInitrd(name, mebibytes) => {
                // Nothing but a size: no block of it takes room on the disk.
                fs::File::create(&own)?.set_len(mebibytes << 20)?;
                (guest(name)?.kernel(), String::new(), Some(own))
            }
            Kernel::Hypervisor => {
                let linked = self.built.as_ref().map(|built| built.linked.clone());
                (
                    linked.map_or_else(std::env::current_exe, Ok)?,
                    String::new(),
                    None,
                )
            }
            Kernel::Linux | Kernel::LinuxWithDisk(_) => (
                debian::kernel()?,
                linux::COMMAND_LINE.into(),
                Some(linux::ram_disk()?),
            ),
            Kernel::LoginShell => crate::run::debian(None)?,
            Kernel::Text => {
                fs::write(&own, "This is a text, and no kernel at all.\n".repeat(100))?;
                (own, String::new(), None)
            }
        })
    }
}
