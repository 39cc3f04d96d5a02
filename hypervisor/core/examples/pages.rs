//! Writes the pages of the documentation that are made from the code into the folder that it is given: `cargo xtask
//! docs` does so into `docs/`, and `cargo xtask check` compares.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;

use oxen_core::cmdline::options::OPTIONS;
use oxen_core::hypercall::table::coverage_markdown;
use oxen_core::policy::{cpuid, msr, ports};

/// Makes the text of a page.
type Page = fn(&mut String) -> std::fmt::Result;

/// The pages: file name, title, what they say first, and the rest.
const PAGES: [(&str, &str, &str, Page); 4] = [
    (
        "command-line.md",
        "The command line",
        "A word that is not listed is named in a warning and skipped; of a wrong value, too, the log says so, and the default holds.",
        command_line,
    ),
    (
        "cpuid.md",
        "CPUID",
        "What a guest sees of the processor, and why.",
        |page| cpuid::markdown(page),
    ),
    (
        "msr.md",
        "Model-specific registers",
        "What a guest may read and write; everything else is a general protection fault.",
        |page| msr::markdown(page),
    ),
    (
        "ports.md",
        "I/O ports",
        "Which ports dom0 may use itself.",
        |page| ports::markdown(page),
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: pages FOLDER")?);
    for (file, title, introduction, make) in PAGES {
        let mut page =
            format!("# {title}\n\nMade from the code by `cargo xtask docs`. {introduction}\n\n");
        make(&mut page)?;
        std::fs::write(dir.join(file), page)?;
    }
    // This one writes its heading itself.
    let mut page = String::new();
    coverage_markdown(&mut page)?;
    std::fs::write(dir.join("hypercalls.md"), page)?;
    Ok(())
}

fn command_line(page: &mut String) -> std::fmt::Result {
    page.push_str("| option | value | default | what it does |\n|---|---|---|---|\n");
    for option in OPTIONS {
        // A bar would end the cell.
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            option.name,
            cell(option.syntax),
            cell(option.default),
            cell(option.meaning)
        )?;
    }
    Ok(())
}
