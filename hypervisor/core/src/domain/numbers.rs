//! The numbers that vCPUs have among all of the machine: by them tables that are made at boot have a place for each.

use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::Machine;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sched::VcpuIndex;

/// The number of a vCPU that has none yet.
pub const NO_NUMBER: VcpuIndex = VcpuIndex::new(u32::MAX);
/// Nobody has the number.
const FREE: u64 = u64::MAX;

/// Who has which number.
pub struct VcpuNumbers {
    owners: BootSlice<AtomicU64>,
    /// Where to look first.
    next: AtomicU32,
}

impl VcpuNumbers {
    /// How many vCPUs a machine can have: one for each MiB of RAM, within bounds.
    pub fn capacity(machine: &Machine) -> usize {
        const FRAMES_IN_A_MIB: u64 = 256;
        let megabytes = machine.max_mfn().get().wrapping_div(FRAMES_IN_A_MIB);
        megabytes.clamp(256, 4096) as usize
    }

    /// All are free. `None`: there is too little memory.
    pub fn new(machine: &Machine) -> Option<Self> {
        let count = Self::capacity(machine);
        Some(Self {
            owners: machine.boot_slice(count, |_| AtomicU64::new(FREE))?,
            next: AtomicU32::new(0),
        })
    }

    /// Gives a vCPU a number. `None`: there are too many.
    pub fn take(&self, domain: DomId, vcpu: VcpuId) -> Option<VcpuIndex> {
        let owner = u64::from(domain.get()) << 32 | u64::from(vcpu.get());
        let start = self.next.load(Ordering::Relaxed);
        let count = self.owners.len() as u32;
        for step in 0..count {
            let number = start.wrapping_add(step).checked_rem(count)?;
            let place = self.owners.get(number as usize)?;
            let (order, failed) = (Ordering::Release, Ordering::Relaxed);
            if place.compare_exchange(FREE, owner, order, failed).is_ok() {
                self.next.store(number.wrapping_add(1), Ordering::Relaxed);
                return Some(VcpuIndex::new(number));
            }
        }
        None
    }

    /// Takes a number back.
    pub fn give_back(&self, number: VcpuIndex) {
        if let Some(place) = self.owners.get(number.number() as usize) {
            place.store(FREE, Ordering::Release);
        }
    }

    /// Who has a number.
    pub fn get(&self, number: VcpuIndex) -> Option<(DomId, VcpuId)> {
        let owner = self.owners.get(number.number() as usize)?;
        match owner.load(Ordering::Acquire) {
            FREE => None,
            owner => Some((DomId::new((owner >> 32) as u16), VcpuId::new(owner as u32))),
        }
    }
}

#[cfg(test)]
mod tests {
    use oxen_arch::SimConfig;

    use super::*;

    #[test]
    fn each_number_is_one_vcpus() {
        let machine = Machine::new(SimConfig::new(16 << 20)).0;
        let numbers = VcpuNumbers::new(&machine).unwrap();
        let id = |number: u32| (DomId::new(7), VcpuId::new(number));
        for number in 0..256 {
            let (domain, vcpu) = id(number);
            let index = numbers.take(domain, vcpu).unwrap();
            assert_eq!(numbers.get(index), Some(id(number)));
        }
        assert_eq!(numbers.take(DomId::new(8), VcpuId::new(0)), None);
        numbers.give_back(VcpuIndex::new(9));
        numbers.give_back(NO_NUMBER);
        assert_eq!(numbers.get(VcpuIndex::new(9)), None);
        let again = numbers.take(DomId::new(8), VcpuId::new(1));
        assert_eq!(again, Some(VcpuIndex::new(9)));
        assert_eq!(numbers.get(NO_NUMBER), None);
    }
}
