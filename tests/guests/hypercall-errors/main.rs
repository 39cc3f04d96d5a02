//! Hypercalls with nonsense: numbers that do not exist, commands that do not exist, pointers of every bad kind.
//!
//! The hypervisor must answer each with the error number that guests know, touch nothing, and keep the registers. A
//! hypercall that comes to exist later adds a row to [`pointers::ROWS`].
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod multicall;
mod pointers;
mod registers;
mod values;

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;
use kit::Report;

kit::guest!("hypercall-errors", main);

fn main(report: &mut Report) {
    numbers(report);
    registers::check(report);
    pointers::check(report);
    values::check(report);
    multicall::check(report);
}

/// A hypercall by number; all that this guest calls either fails or touches no memory that Rust knows of.
fn call(number: u64, args: [u64; 5]) -> Result<u64, Errno> {
    // SAFETY: see above.
    hypercall::decode(unsafe { hypercall::raw(number, args) })
}

fn numbers(report: &mut Report) {
    let by_width = [
        1 << 31,
        u64::from(u32::MAX),
        1 << 32 | 17,
        1 << 63 | 17,
        u64::MAX,
    ];
    // Gaps of the table, the one that was removed, numbers behind the end. All 64 bits of the number count.
    for number in [
        11, 38, 43, 44, 45, 46, 47, 50, 55, 56, 63, 64, 127, 128, 255, 256,
    ]
    .into_iter()
    .chain(by_width)
    {
        report.equal(
            format_args!("number {number:#x}"),
            call(number, [0; 5]),
            Err(Errno::ENOSYS),
        );
    }
    // A number that Xen uses for itself alone.
    report.check("number 49", call(49, [0; 5]).is_err(), "accepted");
    for (name, number) in [("xsm_op", Hypercall::XsmOp), ("argo_op", Hypercall::ArgoOp)] {
        report.equal(name, call(number.number(), [0; 5]), Err(Errno::ENOSYS));
    }
    // Calls that a hypervisor may have or not; with nothing in their arguments they fail either way.
    for (name, number) in [
        ("hvm_op", Hypercall::HvmOp),
        ("mca", Hypercall::Mca),
        ("dm_op", Hypercall::DmOp),
        ("kexec_op", Hypercall::KexecOp),
        ("xenpmu_op", Hypercall::XenpmuOp),
        ("platform_op", Hypercall::PlatformOp),
        ("sysctl", Hypercall::Sysctl),
        ("domctl", Hypercall::Domctl),
    ] {
        report.check(
            format_args!("{name} of nothing"),
            call(number.number(), [0; 5]).is_err(),
            "accepted",
        );
    }
}
