//! Everything that can be changed is changed, at any moment, and what always holds is looked at.

use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;
use oxen_core::sched::{Ask, Error};

use crate::load::Load;
use crate::machine::{Machine, at};
use crate::rng::Rng;
use crate::scenario::{BESIDE_IDLE, params, set};

const MS: u64 = 1_000_000;

/// Plays it for so many seconds and says what was wrong. That nobody runs who must not, or on two CPUs, or where he must not,
/// the machine sees to.
pub fn play(seed: u64, seconds: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let cpus = rng.within(1, 6) as u32;
    let domains = vec![params(256, 0); 4];
    let vcpus = (0..rng.within(1, 24))
        .map(|_| {
            let load = if rng.one_in(3) {
                Load::Hog
            } else {
                Load::any(&mut rng)
            };
            (
                rng.below(4) as usize,
                load,
                some(cpus, &mut rng),
                some(cpus, &mut rng),
            )
        })
        .collect();
    let mut machine = Machine::new(cpus, &domains, vcpus, rng);
    machine.start();
    let (mut calls, mut refused, mut pauses) = (0, 0, vec![0_u32; machine.vcpus.len()]);
    let end = machine.now + seconds * 1000 * MS;
    while machine.now < end {
        let pause = machine.rng.within(1_000, 20 * MS);
        machine.run(pause);
        let (vcpu, now) = (
            machine.rng.below(machine.vcpus.len() as u64) as usize,
            machine.now,
        );
        let what = machine.rng.below(8);
        let (hard, soft) = (some(cpus, &mut machine.rng), some(cpus, &mut machine.rng));
        let scheduler = machine.scheduler();
        let result = match what {
            0 if pauses[vcpu] < 3 => {
                pauses[vcpu] += 1;
                scheduler.pause(at(vcpu), now)
            }
            1..=3 if pauses[vcpu] > 0 => {
                pauses[vcpu] -= 1;
                scheduler.unpause(at(vcpu), now)
            }
            4 => scheduler.down(at(vcpu), now),
            5 | 6 if machine.info(vcpu).is_down => scheduler.up(at(vcpu), now),
            6 => scheduler.set_pin_override(
                at(vcpu),
                hard.iter().next().filter(|_| now % 2 == 0),
                now,
            ),
            7 => scheduler.set_affinity(at(vcpu), &hard, &soft, now),
            _ => Ok(CpuSet::EMPTY),
        };
        calls += 1;
        match result {
            Ok(kicks) => {
                machine.allow(vcpu);
                machine.moved(vcpu);
                // Those that it interrupts ask at once: the machine's interrupts would let a vCPU run on where it must not.
                for cpu in kicks.iter() {
                    machine.decide(cpu.get() as usize, Ask::Again);
                }
            }
            Err(Error::Busy) => refused += 1,
            Err(error) => return Err(format!("{error:?}")),
        }
        if machine.longest_beside_idle > BESIDE_IDLE {
            return Err(format!(
                "waited for {} ns beside an idle CPU",
                machine.longest_beside_idle
            ));
        }
        for (vcpu, &pauses) in pauses.iter().enumerate() {
            look_at(&machine, vcpu, pauses)?;
        }
    }
    if refused * 20 > calls {
        return Err(format!("{refused} of {calls} were refused"));
    }
    Ok(())
}

/// What the scheduler says of a vCPU is what the machine does.
fn look_at(machine: &Machine, vcpu: usize, pauses: u32) -> Result<(), String> {
    use oxen_core::sched::Place;
    let info = machine.info(vcpu);
    let is_fine = u32::from(info.pauses) == pauses
        && info.is_runnable != (info.is_blocked || info.is_down || info.pauses > 0)
        && match info.place {
            Place::Off => !info.is_runnable,
            Place::Queued(cpu) => info.is_runnable && info.allowed.contains(cpu),
            Place::Running(cpu) => info.is_runnable && machine.is_running(vcpu, cpu.get()),
            Place::Leaving(_) => true,
            Place::Moving => false,
        };
    if is_fine {
        Ok(())
    } else {
        Err(format!("{vcpu}: {info:?}"))
    }
}

/// Some CPUs, one at least.
fn some(cpus: u32, rng: &mut Rng) -> CpuSet {
    let mut some = set((0..cpus).filter(|_| rng.one_in(2)));
    some.insert(CpuId::new(rng.below(cpus.into()) as u32));
    some
}
