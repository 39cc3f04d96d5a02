//! The whole hypervisor on a model machine, under everything that guests can do: invariants I1 to I13.
//!
//! `OXEN_SEED` replays the run of one seed; `OXEN_STEPS` says how long.

mod invariants;
mod ops;
mod random;
mod rng;
mod world;

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
    if let Some(seed) = number("OXEN_SEED") {
        let counts = random::run_seed(seed, steps).unwrap_or_else(|text| panic!("{text}"));
        println!("{counts:?}");
        return;
    }
    let begin = Instant::now();
    let mut seed = 0;
    while seed < 8 || begin.elapsed() < Duration::from_secs(8) {
        if let Err(text) = random::run_seed(seed, steps) {
            panic!("OXEN_SEED={seed} OXEN_STEPS={steps}: {text}");
        }
        seed += 1;
    }
}
