//! Mixed load on a machine, out of a seed, and what has to be true of it.

use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;
use oxen_core::sched::{DomainParams, LAG, MEMORY, SLICE, Weight};

use crate::load::Load;
use crate::machine::{INTERRUPT, Machine, SAVE};
use crate::rng::Rng;

const SECOND: u64 = 1_000_000_000;

/// No runnable vCPU waits longer than this beside an idle CPU: two interrupts, and what it takes to save a vCPU.
pub const BESIDE_IDLE: u64 = 2 * INTERRUPT + SAVE;

/// What is played.
pub struct Scenario {
    pub cpus: u32,
    pub domains: Vec<DomainParams>,
    /// Domain, load, hard and soft affinity.
    pub vcpus: Vec<(usize, Load, CpuSet, CpuSet)>,
}

pub fn set(cpus: impl IntoIterator<Item = u32>) -> CpuSet {
    cpus.into_iter().map(CpuId::new).collect()
}

pub fn params(weight: u16, cap: u16) -> DomainParams {
    DomainParams {
        weight: Weight::new(weight).unwrap(),
        cap,
    }
}

impl Scenario {
    /// Some domains with all kinds of load on one to eight CPUs. Groups of CPUs are apart from each other; in each, hogs may run
    /// on all of them, and others where it pleases.
    pub fn mixed(rng: &mut Rng) -> Self {
        let cpus = rng.within(1, 8) as u32;
        let groups = rng.within(1, u64::from(cpus.min(3))) as u32;
        let all: Vec<CpuSet> = (0..groups)
            .map(|group| set((0..cpus).filter(|cpu| cpu % groups == group)))
            .collect();
        let mut scenario = Self {
            cpus,
            domains: Vec::new(),
            vcpus: Vec::new(),
        };
        for domain in 0..rng.within(2, 10) as usize {
            let group = all[rng.below(groups.into()) as usize];
            let size = group.iter().count() as u64;
            let weight = [64, 128, 256, 256, 256, 512, 1024, rng.within(16, 4096)];
            let is_capped = rng.one_in(4);
            let cap = if is_capped {
                rng.within(5, 100 * size)
            } else {
                0
            };
            let weight = weight[rng.below(8) as usize] as u16;
            scenario.domains.push(params(weight, cap as u16));
            for _ in 0..rng.within(1, 6) {
                let (load, hard) = match rng.below(2) {
                    0 => (Load::Hog, group),
                    _ => (Load::any(rng), some(&group, rng)),
                };
                let soft = if load == Load::Hog {
                    hard
                } else {
                    some(&group, rng)
                };
                scenario.vcpus.push((domain, load, hard, soft));
            }
        }
        scenario
    }

    /// Plays it for so many seconds and says what was wrong.
    pub fn play(self, seconds: u64, rng: Rng) -> Result<Machine, String> {
        let mut machine = Machine::new(self.cpus, &self.domains, self.vcpus, rng);
        machine.start();
        machine.run(5 * SECOND);
        machine.begin_to_measure();
        machine.run(seconds * SECOND);
        fairness(&machine, &self.domains)?;
        caps(&machine, &self.domains, self.cpus, seconds * SECOND)?;
        latency(&machine, &self.domains)?;
        if machine.longest_beside_idle > BESIDE_IDLE {
            return Err(format!(
                "waited for {} ns beside an idle CPU",
                machine.longest_beside_idle
            ));
        }
        Ok(machine)
    }
}

/// Some of these CPUs, one at least.
fn some(of: &CpuSet, rng: &mut Rng) -> CpuSet {
    let some: CpuSet = of.iter().filter(|_| rng.one_in(2)).collect();
    if some.is_empty() { *of } else { some }
}

/// Hogs with the same affinity have had the CPUs by their weights, within 2 %. Nobody has more than a CPU.
fn fairness(machine: &Machine, domains: &[DomainParams]) -> Result<(), String> {
    let is_hog = |vcpu: &&crate::machine::Vcpu| {
        !matches!(
            vcpu.load,
            Load::Sleeper(..) | Load::Periodic(..) | Load::Bursts(_)
        ) && domains[vcpu.domain].cap == 0
    };
    for first in machine.vcpus.iter().filter(is_hog) {
        let group: Vec<(f64, f64)> = machine
            .vcpus
            .iter()
            .filter(is_hog)
            .filter(|vcpu| vcpu.hard == first.hard)
            .map(|vcpu| {
                (
                    f64::from(domains[vcpu.domain].weight.get()),
                    vcpu.ran as f64,
                )
            })
            .collect();
        let time: f64 = group.iter().map(|vcpu| vcpu.1).sum();
        let weight: f64 = group.iter().map(|vcpu| vcpu.0).sum();
        let size = first.hard.iter().count() as f64;
        // Who might have a CPU alone for some of the time says nothing about shares.
        if group.iter().any(|vcpu| vcpu.0 / weight * size > 0.9) {
            continue;
        }
        for &(own, had) in &group {
            let fair = time * own / weight;
            if (had - fair).abs() > 0.02 * fair {
                return Err(format!(
                    "hog of weight {own} had {:.2} % of its share: {group:?}",
                    had / fair * 100.0
                ));
            }
        }
    }
    Ok(())
}

/// No domain has more than its cap by 2 %; one that always wants more, and would have it by weight, has no less either.
fn caps(machine: &Machine, domains: &[DomainParams], cpus: u32, time: u64) -> Result<(), String> {
    let weight = |vcpu: &crate::machine::Vcpu| f64::from(domains[vcpu.domain].weight.get());
    for (index, domain) in domains
        .iter()
        .enumerate()
        .filter(|(_, domain)| domain.cap != 0)
    {
        let own = || {
            machine
                .vcpus
                .iter()
                .filter(move |vcpu| vcpu.domain == index)
        };
        let had = own().map(|vcpu| vcpu.ran).sum::<u64>() as f64 / time as f64 * 100.0;
        let cap = f64::from(domain.cap);
        if had > cap * 1.02 {
            return Err(format!("a domain with cap {cap} had {had:.2} %"));
        }
        let hogs = || own().filter(|vcpu| vcpu.load == Load::Hog);
        // What it would have if everybody were a hog, and all CPUs of its were everybody's.
        let share: f64 = hogs()
            .map(|hog| {
                let rivals = machine
                    .vcpus
                    .iter()
                    .filter(|other| !other.hard.intersection(&hog.hard).is_empty());
                let size = hog.hard.iter().count().min(cpus as usize) as f64;
                (weight(hog) / rivals.map(weight).sum::<f64>() * size * 100.0).min(100.0)
            })
            .sum();
        if share > 1.5 * cap && had < cap * 0.98 {
            return Err(format!(
                "a domain with cap {cap} had {had:.2} %, and might have had {share:.0} %"
            ));
        }
    }
    Ok(())
}

/// Nobody waits longer than the stated bound.
fn latency(machine: &Machine, domains: &[DomainParams]) -> Result<(), String> {
    let weight = |vcpu: &crate::machine::Vcpu| u64::from(domains[vcpu.domain].weight.get());
    for vcpu in &machine.vcpus {
        let rivals = machine
            .vcpus
            .iter()
            .filter(|other| !other.hard.intersection(&vcpu.hard).is_empty());
        let bound = latency_bound(weight(vcpu), rivals.map(weight));
        if vcpu.longest > bound {
            return Err(format!(
                "{:?} of weight {} waited for {} us, the bound is {} us",
                vcpu.load,
                weight(vcpu),
                vcpu.longest / 1000,
                bound / 1000
            ));
        }
    }
    Ok(())
}

/// How long a vCPU of this weight waits at most that shares CPUs with others, of these weights together with it.
pub fn latency_bound(own: u64, all: impl Iterator<Item = u64>) -> u64 {
    let default = u64::from(Weight::DEFAULT.get());
    all.map(|other| {
        SLICE + LAG + MEMORY * other / own.min(default) + MEMORY * other.max(default) / default
    })
    .sum()
}
