//! The Rust side: what the source of `dom0-abi` defines, read as text.

use std::path::{Path, PathBuf};

/// Names, with their module, of what the defining macros introduce, and what is defined without them.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Structures inside `abi_structs!`.
    pub structs: Vec<String>,
    /// Enums and flag sets inside `abi_enum!` and `abi_flags!`.
    pub value_sets: Vec<String>,
    /// Modules with an `abi_constants!`.
    pub modules: Vec<String>,
    /// Lines with a representation or a flag set that no macro of the crate wraps, as `file:line: text`.
    pub strays: Vec<String>,
}

/// The directory of the crate's source.
pub fn crate_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dom0-abi/src")
}

/// Reads all of a crate's source.
pub fn read(root: &Path) -> Result<Definitions, String> {
    let mut found = Definitions::default();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries =
            std::fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let file = path.strip_prefix(root).unwrap_or(&path);
                scan(&file.display().to_string(), &text, &mut found);
            }
        }
    }
    Ok(found)
}

/// The path of the module that a file of the crate holds.
fn module(file: &str) -> String {
    let path = file
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .replace('/', "::");
    format!("dom0_abi::{path}")
}

/// Adds what one file defines. The macros' own definitions are in `record.rs`, which is the one file that may spell
/// out what it wraps.
pub fn scan(file: &str, text: &str, found: &mut Definitions) {
    let module = module(file);
    let mut inside = "";
    for (number, line) in text.lines().enumerate() {
        let code = line.trim();
        if code.starts_with("//") {
            continue;
        }
        if let Some(name) = ["abi_structs", "abi_enum", "abi_flags", "abi_constants"]
            .into_iter()
            .find(|name| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with("! {"))
            })
        {
            inside = name;
            if name == "abi_constants" {
                found.modules.push(module.clone());
            }
            continue;
        }
        if line == "}" {
            inside = "";
        }
        let item = |keyword: &str| {
            let rest = code.strip_prefix(keyword)?;
            let name = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()?;
            Some(format!("{module}::{name}"))
        };
        match inside {
            "abi_structs" => found.structs.extend(item("pub struct ")),
            "abi_enum" => found.value_sets.extend(item("pub enum ")),
            "abi_flags" => found.value_sets.extend(item("pub struct ")),
            "abi_constants" => {}
            _ if file == "record.rs" => {}
            // Whatever has a layout of its own beyond a transparent wrapper has to leave a record.
            _ if (code.contains("repr(") && !code.contains("repr(transparent)"))
                || code.contains("bitflags!") =>
            {
                found.strays.push(format!("{file}:{}: {code}", number + 1));
            }
            _ => {}
        }
    }
}
