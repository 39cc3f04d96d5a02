//! Whatever happens in whatever order: each vCPU is in one place, and that is where its word says.

use proptest::prelude::*;

use super::world::{World, cpu, set, vcpu};
use super::*;

const CPUS: u32 = 3;
const VCPUS: u32 = 7;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Up(u32),
    Down(u32),
    Pause(u32),
    Unpause(u32),
    Wake(u32),
    /// The vCPU of this CPU goes to sleep; the CPU may ask only later.
    Block(u32),
    Ask(u32, Ask),
    /// What this CPU left is saved.
    Save(u32),
    Affinity(u32, u32, u32),
    Pin(u32, Option<u32>),
    Cap(u16),
    Weight(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let (v, c, m) = (0..VCPUS, 0..CPUS, 1_u32..1 << CPUS);
    prop_oneof![
        3 => v.clone().prop_map(Step::Up),
        1 => v.clone().prop_map(Step::Down),
        1 => v.clone().prop_map(Step::Pause),
        2 => v.clone().prop_map(Step::Unpause),
        4 => v.clone().prop_map(Step::Wake),
        3 => c.clone().prop_map(Step::Block),
        8 => c.clone().prop_map(|cpu| Step::Ask(cpu, Ask::Again)),
        2 => c.clone().prop_map(|cpu| Step::Ask(cpu, Ask::Yield)),
        8 => c.clone().prop_map(Step::Save),
        1 => (v.clone(), m.clone(), m).prop_map(|(v, hard, soft)| Step::Affinity(v, hard, soft)),
        1 => (v, prop::option::of(c)).prop_map(|(v, cpu)| Step::Pin(v, cpu)),
        1 => (0_u16..150).prop_map(Step::Cap),
        1 => (1_u16..).prop_map(Step::Weight),
    ]
}

/// CPUs that do what they are told, sooner or later.
struct Play {
    world: World,
    running: Vec<Option<VcpuIndex>>,
    leaving: Vec<Option<VcpuIndex>>,
}

impl Play {
    fn happen(&mut self, step: Step, now: u64) -> Result<(), Error> {
        let scheduler = self.world.scheduler();
        match step {
            Step::Up(index) => {
                scheduler.up(vcpu(index), now)?;
            }
            Step::Down(index) => {
                scheduler.down(vcpu(index), now)?;
            }
            Step::Pause(index) => {
                scheduler.pause(vcpu(index), now)?;
            }
            Step::Unpause(index) => {
                scheduler.unpause(vcpu(index), now)?;
            }
            Step::Wake(index) => {
                scheduler.wake(vcpu(index), now)?;
            }
            Step::Block(id) => {
                if let Some(running) = self.running[id as usize] {
                    scheduler.block(running)?;
                }
            }
            // A CPU saves before it asks again.
            Step::Ask(id, ask) if self.leaving[id as usize].is_none() => {
                let before = self.running[id as usize];
                let goes_on = match ask {
                    Ask::Again => scheduler.goes_on(cpu(id), now),
                    Ask::Yield => None,
                };
                let decision = scheduler.pick(cpu(id), ask, now)?;
                if let Some(next_event) = goes_on {
                    assert!(before.is_some());
                    assert_eq!((decision.run, decision.leave), (before, None));
                    assert_eq!(decision.next_event, next_event);
                }
                if decision.leave.is_some() {
                    assert_eq!(decision.leave, before);
                } else {
                    assert!(before.is_none() || decision.run == before);
                }
                if let Some(run) = decision.run {
                    let info = scheduler.info(run, now)?;
                    assert!(
                        info.is_runnable && info.allowed.contains(cpu(id)),
                        "{info:?}"
                    );
                }
                assert!(decision.next_event.is_none_or(|time| time >= now));
                assert!(!decision.kicks.contains(cpu(id)));
                self.running[id as usize] = decision.run;
                self.leaving[id as usize] = decision.leave;
            }
            Step::Ask(..) => {}
            Step::Save(id) => {
                if let Some(left) = self.leaving[id as usize].take() {
                    scheduler.saved(left, now)?;
                }
            }
            Step::Affinity(index, hard, soft) => {
                let [hard, soft] = [hard, soft].map(mask);
                scheduler.set_affinity(vcpu(index), &hard, &soft, now)?;
            }
            Step::Pin(index, id) => {
                scheduler.set_pin_override(vcpu(index), id.map(cpu), now)?;
            }
            Step::Cap(cap) => {
                let params = self.world.domains[0].params();
                self.world.domains[0].set_params(params.updated(0, cap));
            }
            Step::Weight(weight) => {
                let params = self.world.domains[0].params();
                self.world.domains[0].set_params(params.updated(weight, u16::MAX));
            }
        }
        Ok(())
    }

    fn check(&self, now: u64) {
        let mut found = vec![0; VCPUS as usize];
        for id in 0..CPUS {
            let (waiting, running) = self.world.queue(id);
            assert_eq!(running, self.running[id as usize]);
            for index in waiting {
                found[index.get()] += 1;
                let info = self.world.scheduler().info(index, now).unwrap();
                assert_eq!(info.place, Place::Queued(cpu(id)));
                assert!(
                    info.is_runnable && info.allowed.contains(cpu(id)),
                    "{info:?}"
                );
            }
            for (list, place) in [
                (&self.running, Place::Running(cpu(id))),
                (&self.leaving, Place::Leaving(cpu(id))),
            ] {
                if let Some(index) = list[id as usize] {
                    found[index.get()] += 1;
                    assert_eq!(
                        self.world.scheduler().info(index, now).unwrap().place,
                        place
                    );
                }
            }
        }
        let mut runnable = 0;
        for index in 0..VCPUS {
            let info = self.world.scheduler().info(vcpu(index), now).unwrap();
            runnable += u32::from(info.is_runnable);
            let is_somewhere = info.place != Place::Off;
            assert_eq!(found[index as usize], u32::from(is_somewhere), "{info:?}");
            assert!(is_somewhere || !info.is_runnable, "{info:?}");
        }
        assert_eq!(self.world.runnable(), runnable);
    }
}

fn mask(bits: u32) -> CpuSet {
    let cpus: Vec<u32> = (0..CPUS).filter(|id| bits >> id & 1 != 0).collect();
    set(&cpus)
}

proptest! {
    #[test]
    fn each_vcpu_is_in_one_place(
        steps in prop::collection::vec((step(), 0_u64..3_000_000), 1..400),
    ) {
        let mut play = Play {
            world: World::new(CPUS, VCPUS),
            running: vec![None; CPUS as usize],
            leaving: vec![None; CPUS as usize],
        };
        let mut now = 0;
        for (step, pause) in steps {
            now += pause;
            match play.happen(step, now) {
                Ok(()) | Err(Error::Busy | Error::State) => {}
                Err(error) => prop_assert!(false, "{:?}: {:?}", step, error),
            }
            play.check(now);
        }
    }
}
