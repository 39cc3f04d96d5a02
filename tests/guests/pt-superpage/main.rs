//! XSA-148, XSA-167: an entry with the page size bit maps two mebibytes or more that nobody looked at.
//!
//! Whoever has one reads and writes all that lies behind its frame: other guests, the hypervisor. So the bit is refused
//! in whatever way an upper entry can be written, whatever its frame is.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::errno::Errno;
use dom0_abi::xen::{MmuCommand, MmuextCommand};
use kit::memory::{Page, machine_to_physical, physical_to_machine, pte};
use kit::page_tables::{Lab, WRITABLE, extended, is_plain, page, pin, protect, release, update_as};
use kit::{Report, start_info};

kit::guest!("pt-superpage", main);

const FRAMES: u64 = 512;
const REFUSED: Result<u64, Errno> = Err(Errno::EINVAL);

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let own = own_superpage();
    report.check("512 frames of the guest in a row", own.is_some(), "none");
    let table = page();
    report.equal("an empty table is read-only", protect(table), Ok(0));
    let frames = [
        ("the guest's own", own.unwrap_or(0)),
        // The tempting one: the frame is a table already, so a fast way might look at it no more.
        ("a table's", table.mfn()),
        ("frame 0", 0),
        ("beyond all", pte::MFN / 4096),
    ];
    for (name, mfn) in frames {
        for level in 2..=4 {
            attempts(report, lab, level, name, mfn);
        }
    }
    flips(report, lab, table);
    marked(report, own.unwrap_or(0));
}

/// 512 frames in a row, aligned, all the guest's: such as could be mapped by one large entry without harm.
fn own_superpage() -> Option<u64> {
    let info = start_info();
    (0..info.nr_pages)
        .filter_map(physical_to_machine)
        .filter(|mfn| mfn % FRAMES == 0)
        .find(|&first| {
            (first..first + FRAMES).all(|mfn| {
                machine_to_physical(mfn)
                    .and_then(physical_to_machine)
                    .is_some_and(|back| back == mfn)
            })
        })
}

fn attempts(report: &mut Report, lab: Lab, level: usize, name: &str, mfn: u64) {
    let slot = Lab::free_slot(level, 0);
    for (kind, flags) in [
        ("writable", WRITABLE | pte::PSE),
        ("read-only", pte::P | pte::U | pte::PSE),
        ("for the kernel", pte::P | pte::RW | pte::PSE),
    ] {
        let entry = (mfn * 4096) | flags;
        for command in [MmuCommand::Normal, MmuCommand::PreserveAd] {
            // SAFETY: nothing that Rust knows of is in the window.
            let batch = unsafe { update_as(command, lab.table(level).machine(slot), entry) };
            report.equal(
                format_args!("L{level} {command:?} {name}, {kind}"),
                (batch.result, batch.done, lab.table(level).entry(slot)),
                (REFUSED, 0, 0),
            );
        }
        let table: &'static Page = page();
        let before = (table.set_word(0, entry).is_none(), protect(table));
        report.equal(
            format_args!("pin of an L{level} with {name}, {kind}"),
            (before, pin(level, table.mfn())),
            ((true, Ok(0)), REFUSED),
        );
        report.equal(
            format_args!("the L{level} with {name}, {kind} is a page as before"),
            (table.word(0), is_plain(table)),
            (Ok(entry), true),
        );
        if table.set_word(0, 0).is_none() {
            release(table);
        }
    }
}

/// The bit over an entry that is there, and taken back.
fn flips(report: &mut Report, lab: Lab, table: &'static Page) {
    for level in 2..=4 {
        let slot = Lab::free_slot(level, 1);
        let base = table.machine() | WRITABLE;
        // An empty page is an empty table of any level, but of one at a time: each round ends its use.
        report.equal(
            format_args!("L{level}: an entry without the bit"),
            lab.set(level, slot, base),
            Ok(0),
        );
        let there = lab.table(level).entry(slot);
        for command in [MmuCommand::Normal, MmuCommand::PreserveAd] {
            let place = lab.table(level).machine(slot);
            // SAFETY: nothing that Rust knows of is in the window.
            let batch = unsafe { update_as(command, place, there | pte::PSE) };
            report.equal(
                format_args!("L{level}: {command:?} adds the bit"),
                (batch.result, lab.table(level).entry(slot)),
                (REFUSED, there),
            );
        }
        report.equal(
            format_args!("L{level}: the entry goes away"),
            lab.set(level, slot, 0),
            Ok(0),
        );
    }
    report.check("the table is a page as before", is_plain(table), "typed");
}

/// The operation that once allowed large pages looked at the frame too late (XSA-167). It is not offered any more.
fn marked(report: &mut Report, own: u64) {
    for command in [MmuextCommand::MarkSuper, MmuextCommand::UnmarkSuper] {
        for mfn in [own, 0, 1, u64::MAX, u64::MAX >> 12] {
            // SAFETY: refused, or a mark only.
            let batch = unsafe { extended(command, mfn, 0) };
            report.equal(
                format_args!("{command:?} {mfn:#x}"),
                (batch.result, batch.done),
                (Err(Errno::EOPNOTSUPP), 0),
            );
        }
    }
}
