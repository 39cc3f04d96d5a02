//! `set_gdt`: counts, lists, and frames that can or cannot be a table.

use core::fmt::Display;

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall::{self, memory};
use kit::descriptors::{FLAT_CODE64, FLAT_DATA, access, access_rights, gate, global, segment};
use kit::frames::{mfn_of, readable, take, writable};
use kit::memory::{
    self as layout, NON_CANONICAL, PAGE, Page, READ_ONLY_OF_HYPERVISOR, UNMAPPED, end_of_mapping,
};
use kit::page_tables::{self, Table, pin, protect, unprotect};
use kit::trap::vector;
use kit::{Report, start_info};

use crate::{Answer, WINDOW, refused, seen, set, set_page, table_page};

/// `set_gdt` with any list.
fn set_at(list: u64, entries: u64) -> Answer {
    // SAFETY: as for `set`.
    unsafe { hypercall::call(Hypercall::SetGdt, [list, entries, 0, 0, 0]) }
}

/// Which of three descriptors are there: number 1, the first of the second page, the last of all.
fn there() -> [bool; 3] {
    [1, 513, 7167].map(|index| access_rights(global(index)).is_ok_and(|rights| rights.is_some()))
}

pub fn check(report: &mut Report) {
    let page = table_page(&[(1, FLAT_DATA), (511, FLAT_CODE64)]);
    report.equal("no table at first", there(), [false; 3]);
    report.equal(
        "no table: a selector",
        seen(kit::descriptors::Register::Es.load(global(1))),
        refused(global(1)),
    );

    counts(report, page);
    life(report, page);
    frames(report, page);
    lists(report, page);
    contents(report, page);
}

fn counts(report: &mut Report, page: &'static Page) {
    // The same frame as often as one likes.
    let frames = [page.mfn(); 16];
    for (entries, right) in [
        (512, [true, false, false]),
        (0, [false; 3]),
        // A page counts as a whole.
        (1, [true, false, false]),
        (511, [true, false, false]),
        (513, [true, true, false]),
        (7168, [true; 3]),
    ] {
        report.equal(
            format_args!("set_gdt: {entries} entries"),
            (set(&frames, entries), there()),
            (Ok(0), right),
        );
    }
    // The last two of the sixteen pages are the hypervisor's.
    for entries in [7169, 7680, 7681, 8192, 8193, 1 << 16, (1 << 32) - 1] {
        report.equal(
            format_args!("set_gdt: {entries} entries"),
            (set(&frames, entries), there()),
            (Err(Errno::EINVAL), [true; 3]),
        );
    }
    // The count has 32 bits.
    for (entries, right) in [
        (1 << 32 | 512, [true, false, false]),
        (1 << 32, [false; 3]),
        (1 << 63 | 513, [true, true, false]),
    ] {
        let list = frames.as_ptr().expose_provenance() as u64;
        report.equal(
            format_args!("set_gdt: {entries:#x} entries"),
            (set_at(list, entries), there()),
            (Ok(0), right),
        );
    }
}

/// From a writable page to a table and back.
fn life(report: &mut Report, page: &'static Page) {
    set(&[], 0).expect("an empty table is always possible");
    unprotect(page).expect("a page of no table can be mapped");
    report.equal(
        "a writable page",
        set(&[page.mfn()], 512),
        Err(Errno::EINVAL),
    );
    protect(page).expect("an own page can be mapped read-only");
    report.equal("a read-only page", set(&[page.mfn()], 512), Ok(0));
    report.equal(
        "a table: mapped to be written, to be read",
        (
            WINDOW.set(writable(page.mfn())),
            WINDOW.set(readable(page.mfn())),
        ),
        (Err(Errno::EBUSY), Ok(0)),
    );
    WINDOW.close();
    let write = page.set_word(9, 1).map(|trap| (trap.vector, trap.error));
    report.equal("a table: written", write, Some((vector::PF, Some(3))));
    report.equal(
        "a table: as a page table",
        pin(1, page.mfn()),
        Err(Errno::EINVAL),
    );
    report.equal("an empty table", set(&[], 0), Ok(0));
    report.equal("its page is writable again", unprotect(page), Ok(0));
    protect(page).expect("an own page can be mapped read-only");
}

fn frames(report: &mut Report, page: &'static Page) {
    set_page(page);
    let free = take(1);
    report.equal(
        "a frame that nothing maps",
        (set(&[mfn_of(free)], 512), there()),
        (Ok(0), [false; 3]),
    );
    set_page(page);

    let table = page_tables::page();
    protect(table).expect("an own page can be mapped read-only");
    pin(1, table.mfn()).expect("a page of zeroes is a table");
    let mut machphys = [0];
    memory::machphys_mfn_list(&mut machphys).expect("dom0 may ask for the table's frames");
    for (name, mfn) in [
        ("the root", Table::boot_root().mfn),
        (
            "a table of level 1",
            Table::of_kernel(1, layout::image().0).mfn,
        ),
        ("a pinned table", table.mfn()),
        // The hypervisor itself writes there.
        ("the shared info page", start_info().shared_info / PAGE),
        ("the machine-to-physical table's", machphys[0]),
        ("frame 0", 0),
        ("a device's", 0xf_ec00),
        (
            "behind the end of RAM",
            memory::maximum_ram_page().unwrap_or(0) + 1,
        ),
        ("far away", 1 << 40),
        ("the last number", u64::MAX),
    ] {
        keeps(report, name, || set(&[mfn], 512), Errno::EINVAL);
        keeps(
            report,
            format_args!("{name}, as the second"),
            || set(&[page.mfn(), mfn], 513),
            Errno::EINVAL,
        );
    }
}

/// A call that fails and leaves the table that there was.
fn keeps(report: &mut Report, name: impl Display, call: impl FnOnce() -> Answer, error: Errno) {
    report.equal(
        format_args!("set_gdt: {name}"),
        (call(), there()),
        (Err(error), [true, false, false]),
    );
}

fn lists(report: &mut Report, page: &'static Page) {
    for (name, address) in [
        ("null", 0),
        ("not mapped", UNMAPPED),
        ("not canonical", NON_CANONICAL),
        ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR),
        ("the middle of the hypervisor", 0xffff_8300_0000_0000),
        ("the end of the address space", u64::MAX - 3),
    ] {
        keeps(
            report,
            format_args!("list: {name}"),
            || set_at(address, 512),
            Errno::EFAULT,
        );
        keeps(
            report,
            format_args!("list for all: {name}"),
            || set_at(address, 7168),
            Errno::EFAULT,
        );
        // Nothing of it is read then.
        report.equal(
            format_args!("set_gdt: no entries, list: {name}"),
            set_at(address, 0),
            Ok(0),
        );
        set_page(page);
    }
    let end = end_of_mapping() - 8;
    keeps(
        report,
        "list: runs into a page that is not there",
        || set_at(end, 513),
        Errno::EFAULT,
    );
}

/// One descriptor decides about its page.
fn contents(report: &mut Report, page: &'static Page) {
    for (name, descriptor) in [
        ("an LDT", segment(0, 0xffff, access::LDT, 0)),
        ("a TSS", segment(0, 0x67, access::TSS, 0)),
        (
            "an interrupt gate",
            gate(0xe033, 0x1000, access::INTERRUPT_GATE),
        ),
        ("a trap gate", gate(0xe033, 0x1000, access::TRAP_GATE)),
        (
            "a call gate into the hypervisor",
            gate(0xe008, 0x1000, access::CALL_GATE),
        ),
    ] {
        for place in [0, 2, 511] {
            let bad = table_page(&[(place, descriptor), (3, FLAT_DATA)]);
            // Whether the entry is within the count or not.
            for entries in [512, 1] {
                keeps(
                    report,
                    format_args!("{name} in entry {place}, {entries} entries"),
                    || set(&[bad.mfn()], entries),
                    Errno::EINVAL,
                );
            }
            keeps(
                report,
                format_args!("{name} in entry {place} of the second page"),
                || set(&[page.mfn(), bad.mfn()], 513),
                Errno::EINVAL,
            );
            report.equal(
                format_args!("{name} in entry {place}: as it was, and writable"),
                (bad.word(usize::from(place)), unprotect(bad)),
                (Ok(descriptor), Ok(0)),
            );
            for index in [usize::from(place), 3] {
                bad.set_word(index, 0);
            }
            page_tables::release(bad);
        }
    }
    set(&[], 0).expect("an empty table is always possible");
}
