//! Page-table pages: pins of trees of four levels, of a level-1 table alone, and another root.

use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use dom0_abi::xen::MmuextCommand;
use kit::frames::{mfn_of, take, writable};
use kit::memory::Page;
use kit::page_tables::{self, Table, WRITABLE, operation, protect, unprotect};

use crate::calls::extended;
use crate::{Bench, Cost, ROUNDS, now};

pub fn measure(bench: &mut Bench) {
    let tree: [&Page; 4] = core::array::from_fn(|_| page_tables::page());
    let [l1, l2, l3, l4] = tree;
    for (table, below) in [(l4, l3), (l3, l2), (l2, l1)] {
        table.set_word(0, below.machine() | WRITABLE);
    }
    if [l2, l3, l4]
        .into_iter()
        .any(|table| protect(table).is_err())
    {
        bench
            .report
            .skip("page-table pages", "no page is read-only");
        return;
    }
    let first = take(512);
    let mut whole = [None; 2];
    for (present, name) in [
        (0, ["pin-tree-0", "unpin-tree-0"]),
        (1, ["pin-tree-1", "unpin-tree-1"]),
        (8, ["pin-tree-8", "unpin-tree-8"]),
        (64, ["pin-tree-64", "unpin-tree-64"]),
        (512, ["pin-tree-512", "unpin-tree-512"]),
    ] {
        unprotect(l1).expect("a page of no table can be mapped");
        for index in 0..512 {
            let frame = first + index as u64;
            let entry = if index < present {
                writable(mfn_of(frame))
            } else {
                0
            };
            l1.set_word(index, entry);
        }
        protect(l1).expect("an own page can be mapped read-only");
        let costs = pin(bench, name, MmuextCommand::PinL4Table, l4);
        if let Some(place) = [0, 512].iter().position(|&at| at == present) {
            whole[place] = costs;
        }
        let name = match present {
            0 => ["pin-l1-0", "unpin-l1-0"],
            512 => ["pin-l1-512", "unpin-l1-512"],
            _ => continue,
        };
        pin(bench, name, MmuextCommand::PinL1Table, l1);
    }
    if let [Some(empty), Some(full)] = whole {
        for (name, index) in [("pin-tree-per-entry", 0), ("unpin-tree-per-entry", 1)] {
            bench.print(name, &full[index].minus(empty[index]), 512);
        }
    }
    roots(bench);
}

/// Pins and unpins a table, and tells the least that each took.
fn pin(
    bench: &mut Bench,
    names: [&str; 2],
    command: MmuextCommand,
    table: &'static Page,
) -> Option<[Cost; 2]> {
    let pin = operation(command, table.mfn(), 0);
    let unpin = operation(MmuextCommand::UnpinTable, table.mfn(), 0);
    let mut best = [Cost::MAX; 2];
    let mut results = 0;
    // Each is so long that a loop would only collect the hypervisor's timers.
    for _ in 0..ROUNDS * 4 {
        for (best, operation) in best.iter_mut().zip([&pin, &unpin]) {
            let (counts, instructions) = bench.counters.around(|| {
                let start = now();
                results |= extended(operation);
                now().wrapping_sub(start)
            });
            *best = best.min(Cost {
                instructions,
                counts,
            });
        }
    }
    if let Err(error) = guest_pv_drivers::hypercall::decode(results) {
        bench.report.skip(names[0], format_args!("{error:?}"));
        return None;
    }
    for (name, best) in names.into_iter().zip(best) {
        bench.report.check(name, true, "");
        bench.print(name, &best, 1);
    }
    Some(best)
}

/// A root that maps the kernel as the boot root does, by the same tables.
fn roots(bench: &mut Bench) {
    let boot = Table::boot_root();
    let other = page_tables::page();
    for slot in
        (0..512).filter(|slot| !(HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT).contains(slot))
    {
        other.set_word(slot, boot.entry(slot));
    }
    protect(other).expect("an own page can be mapped read-only");
    if let Err(error) = page_tables::pin(4, other.mfn()) {
        bench.report.skip("new-baseptr", format_args!("{error:?}"));
        return;
    }
    let load = [other.mfn(), boot.mfn].map(|root| operation(MmuextCommand::NewBasePtr, root, 0));
    bench.row("new-baseptr", |index| extended(&load[index as usize & 1]));
    extended(&load[1]);
    let same = page_tables::current_root();
    bench
        .report
        .equal("the root is the boot root again", same, boot.mfn);
    page_tables::unpin(other.mfn()).expect("a pin that was made can be ended");
}
