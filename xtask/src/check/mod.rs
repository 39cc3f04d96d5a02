//! `cargo xtask check`: the rules of the house that no compiler checks.
//!
//! - unsafe code, assembly and naked functions only where they may be;
//! - every crate under the workspace's lints, and unsafe code forbidden where nothing may bring it back;
//! - imports run down only;
//! - generated pages are current;
//! - no guest reaches a panic, and the functions that can reach one are those of `hypervisor/panics.toml`.

mod call_graph;
mod layers;
mod panics;
mod source;
mod unsafety;

use std::path::Path;

use anyhow::{Result, bail};

use crate::image_build::{self, Profile};
use crate::process::say;
use crate::{docs, toolchain};

/// Checks everything and prints what is wrong. With `image`, looks for panics in that executable.
pub fn run(image: Option<&Path>) -> Result<()> {
    let mut problems = Vec::new();
    let sources = source::all()?;
    problems.extend(unsafety::check(&sources)?);
    problems.extend(layers::check(&sources)?);
    say("comparing the generated pages");
    match docs::outdated() {
        Ok(pages) => problems.extend(
            pages
                .into_iter()
                .map(|page| format!("{page} is not current: run cargo xtask docs")),
        ),
        Err(error) => problems.push(format!("the generated pages cannot be made: {error:#}")),
    }
    say("looking for functions that can reach a panic");
    let linked = match image {
        Some(image) => Ok(image.to_path_buf()),
        None => toolchain::ensure().and_then(|()| image_build::link(Profile::Image)),
    };
    match linked.and_then(|linked| panics::check(&linked)) {
        Ok(found) => problems.extend(found),
        Err(error) => problems.push(format!("the image cannot be checked for panics: {error:#}")),
    }
    if problems.is_empty() {
        println!("all checks hold");
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    bail!("{} problems", problems.len());
}
