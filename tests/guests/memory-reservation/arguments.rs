//! Lists where there are none, counts without sense, other domains, nodes that do not exist.

use dom0_abi::addr::GuestAddr;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{MemoryFlags, MemoryReservation};
use guest_pv_drivers::hypercall::memory::{self, memory_op, reservation};
use kit::frames::{mfn_of, set_mfn, take};
use kit::memory::{
    HYPERVISOR_VIRT_START, LAST_OF_HYPERVISOR, NON_CANONICAL, READ_ONLY_OF_HYPERVISOR, UNMAPPED,
    end_of_mapping,
};
use kit::{Report, start_info};

use crate::{decrease, increase, pages, populate};

pub fn check(report: &mut Report) {
    places(report);
    counts(report);
    progress(report);
    domains(report);
    flags(report);
}

/// A reservation of `count` extents, listed at an address.
fn listed_at(address: u64, count: u64) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(address)),
        nr_extents: count,
        ..reservation(&mut [], 0, 0)
    }
}

fn places(report: &mut Report) {
    for (name, address) in [
        ("null", 0),
        ("not mapped", UNMAPPED),
        ("not canonical", NON_CANONICAL),
        ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR),
        ("the middle of the hypervisor", 0xffff_8300_0000_0000),
        ("the end of the hypervisor", LAST_OF_HYPERVISOR + 4088),
        ("the end of the address space", u64::MAX - 3),
    ] {
        let before = pages();
        report.equal(
            format_args!("list: {name}"),
            [
                decrease(listed_at(address, 1)),
                populate(listed_at(address, 1)),
                Ok(pages()),
            ],
            [Ok(0), Ok(0), Ok(before)],
        );
        // What is handed out here is lost if it cannot be told; so a null list means that nobody wants to know.
        let right = if address == 0 { 3 } else { 0 };
        report.equal(
            format_args!("list: {name}: increase"),
            increase(listed_at(address, 3)),
            Ok(right),
        );
    }
    let read_only = start_info().pt_base;
    report.equal(
        "list: read-only",
        [
            increase(listed_at(read_only, 1)),
            populate(listed_at(read_only, 1)),
        ],
        [Ok(0), Ok(0)],
    );
    let end = end_of_mapping();
    report.equal(
        "list: runs into a page that is not there",
        increase(listed_at(end - 8, 2)),
        Ok(1),
    );
    // An element in the hypervisor's range behind a start that is not.
    report.equal(
        "list: runs into the hypervisor",
        [
            increase(listed_at(HYPERVISOR_VIRT_START - 8, 2)),
            populate(listed_at(HYPERVISOR_VIRT_START - 8, 2)),
            decrease(listed_at(HYPERVISOR_VIRT_START - 8, 2)),
        ],
        [Ok(0); 3],
    );
}

fn counts(report: &mut Report) {
    let before = pages();
    // From 2^26 on there is no room for a count of what is done.
    for count in [
        0,
        1 << 20,
        (1 << 26) - 1,
        1 << 26,
        1 << 32,
        1 << 58,
        1 << 61,
        1 << 63,
        u64::MAX,
    ] {
        let mut bad = [u64::MAX; 2];
        let with = |list: &mut [u64]| MemoryReservation {
            nr_extents: count,
            ..reservation(list, 0, 0)
        };
        report.equal(
            format_args!("{count:#x} extents"),
            [
                decrease(with(&mut bad)),
                populate(listed_at(0, count)),
                Ok(pages()),
            ],
            [Ok(0), Ok(0), Ok(before)],
        );
        if count == 0 || count >= 1 << 26 {
            let own = take(1);
            let seen = [
                increase(with(&mut [own])),
                populate(with(&mut [own])),
                decrease(with(&mut [mfn_of(own)])),
                Ok(pages()),
            ];
            report.equal(
                format_args!("{count:#x} extents, the first a good one"),
                seen,
                [Ok(0), Ok(0), Ok(0), Ok(before)],
            );
        }
    }
    // A number times a size that is no number of 64 bits.
    for (count, order) in [(1 << 20, 45), (3, 63), (1 << 25, 31), (1 << 16, 48)] {
        let argument = MemoryReservation {
            nr_extents: count,
            extent_order: order,
            ..reservation(&mut [1 << 20; 1], 0, 0)
        };
        report.equal(
            format_args!("{count:#x} extents of order {order}"),
            [
                populate(argument),
                increase(argument),
                decrease(argument),
                Ok(pages()),
            ],
            [Ok(0), Ok(0), Ok(0), Ok(before)],
        );
    }
}

/// The bits above the command say how many extents are done, and a guest can say anything.
fn progress(report: &mut Report) {
    let before = pages();
    const POPULATE: u64 = 6;
    let first = take(3);
    let mut given = [first, first + 1, first + 2].map(mfn_of);
    decrease(reservation(&mut given, 0, 0)).expect("they are the guest's");
    let mut list = [first, first + 1, first + 2];
    let mut argument = reservation(&mut list, 0, 0);
    let mut go = |start: u64| {
        let argument = core::ptr::from_mut(&mut argument) as u64;
        // SAFETY: the list is this function's.
        unsafe { memory_op(POPULATE | start << 6, argument) }
    };
    report.equal("populate: from the third on", go(2), Ok(3));
    report.equal("populate: from behind the last on", go(3), Ok(3));
    report.equal("populate: from further behind on", go(4), Ok(4));
    report.equal("populate: from far behind on", go(1 << 50), Ok(1 << 50));
    report.equal(
        "populate: the first two are as they were",
        &list[..2],
        &[first, first + 1],
    );
    report.equal("populate: one page", pages(), before - 2);
    set_mfn(first + 2, list[2]);
    let mut list = [first, first + 1];
    report.equal(
        "populate: the others",
        populate(reservation(&mut list, 0, 0)),
        Ok(2),
    );
    set_mfn(first, list[0]);
    set_mfn(first + 1, list[1]);
    report.equal("populate: all pages", pages(), before);
}

fn domains(report: &mut Report) {
    let before = pages();
    for domid in [
        DomId::new(1),
        DomId::IO,
        DomId::XEN,
        DomId::COW,
        DomId::INVALID,
        DomId::IDLE,
        DomId::new(0xffff),
    ] {
        let of = |list: &mut [u64]| MemoryReservation {
            domid,
            ..reservation(list, 0, 0)
        };
        let own = take(1);
        let seen = [
            populate(of(&mut [own])),
            increase(of(&mut [0])),
            decrease(of(&mut [mfn_of(own)])),
            Ok(pages()),
        ];
        report.equal(
            format_args!("of {domid:?}"),
            seen,
            [Ok(0), Ok(0), Ok(0), Ok(before)],
        );
    }
    let mut list = [0];
    let by_number = MemoryReservation {
        domid: DomId::DOM0,
        ..reservation(&mut list, 0, 0)
    };
    report.equal(
        "of itself by its number",
        [
            increase(by_number),
            Ok(pages()),
            decrease(by_number),
            Ok(pages()),
        ],
        [Ok(1), Ok(before + 1), Ok(1), Ok(before)],
    );
}

fn flags(report: &mut Report) {
    let before = pages();
    let exact = MemoryFlags::EXACT_NODE_REQUEST.bits();
    let vnode = MemoryFlags::VNODE.bits();
    let node = |number: u32| (number + 1) << 8;
    let pfn = 1 << 20;
    for (name, flags, right) in [
        // The machine has one node; a hint at another one is no more than that.
        ("node 0", node(0), 1),
        ("node 1, which is not there", node(1), 1),
        ("node 63, which is not there", node(63), 1),
        ("exactly node 0", exact | node(0), 1),
        ("exactly node 1, which is not there", exact | node(1), 0),
        ("exactly node 200", exact | node(200), 0),
        ("exactly, but no node", exact, 1),
        ("a virtual node without any", vnode | node(0), 1),
        // Numbers that no machine's nodes have.
        ("node 64", node(64), 0),
        ("node 127", node(127), 0),
        ("node 254", node(254), 0),
        ("unknown flags", 1 << 19 | 1 << 31, 1),
        ("28 address bits", 28, 1),
        ("64 address bits", 64, 1),
        ("255 address bits", 255, 1),
        ("12 address bits", 12, 0),
        ("1 address bit", 1, 0),
    ] {
        let mut list = [pfn];
        let seen = populate(reservation(&mut list, 0, flags));
        report.equal(
            format_args!("populate: {name}"),
            (seen, pages()),
            (Ok(right), before + right),
        );
        if seen == Ok(1) {
            decrease(reservation(&mut list, 0, 0)).expect("it was just taken");
        }
        let seen = increase(reservation(&mut list, 0, flags));
        report.equal(
            format_args!("increase: {name}"),
            (seen, pages()),
            (Ok(right), before + right),
        );
        if seen == Ok(1) {
            decrease(reservation(&mut list, 0, 0)).expect("it was just taken");
        }
    }
    for bits in 13..=27 {
        let mut list = [pfn];
        let seen = populate(reservation(&mut list, 0, bits));
        // Whether low memory is left or not: nothing above may come.
        let low = seen == Ok(0) || seen == Ok(1) && list[0] < 1 << (bits - 12);
        report.check(
            format_args!("populate: {bits} address bits"),
            low,
            format_args!("{seen:?} {list:x?}"),
        );
        if seen == Ok(1) {
            decrease(reservation(&mut list, 0, 0)).expect("it was just taken");
        }
    }
    report.equal(
        "populate on demand",
        populate(reservation(
            &mut [pfn],
            0,
            MemoryFlags::POPULATE_ON_DEMAND.bits(),
        )),
        Ok(0),
    );
    report.equal(
        "pages behind all that",
        (pages(), memory::maximum_gpfn(DomId::SELF)),
        (before, Ok(0)),
    );
}
