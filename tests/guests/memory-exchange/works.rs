//! Exchanges that work.

use dom0_abi::arch::INVALID_M2P_ENTRY;
use dom0_abi::errno::Errno;
use dom0_abi::memory::{MemoryCommand, MemoryExchange};
use guest_pv_drivers::hypercall::memory::{increase_reservation, memory_op, reservation};
use kit::Report;
use kit::frames::{readable, writable};
use kit::memory::machine_to_physical;

use crate::{Frames, WINDOW, exchange, pages, run};

/// What is written into frames that go.
const OWN: u64 = 0xa5a5_a5a5_a5a5_a5a5;

pub fn check(report: &mut Report) {
    one(report);
    sizes(report);
    addresses(report);
    large(report);
    progress(report);
}

fn one(report: &mut Report) {
    let before = pages();
    let mut frames = Frames::<1>::new();
    let [old] = frames.mfns;
    WINDOW
        .set(writable(old))
        .expect("an own frame can be mapped");
    for index in 0..512 {
        WINDOW.write(index, OWN);
    }
    WINDOW.close();
    let mut given = frames.mfns;
    let mut got = frames.pfns;
    let seen = exchange(
        reservation(&mut given, 0, 0),
        reservation(&mut got, 0, 0),
        0,
    );
    report.equal("one for one", (seen, pages()), ((Ok(0), 1), before));
    report.equal("one for one: what was given is as it was", given, [old]);
    report.check("one for one: another frame", got != [old], "the same");
    report.equal(
        "one for one: machine-to-physical",
        (machine_to_physical(old), machine_to_physical(got[0])),
        (Some(INVALID_M2P_ENTRY), Some(frames.pfns[0])),
    );
    report.equal(
        "one for one: the old frame cannot be mapped",
        (WINDOW.set(readable(old)), WINDOW.set(writable(old))),
        (Err(Errno::EBUSY), Err(Errno::EBUSY)),
    );
    report.equal(
        "one for one: the new one can",
        WINDOW.set(writable(got[0])),
        Ok(0),
    );
    // Not what another domain left there.
    let clean = (0..512).all(|index| matches!(WINDOW.read(index), 0 | OWN));
    report.check("one for one: content", clean, "something else");
    WINDOW.close();
    frames.note(got);
}

fn sizes(report: &mut Report) {
    let before = pages();
    let mut frames = Frames::<4>::new();
    let [first, ..] = frames.pfns;

    let mut given = frames.mfns;
    let mut got = [first];
    let seen = exchange(
        reservation(&mut given, 0, 0),
        reservation(&mut got, 2, 0),
        0,
    );
    report.equal("four for order 2", (seen, pages()), ((Ok(0), 4), before));
    report.equal("four for order 2: aligned", got[0] % 4, 0);
    frames.note(run(got[0]));
    report.check("four for order 2: frames", frames.are_there(), "missing");

    let mut given = got;
    let mut got = frames.pfns;
    let seen = exchange(
        reservation(&mut given, 2, 0),
        reservation(&mut got, 0, 0),
        0,
    );
    report.equal("order 2 for four", (seen, pages()), ((Ok(0), 1), before));
    frames.note(got);
    report.check("order 2 for four: frames", frames.are_there(), "missing");

    // Two steps of two.
    let mut given = frames.mfns;
    let mut got = [first, first + 2];
    let seen = exchange(
        reservation(&mut given, 0, 0),
        reservation(&mut got, 1, 0),
        0,
    );
    report.equal(
        "four for two of order 1",
        (seen, pages()),
        ((Ok(0), 4), before),
    );
    frames.note([got[0], got[0] + 1, got[1], got[1] + 1]);
    report.check(
        "four for two of order 1: frames",
        frames.are_there(),
        "missing",
    );

    // The base of an extent that is given need not be a multiple of its size.
    let mut list = [0];
    // SAFETY: the list is this function's.
    unsafe { increase_reservation(&mut reservation(&mut list, 3, 0)) }
        .expect("there is memory left");
    let mut given = [list[0] + 3];
    let mut got = [first];
    let seen = exchange(
        reservation(&mut given, 1, 0),
        reservation(&mut got, 1, 0),
        0,
    );
    report.equal(
        "an extent from the middle",
        (seen, pages()),
        ((Ok(0), 1), before + 8),
    );
    report.equal(
        "an extent from the middle: machine-to-physical",
        run::<2>(got[0]).map(machine_to_physical),
        [Some(first), Some(first + 1)],
    );
    // Pfns mean nothing to the hypervisor.
    for pfn in [kit::start_info().nr_pages, 1 << 40, u64::MAX] {
        let mut given = [got[0]];
        got = [pfn];
        let seen = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 0, 0),
            0,
        );
        report.equal(
            format_args!("for pfn {pfn:#x}"),
            (seen, machine_to_physical(got[0])),
            ((Ok(0), 1), Some(pfn)),
        );
    }
}

fn addresses(report: &mut Report) {
    for bits in [13, 16, 20, 24, 27, 28, 31, 64, 255] {
        let mut frames = Frames::<1>::new();
        let before = pages();
        let mut given = frames.mfns;
        let mut got = frames.pfns;
        let (answer, done) = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 0, bits),
            0,
        );
        // Whether low memory is left or not: nothing above may come, and nothing may get lost.
        let low = bits >= 28 || got[0] >> (bits - 12) == 0;
        let right = match answer {
            Ok(0) => {
                let low = low && done == 1;
                frames.note(got);
                low
            }
            Err(Errno::ENOMEM) => bits < 28 && done == 0 && got == frames.pfns,
            _ => false,
        };
        report.check(
            format_args!("{bits} address bits"),
            right,
            format_args!("{answer:?} {done} {got:x?}"),
        );
        report.check(
            format_args!("{bits} address bits: frames"),
            frames.are_there() && pages() == before,
            "missing",
        );
    }
}

/// What Linux asks for at boot, and larger.
fn large(report: &mut Report) {
    for order in [6u32, 9] {
        let mut list = [0];
        // SAFETY: the list is this function's.
        let done = unsafe { increase_reservation(&mut reservation(&mut list, order, 0)) };
        report.equal(format_args!("order {order}: frames"), done, Ok(1));
        let before = pages();
        let pfn = 1 << 20;
        let mut got = [pfn];
        let seen = exchange(
            reservation(&mut list, order, 0),
            reservation(&mut got, order, 31),
            0,
        );
        report.equal(
            format_args!("order {order} for order {order}"),
            (seen, pages()),
            ((Ok(0), 1), before),
        );
        let count = 1u64 << order;
        let told = (0..count).all(|index| machine_to_physical(got[0] + index) == Some(pfn + index));
        report.check(
            format_args!("order {order} for order {order}: machine-to-physical"),
            told && got[0] % count == 0,
            "another pfn",
        );
    }
    let mut frames = Frames::<64>::new();
    let before = pages();
    let mut given = frames.mfns;
    let mut got = [frames.pfns[0]];
    let seen = exchange(
        reservation(&mut given, 0, 0),
        reservation(&mut got, 6, 31),
        0,
    );
    report.equal("64 for order 6", (seen, pages()), ((Ok(0), 64), before));
    frames.note(run(got[0]));
    report.check("64 for order 6: frames", frames.are_there(), "missing");
}

/// How far the call has come is what the guest says, cut down to whole steps.
fn progress(report: &mut Report) {
    for done in 0..=4 {
        let mut frames = Frames::<4>::new();
        let before = pages();
        let mut given = frames.mfns;
        let mut got = frames.pfns;
        let seen = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 0, 0),
            done,
        );
        report.equal(
            format_args!("four for four, {done} done"),
            (seen, pages()),
            ((Ok(0), 4), before),
        );
        let mut now = frames.mfns;
        for (index, place) in now.iter_mut().enumerate().skip(done as usize) {
            *place = got[index];
        }
        let skipped = done as usize;
        report.equal(
            format_args!("four for four, {done} done: the list"),
            &got[..skipped],
            &frames.pfns[..skipped],
        );
        frames.note(now);
        report.check(
            format_args!("four for four, {done} done: frames"),
            frames.are_there(),
            "missing",
        );
    }
    // In steps of four.
    for (done, skipped) in [(1, 0), (3, 0), (4, 1), (7, 1), (8, 2)] {
        let mut frames = Frames::<8>::new();
        let mut given = frames.mfns;
        let pfns = [frames.pfns[0], frames.pfns[4]];
        let mut got = pfns;
        let seen = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 2, 0),
            done,
        );
        report.equal(
            format_args!("eight for two of order 2, {done} done"),
            seen,
            (Ok(0), 8),
        );
        let mut now = frames.mfns;
        for step in skipped..2 {
            now[step * 4..][..4].copy_from_slice(&run::<4>(got[step]));
        }
        report.equal(
            format_args!("eight for two of order 2, {done} done: the list"),
            &got[..skipped],
            &pfns[..skipped],
        );
        frames.note(now);
        report.check(
            format_args!("eight for two of order 2, {done} done: frames"),
            frames.are_there(),
            "missing",
        );
    }
    for done in [5, 1 << 32, 1 << 63, u64::MAX] {
        let frames = Frames::<4>::new();
        let mut given = frames.mfns;
        let mut got = frames.pfns;
        let seen = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 0, 0),
            done,
        );
        report.equal(
            format_args!("four for four, {done:#x} done"),
            (seen, got),
            ((Err(Errno::EINVAL), done), frames.pfns),
        );
        report.check(
            format_args!("four for four, {done:#x} done: frames"),
            frames.are_there(),
            "missing",
        );
    }
    // What a command carries of progress elsewhere, it does not here.
    let frames = Frames::<1>::new();
    let (mut given, mut got) = (frames.mfns, frames.pfns);
    let mut argument = MemoryExchange {
        input: reservation(&mut given, 0, 0),
        output: reservation(&mut got, 0, 0),
        nr_exchanged: 0,
    };
    let command = MemoryCommand::Exchange as u64 | 1 << 6;
    let address = core::ptr::from_mut(&mut argument) as u64;
    // SAFETY: the lists are this function's.
    let seen = unsafe { memory_op(command, address) };
    report.equal("progress in the command", seen, Err(Errno::EINVAL));
    report.check(
        "progress in the command: frames",
        frames.are_there(),
        "missing",
    );
}
