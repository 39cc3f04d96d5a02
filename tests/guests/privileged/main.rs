//! Instructions that a kernel may use and CPL 3 may not: those that the hypervisor emulates, and #GP(0) for the rest.
//!
//! A guest kernel runs at CPL 3, so each of these faults in the hypervisor first. What it emulates, it must do exactly;
//! everything else must come back as the CPU's own fault, with nothing done.
#![no_std]
#![no_main]
// UNSAFETY: probed instructions.
#![allow(unsafe_code)]
// A trap is large, and there is no heap to put it on.
#![allow(clippy::result_large_err)]

mod control;
mod cpuid;
mod msr;
mod ports;
mod refused;
mod xcr;

use core::fmt::Display;

use kit::trap::vector;
use kit::{Report, Trap};

kit::guest!("privileged", main);

fn main(report: &mut Report) {
    cpuid::check(report);
    control::check(report);
    msr::check(report);
    xcr::check(report);
    ports::check(report);
    refused::check(report);
}

/// The instruction was emulated, or needs no emulation.
fn done(report: &mut Report, name: impl Display, trap: Option<Trap>) {
    match trap {
        None => report.check(name, true, ""),
        Some(trap) => report.check(name, false, trap),
    }
}

/// The instruction was refused as on a bare CPU: at itself, with error code 0.
fn general_protection(report: &mut Report, name: impl Display, trap: Option<Trap>) {
    let seen = trap.map(|trap| (trap.vector, trap.error, trap.offset));
    report.equal(name, seen, Some((vector::GP, Some(0), 0)));
}

/// The instruction does not exist here.
fn undefined(report: &mut Report, name: impl Display, trap: Option<Trap>) {
    let seen = trap.map(|trap| (trap.vector, trap.error, trap.offset));
    report.equal(name, seen, Some((vector::UD, None, 0)));
}
