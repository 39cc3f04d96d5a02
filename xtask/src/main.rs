//! Every command a person types to build, run and test Oxen.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod container;
mod cpio;
mod debian;
mod docs;
mod elf64;
mod fuzz;
mod guests;
mod image_build;
mod iso;
mod linux;
mod mapping;
mod packages;
mod picture;
mod process;
mod qemu;
mod run;
mod session;
mod soak;
mod symbols;
mod test;
mod toolchain;
mod tools;
mod userland;
mod workspace;
mod xen;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests Oxen.
///
/// OXEN_CACHE names the folder for downloads, OXEN_QEMU a QEMU to take instead of looking for one.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the hypervisor: target/oxen/oxen, oxen.gz and oxen.sym.
    Build {
        /// Build quickly, not optimised.
        #[arg(long)]
        debug: bool,
    },
    /// Makes target/oxen/oxen.iso, which boots by BIOS and by UEFI.
    Image(run::What),
    /// Boots in QEMU, with the serial console on this terminal (Ctrl-A X quits).
    Run(run::How),
    /// Runs format, lints, host tests, checks and QEMU tests.
    Test(test::Options),
    /// Counts what operations cost, on Oxen and on Debian's Xen.
    Bench(bench::Options),
    /// Checks the rules of the house that no compiler checks.
    Check {
        /// Look for panics in this executable instead of the image.
        #[arg(long, value_name = "FILE")]
        image: Option<std::path::PathBuf>,
    },
    /// Looks for inputs that break the hypervisor on the simulated machine.
    Fuzz(fuzz::Options),
    /// Runs random tests and fuzz targets for hours, up to the first failure.
    Soak(soak::Options),
    /// Writes the generated pages of docs/, and the book if mdbook is installed.
    Docs,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Build { debug } => {
            let profile = if debug {
                image_build::Profile::Debug
            } else {
                image_build::Profile::Image
            };
            image_build::build(profile).map(drop)?;
        }
        Command::Image(what) => run::make_image(&what)?,
        Command::Run(how) => run::run_machine(&how)?,
        Command::Test(options) => return test::run(&options),
        Command::Bench(options) => bench::run(&options)?,
        Command::Check { image } => check::run(image.as_deref())?,
        Command::Fuzz(options) => fuzz::command(&options)?,
        Command::Soak(options) => soak::command(&options)?,
        Command::Docs => docs::write()?,
    }
    Ok(ExitCode::SUCCESS)
}
