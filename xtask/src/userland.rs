//! The RAM disk of dom0 where a person uses it: busybox of Debian, the kernel's modules that a machine of QEMU and a Xen host take, and the
//! few files in `xtask/userland` that make a login shell on the hypervisor's console of it. With `root=` on the kernel's command line it goes on
//! from that file system instead.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::debian::{self, Module};
use crate::packages::{self, Closure};
use crate::workspace::output_dir;

const FOLDERS: [&str; 15] = [
    "bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr",
    "usr/bin", "usr/sbin", "var",
];

/// What `init` loads by name, then drivers of disks and networks, then what goes with them.
const MODULES: [&str; 13] = [
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "e1000",
    "ahci",
    "sd_mod",
    "ext4",
    "crc32c_generic",
];

/// Files and what is in them; the first are executed.
const PROGRAMS: [(&str, &str); 3] = [
    ("init", include_str!("../userland/init")),
    ("etc/autologin", include_str!("../userland/autologin")),
    ("etc/udhcpc.sh", include_str!("../userland/udhcpc.sh")),
];
const FILES: [(&str, &str); 5] = [
    ("etc/group", include_str!("../userland/group")),
    ("etc/inittab", include_str!("../userland/inittab")),
    ("etc/motd", include_str!("../userland/motd")),
    ("etc/passwd", include_str!("../userland/passwd")),
    ("etc/profile", include_str!("../userland/profile")),
];

/// Makes the RAM disk and returns where it is.
pub fn ram_disk() -> Result<PathBuf> {
    let busybox = packages::fetch("busybox", &["busybox-static"], Closure::Named)?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|place| busybox.join(place))
        .into_iter()
        .find(|path| path.exists())
        .context("busybox-static has no busybox")?;
    let mut archive = Archive::default();
    FOLDERS.iter().for_each(|path| archive.folder(path));
    archive.device("dev/console", (5, 1));
    archive.device("dev/null", (1, 3));
    archive.program("bin/busybox", &fs::read(busybox)?);
    archive.link("bin/sh", "busybox");
    for (path, text) in PROGRAMS {
        archive.program(path, text.as_bytes());
    }
    for (path, text) in FILES {
        archive.file(path, text.as_bytes());
    }
    add_modules(&mut archive, &debian::modules(&MODULES)?)?;
    let path = output_dir()?.join("dom0.cpio");
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// Adds modules, with the two lists by which `modprobe` finds them.
fn add_modules(archive: &mut Archive, modules: &[Module]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for module in modules {
        let above = Path::new(&module.place).ancestors().skip(1);
        folders.extend(above.map(|folder| folder.to_string_lossy().into_owned()));
    }
    for folder in &folders {
        if !folder.is_empty() && folder != "lib" {
            archive.folder(folder);
        }
    }
    for module in modules {
        archive.file(&module.place, &fs::read(&module.file)?);
    }
    // lib/modules/VERSION
    let home: PathBuf = modules
        .first()
        .map(|module| Path::new(&module.place).components().take(3).collect())
        .context("no modules")?;
    let list = |name: &str| home.join(name).to_string_lossy().into_owned();
    archive.file(
        &list("modules.dep"),
        dependencies(modules, &home).as_bytes(),
    );
    archive.file(&list("modules.alias"), aliases(modules).as_bytes());
    Ok(())
}

/// Each module with all that it needs, what is to be loaded first last.
fn dependencies(modules: &[Module], home: &Path) -> String {
    let place = |module: &Module| {
        let place = Path::new(&module.place);
        let place = place.strip_prefix(home).unwrap_or(place);
        place.to_string_lossy().into_owned()
    };
    let mut text = String::new();
    for (index, module) in modules.iter().enumerate() {
        let mut needed: BTreeSet<&str> = module.needs.iter().map(String::as_str).collect();
        let mut line = format!("{}:", place(module));
        // Whatever a module needs stands before it.
        for other in modules.iter().take(index).rev() {
            if needed.contains(other.name.as_str()) {
                needed.extend(other.needs.iter().map(String::as_str));
                line.push(' ');
                line.push_str(&place(other));
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn aliases(modules: &[Module]) -> String {
    let mut text = String::new();
    for module in modules {
        for alias in &module.aliases {
            // A text takes whatever is written to it.
            let _ = writeln!(text, "alias {alias} {}", module.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modprobe_finds_all_that_a_module_needs() {
        let module = |name: &str, needs: &[&str]| Module {
            name: name.into(),
            file: PathBuf::new(),
            place: format!("lib/modules/6.1/kernel/{name}.ko"),
            needs: needs.iter().map(|need| need.to_string()).collect(),
            aliases: vec![format!("pci:{name}*")],
        };
        let modules = [
            module("ring", &[]),
            module("other", &[]),
            module("bus", &["ring"]),
            module("disk", &["bus"]),
        ];
        let text = dependencies(&modules, Path::new("lib/modules/6.1"));
        let expected = "kernel/ring.ko:\nkernel/other.ko:\nkernel/bus.ko: kernel/ring.ko\nkernel/disk.ko: kernel/bus.ko kernel/ring.ko\n";
        assert_eq!(text, expected);
        assert!(aliases(&modules).contains("alias pci:disk* disk\n"));
    }
}
