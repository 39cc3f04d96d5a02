//! Frames taken and given back: `increase_reservation`, `decrease_reservation`, `populate_physmap`.
//!
//! The hypervisor must hand out nothing that the guest may not know, account for each frame once, take no frame that is still in use out of the
//! guest's hands and into another's, and survive every count, order, node and list that a guest can think of. These
//! calls return how many extents are done, and no error number at all.
#![no_std]
#![no_main]
// UNSAFETY: frames of the guest go and come.
#![allow(unsafe_code)]

mod arguments;
mod frames_in_use;
mod limits;

use dom0_abi::arch::INVALID_M2P_ENTRY;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::MemoryReservation;
use guest_pv_drivers::hypercall::memory::{self, reservation};
use kit::Report;
use kit::frames::{Window, mfn_of, readable, set_mfn, take, writable};
use kit::memory::machine_to_physical;

kit::guest!("memory-reservation", main);

type Answer = Result<u64, Errno>;

static WINDOW: Window = Window::new();

fn main(report: &mut Report) {
    round_trip(report);
    orders(report);
    lists(report);
    frames_in_use::check(report);
    arguments::check(report);
    limits::check(report);
}

fn increase(mut argument: MemoryReservation) -> Answer {
    // SAFETY: the lists are this guest's arrays, or at addresses where Rust has nothing.
    unsafe { memory::increase_reservation(&mut argument) }
}

fn decrease(mut argument: MemoryReservation) -> Answer {
    // SAFETY: the frames are of `frames::take`, which nothing of Rust's is in, or none that the hypervisor may let go.
    unsafe { memory::decrease_reservation(&mut argument) }
}

fn populate(mut argument: MemoryReservation) -> Answer {
    // SAFETY: as for `increase`.
    unsafe { memory::populate_physmap(&mut argument) }
}

/// What the guest writes into frames that it is to give back.
const OWN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Fills the frame behind the window.
fn soil(window: &Window) {
    for index in 0..512 {
        window.write(index, OWN);
    }
}

/// Whether the frame behind the window holds nothing but zeroes, or what the guest itself once wrote: Xen clears the
/// frames of a domain that dies, and leaves those that a living one gives back to that domain.
fn is_clean(window: &Window) -> bool {
    (0..512).all(|index| matches!(window.read(index), 0 | OWN))
}

/// How many pages the domain has.
fn pages() -> u64 {
    memory::current_reservation(DomId::SELF).expect("a domain can ask for its own pages")
}

/// Gives frame and pfn of the guest's a frame again.
fn repopulate(pfn: u64) {
    let mut list = [pfn];
    let done = populate(reservation(&mut list, 0, 0));
    assert_eq!(done, Ok(1), "there is memory left");
    set_mfn(pfn, list[0]);
}

fn round_trip(report: &mut Report) {
    let before = pages();
    let pfn = take(1);
    let old = mfn_of(pfn);
    WINDOW
        .set(writable(old))
        .expect("an own frame can be mapped");
    soil(&WINDOW);
    WINDOW.close();

    report.equal(
        "decrease: one frame",
        decrease(reservation(&mut [old], 0, 0)),
        Ok(1),
    );
    report.equal("decrease: pages", pages(), before - 1);
    report.equal(
        "decrease: machine-to-physical",
        machine_to_physical(old),
        Some(INVALID_M2P_ENTRY),
    );
    report.equal(
        "decrease: the frame cannot be mapped",
        WINDOW.set(readable(old)),
        Err(Errno::EBUSY),
    );
    report.equal(
        "decrease: the same frame again",
        decrease(reservation(&mut [old], 0, 0)),
        Ok(0),
    );

    let mut list = [pfn];
    report.equal(
        "populate: one frame",
        populate(reservation(&mut list, 0, 0)),
        Ok(1),
    );
    report.equal("populate: pages", pages(), before);
    report.equal(
        "populate: machine-to-physical",
        machine_to_physical(list[0]),
        Some(pfn),
    );
    set_mfn(pfn, list[0]);
    report.equal(
        "populate: the frame can be mapped",
        WINDOW.set(writable(list[0])),
        Ok(0),
    );
    report.check("populate: content", is_clean(&WINDOW), "something else");
    WINDOW.close();

    let mut list = [0x77; 3];
    report.equal(
        "increase: three frames",
        increase(reservation(&mut list, 0, 0)),
        Ok(3),
    );
    report.equal("increase: pages", pages(), before + 3);
    for mfn in list {
        report.equal(
            "increase: machine-to-physical",
            machine_to_physical(mfn),
            Some(INVALID_M2P_ENTRY),
        );
        report.equal(
            "increase: the frame can be mapped",
            WINDOW.set(writable(mfn)),
            Ok(0),
        );
        report.check("increase: content", is_clean(&WINDOW), "something else");
        WINDOW.close();
    }
    report.equal(
        "increase: given back",
        decrease(reservation(&mut list, 0, 0)),
        Ok(3),
    );
    report.equal("increase: pages, given back", pages(), before);
}

fn orders(report: &mut Report) {
    let before = pages();
    // Any pfn will do: the list of the guest's own pfns is its own affair.
    let pfn = 1 << 20;
    // Larger ones are not to be had from everybody.
    for order in 0..=9u32 {
        let frames = 1u64 << order;
        let mut list = [pfn];
        report.equal(
            format_args!("populate: order {order}"),
            (populate(reservation(&mut list, order, 0)), pages()),
            (Ok(1), before + frames),
        );
        let [first] = list;
        report.equal(
            format_args!("populate: order {order}: aligned"),
            first % frames,
            0,
        );
        let told = (0..frames).all(|index| machine_to_physical(first + index) == Some(pfn + index));
        report.check(
            format_args!("populate: order {order}: machine-to-physical"),
            told,
            "another pfn",
        );
        for index in [0, frames - 1] {
            WINDOW
                .set(writable(first + index))
                .expect("a frame that was handed out can be mapped");
            report.check(
                format_args!("populate: order {order}: content of {index}"),
                is_clean(&WINDOW),
                "something else",
            );
            soil(&WINDOW);
        }
        WINDOW.close();
        report.equal(
            format_args!("decrease: order {order}"),
            (decrease(reservation(&mut list, order, 0)), pages()),
            (Ok(1), before),
        );
        let forgotten =
            (0..frames).all(|index| machine_to_physical(first + index) == Some(INVALID_M2P_ENTRY));
        report.check(
            format_args!("decrease: order {order}: machine-to-physical"),
            forgotten,
            "still a pfn",
        );
        let mut list = [0];
        let seen = (increase(reservation(&mut list, order, 0)), pages());
        report.equal(
            format_args!("increase: order {order}"),
            seen,
            (Ok(1), before + frames),
        );
        // In halves, from a base that is no multiple of the whole.
        if order > 0 {
            let mut halves = [list[0] + frames / 2, list[0]];
            report.equal(
                format_args!("decrease: order {order} in halves"),
                (decrease(reservation(&mut halves, order - 1, 0)), pages()),
                (Ok(2), before),
            );
        } else {
            decrease(reservation(&mut list, 0, 0)).expect("it was just taken");
        }
    }
    // More than the machine has, and more than a shift can do.
    for order in (17..=70).chain([127, 128, 1 << 31, u32::MAX]) {
        let mut list = [pfn];
        let seen = [
            populate(reservation(&mut list, order, 0)),
            increase(reservation(&mut list, order, 0)),
            decrease(reservation(&mut list, order, 0)),
        ];
        report.equal(
            format_args!("order {order}"),
            (seen, pages()),
            ([Ok(0); 3], before),
        );
    }
    // A run that begins with own frames and goes on with others': nothing behind the first wrong one is taken.
    let mut list = [0];
    increase(reservation(&mut list, 2, 0)).expect("there is memory left");
    let [first] = list;
    decrease(reservation(&mut [first + 2], 0, 0)).expect("it was just taken");
    report.equal(
        "decrease: order 2 with a hole",
        decrease(reservation(&mut list, 2, 0)),
        Ok(0),
    );
    for mfn in [first, first + 1, first + 3] {
        // Those before the hole may be gone.
        let _ = decrease(reservation(&mut [mfn], 0, 0));
    }
    report.equal("decrease: order 2 with a hole: pages", pages(), before);
}

fn lists(report: &mut Report) {
    let before = pages();
    let pfn = take(4);
    let [a, b] = [pfn, pfn + 1].map(mfn_of);
    // The first failure ends the list.
    let mut list = [a, u64::MAX, b];
    report.equal(
        "decrease: good, bad, good",
        (decrease(reservation(&mut list, 0, 0)), pages()),
        (Ok(1), before - 1),
    );
    report.equal("decrease: the list is as it was", list, [a, u64::MAX, b]);
    report.equal(
        "decrease: twice the same",
        (decrease(reservation(&mut [b, b], 0, 0)), pages()),
        (Ok(1), before - 2),
    );
    let mut list = [pfn, pfn + 1];
    report.equal(
        "populate: two",
        populate(reservation(&mut list, 0, 0)),
        Ok(2),
    );
    for (pfn, mfn) in [pfn, pfn + 1].into_iter().zip(list) {
        report.equal(
            "populate: each its pfn",
            machine_to_physical(mfn),
            Some(pfn),
        );
        set_mfn(pfn, mfn);
    }
    report.check(
        "populate: not the same frame",
        list[0] != list[1],
        "the same",
    );
    report.equal("populate: pages", pages(), before);
    // Pfns mean nothing to the hypervisor.
    for pfn in [
        kit::start_info().nr_pages,
        1 << 40,
        1 << 52,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let mut list = [pfn];
        let seen = populate(reservation(&mut list, 0, 0));
        report.equal(
            format_args!("populate: pfn {pfn:#x}"),
            (seen, machine_to_physical(list[0])),
            (Ok(1), Some(pfn)),
        );
        decrease(reservation(&mut list, 0, 0)).expect("it was just taken");
    }
    report.equal("populate: strange pfns: pages", pages(), before);
}
