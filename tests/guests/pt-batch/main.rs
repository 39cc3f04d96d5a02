//! The arguments of `mmu_update` and `mmuext_op` themselves: list, count, place for what was done, whose frames.
//!
//! A list stops at the first operation that fails, the count of what was done is exact, and what was done stays done.
//! Pointers into nowhere are errors, or ignored where they are only to be written through. Nothing else happens.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod owners;
mod places;

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MMU_COUNT_PREEMPTED, MmuUpdate, MmuextCommand};
use guest_pv_drivers::hypercall;
use kit::memory::{
    self, LAST_OF_HYPERVISOR, NON_CANONICAL, PAGE, READ_ONLY_OF_HYPERVISOR, UNMAPPED,
};
use kit::page_tables::{Lab, READ_ONLY, Table, operation, page};
use kit::{Report, start_info};

kit::guest!("pt-batch", main);

const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
const SLOT: usize = 20;
/// What the place for the number of operations holds before a call.
const UNTOUCHED: u32 = 0x7777;
const SELF: u64 = DomId::SELF.get() as u64;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let bench = Bench::new(lab);
    done_pointers(report, &bench);
    for call in [Hypercall::MmuUpdate, Hypercall::MmuextOp] {
        counts(report, &bench, call);
        lists(report, &bench, call);
        crossing(report, &bench, call);
    }
    stops(report, &bench);
    owners::check(report, &bench);
    places::check(report, lab);
}

/// Three updates of three slots, and three flushes, in a page of their own.
pub struct Bench {
    table: Table,
    lab: Lab,
    updates: u64,
    flushes: u64,
    done: &'static memory::Page,
}

impl Bench {
    fn new(lab: Lab) -> Self {
        let (updates, flushes, frame) = (page(), page(), page().machine());
        for index in 0..3 {
            let update = MmuUpdate {
                ptr: lab.table(1).machine(SLOT + index),
                val: frame | READ_ONLY,
            };
            let _ = updates.set_word(2 * index, update.ptr);
            let _ = updates.set_word(2 * index + 1, update.val);
            let flush = operation(MmuextCommand::TlbFlushLocal, 0, 0);
            let _ = flushes.set_word(3 * index, u64::from(flush.cmd));
        }
        Self {
            table: lab.table(1),
            lab,
            updates: updates.address(),
            flushes: flushes.address(),
            done: page(),
        }
    }

    fn list(&self, call: Hypercall) -> u64 {
        if call == Hypercall::MmuUpdate {
            self.updates
        } else {
            self.flushes
        }
    }

    fn done(&self) -> u64 {
        self.done.address()
    }

    /// Makes the call: its result, what stands in the place for the number, and which of the three slots were written.
    /// They are empty again afterwards.
    fn call(&self, call: Hypercall, args: [u64; 4]) -> (Result<u64, Errno>, u32, [bool; 3]) {
        let _ = self.done.set_word(0, u64::from(UNTOUCHED));
        let [list, count, done, owner] = args;
        // SAFETY: the lists write slots of the window and flush; others are refused.
        let result = unsafe { hypercall::call(call, [list, count, done, owner, 0]) };
        let told = self.done.word(0).unwrap_or(0) as u32;
        let written = [0, 1, 2].map(|index| self.table.entry(SLOT + index) != 0);
        for index in 0..3 {
            let _ = self.lab.set(1, SLOT + index, 0);
        }
        (result, told, written)
    }
}

/// Which slots are written when `number` updates are done.
fn first(call: Hypercall, number: usize) -> [bool; 3] {
    [0, 1, 2].map(|index| call == Hypercall::MmuUpdate && index < number)
}

/// Nobody needs to want the number: a place that cannot be written is none.
fn done_pointers(report: &mut Report, bench: &Bench) {
    let end = memory::end_of_mapping();
    for call in [Hypercall::MmuUpdate, Hypercall::MmuextOp] {
        let name = call.name();
        let list = bench.list(call);
        for count in [0, 1, 3] {
            report.equal(
                format_args!("{name} of {count}"),
                bench.call(call, [list, count, bench.done(), SELF]),
                (Ok(0), count as u32, first(call, count as usize)),
            );
            for (place, done) in [
                ("null", 0),
                ("unmapped", UNMAPPED),
                ("not canonical", NON_CANONICAL),
                ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR),
                ("the hypervisor", HYPERVISOR),
                ("the hypervisor's last bytes", LAST_OF_HYPERVISOR + PAGE - 4),
                ("read-only", start_info().pt_base),
                ("across the end of the mapping", end - 2),
                ("the end of the address space", u64::MAX),
            ] {
                report.equal(
                    format_args!("{name} of {count}: the number to {place}"),
                    bench.call(call, [list, count, done, SELF]),
                    (Ok(0), UNTOUCHED, first(call, count as usize)),
                );
            }
        }
    }
}

fn counts(report: &mut Report, bench: &Bench, call: Hypercall) {
    let name = call.name();
    let list = bench.list(call);
    let preempted = u64::from(MMU_COUNT_PREEMPTED);
    for (what, count, told, done) in [
        ("the upper half does not count", 1 << 32 | 1, 1, 1),
        // The number goes on from what is there: so it is when the hypervisor calls again.
        ("none, preempted", preempted, UNTOUCHED, 0),
        ("three, preempted", preempted | 3, UNTOUCHED + 3, 3),
    ] {
        report.equal(
            format_args!("{name}: count, {what}"),
            bench.call(call, [list, count, bench.done(), SELF]),
            (Ok(0), told, first(call, done)),
        );
    }
    // Behind the list there is nothing that could be done.
    let (result, told, written) = bench.call(call, [list, 0x7fff_ffff, bench.done(), SELF]);
    report.check(
        format_args!("{name}: count of all that there can be"),
        result.is_err() && (3..600).contains(&told) && written == first(call, 3),
        format_args!("{result:?} {told} {written:?}"),
    );
    // The way in which Xen hands itself the result of a call that was interrupted: no list, no operations. What it
    // answers then is its own affair, as long as it does nothing.
    for (count, done, owner) in [
        (preempted, bench.done(), SELF),
        (preempted, 0, SELF),
        (preempted, bench.done(), u64::MAX - 13),
    ] {
        let (_, told, written) = bench.call(call, [0, count, done, owner]);
        report.equal(
            format_args!("{name}: no list, preempted, {owner:#x}"),
            (told, written),
            (UNTOUCHED, [false; 3]),
        );
    }
    let (result, _, written) = bench.call(call, [0, preempted | 1, bench.done(), SELF]);
    report.equal(
        format_args!("{name}: no list, one, preempted"),
        (result, written),
        (Err(Errno::EFAULT), [false; 3]),
    );
}

fn lists(report: &mut Report, bench: &Bench, call: Hypercall) {
    let name = call.name();
    report.equal(
        format_args!("{name}: none of no list"),
        bench.call(call, [0, 0, bench.done(), SELF]),
        (Ok(0), 0, [false; 3]),
    );
    // Addresses that no guest has are refused before anything is looked at.
    for (what, list, count, told) in [
        ("null", 0, 1, Some(0)),
        ("unmapped", UNMAPPED, 1, Some(0)),
        ("not canonical", NON_CANONICAL, 1, None),
        ("not canonical, none", NON_CANONICAL, 0, None),
        (
            "the machine-to-physical table",
            READ_ONLY_OF_HYPERVISOR,
            1,
            None,
        ),
        ("the hypervisor", HYPERVISOR, 1, None),
        ("the hypervisor, none", HYPERVISOR, 0, None),
        (
            "the hypervisor's last bytes",
            LAST_OF_HYPERVISOR + PAGE - 8,
            1,
            None,
        ),
        (
            "the last bytes below the hole",
            0x0000_7fff_ffff_fff8,
            1,
            None,
        ),
        (
            "all of the hypervisor's half",
            HYPERVISOR,
            0x7fff_ffff,
            None,
        ),
        (
            "around the end of the address space",
            u64::MAX - 7,
            2,
            Some(0),
        ),
    ] {
        let (result, seen, written) = bench.call(call, [list, count, bench.done(), SELF]);
        report.equal(
            format_args!("{name}: list at {what}"),
            (result, written),
            (Err(Errno::EFAULT), [false; 3]),
        );
        report.check(
            format_args!("{name}: list at {what}: what was done"),
            seen == 0 || told.is_none() && seen == UNTOUCHED,
            seen,
        );
    }
}

/// Lists that run into a page that is not there, between entries and within one.
fn crossing(report: &mut Report, bench: &Bench, call: Hypercall) {
    let name = call.name();
    let end = memory::end_of_mapping();
    let size = if call == Hypercall::MmuUpdate { 16 } else { 24 };
    for whole in 0..=2u64 {
        for part in [0, 8, size - 8] {
            let start = end - whole * size - part;
            for offset in (0..whole * size + part).step_by(8) {
                let word = memory::read(bench.list(call) + offset).unwrap_or(0);
                let _ = memory::write(start + offset, word);
            }
            report.equal(
                format_args!("{name}: {whole} operations and {part} bytes are there"),
                bench.call(call, [start, 3, bench.done(), SELF]),
                (
                    Err(Errno::EFAULT),
                    whole as u32,
                    first(call, whole as usize),
                ),
            );
            for offset in (start..end).step_by(8) {
                let _ = memory::write(offset, 0);
            }
        }
    }
}

/// A bad update among good ones.
fn stops(report: &mut Report, bench: &Bench) {
    let list = page();
    for bad in 0..3 {
        for index in 0..6 {
            let word = memory::read(bench.updates + index * 8).unwrap_or(0);
            let _ = list.set_word(index as usize, word);
        }
        // The table itself, writable.
        let entry = (bench.table.mfn * PAGE) | READ_ONLY | memory::pte::RW;
        let _ = list.set_word(2 * bad + 1, entry);
        report.equal(
            format_args!("mmu_update: number {bad} of 3 is bad"),
            bench.call(
                Hypercall::MmuUpdate,
                [list.address(), 3, bench.done(), SELF],
            ),
            (
                Err(Errno::EBUSY),
                bad as u32,
                first(Hypercall::MmuUpdate, bad),
            ),
        );
    }
    // Two commands in one list, and twice the same slot: in order.
    let slot = bench.table.machine(SLOT);
    let frame = page();
    let updates = [
        MmuUpdate {
            ptr: slot,
            val: frame.machine() | READ_ONLY,
        },
        MmuUpdate {
            ptr: slot,
            val: 0x1230,
        },
        MmuUpdate {
            ptr: slot | 2,
            val: frame.machine() | READ_ONLY,
        },
        MmuUpdate { ptr: slot, val: 0 },
    ];
    // SAFETY: nothing that Rust knows of is in the window.
    let batch =
        unsafe { hypercall::mmu_update(&updates, hypercall::foreigndom(DomId::SELF, None)) };
    report.equal(
        "mmu_update: four of one slot",
        (batch.result, batch.done, bench.table.entry(SLOT)),
        (Ok(0), 4, 0),
    );
}
