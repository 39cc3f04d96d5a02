//! XSA-286: a hypervisor that edits tables through the guest's own address space believes what the guest maps there.
//!
//! One level-1 table hangs in two places, then in none that the kernel reads it by; parts of the way down are replaced
//! without a flush. Whatever an update names, it must strike that table's frame, and what it returns must be true.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::errno::Errno;
use dom0_abi::xen::{MmuextCommand, UVMF_INVLPG, UVMF_NONE};
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::memory::{Page, read};
use kit::page_tables::{
    Lab, READ_ONLY, WRITABLE, extended, is_plain, page, protect, release, unmap,
};

kit::guest!("pt-linear-map", main);

/// What a slot of the level-2 table translates.
const L1_SPAN: u64 = 1 << 21;
const SLOT: usize = 17;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let pages = [page(), page()];
    for (number, page) in pages.into_iter().enumerate() {
        let _ = page.set_word(0, 100 + number as u64);
    }
    two_places(report, lab, pages);
    nowhere_mapped(report, lab, pages);
    replaced_without_flush(report, lab, pages);
    table_of_tables(report, lab, pages);
}

/// The address that a slot of the level-1 table in slot `place` of the level-2 table translates.
fn address(place: u64) -> u64 {
    Lab::address(SLOT) + place * L1_SPAN
}

fn map(va: u64, entry: u64, flags: u64) -> Result<u64, Errno> {
    // SAFETY: nothing that Rust knows of is in the window.
    unsafe { hypercall::update_va_mapping(va, entry, flags) }
}

fn flush() {
    // SAFETY: flushes.
    let _ = unsafe { extended(MmuextCommand::TlbFlushAll, 0, 0) };
}

fn two_places(report: &mut Report, lab: Lab, pages: [&'static Page; 2]) {
    let table = lab.table(1);
    report.equal(
        "one L1 in two slots of an L2",
        lab.set(2, 1, (table.mfn * 4096) | WRITABLE),
        Ok(0),
    );
    for (from, to) in [(0, 1), (1, 0)] {
        for (number, page) in pages.into_iter().enumerate() {
            let set = map(address(from), page.machine() | READ_ONLY, UVMF_INVLPG);
            flush();
            report.equal(
                format_args!("page {number} mapped by place {from}, seen by both"),
                (set, read(address(from)), read(address(to))),
                (Ok(0), Ok(100 + number as u64), Ok(100 + number as u64)),
            );
        }
    }
    // The other place loses its way down: the first is as good as before.
    report.equal("the second place goes", lab.set(2, 1, 0), Ok(0));
    flush();
    report.equal(
        "only the first place is left",
        (
            map(address(1), pages[0].machine() | READ_ONLY, UVMF_NONE),
            read(address(1)),
            read(address(0)),
        ),
        (Err(Errno::EINVAL), Err(0), Ok(101)),
    );
}

/// Tables that the guest itself cannot read.
fn nowhere_mapped(report: &mut Report, lab: Lab, pages: [&'static Page; 2]) {
    let l1 = page();
    report.equal(
        "an L1 that is linked and then mapped nowhere",
        (
            protect(l1),
            lab.set(2, 2, l1.machine() | WRITABLE),
            unmap(l1),
            l1.word(0).is_err(),
        ),
        (Ok(0), Ok(0), Ok(0), true),
    );
    report.equal(
        "update_va_mapping through it",
        (
            map(address(2), pages[0].machine() | READ_ONLY, UVMF_INVLPG),
            read(address(2)),
        ),
        (Ok(0), Ok(100)),
    );
    let place = l1.machine() + SLOT as u64 * 8;
    // SAFETY: nothing that Rust knows of is in the window.
    let updated = unsafe { kit::page_tables::update(place, pages[1].machine() | READ_ONLY) };
    flush();
    report.equal(
        "mmu_update of it",
        (updated.result, read(address(2))),
        (Ok(0), Ok(101)),
    );
    report.equal(
        "it goes",
        (lab.set(2, 2, 0), is_plain(l1), l1.word(SLOT).is_ok()),
        (Ok(0), true, true),
    );
    let _ = l1.set_word(SLOT, 0);
    release(l1);
}

/// A slot of the L2 is changed from one L1 to another while translations by the first may still be there: updates are
/// those of the second all the same.
fn replaced_without_flush(report: &mut Report, lab: Lab, pages: [&'static Page; 2]) {
    let tables = [page(), page()];
    report.equal("two tables", tables.map(protect), [Ok(0); 2]);
    let hang = |table: &'static Page| lab.set(2, 3, table.machine() | WRITABLE);
    report.equal(
        "the first hangs and translates",
        (
            hang(tables[0]),
            map(address(3), pages[0].machine() | READ_ONLY, UVMF_INVLPG),
            read(address(3)),
        ),
        (Ok(0), Ok(0), Ok(100)),
    );
    report.equal(
        "the second in its place: an update strikes it",
        (
            hang(tables[1]),
            map(address(3), pages[1].machine() | READ_ONLY, UVMF_NONE),
            tables[0].word(SLOT).map(|word| word & !0xfff),
            tables[1].word(SLOT).map(|word| word & !0xfff),
        ),
        (Ok(0), Ok(0), Ok(pages[0].machine()), Ok(pages[1].machine())),
    );
    flush();
    report.equal("the second translates", read(address(3)), Ok(101));
    // The first has no use now: a page like any other, whoever may still remember it as a table.
    report.equal(
        "the first is a page, the second a table",
        (is_plain(tables[0]), is_plain(tables[1])),
        (true, false),
    );
    report.equal(
        "a word of the first page changes nothing",
        (
            tables[0].set_word(SLOT, u64::MAX).is_none(),
            read(address(3)),
            lab.set(2, 3, 0),
            is_plain(tables[1]),
        ),
        (true, Ok(101), Ok(0), true),
    );
}

/// The same one level up, and with the way down leading back to where the tables are read.
fn table_of_tables(report: &mut Report, lab: Lab, pages: [&'static Page; 2]) {
    let (l2, l1) = (page(), page());
    let written = l2.set_word(0, l1.machine() | WRITABLE).is_none()
        && l1.set_word(SLOT, pages[0].machine() | READ_ONLY).is_none()
        // The L1 shows the L2, the L1 and the root of it all, read-only.
        && l1.set_word(1, l2.machine() | READ_ONLY).is_none()
        && l1.set_word(2, l1.machine() | READ_ONLY).is_none()
        && l1.set_word(3, (lab.table(4).mfn * 4096) | READ_ONLY).is_none();
    let slot = 4;
    let base = Lab::WINDOW + slot as u64 * (1 << 30);
    report.equal(
        "tables that show themselves",
        (
            written,
            protect(l2),
            protect(l1),
            lab.set(3, slot, l2.machine() | WRITABLE),
            read(base + SLOT as u64 * 4096),
        ),
        (true, Ok(0), Ok(0), Ok(0), Ok(100)),
    );
    let shown = |index: u64, word: u64| read(base + index * 4096 + word * 8);
    report.equal(
        "what they show is true",
        (
            shown(1, 0) == l2.word(0),
            shown(2, SLOT as u64) == l1.word(SLOT),
            shown(3, 511) == Ok(lab.table(4).entry(511)),
        ),
        (true, true, true),
    );
    // An update of the very mapping by which the table is seen.
    report.equal(
        "the entry that shows the table is changed",
        (
            map(base + 2 * 4096, pages[1].machine() | READ_ONLY, UVMF_INVLPG),
            shown(2, 0),
            l1.word(2).map(|word| word & !0xfff),
        ),
        (Ok(0), Ok(101), Ok(pages[1].machine())),
    );
    for (name, index) in [("L2", 1), ("root", 3)] {
        let entry = l1.word(index).unwrap_or(0) | kit::memory::pte::RW;
        report.equal(
            format_args!("the mapping of the {name} does not become writable"),
            map(base + index as u64 * 4096, entry, UVMF_INVLPG),
            Err(Errno::EBUSY),
        );
    }
    report.equal(
        "all goes",
        (lab.set(3, slot, 0), is_plain(l2), is_plain(l1)),
        (Ok(0), true, true),
    );
}
