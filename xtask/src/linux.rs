//! What Debian's kernel boots with where it is tested as dom0: a RAM disk whose only program is `tests/linux`, with the modules that a disk takes,
//! and that disk.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::process::{cargo, run, say};
use crate::workspace::{BARE_TARGET, bare_artifacts, output_dir};

/// The kernel's command line: all that it says goes to the hypervisor's console, also before there is one of its own.
pub const COMMAND_LINE: &str = "console=hvc0 earlyprintk=xen";

const PACKAGE: &str = "linux-init";
/// What Linux starts first.
const PROGRAM: &str = "init";
/// What it loads, beside what these need: for a disk, and for `/proc/xen`.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "xenfs"];
/// Words of a disk.
const DISK: u64 = 8 << 20 >> 3;

/// Builds the program and packs it. Returns the RAM disk.
pub fn ram_disk() -> Result<PathBuf> {
    // Once: another machine, for which it was written, may be reading it.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock();
    crate::toolchain::ensure()?;
    say("building the program for Linux");
    run(cargo().args([
        "build",
        "--quiet",
        "--package",
        PACKAGE,
        "--target",
        BARE_TARGET,
        "--profile",
        "image",
    ]))?;
    let program = bare_artifacts("image").join(PACKAGE);
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut archive = Archive::default();
    archive.program(PROGRAM, &bytes);
    for module in crate::debian::modules(&MODULES)? {
        let name = module.file.file_name().context("no name")?;
        archive.file(&name.to_string_lossy(), &fs::read(&module.file)?);
    }
    let archive = archive.finish();
    let path = output_dir()?.join("linux.cpio");
    if !fs::read(&path).is_ok_and(|there| there == archive) {
        fs::write(&path, archive)?;
    }
    Ok(path)
}

/// What is on a disk: words that are different, and that the program can tell.
pub fn disk() -> Vec<u8> {
    let word = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..DISK)
        .flat_map(|index| word(index).to_le_bytes())
        .collect()
}
