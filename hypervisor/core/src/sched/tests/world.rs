//! A scheduler with its tables.

use super::super::*;

/// The tables. All vCPUs are of domain 0 and may run everywhere.
pub struct World {
    shared: Shared,
    cpus: Vec<CpuRecord>,
    vcpus: Vec<VcpuRecord>,
    pub domains: Vec<DomainRecord>,
}

impl World {
    /// With CPUs that have asked once, and vCPUs that are down.
    pub fn new(cpus: u32, vcpus: u32) -> Self {
        Self::up_to(cpus, cpus, vcpus)
    }

    /// The same, but only the first of the CPUs are up.
    pub fn up_to(cpus: u32, up: u32, vcpus: u32) -> Self {
        let world = Self {
            shared: Shared::new(),
            cpus: (0..cpus).map(|id| CpuRecord::new(cpu(id))).collect(),
            vcpus: (0..vcpus).map(|_| VcpuRecord::new()).collect(),
            domains: vec![DomainRecord::new()],
        };
        let all: CpuSet = (0..cpus).map(cpu).collect();
        for id in 0..up {
            world.scheduler().cpu_up(cpu(id)).unwrap();
            let decision = world.scheduler().pick(cpu(id), Ask::Again, 0).unwrap();
            assert_eq!((decision.run, decision.next_event), (None, None));
        }
        for index in 0..vcpus {
            world
                .scheduler()
                .attach(vcpu(index), 0, &all, &all)
                .unwrap();
        }
        world
    }

    pub fn scheduler(&self) -> Scheduler<'_> {
        Scheduler::new(&self.shared, &self.cpus, &self.vcpus, &self.domains)
    }

    /// Whom the queue of a CPU holds, those first that are ready, and whom it runs.
    pub fn queue(&self, id: u32) -> (Vec<VcpuIndex>, Option<VcpuIndex>) {
        let queue = self.cpus[id as usize].queue.lock();
        let mut list = Vec::new();
        for tree in [&queue.ready, &queue.parked] {
            let before = list.len();
            tree.visit(&self.vcpus, &mut |index| list.push(index));
            assert_eq!(list.len() - before, tree.len() as usize);
        }
        let load: u64 = list[..queue.ready.len() as usize]
            .iter()
            .chain(queue.current.as_ref().map(|current| &current.vcpu))
            .map(|index| u64::from(self.vcpus[index.get()].weight().get()))
            .sum();
        assert_eq!(queue.load, load);
        (list, queue.current.as_ref().map(|current| current.vcpu))
    }

    /// How many vCPUs the domain takes to be runnable.
    pub fn runnable(&self) -> u32 {
        self.domains[0].runnable()
    }

    /// Starts a vCPU, which this CPU then runs.
    pub fn run(&self, index: u32, id: u32) {
        assert_eq!(self.scheduler().up(vcpu(index), 0).unwrap(), set(&[id]));
        let decision = self.scheduler().pick(cpu(id), Ask::Again, 0).unwrap();
        assert_eq!(decision.run, Some(vcpu(index)));
    }
}

pub fn cpu(id: u32) -> CpuId {
    CpuId::new(id)
}

pub fn vcpu(index: u32) -> VcpuIndex {
    VcpuIndex::new(index)
}

pub fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().map(CpuId::new).collect()
}
