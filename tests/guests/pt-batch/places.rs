//! Where an `mmu_update` writes: the low bits of the address are the command, and the frame need not be a table.

use dom0_abi::arch::HYPERVISOR_FIRST_SLOT;
use dom0_abi::errno::Errno;
use dom0_abi::xen::MmuCommand;
use guest_pv_drivers::hypercall::Batch;
use kit::memory::{PAGE, pte, read, write};
use kit::page_tables::{
    Lab, READ_ONLY, Table, page, protect, unmap, unmapped_frame, unprotect, update, update_as,
};
use kit::{Report, start_info};

const SLOT: usize = 30;

const DONE: Batch = Batch {
    result: Ok(0),
    done: 1,
};

fn refused(error: Errno) -> Batch {
    Batch {
        result: Err(error),
        done: 0,
    }
}

pub fn check(report: &mut Report, lab: Lab) {
    commands(report, lab);
    plain_pages(report);
    nobodys(report);
    preserve(report, lab);
}

/// Bits 0 and 1 are the command; bit 2 makes it one that does not exist. Nothing is written half into an entry.
fn commands(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let entry = page().machine() | READ_ONLY;
    for low in 0..8u64 {
        if low & 3 == MmuCommand::MachPhys as u64 && low < 4 {
            continue;
        }
        // SAFETY: nothing that Rust knows of is in the window.
        let batch = unsafe { update(table.machine(SLOT) | low, entry) };
        let is_there = table.entry(SLOT) != 0;
        let _ = lab.set(1, SLOT, 0);
        let right = if low < 4 {
            (DONE, true)
        } else {
            (refused(Errno::ENOSYS), false)
        };
        report.equal(
            format_args!("low bits {low}"),
            (batch, is_there, table.entry(SLOT + 1)),
            (right.0, right.1, 0),
        );
    }
}

/// A page that is no table is written as by the guest itself, with any value.
fn plain_pages(report: &mut Report) {
    let value = 0xdead_beef_0123_4567;
    let (writable, read_only, unmapped) = (page(), page(), page());
    report.equal(
        "pages with and without mappings",
        (protect(read_only), unmap(unmapped)),
        (Ok(0), Ok(0)),
    );
    for (name, page) in [
        ("writable", writable),
        ("read-only", read_only),
        ("unmapped", unmapped),
    ] {
        for command in [
            MmuCommand::Normal,
            MmuCommand::PreserveAd,
            MmuCommand::NoTranslate,
        ] {
            let value = value + command as u64;
            // SAFETY: the page is reached through raw pointers alone.
            let batch = unsafe { update_as(command, page.machine() + 16, value) };
            let seen = (batch, unprotect(page), page.word(2), page.word(3));
            report.equal(
                format_args!("a {name} page, {command:?}"),
                seen,
                (DONE, Ok(0), Ok(value), Ok(0)),
            );
        }
    }
    let mfn = unmapped_frame();
    // SAFETY: nobody has that frame.
    let batch = unsafe { update(mfn * PAGE, 1) };
    report.equal("a frame that was never mapped", batch, DONE);
}

fn nobodys(report: &mut Report) {
    let hypervisor = Table::boot_root().entry(HYPERVISOR_FIRST_SLOT) & pte::MFN;
    for (name, place) in [
        ("the hypervisor's", hypervisor),
        ("frame 0", 0),
        ("the local APIC", 0xfee0_0000),
        ("no frame", ((1 << 40) - 1) * PAGE),
        ("all ones", !0xfff),
    ] {
        for command in [
            MmuCommand::Normal,
            MmuCommand::PreserveAd,
            MmuCommand::NoTranslate,
        ] {
            // SAFETY: refused.
            let batch = unsafe { update_as(command, place | 0x800, 0) };
            report.equal(
                format_args!("update of {name}, {command:?}"),
                batch,
                refused(Errno::EINVAL),
            );
        }
    }
    report.check(
        "the guest's memory is as before",
        start_info().magic.starts_with(b"xen-3.0"),
        "",
    );
}

/// The accessed and dirty bits that a CPU has set survive that command, and only that.
fn preserve(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let (first, second) = (page(), page());
    let bits = pte::P | pte::U | pte::RW;
    let flags = |entry: u64| entry & (pte::P | pte::RW | pte::A | pte::D);
    let set = |command, entry| {
        // SAFETY: nothing that Rust knows of is in the window.
        let batch = unsafe { update_as(command, table.machine(SLOT), entry) };
        (batch, flags(table.entry(SLOT)))
    };
    report.equal(
        "an entry neither accessed nor dirty",
        set(MmuCommand::Normal, first.machine() | bits),
        (DONE, pte::P | pte::RW),
    );
    let touched = read(Lab::address(SLOT));
    let accessed = flags(table.entry(SLOT));
    let written = write(Lab::address(SLOT), 1).is_none();
    report.equal(
        "the CPU marks it",
        (touched, accessed, written, flags(table.entry(SLOT))),
        (
            Ok(0),
            pte::P | pte::RW | pte::A,
            true,
            pte::P | pte::RW | pte::A | pte::D,
        ),
    );
    let marks = pte::A | pte::D;
    report.equal(
        "made read-only, marks kept",
        set(MmuCommand::PreserveAd, first.machine() | pte::P | pte::U),
        (DONE, pte::P | marks),
    );
    report.equal(
        "another frame, marks kept",
        set(MmuCommand::PreserveAd, second.machine() | pte::P | pte::U),
        (DONE, pte::P | marks),
    );
    report.equal(
        "made read-only, marks lost",
        set(MmuCommand::Normal, second.machine() | pte::P | pte::U),
        (DONE, pte::P),
    );
    // What is refused must not change marks either.
    let there = table.entry(SLOT);
    let bad = (table.mfn * PAGE) | bits | marks;
    report.equal(
        "a refused one changes no mark",
        (set(MmuCommand::PreserveAd, bad), table.entry(SLOT)),
        ((refused(Errno::EBUSY), pte::P), there),
    );
    report.equal("taken away", lab.set(1, SLOT, 0), Ok(0));
}
