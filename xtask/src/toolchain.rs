//! The parts of the pinned Rust toolchain that the project needs and that nothing adds by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{run, say, stdout_of};
use crate::workspace::{BARE_TARGET, root};

/// Adds what `rust-toolchain.toml` names and the installed toolchain lacks.
pub fn ensure() -> Result<()> {
    let sysroot = PathBuf::from(
        stdout_of(
            Command::new("rustc")
                .args(["--print", "sysroot"])
                .current_dir(root()),
        )?
        .trim(),
    );
    let missing = missing_parts(&sysroot);
    if missing.is_empty() {
        return Ok(());
    }
    say(format!(
        "adding to the Rust toolchain: {}",
        missing.join(", ")
    ));
    // Without a name, rustup installs what the project's toolchain file asks for.
    let installed = run(Command::new("rustup")
        .args(["toolchain", "install"])
        .current_dir(root()));
    if installed.is_err() || !missing_parts(&sysroot).is_empty() {
        // A rustup that does not know the nameless form, or keeps an installed toolchain as it is.
        run(Command::new("rustup")
            .args(["target", "add", BARE_TARGET])
            .current_dir(root()))?;
        run(Command::new("rustup")
            .args([
                "component",
                "add",
                "rustfmt",
                "clippy",
                "rust-src",
                "llvm-tools",
            ])
            .current_dir(root()))?;
    }
    let still = missing_parts(&sysroot);
    (still.is_empty())
        .then_some(())
        .with_context(|| format!("the Rust toolchain still lacks: {}", still.join(", ")))
}

fn missing_parts(sysroot: &Path) -> Vec<&'static str> {
    [
        (BARE_TARGET, "lib/rustlib/x86_64-unknown-none/lib"),
        ("rustfmt", "bin/cargo-fmt"),
        ("clippy", "bin/cargo-clippy"),
        ("rust-src", "lib/rustlib/src/rust/library"),
    ]
    .into_iter()
    .filter(|(_, path)| !sysroot.join(path).exists())
    .map(|(name, _)| name)
    .collect()
}
