//! Where unsafe code, assembly and naked functions are, and which crates forbid or lint what.

use std::path::Path;

use anyhow::Result;

use super::source::Source;
use crate::workspace::{manifest, members, root};

/// Where unsafe code may be: the crate that exists for it, start code, test guests, and what in a guest's driver crate
/// touches the hypervisor or shared memory.
const ALLOWED: [&str; 7] = [
    "hypervisor/arch/",
    "boot/",
    "tests/guests/",
    "tests/linux/",
    "guest-pv-drivers/src/hypercall",
    "guest-pv-drivers/src/ring",
    "guest-pv-drivers/src/grant",
];

/// Crate roots that must forbid it, so that no attribute inside brings it back.
const FORBIDDING: [&str; 4] = [
    "dom0-abi/src/lib.rs",
    "hypervisor/core/src/lib.rs",
    "hypervisor/src/lib.rs",
    "xtask/src/main.rs",
];

/// Words that are or make unsafe code. `forbid(unsafe_code)` lets the last four pass.
const WORDS: [&str; 5] = ["unsafe", "asm", "global_asm", "naked_asm", "naked"];

/// What breaks the rules.
pub fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut problems: Vec<String> = sources.iter().flat_map(forbidden_words).collect();
    for path in FORBIDDING {
        let source = sources.iter().find(|source| source.path == Path::new(path));
        if !source.is_some_and(|source| source.contains("# ! [ forbid ( unsafe_code ) ]")) {
            problems.push(format!("{path} does not forbid unsafe code"));
        }
    }
    for member in members()? {
        let path = root().join(&member).join("Cargo.toml");
        let manifest = manifest(&path)?;
        if manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool)
            != Some(true)
        {
            problems.push(format!(
                "{member}/Cargo.toml does not take the workspace's lints"
            ));
        }
    }
    Ok(problems)
}

fn forbidden_words(source: &Source) -> Vec<String> {
    let path = source.path.to_string_lossy();
    if ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
        return Vec::new();
    }
    let mut problems: Vec<String> = source
        .tokens
        .iter()
        .filter(|token| WORDS.contains(&token.text.as_str()))
        .map(|token| {
            format!(
                "{path}:{}: `{}` may not be used here",
                token.line, token.text
            )
        })
        .collect();
    if source.contains("allow ( unsafe_code") {
        problems.push(format!("{path}: unsafe code may not be allowed here"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::source::tokens;
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        forbidden_words(&Source {
            path: path.into(),
            tokens: tokens(text),
        })
        .len()
    }

    #[test]
    fn unsafe_code_is_found_outside_its_places_only() {
        for text in [
            "unsafe { x() }",
            "core::arch::asm!(\"nop\")",
            "use core::arch::global_asm as g;",
            "#[unsafe(naked)] fn f() {}",
            "#![allow(unsafe_code)]",
        ] {
            assert!(problems("hypervisor/core/src/mmu.rs", text) > 0, "{text}");
            assert!(problems("guest-pv-drivers/src/lib.rs", text) > 0, "{text}");
            assert_eq!(problems("hypervisor/arch/src/lib.rs", text), 0, "{text}");
            assert_eq!(
                problems("guest-pv-drivers/src/hypercall.rs", text),
                0,
                "{text}"
            );
        }
        assert_eq!(
            problems(
                "hypervisor/core/src/lib.rs",
                "#![forbid(unsafe_code)] // unsafe\n"
            ),
            0
        );
    }
}
