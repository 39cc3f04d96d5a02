//! Pins: made and ended out of order, of what is no table, and of tables in which one entry is bad.
//!
//! A pin is all or nothing: an entry that must not be, first, in the middle or last, leaves no table of the tree with a
//! type, so that every page of it is written afterwards as any page. Ended pins leave nothing behind either.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use dom0_abi::errno::Errno;
use dom0_abi::xen::MmuextCommand;
use guest_pv_drivers::hypercall::{self, Batch, foreigndom};
use kit::memory::{Page, pte};
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, current_root, is_plain, operation, page, pin, protect,
    release, unmapped_frame, unpin,
};
use kit::{Report, start_info};

kit::guest!("pt-pin", main);

const REFUSED: Result<u64, Errno> = Err(Errno::EINVAL);

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    for level in 1..=4 {
        sequences(report, level);
        bad_entries(report, level);
    }
    deep_bad_entries(report);
    linked(report, lab);
    root_in_use(report);
    shared_below(report);
    never_mapped(report);
    list(report);
}

fn sequences(report: &mut Report, level: usize) {
    let table: &'static Page = page();
    let mfn = table.mfn();
    report.equal(
        format_args!("L{level}: read-only, unpinned though never pinned"),
        (protect(table), unpin(mfn)),
        (Ok(0), REFUSED),
    );
    report.equal(
        format_args!("L{level}: pinned twice, unpinned twice"),
        [pin(level, mfn), pin(level, mfn), unpin(mfn), unpin(mfn)],
        [Ok(0), REFUSED, Ok(0), REFUSED],
    );
    for other in (1..=4).filter(|&other| other != level) {
        report.equal(
            format_args!("L{level}: pinned as L{other} at the same time"),
            [pin(level, mfn), pin(other, mfn), unpin(mfn)],
            [Ok(0), REFUSED, Ok(0)],
        );
        let first = [pin(level, mfn), unpin(mfn)];
        clear_hypervisors_slots(table);
        let second = [protect(table), pin(other, mfn), unpin(mfn)];
        clear_hypervisors_slots(table);
        report.equal(
            format_args!("L{level}: pinned as L{other} one after the other"),
            (first, second, protect(table)),
            ([Ok(0); 2], [Ok(0); 3], Ok(0)),
        );
    }
    report.check(
        format_args!("L{level}: a page afterwards"),
        is_plain(table),
        "typed",
    );
    report.equal(
        format_args!("L{level}: unpinned though writable"),
        unpin(mfn),
        REFUSED,
    );
    release(table);
}

/// A page that was a root may keep what the hypervisor put into its slots, which is good in no other table.
fn clear_hypervisors_slots(table: &'static Page) {
    if is_plain(table) {
        for slot in HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT {
            let _ = table.set_word(slot, 0);
        }
    }
}

/// What must be in no table of a level, and the answer when it is found.
fn bad(level: usize) -> [(&'static str, u64, Errno); 3] {
    let unlike = if level == 1 {
        [Errno::EPERM, Errno::EBUSY, Errno::EBUSY]
    } else {
        [Errno::EINVAL; 3]
    };
    let beyond = 0x000f_fff0_0000_0000;
    let root = Table::boot_root().mfn * 4096;
    let mapped_writable = start_info_frame() * 4096;
    [
        ("a frame beyond all", beyond | READ_ONLY, unlike[0]),
        ("the root, writable", root | WRITABLE, unlike[1]),
        if level == 1 {
            (
                "a frame of the hypervisor",
                (hypervisors_frame() * 4096) | READ_ONLY,
                unlike[2],
            )
        } else {
            (
                "a page that is writable",
                mapped_writable | READ_ONLY,
                unlike[2],
            )
        },
    ]
}

fn start_info_frame() -> u64 {
    let va = core::ptr::from_ref(start_info()).expose_provenance() as u64;
    (kit::memory::leaf(va) & pte::MFN) / 4096
}

/// The frame of slot 256's table, which the root shows.
fn hypervisors_frame() -> u64 {
    (Table::boot_root().entry(256) & pte::MFN) / 4096
}

fn bad_entries(report: &mut Report, level: usize) {
    for (name, entry, error) in bad(level) {
        // Of a root, half the slots and some are the guest's; 256 to 271 are not looked at.
        for slot in [0, 1, 255, 300, 511] {
            let (table, below) = (page(), page());
            // Good entries on both sides, so that there is something to take back.
            let good = below.machine() | READ_ONLY;
            let mut written = true;
            for neighbour in [0, 1, 2, 128, 255, 272, 300, 301, 510, 511] {
                written &= table.set_word(neighbour, good).is_none();
            }
            written &= table.set_word(slot, entry).is_none();
            report.equal(
                format_args!("L{level} with {name} at {slot}"),
                (
                    written,
                    protect(below),
                    protect(table),
                    pin(level, table.mfn()),
                    unpin(table.mfn()),
                ),
                (true, Ok(0), Ok(0), Err(error), REFUSED),
            );
            report.equal(
                format_args!("L{level} with {name} at {slot}: as before"),
                (
                    table.word(slot),
                    // A mark of the hypervisor's may stay on a good entry.
                    table.word(2).map(|word| word & !pte::G),
                    is_plain(table),
                    is_plain(below),
                ),
                (Ok(entry), Ok(good), true, true),
            );
            // Without it, the same table is good: nothing of the refusal stayed.
            let mended = table.set_word(slot, 0).is_none();
            report.equal(
                format_args!("L{level} with {name} at {slot}: mended"),
                (
                    mended,
                    protect(below),
                    protect(table),
                    pin(level, table.mfn()),
                    unpin(table.mfn()),
                    is_plain(table),
                    is_plain(below),
                ),
                (true, Ok(0), Ok(0), Ok(0), Ok(0), true, true),
            );
            for word in 0..512 {
                let _ = table.set_word(word, 0);
            }
            release(below);
            release(table);
        }
    }
}

/// A tree of four levels with the bad entry at the bottom: all that was validated on the way is taken back.
fn deep_bad_entries(report: &mut Report) {
    for level in 1..=3 {
        for (name, entry, error) in bad(level) {
            let pages = [page(), page(), page(), page()];
            let mut written = pages[level - 1].set_word(511, entry).is_none();
            for pair in pages.windows(2) {
                // First a way down in the last slot, so that the bad one is found with others done already.
                written &= pair[1].set_word(0, pair[0].machine() | WRITABLE).is_none();
            }
            let answer = (written, pages.map(protect), pin(4, pages[3].mfn()));
            report.equal(
                format_args!("a tree with {name} in its L{level}"),
                answer,
                (true, [Ok(0); 4], Err(error)),
            );
            report.equal(
                format_args!("a tree with {name} in its L{level}: pages afterwards"),
                pages.map(is_plain),
                [true; 4],
            );
            for page in pages.into_iter().rev() {
                if page.set_word(0, 0).is_none() && page.set_word(511, 0).is_none() {
                    release(page);
                }
            }
        }
    }
}

/// A table that is in use has its type from there; a pin comes on top and goes again.
fn linked(report: &mut Report, lab: Lab) {
    for level in 1..=3 {
        let mfn = lab.table(level).mfn;
        let other = level % 3 + 1;
        report.equal(
            format_args!("L{level} in use: unpin, pin as another, pin, pin, unpin, unpin"),
            [
                unpin(mfn),
                pin(other, mfn),
                pin(level, mfn),
                pin(level, mfn),
                unpin(mfn),
                unpin(mfn),
            ],
            [REFUSED, REFUSED, Ok(0), REFUSED, Ok(0), REFUSED],
        );
    }
    let data = page();
    report.equal(
        "the tables still translate",
        (
            data.set_word(0, 0x55aa).is_none(),
            lab.map(1, data.machine() | READ_ONLY),
            kit::memory::read(Lab::address(1)),
        ),
        (true, Ok(0), Ok(0x55aa)),
    );
    // A pinned table that leaves the tree stays a table; unpinned, it is none.
    let (l1, slot) = (page(), 5);
    report.equal(
        "a pinned L1 that leaves the tree",
        (
            protect(l1),
            pin(1, l1.mfn()),
            lab.set(2, slot, l1.machine() | WRITABLE),
            lab.set(2, slot, 0),
            kit::page_tables::unprotect(l1),
            unpin(l1.mfn()),
            is_plain(l1),
        ),
        (Ok(0), Ok(0), Ok(0), Ok(0), Err(Errno::EBUSY), Ok(0), true),
    );
}

/// The root in CR3 may lose its pin: CR3 holds it.
fn root_in_use(report: &mut Report) {
    let root = Table::boot_root();
    let answers = [unpin(root.mfn), unpin(root.mfn)];
    report.equal("the root in CR3: unpinned", answers, [Ok(0), REFUSED]);
    report.equal("the root in CR3: still there", current_root(), root.mfn);
    report.equal(
        "the root in CR3: pinned",
        [pin(3, root.mfn), pin(4, root.mfn), pin(4, root.mfn)],
        [REFUSED, Ok(0), REFUSED],
    );
}

/// Two roots share all below. The last one to go takes the rest along, not the first.
fn shared_below(report: &mut Report) {
    let pages = [page(), page(), page(), page()];
    let second_root = page();
    let mut written = true;
    for pair in pages.windows(2) {
        written &= pair[1].set_word(0, pair[0].machine() | WRITABLE).is_none();
    }
    written &= second_root
        .set_word(9, pages[2].machine() | WRITABLE)
        .is_none();
    report.equal(
        "two roots over the same tables",
        (written, pages.map(protect), protect(second_root)),
        (true, [Ok(0); 4], Ok(0)),
    );
    let roots = [pages[3].mfn(), second_root.mfn()];
    report.equal("two roots pinned", roots.map(|mfn| pin(4, mfn)), [Ok(0); 2]);
    report.equal(
        "one root gone: what is below are tables",
        (
            unpin(roots[0]),
            is_plain(pages[3]),
            is_plain(pages[2]),
            is_plain(pages[0]),
        ),
        (Ok(0), true, false, false),
    );
    report.equal(
        "both roots gone: pages afterwards",
        (unpin(roots[1]), pages.map(is_plain), is_plain(second_root)),
        (Ok(0), [true; 4], true),
    );
}

/// Frames that nothing maps: the hypervisor reads them by its own mapping.
fn never_mapped(report: &mut Report) {
    // Nobody has written them, and the memory that a domain gets is clean, so they are empty tables.
    let mfn = unmapped_frame();
    report.equal(
        "a frame that was never mapped",
        [pin(1, mfn), unpin(mfn), pin(4, mfn), unpin(mfn)],
        [Ok(0); 4],
    );
    for (name, mfn) in [
        ("frame 0", 0),
        ("the shared info page", start_info().shared_info / 4096),
        ("a frame of the hypervisor", hypervisors_frame()),
        ("a number too long for a frame", 1 << 40 | mfn),
        ("no frame", (1 << 40) - 1),
        ("all ones", u64::MAX),
        ("the sign", 1 << 63),
    ] {
        for level in 1..=4 {
            report.equal(
                format_args!("{name}: pin as L{level}, unpin"),
                [pin(level, mfn), unpin(mfn)],
                [REFUSED; 2],
            );
        }
    }
}

/// A list stops where it fails, and what came before stays done.
fn list(report: &mut Report) {
    let tables = [page(), page(), page()];
    report.equal("three tables", tables.map(protect), [Ok(0); 3]);
    let [a, b, c] = tables.map(|table| table.mfn());
    let call = |list: &[_]| {
        // SAFETY: pins and unpins change no mapping.
        unsafe { hypercall::mmuext_op(list, foreigndom(dom0_abi::ids::DomId::SELF, None)) }
    };
    let pin_op = |mfn| operation(MmuextCommand::PinL1Table, mfn, 0);
    let unpin_op = |mfn| operation(MmuextCommand::UnpinTable, mfn, 0);
    report.equal(
        "a list of pins stops at the second of three",
        call(&[pin_op(a), pin_op(a), pin_op(b)]),
        Batch {
            result: REFUSED,
            done: 1,
        },
    );
    report.equal(
        "what came behind was not done",
        (unpin(b), unpin(a)),
        (REFUSED, Ok(0)),
    );
    report.equal(
        "a list of pins and unpins",
        call(&[
            pin_op(a),
            pin_op(b),
            unpin_op(a),
            pin_op(c),
            unpin_op(b),
            unpin_op(c),
        ]),
        Batch {
            result: Ok(0),
            done: 6,
        },
    );
    report.equal("pages afterwards", tables.map(is_plain), [true; 3]);
}
