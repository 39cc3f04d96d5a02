//! Frames that come and go: singly, in large extents, with their last use, in exchange.

use dom0_abi::addr::GuestAddr;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::memory::{MemoryCommand, MemoryExchange, MemoryReservation};
use guest_pv_drivers::hypercall::{self, memory::reservation};
use kit::Report;
use kit::frames::{mfn_of, set_mfn, take};
use kit::page_tables::{READ_ONLY, WRITABLE, page, pin, protect, unpin, unprotect};

use crate::{Answer, LIST, batch, fill};

fn memory_op<T>(command: MemoryCommand, argument: &mut T) -> Answer {
    let argument = core::ptr::from_mut(argument).expose_provenance() as u64;
    // SAFETY: the frames are of `frames::take`; the lists are the guest's own.
    unsafe { hypercall::call(Hypercall::MemoryOp, [command as u64, argument, 0, 0, 0]) }
}

/// So many extents, listed in [`LIST`].
fn listed(count: usize, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(LIST[0].address())),
        nr_extents: count as u64,
        ..reservation(&mut [], order, 0)
    }
}

pub fn check(report: &mut Report) {
    singly(report);
    in_pieces(report);
    last_uses(report);
    large(report);
    exchanged(report);
    many_calls(report);
}

/// A thousand frames, in a row and scattered.
fn singly(report: &mut Report) {
    const COUNT: usize = 2048;
    for (name, scatter) in [("in a row", 1), ("scattered", 773)] {
        let first = take(COUNT as u64);
        let pfn = |index: usize| first + (index * scatter % COUNT) as u64;
        fill(&LIST, (0..COUNT).map(|index| mfn_of(pfn(index))));
        let given = memory_op(MemoryCommand::DecreaseReservation, &mut listed(COUNT, 0));
        fill(&LIST, (0..COUNT).map(pfn));
        let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut listed(COUNT, 0));
        note(COUNT, pfn);
        let all = Ok(COUNT as u64);
        report.equal(
            format_args!("frames given back and taken, {name}"),
            (given, taken),
            (all, all),
        );
    }
}

/// Notes the frames that the list tells.
fn note(count: usize, pfn: impl Fn(usize) -> u64) {
    for index in 0..count {
        set_mfn(pfn(index), LIST[index / 512].word(index % 512).unwrap_or(0));
    }
}

/// Every other frame of a row first, so that each of the others joins what is left and right of it.
fn in_pieces(report: &mut Report) {
    const COUNT: usize = 1024;
    let first = take(COUNT as u64);
    let pfn = |index: usize| first + (index * 2 % COUNT + index * 2 / COUNT) as u64;
    fill(&LIST, (0..COUNT).map(|index| mfn_of(pfn(index))));
    let given = memory_op(MemoryCommand::DecreaseReservation, &mut listed(COUNT, 0));
    fill(&LIST, (0..COUNT).map(pfn));
    let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut listed(COUNT, 0));
    note(COUNT, pfn);
    let all = Ok(COUNT as u64);
    report.equal("every other frame", (given, taken), (all, all));
}

/// Frames that are given back while a table maps them, and go when it is undone.
fn last_uses(report: &mut Report) {
    let table = page();
    for (name, bits) in [("read only", READ_ONLY), ("writable", WRITABLE)] {
        let first = take(512);
        // With the table, and an entry at a time.
        for goes_with in ["use", "entry"] {
            let _ = unprotect(table);
            for slot in 0..512 {
                let _ = table.set_word(slot, mfn_of(first + slot as u64) << 12 | bits);
            }
            let pinned = (protect(table), pin(1, table.mfn()));
            fill(&LIST, (0..512).map(|index| mfn_of(first + index)));
            let given = memory_op(MemoryCommand::DecreaseReservation, &mut listed(512, 0));
            if goes_with == "entry" {
                crate::updates(report, "entries that are the last use", 512, |index| {
                    (table.machine() + index as u64 * 8, 0)
                });
            }
            let unpinned = unpin(table.mfn());
            fill(&LIST, (0..512).map(|index| first + index));
            let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut listed(512, 0));
            note(512, |index| first + index as u64);
            report.equal(
                format_args!("frames that go with their last {goes_with}, {name}"),
                (pinned, given, unpinned, taken),
                ((Ok(0), Ok(0)), Ok(512), Ok(0), Ok(512)),
            );
        }
    }
}

/// Extents of up to 8 MiB, as far as the hypervisor gives such.
fn large(report: &mut Report) {
    for order in [4, 8, 9, 10, 11] {
        let size = 1_u64 << order;
        let first = take(size);
        let mfns = (0..size).map(|index| mfn_of(first + index));
        let in_a_row = mfns.clone().is_sorted_by(|&one, &next| one + 1 == next);
        fill(&LIST, mfns);
        let given = memory_op(
            MemoryCommand::DecreaseReservation,
            &mut listed(size as usize, 0),
        );
        report.equal(
            format_args!("{size} frames given, in a row: {in_a_row}"),
            given,
            Ok(size),
        );
        fill(&LIST, [first].into_iter());
        let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut listed(1, order));
        let mfn = LIST[0].word(0).unwrap_or(0);
        if taken == Ok(1) {
            // And once more as a whole.
            fill(&LIST, [mfn].into_iter());
            let given = memory_op(MemoryCommand::DecreaseReservation, &mut listed(1, order));
            fill(&LIST, [first].into_iter());
            let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut listed(1, order));
            let mfn = LIST[0].word(0).unwrap_or(0);
            for offset in 0..size {
                set_mfn(first + offset, mfn + offset);
            }
            report.equal(
                format_args!("an extent of order {order}, as a whole"),
                (given, taken),
                (Ok(1), Ok(1)),
            );
        } else {
            report.equal(format_args!("no extent of order {order}"), taken, Ok(0));
            fill(&LIST, (0..size).map(|index| first + index));
            let taken = memory_op(
                MemoryCommand::PopulatePhysmap,
                &mut listed(size as usize, 0),
            );
            note(size as usize, |index| first + index as u64);
            report.equal("its frames singly", taken, Ok(size));
        }
    }
}

/// Frames for an extent and back, in a row and scattered.
fn exchanged(report: &mut Report) {
    let place = page();
    let one = |order: u32| MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(place.address())),
        nr_extents: 1,
        ..reservation(&mut [], order, 0)
    };
    let swap = |input: MemoryReservation, output: MemoryReservation| {
        let mut argument = MemoryExchange {
            input,
            output,
            nr_exchanged: 0,
        };
        (
            memory_op(MemoryCommand::Exchange, &mut argument),
            argument.nr_exchanged,
        )
    };
    for order in [6, 7, 8, 9] {
        for scatter in [1, 5] {
            let size = 1_usize << order;
            let first = take(size as u64);
            let pfn = |index: usize| first + (index * scatter % size) as u64;
            fill(&LIST, (0..size).map(|index| mfn_of(pfn(index))));
            let _ = place.set_word(0, first);
            let there = swap(listed(size, 0), one(order));
            let extent = place.word(0).unwrap_or(0);
            // For another extent, which can only be as large.
            let _ = place.set_word(1, first);
            let other = MemoryReservation {
                extent_start: GuestHandle::new(GuestAddr::new(place.address() + 8)),
                ..one(order)
            };
            let whole = swap(one(order), other);
            let extent = if whole.0 == Ok(0) {
                place.word(1).unwrap_or(0)
            } else {
                extent
            };
            let _ = place.set_word(0, extent);
            fill(&LIST, (0..size).map(pfn));
            let back = swap(one(order), listed(size, 0));
            note(size, pfn);
            report.equal(
                format_args!("exchanges of order {order}, in steps of {scatter}"),
                (there, whole, back),
                ((Ok(0), size as u64), (Ok(0), 1), (Ok(0), 1)),
            );
        }
    }
}

/// One frame back and forth, by a call each.
fn many_calls(report: &mut Report) {
    let first = take(1);
    let place = page();
    // The place holds the frame's number each time, which is as good a pfn as any.
    let _ = place.set_word(0, mfn_of(first));
    let argument = MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(place.address())),
        nr_extents: 1,
        ..reservation(&mut [], 0, 0)
    };
    let at = (&raw const argument).expose_provenance() as u64;
    batch(report, "one frame by each call", 500, Ok(1), |index| {
        let command = if index % 2 == 0 {
            MemoryCommand::DecreaseReservation
        } else {
            MemoryCommand::PopulatePhysmap
        };
        (Hypercall::MemoryOp, [command as u64, at, 0, 0, 0])
    });
    set_mfn(first, place.word(0).unwrap_or(0));
}
