//! Writes to a page table by ordinary instructions, which trap, and which the hypervisor does for the guest.

use core::arch::asm;

use dom0_abi::xen::VmAssist;
use guest_pv_drivers::hypercall;
use kit::memory::pte;
use kit::probe;

use crate::{Asked, Bench, COUNT, TestBed};

macro_rules! form {
    ($bench:ident, $bed:ident, $name:literal: $before:expr => $after:expr, $code:literal, $new:expr) => {{
        let (before, after): (u64, u64) = ($before, $after);
        let table = $bed.table();
        let new: u64 = $new;
        $bed.fill(before);
        let trap = probe!(
            $code; place = in(reg) table.address, inout("rcx") new => _, inout("rax") before => _
        );
        if let Some(trap) = trap {
            $bench.report.skip($name, format_args!("vector {}", trap.vector));
        } else {
            $bench.report.equal(concat!($name, ": the entry"), table.entry(0), after);
            $bench.measure($name, Asked::ByInstruction, [COUNT, 1], || $bed.fill(before), |index| {
                let place = table.address + index * 8;
                // SAFETY: the table translates addresses that Rust knows nothing of; the form was tried above.
                unsafe {
                    asm!($code, place = in(reg) place, inout("rcx") new => _, inout("rax") before => _)
                };
                0
            });
            $bench.report.equal(concat!($name, ": the last entry"), table.entry(511), after);
        }
    }};
}

pub fn measure(bench: &mut Bench, bed: &TestBed) {
    // Not every hypervisor asks for this before it helps.
    let _ = hypercall::vm_assist(true, VmAssist::WritablePagetables);
    let [a, b] = [stored(bed, bed.entry(0)), stored(bed, bed.entry(1))];
    let read_only = a & !pte::RW;
    let young = a & !pte::A;

    form!(bench, bed, "trapped-mov": 0 => a, "mov [{place}], rcx", a);
    form!(bench, bed, "trapped-mov-clear": a => 0, "mov [{place}], rcx", 0);
    form!(bench, bed, "trapped-xchg": a => 0, "xchg [{place}], rcx", 0);
    form!(bench, bed, "trapped-xchg-frame": b => a, "xchg [{place}], rcx", a);
    form!(bench, bed, "trapped-lock-and": a => read_only, "lock and byte ptr [{place}], 0xfd", 0);
    form!(bench, bed, "trapped-and": a => read_only, "and byte ptr [{place}], 0xfd", 0);
    form!(bench, bed, "trapped-lock-cmpxchg": a => read_only, "lock cmpxchg [{place}], rcx", read_only);
    form!(bench, bed, "trapped-cmpxchg": a => read_only, "cmpxchg [{place}], rcx", read_only);
    form!(bench, bed, "trapped-lock-or": read_only => a, "lock or byte ptr [{place}], 2", 0);
    form!(bench, bed, "trapped-or": read_only => a, "or byte ptr [{place}], 2", 0);
    form!(bench, bed, "trapped-lock-btr": a => young, "lock btr qword ptr [{place}], 5", 0);
    form!(bench, bed, "trapped-btr": a => young, "btr qword ptr [{place}], 5", 0);
    form!(bench, bed, "trapped-lock-bts": read_only => a, "lock bts qword ptr [{place}], 1", 0);
    form!(bench, bed, "trapped-bts": read_only => a, "bts qword ptr [{place}], 1", 0);
    bed.fill(0);
}

/// What an entry is once the hypervisor has written it: it may add flags of its own.
fn stored(bed: &TestBed, entry: u64) -> u64 {
    bed.fill(entry);
    bed.table().entry(0)
}
