//! The boot image: an ISO with GRUB for BIOS and for UEFI, which holds the hypervisor and dom0's modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::stdout_of;
use crate::tools::{Need, require};
use crate::workspace::{output_dir, root};

/// What GRUB needs to read the ISO, both configuration files and compressed modules; its EFI half asks for every kind of
/// partition. Everything else stays out: the smaller the image, the sooner it is made and read.
const GRUB_MODULES: &str = "normal configfile legacycfg multiboot multiboot2 gzio iso9660 test all_video \
    part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_gpt part_msdos part_plan part_sun part_sunpc";

/// Which entry of `grub.cfg` is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The command `multiboot2`.
    Multiboot2,
    /// The command `multiboot`.
    Multiboot1,
    /// The file `menu.lst`, in the syntax of GRUB Legacy.
    MenuLst,
}

impl Entry {
    fn id(self) -> &'static str {
        match self {
            Entry::Multiboot2 => "multiboot2",
            Entry::Multiboot1 => "multiboot",
            Entry::MenuLst => "menu-lst",
        }
    }
}

/// A hypervisor and what it is to boot.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The hypervisor's name in the ISO.
    pub hypervisor_name: &'static str,
    /// Its compressed file.
    pub hypervisor_compressed: PathBuf,
    /// Its file as QEMU's `-kernel` takes it.
    pub hypervisor: PathBuf,
    /// Its command line.
    pub command_line: String,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's command line.
    pub kernel_command_line: String,
    /// dom0's initrd.
    pub initrd: Option<PathBuf>,
}

/// Makes `target/oxen/NAME.iso`.
pub fn make(name: &str, payload: &Payload, entry: Entry) -> Result<PathBuf> {
    require(&[
        Need::Program("grub-mkrescue", "grub-common"),
        Need::Program("xorriso", "xorriso"),
        Need::Program("mformat", "mtools"),
        Need::Path("/usr/lib/grub/i386-pc", "grub-pc-bin"),
        Need::Path("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin"),
    ])?;
    let tree = output_dir()?.join(format!("{name}.tree"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(tree.join("boot/grub"))?;
    for (template, place) in [
        ("boot/grub.cfg", "boot/grub/grub.cfg"),
        ("boot/menu.lst", "boot/grub/menu.lst"),
    ] {
        let text = fs::read_to_string(root().join(template))
            .with_context(|| format!("cannot read {template}"))?;
        fs::write(tree.join(place), fill(&text, payload, entry)?)?;
    }
    let boot = tree.join("boot");
    copy(
        &payload.hypervisor_compressed,
        &boot.join(payload.hypervisor_name),
    )?;
    copy(&payload.kernel, &boot.join(file_name(&payload.kernel)?))?;
    if let Some(initrd) = &payload.initrd {
        copy(initrd, &boot.join("initrd"))?;
    }

    let iso = output_dir()?.join(format!("{name}.iso"));
    let modules = format!("--install-modules={GRUB_MODULES}");
    let made = stdout_of(
        Command::new("grub-mkrescue")
            .args([
                &modules,
                "--fonts=",
                "--themes=",
                "--locales=",
                "--compress=no",
                "-o",
            ])
            .arg(&iso)
            .arg(&tree),
    );
    fs::remove_dir_all(&tree)?;
    made?;
    Ok(iso)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// What a file is called in the ISO, too.
fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} is no name that GRUB can read", path.display()))
}

/// Fills in a template.
fn fill(template: &str, payload: &Payload, entry: Entry) -> Result<String> {
    let mut text = String::new();
    let dom0 = file_name(&payload.kernel)?;
    for line in template
        .lines()
        .filter(|line| payload.initrd.is_some() || !line.contains("@INITRD@"))
    {
        if line.starts_with('#') {
            continue;
        }
        let line = line
            .replace("@ENTRY@", entry.id())
            .replace("@HYPERVISOR@", payload.hypervisor_name)
            .replace("@DOM0@", dom0)
            .replace("@COMMAND_LINE@", &payload.command_line)
            .replace("@DOM0_COMMAND_LINE@", &payload.kernel_command_line)
            .replace("@INITRD@", "");
        ensure!(
            !line.contains('@')
                || payload.command_line.contains('@')
                || payload.kernel_command_line.contains('@'),
            "unknown placeholder: {line}"
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(initrd: bool) -> Payload {
        Payload {
            hypervisor_name: "oxen.gz",
            hypervisor_compressed: "x".into(),
            hypervisor: "x".into(),
            command_line: "dom0_mem=512m console=com1".into(),
            kernel: "/some/where/vmlinuz-6.1".into(),
            kernel_command_line: "quiet root=/dev/xvda".into(),
            initrd: initrd.then(|| "i".into()),
        }
    }

    #[test]
    fn menu_lst_is_what_people_write() {
        let template = include_str!("../../boot/menu.lst");
        let text = fill(template, &payload(true), Entry::MenuLst).unwrap();
        assert!(text.contains("\n    kernel /boot/oxen.gz dom0_mem=512m console=com1\n    module /boot/vmlinuz-6.1 quiet root=/dev/xvda\n    module /boot/initrd\n"), "{text}");
        let text = fill(template, &payload(false), Entry::MenuLst).unwrap();
        assert_eq!(text.matches("module").count(), 1, "{text}");
    }

    #[test]
    fn grub_cfg_takes_the_entry_and_no_placeholder_stays() {
        let template = include_str!("../../boot/grub.cfg");
        for (entry, id) in [
            (Entry::Multiboot2, "multiboot2"),
            (Entry::Multiboot1, "multiboot"),
            (Entry::MenuLst, "menu-lst"),
        ] {
            let text = fill(template, &payload(true), entry).unwrap();
            assert!(
                text.contains(&format!("set default={id}\n"))
                    && text.contains(&format!("--id {id} {{")),
                "{text}"
            );
            assert!(!text.contains('@'), "{text}");
        }
        assert!(fill("a @B@", &payload(true), Entry::Multiboot2).is_err());
    }
}
