//! `cargo xtask soak`: for hours, random runs of the whole hypervisor, load for the scheduler and the fuzz targets in turns, up
//! to the first failure.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;

use crate::fuzz;
use crate::process::{cargo, run, run_logged, say};
use crate::workspace::logs_dir;

/// How long, and from where.
#[derive(Args, Debug)]
pub struct Options {
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 480)]
    minutes: u64,
    /// The first seed; without it, one from the clock.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// How long a turn takes at most.
const TURN: Duration = Duration::from_secs(5 * 60);
/// As long as one seed may take, which needs a few seconds.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// How many operations belong to a seed.
const STEPS: &str = "6000";
/// The test that does them.
const TEST: &str = "i01_to_i11_hold_behind_random_operations";

/// How many minutes the scheduler plays for a seed, and the tests in which it does.
const PLAYED: &str = "240";
const SCHEDULING: [&str; 2] = [
    "mixed_load_is_fair_and_capped_and_nobody_waits_long",
    "whatever_is_changed_affinity_is_obeyed_and_nobody_waits_beside_an_idle_cpu",
];

/// Goes on until the time is over or something fails.
pub fn command(options: &Options) -> Result<()> {
    let mut seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    let engine = fuzz::build()?;
    let targets = fuzz::targets()?;
    say("building the random tests");
    run(properties().arg("--no-run"))?;
    run(scheduling().arg("--no-run"))?;
    let log = logs_dir()?.join("soak.log");
    let whole = Duration::from_secs(options.minutes.saturating_mul(60));
    let turns = u32::try_from(targets.len().saturating_add(2))?;
    let turn = TURN.min(whole / turns);
    say(format!("soak of {} minutes, seed {seed}", options.minutes));
    let end = Instant::now() + whole;
    while Instant::now() < end {
        let next = Instant::now() + turn;
        let first = seed;
        while Instant::now() < next {
            one_seed(seed, &log)?;
            seed = seed.wrapping_add(1);
        }
        let last = seed.wrapping_sub(1);
        say(format!("seeds {first} to {last}: nothing wrong"));
        let next = Instant::now() + turn;
        let mut played = first;
        while Instant::now() < next {
            one_schedule(played, &log)?;
            played = played.wrapping_add(1);
        }
        let last = played.wrapping_sub(1);
        say(format!("scheduler, seeds {first} to {last}: nothing wrong"));
        for target in &targets {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            fuzz::fuzz(&engine, target, turn.min(left), Some(seed as u32))?;
        }
    }
    say("soak: nothing wrong");
    Ok(())
}

fn properties() -> Command {
    let mut test = cargo();
    test.args(["test", "--quiet", "--package", "oxen-core"]);
    test.args(["--test", "properties"]);
    test
}

fn scheduling() -> Command {
    let mut test = cargo();
    test.args(["test", "--quiet", "--release", "--package", "oxen-core"]);
    test.args(["--test", "scheduling"]);
    test
}

/// Hours of load on one machine of nothing but time.
fn one_schedule(seed: u64, log: &Path) -> Result<()> {
    for name in SCHEDULING {
        let mut test = scheduling();
        test.arg(name);
        test.env("OXEN_SEED", seed.to_string());
        test.env("OXEN_MINUTES", PLAYED);
        run_logged(&mut test, log, LIMIT).with_context(|| {
            format!(
                "seed {seed} fails, see {}: OXEN_SEED={seed} OXEN_MINUTES={PLAYED} cargo test --release --package oxen-core --test scheduling {name}",
                log.display()
            )
        })?;
    }
    Ok(())
}

/// One random run of three domains.
fn one_seed(seed: u64, log: &Path) -> Result<()> {
    let mut test = properties();
    test.arg(TEST);
    test.env("OXEN_SEED", seed.to_string());
    test.env("OXEN_STEPS", STEPS);
    run_logged(&mut test, log, LIMIT).with_context(|| {
        format!(
            "seed {seed} fails, see {}: OXEN_SEED={seed} OXEN_STEPS={STEPS} cargo test --package oxen-core --test properties {TEST}",
            log.display()
        )
    })
}
