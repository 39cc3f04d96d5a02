//! Tests of the walker and the model TLB, and what they build their tables with.

use dom0_abi::addr::GuestAddr;

use super::*;

mod shootdown_tests;
mod tlb_tests;
mod walk_tests;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// What upper entries and ordinary leaves are.
const FULL: u64 = P | RW | US;

/// A machine with frames to take and tables to edit.
struct Bench {
    machine: Machine,
    free: Vec<Mfn>,
}

impl Bench {
    fn new(seed: u64, cpus: u32) -> Self {
        Self::of(SimConfig {
            cpus,
            seed,
            ..SimConfig::new(4 * MIB)
        })
    }

    fn of(config: SimConfig) -> Self {
        let (machine, _) = Machine::new(config);
        let free = machine
            .take_free_ranges()
            .iter()
            .flat_map(|range| range.iter())
            .collect();
        Self { machine, free }
    }

    /// A frame of zeros.
    fn frame(&mut self) -> Mfn {
        let mfn = self.free.pop().expect("the machine is large enough");
        self.machine.mem().zero_frame(mfn).unwrap();
        mfn
    }

    /// A frame whose first word says which it is.
    fn page(&mut self, name: u64) -> Mfn {
        let mfn = self.frame();
        self.machine.mem().store_u64(mfn.start(), name).unwrap();
        mfn
    }

    fn name(&self, mfn: Mfn) -> u64 {
        self.machine.mem().load_u64(mfn.start()).unwrap()
    }

    /// Where the entry for an address is in a table: level 1 is an L1 entry.
    fn slot(table: Mfn, level: u32, address: u64) -> Maddr {
        table.at((address >> (12 + 9 * (level - 1)) & 0x1ff) as usize * 8)
    }

    /// The table of a level for an address, made where it is missing.
    fn table(&mut self, root: Mfn, level: u32, address: u64) -> Mfn {
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

    fn set(&self, slot: Maddr, mfn: Mfn, flags: u64) {
        self.machine
            .mem()
            .store_u64(slot, mfn.start().get() | flags)
            .unwrap();
    }

    /// Maps one page; returns where its entry is.
    fn map(&mut self, root: Mfn, address: u64, mfn: Mfn, flags: u64) -> Maddr {
        let table = self.table(root, 1, address);
        let slot = Self::slot(table, 1, address);
        self.set(slot, mfn, flags);
        slot
    }

    fn cpu(&self) -> Cpu {
        self.machine.cpu(CpuId::BOOT)
    }
}

fn read(cpu: &Cpu, address: u64) -> Option<u64> {
    cpu.read_guest(GuestAddr::new(address)).ok()
}

fn write(cpu: &Cpu, address: u64, value: u64) -> bool {
    cpu.write_guest(GuestAddr::new(address), &value).is_ok()
}
