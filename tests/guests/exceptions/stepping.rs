//! Single steps and breakpoints.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;
use kit::registers::flags;
use kit::trap::{self, vector};
use kit::{Report, probe};

use crate::{Expected, UD, expect};

/// Debug status: which breakpoint, and whether it was a step.
mod dr6 {
    pub const B0: u64 = 1 << 0;
    pub const BS: u64 = 1 << 14;
    /// What reads as one without a cause.
    pub const NONE: u64 = 0xffff_0ff0;
}

/// Debug control, for breakpoint 0: locally enabled; length and kind.
mod dr7 {
    pub const L0: u64 = 1 << 0;
    pub const WRITE_8: u64 = 0b1001 << 16;
    pub const READ_WRITE_8: u64 = 0b1011 << 16;
}

pub fn check(report: &mut Report) {
    single_step(report);
    steps_over_a_hypercall(report);
    breakpoints(report);
}

fn single_step(report: &mut Report) {
    let _ = hypercall::set_debugreg(6, dr6::NONE);
    let trap = probe!("pushfq; or dword ptr [rsp], {tf}; popfq; nop; nop"; tf = const flags::TF);
    // Behind the instruction that follows the one that set the flag.
    expect(
        report,
        "#DB: single step",
        trap,
        Expected::trap(vector::DB, 1 + 7 + 1 + 1),
    );
    report.check(
        "the frame keeps TF",
        trap.is_some_and(|t| t.frame.rflags & flags::TF != 0),
        "",
    );
    report.equal(
        "dr6 tells a step",
        hypercall::get_debugreg(6),
        Ok(dr6::NONE | dr6::BS),
    );
    let _ = hypercall::set_debugreg(6, dr6::NONE);
}

/// Where single steps stopped, as bits by offset.
static STEPS: AtomicU64 = AtomicU64::new(0);

/// The hypervisor must neither step through itself nor lose the flag.
fn steps_over_a_hypercall(report: &mut Report) {
    let note_step = |context: &mut trap::Context| {
        if context.trap.vector == vector::DB {
            STEPS.fetch_or(1 << (context.trap.offset & 63), Ordering::Relaxed);
        }
        context.trap.vector == vector::DB
    };
    let end = trap::with_hook(note_step, || {
        probe!(
            "pushfq; or dword ptr [rsp], {tf}; popfq; nop; syscall; nop; nop; ud2";
            tf = const flags::TF,
            inout("rax") Hypercall::XenVersion as u64 => _, in("rdi") 0u64, in("rsi") 0u64, out("rcx") _, out("r11") _
        )
    });
    expect(report, "steps over a hypercall end", end, UD.at(14));
    // Behind the first nop and behind both others. Directly behind the syscall CPUs differ.
    let steps = STEPS.load(Ordering::Relaxed) & !(1 << 12);
    report.equal("steps over a hypercall", steps, 1 << 10 | 1 << 13 | 1 << 14);
    let _ = hypercall::set_debugreg(6, dr6::NONE);
}

fn breakpoints(report: &mut Report) {
    let word = 0u64;
    let address = &raw const word as u64;
    let set = |dr7| {
        let _ = hypercall::set_debugreg(6, dr6::NONE);
        (
            hypercall::set_debugreg(0, address),
            hypercall::set_debugreg(7, dr7),
        )
    };
    report.equal(
        "write breakpoint set",
        set(dr7::L0 | dr7::WRITE_8),
        (Ok(0), Ok(0)),
    );
    report.equal(
        "dr7 reads back",
        hypercall::get_debugreg(7),
        Ok(dr7::L0 | dr7::WRITE_8 | 0x400),
    );
    let trap = probe!("mov rax, [rsi]; mov [rsi], rax; nop"; in("rsi") address, out("rax") _);
    // Behind the write, not behind the read.
    expect(
        report,
        "#DB: write breakpoint",
        trap,
        Expected::trap(vector::DB, 6),
    );
    report.equal(
        "dr6 tells breakpoint 0",
        hypercall::get_debugreg(6),
        Ok(dr6::NONE | dr6::B0),
    );

    report.equal(
        "access breakpoint set",
        set(dr7::L0 | dr7::READ_WRITE_8),
        (Ok(0), Ok(0)),
    );
    let trap = probe!("mov rax, [rsi]; nop"; in("rsi") address, out("rax") _);
    expect(
        report,
        "#DB: access breakpoint",
        trap,
        Expected::trap(vector::DB, 3),
    );

    // On an instruction it is a fault, before the instruction.
    let target = &raw const breakpoint_target as u64;
    let set = (
        hypercall::set_debugreg(0, target),
        hypercall::set_debugreg(7, dr7::L0),
    );
    report.equal("instruction breakpoint set", set, (Ok(0), Ok(0)));
    let trap = probe!("call {t}"; t = in(reg) target);
    let stopped_at = trap.map(|trap| trap.frame.rip);
    report.equal(
        "#DB: instruction breakpoint is before the instruction",
        stopped_at,
        Some(target),
    );
    // The one fault whose frame has no resume flag; who returns from it sets the flag or meets it again.
    let right = Expected::trap(vector::DB, trap.map_or(0, |trap| trap.offset));
    expect(report, "#DB: instruction breakpoint", trap, right);
    report.equal("breakpoints off", hypercall::set_debugreg(7, 0), Ok(0));
    let trap = probe!("call {t}"; t = in(reg) target);
    report.equal("no breakpoint any more", trap.is_none(), true);

    let _ = hypercall::set_debugreg(0, 0);
}

global_asm!(".text", "breakpoint_target:", "nop", "ret");

unsafe extern "C" {
    static breakpoint_target: u8;
}
