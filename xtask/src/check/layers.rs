//! Imports run down only: `boot → image → core → arch → dom0-abi`.

use anyhow::Result;

use super::source::Source;
use crate::workspace::{manifest, members, package_name, root};

/// What each crate of the hypervisor, and the crate for guests, may import of this project. Test crates and `xtask` may
/// import any of these and are imported by none.
const MAY_IMPORT: [(&str, &[&str]); 6] = [
    ("dom0-abi", &[]),
    ("oxen-arch", &["dom0-abi"]),
    ("oxen-core", &["oxen-arch", "dom0-abi"]),
    ("oxen", &["oxen-core", "oxen-arch", "dom0-abi"]),
    ("oxen-boot", &["oxen", "oxen-arch", "dom0-abi"]),
    ("guest-pv-drivers", &["dom0-abi"]),
];

/// What breaks the rule.
pub fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut crates = Vec::new();
    for member in members()? {
        let manifest = manifest(&root().join(&member).join("Cargo.toml"))?;
        crates.push((package_name(&manifest)?, member, dependencies(&manifest)));
    }
    for (name, member, dependencies) in &crates {
        let ours = |dependency: &&String| crates.iter().any(|(name, ..)| name == *dependency);
        for dependency in dependencies
            .iter()
            .filter(ours)
            .filter(|dependency| !may_import(name, dependency))
        {
            problems.push(format!(
                "{member}/Cargo.toml: {name} may not import {dependency}"
            ));
        }
        // Cargo refuses a crate that the manifest lacks; this names the file that tries.
        let folder = format!("{member}/src/");
        for source in sources
            .iter()
            .filter(|source| source.path.to_string_lossy().starts_with(&folder))
        {
            for (upper, ..) in crates
                .iter()
                .filter(|(other, ..)| other != name && !may_import(name, other))
            {
                let word = upper.replace('-', "_");
                if source.contains(&format!("use {word} : :"))
                    || source.contains(&format!("extern crate {word}"))
                {
                    problems.push(format!(
                        "{}: {name} may not import {upper}",
                        source.path.display()
                    ));
                }
            }
        }
    }
    Ok(problems)
}

fn may_import(name: &str, dependency: &str) -> bool {
    let is_fixed = |name: &str| MAY_IMPORT.iter().any(|(fixed, _)| *fixed == name);
    match MAY_IMPORT.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, below)) => below.contains(&dependency),
        None => is_fixed(dependency) || dependency == name,
    }
}

/// The names of everything that a crate depends on, in any way.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut names = Vec::new();
    let mut tables = vec![manifest];
    tables.extend(
        manifest
            .get("target")
            .and_then(toml::Value::as_table)
            .into_iter()
            .flat_map(|targets| targets.values().filter_map(toml::Value::as_table)),
    );
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(entries) = table.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (key, value) in entries {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                names.push(renamed.unwrap_or(key).to_string());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{dependencies, may_import};

    #[test]
    fn imports_run_down_only() {
        let order = ["dom0-abi", "oxen-arch", "oxen-core", "oxen", "oxen-boot"];
        for (upper, name) in order.iter().enumerate() {
            for (lower, dependency) in order.iter().enumerate() {
                if lower >= upper {
                    assert!(!may_import(name, dependency), "{name} {dependency}");
                }
            }
        }
        assert!(
            may_import("oxen-core", "oxen-arch") && may_import("oxen-guests", "guest-pv-drivers")
        );
        assert!(!may_import("oxen-core", "xtask") && !may_import("guest-pv-drivers", "oxen-arch"));
        assert!(!may_import("oxen-guests", "xtask"));
    }

    #[test]
    fn all_kinds_of_dependencies_count() {
        let manifest = "[dependencies]\na.workspace = true\n[dev-dependencies]\nb = \"1\"\n[build-dependencies]\nx = { package = \"c\", version = \"1\" }\n[target.'cfg(unix)'.dependencies]\nd = \"1\"\n";
        let mut names = dependencies(&manifest.parse().unwrap());
        names.sort();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }
}
