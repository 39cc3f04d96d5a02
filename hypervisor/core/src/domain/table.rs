//! All domains, by number: slots that are made at boot and filled later, each with counted references.
//!
//! INVARIANT: a domain is retired only when none of its vCPUs is on a CPU. A CPU may therefore name what it runs by number,
//! and finds it.

use dom0_abi::ids::DomId;
use oxen_arch::Machine;
use oxen_arch::memory::{BootSlice, FrameBox};
use oxen_arch::slot::{Occupied, Slot, SlotRef};

use super::Domain;

/// How many domains there can be at a time; their numbers are below this.
pub const MAX_DOMAINS: usize = 1024;

/// A counted reference to a domain: as long as it is held, the domain exists.
pub type DomainRef<'a> = SlotRef<'a, FrameBox<Domain>>;

/// The table.
pub struct DomainTable {
    slots: BootSlice<Slot<FrameBox<Domain>>>,
}

impl DomainTable {
    /// Makes an empty table; `None` if boot has no memory left for it.
    pub fn new(machine: &Machine) -> Option<Self> {
        Some(Self {
            slots: machine.boot_slice(MAX_DOMAINS, |_| Slot::new())?,
        })
    }

    /// The domain of this number.
    pub fn get(&self, id: DomId) -> Option<DomainRef<'_>> {
        self.slots.get(usize::from(id.get()))?.acquire()
    }

    /// Takes a domain out; nobody finds it from then on. `None`: there is none, or somebody refers to it; then it is out once they
    /// do not any more and this is called again.
    pub fn take(&self, id: DomId) -> Option<FrameBox<Domain>> {
        let slot = self.slots.get(usize::from(id.get()))?;
        slot.retire();
        slot.reap()
    }

    /// Makes a domain known. Refused, with the domain, if its number is taken or too large.
    pub fn insert(&self, domain: FrameBox<Domain>) -> Result<DomainRef<'_>, FrameBox<Domain>> {
        match self.slots.get(usize::from(domain.id.get())) {
            Some(slot) => slot.fill(domain).map_err(|Occupied(domain)| domain),
            None => Err(domain),
        }
    }
}
