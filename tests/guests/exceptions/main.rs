//! Every vector that a guest kernel can raise: the frame, the error code, the address of a page fault.
//!
//! The hypervisor gets each trap first and bounces it to the guest's table. A kernel's handlers rely on each detail:
//! where rip points (at the instruction for a fault, behind it for a trap), whether there is an error code, whether the
//! selectors look like a kernel's, what is in the flags, how the stack is aligned.
//!
//! Not raised here, because nothing in a guest kernel raises it: NMI, #BR (`bound` does not exist in 64-bit mode), #DF
//! (the hypervisor ends the domain instead), #TS (there are no task switches) and #MC.
#![no_std]
#![no_main]
// UNSAFETY: probed instructions.
#![allow(unsafe_code)]

mod faults;
mod frames;
mod page_faults;
mod software;
mod stepping;

use core::fmt::Display;

use kit::Report;
use kit::registers::flags;
use kit::trap::{Trap, vector};

kit::guest!("exceptions", main);

fn main(report: &mut Report) {
    faults::check(report);
    software::check(report);
    stepping::check(report);
    frames::check(report);
    page_faults::check(report);
}

/// What one trap should be.
#[derive(Clone, Copy)]
struct Expected {
    vector: u8,
    error: Option<u64>,
    /// rip, from the start of the probed code.
    offset: u64,
    /// Whether the pushed flags have the resume flag: the CPU sets it for faults, so that an instruction breakpoint
    /// does not hit again, and leaves it alone for traps. `None`: either, for a trap that the hypervisor makes out of a
    /// fault.
    resume_flag: Option<bool>,
}

impl Expected {
    const fn fault(vector: u8, error: Option<u64>) -> Self {
        Self {
            vector,
            error,
            offset: 0,
            resume_flag: Some(true),
        }
    }

    /// A trap behind an instruction of `length` bytes.
    const fn trap(vector: u8, length: u64) -> Self {
        Self {
            vector,
            error: None,
            offset: length,
            resume_flag: Some(false),
        }
    }

    const fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }
}

/// The fault of checks that need any.
const UD: Expected = Expected::fault(vector::UD, None);

fn expect(report: &mut Report, name: impl Display, trap: Option<Trap>, right: Expected) {
    let Some(trap) = trap else {
        report.check(name, false, "no trap");
        return;
    };
    let words = if right.error.is_some() { 8 } else { 7 };
    let frame = &trap.frame;
    let holds = (trap.vector, trap.error, trap.offset) == (right.vector, right.error, right.offset)
        // The kernel's selectors; RPL 0 in cs tells a kernel its own frames from those of its user mode.
        && frame.cs & 0xffff == 0xe030
        && frame.ss == 0xe02b
        // Events are masked since the start: mask 1, and the virtual interrupt flag its opposite.
        && frame.saved_upcall_mask() == 1
        && frame.cs >> 40 == 0
        && frame.rflags & (flags::IF | flags::IOPL) == 0
        && right.resume_flag.is_none_or(|flag| (frame.rflags & flags::RF != 0) == flag)
        // Pushed on the stack that was in use, aligned down to 16 bytes first.
        && trap.handler_rsp == (frame.rsp & !15) - words * 8
        && trap.handler_selectors == (0xe033, 0xe02b)
        && trap.handler_rflags & (flags::TF | flags::NT | flags::RF | flags::AC | flags::IOPL) == 0
        && trap.handler_rflags & flags::IF != 0;
    report.check(name, holds, trap);
}
