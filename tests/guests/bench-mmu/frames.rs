//! Frames given back and taken again, and exchanged.

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::memory::{MemoryCommand, MemoryExchange, MemoryReservation};
use guest_pv_drivers::hypercall;
use guest_pv_drivers::hypercall::memory::reservation;
use kit::frames::{mfn_of, set_mfn, take};

use crate::Bench;

/// What is asked of the list of 512.
const MANY: usize = 512;
/// Frames of an exchange.
const ORDER: u32 = 6;
const EXTENT: usize = 1 << ORDER;

fn memory_op<T>(command: MemoryCommand, argument: &mut T) -> u64 {
    let argument = core::ptr::from_mut(argument).expose_provenance() as u64;
    // SAFETY: the lists are arrays of this module, the frames of `frames::take`.
    unsafe {
        hypercall::raw(
            Hypercall::MemoryOp.number(),
            [command as u64, argument, 0, 0, 0],
        )
    }
}

/// Gives back the frames of a list and takes others for the pfns from `first` on. Too few of either is an error.
fn give_and_take<const N: usize>(list: &mut [u64; N], first: u64) -> u64 {
    let all = N as u64;
    let given = memory_op(
        MemoryCommand::DecreaseReservation,
        &mut reservation(list, 0, 0),
    );
    for (pfn, place) in (first..).zip(list.iter_mut()) {
        *place = pfn;
    }
    let taken = memory_op(MemoryCommand::PopulatePhysmap, &mut reservation(list, 0, 0));
    if given == all && taken == all {
        0
    } else {
        given | taken | 1 << 63
    }
}

fn pair<const N: usize>(bench: &mut Bench, name: &str, count: u64, list: &mut [u64; N]) {
    let first = take(N as u64);
    for (pfn, place) in (first..).zip(list.iter_mut()) {
        *place = mfn_of(pfn);
    }
    bench.rows(name, count, N as u64, || {}, |_| give_and_take(list, first));
    for (pfn, &mut mfn) in (first..).zip(list.iter_mut()) {
        set_mfn(pfn, mfn);
    }
}

pub fn measure(bench: &mut Bench) {
    // A command without effect tells whether there are such calls.
    let none = memory_op(
        MemoryCommand::DecreaseReservation,
        &mut reservation(&mut [], 0, 0),
    );
    if let Err(error) = hypercall::decode(none) {
        bench.report.skip("frames", format_args!("{error:?}"));
        return;
    }
    pair(bench, "decrease-populate-1", 64, &mut [0; 1]);
    pair(bench, "decrease-populate-512", 4, &mut [0; MANY]);
    exchange(bench);
}

/// Frames for an extent and the extent for frames.
fn exchange(bench: &mut Bench) {
    let first = take(EXTENT as u64);
    let mut frames: [u64; EXTENT] = core::array::from_fn(|index| mfn_of(first + index as u64));
    let mut extent = [first];
    let swap = |input: MemoryReservation, output: MemoryReservation| {
        let mut argument = MemoryExchange {
            input,
            output,
            nr_exchanged: 0,
        };
        memory_op(MemoryCommand::Exchange, &mut argument)
    };
    bench.rows(
        "exchange-order-6-and-back",
        8,
        1,
        || {},
        |_| {
            extent = [first];
            let there = swap(
                reservation(&mut frames, 0, 0),
                reservation(&mut extent, ORDER, 0),
            );
            for (pfn, place) in (first..).zip(&mut frames) {
                *place = pfn;
            }
            there
                | swap(
                    reservation(&mut extent, ORDER, 0),
                    reservation(&mut frames, 0, 0),
                )
        },
    );
    for (pfn, mfn) in (first..).zip(frames) {
        set_mfn(pfn, mfn);
    }
}
