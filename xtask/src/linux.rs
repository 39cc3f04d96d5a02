//! What Debian's kernel boots with where it is tested as dom0: a RAM disk whose only program is `tests/linux`, with the modules that a disk takes,
//! and that disk.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::process::{cargo, run, say};
use crate::workspace::{BARE_TARGET, bare_artifacts, output_dir};

/// The kernel's command line: all that it says goes to the hypervisor's console, also before there is one of its own.
pub const COMMAND_LINE: &str = "console=hvc0 earlyprintk=xen";

const PACKAGE: &str = "linux-init";
/// What Linux starts first.
const PROGRAM: &str = "init";
/// What it loads for a disk, each behind those that it needs.
const MODULES: [&str; 6] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
];
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
    let mut files = vec![(PROGRAM.into(), bytes)];
    for module in MODULES {
        let path = crate::debian::module(module)?;
        let name = path.file_name().context("no name")?;
        files.push((name.to_string_lossy().into_owned(), fs::read(&path)?));
    }
    let archive = archive(&files);
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

/// An archive with these files, all of them executable. SPEC: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`, "newc".
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    const EXECUTABLE: u32 = 0o100_755;
    let mut archive = Vec::new();
    for (name, bytes) in files {
        entry(&mut archive, name, EXECUTABLE, bytes);
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Adds a file. Names and contents begin, and end, at multiples of four bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    // Number, mode, user, group, links, time, size, two numbers of devices each, size of the name, a sum that is none.
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    archive.extend(fields.map(|field| format!("{field:08x}")).concat().bytes());
    archive.extend(name.bytes());
    archive.push(0);
    fill(archive);
    archive.extend(bytes);
    fill(archive);
}

fn fill(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::archive;

    #[test]
    fn the_archive_is_what_linux_takes() {
        let archive = archive(&[("init".into(), b"abcde".into())]);
        let zeros = "0".repeat(8);
        let header = |mode: &str, size: &str, name: &str| {
            let (links, number) = ("00000001", "00000001");
            let ids = zeros.repeat(2);
            let devices = zeros.repeat(4);
            format!("070701{number}{mode}{ids}{links}{zeros}{size}{devices}{name}{zeros}")
        };
        let expected = [
            header("000081ed", "00000005", "00000005"),
            "init\0\0".into(),
            "abcde\0\0\0".into(),
            header(&zeros, &zeros, "0000000b"),
            "TRAILER!!!\0\0\0\0".into(),
        ];
        assert_eq!(String::from_utf8(archive).unwrap(), expected.concat());
    }
}
