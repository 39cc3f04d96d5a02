//! The tables that the scheduler decides by, as long as the machine needs.

use oxen_arch::Machine;
use oxen_arch::boot::CpuId;
use oxen_arch::memory::BootSlice;

use crate::domain::table::MAX_DOMAINS;
use crate::sched::{CpuRecord, DomainRecord, Scheduler, Shared, VcpuRecord};

/// All of them.
pub struct SchedulerTables {
    shared: Shared,
    cpus: BootSlice<CpuRecord>,
    vcpus: BootSlice<VcpuRecord>,
    domains: BootSlice<DomainRecord>,
}

impl SchedulerTables {
    /// Tables for the machine's CPUs, so many vCPUs and all domains. `None`: there is too little memory.
    pub fn new(machine: &Machine, vcpus: usize) -> Option<Self> {
        let cpu = |number| CpuRecord::new(CpuId::new(number as u32));
        Some(Self {
            shared: Shared::new(),
            cpus: machine.boot_slice(machine.nr_cpus(), cpu)?,
            vcpus: machine.boot_slice(vcpus, |_| VcpuRecord::new())?,
            domains: machine.boot_slice(MAX_DOMAINS, |_| DomainRecord::new())?,
        })
    }

    /// The scheduler.
    #[inline(always)]
    pub fn view(&self) -> Scheduler<'_> {
        Scheduler::new(&self.shared, &self.cpus, &self.vcpus, &self.domains)
    }

    /// What the scheduler keeps of the domain of this number.
    pub fn domain(&self, number: usize) -> Option<&DomainRecord> {
        self.domains.get(number)
    }
}
