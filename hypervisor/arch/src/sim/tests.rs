//! Tests of the model itself.

use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, Maddr, Mfn};

use super::*;
use crate::boot::{CpuId, MfnRange};

mod machine_tests;
mod memory_tests;
mod paging_tests;
mod tlb_tests;

const MIB: u64 = 1 << 20;

pub(super) const P: u64 = 1;
pub(super) const RW: u64 = 2;
pub(super) const US: u64 = 4;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const PS: u64 = 1 << 7;
pub(super) const GLOBAL: u64 = 1 << 8;
/// What upper entries and ordinary leaves are.
pub(super) const FULL: u64 = P | RW | US;

/// A machine with frames to take and tables to edit.
pub(super) struct Bench {
    pub(super) machine: Machine,
    free: Vec<Mfn>,
}

impl Bench {
    pub(super) fn new(seed: u64, cpus: u32) -> Self {
        let (machine, _) = Machine::new(SimConfig {
            cpus,
            seed,
            ..SimConfig::new(4 * MIB)
        });
        let free = machine
            .take_free_ranges()
            .iter()
            .flat_map(|range| range.iter())
            .collect();
        Self { machine, free }
    }

    /// A frame of zeros.
    pub(super) fn frame(&mut self) -> Mfn {
        let mfn = self.free.pop().expect("the machine is large enough");
        self.machine.mem().zero_frame(mfn).unwrap();
        mfn
    }

    /// A frame whose first word says which it is.
    pub(super) fn page(&mut self, name: u64) -> Mfn {
        let mfn = self.frame();
        self.machine.mem().store_u64(mfn.start(), name).unwrap();
        mfn
    }

    pub(super) fn name(&self, mfn: Mfn) -> u64 {
        self.machine.mem().load_u64(mfn.start()).unwrap()
    }

    /// Where the entry for an address is in a table: level 1 is an L1 entry.
    pub(super) fn slot(table: Mfn, level: u32, address: u64) -> Maddr {
        table.at((address >> (12 + 9 * (level - 1)) & 0x1ff) as usize * 8)
    }

    /// The table of a level for an address, made where it is missing.
    pub(super) fn table(&mut self, root: Mfn, level: u32, address: u64) -> Mfn {
        let mut table = root;
        for above in (level + 1..=4).rev() {
            let slot = Self::slot(table, above, address);
            if self.machine.mem().load_u64(slot).unwrap() & P == 0 {
                let below = self.frame();
                self.set(slot, below, FULL);
            }
            table = Mfn::new(self.machine.mem().load_u64(slot).unwrap() >> 12 & 0xff_ffff_ffff);
        }
        table
    }

    pub(super) fn set(&self, slot: Maddr, mfn: Mfn, flags: u64) {
        self.machine
            .mem()
            .store_u64(slot, mfn.start().get() | flags)
            .unwrap();
    }

    /// Maps one page; returns where its entry is.
    pub(super) fn map(&mut self, root: Mfn, address: u64, mfn: Mfn, flags: u64) -> Maddr {
        let table = self.table(root, 1, address);
        let slot = Self::slot(table, 1, address);
        self.set(slot, mfn, flags);
        slot
    }

    pub(super) fn cpu(&self) -> Cpu {
        self.machine.cpu(CpuId::BOOT)
    }
}

pub(super) fn read(cpu: &Cpu, address: u64) -> Option<u64> {
    cpu.read_guest(GuestAddr::new(address)).ok()
}

pub(super) fn write(cpu: &Cpu, address: u64, value: u64) -> bool {
    cpu.write_guest(GuestAddr::new(address), &value).is_ok()
}

pub(super) fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end))
}
