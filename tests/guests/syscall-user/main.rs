//! User code beside the guest kernel: both run at CPL 3, and the hypervisor alone keeps them apart.
//!
//! Every SYSCALL leads into the hypervisor first. From kernel mode it is a hypercall; from user mode it must be the
//! kernel's affair whatever rax says, or any process could ask the hypervisor for what only its kernel may.
#![no_std]
#![no_main]
// UNSAFETY: user code is machine code.
#![allow(unsafe_code)]

mod no_hypercall;
mod syscall;
mod traps;

use core::fmt::Display;

use dom0_abi::errno::Errno;
use kit::registers::Registers;
use kit::user::{self, Arrival, Left};
use kit::{Report, Trap, user_code};

kit::guest!("syscall-user", main);

fn main(report: &mut Report) {
    report.equal(
        "the kernel's stack and syscall callback are set",
        user::set_entries(),
        Ok(()),
    );
    match user::run(user_code!("syscall"), &Registers::default()) {
        Ok(_) => {
            syscall::check(report);
            traps::check(report);
            no_hypercall::check(report);
        }
        Err(refused) if refused.error == Errno::ENOSYS => {
            report.skip("guest user mode", refused);
        }
        Err(refused) => report.check("guest user mode", false, refused),
    }
}

/// A value of its own for each register.
fn marked() -> Registers {
    let mark = |number: u64| 0x0123_4567_0000_0000 | number << 8 | number;
    Registers {
        r15: mark(15),
        r14: mark(14),
        r13: mark(13),
        r12: mark(12),
        rbp: mark(5),
        rbx: mark(3),
        r11: mark(11),
        r10: mark(10),
        r9: mark(9),
        r8: mark(8),
        rax: mark(16),
        rcx: mark(1),
        rdx: mark(2),
        rsi: mark(6),
        rdi: mark(7),
    }
}

/// Runs code that must end by SYSCALL; anything else is a failure of the check `name`.
fn arrival(
    report: &mut Report,
    name: impl Display,
    code: &[u8],
    registers: &Registers,
) -> Option<Arrival> {
    match user::run(code, registers) {
        Ok(Left::Syscall(arrival)) => return Some(arrival),
        Ok(Left::Trap(trap)) => report.check(name, false, trap),
        Err(refused) => report.check(name, false, refused),
    }
    None
}

/// Runs code that must end by a trap; anything else is a failure of the check `name`.
fn trap(
    report: &mut Report,
    name: impl Display,
    code: &[u8],
    registers: &Registers,
) -> Option<Trap> {
    match user::run(code, registers) {
        Ok(Left::Trap(trap)) => return Some(trap),
        Ok(Left::Syscall(arrival)) => report.check(name, false, format_args!("{arrival:x?}")),
        Err(refused) => report.check(name, false, refused),
    }
    None
}
