//! SYSCALL of user code: what the callback finds.

use dom0_abi::arch::{FLAT_CS64, FLAT_SS};
use kit::registers::{Registers, flags};
use kit::{Report, memory, user, user_code};

use crate::{arrival, marked};

const CF: u64 = 1 << 0;
/// The flag that always reads as one.
const ONE: u64 = 1 << 1;
/// Bytes of SYSCALL.
const SYSCALL: u64 = 2;
/// What the hypervisor pushes for a SYSCALL: rcx, r11, rip, cs, rflags, rsp, ss.
const BOUNCE: u64 = 7 * 8;

pub fn check(report: &mut Report) {
    registers(report);
    frame(report);
    memory_of_the_user(report);
}

fn registers(report: &mut Report) {
    let name = "SYSCALL: registers";
    if let Some(seen) = arrival(report, name, user_code!("syscall"), &marked()) {
        // The CPU leaves rip in rcx and the flags in r11, and those are the real ones: interrupts are never off.
        let right = Registers {
            rcx: user::CODE + SYSCALL,
            r11: flags::IF | ONE,
            ..marked()
        };
        report.equal(name, seen.registers, right);
    }

    let name = "iret to user mode: rcx, r11, rsp, selectors";
    let code = user_code!(
        "mov rax, rcx",
        "mov rbx, r11",
        "mov rdx, rsp",
        "mov esi, cs",
        "mov edi, ss",
        "syscall",
    );
    if let Some(seen) = arrival(report, name, code, &marked()) {
        let seen = seen.registers;
        report.equal(
            name,
            [seen.rax, seen.rbx, seen.rdx, seen.rsi, seen.rdi],
            [
                marked().rcx,
                marked().r11,
                user::STACK,
                u64::from(FLAT_CS64),
                u64::from(FLAT_SS),
            ],
        );
    }
}

fn frame(report: &mut Report) {
    let name = "SYSCALL: frame";
    let code = user_code!("push 5", "std", "stc", "syscall");
    let Some(seen) = arrival(report, name, code, &marked()) else {
        return;
    };
    report.equal(
        "SYSCALL: rip behind the instruction",
        seen.frame.rip,
        user::CODE + code.len() as u64,
    );
    report.equal("SYSCALL: rsp", seen.frame.rsp, user::STACK - 8);
    // The CPU does not say which selectors the user had, so these are the same for all.
    report.equal(
        "SYSCALL: cs and upcall mask",
        seen.frame.cs,
        u64::from(FLAT_CS64) | 1 << 32,
    );
    report.equal("SYSCALL: ss", seen.frame.ss, u64::from(FLAT_SS));
    // The virtual interrupt flag: events are masked.
    report.equal("SYSCALL: flags", seen.frame.rflags, flags::DF | CF | ONE);
    report.equal(
        "SYSCALL: flags in r11",
        seen.registers.r11,
        flags::DF | flags::IF | CF | ONE,
    );
    report.equal(
        "SYSCALL: the kernel's stack",
        seen.handler_rsp,
        user::kernel_stack() - BOUNCE,
    );
    // DF is not among them: Xen leaves it as the user had it, so a kernel clears it itself.
    let cleared = flags::TF | flags::NT | flags::RF | flags::VM | flags::AC;
    report.equal(
        "SYSCALL: flags in the callback",
        seen.handler_rflags & cleared,
        0,
    );
    report.equal(
        "SYSCALL: selectors in the callback",
        seen.handler_selectors,
        (FLAT_CS64, FLAT_SS),
    );
}

fn memory_of_the_user(report: &mut Report) {
    let name = "the user's stack page keeps its content";
    let value = 0x1234_5678;
    let push = user_code!("push rax", "syscall");
    let pop = user_code!("mov rax, [rsp - 8]", "syscall");
    let given = Registers {
        rax: value,
        ..Registers::default()
    };
    if arrival(report, name, push, &given).is_some()
        && let Some(seen) = arrival(report, name, pop, &Registers::default())
    {
        report.equal(name, seen.registers.rax, value);
    }
    // The kernel's root maps nothing there; the error code says: not present, read, and not the user's.
    report.equal(
        "the kernel is on its own root again",
        memory::read(user::CODE),
        Err(0),
    );
}
