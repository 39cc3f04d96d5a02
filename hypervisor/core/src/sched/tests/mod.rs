//! Unit tests of the scheduler. What it makes of whole machines is in `tests/scheduling` of this crate.

mod cap;
mod cost;
mod random;
mod state;
mod tree;
mod world;

use super::*;
use world::{World, cpu, set, vcpu};

const MS: u64 = 1_000_000;

#[test]
fn a_vcpu_that_is_woken_goes_where_a_cpu_idles() {
    let world = World::new(2, 2);
    let scheduler = world.scheduler();
    let first = scheduler.up(vcpu(0), 0).unwrap();
    assert_eq!(first.iter().count(), 1);
    let second = scheduler.up(vcpu(1), 0).unwrap();
    assert_eq!(first.union(&second), set(&[0, 1]), "each has its own");
    let runs = [0, 1].map(|id| scheduler.pick(cpu(id), Ask::Again, 0).unwrap());
    assert!(
        runs.iter()
            .all(|decision| decision.run.is_some() && decision.next_event.is_none())
    );
    assert_ne!(runs[0].run, runs[1].run);
}

#[test]
fn who_left_a_cpu_is_nobodys_until_it_is_saved() {
    let world = World::new(2, 1);
    let scheduler = world.scheduler();
    world.run(0, 0);
    scheduler.block(vcpu(0)).unwrap();
    let decision = scheduler.pick(cpu(0), Ask::Again, MS).unwrap();
    assert_eq!((decision.run, decision.leave), (None, Some(vcpu(0))));
    assert_eq!(
        scheduler.wake(vcpu(0), MS).unwrap(),
        CpuSet::EMPTY,
        "it is not saved yet"
    );
    assert_eq!(scheduler.pick(cpu(1), Ask::Again, MS).unwrap().run, None);
    assert_eq!(
        scheduler.set_affinity(vcpu(0), &set(&[1]), &set(&[1]), MS),
        Err(Error::Busy)
    );
    let kicks = scheduler.saved(vcpu(0), MS).unwrap();
    assert_eq!(kicks.iter().count(), 1);
    let to = kicks.iter().next().unwrap();
    assert_eq!(
        scheduler.pick(to, Ask::Again, MS).unwrap().run,
        Some(vcpu(0))
    );
}

#[test]
fn a_wake_up_before_the_decision_keeps_the_vcpu_on_its_cpu() {
    let world = World::new(1, 1);
    let scheduler = world.scheduler();
    world.run(0, 0);
    scheduler.block(vcpu(0)).unwrap();
    scheduler.wake(vcpu(0), MS).unwrap();
    let decision = scheduler.pick(cpu(0), Ask::Again, MS).unwrap();
    assert_eq!((decision.run, decision.leave), (Some(vcpu(0)), None));
}

#[test]
fn who_is_paused_or_down_is_in_no_queue() {
    let world = World::new(1, 2);
    let scheduler = world.scheduler();
    world.run(0, 0);
    scheduler.up(vcpu(1), 0).unwrap();
    assert_eq!(
        scheduler.info(vcpu(1), 0).unwrap().place,
        Place::Queued(cpu(0))
    );
    assert_eq!(scheduler.pause(vcpu(1), 0).unwrap(), CpuSet::EMPTY);
    assert_eq!(scheduler.info(vcpu(1), 0).unwrap().place, Place::Off);
    assert_eq!(
        scheduler.pause(vcpu(0), 0).unwrap(),
        set(&[0]),
        "its CPU has to stop it"
    );
    let decision = scheduler.pick(cpu(0), Ask::Again, 0).unwrap();
    assert_eq!((decision.run, decision.leave), (None, Some(vcpu(0))));
    scheduler.saved(vcpu(0), 0).unwrap();
    scheduler.down(vcpu(1), 0).unwrap();
    assert_eq!(scheduler.unpause(vcpu(1), 0).unwrap(), CpuSet::EMPTY);
    assert_eq!(scheduler.unpause(vcpu(0), 0).unwrap(), set(&[0]));
    assert_eq!(
        scheduler.pick(cpu(0), Ask::Again, 0).unwrap().run,
        Some(vcpu(0))
    );
    assert_eq!(
        scheduler.unpause(vcpu(0), 0),
        Err(Error::State),
        "it is not paused"
    );
}

#[test]
fn a_record_is_given_once_and_taken_back_when_its_vcpu_is_down_and_off() {
    let world = World::new(1, 1);
    let scheduler = world.scheduler();
    let all = set(&[0]);
    assert_eq!(scheduler.attach(vcpu(0), 0, &all, &all), Err(Error::State));
    assert_eq!(scheduler.attach(vcpu(9), 0, &all, &all), Err(Error::NoSuch));
    world.run(0, 0);
    assert_eq!(scheduler.detach(vcpu(0)), Err(Error::State));
    scheduler.down(vcpu(0), 0).unwrap();
    assert_eq!(scheduler.detach(vcpu(0)), Err(Error::Busy));
    let _ = scheduler.pick(cpu(0), Ask::Again, MS).unwrap();
    assert_eq!(
        scheduler.detach(vcpu(0)),
        Err(Error::Busy),
        "it is not saved"
    );
    scheduler.saved(vcpu(0), MS).unwrap();
    scheduler.detach(vcpu(0)).unwrap();
    assert_eq!(scheduler.wake(vcpu(0), MS), Err(Error::NoSuch));
    assert_eq!(
        scheduler.attach(vcpu(0), 0, &set(&[5]), &all),
        Err(Error::NoCpu)
    );
    assert_eq!(scheduler.attach(vcpu(0), 7, &all, &all), Err(Error::NoSuch));
    scheduler.attach(vcpu(0), 0, &all, &all).unwrap();
    assert_eq!(scheduler.info(vcpu(0), MS).unwrap().ran, 0);
}

#[test]
fn affinity_that_leaves_no_cpu_is_refused_and_another_one_obeyed() {
    let world = World::new(2, 1);
    let scheduler = world.scheduler();
    world.run(0, 0);
    let at = scheduler.info(vcpu(0), 0).unwrap();
    assert_eq!(
        scheduler.set_affinity(vcpu(0), &set(&[7]), &set(&[7]), 0),
        Err(Error::NoCpu)
    );
    assert_eq!(
        scheduler.set_pin_override(vcpu(0), Some(cpu(7)), 0),
        Err(Error::NoCpu)
    );
    assert_eq!(scheduler.info(vcpu(0), 0).unwrap(), at);
    assert_eq!(
        scheduler
            .set_pin_override(vcpu(0), Some(cpu(1)), 0)
            .unwrap(),
        set(&[0])
    );
    let decision = scheduler.pick(cpu(0), Ask::Again, 0).unwrap();
    assert_eq!((decision.run, decision.leave), (None, Some(vcpu(0))));
    assert_eq!(scheduler.saved(vcpu(0), 0).unwrap(), set(&[1]));
    assert_eq!(
        scheduler.pick(cpu(1), Ask::Again, 0).unwrap().run,
        Some(vcpu(0))
    );
    scheduler.set_pin_override(vcpu(0), None, 0).unwrap();
    assert_eq!(scheduler.info(vcpu(0), 0).unwrap().allowed, set(&[0, 1]));
}

#[test]
fn a_cpu_that_comes_up_takes_what_waits() {
    let world = World::up_to(2, 1, 3);
    let scheduler = world.scheduler();
    for index in 0..3 {
        scheduler.up(vcpu(index), 0).unwrap();
    }
    let runs = scheduler.pick(cpu(0), Ask::Again, 0).unwrap().run;
    scheduler.cpu_up(cpu(1)).unwrap();
    let taken = scheduler.pick(cpu(1), Ask::Again, 0).unwrap().run;
    assert!(taken.is_some() && taken != runs);
    assert_eq!(scheduler.cpu_up(cpu(2)), Err(Error::NoSuch));
}

#[test]
fn a_domain_runs_for_its_cap_and_then_not_before_the_next_period() {
    let world = World::new(1, 1);
    let scheduler = world.scheduler();
    world.domains[0].set_params(DomainParams {
        weight: Weight::DEFAULT,
        cap: 30,
    });
    let mut now = 50 * MS;
    scheduler.up(vcpu(0), now).unwrap();
    let (mut ran, mut last) = (0, None);
    while now < 250 * MS {
        let decision = scheduler.pick(cpu(0), Ask::Again, now).unwrap();
        if let Some(left) = decision.leave {
            scheduler.saved(left, now).unwrap();
        }
        let next = decision.next_event.unwrap_or_else(|| {
            scheduler
                .pick(cpu(0), Ask::Again, now)
                .unwrap()
                .next_event
                .unwrap()
        });
        ran += if decision.run.is_some() {
            next - now
        } else {
            0
        };
        last = Some((now, next));
        now = next.max(now);
    }
    let allowed = 200 * MS * 30 / 100;
    assert!(
        ran >= allowed && ran <= allowed + 2 * 3 * MS,
        "{ran} {last:?}"
    );
}

#[test]
fn parameters_are_those_of_the_interface() {
    let of = DomainParams::DEFAULT;
    assert_eq!((of.weight.get(), of.cap), (256, 0));
    let set = of.updated(0, 50);
    assert_eq!((set.weight.get(), set.cap), (256, 50));
    let set = set.updated(65535, u16::MAX);
    assert_eq!((set.weight.get(), set.cap), (65535, 50));
    assert_eq!(Weight::new(0), None);
    for (microseconds, is_fine) in [
        (0, true),
        (99, false),
        (100, true),
        (500_000, true),
        (500_001, false),
    ] {
        assert_eq!(
            RateLimit::new(microseconds).is_ok(),
            is_fine,
            "{microseconds}"
        );
    }
}

#[test]
fn records_are_as_small_as_the_documentation_says() {
    assert!(size_of::<VcpuRecord>() <= 192 && size_of::<DomainRecord>() <= 16);
    assert!(size_of::<CpuRecord>() <= 256, "{}", size_of::<CpuRecord>());
}
