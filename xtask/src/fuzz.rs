//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer.
//!
//! The stable compiler puts in what the fuzzer needs to see, so neither nightly nor cargo-fuzz is wanted; no sanitizer either,
//! since what runs is safe code. A run begins with the corpus of the tree and with what earlier runs found, which lies in
//! `target/oxen/fuzz/TARGET/found`; inputs that fail lie in `failed` beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{cargo, run, say, stdout_of};
use crate::tools::{Need, require};
use crate::workspace::{make_dir, output_dir, root};

/// What is fuzzed.
#[derive(Args, Debug)]
pub struct Options {
    /// The target; without it, the targets are listed.
    target: Option<String>,
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Carry out these inputs instead and print each step.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Make the corpus of the tree anew, from it and from what runs have found.
    #[arg(long, conflicts_with = "input")]
    renew_corpus: bool,
}

/// The target of the host: named, so that build scripts and macros are built without what is for the fuzzed code.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// What the compiler puts into the code: a counter for each edge. Comparisons are left out: inputs are choices, not
/// numbers that must be guessed.
const INSTRUMENTATION: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
];
/// How long an input is at most.
const MAX_INPUT: &str = "-max_len=512";

/// Does what the options say.
pub fn command(options: &Options) -> Result<()> {
    let Some(target) = &options.target else {
        return run(&mut replay(&[]));
    };
    let known = targets()?;
    if !known.contains(target) {
        bail!("no such target: {target}; there are {}", known.join(", "));
    }
    if !options.input.is_empty() {
        let files = options.input.iter().map(fs::canonicalize);
        let files: Vec<_> = files.collect::<Result<_, _>>()?;
        let mut replay = replay(&[target]);
        return run(replay.args(files)).context("an input fails");
    }
    let engine = build()?;
    if options.renew_corpus {
        return renew_corpus(&engine, target);
    }
    fuzz(
        &engine,
        target,
        Duration::from_secs(options.minutes.saturating_mul(60)),
        None,
    )
}

/// The names of the targets.
pub fn targets() -> Result<Vec<String>> {
    let list = stdout_of(&mut replay(&[]))?;
    let names = list.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_string).collect())
}

/// Cargo for the fuzz targets, which are a workspace of their own.
pub fn fuzz_cargo(command: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([command, "--quiet", "--manifest-path"]);
    cargo.arg(root().join("tests/fuzz/Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", root().join("target/fuzz"));
    cargo
}

fn replay(args: &[&str]) -> Command {
    let mut cargo = fuzz_cargo("run");
    cargo.args(["--bin", "replay", "--"]).args(args);
    cargo
}

/// Builds the program that fuzzes.
pub fn build() -> Result<PathBuf> {
    require(&[Need::Program("c++", "g++")])?;
    say("building the fuzz targets");
    let mut build = fuzz_cargo("build");
    build.args(["--release", "--features", "engine", "--bin", "engine"]);
    build.args(["--target", HOST]);
    build.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"));
    run(&mut build)?;
    Ok(root().join("target/fuzz").join(HOST).join("release/engine"))
}

fn folder(target: &str, name: &str) -> Result<PathBuf> {
    make_dir(output_dir()?.join("fuzz").join(target).join(name))
}

fn corpus(target: &str) -> Result<PathBuf> {
    make_dir(root().join("tests/fuzz/corpus").join(target))
}

/// Fuzzes a target for some time; an error names the input that fails.
pub fn fuzz(engine: &Path, target: &str, time: Duration, seed: Option<u32>) -> Result<()> {
    let (found, failed) = (folder(target, "found")?, folder(target, "failed")?);
    let before = files(&failed)?;
    let mut command = Command::new(engine);
    command.env("OXEN_FUZZ_TARGET", target);
    command.args([&found, &corpus(target)?]);
    command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
    command.arg(format!("-artifact_prefix={}/", failed.display()));
    command.args([MAX_INPUT, "-len_control=0", "-timeout=60"]);
    command.args(["-print_final_stats=1", "-verbosity=1", "-reload=0"]);
    if let Some(seed) = seed {
        // 0 would mean any.
        command.arg(format!("-seed={}", seed.max(1)));
    }
    say(format!("fuzzing {target} for {} s", time.as_secs()));
    if run(&mut command).is_ok() {
        return Ok(());
    }
    let after = files(&failed)?;
    let Some(input) = after.difference(&before).next().or(after.last()) else {
        bail!("{target} failed without an input");
    };
    let input = input.strip_prefix(root()).unwrap_or(input).display();
    bail!("{target} fails: cargo xtask fuzz {target} --input {input}");
}

/// Chooses, of all inputs, a few that together go every way that is known.
fn renew_corpus(engine: &Path, target: &str) -> Result<()> {
    let (found, corpus) = (folder(target, "found")?, corpus(target)?);
    let chosen = folder(target, "chosen")?;
    fs::remove_dir_all(&chosen)?;
    fs::create_dir_all(&chosen)?;
    let mut command = Command::new(engine);
    command.env("OXEN_FUZZ_TARGET", target);
    // Ways, not how often each is gone.
    command.args(["-set_cover_merge=1", "-use_counters=0", MAX_INPUT]);
    run(command.args([&chosen, &corpus, &found]))?;
    for old in files(&corpus)? {
        fs::remove_file(old)?;
    }
    let new = files(&chosen)?;
    for file in &new {
        fs::copy(file, corpus.join(file.file_name().unwrap_or_default()))?;
    }
    say(format!("{} inputs in {}", new.len(), corpus.display()));
    Ok(())
}

fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    paths.collect()
}
