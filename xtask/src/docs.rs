//! `cargo xtask docs`: pages that are made from the code, and the book.
//!
//! The pages come from the program `pages`, an example of `oxen-core`: it writes each page into the folder that it is
//! given. That they are made there and not here keeps this program quick to build, and working while `core` does not
//! compile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{cargo, run, say};
use crate::tools::find_program;
use crate::workspace::{output_dir, root};

/// Writes all generated pages into `docs/`, and the book if `mdbook` is installed.
pub fn write() -> Result<()> {
    let docs = root().join("docs");
    generate(&docs)?;
    if find_program("mdbook").is_some() {
        run(Command::new("mdbook")
            .args(["build", "--dest-dir"])
            .arg(output_dir()?.join("book"))
            .arg(&docs))?;
    } else {
        say(
            "mdbook is not installed, so only the generated pages were written (cargo install mdbook)",
        );
    }
    Ok(())
}

/// The generated pages that differ from what is in `docs/`.
pub fn outdated() -> Result<Vec<String>> {
    let fresh = output_dir()?.join("pages");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    generate(&fresh)?;
    let mut outdated = Vec::new();
    for page in files(&fresh)? {
        let name = page.file_name().map(PathBuf::from).unwrap_or_default();
        if fs::read(&page)? != fs::read(root().join("docs").join(&name)).unwrap_or_default() {
            outdated.push(format!("docs/{}", name.display()));
        }
    }
    Ok(outdated)
}

fn generate(into: &Path) -> Result<()> {
    run(cargo()
        .args([
            "run",
            "--quiet",
            "--package",
            "oxen-core",
            "--example",
            "pages",
            "--",
        ])
        .arg(into))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}
