//! User mode: a page table that is mapped for it, read-only, is never written on its behalf.

use kit::memory::pte;
use kit::page_tables::{Lab, READ_ONLY, page};
use kit::registers::Registers;
use kit::trap::vector;
use kit::user::{self, HOLE, Left};
use kit::{Report, user_code};

use crate::SLOT;

pub fn check(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let mapped = user::run(user_code!("syscall"), &Registers::default())
        .and_then(|_| user::map_hole((table.mfn * 4096) | READ_ONLY));
    report.equal("a table of the kernel's in user mode", mapped, Ok(()));
    let place = HOLE + SLOT as u64 * 8;
    let given = Registers {
        rdi: place,
        rax: page().machine() | READ_ONLY,
        rcx: 1,
        ..Registers::default()
    };
    // Present, write, user.
    for (name, code, cr2) in [
        ("mov", user_code!("mov [rdi], rax", "syscall"), place),
        ("xchg", user_code!("xchg [rdi], rax", "syscall"), place),
        (
            "lock and",
            user_code!("lock and byte ptr [rdi], 0", "syscall"),
            place,
        ),
        (
            "lock cmpxchg",
            user_code!("lock cmpxchg [rdi], rcx", "syscall"),
            place,
        ),
        (
            "lock btr",
            user_code!("lock btr qword ptr [rdi], 5", "syscall"),
            place,
        ),
        ("stosq", user_code!("stosq", "syscall"), place),
        ("rep stosq", user_code!("rep stosq", "syscall"), place),
        (
            "push",
            user_code!("lea rsp, [rdi + 8]", "push rax", "syscall"),
            place,
        ),
        (
            "call",
            user_code!("lea rsp, [rdi + 8]", "call rdi", "syscall"),
            place,
        ),
        (
            "mov across entries",
            user_code!("mov [rdi + 4], rax", "syscall"),
            place + 4,
        ),
    ] {
        let before = table.entry(SLOT);
        let seen = match user::run(code, &given) {
            Ok(Left::Trap(trap)) => Some((trap.vector, trap.error, trap.cr2, trap.frame.cs & 3)),
            _ => None,
        };
        report.equal(
            format_args!("{name} in user mode"),
            (seen, table.entry(SLOT)),
            (Some((vector::PF, Some(7), cr2, 3)), before),
        );
    }
    // Reading is the kernel's to allow.
    let name = "a read in user mode";
    match user::run(user_code!("mov rax, [rdi + 8]", "syscall"), &given) {
        Ok(Left::Syscall(arrival)) => {
            report.equal(name, arrival.registers.rax, table.entry(SLOT + 1));
        }
        other => report.check(name, false, format_args!("{other:x?}")),
    }
    // Nor does the user's own table become writable for user code or for the kernel.
    report.equal(
        "the user's table, writable",
        user::map_hole((user::table_mfn() * 4096) | READ_ONLY | pte::RW).map_err(|no| no.error),
        Err(dom0_abi::errno::Errno::EBUSY),
    );
    report.equal("the hole is a hole again", user::map_hole(0), Ok(()));
}
