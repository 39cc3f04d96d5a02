//! Lists where there are none: the hypervisor must write no result outside the guest, whatever progress is claimed.

use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::memory::reservation;
use kit::Report;
use kit::memory::{
    HYPERVISOR_VIRT_START, LAST_OF_HYPERVISOR, NON_CANONICAL, READ_ONLY_OF_HYPERVISOR, UNMAPPED,
};
use kit::start_info;

use crate::{Frames, address_of, exchange, pages, side};

pub fn check(report: &mut Report) {
    for (name, address) in [
        ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR),
        ("the middle of the hypervisor", 0xffff_8300_0000_0000),
        ("the end of the hypervisor", LAST_OF_HYPERVISOR + 4088),
        ("not canonical", NON_CANONICAL),
    ] {
        forbidden(report, name, address);
        for done in [1, 2, 511, 1 << 12, 1 << 20, 1 << 40, (1 << 60) - 2, 1 << 60] {
            far(report, name, address, done);
        }
    }
    unmapped(report);
    runs_over(report);
}

/// Addresses that a guest has no business with: nothing is begun.
fn forbidden(report: &mut Report, name: &str, address: u64) {
    let before = pages();
    let frames = Frames::<1>::new();
    let seen = [
        exchange(
            reservation(&mut { frames.mfns }, 0, 0),
            side(address, 1, 0),
            0,
        ),
        exchange(
            side(address, 1, 0),
            reservation(&mut { frames.pfns }, 0, 0),
            0,
        ),
    ];
    report.equal(
        format_args!("{name}: both lists"),
        (seen, pages()),
        ([(Err(Errno::EFAULT), 0); 2], before),
    );
    report.check(
        format_args!("{name}: frames"),
        frames.are_there(),
        "missing",
    );
}

/// The list is said to begin so far in front of the place that the next element is there.
fn far(report: &mut Report, name: &str, target: u64, done: u64) {
    let before = pages();
    let frames = Frames::<1>::new();
    let mut given = frames.mfns;
    let mut got = frames.pfns;
    let back = done.wrapping_mul(8);
    let count = done + 1;
    let input = side(address_of(&mut given).wrapping_sub(back), count, 0);
    let output = side(address_of(&mut got).wrapping_sub(back), count, 0);
    let there = side(target.wrapping_sub(back), count, 0);
    let seen = [exchange(input, there, done), exchange(there, output, done)];
    report.equal(
        format_args!("{name}: element {done:#x}"),
        (seen, pages()),
        ([(Err(Errno::EFAULT), done); 2], before),
    );
    report.check(
        format_args!("{name}: element {done:#x}: frames"),
        frames.are_there(),
        "missing",
    );
}

/// Addresses of the guest's own at which there is nothing, or nothing to write to. An exchange that was begun may then
/// be done with a result that nobody is told; that is the guest's own loss.
fn unmapped(report: &mut Report) {
    for (name, address) in [
        ("not mapped", UNMAPPED),
        ("null", 0),
        ("read-only", start_info().pt_base),
    ] {
        let before = pages();
        let frames = Frames::<1>::new();
        let (answer, _) = exchange(
            reservation(&mut { frames.mfns }, 0, 0),
            side(address, 1, 0),
            0,
        );
        report.equal(
            format_args!("{name}: results"),
            (answer, pages()),
            (Err(Errno::EFAULT), before),
        );
    }
    for (name, address) in [("not mapped", UNMAPPED), ("null", 0)] {
        let before = pages();
        let mut got = [1 << 20];
        let seen = exchange(side(address, 1, 0), reservation(&mut got, 0, 0), 0);
        report.equal(
            format_args!("{name}: frames to give"),
            (seen, pages(), got),
            ((Err(Errno::EFAULT), 0), before, [1 << 20]),
        );
    }
}

/// A list that begins in the guest's half and ends in the hypervisor's.
fn runs_over(report: &mut Report) {
    let before = pages();
    let frames = Frames::<4>::new();
    for inside in [1, 2] {
        let address = HYPERVISOR_VIRT_START - inside * 8;
        let seen = [
            exchange(
                reservation(&mut { frames.mfns }, 0, 0),
                side(address, 4, 0),
                0,
            ),
            exchange(
                side(address, 4, 0),
                reservation(&mut { frames.pfns }, 0, 0),
                0,
            ),
        ];
        report.equal(
            format_args!("{inside} elements in front of the hypervisor"),
            (seen, pages()),
            ([(Err(Errno::EFAULT), 0); 2], before),
        );
    }
    report.check(
        "in front of the hypervisor: frames",
        frames.are_there(),
        "missing",
    );
}
