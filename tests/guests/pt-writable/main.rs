//! I1: what is a page table is not writable, and what is writable does not become a page table.
//!
//! From both sides: a writable mapping of a table in every way a mapping can be made, and pins of pages that are mapped
//! writable somewhere. XSA-182 is the flip of one flag over a frame that was looked at already. XSA-402 is a mapping
//! past the caches, by which a guest shows the validator other bytes than the CPU: such a mapping may exist while the
//! page is writable, and must not be writable once it is a table.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::arch::HYPERVISOR_FIRST_SLOT;
use dom0_abi::errno::Errno;
use dom0_abi::xen::{MmuCommand, MmuextCommand, UVMF_ALL, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH};
use guest_pv_drivers::hypercall::{self, Batch};
use kit::Report;
use kit::memory::{Page, pte};
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, extended, is_plain, page, pin, protect, release, unmap, unpin,
    unprotect, update_as,
};

kit::guest!("pt-writable", main);

const BUSY: Result<u64, Errno> = Err(Errno::EBUSY);
const SLOT: usize = 9;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    for level in 1..=4 {
        let name = format_args!("the L{level} in use");
        mappings(report, lab, name, level, lab.table(level));
        // The kernel's own: what its instructions are fetched through.
        let kernel = Table::of_kernel(level, kit::memory::image().0);
        mappings(
            report,
            lab,
            format_args!("the kernel's L{level}"),
            level,
            kernel,
        );
        pinned(report, lab, level);
        writable_somewhere(report, lab, level);
        uncached(report, lab, level);
        writable_itself(report, level);
    }
    writable_bit_of_upper_entries(report, lab);
    cleared_and_copied(report, lab);
}

/// Each way to a writable mapping of a table; nothing changes.
fn mappings(
    report: &mut Report,
    lab: Lab,
    name: impl core::fmt::Display,
    level: usize,
    table: Table,
) {
    let place = lab.table(1);
    let frame = table.mfn * 4096;
    for (before, old) in [("new", 0), ("over a read-only one", frame | READ_ONLY)] {
        report.equal(
            format_args!("{name}: mapping, {before}"),
            lab.set(1, SLOT, old),
            Ok(0),
        );
        let there = place.entry(SLOT);
        for (kind, entry) in [
            ("writable", frame | WRITABLE),
            ("for the kernel", frame | pte::P | pte::RW),
            ("only the flag", there | frame | pte::P | pte::RW),
            ("not executable", frame | WRITABLE | pte::NX),
            ("uncached", frame | WRITABLE | pte::PCD),
            ("write-combining", frame | WRITABLE | pte::PAT),
        ] {
            for command in [MmuCommand::Normal, MmuCommand::PreserveAd] {
                // SAFETY: nothing that Rust knows of is in the window.
                let batch = unsafe { update_as(command, place.machine(SLOT), entry) };
                report.equal(
                    format_args!("{name}: {before}, {kind}, {command:?}"),
                    (batch.result, batch.done, place.entry(SLOT)),
                    (BUSY, 0, there),
                );
            }
            for flags in [UVMF_NONE, UVMF_INVLPG, UVMF_TLB_FLUSH | UVMF_ALL] {
                // SAFETY: as above.
                let answer =
                    unsafe { hypercall::update_va_mapping(Lab::address(SLOT), entry, flags) };
                report.equal(
                    format_args!("{name}: {before}, {kind}, update_va_mapping {flags}"),
                    (answer, place.entry(SLOT)),
                    (BUSY, there),
                );
            }
        }
    }
    // A level-1 table may be written by trap and emulation, which `pt-trapped` looks at.
    if level > 1 {
        let old = table.entry(0);
        let written = kit::memory::write(Lab::address(SLOT), old);
        report.equal(
            format_args!("{name}: a write through the read-only mapping"),
            written.map(|trap| (trap.vector, trap.error)),
            // Present, write.
            Some((kit::trap::vector::PF, Some(3))),
        );
    }
    report.equal(
        format_args!("{name}: mapping taken away"),
        lab.set(1, SLOT, 0),
        Ok(0),
    );
}

/// A page is a table for as long as it is pinned, whatever mapped it before.
fn pinned(report: &mut Report, lab: Lab, level: usize) {
    let table: &'static Page = page();
    report.equal(
        format_args!("L{level}: pinned, not mapped at all"),
        (unmap(table), pin(level, table.mfn())),
        (Ok(0), Ok(0)),
    );
    report.equal(
        format_args!("L{level}: pinned, then writable"),
        (unprotect(table), lab.map(SLOT, table.machine() | WRITABLE)),
        (BUSY, BUSY),
    );
    report.equal(
        format_args!("L{level}: pinned, then read-only"),
        (protect(table), lab.map(SLOT, table.machine() | READ_ONLY)),
        (Ok(0), Ok(0)),
    );
    report.equal(
        format_args!("L{level}: unpinned, then writable"),
        (
            unpin(table.mfn()),
            lab.map(SLOT, table.machine() | WRITABLE),
            lab.map(SLOT, 0),
            is_plain(table),
        ),
        (Ok(0), Ok(0), Ok(0), true),
    );
    release(table);
}

fn writable_somewhere(report: &mut Report, lab: Lab, level: usize) {
    let table: &'static Page = page();
    let refused = Err(Errno::EINVAL);
    report.equal(
        format_args!("L{level}: pin of a writable page"),
        (pin(level, table.mfn()), is_plain(table)),
        (refused, true),
    );
    // Twice writable, then once, then not at all.
    let answers = (
        lab.map(SLOT, table.machine() | WRITABLE),
        protect(table),
        pin(level, table.mfn()),
        lab.map(SLOT, table.machine() | READ_ONLY),
        pin(level, table.mfn()),
        unpin(table.mfn()),
        lab.map(SLOT, 0),
    );
    report.equal(
        format_args!("L{level}: pin of a page that is writable in one place of two"),
        answers,
        (Ok(0), Ok(0), refused, Ok(0), Ok(0), Ok(0), Ok(0)),
    );
    // The same frame writable in two slots of one table: each counts.
    let answers = (
        lab.map(SLOT, table.machine() | WRITABLE),
        lab.map(SLOT + 1, table.machine() | WRITABLE),
        lab.map(SLOT, 0),
        pin(level, table.mfn()),
        lab.map(SLOT + 1, 0),
        pin(level, table.mfn()),
        unpin(table.mfn()),
    );
    report.equal(
        format_args!("L{level}: pin of a page that was writable twice"),
        answers,
        (Ok(0), Ok(0), Ok(0), refused, Ok(0), Ok(0), Ok(0)),
    );
    report.check(
        format_args!("L{level}: the page is a page afterwards"),
        is_plain(table),
        "typed",
    );
    release(table);
}

fn uncached(report: &mut Report, lab: Lab, level: usize) {
    for (kind, flags) in [
        ("write-through", pte::PWT),
        ("uncached", pte::PCD | pte::PWT),
        // The fourth type is write-protect, the fifth write-combining.
        ("write-combining", pte::PAT | pte::PWT),
        ("write-protected", pte::PAT),
    ] {
        let table: &'static Page = page();
        let entry = table.machine() | flags;
        report.equal(
            format_args!("L{level}: pin of a page that is mapped {kind} and writable"),
            (
                protect(table),
                lab.map(SLOT, entry | WRITABLE),
                pin(level, table.mfn()),
            ),
            (Ok(0), Ok(0), Err(Errno::EINVAL)),
        );
        report.equal(
            format_args!("L{level}: pin of a page that is mapped {kind} and read-only"),
            (
                lab.map(SLOT, entry | READ_ONLY),
                pin(level, table.mfn()),
                lab.map(SLOT, entry | WRITABLE),
            ),
            (Ok(0), Ok(0), BUSY),
        );
        report.equal(
            format_args!("L{level}: a table mapped {kind} after the pin"),
            (
                lab.map(SLOT, 0),
                lab.map(SLOT, entry | READ_ONLY),
                lab.map(SLOT, entry | WRITABLE),
                lab.map(SLOT, 0),
                unpin(table.mfn()),
                is_plain(table),
            ),
            (Ok(0), Ok(0), BUSY, Ok(0), Ok(0), true),
        );
        release(table);
    }
}

/// A level-1 table that maps its own tree: validated, each table would be writable through it.
fn writable_itself(report: &mut Report, level: usize) {
    let pages = [page(), page(), page(), page()];
    let target = pages[level - 1];
    let mut written = pages[0].set_word(77, target.machine() | WRITABLE).is_none();
    for pair in pages.windows(2) {
        written &= pair[1].set_word(0, pair[0].machine() | WRITABLE).is_none();
    }
    report.equal(
        format_args!("a tree whose L1 maps its L{level}"),
        (written, pages.map(protect)),
        (true, [Ok(0); 4]),
    );
    let answer = pin(4, pages[3].mfn());
    report.equal(
        format_args!("a tree whose L1 maps its L{level} is not pinned"),
        answer,
        BUSY,
    );
    report.equal(
        format_args!("a tree whose L1 maps its L{level}: pages afterwards"),
        pages.map(is_plain),
        [true; 4],
    );
    for page in pages.into_iter().rev() {
        if page.set_word(0, 0).is_none() && page.set_word(77, 0).is_none() {
            release(page);
        }
    }
}

/// The writable bit of upper entries is the guest's to choose: it maps nothing by itself. Taking it away takes the
/// right to write from all below.
fn writable_bit_of_upper_entries(report: &mut Report, lab: Lab) {
    let data = page();
    report.equal(
        "a page in the window",
        lab.map(SLOT, data.machine() | WRITABLE),
        Ok(0),
    );
    let va = Lab::address(SLOT);
    for level in 2..=4 {
        let slot = if level == 4 { Lab::ROOT_SLOT } else { 0 };
        let there = lab.table(level).entry(slot);
        let write = |value| {
            (
                kit::memory::write(va, value).map(|trap| trap.error),
                data.word(0),
            )
        };
        report.equal(
            format_args!("L{level} entry: writable"),
            write(1),
            (None, Ok(1)),
        );
        let cleared = lab.set(level, slot, there & !pte::RW);
        flush(report);
        report.equal(
            format_args!("L{level} entry: made read-only"),
            (cleared, write(2)),
            (Ok(0), (Some(Some(3)), Ok(1))),
        );
        let set = lab.set(level, slot, there);
        flush(report);
        report.equal(
            format_args!("L{level} entry: made writable"),
            (set, write(3)),
            (Ok(0), (None, Ok(3))),
        );
    }
}

fn flush(report: &mut Report) {
    // SAFETY: flushes.
    let batch = unsafe { extended(MmuextCommand::TlbFlushLocal, 0, 0) };
    if batch.result.is_err() {
        report.check("flush", false, "refused");
    }
}

/// The hypervisor writes whole pages on request: not those that are tables, not those of others.
fn cleared_and_copied(report: &mut Report, lab: Lab) {
    let (from, to, read_only) = (page(), page(), page());
    let _ = from.set_word(5, 0x77);
    let _ = read_only.set_word(5, 0x88);
    let call = |command, to: u64, from: u64| {
        // SAFETY: refused, or a page that is reached through raw pointers alone.
        unsafe { extended(command, to, from) }
    };
    let done = Batch {
        result: Ok(0),
        done: 1,
    };
    let refused = Batch {
        result: Err(Errno::EINVAL),
        done: 0,
    };
    let copy = |to, from| call(MmuextCommand::CopyPage, to, from);
    let clear = |to| call(MmuextCommand::ClearPage, to, 0);
    report.equal(
        "a page copied, then cleared",
        (
            copy(to.mfn(), from.mfn()),
            to.word(5),
            clear(to.mfn()),
            to.word(5),
        ),
        (done, Ok(0x77), done, Ok(0)),
    );
    report.equal(
        "a read-only page cleared, then copied to",
        (
            protect(read_only),
            clear(read_only.mfn()),
            read_only.word(5),
            copy(read_only.mfn(), from.mfn()),
            read_only.word(5),
        ),
        (Ok(0), done, Ok(0), done, Ok(0x77)),
    );
    for level in 1..=4 {
        let table = lab.table(level);
        let before: [u64; 512] = core::array::from_fn(|slot| table.entry(slot));
        report.equal(
            format_args!("the L{level} in use: cleared, copied to, copied from"),
            (
                clear(table.mfn),
                copy(table.mfn, from.mfn()),
                copy(to.mfn(), table.mfn),
            ),
            (refused, refused, done),
        );
        let changed = (0..512).find(|&slot| {
            // The CPU may mark an entry at any time.
            let marks = pte::A | pte::D;
            (table.entry(slot) ^ before[slot]) & !marks != 0
                || to
                    .word(slot)
                    .is_ok_and(|word| (word ^ before[slot]) & !marks != 0)
        });
        report.equal(
            format_args!("the L{level} in use: as before, and copied right"),
            changed,
            None,
        );
    }
    let hypervisor = (Table::boot_root().entry(HYPERVISOR_FIRST_SLOT) & pte::MFN) / 4096;
    for (name, mfn) in [
        ("frame 0", 0),
        ("a frame of the hypervisor's", hypervisor),
        ("the local APIC", 0xfee00),
        ("no frame", (1 << 40) - 1),
        ("all ones", u64::MAX),
    ] {
        report.equal(
            format_args!("{name}: cleared, copied to, copied from"),
            (clear(mfn), copy(mfn, from.mfn()), copy(to.mfn(), mfn)),
            (refused, refused, refused),
        );
    }
    report.equal("a page that was copied to is a page", is_plain(to), true);
}
