//! The scheduler, called by several CPUs at once: nobody is run twice, nobody is forgotten.
#![forbid(unsafe_code)]

use interleavings::boot::CpuId;
use interleavings::sched::{
    Ask, CpuRecord, Decision, DomainRecord, Place, Scheduler, Shared, VcpuIndex, VcpuRecord,
};
use interleavings::sync::atomic::{AtomicBool, Ordering, fence};
use interleavings::tlb::CpuSet;
use loom::sync::Arc;
use loom::thread;

const NOW: u64 = 5_000_000;

struct Host {
    shared: Shared,
    cpus: Vec<CpuRecord>,
    vcpus: Vec<VcpuRecord>,
    domains: Vec<DomainRecord>,
    event: AtomicBool,
}

fn cpu(id: u32) -> CpuId {
    CpuId::new(id)
}

fn vcpu(index: u32) -> VcpuIndex {
    VcpuIndex::new(index)
}

fn all() -> CpuSet {
    [0, 1].map(cpu).into_iter().collect()
}

impl Host {
    /// Two CPUs, of which so many are up, and these vCPUs up; the first runs on CPU 0 and the others wait there.
    fn new(up: u32, vcpus: u32) -> Arc<Self> {
        let host = Self {
            shared: Shared::new(),
            cpus: [0, 1].map(|id| CpuRecord::new(cpu(id))).into(),
            vcpus: (0..vcpus).map(|_| VcpuRecord::new()).collect(),
            domains: vec![DomainRecord::new()],
            event: AtomicBool::new(false),
        };
        host.sched().cpu_up(cpu(0)).unwrap();
        for index in 0..vcpus {
            let sched = host.sched();
            sched.attach(vcpu(index), 0, &all(), &all()).unwrap();
            sched.up(vcpu(index), 0).unwrap();
            assert_eq!(host.decide(0, Ask::Again, 0).run, Some(vcpu(0)));
        }
        if up > 1 {
            host.sched().cpu_up(cpu(1)).unwrap();
        }
        Arc::new(host)
    }

    fn sched(&self) -> Scheduler<'_> {
        Scheduler::new(&self.shared, &self.cpus, &self.vcpus, &self.domains)
    }

    /// A CPU asks, and saves what it leaves; `kicks` are those of both.
    fn decide(&self, id: u32, ask: Ask, now: u64) -> Decision {
        let mut decision = self.sched().pick(cpu(id), ask, now).unwrap();
        if let Some(left) = decision.leave {
            let kicks = self.sched().saved(left, now).unwrap();
            decision.kicks = decision.kicks.union(&kicks);
        }
        decision
    }

    /// All that was interrupted asks, until nobody is any more. Then each vCPU that is runnable runs, if there are CPUs enough, and no
    /// two on the same.
    fn settle(&self, mut kicks: CpuSet) {
        for _ in 0..8 {
            let Some(next) = kicks.iter().next() else {
                break;
            };
            kicks.remove(next);
            kicks = kicks.union(&self.decide(next.get(), Ask::Again, NOW).kicks);
        }
        assert!(kicks.is_empty());
        let mut busy = CpuSet::EMPTY;
        let mut waits = false;
        for index in 0..self.vcpus.len() as u32 {
            let info = self.sched().info(vcpu(index), NOW).unwrap();
            match info.place {
                Place::Running(cpu) => {
                    assert!(info.is_runnable && !busy.contains(cpu));
                    busy.insert(cpu);
                }
                Place::Queued(_) => {
                    assert!(info.is_runnable);
                    waits = true;
                }
                place => assert!(place == Place::Off && !info.is_runnable, "{info:?}"),
            }
        }
        assert!(
            !waits || busy.iter().count() == 2,
            "somebody waits beside an idle CPU"
        );
    }
}

/// Tries the orders in which these two go.
fn race(
    up: u32,
    vcpus: u32,
    preemptions: usize,
    one: fn(&Host) -> CpuSet,
    other: fn(&Host) -> CpuSet,
    end: fn(&Host),
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        let host = Host::new(up, vcpus);
        let there = host.clone();
        let thread = thread::spawn(move || other(&there));
        let kicks = one(&host);
        let kicks = kicks.union(&thread.join().unwrap());
        end(&host);
        host.settle(kicks);
    });
}

/// What a CPU does whose vCPU wants to sleep until the event.
fn sleep(host: &Host) -> CpuSet {
    host.sched().block(vcpu(0)).unwrap();
    if host.event.load(Ordering::Relaxed) {
        host.sched().wake(vcpu(0), NOW).unwrap();
    }
    host.decide(0, Ask::Again, NOW).kicks
}

/// What somebody does who wakes it. A locked operation of the hardware is a fence, those of the checker are not.
fn wake(host: &Host) -> CpuSet {
    host.event.store(true, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    host.sched().wake(vcpu(0), NOW).unwrap()
}

#[test]
fn a_wake_up_is_not_lost_on_one_that_goes_to_sleep() {
    race(1, 1, 2, sleep, wake, |host| {
        assert!(host.sched().info(vcpu(0), NOW).unwrap().is_runnable);
    });
}

#[test]
fn one_that_waits_is_run_by_one_cpu() {
    let yields = |host: &Host| host.decide(0, Ask::Yield, NOW).kicks;
    let idles = |host: &Host| host.decide(1, Ask::Again, NOW).kicks;
    race(2, 2, 2, yields, idles, |_| ());
}

#[test]
fn one_that_comes_and_a_cpu_that_begins_to_idle_see_each_other() {
    // At a time at which the CPU where it waits has no reason to ask again.
    let comes = |host: &Host| {
        host.sched().pause(vcpu(1), 0).unwrap();
        let kicks = host.sched().unpause(vcpu(1), 0).unwrap();
        assert!(!kicks.contains(cpu(0)));
        kicks
    };
    let idles = |host: &Host| host.decide(1, Ask::Again, 0).kicks;
    race(2, 2, 2, comes, idles, |_| ());
}

#[test]
fn one_that_is_paused_while_a_cpu_takes_it_does_not_run() {
    let pause = |host: &Host| host.sched().pause(vcpu(1), NOW).unwrap();
    let idles = |host: &Host| host.decide(1, Ask::Again, NOW).kicks;
    race(2, 2, 2, pause, idles, |_| ());
}

#[test]
fn affinity_is_obeyed_by_a_cpu_that_takes_at_the_same_time() {
    let bind = |host: &Host| {
        let one = CpuSet::one(cpu(0));
        host.sched()
            .set_affinity(vcpu(1), &one, &one, NOW)
            .unwrap_or(CpuSet::one(cpu(0)))
    };
    let idles = |host: &Host| host.decide(1, Ask::Again, NOW).kicks;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 100_000;
    builder.check(move || {
        let host = Host::new(2, 2);
        let there = host.clone();
        let thread = thread::spawn(move || idles(&there));
        let mut kicks = bind(&host).union(&thread.join().unwrap());
        while let Some(next) = kicks.iter().next() {
            kicks.remove(next);
            kicks = kicks.union(&host.decide(next.get(), Ask::Again, NOW).kicks);
        }
        let info = host.sched().info(vcpu(1), NOW).unwrap();
        match info.place {
            Place::Running(on) | Place::Queued(on) => assert!(info.allowed.contains(on)),
            place => panic!("{place:?}"),
        }
    });
}
