//! `cargo xtask build`: the executable as Cargo links it becomes the files that loaders and people read.
//!
//! - `target/oxen/oxen`: the 32-bit container that GRUB and QEMU's `-kernel` load, without symbols but for the compact
//!   table that a panic prints from;
//! - `target/oxen/oxen.gz`: the same, compressed; two builds of one source give the same bytes;
//! - `target/oxen/oxen.sym`: every function as `address size name`, for people and debuggers.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

use crate::container;
use crate::elf64::Image;
use crate::process::{cargo, run, say};
use crate::symbols;
use crate::workspace::{BARE_TARGET, bare_artifacts, output_dir};

/// What a build leaves.
pub struct Built {
    /// The executable with symbols, as linked.
    pub linked: PathBuf,
    /// What loaders take.
    pub container: PathBuf,
    /// What loaders take, compressed.
    pub compressed: PathBuf,
}

/// How the image is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Optimised, with overflow checks: what is shipped and measured.
    Image,
    /// The same, which also counts what is dear on hardware, for `cargo xtask bench`.
    Counting,
    /// The same, which tells how long entries are, for `cargo xtask bench entries`.
    Longest,
    /// Quick to build.
    Debug,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Image | Profile::Counting | Profile::Longest => "image",
            Profile::Debug => "dev",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Profile::Image | Profile::Counting | Profile::Longest => "image",
            Profile::Debug => "debug",
        }
    }

    /// The feature of the image that makes the difference.
    fn feature(self) -> Option<&'static str> {
        match self {
            Profile::Image | Profile::Debug => None,
            Profile::Counting => Some(COUNTERS),
            Profile::Longest => Some("longest"),
        }
    }

    /// What files made from it are called.
    fn output(self) -> &'static str {
        match self {
            Profile::Image | Profile::Debug => "oxen",
            Profile::Counting => "oxen-counting",
            Profile::Longest => "oxen-longest",
        }
    }
}

/// The feature of all crates of the image by which it counts.
pub const COUNTERS: &str = "counters";

/// Links the executable and returns its path.
pub fn link(profile: Profile) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args([
            "build",
            "--quiet",
            "--package",
            "oxen-boot",
            "--bin",
            "oxen",
            "--target",
            BARE_TARGET,
        ])
        .args(["--profile", profile.name()]);
    let Some(feature) = profile.feature() else {
        run(&mut build)?;
        return Ok(bare_artifacts(profile.folder()).join("oxen"));
    };
    run(build.args(["--features", feature]))?;
    // Out of the way of the image, which has the same name.
    let linked = bare_artifacts(profile.folder()).join("oxen");
    let own = linked.with_file_name(profile.output());
    fs::rename(&linked, &own)?;
    Ok(own)
}

/// Builds the image and everything made from it.
pub fn build(profile: Profile) -> Result<Built> {
    crate::toolchain::ensure()?;
    let name = profile.output();
    say(format!("building the image {name}"));
    let linked = link(profile)?;
    let mut bytes =
        fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;

    let image = Image::parse(&bytes).with_context(|| format!("in {}", linked.display()))?;
    let functions = image.functions();
    let out = output_dir()?;
    fs::write(
        out.join(format!("{name}.sym")),
        symbols::listing(&functions),
    )?;
    let patch = symbols::reserved_section(&image)?.map(|place| {
        symbols::table(&functions, image.base(), place.len()).map(|table| (place, table))
    });
    if let Some((place, table)) = patch.transpose()? {
        if table.left_out > 0 {
            say(format!(
                "the symbol table is full: the {} smallest of {} functions have no name in it",
                table.left_out,
                functions.len()
            ));
        }
        if let Some(target) = bytes.get_mut(place) {
            target.copy_from_slice(&table.bytes);
        }
    }

    let image = Image::parse(&bytes)?;
    let container = container::elf32(&image)?;
    let compressed = gzip(&container)?;
    let built = Built {
        linked,
        container: out.join(name),
        compressed: out.join(format!("{name}.gz")),
    };
    fs::write(&built.container, &container)?;
    fs::write(&built.compressed, &compressed)?;

    let sections = image.section_sizes();
    println!(
        "{name}: {} bytes, compressed {} bytes; code {}, read-only data {}, data {}, zeroed {}; {} functions",
        container.len(),
        compressed.len(),
        sections.code,
        sections.read_only,
        sections.data,
        sections.zeroed,
        functions.len()
    );
    Ok(built)
}

/// Compresses as far as gzip goes, with no name and no time in the header.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// Unpacks a gzip file.
pub fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::{gunzip, gzip};

    #[test]
    fn compressing_is_reproducible_and_loses_nothing() {
        let bytes: Vec<u8> = (0..100_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let packed = gzip(&bytes).unwrap();
        assert_eq!(packed, gzip(&bytes).unwrap());
        assert_eq!(
            packed.get(4..8),
            Some(&[0u8; 4][..]),
            "the time stamp must be zero"
        );
        assert_eq!(gunzip(&packed).unwrap(), bytes);
    }
}
