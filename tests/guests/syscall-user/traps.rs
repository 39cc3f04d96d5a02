//! Traps of user code: they reach the kernel's trap table with the user's frame, and nothing is emulated for a user.

use core::fmt::Display;

use dom0_abi::arch::{FLAT_CS64, FLAT_SS};
use kit::memory::pte;
use kit::page_tables::{self, Lab, READ_ONLY};
use kit::registers::{Registers, flags};
use kit::trap::vector;
use kit::{Report, memory, start_info, user, user_code};

use crate::{marked, trap};

/// Bits of #PF's error code.
mod error {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    /// Instruction fetch.
    pub const FETCH: u64 = 1 << 4;
}

pub fn check(report: &mut Report) {
    frame(report);
    page_faults(report);
    fetches(report);
    two_roots(report);
    nothing_emulated(report);
}

fn frame(report: &mut Report) {
    let name = "#UD of user code";
    let Some(seen) = trap(report, name, user_code!("push 1", "ud2"), &marked()) else {
        return;
    };
    report.equal(name, (seen.vector, seen.error), (vector::UD, None));
    report.equal(
        "#UD of user code: frame",
        (seen.frame.rip, seen.frame.cs, seen.frame.rsp, seen.frame.ss),
        (
            // `push 1` is two bytes long.
            user::CODE + 2,
            u64::from(FLAT_CS64) | 1 << 32,
            user::STACK - 8,
            u64::from(FLAT_SS),
        ),
    );
    // The virtual interrupt flag: events are masked. RF is the CPU's own business with a fault.
    report.equal(
        "#UD of user code: flags",
        seen.frame.rflags & !flags::RF,
        1 << 1,
    );
    report.equal("#UD of user code: registers", seen.registers, marked());
    // rcx, r11, rip, cs, rflags, rsp, ss.
    report.equal(
        "#UD of user code: the kernel's stack",
        seen.handler_rsp,
        user::kernel_stack() - 7 * 8,
    );
}

/// `code` faults at its start for the address in rdi.
fn page_fault(report: &mut Report, name: impl Display, code: &[u8], address: u64, error: u64) {
    let given = Registers {
        rdi: address,
        ..Registers::default()
    };
    if let Some(seen) = trap(report, &name, code, &given) {
        report.equal(
            name,
            (
                seen.vector,
                seen.error,
                seen.cr2,
                seen.offset,
                seen.frame.cs & 0xffff,
            ),
            (vector::PF, Some(error), address, 0, u64::from(FLAT_CS64)),
        );
    }
}

fn page_faults(report: &mut Report) {
    let read = user_code!("mov rax, [rdi]", "syscall");
    let write = user_code!("mov [rdi], rax", "syscall");
    page_fault(
        report,
        "#PF of user code: read of nothing",
        read,
        user::HOLE + 8,
        error::USER,
    );
    page_fault(
        report,
        "#PF of user code: write to nothing",
        write,
        user::HOLE + 16,
        error::USER | error::WRITE,
    );
    page_fault(
        report,
        "#PF of user code: write to its code",
        write,
        user::CODE + 24,
        error::USER | error::WRITE | error::PRESENT,
    );
    for (what, address) in [
        ("image", memory::image().0),
        ("page tables", start_info().pt_base),
    ] {
        // The user's root does not have it.
        page_fault(
            report,
            format_args!("#PF of user code: the kernel's {what}"),
            read,
            address,
            error::USER,
        );
    }
}

/// Code where there is none, and where there may be none.
fn fetches(report: &mut Report) {
    let jump = user_code!("jmp rdi", "syscall");
    let page = page_tables::page();
    for (name, entry, right) in [
        ("nothing", 0, error::USER | error::FETCH),
        (
            "a page that is not executable",
            page.machine() | READ_ONLY | pte::NX,
            error::USER | error::FETCH | error::PRESENT,
        ),
    ] {
        let name = format_args!("#PF of user code: jump to {name}");
        let mapped = user::map_hole(entry);
        let given = Registers {
            rdi: user::HOLE,
            ..Registers::default()
        };
        if let Some(seen) = trap(report, name, jump, &given) {
            report.equal(
                name,
                (
                    mapped,
                    seen.vector,
                    seen.error,
                    seen.cr2,
                    seen.frame.rip,
                    seen.frame.cs & 3,
                ),
                (Ok(()), vector::PF, Some(right), user::HOLE, user::HOLE, 3),
            );
        }
    }
    report.equal("the hole is a hole again", user::map_hole(0), Ok(()));
}

/// One address, a page in each root: each mode sees its own.
fn two_roots(report: &mut Report) {
    let name = "one address in both roots";
    let (of_kernel, of_user) = (page_tables::page(), page_tables::page());
    let _ = of_kernel.set_word(0, 0x11);
    let _ = of_user.set_word(0, 0x22);
    let Ok(lab) = Lab::new() else {
        return report.check(name, false, "no tables");
    };
    let code = user_code!("mov rax, [rdi]", "mov qword ptr [rdi], 0x33", "syscall");
    // The lab's window is not in the user root, the user's hole not in the kernel's.
    let mapped = (
        user::map_hole(of_user.machine() | page_tables::WRITABLE),
        lab.map(0, of_kernel.machine() | page_tables::WRITABLE),
    );
    let given = |rdi| Registers {
        rdi,
        ..Registers::default()
    };
    if let Some(seen) = crate::arrival(report, name, code, &given(user::HOLE)) {
        report.equal(
            name,
            (
                mapped,
                seen.registers.rax,
                of_user.word(0),
                of_kernel.word(0),
                memory::read(user::HOLE),
            ),
            ((Ok(()), Ok(0)), 0x22, Ok(0x33), Ok(0x11), Err(0)),
        );
    }
    page_fault(
        report,
        "#PF of user code: a page of the kernel's root",
        user_code!("mov rax, [rdi]", "syscall"),
        Lab::WINDOW,
        error::USER,
    );
    // The kernel has changed the user's root while it was not loaded.
    report.equal("the hole is a hole again", user::map_hole(0), Ok(()));
    page_fault(
        report,
        "#PF of user code: what was there before",
        user_code!("mov rax, [rdi]", "syscall"),
        user::HOLE,
        error::USER,
    );
}

fn nothing_emulated(report: &mut Report) {
    for (name, code) in [
        ("mov from CR2", user_code!("mov rax, cr2", "syscall")),
        ("mov to CR3", user_code!("mov cr3, rax", "syscall")),
        ("cli", user_code!("cli", "syscall")),
        ("rdmsr", user_code!("rdmsr", "syscall")),
        ("in", user_code!("in al, 0x61", "syscall")),
    ] {
        let name = format_args!("#GP of user code: {name}");
        if let Some(seen) = trap(report, name, code, &Registers::default()) {
            report.equal(
                name,
                (seen.vector, seen.error, seen.offset),
                (vector::GP, Some(0), 0),
            );
        }
    }
}
