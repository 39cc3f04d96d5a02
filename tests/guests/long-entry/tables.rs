//! Tables with many entries, made and undone in every way.

use dom0_abi::xen::MmuextCommand as Command;
use kit::Report;
use kit::descriptors::FLAT_DATA;
use kit::frames::{mfn_of, take};
use kit::memory::Page;
use kit::page_tables::{READ_ONLY, Table, WRITABLE, page, pin, protect, unpin, unprotect};

use crate::{batch, operations, updates};
use dom0_abi::hypercalls::Hypercall;

const TABLES: usize = 32;

pub fn check(report: &mut Report) {
    let tables: [&'static Page; TABLES] = core::array::from_fn(|_| page());
    let upper = [page(), page(), page()];
    let frames = take(512);
    // What the frames were last decides what it takes to map them.
    for (name, kind) in [
        ("of one frame", Kind::One),
        ("of many frames", Kind::Many),
        ("of frames that were tables", Kind::Tables),
        ("of frames past the caches", Kind::Uncached),
    ] {
        for table in tables {
            let _ = unprotect(table);
            for slot in 0..512 {
                let mfn = mfn_of(frames + if let Kind::One = kind { 0 } else { slot as u64 });
                let bits = match kind {
                    Kind::Uncached => WRITABLE | 1 << 3 | 1 << 4,
                    _ => WRITABLE,
                };
                let _ = table.set_word(slot, mfn << 12 | bits);
            }
            let _ = protect(table);
        }
        report.equal(name, is_pinned(tables[0]), false);
        were(report, kind, frames);
        report.equal(
            "one table alone",
            (pin(1, tables[0].mfn()), unpin(tables[0].mfn())),
            (Ok(0), Ok(0)),
        );
        were(report, kind, frames);
        operations(report, "tables pinned", TABLES, |index| {
            (Command::PinL1Table, tables[index].mfn(), 0)
        });
        operations(report, "tables unpinned", TABLES, |index| {
            (Command::UnpinTable, tables[index].mfn(), 0)
        });
        operations(report, "tables pinned and unpinned", 2 * TABLES, |index| {
            let command = [Command::PinL1Table, Command::UnpinTable][index % 2];
            (command, tables[index / 2].mfn(), 0)
        });
        hung(report, &tables, &upper);
    }
    empty(report, &upper);
    descriptors(report, &tables);
}

/// Makes the frames what they are said to have been.
fn were(report: &mut Report, kind: Kind, frames: u64) {
    if let Kind::Tables = kind {
        for command in [Command::PinL1Table, Command::UnpinTable] {
            operations(report, "frames as tables", 512, |index| {
                (command, mfn_of(frames + index as u64), 0)
            });
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    One,
    Many,
    Tables,
    Uncached,
}

/// Whether a table is pinned; it is not afterwards.
fn is_pinned(table: &'static Page) -> bool {
    unpin(table.mfn()).is_ok()
}

/// Trees hung into the live root and taken away, by a list.
fn hung(report: &mut Report, tables: &[&'static Page; TABLES], upper: &[&'static Page; 3]) {
    let [l2, l3, l4] = upper;
    for page in upper {
        let _ = unprotect(page);
    }
    for (slot, table) in tables.iter().enumerate() {
        let _ = l2.set_word(slot * 16, table.machine() | WRITABLE);
    }
    let _ = l3.set_word(7, l2.machine() | WRITABLE);
    let _ = l4.set_word(9, l3.machine() | WRITABLE);
    for page in upper {
        let _ = protect(page);
    }
    let root = Table::boot_root();
    updates(report, "a tree in the root, in turn", 12, |index| {
        let entry = if index % 2 == 0 {
            l3.machine() | WRITABLE
        } else {
            0
        };
        (root.machine(17), entry)
    });
    operations(report, "a tree pinned, in turn", 12, |index| {
        let command = [Command::PinL4Table, Command::UnpinTable][index % 2];
        (command, l4.mfn(), 0)
    });
    operations(report, "a tree as user root, in turn", 12, |index| {
        let root = if index % 2 == 0 { l4.mfn() } else { 0 };
        (Command::NewUserBasePtr, root, 0)
    });
}

/// Tables that hold nothing, by entries of the table above: 512 of each level.
fn empty(report: &mut Report, upper: &[&'static Page; 3]) {
    let frames = take(512);
    let [l2, l3, _] = upper;
    for (name, table, level) in [("below level 2", l2, 2), ("below level 3", l3, 3)] {
        let _ = unprotect(table);
        for slot in 0..512 {
            let entry = mfn_of(frames + slot as u64) << 12 | READ_ONLY;
            let _ = table.set_word(slot, entry);
        }
        let _ = protect(table);
        report.equal(
            name,
            (pin(level, table.mfn()), unpin(table.mfn())),
            (Ok(0), Ok(0)),
        );
        for slot in 0..512 {
            let _ = unprotect(table);
            let _ = table.set_word(slot, 0);
        }
        let _ = protect(table);
        let pinned = pin(level, table.mfn());
        let change = |entry: &dyn Fn(usize) -> u64, report: &mut Report, name: &str| {
            updates(report, name, 512, |index| {
                (table.machine() + index as u64 * 8, entry(index))
            });
        };
        change(
            &|slot| mfn_of(frames + slot as u64) << 12 | READ_ONLY,
            report,
            "empty tables hung",
        );
        change(&|_| 0, report, "empty tables taken away");
        report.equal(name, (pinned, unpin(table.mfn())), (Ok(0), Ok(0)));
    }
}

/// Descriptor tables of as many pages as there can be, one and the other.
fn descriptors(report: &mut Report, tables: &[&'static Page; TABLES]) {
    const PAGES: usize = 14;
    let lists = [page(), page()];
    for (index, table) in tables[..2 * PAGES].iter().enumerate() {
        let _ = unprotect(table);
        for slot in 0..512 {
            let _ = table.set_word(slot, FLAT_DATA);
        }
        let _ = protect(table);
        let _ = lists[index / PAGES].set_word(index % PAGES, table.mfn());
    }
    batch(report, "descriptor tables in turn", 64, Ok(0), |index| {
        let list = lists[index % 2].address();
        (Hypercall::SetGdt, [list, 14 * 512, 0, 0, 0])
    });
    batch(report, "the same descriptor table", 256, Ok(0), |_| {
        let list = lists[1].address();
        (Hypercall::SetGdt, [list, 14 * 512, 0, 0, 0])
    });
    batch(report, "descriptors", 500, Ok(0), |_| {
        let place = tables[PAGES].machine() + 24;
        (Hypercall::UpdateDescriptor, [place, FLAT_DATA, 0, 0, 0])
    });
    batch(report, "no descriptor table", 1, Ok(0), |_| {
        (Hypercall::SetGdt, [0; 5])
    });
}
