//! Operations whose length the guest chooses: trees of a hundred tables, lists of thousands of operations (XSA-45, 290).
//!
//! A hypervisor must stop in the midst of them to do its other work, and go on where it stopped, without the guest's
//! seeing it: the number of what was done is exact, a refusal at the end leaves nothing of what was begun, in a multicall
//! as well.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MulticallEntry};
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::memory::{Page, pte};
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, is_plain, page, pin, protect, unpin, unprotect,
};

kit::guest!("pt-long", main);

/// Level-1 tables of the tree: 64 thousand entries.
const TABLES: usize = 128;
/// Pages of a list.
const LIST_PAGES: usize = 96;
const SELF: u64 = DomId::SELF.get() as u64;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let data = page();
    let pages: [&'static Page; TABLES] = core::array::from_fn(|_| page());
    tree(report, data, &pages);
    // The pages lie one behind the other, so they hold a list.
    let list = pages[0].address();
    for page in pages {
        if unprotect(page).is_err() {
            return report.check("the pages are writable again", false, "refused");
        }
    }
    updates(report, lab, data, &pages, list);
    operations(report, &pages, list);
}

fn fill(page: &'static Page, entry: u64) {
    for slot in 0..512 {
        let _ = page.set_word(slot, entry);
    }
}

/// A root over full level-1 tables: pinned, unpinned, and refused for one entry at its very end.
fn tree(report: &mut Report, data: &'static Page, pages: &[&'static Page; TABLES]) {
    let (l2, l3, l4) = (page(), page(), page());
    for (slot, page) in pages.iter().enumerate() {
        fill(page, data.machine() | READ_ONLY);
        let _ = l2.set_word(slot * 4, page.machine() | WRITABLE);
    }
    let _ = l3.set_word(511, l2.machine() | WRITABLE);
    let _ = l4.set_word(0, l3.machine() | WRITABLE);
    let upper = [l2, l3, l4];
    let protected = |pages: &[&'static Page]| pages.iter().all(|page| protect(page).is_ok());
    let plain = |pages: &[&'static Page]| pages.iter().position(|page| !is_plain(page));
    for round in 0..2 {
        report.equal(
            format_args!("a large tree, round {round}: pinned and unpinned"),
            (
                protected(pages) && protected(&upper),
                pin(4, l4.mfn()),
                pin(4, l4.mfn()),
                unprotect(pages[TABLES - 1]),
                unpin(l4.mfn()),
                unpin(l4.mfn()),
            ),
            (
                true,
                Ok(0),
                Err(Errno::EINVAL),
                Err(Errno::EBUSY),
                Ok(0),
                Err(Errno::EINVAL),
            ),
        );
        report.equal(
            format_args!("a large tree, round {round}: pages afterwards"),
            (plain(pages), plain(&upper)),
            (None, None),
        );
    }

    // The last entry of the last table, and one in the middle of the middle one.
    for (table, slot) in [(TABLES - 1, 511), (TABLES / 2, 200)] {
        let bad = pages[table];
        let _ = bad.set_word(slot, 0x000f_fff0_0000_0000 | READ_ONLY);
        report.equal(
            format_args!("a large tree with a bad entry in table {table}"),
            (
                protected(pages) && protected(&upper),
                pin(4, l4.mfn()),
                unpin(l4.mfn()),
            ),
            (true, Err(Errno::EPERM), Err(Errno::EINVAL)),
        );
        report.equal(
            format_args!("a large tree with a bad entry in table {table}: pages afterwards"),
            (plain(pages), plain(&upper)),
            (None, None),
        );
        let _ = bad.set_word(slot, 0);
    }

    // By other ways than a pin: hung into the live tree, loaded as a user root.
    let slot = Lab::ROOT_SLOT + 1;
    let live = Table::boot_root();
    // SAFETY: the addresses are nobody's.
    let hang = |entry| unsafe { live.set(slot, entry) };
    report.equal(
        "a large tree hung into the root and taken away",
        (
            protected(pages) && protected(&upper),
            hang(l3.machine() | WRITABLE),
            unprotect(pages[0]),
            kit::memory::read(((slot as u64) << 39) + (511 << 30)),
            hang(0),
            plain(pages),
        ),
        (true, Ok(0), Err(Errno::EBUSY), Ok(0), Ok(0), None),
    );
    let load = |mfn| {
        // SAFETY: this guest has no user mode.
        unsafe { kit::page_tables::extended(MmuextCommand::NewUserBasePtr, mfn, 0) }.result
    };
    report.equal(
        "a large tree as user root and not",
        (
            protected(pages) && protected(&upper),
            load(l4.mfn()),
            unprotect(pages[0]),
            load(0),
            plain(pages),
            plain(&upper),
        ),
        (true, Ok(0), Err(Errno::EBUSY), Ok(0), None, None),
    );
    for page in pages {
        fill(page, 0);
    }
}

/// Makes a call and the same call in a multicall: the results, and the numbers of what was done.
fn both(call: Hypercall, list: u64, count: u64) -> [(Result<u64, Errno>, u32); 2] {
    let mut told = [u32::MAX; 2];
    let [first, second] = told
        .each_mut()
        .map(|told| (&raw mut *told).expose_provenance() as u64);
    // SAFETY: the lists change entries of the window, or flush.
    let alone = unsafe { hypercall::call(call, [list, count, first, SELF, 0]) };
    let mut calls = [MulticallEntry {
        op: call.number(),
        result: u64::MAX,
        args: [list, count, second, SELF, 0, 0],
    }];
    // SAFETY: as above.
    let together = unsafe { hypercall::multicall(&mut calls) };
    let together = together.and_then(|_| hypercall::decode(calls[0].result));
    [(alone, told[0]), (together, told[1])]
}

fn updates(
    report: &mut Report,
    lab: Lab,
    data: &'static Page,
    pages: &[&'static Page; TABLES],
    list: u64,
) {
    let count = LIST_PAGES * 256;
    let place = |index: usize| (pages[index / 256], index % 256 * 2);
    for index in 0..count {
        let (page, word) = place(index);
        let slot = 1 + index % 500;
        // Now there, now not, so that each is a change; the last round leaves the slots empty.
        let is_there = index / 500 % 2 == 0 && index + 500 < count;
        let entry = if is_there {
            data.machine() | READ_ONLY
        } else {
            0
        };
        let _ = page.set_word(word, lab.table(1).machine(slot));
        let _ = page.set_word(word + 1, entry);
    }
    let right = (Ok(0), count as u32);
    report.equal(
        "thousands of updates",
        both(Hypercall::MmuUpdate, list, count as u64),
        [right; 2],
    );
    for bad in [count - 1, count / 2 + 1, 3] {
        let (page, word) = place(bad);
        let old = page.word(word + 1).unwrap_or(0);
        let _ = page.set_word(word + 1, (lab.table(1).mfn * 4096) | WRITABLE);
        let right = (Err(Errno::EBUSY), bad as u32);
        report.equal(
            format_args!("thousands of updates, number {bad} is bad"),
            both(Hypercall::MmuUpdate, list, count as u64),
            [right; 2],
        );
        let _ = page.set_word(word + 1, old);
    }
    // An update counts once: the marks of 500 slots say which was the last.
    let (page, word) = place(700);
    let _ = page.set_word(word, 4);
    report.equal(
        "updates up to one that does not exist",
        both(Hypercall::MmuUpdate, list, count as u64),
        [(Err(Errno::ENOSYS), 700); 2],
    );
    let there = (1..501)
        .filter(|&slot| lab.table(1).entry(slot) & pte::P != 0)
        .count();
    // 0 to 499 have made all, 500 to 699 have cleared 200 of them.
    report.equal("what the updates before it have left", there, 300);
}

fn operations(report: &mut Report, pages: &[&'static Page; TABLES], list: u64) {
    // Three words each, so none lies across pages of 512 words but in memory they follow one another.
    let count = LIST_PAGES * 512 / 3;
    let set = |index: usize, command: u64, argument: u64| {
        for (offset, value) in [command, argument, 0].into_iter().enumerate() {
            let word = index * 3 + offset;
            let _ = pages[word / 512].set_word(word % 512, value);
        }
    };
    for index in 0..count {
        set(
            index,
            MmuextCommand::InvlpgLocal as u64,
            Lab::address(index % 512),
        );
    }
    let right = (Ok(0), count as u32);
    report.equal(
        "thousands of flushes",
        both(Hypercall::MmuextOp, list, count as u64),
        [right; 2],
    );
    for bad in [count - 1, count / 2] {
        set(bad, 14, 0);
        report.equal(
            format_args!("thousands of flushes, number {bad} is bad"),
            both(Hypercall::MmuextOp, list, count as u64),
            [(Err(Errno::ENOSYS), bad as u32); 2],
        );
        set(bad, MmuextCommand::InvlpgLocal as u64, 0);
    }
    // Pins and unpins in turn: an odd number of them would leave a pin behind.
    let table = page();
    report.equal("a table", protect(table), Ok(0));
    let pairs = 1000;
    for index in 0..2 * pairs {
        let command = if index % 2 == 0 {
            MmuextCommand::PinL1Table
        } else {
            MmuextCommand::UnpinTable
        };
        set(index, command as u64, table.mfn());
    }
    let right = (Ok(0), 2 * pairs as u32);
    report.equal(
        "a thousand pins and unpins",
        (
            both(Hypercall::MmuextOp, list, 2 * pairs as u64),
            is_plain(table),
        ),
        ([right; 2], true),
    );
}
