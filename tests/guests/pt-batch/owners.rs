//! `foreigndom`: whose frames are meant in the low half, whose tables in the high half.
//!
//! Domains that are not there, or that have no pages to give in this way, are refused before anything is done.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use guest_pv_drivers::hypercall::foreigndom;
use kit::Report;

use crate::{Bench, UNTOUCHED};

pub fn check(report: &mut Report, bench: &Bench) {
    let done = (Ok(0), 1, [true, false, false]);
    let refused = |error, told| (Err(error), told, [false; 3]);
    let own = DomId::DOM0;
    for (name, foreigndom, right) in [
        ("SELF", foreigndom(DomId::SELF, None), done),
        // One's own number is no foreign domain's.
        (
            "its number",
            foreigndom(own, None),
            refused(Errno::ESRCH, 0),
        ),
        (
            "nobody",
            foreigndom(DomId::new(1), None),
            refused(Errno::ESRCH, 0),
        ),
        (
            "the last",
            foreigndom(DomId::new(0x7fef), None),
            refused(Errno::ESRCH, 0),
        ),
        (
            "COW",
            foreigndom(DomId::COW, None),
            refused(Errno::ESRCH, 0),
        ),
        (
            "INVALID",
            foreigndom(DomId::INVALID, None),
            refused(Errno::ESRCH, 0),
        ),
        (
            "all ones",
            foreigndom(DomId::new(u16::MAX), None),
            refused(Errno::ESRCH, 0),
        ),
        // The frame is the guest's, and so not theirs.
        ("IO", foreigndom(DomId::IO, None), refused(Errno::EBUSY, 0)),
        (
            "XEN",
            foreigndom(DomId::XEN, None),
            refused(Errno::EBUSY, 0),
        ),
        // The tables' owner is looked up before the number of what was done is told.
        ("SELF, own tables", foreigndom(DomId::SELF, Some(own)), done),
        (
            "SELF, tables of SELF",
            foreigndom(DomId::SELF, Some(DomId::SELF)),
            refused(Errno::ESRCH, UNTOUCHED),
        ),
        (
            "SELF, tables of nobody",
            foreigndom(DomId::SELF, Some(DomId::new(1))),
            refused(Errno::ESRCH, UNTOUCHED),
        ),
        (
            "SELF, tables of IO",
            foreigndom(DomId::SELF, Some(DomId::IO)),
            refused(Errno::ESRCH, UNTOUCHED),
        ),
        (
            "SELF, tables of XEN",
            foreigndom(DomId::SELF, Some(DomId::XEN)),
            refused(Errno::ESRCH, UNTOUCHED),
        ),
        (
            "nobody, own tables",
            foreigndom(DomId::new(1), Some(own)),
            refused(Errno::ESRCH, 0),
        ),
        (
            "IO, own tables",
            foreigndom(DomId::IO, Some(own)),
            refused(Errno::EBUSY, 0),
        ),
    ] {
        let args = [bench.updates, 1, bench.done(), u64::from(foreigndom)];
        let seen = bench.call(Hypercall::MmuUpdate, args);
        // Whether nothing was done is told, or not told, is all the same.
        let nothing = right.0.is_err() && (seen.1 == 0 || seen.1 == UNTOUCHED);
        let told = if nothing { right.1 } else { seen.1 };
        report.equal(
            format_args!("mmu_update: frames of {name}"),
            (seen.0, told, seen.2),
            right,
        );

        // The high half is nothing to this call.
        let tables = foreigndom >> 16;
        let frames = foreigndom as u16;
        let right = match frames {
            _ if frames == DomId::SELF.get() => Ok(0),
            _ if frames == DomId::IO.get() || frames == DomId::XEN.get() => Err(Errno::EPERM),
            _ => Err(Errno::ESRCH),
        };
        let args = [bench.flushes, 1, bench.done(), u64::from(foreigndom)];
        let seen = bench.call(Hypercall::MmuextOp, args);
        report.equal(
            format_args!("mmuext_op: frames of {name}, high half {tables:#x}"),
            (seen.0, seen.1 == 1),
            (right, right.is_ok()),
        );
    }
    // 32 bits wide.
    let args = [
        bench.updates,
        1,
        bench.done(),
        1 << 32 | u64::from(DomId::SELF.get()),
    ];
    report.equal(
        "mmu_update: the upper half of the argument",
        bench.call(Hypercall::MmuUpdate, args),
        done,
    );
}
