//! Counts and orders that do not fit each other or anything, and other domains.

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::MemoryReservation;
use guest_pv_drivers::hypercall::memory::reservation;
use kit::Report;

use crate::{Frames, address_of, exchange, pages, side};

pub fn check(report: &mut Report) {
    let before = pages();
    let frames = Frames::<2>::new();
    let mut given = frames.mfns;
    let mut got = frames.pfns;
    let (given, got) = (address_of(&mut given), address_of(&mut got));
    use Errno::{EFAULT, EINVAL, EPERM};
    for (input, output, right) in [
        // Extents and order on each side.
        ((0, 0), (0, 0), Ok(0)),
        ((0, 0), (1, 0), Err(EINVAL)),
        ((1, 0), (0, 0), Err(EINVAL)),
        ((1, 0), (2, 0), Err(EINVAL)),
        ((2, 0), (1, 0), Err(EINVAL)),
        ((1, 1), (1, 0), Err(EINVAL)),
        ((1, 0), (1, 1), Err(EINVAL)),
        ((3, 0), (1, 1), Err(EINVAL)),
        // Sums that 64 bits do not hold are equal if they are cut off.
        ((1 << 63, 1), (1 << 63, 1), Err(EINVAL)),
        ((1 << 63, 1), (1 << 62, 2), Err(EINVAL)),
        ((1 << 52, 12), (0, 0), Err(EINVAL)),
        ((u64::MAX, 0), (u64::MAX, 0), Err(EFAULT)),
        // Orders that nobody may ask for.
        ((0, 64), (0, 64), Err(EPERM)),
        ((1, 20), (1, 20), Err(EPERM)),
        ((1, 31), (1, 31), Err(EPERM)),
        ((1, 32), (1, 32), Err(EPERM)),
        ((1, 63), (1, 63), Err(EPERM)),
        ((1, 64), (1, 64), Err(EPERM)),
        ((1, u32::MAX), (1, u32::MAX), Err(EPERM)),
    ] {
        let seen = exchange(
            side(given, input.0, input.1),
            side(got, output.0, output.1),
            0,
        );
        report.equal(
            format_args!(
                "{:#x} of order {} for {:#x} of order {}",
                input.0, input.1, output.0, output.1
            ),
            (seen, pages()),
            ((right, 0), before),
        );
        report.check("frames behind that", frames.are_there(), "missing");
    }
    // More than the address space has room for: the first step fails, at the latest, by what lies behind the list.
    let (answer, done) = exchange(side(given, 1 << 52, 0), side(got, 1 << 40, 12), 0);
    report.check(
        "2^52 for 2^40 of order 12",
        answer.is_err() && done == 0 && frames.are_there() && pages() == before,
        format_args!("{answer:?} {done:#x}"),
    );
    domains(report);
    flags(report);
}

fn domains(report: &mut Report) {
    let before = pages();
    let (own, itself, nobody) = (DomId::DOM0, DomId::SELF, DomId::new(1));
    for (input, output, right) in [
        (own, itself, Errno::EINVAL),
        (itself, own, Errno::EINVAL),
        (itself, nobody, Errno::EINVAL),
        (nobody, itself, Errno::EINVAL),
        (nobody, nobody, Errno::ESRCH),
        (DomId::XEN, DomId::XEN, Errno::ESRCH),
        (DomId::IO, DomId::IO, Errno::ESRCH),
        (DomId::INVALID, DomId::INVALID, Errno::ESRCH),
    ] {
        let frames = Frames::<1>::new();
        let (mut given, mut got) = (frames.mfns, frames.pfns);
        let given = MemoryReservation {
            domid: input,
            ..reservation(&mut given, 0, 0)
        };
        let got = MemoryReservation {
            domid: output,
            ..reservation(&mut got, 0, 0)
        };
        report.equal(
            format_args!("{input:?} for {output:?}"),
            (exchange(given, got, 0), pages()),
            ((Err(right), 0), before),
        );
        report.check("frames behind that", frames.are_there(), "missing");
    }
    let mut frames = Frames::<1>::new();
    let (mut given, mut got) = (frames.mfns, frames.pfns);
    let given = MemoryReservation {
        domid: own,
        ..reservation(&mut given, 0, 0)
    };
    let wanted = MemoryReservation {
        domid: own,
        ..reservation(&mut got, 0, 0)
    };
    report.equal("by its own number", exchange(given, wanted, 0), (Ok(0), 1));
    frames.note(got);
    report.check("by its own number: frames", frames.are_there(), "missing");
}

fn flags(report: &mut Report) {
    // Node plus one in bits 8-15; bit 17: no other node will do.
    for (name, flags) in [
        ("node 1", 2 << 8),
        ("node 64", 65 << 8),
        ("node 254", 255 << 8),
        ("exactly node 1", 1 << 17 | 2 << 8),
        ("exactly node 254", 1 << 17 | 255 << 8),
        ("unknown flags", 1 << 19 | 1 << 31),
        ("all flags", u32::MAX),
    ] {
        for given_too in [false, true] {
            let before = pages();
            let mut frames = Frames::<1>::new();
            let mut got = frames.pfns;
            let seen = exchange(
                reservation(&mut { frames.mfns }, 0, if given_too { flags } else { 0 }),
                reservation(&mut got, 0, flags),
                0,
            );
            // Served or not: no node that does not exist is looked up, and nothing is lost.
            if seen.0 == Ok(0) {
                frames.note(got);
            }
            report.check(
                format_args!("{name}"),
                frames.are_there() && pages() == before,
                format_args!("{seen:?}"),
            );
        }
    }
}
