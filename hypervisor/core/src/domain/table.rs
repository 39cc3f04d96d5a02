//! All domains, by number: slots that are made at boot and filled later, each with counted references.
//!
//! INVARIANT: a CPU keeps a reference to the domain whose vCPU it runs, from the moment it begins to the moment it stops: so no
//! domain ends on it, and an entry finds domain and vCPU without looking for either.

use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::memory::FrameBox;
use oxen_arch::seat::{Entered, SlotTable};
use oxen_arch::slot::{Occupied, Slot, SlotRef};
use oxen_arch::{Cpu, Machine};

use super::Domain;
use super::vcpu::Vcpu;

/// How many domains there can be at a time; their numbers are below this.
pub const MAX_DOMAINS: usize = 1024;

/// A counted reference to a domain: as long as it is held, the domain exists.
pub type DomainRef<'a> = SlotRef<'a, FrameBox<Domain>>;

/// What a CPU runs, for one entry.
pub type Running<'a> = Entered<'a, FrameBox<Domain>, Vcpu>;

/// The table.
pub struct DomainTable(SlotTable<FrameBox<Domain>, Vcpu>);

impl DomainTable {
    /// Makes an empty table; `None` if boot has no memory left for it.
    pub fn new(machine: &Machine) -> Option<Self> {
        let slots = machine.boot_slice(MAX_DOMAINS, |_| Slot::new())?;
        Some(Self(SlotTable::new(slots)))
    }

    /// The domain of this number.
    pub fn get(&self, id: DomId) -> Option<DomainRef<'_>> {
        self.0.slot(usize::from(id.get()))?.acquire()
    }

    /// Takes a domain out once `is_empty` says that nothing is left of it; nobody finds it from the first time on. `None`: there is none, or
    /// somebody refers to it, or there is more to do; then it is out once this is called again often enough.
    pub fn take(
        &self,
        id: DomId,
        is_empty: impl FnOnce(&mut Domain) -> bool,
    ) -> Option<FrameBox<Domain>> {
        let slot = self.0.slot(usize::from(id.get()))?;
        slot.retire();
        slot.reap_when(|domain| is_empty(domain))
    }

    /// Makes a domain known. Refused, with the domain, if its number is taken or too large.
    pub fn insert(&self, domain: FrameBox<Domain>) -> Result<DomainRef<'_>, FrameBox<Domain>> {
        match self.0.slot(usize::from(domain.id.get())) {
            Some(slot) => slot.fill(domain).map_err(|Occupied(domain)| domain),
            None => Err(domain),
        }
    }

    /// Lets a CPU run a vCPU. `false` if it runs one already, or there is no such vCPU.
    pub fn run(&self, cpu: &Cpu, domain: &DomainRef<'_>, vcpu: VcpuId) -> bool {
        domain
            .try_clone()
            .is_some_and(|domain| self.0.sit(cpu, domain, |domain| domain.vcpu(vcpu)))
    }

    /// Domain and vCPU that the CPU runs; `None` if it runs none.
    #[inline(always)]
    pub fn running<'a>(&'a self, cpu: &'a Cpu) -> Option<Running<'a>> {
        self.0.enter(cpu)
    }

    /// Ends running a vCPU, and gives what kept its domain. `None`, and nothing changes, if the CPU runs none, or is in an entry of it.
    pub fn leave(&self, cpu: &Cpu) -> Option<DomainRef<'_>> {
        self.0.leave(cpu)
    }
}
