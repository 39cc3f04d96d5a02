//! Tables that refer to tables of their own level, and frames that would be tables of two levels at once (XSA-182, 185,
//! 240).
//!
//! Xen accepts an entry for a table of the same level if it is read-only and leads no further: a linear mapping. Oxen
//! refuses it. The checks allow both; what neither may do is to accept a writable one, to make a read-only one writable,
//! to accept a chain of them, or to lose a frame's type over it.
#![no_std]
#![no_main]

use dom0_abi::errno::Errno;
use kit::Report;
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, is_plain, page, pin, protect, release, unpin,
};

kit::guest!("pt-recursive", main);

type Answer = Result<u64, Errno>;

const REFUSED: Answer = Err(Errno::EINVAL);

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    for level in 1..=4 {
        live_table_in_itself(report, lab, level);
        itself_at_pin(report, level);
        if level > 1 {
            another_of_the_level(report, lab, level);
            chain(report, level);
        }
    }
    wrong_levels(report, lab);
    two_levels(report);
}

/// A linear entry may be accepted or not; whether it is there must agree.
fn may_be_linear(level: usize, seen: (Answer, bool)) -> bool {
    // A level-1 entry for a level-1 table is a read-only mapping of it, like any other.
    seen == (Ok(0), true) || level > 1 && seen == (REFUSED, false)
}

/// The right answer to a writable entry. At level 1 that is a writable mapping of a table.
fn refused(level: usize) -> Answer {
    if level == 1 {
        Err(Errno::EBUSY)
    } else {
        REFUSED
    }
}

fn live_table_in_itself(report: &mut Report, lab: Lab, level: usize) {
    let table = lab.table(level);
    let slot = Lab::free_slot(level, 0);
    let set = |flags| {
        (
            lab.set(level, slot, (table.mfn * 4096) | flags),
            table.entry(slot),
        )
    };
    report.equal(
        format_args!("L{level} in itself, writable"),
        set(WRITABLE),
        (refused(level), 0),
    );
    let (answer, entry) = set(READ_ONLY);
    report.check(
        format_args!("L{level} in itself, read-only"),
        may_be_linear(level, (answer, entry != 0)),
        format_args!("{answer:?} {entry:#x}"),
    );
    // XSA-182: only the flag changes, the frame has been looked at already.
    report.equal(
        format_args!("L{level} in itself, made writable"),
        set(WRITABLE),
        (refused(level), entry),
    );
    report.equal(
        format_args!("L{level} in itself, taken away"),
        lab.set(level, slot, 0),
        Ok(0),
    );
}

fn itself_at_pin(report: &mut Report, level: usize) {
    for (kind, flags) in [("read-only", READ_ONLY), ("writable", WRITABLE)] {
        let table = page();
        let written = table.set_word(7, table.machine() | flags).is_none();
        let answer = pin(
            level,
            if written && protect(table).is_ok() {
                table.mfn()
            } else {
                0
            },
        );
        let holds = if flags == WRITABLE {
            answer == refused(level)
        } else {
            may_be_linear(level, (answer, answer.is_ok()))
        };
        report.check(
            format_args!("L{level} pinned with itself in it, {kind}"),
            holds,
            format_args!("{answer:?}"),
        );
        let end = answer.and_then(|_| unpin(table.mfn()));
        report.equal(
            format_args!("L{level} with itself in it, {kind}: a page afterwards"),
            (end, is_plain(table)),
            (answer, true),
        );
    }
}

fn another_of_the_level(report: &mut Report, lab: Lab, level: usize) {
    let slot = Lab::free_slot(level, 1);
    for is_pinned in [false, true] {
        let other = page();
        let mut made = protect(other);
        if is_pinned {
            made = made.and_then(|_| pin(level, other.mfn()));
        }
        let name = if is_pinned { "pinned" } else { "empty" };
        report.equal(format_args!("L{level}: another, {name}"), made, Ok(0));
        let set = |flags| lab.set(level, slot, other.machine() | flags);
        if is_pinned {
            // Unpinned, an empty page could become a table of the right level.
            report.equal(
                format_args!("L{level} entry for another, {name}, writable"),
                set(WRITABLE),
                REFUSED,
            );
        }
        let answer = set(READ_ONLY);
        let below_or_linear = may_be_linear(level, (answer, answer.is_ok()));
        report.check(
            format_args!("L{level} entry for another, {name}, read-only"),
            below_or_linear,
            format_args!("{answer:?}"),
        );
        report.equal(
            format_args!("L{level} entry for another, {name}: taken away"),
            lab.set(level, slot, 0),
            Ok(0),
        );
        if is_pinned {
            report.equal(
                format_args!("L{level}: another is unpinned"),
                unpin(other.mfn()),
                Ok(0),
            );
        }
        report.check(
            format_args!("L{level}: another, {name}, is a page afterwards"),
            is_plain(other),
            "typed",
        );
        release(other);
    }
}

/// XSA-240: one linear entry may be; the table that it leads to must have none, or the way has no end.
fn chain(report: &mut Report, level: usize) {
    let pages = [page(), page(), page()];
    let [first, second, third] = pages;
    let linked = first.set_word(0, second.machine() | READ_ONLY).is_none()
        && second.set_word(0, third.machine() | READ_ONLY).is_none()
        && pages.into_iter().all(|page| protect(page).is_ok());
    report.check(format_args!("L{level}: three in a row"), linked, "");
    let answers = [third, second, first].map(|table| pin(level, table.mfn()));
    // A page that was refused as an L2 table has no type, and a read-only mapping of a table is all right in an L1 table: so
    // the first one finds it to be one.
    let last = if level == 2 { Ok(0) } else { REFUSED };
    report.check(
        format_args!("L{level}: three in a row are not pinned"),
        answers == [Ok(0), Ok(0), REFUSED] || answers == [Ok(0), REFUSED, last],
        format_args!("{answers:?}"),
    );
    let ends = [first, second, third].map(|table| unpin(table.mfn()));
    let [third, second, first] = answers;
    report.equal(
        format_args!("L{level}: pins end where they began"),
        ends,
        [first, second, third],
    );
    report.equal(
        format_args!("L{level}: three pages afterwards"),
        pages.map(is_plain),
        [true; 3],
    );
}

fn wrong_levels(report: &mut Report, lab: Lab) {
    for level in 2..=4 {
        let slot = Lab::free_slot(level, 2);
        for other in (1..=4).filter(|&other| other != level && other != level - 1) {
            let table = page();
            let made = protect(table).and_then(|_| pin(other, table.mfn()));
            let set = |flags| lab.set(level, slot, table.machine() | flags);
            report.equal(
                format_args!("L{level} entry for an L{other}"),
                (
                    made,
                    set(READ_ONLY),
                    set(WRITABLE),
                    lab.table(level).entry(slot),
                ),
                (Ok(0), REFUSED, REFUSED, 0),
            );
            // The same among good ones, in a table that is to be pinned.
            let upper = page();
            let written = upper.set_word(3, table.machine() | READ_ONLY).is_none();
            report.equal(
                format_args!("pin of an L{level} with an L{other} in it"),
                (
                    written,
                    protect(upper),
                    pin(level, upper.mfn()),
                    is_plain(upper),
                ),
                (true, Ok(0), REFUSED, true),
            );
            if upper.set_word(3, 0).is_none() {
                release(upper);
            }
            report.equal(
                format_args!("the L{other} is a page afterwards"),
                (unpin(table.mfn()), is_plain(table)),
                (Ok(0), true),
            );
            release(table);
        }
    }
}

/// One page in two places of a tree that make it two things.
fn two_levels(report: &mut Report) {
    for level in 1..=4 {
        for other in (1..=4).filter(|&other| other != level) {
            let table = page();
            let made = protect(table).and_then(|_| pin(level, table.mfn()));
            report.equal(
                format_args!("pin of an L{level} as an L{other}"),
                (made, pin(other, table.mfn())),
                (Ok(0), REFUSED),
            );
            report.equal(
                format_args!("the L{level} is a page afterwards"),
                (unpin(table.mfn()), is_plain(table)),
                (Ok(0), true),
            );
            release(table);
        }
    }
    // In one tree: L3[0] leads to an L2, L3[1] to what L2[0] has as its L1.
    let pages = [page(), page(), page()];
    let [l3, l2, l1] = pages;
    let entry = |table: Table| (table.mfn * 4096) | WRITABLE;
    let written = l3.set_word(0, entry(Table::of(l2))).is_none()
        && l3.set_word(1, entry(Table::of(l1))).is_none()
        && l2.set_word(0, entry(Table::of(l1))).is_none();
    report.equal(
        "a tree with one frame at two levels",
        (written, pages.map(protect), pin(3, l3.mfn())),
        (true, [Ok(0); 3], REFUSED),
    );
    report.equal(
        "nothing of that tree has a type afterwards",
        pages.map(is_plain),
        [true; 3],
    );
}
