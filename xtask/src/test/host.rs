//! What is tested without a machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{HostWork, Test, Work};
use crate::fuzz::fuzz_cargo;
use crate::image_build::COUNTERS;
use crate::process::{cargo, run_logged};
use crate::tools::{Need, require};
use crate::workspace::{BARE_TARGET, host_packages, root};

const ABI_PACKAGE: &str = "abi-layout";
const INTERLEAVINGS_PACKAGE: &str = "interleavings";
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Packages that only exist for the bare target.
const BARE_PACKAGES: [&str; 4] = ["oxen-boot", "oxen", "oxen-guests", "linux-init"];

/// All host tests; with `full` those too that want more than a stable toolchain.
pub fn tests(full: bool) -> Vec<Test> {
    let entries: [(&str, HostWork); 10] = [
        ("host/fmt", fmt),
        ("host/clippy", clippy),
        ("host/clippy-image", clippy_image),
        ("host/counters", counters),
        ("host/unit", unit),
        ("host/interleavings", interleavings),
        ("host/fuzz", fuzz_corpus),
        ("dom0/debian-kernel-unpacks", debian_kernel),
        ("host/abi", abi),
        ("host/check", check),
    ];
    let miri: Option<(&str, HostWork)> = full.then_some(("host/miri", miri));
    entries
        .into_iter()
        .chain(miri)
        .map(|(name, work)| Test {
            name: name.into(),
            work: Work::Host(work),
        })
        .collect()
}

fn fmt(log: &Path) -> Result<()> {
    run_logged(cargo().args(["fmt", "--all", "--check"]), log, LIMIT)
}

fn clippy(log: &Path) -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--all-targets"]);
    run_logged(clippy.args(["--", "--deny", "warnings"]), log, LIMIT)
}

fn clippy_image(log: &Path) -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--target", BARE_TARGET]);
    for package in BARE_PACKAGES {
        clippy.args(["--package", package]);
    }
    run_logged(clippy.args(["--", "--deny", "warnings"]), log, LIMIT)
}

/// The build that counts: lints of the image, the tests of counting, and those that count.
fn counters(log: &Path) -> Result<()> {
    let with_counters = |command: &str, package: &str| {
        let mut cargo = cargo();
        cargo.args([command, "--quiet", "--package", package]);
        cargo.args(["--features", COUNTERS]);
        cargo
    };
    let mut image = with_counters("clippy", "oxen-boot");
    for package in ["oxen", "oxen-core", "oxen-arch"] {
        image.args(["--package", package]);
    }
    image.args(["--target", BARE_TARGET, "--", "--deny", "warnings"]);
    run_logged(&mut image, log, LIMIT)?;
    for (package, tests) in [("oxen-arch", "counters::"), ("oxen-core", "cost::")] {
        let mut test = with_counters("test", package);
        run_logged(test.args(["--lib", tests]), log, LIMIT)?;
    }
    Ok(())
}

/// The tests of everything that runs on the host, but for those that have an entry of their own.
fn unit(log: &Path) -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--quiet"]);
    for name in host_packages()? {
        if name != ABI_PACKAGE && name != INTERLEAVINGS_PACKAGE {
            test.args(["--package", &name]);
        }
    }
    run_logged(&mut test, log, LIMIT)
}

/// Lock-free parts under a model checker, in every order of their steps.
fn interleavings(log: &Path) -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--quiet", "--package", INTERLEAVINGS_PACKAGE]);
    run_logged(&mut test, log, LIMIT)
}

/// The fuzz targets, which are a workspace of their own: format, lints, and every input of the corpus.
fn fuzz_corpus(log: &Path) -> Result<()> {
    let mut fmt = cargo();
    fmt.args(["fmt", "--check", "--manifest-path"]);
    run_logged(fmt.arg("tests/fuzz/Cargo.toml"), log, LIMIT)?;
    let mut clippy = fuzz_cargo("clippy");
    clippy.args(["--all-targets", "--", "--deny", "warnings"]);
    run_logged(&mut clippy, log, LIMIT)?;
    run_logged(&mut fuzz_cargo("test"), log, LIMIT)
}

/// Debian's own kernel: unpacked like `xz` does it, and built into a dom0.
fn debian_kernel(log: &Path) -> Result<()> {
    require(&[Need::Program("xz", "xz-utils")])?;
    let mut test = cargo();
    test.env("OXEN_TEST_VMLINUZ", crate::debian::kernel()?);
    test.args(["test", "--quiet", "--package", "oxen-core", "--lib"]);
    run_logged(test.args(["domain::builder"]), log, LIMIT)
}

/// The ABI as the C compiler sees it in Debian's headers.
fn abi(log: &Path) -> Result<()> {
    require(&[
        Need::Program("cc", "gcc"),
        Need::Path("/usr/include/xen/xen.h", "libxen-dev"),
    ])?;
    run_logged(
        cargo().args(["test", "--quiet", "--package", ABI_PACKAGE]),
        log,
        LIMIT,
    )
}

/// The hardware-free parts of `arch`, unsafe code and all, under an interpreter that sees undefined behaviour.
fn miri(log: &Path) -> Result<()> {
    // Not by this toolchain's cargo, which knows no other.
    let mut miri = std::process::Command::new("cargo");
    miri.current_dir(root()).env_remove("RUSTUP_TOOLCHAIN");
    miri.args(["+nightly", "miri", "test", "--quiet"]);
    miri.args(["--package", "oxen-arch", "--lib"]);
    miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    miri.env("CARGO_TARGET_DIR", root().join("target/miri"));
    run_logged(&mut miri, log, LIMIT)
        .context("this needs `rustup toolchain install nightly --component miri,rust-src`")
}

fn check(log: &Path) -> Result<()> {
    // As a program of its own, so that its output goes to the log like that of the others.
    let mut check = std::process::Command::new(std::env::current_exe()?);
    run_logged(check.arg("check").current_dir(root()), log, LIMIT)
}
