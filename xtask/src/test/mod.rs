//! `cargo xtask test`: every test has a name made of its area and what it shows; words select tests by their names.
//!
//! Host tests run one after another, since Cargo uses all CPUs by itself; QEMU tests then run two at a time. The last
//! line of output is always `N passed, N failed, N skipped`.

mod boot;
mod cpus;
mod host;
mod linux;
mod machine;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::guests;
use crate::process::say;
use crate::qemu::Hypervisor;
use crate::workspace::logs_dir;
use machine::{Bench, MachineTest};

/// How many machines run at the same time.
const MACHINES: usize = 2;

/// What to test.
#[derive(Args, Debug)]
pub struct Options {
    /// Run only the tests whose names contain one of these words.
    words: Vec<String>,
    /// Run every combination, not the selection that is made for each change.
    #[arg(long)]
    full: bool,
    /// Boot this hypervisor; with `xen`, only the QEMU tests that say something about it.
    #[arg(long, value_enum, default_value = "oxen")]
    hypervisor: Hypervisor,
    /// Print the names of the tests and run none.
    #[arg(long)]
    list: bool,
}

/// One test.
pub struct Test {
    /// `area/what`, where the area is one of the words by which people select.
    pub name: String,
    /// What it does.
    pub work: Work,
}

/// Work without a machine; the path is that of its log.
pub type HostWork = fn(&Path) -> Result<()>;

/// What a test does.
pub enum Work {
    /// Something in this process or a program; all output goes to the log.
    Host(HostWork),
    /// Boots a machine.
    Machine(MachineTest),
}

/// How a test ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Counts outcomes and prints one line for each.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    fn add(&mut self, name: &str, outcome: Outcome, time: Duration, log: &Path) {
        let seconds = time.as_secs_f32();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("passed  {name} ({seconds:.1} s)");
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skipped {name}: {reason}");
            }
            Outcome::Failed(reason) => {
                self.failed.push(name.to_string());
                println!(
                    "FAILED  {name} ({seconds:.1} s): {reason}\n        log: {}",
                    log.display()
                );
            }
        }
    }

    fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        )
    }
}

/// Runs the selected tests.
pub fn run(options: &Options) -> Result<ExitCode> {
    let tests = select(all(options)?, &options.words)?;
    if options.list {
        for test in &tests {
            println!("{}", test.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    crate::toolchain::ensure()?;
    let (host, machines): (Vec<Test>, Vec<Test>) = tests
        .into_iter()
        .partition(|test| matches!(test.work, Work::Host(_)));
    let mut tally = Tally::default();
    for test in &host {
        run_host(test, &mut tally)?;
    }
    let tally = if machines.is_empty() {
        tally
    } else {
        run_machines(machines, options.hypervisor, tally)?
    };
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!("{}", tally.summary());
    Ok(if tally.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All tests in the order in which they run.
fn all(options: &Options) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    if options.hypervisor == Hypervisor::Oxen {
        tests.extend(host::tests(options.full));
    }
    let machines = machine::guest_tests(&guests::list()?)
        .into_iter()
        .chain(boot::tests())
        .chain(cpus::tests())
        .chain(linux::tests());
    tests.extend(
        machines
            .filter(|test| options.hypervisor == Hypervisor::Oxen || test.on_xen)
            .filter(|test| options.full || !test.only_full)
            .map(|test| Test {
                name: test.name.clone(),
                work: Work::Machine(test),
            }),
    );
    Ok(tests)
}

/// The tests whose names contain one of the words; all when there is no word. A word that selects nothing is an error.
fn select(tests: Vec<Test>, words: &[String]) -> Result<Vec<Test>> {
    if let Some(word) = words
        .iter()
        .find(|word| !tests.iter().any(|test| test.name.contains(word.as_str())))
    {
        bail!("no test has {word:?} in its name (cargo xtask test --list shows all)");
    }
    let wanted = |test: &Test| {
        words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str()))
    };
    Ok(tests.into_iter().filter(wanted).collect())
}

fn log_path(name: &str) -> Result<PathBuf> {
    Ok(logs_dir()?.join(format!("{}.log", name.replace('/', "-"))))
}

fn run_host(test: &Test, tally: &mut Tally) -> Result<()> {
    let Work::Host(work) = &test.work else {
        return Ok(());
    };
    let log = log_path(&test.name)?;
    say(format!("{} ...", test.name));
    let start = Instant::now();
    let outcome = match work(&log) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            // What a person would have seen on the terminal.
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let tail = text.lines().count().saturating_sub(40);
            text.lines()
                .skip(tail)
                .for_each(|line| println!("        {line}"));
            Outcome::Failed(format!("{error:#}"))
        }
    };
    if matches!(outcome, Outcome::Passed) && log.exists() {
        std::fs::remove_file(&log)?;
    }
    tally.add(&test.name, outcome, start.elapsed(), &log);
    Ok(())
}

/// Runs the machines' tests, several at a time.
fn run_machines(tests: Vec<Test>, hypervisor: Hypervisor, mut tally: Tally) -> Result<Tally> {
    // What all of them need; without it all of them have failed.
    let bench = match Bench::new(hypervisor) {
        Ok(bench) => bench,
        Err(error) => {
            for test in &tests {
                tally.add(
                    &test.name,
                    Outcome::Failed(format!("{error:#}")),
                    Duration::ZERO,
                    &log_path(&test.name)?,
                );
            }
            return Ok(tally);
        }
    };
    let count = tests.len();
    say(format!(
        "{count} tests in QEMU {}, {MACHINES} at a time",
        bench.qemu_version()
    ));
    let queue = Mutex::new(tests.into_iter().collect::<VecDeque<_>>());
    let tally = Mutex::new(tally);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..MACHINES)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let Some(test) = queue.lock().ok().and_then(|mut queue| queue.pop_front())
                        else {
                            return Ok(());
                        };
                        let Work::Machine(work) = &test.work else {
                            continue;
                        };
                        let log = log_path(&test.name)?;
                        let start = Instant::now();
                        let outcome = match (bench.reason_to_skip(work), work.limit) {
                            (Some(reason), _) => Outcome::Skipped(reason),
                            (None, _) => match bench.run(work, &log) {
                                Ok(()) => {
                                    for file in [log.clone(), log.with_extension("qemu.log")] {
                                        std::fs::remove_file(file)?;
                                    }
                                    Outcome::Passed
                                }
                                Err(error) => Outcome::Failed(format!("{error:#}")),
                            },
                        };
                        if let Ok(mut tally) = tally.lock() {
                            tally.add(&test.name, outcome, start.elapsed(), &log);
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| bail!("a test thread panicked"))
        })
    })?;
    tally
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a test thread panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Test> {
        names
            .iter()
            .map(|name| Test {
                name: name.to_string(),
                work: Work::Host(|_| Ok(())),
            })
            .collect()
    }

    fn selected(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        select(
            named(&["host/fmt", "boot/bios", "boot/uefi", "guests/fpu"]),
            &words,
        )
        .map(|tests| tests.into_iter().map(|test| test.name).collect())
        .map_err(|error| error.to_string())
    }

    #[test]
    fn words_select_by_any_part_of_the_name() {
        assert_eq!(selected(&[]).unwrap().len(), 4);
        assert_eq!(selected(&["boot"]).unwrap(), ["boot/bios", "boot/uefi"]);
        assert_eq!(
            selected(&["fpu", "fmt"]).unwrap(),
            ["host/fmt", "guests/fpu"]
        );
    }

    #[test]
    fn a_word_that_selects_nothing_is_an_error() {
        assert!(
            selected(&["boot", "nonsense"])
                .unwrap_err()
                .contains("\"nonsense\"")
        );
    }

    #[test]
    fn the_summary_counts_everything() {
        let mut tally = Tally::default();
        let log = Path::new("x");
        tally.add("a", Outcome::Passed, Duration::ZERO, log);
        tally.add("b", Outcome::Failed("reason".into()), Duration::ZERO, log);
        tally.add("c", Outcome::Skipped("reason".into()), Duration::ZERO, log);
        tally.add("d", Outcome::Passed, Duration::ZERO, log);
        assert_eq!(tally.summary(), "2 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn names_are_unique_and_begin_with_their_area() {
        const AREAS: [&str; 9] = [
            "host", "boot", "guests", "memory", "smp", "time", "dom0", "domu", "drivers",
        ];
        let mut names: Vec<String> = host::tests(true)
            .into_iter()
            .map(|test| test.name)
            .chain(boot::tests().into_iter().map(|test| test.name))
            .chain(cpus::tests().into_iter().map(|test| test.name))
            .chain(linux::tests().into_iter().map(|test| test.name))
            .collect();
        for name in &names {
            assert!(AREAS.contains(&name.split('/').next().unwrap()), "{name}");
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
