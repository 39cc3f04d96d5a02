//! Entries of a level-1 table, by hypercall.

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuUpdate, MulticallEntry, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE};
use guest_pv_drivers::hypercall;
use kit::frames::writable;
use kit::memory::pte;
use kit::page_tables::Lab;

use crate::{Bench, COUNT, TestBed};

/// How many entries a list has.
const LIST: usize = 32;

const MYSELF: u64 = DomId::SELF.get() as u64;

fn mmu_update(list: &[MmuUpdate]) -> u64 {
    let address = list.as_ptr().expose_provenance() as u64;
    // SAFETY: the entries are those of the bed's table, which translates addresses that Rust knows nothing of.
    unsafe {
        hypercall::raw(
            Hypercall::MmuUpdate.number(),
            [address, list.len() as u64, 0, MYSELF, 0],
        )
    }
}

fn update_va_mapping(slot: u64, entry: u64, flags: u64) -> u64 {
    let address = Lab::address(slot as usize);
    // SAFETY: as for `mmu_update`.
    unsafe {
        hypercall::raw(
            Hypercall::UpdateVaMapping.number(),
            [address, entry, flags, 0, 0],
        )
    }
}

impl TestBed {
    /// An entry that maps one of the two frames.
    pub fn entry(&self, index: u64) -> u64 {
        writable(self.frames[index as usize & 1])
    }

    /// Gives all entries of the table the same value.
    pub fn fill(&self, value: u64) {
        let table = self.table();
        for first in (0..512).step_by(LIST) {
            let list: [MmuUpdate; LIST] = core::array::from_fn(|index| MmuUpdate {
                ptr: table.machine(first + index),
                val: value,
            });
            mmu_update(&list);
        }
    }
}

/// What is done to an entry.
struct Change {
    name: &'static str,
    /// The table before.
    before: u64,
    /// The entry then, by turns.
    after: [u64; 2],
}

pub fn measure(bench: &mut Bench, bed: &TestBed) {
    let [a, b] = [bed.entry(0), bed.entry(1)];
    let changes = [
        Change {
            name: "frame",
            before: b,
            after: [a, a],
        },
        Change {
            name: "set",
            before: 0,
            after: [a, a],
        },
        Change {
            name: "clear",
            before: a,
            after: [0, 0],
        },
        // Flags that give no right.
        Change {
            name: "flags",
            before: a,
            after: [a & !(pte::A | pte::D); 2],
        },
        Change {
            name: "read-only",
            before: a,
            after: [a & !pte::RW; 2],
        },
    ];
    for change in &changes {
        lists(bench, bed, change);
    }
    for change in &changes {
        mappings(bench, bed, change);
    }
    for change in &changes[..1] {
        multicalls(bench, bed, change);
    }
    bed.fill(0);
}

fn named<const N: usize>(parts: [&str; N]) -> Name {
    let mut name = Name {
        bytes: [0; 64],
        used: 0,
    };
    for part in parts {
        name.bytes[name.used..][..part.len()].copy_from_slice(part.as_bytes());
        name.used += part.len();
    }
    name
}

struct Name {
    bytes: [u8; 64],
    used: usize,
}

impl Name {
    fn get(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.used]).expect("it was put together from texts")
    }
}

fn lists(bench: &mut Bench, bed: &TestBed, change: &Change) {
    let table = bed.table();
    let first = table.machine(0);
    let name = named(["mmu-update-", change.name]);
    bench.rows(
        name.get(),
        COUNT,
        1,
        || bed.fill(change.before),
        |index| {
            mmu_update(&[MmuUpdate {
                ptr: first + index * 8,
                val: change.after[index as usize & 1],
            }])
        },
    );
    let mut list: [MmuUpdate; LIST] = core::array::from_fn(|index| MmuUpdate {
        ptr: 0,
        val: change.after[index & 1],
    });
    // The guest's own work for the list is part of it: two instructions an entry.
    let name = named(["mmu-update-", change.name, "-list"]);
    bench.rows(
        name.get(),
        COUNT / LIST as u64,
        LIST as u64,
        || bed.fill(change.before),
        |index| {
            let mut place = first + index * LIST as u64 * 8;
            for update in &mut list {
                update.ptr = place;
                place += 8;
            }
            mmu_update(&list)
        },
    );
}

fn mappings(bench: &mut Bench, bed: &TestBed, change: &Change) {
    for (suffix, flags) in [("", UVMF_NONE), ("-invlpg", UVMF_INVLPG | UVMF_LOCAL)] {
        let name = named(["update-va-mapping-", change.name, suffix]);
        bench.rows(
            name.get(),
            COUNT,
            1,
            || bed.fill(change.before),
            |index| update_va_mapping(index, change.after[index as usize & 1], flags),
        );
    }
}

fn multicalls(bench: &mut Bench, bed: &TestBed, change: &Change) {
    let mut calls: [MulticallEntry; LIST] = core::array::from_fn(|index| MulticallEntry {
        op: Hypercall::UpdateVaMapping.number(),
        result: 0,
        args: [0, change.after[index & 1], UVMF_NONE, 0, 0, 0],
    });
    let name = named(["multicall-update-va-mapping-", change.name]);
    bench.rows(
        name.get(),
        COUNT / LIST as u64,
        LIST as u64,
        || bed.fill(change.before),
        |index| {
            for (slot, call) in (index as usize * LIST..).zip(&mut calls) {
                call.args[0] = Lab::address(slot);
            }
            let list = calls.as_mut_ptr().expose_provenance() as u64;
            // SAFETY: as for `update_va_mapping`.
            let result = unsafe {
                hypercall::raw(Hypercall::Multicall.number(), [list, LIST as u64, 0, 0, 0])
            };
            result | calls[0].result | calls[LIST - 1].result
        },
    );
}
