//! The whole hypervisor on a model machine, under everything that guests can do: invariants I1 to I13 and I19 to I23.
//!
//! `OXEN_SEED` replays the run of one seed, of `OXEN_STEPS` steps; with `OXEN_SECONDS`, that and the seeds behind it for so
//! long.

mod books;
mod invariants;
mod ops;
mod parallel;
mod random;
mod rng;
mod world;

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    })
}

/// All of I1 to I11 at once, behind random operations of three domains.
#[test]
fn i01_to_i11_hold_behind_random_operations() {
    let steps = number("OXEN_STEPS").unwrap_or(1500);
    let first = number("OXEN_SEED");
    let least = if first.is_some() { 1 } else { 8 };
    // One seed alone, unless there is time for more.
    let default = if first.is_some() { 0 } else { 8 };
    let seconds = Duration::from_secs(number("OXEN_SECONDS").unwrap_or(default));
    let begin = Instant::now();
    let mut total = random::Counts::default();
    for (done, seed) in (first.unwrap_or(0)..).enumerate() {
        if done >= least && begin.elapsed() >= seconds {
            break;
        }
        let run = catch_unwind(|| random::run_seed(seed, steps));
        match run {
            Ok(Ok(counts)) => total.add(&counts),
            Ok(Err(text)) => panic!("OXEN_SEED={seed} OXEN_STEPS={steps}: {text}"),
            Err(_) => panic!("OXEN_SEED={seed} OXEN_STEPS={steps}: see above"),
        }
    }
    // The run is worth something.
    println!("{total:?}");
    assert!(total.calls > total.steps / 2 && total.succeeded > total.calls / 3);
    assert!(total.refused > 0 && total.writes > 0);
}
