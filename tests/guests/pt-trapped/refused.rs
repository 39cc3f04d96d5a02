//! Writes that must not happen: the guest gets the page fault that the CPU raised, and the table is as before.

use dom0_abi::arch::HYPERVISOR_FIRST_SLOT;
use dom0_abi::xen::VmAssist;
use guest_pv_drivers::hypercall;
use kit::memory::{PAGE, Page, pte, read};
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, is_plain, page, pin, protect, release, unpin,
};
use kit::trap::vector;
use kit::{Report, Trap, probe};

use crate::SLOT;
use crate::form;
use crate::forms::{State, needed, store};

pub fn check(report: &mut Report, lab: Lab) {
    bad_entries(report, lab);
    parts(report, lab);
    across(report, lab);
    upper(report, lab);
    aliases(report, lab);
    unlinked(report, lab);
    not_tables(report);
}

/// What is seen of a trap: present, write, and where.
fn fault(trap: Option<Trap>) -> Option<(u8, Option<u64>, u64)> {
    trap.map(|trap| (trap.vector, trap.error, trap.cr2))
}

fn right(address: u64) -> Option<(u8, Option<u64>, u64)> {
    Some((vector::PF, Some(3), address))
}

/// Entries that an `mmu_update` would refuse.
fn bad(lab: Lab) -> [(&'static str, u64); 6] {
    let hypervisor = Table::boot_root().entry(HYPERVISOR_FIRST_SLOT) & pte::MFN;
    [
        ("a frame of the hypervisor's", hypervisor | READ_ONLY),
        ("the same, writable", hypervisor | WRITABLE),
        ("the table, writable", (lab.table(1).mfn * 4096) | WRITABLE),
        (
            "the root, writable",
            (Table::boot_root().mfn * 4096) | WRITABLE,
        ),
        ("the local APIC", 0xfee0_0000 | WRITABLE),
        ("a frame beyond all", 0x000f_fff0_0000_0000 | READ_ONLY),
    ]
}

fn bad_entries(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let place = table.address + SLOT as u64 * 8;
    let data = page();
    for (old_name, old) in [("nothing", 0), ("an entry", data.machine() | READ_ONLY)] {
        let set = lab.set(1, SLOT, old);
        let before = table.entry(SLOT);
        for (name, entry) in bad(lab) {
            for (how, run) in [
                ("mov", form!("mov [{a}], {v}") as crate::forms::Run),
                ("xchg", form!("xchg [{a}], {v}")),
                // rax is what is there.
                ("lock cmpxchg", form!("lock cmpxchg [{a}], {v}")),
                ("lock xadd", form!("lock xadd [{a}], {v}")),
            ] {
                let operand = if how == "lock xadd" {
                    entry.wrapping_sub(before)
                } else {
                    entry
                };
                let start = State {
                    operand,
                    rax: before,
                    flags: 0,
                };
                let mut state = start;
                let trap = run(place, &mut state);
                report.equal(
                    format_args!("{how} over {old_name}: {name}"),
                    (set, fault(trap), state, table.entry(SLOT)),
                    (Ok(0), right(place), start, before),
                );
            }
        }
    }
    // A comparison that fails writes nothing, so nothing is refused; or the fault is the guest's.
    let before = table.entry(SLOT);
    let mut state = State {
        operand: bad(lab)[0].1,
        rax: before ^ 0x200,
        flags: 0,
    };
    let trap = form!("lock cmpxchg [{a}], {v}")(place, &mut state);
    report.check(
        "lock cmpxchg that does not match: a frame of the hypervisor's",
        table.entry(SLOT) == before
            && (trap.is_none() && state.rax == before || fault(trap) == right(place)),
        format_args!("{trap:x?} {state:x?}"),
    );
    report.equal("cleared", lab.set(1, SLOT, 0), Ok(0));
}

/// Writes of a part of an entry: the whole of it counts.
fn parts(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let place = table.address + SLOT as u64 * 8;
    // Read-only, the frame is a table: one bit is missing to what must not be.
    let set = lab.set(1, SLOT, (table.mfn * 4096) | READ_ONLY);
    let before = table.entry(SLOT);
    for (how, run) in [
        ("or m8", form!("or byte ptr [{a}], 2") as crate::forms::Run),
        ("lock or m8", form!("lock or byte ptr [{a}], 2")),
        ("lock or m16", form!("lock or word ptr [{a}], 2")),
        ("or m32", form!("or dword ptr [{a}], 2")),
        ("lock or m64", form!("lock or qword ptr [{a}], 2")),
        ("lock bts m64", form!("lock bts qword ptr [{a}], 1")),
        ("bts m32", form!("bts dword ptr [{a}], 1")),
        ("mov m8", form!("mov byte ptr [{a}], 0x67")),
        ("xchg m8", form!("xchg byte ptr [{a}], al")),
    ] {
        let mut state = State {
            operand: 0,
            rax: 0x67,
            flags: 0,
        };
        let trap = run(place, &mut state);
        report.equal(
            format_args!("{how}: a table made writable"),
            (set, fault(trap), table.entry(SLOT)),
            (Ok(0), right(place), before),
        );
    }
    // Bits of the frame's number.
    for (how, offset, run) in [
        (
            "mov m8",
            5,
            form!("mov byte ptr [{a} + 5], 0x10") as crate::forms::Run,
        ),
        ("lock or m8", 5, form!("lock or byte ptr [{a} + 5], 0x80")),
        ("mov m32", 4, form!("mov dword ptr [{a} + 4], 0x8000")),
        ("mov m16", 4, form!("mov word ptr [{a} + 4], 0x8000")),
    ] {
        let mut state = State {
            operand: 0,
            rax: 0,
            flags: 0,
        };
        let trap = run(place, &mut state);
        report.equal(
            format_args!("{how}: a frame beyond all"),
            (fault(trap), table.entry(SLOT)),
            (right(place + offset), before),
        );
    }
    report.equal("cleared", lab.set(1, SLOT, 0), Ok(0));
}

/// Writes that are not within one entry.
fn across(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let place = table.address + SLOT as u64 * 8;
    let entry = page().machine() | READ_ONLY;
    for (name, offset, run) in [
        (
            "mov m64 at 4",
            4,
            form!("mov [{a} + 4], {v}") as crate::forms::Run,
        ),
        ("mov m64 at 1", 1, form!("mov [{a} + 1], {v}")),
        ("mov m32 at 6", 6, form!("mov [{a} + 6], {v:e}")),
        ("mov m16 at 7", 7, form!("mov [{a} + 7], {v:x}")),
        ("lock or m32 at 5", 5, form!("lock or [{a} + 5], {v:e}")),
        ("xchg m64 at 4", 4, form!("xchg [{a} + 4], {v}")),
    ] {
        let start = State {
            operand: entry,
            rax: 0,
            flags: 0,
        };
        let mut state = start;
        let trap = run(place, &mut state);
        report.equal(
            format_args!("{name}: across entries"),
            (
                fault(trap),
                state,
                [0, 1].map(|next| table.entry(SLOT + next)),
            ),
            (right(place + offset), start, [0, 0]),
        );
    }
    // Within an entry, but not aligned: carried out or not, nothing else.
    let set = lab.set(1, SLOT, entry);
    let before = table.entry(SLOT);
    let mut state = State {
        operand: 0,
        rax: 0,
        flags: 0,
    };
    let trap = form!("mov word ptr [{a} + 5], 0")(place, &mut state);
    let after = table.entry(SLOT);
    report.check(
        "mov m16 at 5: within an entry",
        set.is_ok() && after == before && (trap.is_none() || fault(trap) == right(place + 5)),
        format_args!("{trap:x?} {after:#x}"),
    );
    report.equal("cleared", lab.set(1, SLOT, 0), Ok(0));
}

/// Writes of which a part lies in the table, and the rest in the page before or behind it.
pub fn across_pages(report: &mut Report, lab: Lab, in_front: &'static Page) {
    let table = lab.table(1);
    report.equal(
        "a page in front of the table",
        in_front.address() + PAGE,
        table.address,
    );
    let start = table.address - 4;
    report.equal(
        "into the table from the page in front",
        (
            fault(store(start, u64::MAX)),
            in_front.word(511),
            table.entry(0),
        ),
        // The address is that of the first byte that may not be written.
        (right(table.address), Ok(0), 0),
    );
    let end = table.address + PAGE - 4;
    let behind = kit::memory::read(table.address + PAGE);
    report.equal(
        "out of the table into the page behind",
        (
            fault(store(end, u64::MAX)),
            table.entry(511),
            kit::memory::read(table.address + PAGE) == behind,
        ),
        (right(end), 0, true),
    );
}

/// Upper tables are changed by hypercall alone.
fn upper(report: &mut Report, lab: Lab) {
    let lower = page();
    report.equal("an empty table", protect(lower), Ok(0));
    for level in 2..=4 {
        let table = lab.table(level);
        let slot = Lab::free_slot(level, 2);
        let place = table.address + slot as u64 * 8;
        let mut wrong = None;
        for (name, run) in needed().filter(|(name, _)| !name.contains("slot")) {
            let start = State {
                operand: 5,
                rax: 0,
                flags: 0,
            };
            let mut state = start;
            let trap = run(place, &mut state);
            if fault(trap) != right(place) || table.entry(slot) != 0 || state != start {
                wrong.get_or_insert((name, fault(trap), state));
            }
        }
        report.equal(
            format_args!("instructions on an L{level}: page faults"),
            wrong,
            None,
        );
        report.equal(
            format_args!("a good entry for an L{level} is a page fault as well"),
            (
                fault(store(place, lower.machine() | WRITABLE)),
                table.entry(slot),
            ),
            (right(place), 0),
        );
        // XSA-182 by the way of a trap: one flag of an entry that is there.
        let set = lab.set(level, slot, lower.machine() | READ_ONLY);
        let before = table.entry(slot);
        let mut state = State {
            operand: 0,
            rax: 0,
            flags: 0,
        };
        let trap = form!("lock or byte ptr [{a}], 2")(place, &mut state);
        report.equal(
            format_args!("a flag of an L{level}'s entry"),
            (set, fault(trap), table.entry(slot), lab.set(level, slot, 0)),
            (Ok(0), right(place), before, Ok(0)),
        );
    }
    // The hypervisor's slots.
    let root = lab.table(4);
    let place = root.address + HYPERVISOR_FIRST_SLOT as u64 * 8;
    let before = root.entry(HYPERVISOR_FIRST_SLOT);
    report.equal(
        "a hypervisor's slot",
        (fault(store(place, 0)), root.entry(HYPERVISOR_FIRST_SLOT)),
        (right(place), before),
    );
}

/// A table is written by any address at which it is mapped, with the same rules.
fn aliases(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let data = page();
    let window = Lab::address(40);
    report.equal(
        "the table in the window",
        lab.set(1, 40, (table.mfn * 4096) | READ_ONLY),
        Ok(0),
    );
    let place = window + SLOT as u64 * 8;
    let _ = data.set_word(0, 0xabcd);
    report.equal(
        "a write there",
        (
            fault(store(place, data.machine() | READ_ONLY)),
            read(Lab::address(SLOT)),
        ),
        (None, Ok(0xabcd)),
    );
    let before = table.entry(SLOT);
    report.equal(
        "a bad write there",
        (
            fault(store(place, (table.mfn * 4096) | WRITABLE)),
            table.entry(SLOT),
        ),
        (right(place), before),
    );
    // The entry by which the table is seen: the write takes away the way to what it writes.
    let own = window + 40 * 8;
    report.equal(
        "a write to its own mapping",
        (fault(store(own, 0)), table.entry(40)),
        (None, 0),
    );
    report.equal("cleared", lab.set(1, SLOT, 0), Ok(0));
}

/// Pinned tables that hang nowhere are tables; pages that are no tables are none, however they are mapped.
fn unlinked(report: &mut Report, lab: Lab) {
    let table = page();
    let data = page();
    let place = table.address() + 8;
    report.equal(
        "a read-only page that is no table",
        (protect(table), fault(store(place, 0)), table.word(1)),
        (Ok(0), right(place), Ok(0)),
    );
    report.equal(
        "a pinned L1",
        (
            pin(1, table.mfn()),
            fault(store(place, data.machine() | READ_ONLY)),
            table.word(1).map(|word| word & pte::MFN),
        ),
        (Ok(0), None, Ok(data.machine())),
    );
    report.equal(
        "a pinned L1: a bad entry",
        fault(store(place + 8, (lab.table(3).mfn * 4096) | WRITABLE)),
        right(place + 8),
    );
    report.equal(
        "a pinned L1: unpinned",
        (unpin(table.mfn()), fault(store(place + 16, 0))),
        (Ok(0), right(place + 16)),
    );
    report.equal("a page afterwards", is_plain(table), true);
    let _ = table.set_word(1, 0);
    // Typed as something else.
    for level in 2..=4 {
        report.equal(
            format_args!("a pinned L{level}"),
            (
                protect(table),
                pin(level, table.mfn()),
                fault(store(place, 0)),
                unpin(table.mfn()),
            ),
            (Ok(0), Ok(0), right(place), Ok(0)),
        );
    }
    if is_plain(table) {
        for slot in 0..512 {
            let _ = table.set_word(slot, 0);
        }
    }
    release(table);
}

/// Read-only pages of other kinds, with writes that would be good entries.
fn not_tables(report: &mut Report) {
    let m2p = dom0_abi::arch::MACH2PHYS_VIRT_START;
    report.equal(
        "the machine-to-physical table",
        fault(store(m2p, 0)),
        right(m2p),
    );
    // Reads never trap: the page is there.
    let value: u64;
    let address = Table::boot_root().address;
    let trap = probe!("mov {v}, [{a}]"; a = in(reg) address, v = out(reg) value);
    report.equal(
        "a read of the root",
        (fault(trap), value),
        (None, Table::boot_root().entry(0)),
    );
}

/// With the assistance off a write may be the guest's page fault; it must not be anything else.
pub fn without_assistance(report: &mut Report, lab: Lab) {
    report.equal(
        "the assistance is off",
        hypercall::vm_assist(false, VmAssist::WritablePagetables),
        Ok(0),
    );
    let table = lab.table(1);
    let place = table.address + SLOT as u64 * 8;
    let entry = page().machine() | READ_ONLY;
    let trap = fault(store(place, entry));
    let written = table.entry(SLOT) & pte::MFN == entry & pte::MFN;
    report.check(
        "a good entry without assistance",
        trap.is_none() && written || trap == right(place) && table.entry(SLOT) == 0,
        format_args!("{trap:x?} {written}"),
    );
    let before = table.entry(SLOT);
    for (name, bad) in bad(lab) {
        report.equal(
            format_args!("without assistance: {name}"),
            (fault(store(place, bad)), table.entry(SLOT)),
            (right(place), before),
        );
    }
    report.equal("cleared", lab.set(1, SLOT, 0), Ok(0));
}
