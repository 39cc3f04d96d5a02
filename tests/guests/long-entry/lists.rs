//! Lists of operations that each cost much by themselves.

use dom0_abi::xen::MmuextCommand as Command;
use kit::Report;
use kit::frames::{mfn_of, take};
use kit::memory::image;
use kit::page_tables::{Lab, READ_ONLY, WRITABLE, extended, page, pin, protect, unpin};

use crate::{INNER, fill, operations, updates};

const MANY: usize = 2000;

pub fn check(report: &mut Report) {
    let frames = take(2);
    let (one, other) = (mfn_of(frames), mfn_of(frames + 1));
    operations(report, "pages cleared", MANY, |index| {
        (
            Command::ClearPage,
            if index % 2 == 0 { one } else { other },
            0,
        )
    });
    operations(report, "pages copied", MANY, |index| {
        if index % 2 == 0 {
            (Command::CopyPage, one, other)
        } else {
            (Command::CopyPage, other, one)
        }
    });
    flushes(report);
    roots(report);
    entries(report);
}

fn flushes(report: &mut Report) {
    let map = fill(&INNER, [u64::MAX].into_iter());
    let somewhere = image().0;
    for (name, command, first, second) in [
        ("TLB flushes, all of it", Command::TlbFlushLocal, 0, 0),
        ("TLB flushes, one page", Command::InvlpgLocal, somewhere, 0),
        ("TLB flushes, all CPUs", Command::TlbFlushAll, 0, 0),
        (
            "TLB flushes, one page, all CPUs",
            Command::InvlpgAll,
            somewhere,
            0,
        ),
        ("TLB flushes, CPUs of a map", Command::TlbFlushMulti, 0, map),
        (
            "TLB flushes, one page, CPUs of a map",
            Command::InvlpgMulti,
            somewhere,
            map,
        ),
        ("cache flushes", Command::FlushCache, 0, 0),
        ("cache flushes, all CPUs", Command::FlushCacheGlobal, 0, 0),
        (
            "local descriptor tables",
            Command::SetLdt,
            somewhere & !0xfff,
            8192,
        ),
    ] {
        operations(report, name, MANY, |_| (command, first, second));
    }
    // SAFETY: no selector of the table is in use.
    let none = unsafe { extended(Command::SetLdt, 0, 0) };
    report.equal("no local descriptor table", none.result, Ok(0));
}

/// Roots that are made and undone by being loaded as a user root and not, and by pins.
fn roots(report: &mut Report) {
    let frames = take(2);
    let mfns = [mfn_of(frames), mfn_of(frames + 1)];
    operations(report, "user roots made and undone", MANY, |index| {
        (Command::NewUserBasePtr, mfns[index % 2], 0)
    });
    operations(report, "no user root", 1, |_| {
        (Command::NewUserBasePtr, 0, 0)
    });
    operations(report, "roots pinned and unpinned", MANY, |index| {
        let command = [Command::PinL4Table, Command::UnpinTable][index % 2];
        (command, mfns[0], 0)
    });
    let tables = take(512);
    for (level, command) in [
        (1, Command::PinL1Table),
        (2, Command::PinL2Table),
        (3, Command::PinL3Table),
        (4, Command::PinL4Table),
    ] {
        let name = ["level 1", "level 2", "level 3", "level 4"][level - 1];
        operations(report, name, 512, |index| {
            (command, mfn_of(tables + index as u64), 0)
        });
        operations(report, "and not", 512, |index| {
            (Command::UnpinTable, mfn_of(tables + index as u64), 0)
        });
    }
}

/// Single entries that are dear: of frames that were something else, of memory that bypasses the caches.
fn entries(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let table = lab.table(1);
    let frames = take(256);
    let mfn = |index: usize| mfn_of(frames + index as u64 % 256);
    let plain = |index: usize| mfn(index) << 12 | WRITABLE;
    const UNCACHED: u64 = 1 << 3 | 1 << 4;
    for round in ["one round", "another round"] {
        operations(report, round, 256, |index| {
            (Command::PinL1Table, mfn(index), 0)
        });
        operations(report, "undone", 256, |index| {
            (Command::UnpinTable, mfn(index), 0)
        });
        updates(report, "frames that were tables are mapped", 256, |index| {
            (table.machine(index), plain(index))
        });
        updates(report, "and unmapped", 256, |index| {
            (table.machine(index), 0)
        });
        updates(report, "frames are mapped past the caches", 256, |index| {
            (table.machine(index), plain(index) | UNCACHED)
        });
        updates(report, "and unmapped again", 256, |index| {
            (table.machine(index), 0)
        });
    }
    updates(report, "one entry, now there and now not", MANY, |index| {
        let entry = if index % 2 == 0 { plain(0) } else { 0 };
        (table.machine(3), entry)
    });
    // Words of a page that is no table, and names of frames.
    updates(report, "words of memory", MANY, |index| {
        (mfn(0) << 12 | (index as u64 % 512) << 3, 0)
    });
    updates(report, "names of frames", MANY, |index| {
        let index = index as u64 % 256;
        (mfn_of(frames + index) << 12 | 1, frames + index)
    });
    // A pin between two requests for the same table makes them look for it again.
    let other = page();
    let pinned = (protect(other), pin(1, other.mfn()));
    report.equal("a second table", pinned, (Ok(0), Ok(0)));
    updates(report, "two tables in turn", MANY, |index| {
        let entry = mfn(0) << 12 | READ_ONLY;
        if index % 2 == 0 {
            (table.machine(4), entry)
        } else {
            (other.machine() + 32, entry)
        }
    });
    report.equal("no second table", unpin(other.mfn()), Ok(0));
}
