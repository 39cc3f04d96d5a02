//! Plays the random runs of `tests/properties` for as long as wanted: `soak SECONDS [SEED [STEPS]]`. Each run takes the next
//! seed. The first that finds something is shown, with the seed, and the process fails.
#![forbid(unsafe_code)]

#[path = "../tests/properties/ops.rs"]
#[allow(dead_code)]
mod ops;
#[path = "../tests/properties/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "../tests/properties/rng.rs"]
#[allow(dead_code)]
mod rng;
#[path = "../tests/properties/world.rs"]
#[allow(dead_code)]
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| numbers.next().map_or(Ok(default), |number| number);
    let (Ok(seconds), Ok(first), Ok(steps)) = (next(60), next(0), next(20_000)) else {
        eprintln!("usage: soak SECONDS [SEED [STEPS]]");
        return ExitCode::from(2);
    };
    let begin = Instant::now();
    let mut total = random::Counts::default();
    let mut seed = first;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let run = std::panic::catch_unwind(|| random::run_seed(seed, steps));
        match run {
            Ok(Ok(counts)) => total.add(&counts),
            Ok(Err(text)) => {
                eprintln!("seed {seed}, {steps} steps: {text}");
                return ExitCode::FAILURE;
            }
            Err(_) => {
                eprintln!("seed {seed}, {steps} steps: a panic");
                return ExitCode::FAILURE;
            }
        }
        seed = seed.wrapping_add(1);
    }
    println!("seeds {first} to {}: {total:?}", seed.wrapping_sub(1));
    ExitCode::SUCCESS
}
