//! User code in segments of its own: 32-bit code, limits, bases.

use core::fmt::Display;

use dom0_abi::arch::{FLAT_CS32, FLAT_DS32, FLAT_SS, SegmentBase};
use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::set_segment_base;
use kit::Report;
use kit::descriptors::{
    FLAT_CODE32, FLAT_CODE64, FLAT_DATA, Register, access, flags, gate, global, local, segment,
};
use kit::registers::Registers;
use kit::trap::vector;
use kit::user::{self, CODE, Left};
use kit::{Trap, user_code};

use crate::{set, set_page, table_page};

const CODE32: u16 = global(1);
const DATA: u16 = global(2);
const CODE64: u16 = global(3);
/// The first half of the code's page.
const HALF: u16 = global(4);
/// From the second half of the code's page up.
const UPPER: u16 = global(5);
const READ_ONLY: u16 = global(6);
const HIDDEN_CODE: u16 = global(7);
const GATE: u16 = global(8);
const ABSENT: u16 = global(9);

pub fn check(report: &mut Report) {
    let data = access::USER | access::WRITABLE;
    let page = table_page(&[
        (1, FLAT_CODE32),
        (2, FLAT_DATA),
        (3, FLAT_CODE64),
        (4, segment(CODE as u32, 0x7ff, data, flags::BIG)),
        (
            5,
            segment(CODE as u32, 0x7ff, data | access::EXPAND_DOWN, flags::BIG),
        ),
        (
            6,
            segment(
                CODE as u32,
                0xf_ffff,
                access::USER,
                flags::BIG | flags::PAGES,
            ),
        ),
        (
            7,
            segment(
                0,
                0xf_ffff,
                access::USER | access::CODE,
                flags::BIG | flags::PAGES,
            ),
        ),
        (
            8,
            gate(CODE32, CODE as u32, access::CALL_GATE | access::DPL3),
        ),
        (
            9,
            segment(
                0,
                0xf_ffff,
                data & !access::PRESENT,
                flags::BIG | flags::PAGES,
            ),
        ),
    ]);
    set_page(page);
    if let Err(refused) = user::run(user_code!("syscall"), &Registers::default())
        && refused.error == Errno::ENOSYS
    {
        report.skip("user code in segments of its own", refused);
        return;
    }
    code(report);
    segments(report);
    calls(report);
    bases(report);
    set(&[], 0).expect("an empty table is always possible");
}

/// Runs 32-bit code that ends in a trap.
fn run(
    report: &mut Report,
    name: impl Display,
    selector: u16,
    code: &[u8],
    given: &Registers,
) -> Option<Trap> {
    match user::run_in(selector, FLAT_SS | 3, code, given) {
        Ok(Left::Trap(trap)) => Some(trap),
        left => {
            report.check(name, false, format_args!("{left:x?}"));
            None
        }
    }
}

fn code(report: &mut Report) {
    let sum = user_code!(
        ".code32",
        "mov eax, 0x11111111",
        "add eax, eax",
        // In 64-bit code this byte belongs to the next instruction; here it counts down.
        ".byte 0x48",
        "ud2",
        ".code64"
    );
    for (name, selector) in [("the hypervisor's", FLAT_CS32), ("its own", CODE32)] {
        let name = format_args!("32-bit code, {name} selector");
        if let Some(trap) = run(report, name, selector, sum, &Registers::default()) {
            report.equal(
                name,
                (
                    trap.vector,
                    trap.offset,
                    trap.frame.cs as u16,
                    trap.registers.rax,
                ),
                (vector::UD, 8, selector, 0x2222_2221),
            );
        }
    }
    let wide = user_code!("mov rax, 0x1111111111111111", "add rax, rax", "ud2");
    let name = "64-bit code, its own selector";
    if let Some(trap) = run(report, name, CODE64, wide, &Registers::default()) {
        report.equal(
            name,
            (trap.vector, trap.frame.cs as u16, trap.registers.rax),
            (vector::UD, CODE64, 0x2222_2222_2222_2222),
        );
    }
    // A stack segment of its own too.
    let push = user_code!(
        ".code32",
        "push 0x1234",
        "pop ecx",
        "mov eax, ss",
        "ud2",
        ".code64"
    );
    let left = user::run_in(CODE32, DATA, push, &Registers::default());
    let seen = match left {
        Ok(Left::Trap(trap)) => (
            trap.vector,
            trap.frame.ss as u16,
            trap.registers.rcx as u32,
            trap.registers.rax as u32,
        ),
        _ => (0, 0, 0, 0),
    };
    report.equal(
        "a stack of its own",
        seen,
        (vector::UD, DATA, 0x1234, u32::from(DATA)),
    );
}

/// 32-bit code loads a selector (dx) and accesses memory through it (at ebx).
fn segments(report: &mut Report) {
    // Behind the code, in its page.
    const FAR: u64 = 0x7fc;
    let read = user_code!(
        ".code32",
        "mov es, edx",
        "mov eax, es:[ebx]",
        "mov eax, 1",
        "ud2",
        ".code64"
    );
    let write = user_code!(
        ".code32",
        "mov es, edx",
        "mov es:[ebx], eax",
        "ud2",
        ".code64"
    );
    const LOAD: u64 = 0;
    const ACCESS: u64 = 2;
    let general = (vector::GP, Some(0), ACCESS);
    let fine = (vector::UD, None, 0);
    let given = Registers {
        rbx: CODE,
        ..Registers::default()
    };
    let through_null = run(report, "a CPU that looks at segments", CODE32, read, &given);
    let checked = through_null.is_some_and(|trap| trap.vector == vector::GP);
    for (name, code, selector, address, right) in [
        ("data", read, DATA, CODE + FAR, fine),
        (
            "the hypervisor's data",
            read,
            FLAT_DS32 | 3,
            CODE + FAR,
            fine,
        ),
        ("null", read, 0, CODE, general),
        ("the last word in the limit", read, HALF, FAR, fine),
        ("a byte beyond the limit", read, HALF, FAR + 1, general),
        ("behind the limit", read, HALF, 0x800, general),
        ("the end of 32 bits", read, HALF, 0xffff_fffc, general),
        ("from the limit up: below", read, UPPER, FAR, general),
        ("from the limit up: at it", read, UPPER, 0x7ff, general),
        ("from the limit up: above", read, UPPER, 0x800, fine),
        ("to be read: read", read, READ_ONLY, FAR, fine),
        ("to be read: written", write, READ_ONLY, FAR, general),
        ("code: written", write, CODE32, CODE + FAR, general),
        (
            "hidden code",
            read,
            HIDDEN_CODE,
            CODE,
            (vector::GP, Some(u64::from(HIDDEN_CODE & !3)), LOAD),
        ),
        (
            "a gate",
            read,
            GATE,
            CODE,
            (vector::GP, Some(u64::from(GATE & !3)), LOAD),
        ),
        (
            "not present",
            read,
            ABSENT,
            CODE,
            (vector::NP, Some(u64::from(ABSENT & !3)), LOAD),
        ),
        (
            "local without a table",
            read,
            local(1),
            CODE,
            (vector::GP, Some(u64::from(local(1) & !3)), LOAD),
        ),
    ] {
        let given = Registers {
            rbx: address,
            rdx: u64::from(selector),
            ..Registers::default()
        };
        let name = format_args!("32-bit access: {name}");
        if right == general && !checked {
            report.skip(name, "the CPU looks at no limits and rights");
            continue;
        }
        if let Some(trap) = run(report, name, CODE32, code, &given) {
            let offset = if right.0 == vector::UD {
                0
            } else {
                trap.offset
            };
            report.equal(name, (trap.vector, trap.error, offset), right);
        }
    }
}

/// Far calls by 32-bit code: no gate leads anywhere.
fn calls(report: &mut Report) {
    let far = user_code!(
        ".code32",
        "push edx",
        "push ebx",
        "call fword ptr [esp]",
        "ud2",
        ".code64"
    );
    for (name, selector, right) in [
        ("a gate", GATE, (vector::GP, Some(u64::from(GATE & !3)))),
        ("data", DATA, (vector::GP, Some(u64::from(DATA & !3)))),
        ("null", 0, (vector::GP, Some(0))),
        (
            "the hypervisor's own code",
            0xe008,
            (vector::GP, Some(0xe008)),
        ),
        (
            "the hypervisor's own task",
            0xe040,
            (vector::GP, Some(0xe040)),
        ),
    ] {
        let given = Registers {
            rbx: CODE,
            rdx: u64::from(selector),
            ..Registers::default()
        };
        let name = format_args!("far call: {name}");
        if let Some(trap) = run(report, name, CODE32, far, &given) {
            report.equal(name, (trap.vector, trap.error), right);
        }
    }
}

/// GS for user mode by its selector, which brings its base.
fn bases(report: &mut Report) {
    let look = user_code!("mov ecx, gs", "mov rax, gs:[0]", "ud2");
    let first = u64::from_le_bytes([
        look[0], look[1], look[2], look[3], look[4], look[5], look[6], look[7],
    ]);
    let select = |selector: u64| {
        // SAFETY: the guest kernel uses no GS.
        unsafe { set_segment_base(SegmentBase::GsUserSelector, selector) }
    };
    for (name, selector) in [
        ("its own", u64::from(HALF)),
        ("its own, with more bits", 1 << 16 | u64::from(HALF)),
    ] {
        report.equal(
            format_args!("set_segment_base(3): {name}"),
            select(selector),
            Ok(0),
        );
        let name = format_args!("GS base: {name}");
        if let Some(trap) = run(report, name, global(3), look, &Registers::default()) {
            report.equal(
                name,
                (trap.vector, trap.registers.rcx as u16, trap.registers.rax),
                (vector::UD, HALF, first),
            );
        }
    }
    // What cannot be loaded leaves null there.
    for selector in [
        HIDDEN_CODE,
        GATE,
        ABSENT,
        global(100),
        local(1),
        0xe008,
        0xffff,
        0,
    ] {
        report.equal(
            format_args!("set_segment_base(3): {selector:#x}"),
            (select(u64::from(selector)), Register::Gs.selector()),
            (Ok(0), 0),
        );
    }
}
