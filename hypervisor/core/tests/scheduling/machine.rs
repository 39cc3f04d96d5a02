//! A machine of nothing but time: CPUs that do what the scheduler decides, and vCPUs that work, sleep and wake.
//!
//! It takes the scheduler at its word: a CPU asks when its timer ends, when it was interrupted, and when its vCPU blocks,
//! and at no other time. An interrupt takes [`INTERRUPT`] to arrive, saving a vCPU [`SAVE`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;
use oxen_core::sched::{
    Ask, CpuRecord, DomainParams, DomainRecord, Place, Scheduler, Shared, VcpuIndex, VcpuRecord,
};

use crate::load::Load;
use crate::rng::Rng;

/// How long an interrupt is on its way.
pub const INTERRUPT: u64 = 2_000;
/// How long it takes to save a vCPU.
pub const SAVE: u64 = 1_000;

/// What is to happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// The timer of a CPU, as it was set this many times.
    Timer(usize, u64),
    /// An interrupt arrives at a CPU.
    Interrupt(usize),
    /// A vCPU has done its work on a CPU, which has made so many decisions.
    Done(usize, u64),
    /// A vCPU is saved.
    Saved(usize),
    /// What a vCPU sleeps for has come.
    Wake(usize),
}

/// A CPU.
#[derive(Default, Clone)]
struct Cpu {
    running: Option<usize>,
    /// Since when it runs that one, as far as that is counted; or since when it idles.
    since: u64,
    decisions: u64,
}

/// A vCPU.
pub struct Vcpu {
    pub domain: usize,
    pub load: Load,
    pub hard: CpuSet,
    /// How much work is left before it sleeps; none: it never does.
    left: Option<u64>,
    /// Since when it waits for a CPU.
    waits: Option<u64>,
    /// Whether that began with a wake-up.
    woke: bool,
    pub ran: u64,
    pub switches: u64,
    pub moves: u64,
    last: Option<usize>,
    /// The longest that it waited; and of those times that began with a wake-up.
    pub longest: u64,
    pub longest_awoken: u64,
}

/// All of it.
pub struct Machine {
    shared: Shared,
    cpus: Vec<CpuRecord>,
    records: Vec<VcpuRecord>,
    domains: Vec<DomainRecord>,
    state: Vec<Cpu>,
    pub vcpus: Vec<Vcpu>,
    pub now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    pub rng: Rng,
    /// The longest that a vCPU waited while a CPU idled on which it may run.
    pub longest_beside_idle: u64,
}

impl Machine {
    /// A machine whose vCPUs are down.
    pub fn new(
        cpus: u32,
        domains: &[DomainParams],
        vcpus: Vec<(usize, Load, CpuSet, CpuSet)>,
        rng: Rng,
    ) -> Self {
        let mut machine = Self {
            shared: Shared::new(),
            cpus: (0..cpus).map(|id| CpuRecord::new(CpuId::new(id))).collect(),
            records: vcpus.iter().map(|_| VcpuRecord::new()).collect(),
            domains: domains.iter().map(|_| DomainRecord::new()).collect(),
            state: vec![Cpu::default(); cpus as usize],
            vcpus: Vec::new(),
            now: 1_000_000,
            events: BinaryHeap::new(),
            count: 0,
            rng,
            longest_beside_idle: 0,
        };
        for (record, &params) in machine.domains.iter().zip(domains) {
            record.set_params(params);
        }
        for cpu in 0..cpus {
            machine.scheduler().cpu_up(CpuId::new(cpu)).unwrap();
            machine.state[cpu as usize].since = machine.now;
        }
        for (index, (domain, load, hard, soft)) in vcpus.into_iter().enumerate() {
            let scheduler = machine.scheduler();
            scheduler
                .attach(VcpuIndex::new(index as u32), domain as u32, &hard, &soft)
                .unwrap();
            let left = load.work(&mut machine.rng);
            machine.vcpus.push(Vcpu {
                domain,
                load,
                hard,
                left,
                waits: None,
                woke: false,
                ran: 0,
                switches: 0,
                moves: 0,
                last: None,
                longest: 0,
                longest_awoken: 0,
            });
        }
        for cpu in 0..cpus as usize {
            machine.decide(cpu, Ask::Again);
        }
        machine
    }

    pub fn scheduler(&self) -> Scheduler<'_> {
        Scheduler::new(&self.shared, &self.cpus, &self.records, &self.domains)
    }

    /// Starts them all, one after the other.
    pub fn start(&mut self) {
        for index in 0..self.vcpus.len() {
            let kicks = self.scheduler().up(at(index), self.now).unwrap();
            self.moved(index);
            self.interrupt(&kicks);
        }
    }

    /// Forgets what was measured.
    pub fn begin_to_measure(&mut self) {
        for cpu in 0..self.state.len() {
            self.work(cpu);
        }
        for vcpu in &mut self.vcpus {
            (vcpu.ran, vcpu.longest, vcpu.longest_awoken) = (0, 0, 0);
        }
    }

    /// Lets time go on.
    pub fn run(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while let Some(&Reverse((time, ..))) = self.events.peek()
            && time <= end
        {
            let Some(Reverse((time, _, event))) = self.events.pop() else {
                break;
            };
            self.now = time;
            self.happen(event);
        }
        self.now = end;
        for cpu in 0..self.state.len() {
            self.work(cpu);
            self.look_for_waiting(cpu);
        }
        for vcpu in 0..self.vcpus.len() {
            if let Some(since) = self.vcpus[vcpu].waits {
                self.note_wait(vcpu, since);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Timer(cpu, decisions) => {
                if self.state[cpu].decisions == decisions {
                    self.decide(cpu, Ask::Again);
                }
            }
            Event::Interrupt(cpu) => self.decide(cpu, Ask::Again),
            Event::Done(cpu, decisions) => {
                if self.state[cpu].decisions == decisions {
                    self.work(cpu);
                    let vcpu = self.state[cpu].running.unwrap();
                    assert_eq!(self.vcpus[vcpu].left, Some(0));
                    if self.vcpus[vcpu].load.yields() {
                        self.vcpus[vcpu].left = self.vcpus[vcpu].load.work(&mut self.rng);
                        return self.decide(cpu, Ask::Yield);
                    }
                    let sleep = self.vcpus[vcpu].load.sleep(self.now, &mut self.rng);
                    self.scheduler().block(at(vcpu)).unwrap();
                    self.at(self.now + sleep, Event::Wake(vcpu));
                    self.decide(cpu, Ask::Again);
                }
            }
            Event::Saved(vcpu) => {
                let kicks = self.scheduler().saved(at(vcpu), self.now).unwrap();
                self.moved(vcpu);
                self.interrupt(&kicks);
            }
            Event::Wake(vcpu) => {
                self.vcpus[vcpu].left = self.vcpus[vcpu].load.work(&mut self.rng);
                self.vcpus[vcpu].woke = true;
                let kicks = self.scheduler().wake(at(vcpu), self.now).unwrap();
                self.moved(vcpu);
                self.interrupt(&kicks);
            }
        }
    }

    /// A CPU asks, and does what it is told.
    pub fn decide(&mut self, cpu: usize, ask: Ask) {
        self.work(cpu);
        let id = CpuId::new(cpu as u32);
        let decision = self.scheduler().pick(id, ask, self.now).unwrap();
        let before = self.state[cpu].running;
        match decision.leave {
            Some(left) => {
                assert_eq!(
                    before,
                    Some(left.number() as usize),
                    "it did not run that one"
                );
                let left = left.number() as usize;
                assert!(matches!(self.info(left).place, Place::Leaving(on) if on == id));
                self.at(self.now + SAVE, Event::Saved(left));
            }
            None => {
                assert!(before.is_none() || before == decision.run.map(|run| run.number() as usize))
            }
        }
        let next = decision.run.map(|run| run.number() as usize);
        if let Some(vcpu) = next {
            let info = self.info(vcpu);
            assert!(
                info.is_runnable && info.allowed.contains(id),
                "{info:?} on {id}"
            );
            assert_eq!(info.place, Place::Running(id));
            if before != next {
                self.begin(cpu, vcpu);
            }
        }
        if before.is_some() != next.is_some() {
            if before.is_none() {
                self.look_for_waiting(cpu);
            }
            self.state[cpu].since = self.now;
        }
        self.state[cpu].running = next;
        self.state[cpu].decisions += 1;
        let decisions = self.state[cpu].decisions;
        if let Some(time) = decision.next_event {
            self.at(time.max(self.now), Event::Timer(cpu, decisions));
        }
        if let Some(left) = next.and_then(|vcpu| self.vcpus[vcpu].left) {
            self.at(self.now + left, Event::Done(cpu, decisions));
        }
        self.interrupt(&decision.kicks);
    }

    fn begin(&mut self, cpu: usize, vcpu: usize) {
        let others = self
            .state
            .iter()
            .filter(|other| other.running == Some(vcpu));
        assert_eq!(others.count(), 0, "another CPU runs it");
        if let Some(since) = self.vcpus[vcpu].waits.take() {
            self.note_wait(vcpu, since);
            self.look_for_idle(vcpu, since);
        }
        let of = &mut self.vcpus[vcpu];
        of.woke = false;
        of.switches += 1;
        of.moves += u64::from(of.last.is_some_and(|last| last != cpu));
        of.last = Some(cpu);
    }

    fn note_wait(&mut self, vcpu: usize, since: u64) {
        let (wait, of) = (self.now - since, &mut self.vcpus[vcpu]);
        of.longest = of.longest.max(wait);
        if of.woke {
            of.longest_awoken = of.longest_awoken.max(wait);
        }
    }

    /// A vCPU stops to wait: whoever idles did so beside it.
    fn look_for_idle(&mut self, vcpu: usize, since: u64) {
        for (cpu, state) in self.state.iter().enumerate() {
            if state.running.is_none() && self.vcpus[vcpu].hard.contains(CpuId::new(cpu as u32)) {
                let beside = self.now - since.max(state.since);
                self.longest_beside_idle = self.longest_beside_idle.max(beside);
            }
        }
    }

    /// A CPU stops to idle: whoever waits did so beside it.
    fn look_for_waiting(&mut self, cpu: usize) {
        let state = &self.state[cpu];
        for vcpu in &self.vcpus {
            if let Some(since) = vcpu.waits
                && state.running.is_none()
                && vcpu.hard.contains(CpuId::new(cpu as u32))
            {
                let beside = self.now - since.max(state.since);
                self.longest_beside_idle = self.longest_beside_idle.max(beside);
            }
        }
    }

    /// The vCPU may have come into a queue. One whose domain has a cap may wait for that, so its waiting says nothing.
    pub fn moved(&mut self, vcpu: usize) {
        let is_capped = self.domains[self.vcpus[vcpu].domain].params().cap != 0;
        let waits = matches!(self.info(vcpu).place, Place::Queued(_)) && !is_capped;
        let of = &mut self.vcpus[vcpu];
        of.waits = if waits {
            of.waits.or(Some(self.now))
        } else {
            None
        };
    }

    /// Where it may run has changed: it waits anew.
    pub fn allow(&mut self, vcpu: usize) {
        self.vcpus[vcpu].hard = self.info(vcpu).allowed;
        self.vcpus[vcpu].waits = None;
    }

    /// Counts what a CPU has done.
    fn work(&mut self, cpu: usize) {
        let state = &mut self.state[cpu];
        if let Some(vcpu) = state.running {
            let done = self.now - state.since;
            state.since = self.now;
            let of = &mut self.vcpus[vcpu];
            of.ran += done;
            if let Some(left) = &mut of.left {
                *left -= done;
            }
        }
    }

    pub fn interrupt(&mut self, cpus: &CpuSet) {
        for cpu in cpus.iter() {
            self.at(self.now + INTERRUPT, Event::Interrupt(cpu.get() as usize));
        }
    }

    pub fn info(&self, vcpu: usize) -> oxen_core::sched::VcpuInfo {
        self.scheduler().info(at(vcpu), self.now).unwrap()
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    /// Whether this CPU runs this vCPU.
    pub fn is_running(&self, vcpu: usize, cpu: u32) -> bool {
        self.state[cpu as usize].running == Some(vcpu)
    }

    /// How many decisions were made.
    pub fn decisions(&self) -> u64 {
        self.state.iter().map(|cpu| cpu.decisions).sum()
    }
}

/// The scheduler's name of a vCPU.
pub fn at(vcpu: usize) -> VcpuIndex {
    VcpuIndex::new(vcpu as u32)
}
