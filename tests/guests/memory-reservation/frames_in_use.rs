//! Frames that are given back while something still uses them, and frames that are not the guest's to give.

use dom0_abi::arch::INVALID_M2P_ENTRY;
use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::memory::{self, reservation};
use kit::frames::{Window, mfn_of, pfn_at, readable, take, writable};
use kit::memory::{self as layout, machine_to_physical};
use kit::page_tables::{self, Table};
use kit::{Report, start_info};

use crate::{WINDOW, decrease, increase, pages, repopulate};

static OTHER: Window = Window::new();

pub fn check(report: &mut Report) {
    mapped(report, "mapped to be written", writable);
    mapped(report, "mapped to be read", readable);
    tables(report);
    not_its_own(report);
}

/// A frame with a mapping. Whether the call counts it as given back or not: it stays the guest's until the mapping is
/// gone, for the TLB and the guest's own code still reach it.
fn mapped(report: &mut Report, name: &str, entry: fn(u64) -> u64) {
    let before = pages();
    let pfn = take(1);
    let mfn = mfn_of(pfn);
    WINDOW
        .set(writable(mfn))
        .expect("an own frame can be mapped");
    WINDOW.write(3, 0x1234_5678);
    WINDOW.set(entry(mfn)).expect("an own frame can be mapped");
    let seen = decrease(reservation(&mut [mfn], 0, 0));
    report.check(
        format_args!("decrease: {name}"),
        matches!(seen, Ok(0 | 1)),
        format_args!("{seen:?}"),
    );
    report.equal(format_args!("decrease: {name}: pages"), pages(), before);
    // Nobody else gets it meanwhile.
    let mut others = [0; 64];
    let taken = increase(reservation(&mut others, 0, 0)).expect("there is memory left");
    report.check(
        format_args!("decrease: {name}: not handed out"),
        taken == 64 && !others.contains(&mfn),
        "handed out",
    );
    decrease(reservation(&mut others, 0, 0)).expect("they were just taken");
    report.equal(
        format_args!("decrease: {name}: content"),
        WINDOW.read(3),
        0x1234_5678,
    );
    WINDOW.close();
    // Now at the latest.
    let _ = decrease(reservation(&mut [mfn], 0, 0));
    report.equal(
        format_args!("decrease: {name}: pages, unmapped"),
        pages(),
        before - 1,
    );
    report.equal(
        format_args!("decrease: {name}: machine-to-physical, unmapped"),
        machine_to_physical(mfn),
        Some(INVALID_M2P_ENTRY),
    );
    report.equal(
        format_args!("decrease: {name}: no way back"),
        (OTHER.set(readable(mfn)), OTHER.set(writable(mfn))),
        (Err(Errno::EBUSY), Err(Errno::EBUSY)),
    );
    repopulate(pfn);
}

fn tables(report: &mut Report) {
    let before = pages();
    let root = Table::boot_root();
    for (name, table) in [
        ("the root", root),
        ("a table of level 1", Table::of_kernel(1, layout::image().0)),
    ] {
        let entry = table.entry(511);
        let _ = decrease(reservation(&mut [table.mfn], 0, 0));
        report.equal(
            format_args!("decrease: {name}"),
            (pages(), table.entry(511), machine_to_physical(table.mfn)),
            (before, entry, Some(pfn_at(table.address))),
        );
        report.equal(
            format_args!("decrease: {name}: not writable"),
            OTHER.set(writable(table.mfn)),
            Err(Errno::EBUSY),
        );
    }

    let page = page_tables::page();
    page_tables::protect(page).expect("an own page can be mapped read-only");
    let pinned = page_tables::pin(4, page.mfn());
    report.equal("decrease: a pinned table: pinned", pinned, Ok(0));
    page_tables::unmap(page).expect("an own page can be unmapped");
    let _ = decrease(reservation(&mut [page.mfn()], 0, 0));
    report.equal(
        "decrease: a pinned table",
        (pages(), OTHER.set(writable(page.mfn()))),
        (before, Err(Errno::EBUSY)),
    );
    let _ = page_tables::unpin(page.mfn());
    let _ = decrease(reservation(&mut [page.mfn()], 0, 0));
    report.equal("decrease: a table that was unpinned", pages(), before - 1);
    // The pool's page has no frame any more; it stays taken.
    kit::frames::set_mfn(pfn_at(page.address()), INVALID_M2P_ENTRY);
}

fn not_its_own(report: &mut Report) {
    let before = pages();
    let mut frames = [0; 1];
    memory::machphys_mfn_list(&mut frames).expect("dom0 may ask for the table's frames");
    for (name, mfn) in [
        ("frame 0", 0),
        ("the machine-to-physical table's", frames[0]),
        ("a device's", 0xf_ec00),
        (
            "behind the end of RAM",
            memory::maximum_ram_page().unwrap_or(0) + 1,
        ),
        ("far away", 1 << 40),
        ("the last number", u64::MAX),
    ] {
        report.equal(
            format_args!("decrease: {name}"),
            (decrease(reservation(&mut [mfn], 0, 0)), pages()),
            (Ok(0), before),
        );
    }
    // The frame is the hypervisor's; Xen forgets that the domain may map it, and keeps using it.
    let shared = start_info().shared_info / layout::PAGE;
    let _ = decrease(reservation(&mut [shared], 0, 0));
    report.equal("decrease: the shared info page", pages(), before);
}
