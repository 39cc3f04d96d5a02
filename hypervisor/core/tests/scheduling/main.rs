//! The scheduler plays hours of load in seconds: fairness, caps, and the bounds on waiting.
//!
//! `OXEN_SEED` replays the run of one seed, of `OXEN_MINUTES` minutes of the machine's time.

mod chaos;
mod load;
mod machine;
mod rng;
mod scenario;

use load::Load;
use machine::INTERRUPT;
use oxen_core::sched::{DomainParams, SLICE};
use rng::Rng;
use scenario::{Scenario, params, set};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// The seeds to be played, and for how many minutes each.
fn seeds(all: usize, minutes: u64) -> (std::iter::Take<std::ops::RangeFrom<u64>>, u64) {
    let first = number("OXEN_SEED");
    let seeds = if first.is_some() { 1 } else { all };
    let minutes = number("OXEN_MINUTES").unwrap_or(minutes);
    ((first.unwrap_or(0)..).take(seeds), minutes)
}

/// Domains with all kinds of load, weights, caps and affinities.
#[test]
fn mixed_load_is_fair_and_capped_and_nobody_waits_long() {
    let (seeds, minutes) = seeds(8, 5);
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let scenario = Scenario::mixed(&mut rng);
        if let Err(text) = scenario.play(minutes * 60, rng) {
            panic!("OXEN_SEED={seed} OXEN_MINUTES={minutes}: {text}");
        }
    }
}

/// The same with an administrator who changes everything all the time: then only what always holds is asked for.
#[test]
fn whatever_is_changed_affinity_is_obeyed_and_nobody_waits_beside_an_idle_cpu() {
    let (seeds, minutes) = seeds(12, 1);
    for seed in seeds {
        if let Err(text) = chaos::play(seed, minutes * 60) {
            panic!("OXEN_SEED={seed} OXEN_MINUTES={minutes}: {text}");
        }
    }
}

/// More hogs than CPUs, and no multiple of them: each has the same.
#[test]
fn hogs_share_several_cpus_as_if_they_were_one() {
    for (cpus, hogs) in [(2, 3), (4, 5), (4, 7), (3, 32), (8, 9)] {
        let all = set(0..cpus);
        let scenario = Scenario {
            cpus,
            domains: vec![DomainParams::DEFAULT],
            vcpus: (0..hogs).map(|_| (0, Load::Hog, all, all)).collect(),
        };
        let machine = scenario.play(60, Rng::new(1)).unwrap();
        let fair = 60_000 * MS * u64::from(cpus) / hogs;
        for vcpu in &machine.vcpus {
            assert!(
                vcpu.ran.abs_diff(fair) < fair / 50,
                "{cpus} {hogs} {}",
                vcpu.ran
            );
            // Its turn comes soon, too: far below what is promised for any load.
            assert!(vcpu.longest < 4 * SLICE, "{}", vcpu.longest);
        }
    }
}

/// One that wakes now and then among hogs has its CPU as soon as the rate limit lets it.
#[test]
fn who_sleeps_most_of_the_time_runs_at_once() {
    for weight in [64, 256, 1024] {
        let all = set(0..2);
        let mut vcpus = vec![(0, Load::Hog, all, all); 8];
        vcpus.push((1, Load::Sleeper(200 * US, 20 * MS), all, all));
        let domains = vec![params(256, 0), params(weight, 0)];
        let scenario = Scenario {
            cpus: 2,
            domains,
            vcpus,
        };
        let machine = scenario.play(60, Rng::new(7)).unwrap();
        let longest = machine.vcpus[8].longest_awoken;
        assert!(longest <= MS + 2 * INTERRUPT, "weight {weight}: {longest}");
    }
}

/// One that yields all the time leaves the CPU to those that do not, and is not forgotten.
#[test]
fn who_yields_lets_others_go_first() {
    let one = set([0]);
    let vcpus = vec![
        (0, Load::Yielder(100 * US), one, one),
        (0, Load::Hog, one, one),
    ];
    let domains = vec![DomainParams::DEFAULT];
    let scenario = Scenario {
        cpus: 1,
        domains,
        vcpus,
    };
    let mut machine = machine::Machine::new(1, &scenario.domains, scenario.vcpus, Rng::new(3));
    machine.start();
    machine.run(10_000 * MS);
    let (yields, works) = (machine.vcpus[0].ran, machine.vcpus[1].ran);
    assert!(yields * 10 < works && yields > 10 * MS, "{yields} {works}");
    assert!(machine.vcpus[0].longest <= SLICE + MS);
}

/// A soft affinity costs nobody a CPU, and is where a vCPU runs when it can.
#[test]
fn soft_affinity_is_where_a_vcpu_runs_when_there_is_room() {
    let (all, one) = (set(0..2), set([1]));
    let vcpus = vec![
        (0, Load::Hog, all, one),
        (0, Load::Bursts(50 * MS), one, one),
    ];
    let mut machine = machine::Machine::new(2, &[DomainParams::DEFAULT], vcpus, Rng::new(3));
    machine.start();
    let (mut at_home, mut looks) = (0, 0);
    let (mut idle, hog) = (0, 0);
    for _ in 0..20_000 {
        machine.run(MS);
        let burst_sleeps = machine.info(1).is_blocked;
        let is_at_home = machine.is_running(hog, 1);
        looks += u32::from(burst_sleeps);
        at_home += u32::from(burst_sleeps && is_at_home);
        idle += u32::from(!is_at_home && !machine.is_running(hog, 0));
    }
    assert!(
        looks > 1000 && at_home * 10 > looks * 7,
        "{at_home} of {looks}"
    );
    // It is on the way now and then.
    assert!(idle < 20, "{idle}");
}

/// With nothing to do nobody asks for anything, and one that is alone is not interrupted.
#[test]
fn there_is_no_tick() {
    let all = set(0..4);
    let vcpus = vec![(0, Load::Hog, all, all); 3];
    let mut machine = machine::Machine::new(4, &[DomainParams::DEFAULT], vcpus, Rng::new(3));
    machine.start();
    machine.run(1000 * MS);
    let before = machine.decisions();
    machine.run(1_000_000 * MS);
    assert_eq!(machine.decisions(), before);
}
