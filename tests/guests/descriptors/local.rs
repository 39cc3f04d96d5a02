//! The local table: its pages come into use one by one, when a selector first needs them.

use core::fmt::Display;

use dom0_abi::errno::Errno;
use dom0_abi::xen::MmuextCommand;
use kit::Report;
use kit::descriptors::{FLAT_DATA, Register, access, access_rights, flags, limit, local, segment};
use kit::frames::{readable, writable};
use kit::memory::{
    HYPERVISOR_VIRT_START, LAST_OF_HYPERVISOR, NON_CANONICAL, PAGE, Page, READ_ONLY_OF_HYPERVISOR,
    UNMAPPED,
};
use kit::page_tables::{self, Lab, READ_ONLY, WRITABLE, extended};
use kit::start_info;
use kit::trap::vector;

use crate::{Answer, Seen, WINDOW, load_everywhere, refused, seen, update};

fn set_ldt(address: u64, entries: u64) -> Answer {
    // SAFETY: the kit uses no local selector.
    unsafe { extended(MmuextCommand::SetLdt, address, entries) }.result
}

/// The fault at a descriptor that cannot be had.
fn fault(descriptor: u64) -> Seen {
    Some((vector::PF, Some(0), descriptor))
}

/// A selector by every way that looks it up.
fn looked_up(report: &mut Report, name: impl Display, selector: u16, right: Seen) {
    load_everywhere(report, format_args!("{name}"), selector, right);
    let is_there = right.is_none();
    let expected = match right {
        Some(cause @ (vector::PF, _, _)) => Err(cause),
        _ => Ok(is_there),
    };
    for (instruction, answer) in [("lar", access_rights(selector)), ("lsl", limit(selector))] {
        report.equal(
            format_args!("{instruction}: {name}"),
            answer.map(|answer| answer.is_some()),
            expected,
        );
    }
}

pub fn check(report: &mut Report) {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => {
            report.check(
                "page tables to try things in",
                false,
                format_args!("{error:?}"),
            );
            return;
        }
    };
    looked_up(report, "no local table", local(1), refused(local(1)));
    arguments(report, &lab);
    pages(report, &lab);
    remapped(report, &lab);
    refused_pages(report, &lab);
    empty(report, &lab);
}

/// A page of the table, which nothing maps: descriptor 1 is good, 2 claims level 0.
fn page() -> &'static Page {
    let page = page_tables::page();
    page.set_word(1, FLAT_DATA);
    page.set_word(2, segment(0, 0xf_ffff, 0x93, flags::PAGES | flags::BIG));
    page_tables::unmap(page).expect("an own page can be unmapped");
    page
}

/// The table is at the start of the lab's window.
const BASE: u64 = Lab::WINDOW;

fn arguments(report: &mut Report, lab: &Lab) {
    let good = page();
    lab.map(0, good.machine() | READ_ONLY)
        .expect("an own page can be mapped read-only");
    report.equal("a table of 8192 entries", set_ldt(BASE, 8192), Ok(0));
    for (name, address, entries) in [
        ("8193 entries", BASE, 8193),
        ("2^31 entries", BASE, 1 << 31),
        ("2^32 - 1 entries", BASE, (1 << 32) - 1),
        ("8 bytes behind", BASE + 8, 1),
        ("a byte behind", BASE + 1, 1),
        ("not canonical", NON_CANONICAL, 1),
        (
            "just below what is canonical",
            HYPERVISOR_VIRT_START - PAGE,
            1,
        ),
        (
            "in front of the hypervisor",
            HYPERVISOR_VIRT_START - PAGE,
            1024,
        ),
        ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR, 1),
        ("the middle of the hypervisor", 0xffff_8300_0000_0000, 1),
        ("the end of the hypervisor", LAST_OF_HYPERVISOR, 1),
    ] {
        report.equal(
            format_args!("set_ldt: {name}"),
            (
                set_ldt(address, entries),
                access_rights(local(1)).is_ok_and(|rights| rights.is_some()),
            ),
            (Err(Errno::EINVAL), true),
        );
    }
    // Nothing at all may be anywhere.
    for (name, address) in [
        ("null", 0),
        ("a byte behind", 1),
        ("the middle of the hypervisor", 0xffff_8300_0000_0000),
    ] {
        report.equal(
            format_args!("set_ldt: no entries: {name}"),
            (set_ldt(address, 0), access_rights(local(1)).ok()),
            (Ok(0), Some(None)),
        );
    }
    report.equal(
        "set_ldt: the end of the lower half",
        set_ldt(0x7fff_ffff_f000, 513),
        Ok(0),
    );
    // The first page is not there, the second cannot be.
    looked_up(
        report,
        "not mapped at the end of the lower half",
        local(1),
        fault(0x7fff_ffff_f008),
    );
    let trap = Register::Es.load(local(512));
    report.check(
        "behind the end of the lower half",
        trap.is_some_and(|trap| matches!(trap.vector, vector::PF | vector::GP)),
        format_args!("{trap:x?}"),
    );
    report.equal(
        "set_ldt: the start of the upper half",
        set_ldt(LAST_OF_HYPERVISOR + PAGE, 1),
        Ok(0),
    );
    report.equal(
        "set_ldt: the end of the upper half",
        set_ldt(u64::MAX - PAGE + 1, 512),
        Ok(0),
    );
    looked_up(
        report,
        "not mapped at the end of the upper half",
        local(1),
        fault(u64::MAX - PAGE + 9),
    );
    set_ldt(0, 0).expect("no table is always possible");
    lab.map(0, 0).expect("a page of no table can be unmapped");
}

/// All sixteen pages, present and not.
fn pages(report: &mut Report, lab: &Lab) {
    report.equal("a table of nothing", set_ldt(BASE, 8192), Ok(0));
    for number in 0..16u16 {
        let selector = local(number * 512 + 1);
        let descriptor = BASE + u64::from(number) * PAGE + 8;
        looked_up(
            report,
            format_args!("page {number} not mapped"),
            selector,
            fault(descriptor),
        );
    }
    // User pages and pages of the kernel's alone are the same to a guest kernel.
    let frames = [page(), page()];
    for (number, page) in [0u16, 15].into_iter().zip(frames) {
        lab.map(usize::from(number), page.machine() | READ_ONLY)
            .expect("an own page can be mapped read-only");
        let good = local(number * 512 + 1);
        looked_up(report, format_args!("page {number}"), good, None);
        let mended = segment(0, 0xf_ffff, 0xf3, flags::PAGES | flags::BIG);
        let seen_there = kit::memory::read(BASE + u64::from(number) * PAGE + 16);
        report.equal(
            format_args!("page {number}: level 0 is mended"),
            seen_there,
            Ok(mended),
        );
        looked_up(
            report,
            format_args!("page {number}: the other one"),
            local(number * 512 + 2),
            None,
        );
        let nothing = local(number * 512 + 3);
        looked_up(
            report,
            format_args!("page {number}: nothing"),
            nothing,
            refused(nothing),
        );
        report.equal(
            format_args!("page {number}: mapped to be written, to be read"),
            (
                WINDOW.set(writable(page.mfn())),
                WINDOW.set(readable(page.mfn())),
            ),
            (Err(Errno::EBUSY), Ok(0)),
        );
        WINDOW.close();
        report.equal(
            format_args!("page {number}: update_descriptor"),
            (
                update(page.machine() + 32, FLAT_DATA),
                access_rights(local(number * 512 + 4)).ok().flatten(),
            ),
            (Ok(0), Some(0xc0_f300)),
        );
    }
    looked_up(
        report,
        "page 7 still not mapped",
        local(7 * 512),
        fault(BASE + 7 * PAGE),
    );
    // Beyond the limit, in a page that is in use.
    report.equal("a table of two entries", set_ldt(BASE, 2), Ok(0));
    looked_up(report, "two entries: the second", local(1), None);
    looked_up(
        report,
        "two entries: the third",
        local(2),
        refused(local(2)),
    );
    looked_up(
        report,
        "two entries: the last of all",
        local(8191),
        refused(local(8191)),
    );
    report.equal("no table", set_ldt(0, 0), Ok(0));
    for page in frames {
        report.equal(
            "no table: its pages are writable",
            WINDOW.set(writable(page.mfn())),
            Ok(0),
        );
    }
    WINDOW.close();
    for slot in [0, 15] {
        lab.map(slot, 0)
            .expect("a page of no table can be unmapped");
    }
}

/// What becomes of the linear address does not change what is in use.
fn remapped(report: &mut Report, lab: &Lab) {
    let (used, other) = (page(), page());
    lab.map(0, used.machine() | READ_ONLY)
        .expect("an own page can be mapped read-only");
    set_ldt(BASE, 512).expect("the table is in order");
    looked_up(report, "before it is unmapped", local(1), None);
    report.equal("a page in use is unmapped", lab.map(0, 0), Ok(0));
    looked_up(report, "after it was unmapped", local(1), None);
    report.equal(
        "a page in use, unmapped, is not writable",
        WINDOW.set(writable(used.mfn())),
        Err(Errno::EBUSY),
    );
    report.equal(
        "another page is there",
        lab.map(0, other.machine() | WRITABLE),
        Ok(0),
    );
    looked_up(report, "with another page there", local(1), None);
    // Set anew, it is the other page's turn, which is writable and so cannot be a table.
    set_ldt(0, 0).expect("no table is always possible");
    set_ldt(BASE, 512).expect("the table is in order");
    looked_up(report, "set anew", local(1), fault(BASE + 8));
    report.equal(
        "the old page is free",
        WINDOW.set(writable(used.mfn())),
        Ok(0),
    );
    WINDOW.close();
    report.equal(
        "the other page is read-only",
        lab.map(0, other.machine() | READ_ONLY),
        Ok(0),
    );
    looked_up(report, "and can be used", local(1), None);
    set_ldt(0, 0).expect("no table is always possible");
    lab.map(0, 0).expect("a page of no table can be unmapped");
}

fn refused_pages(report: &mut Report, lab: &Lab) {
    let bad = page_tables::page();
    bad.set_word(1, FLAT_DATA);
    bad.set_word(2, segment(0, 0xf_ffff, 0x93, flags::PAGES | flags::BIG));
    bad.set_word(100, segment(0, 0x67, access::TSS, 0));
    page_tables::protect(bad).expect("an own page can be mapped read-only");
    let table = page_tables::page();
    page_tables::protect(table).expect("an own page can be mapped read-only");
    page_tables::pin(1, table.mfn()).expect("a page of zeroes is a table");
    let written = page_tables::page();
    written.set_word(1, FLAT_DATA);
    for (name, page) in [
        ("with a TSS in it", bad),
        ("that is a page table", table),
        ("that is mapped to be written elsewhere", written),
    ] {
        lab.map(0, page.machine() | READ_ONLY)
            .expect("an own page can be mapped read-only");
        report.equal(format_args!("a page {name}"), set_ldt(BASE, 512), Ok(0));
        looked_up(
            report,
            format_args!("a page {name}"),
            local(1),
            fault(BASE + 8),
        );
        looked_up(
            report,
            format_args!("a page {name}: further on"),
            local(100),
            fault(BASE + 800),
        );
    }
    report.equal(
        "the TSS is as it was",
        bad.word(100),
        Ok(segment(0, 0x67, access::TSS, 0)),
    );
    report.equal("its page is writable", page_tables::unprotect(bad), Ok(0));
    // Right over the root of the page tables.
    report.equal(
        "the root as a table",
        set_ldt(start_info().pt_base, 512),
        Ok(0),
    );
    looked_up(
        report,
        "the root as a table",
        local(1),
        fault(start_info().pt_base + 8),
    );
    set_ldt(0, 0).expect("no table is always possible");
    lab.map(0, 0).expect("a page of no table can be unmapped");
}

fn empty(report: &mut Report, lab: &Lab) {
    // A selector that is loaded outlives the table too.
    let page = page();
    lab.map(0, page.machine() | READ_ONLY)
        .expect("an own page can be mapped read-only");
    set_ldt(BASE, 512).expect("the table is in order");
    let loaded = seen(Register::Es.load(local(1)));
    set_ldt(UNMAPPED & !(PAGE - 1), 0).expect("no table is always possible");
    report.equal(
        "a selector that outlives the local table",
        (loaded, Register::Es.selector()),
        (None, local(1)),
    );
    Register::Es.load(0);
    looked_up(
        report,
        "no local table any more",
        local(1),
        refused(local(1)),
    );
}
