//! What an operation costs does not grow with the number of vCPUs: steps are counted, not time.

use super::super::steps::count;
use super::world::{World, cpu, set, vcpu};
use super::*;

/// The most steps that each kind of operation takes while so many vCPUs are ready on two CPUs, all but one of them pinned to the
/// first.
fn steps(vcpus: u32) -> [u64; 4] {
    let world = World::new(2, vcpus);
    let scheduler = world.scheduler();
    for index in 1..vcpus {
        scheduler
            .set_affinity(vcpu(index), &set(&[0]), &set(&[0]), 0)
            .unwrap();
    }
    for index in 0..vcpus {
        scheduler.up(vcpu(index), 0).unwrap();
    }
    let mut most = [0; 4];
    let mut note = |kind: usize, what: &mut dyn FnMut()| most[kind] = count(what).max(most[kind]);
    let mut now = 0;
    for _ in 0..2 * vcpus {
        now += 2 * MS;
        let mut decision = None;
        note(0, &mut || {
            decision = scheduler.pick(cpu(0), Ask::Yield, now).ok()
        });
        if let Some(left) = decision.unwrap().leave {
            note(1, &mut || assert!(scheduler.saved(left, now).is_ok()));
        }
        let running = decision.unwrap().run.unwrap();
        now += MS;
        note(2, &mut || scheduler.block(running).unwrap());
        let decision = scheduler.pick(cpu(0), Ask::Again, now).unwrap();
        scheduler.saved(decision.leave.unwrap(), now).unwrap();
        note(2, &mut || assert!(scheduler.wake(running, now).is_ok()));
        note(3, &mut || {
            assert!(scheduler.pick(cpu(1), Ask::Again, now).is_ok())
        });
        assert!(scheduler.pick(cpu(0), Ask::Again, now).is_ok());
    }
    most
}

#[test]
fn a_thousand_vcpus_cost_a_few_steps_of_a_tree_more_than_two() {
    let (few, many) = (steps(2), steps(1000));
    // Ways into a tree that is 14 high at most; a decision makes several.
    for (few, many) in few.into_iter().zip(many) {
        assert!(many <= few + 10 * 14, "{few} {many}");
    }
    let more = steps(4000);
    for (many, more) in many.into_iter().zip(more) {
        assert!(more <= many + 10 * 3, "{many} {more}");
    }
}
