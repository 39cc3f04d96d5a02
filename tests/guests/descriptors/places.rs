//! Where `update_descriptor` may write.

use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::memory;
use kit::descriptors::{FLAT_CODE64, FLAT_DATA, access, access_rights, global, segment};
use kit::frames::{mfn_of, readable, take};
use kit::memory::{self as layout, PAGE};
use kit::page_tables::{self, Table, pin, protect, unprotect};
use kit::{Report, start_info};

use crate::{WINDOW, set, set_page, table_page, update};

pub fn check(report: &mut Report) {
    let page = table_page(&[(1, FLAT_DATA)]);
    set_page(page);
    let table = page.machine();
    for offset in [1, 2, 4, 7, 8 + 1, 4095] {
        report.equal(
            format_args!("update_descriptor: offset {offset}"),
            update(table + offset, FLAT_CODE64),
            Err(Errno::EINVAL),
        );
    }
    for index in [0, 1, 511] {
        report.equal(
            format_args!("update_descriptor: entry {index}"),
            (
                update(table + index * 8, FLAT_CODE64),
                page.word(index as usize),
            ),
            (Ok(0), Ok(FLAT_CODE64)),
        );
    }
    report.equal(
        "update_descriptor: the CPU sees it",
        access_rights(global(1)).ok().flatten(),
        Some(u32::from(access::USER | access::CODE | access::READABLE) << 8 | 0xa0_0000),
    );
    report.equal("the table is no longer used", set(&[], 0), Ok(0));

    // Pages that are no table: the guest could write there itself.
    let plain = page_tables::page();
    let guarded = page_tables::page();
    protect(guarded).expect("an own page can be mapped read-only");
    for (name, page) in [("a writable page", plain), ("a read-only page", guarded)] {
        report.equal(
            format_args!("update_descriptor: {name}"),
            (update(page.machine() + 16, FLAT_DATA), page.word(2)),
            (Ok(0), Ok(FLAT_DATA)),
        );
        report.equal(
            format_args!("update_descriptor: {name}: bad"),
            (
                update(page.machine() + 16, segment(0, 0, access::TSS, 0)),
                page.word(2),
            ),
            (Err(Errno::EINVAL), Ok(FLAT_DATA)),
        );
        report.equal(
            format_args!("update_descriptor: {name}: it stays that"),
            unprotect(page),
            Ok(0),
        );
    }
    let free = mfn_of(take(1));
    report.equal(
        "update_descriptor: a frame that nothing maps",
        update(free * PAGE, FLAT_DATA),
        Ok(0),
    );
    WINDOW
        .set(readable(free))
        .expect("an own frame can be mapped");
    report.equal(
        "a frame that nothing maps: written",
        WINDOW.read(0),
        FLAT_DATA,
    );
    WINDOW.close();

    others(report);
}

fn others(report: &mut Report) {
    let pinned = page_tables::page();
    protect(pinned).expect("an own page can be mapped read-only");
    pin(1, pinned.mfn()).expect("a page of zeroes is a table");
    let mut machphys = [0];
    memory::machphys_mfn_list(&mut machphys).expect("dom0 may ask for the table's frames");
    let root = Table::boot_root();
    let level1 = Table::of_kernel(1, layout::image().0);
    for (name, place) in [
        ("the root", root.machine(5)),
        ("a table of level 1", level1.machine(0)),
        ("a pinned table", pinned.machine()),
        ("the machine-to-physical table", machphys[0] * PAGE),
        ("frame 0", 8),
        ("a device", 0xfec0_0000),
        (
            "behind the end of RAM",
            (memory::maximum_ram_page().unwrap_or(0) + 1) * PAGE,
        ),
        ("more address bits than there are", 1 << 52),
        ("the last address", !7),
        ("a virtual address", start_info().pt_base),
    ] {
        for (value, descriptor) in [
            ("good", FLAT_DATA),
            ("bad", segment(0, 0, access::TSS, 0)),
            ("zero", 0),
        ] {
            report.equal(
                format_args!("update_descriptor: {name}: {value}"),
                update(place, descriptor),
                Err(Errno::EINVAL),
            );
        }
    }
    report.equal(
        "no table was written",
        (root.entry(5), pinned.word(0)),
        (0, Ok(0)),
    );
}
