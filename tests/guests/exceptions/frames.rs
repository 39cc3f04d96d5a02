//! What surrounds a trap: registers, stack, flags, the upcall mask, traps within traps.

use core::sync::atomic::{AtomicU64, Ordering};

use kit::registers::flags;
use kit::trap::{self, set_entry, vector};
use kit::{Report, probe};

use crate::{UD, expect};

pub fn check(report: &mut Report) {
    registers(report);
    stack(report);
    flags_in_frames(report);
    upcall_mask(report);
    nesting(report);
    iret_flags(report);
}

fn registers(report: &mut Report) {
    let (rax, rcx, rdx, rsi, rdi): (u64, u64, u64, u64, u64);
    let (r8, r9, r10, r11): (u64, u64, u64, u64);
    let (r12, r13, r15): (u64, u64, u64);
    let trap = probe!(
        "ud2";
        inout("rax") 0xa1u64 => rax, inout("rcx") 0xa2u64 => rcx, inout("rdx") 0xa3u64 => rdx,
        inout("rsi") 0xa4u64 => rsi, inout("rdi") 0xa5u64 => rdi, inout("r8") 0xa8u64 => r8,
        inout("r9") 0xa9u64 => r9, inout("r10") 0xb0u64 => r10, inout("r11") 0xb1u64 => r11,
        inout("r12") 0xb2u64 => r12, inout("r13") 0xb3u64 => r13, inout("r15") 0xb5u64 => r15
    );
    let right = [
        0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa8, 0xa9, 0xb0, 0xb1, 0xb2, 0xb3, 0xb5,
    ];
    let seen = trap.map(|trap| {
        let r = trap.registers;
        [
            r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r15,
        ]
    });
    report.equal("registers in the handler", seen, Some(right));
    let behind = [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11, r12, r13, r15];
    report.equal("registers behind the iret", behind, right);
}

fn stack(report: &mut Report) {
    expect(
        report,
        "stack off by 1",
        probe!("sub rsp, 1; ud2"),
        UD.at(4),
    );
    expect(
        report,
        "stack off by 8",
        probe!("sub rsp, 8; ud2"),
        UD.at(4),
    );
    expect(
        report,
        "stack off by 15",
        probe!("sub rsp, 15; ud2"),
        UD.at(4),
    );
    expect(
        report,
        "stack aligned",
        probe!("and rsp, -16; ud2"),
        UD.at(4),
    );
}

/// Flags that the kernel sets for itself: those that would disturb a handler are off in it, and all are in the frame.
fn flags_in_frames(report: &mut Report) {
    // The direction flag is the handler's own business: it is left as it was.
    let cases = [
        ("DF", flags::DF, true),
        ("NT", flags::NT, false),
        ("AC", flags::AC, false),
        ("ID", flags::ID, true),
    ];
    for (name, flag, in_handler) in cases {
        let trap = probe!(
            "pushfq; or [rsp], {flag}; popfq; ud2";
            flag = in(reg) flag
        );
        let seen = trap.map(|trap| {
            (
                trap.frame.rflags & flag != 0,
                trap.handler_rflags & flag != 0,
            )
        });
        report.equal(
            format_args!("{name} in the frame and in the handler"),
            seen,
            Some((true, in_handler)),
        );
    }
    // The CPU does not let the guest change these, and the frame never shows them as they really are.
    for (name, flag) in [("IF", flags::IF), ("IOPL", flags::IOPL)] {
        for (how, set, clear) in [("set", flag, 0), ("clear", 0, flag)] {
            let trap = probe!(
                "pushfq; or [rsp], {set}; not {clear}; and [rsp], {clear}; popfq; ud2";
                set = in(reg) set,
                clear = inout(reg) clear => _
            );
            let seen = trap.map(|trap| trap.frame.rflags & flag);
            report.equal(format_args!("{name} {how} by popf"), seen, Some(0));
        }
    }
}

static INNER: AtomicU64 = AtomicU64::new(0);

/// Steps over `ud2`, unmasks events, and notes the mask that the handler itself runs with.
fn unmask(context: &mut trap::Context) -> bool {
    if context.trap.vector != vector::UD || trap::depth() > 1 {
        return false;
    }
    let inner = probe!("ud2");
    INNER.store(
        inner.map_or(99, |trap| u64::from(trap.frame.saved_upcall_mask())),
        Ordering::Relaxed,
    );
    context.frame.rip += 2;
    context.frame.rflags |= flags::IF;
    true
}

fn mask(context: &mut trap::Context) -> bool {
    context.frame.rip += 2;
    context.frame.rflags &= !flags::IF;
    true
}

fn upcall_mask(report: &mut Report) {
    let outer = |report: &mut Report, name: &str, mask, interrupt_flag| {
        let trap = probe!("int3");
        let seen = trap.map(|trap| {
            (
                trap.frame.saved_upcall_mask(),
                trap.frame.rflags & flags::IF != 0,
            )
        });
        report.equal(name, seen, Some((mask, interrupt_flag)));
    };
    outer(report, "mask before", 1, false);
    trap::with_hook(unmask, || probe!("ud2"));
    report.equal(
        "mask in a handler, set before",
        INNER.load(Ordering::Relaxed),
        1,
    );
    outer(report, "iret with IF clears the mask", 0, true);
    trap::with_hook(unmask, || probe!("ud2"));
    report.equal(
        "mask in a handler, clear before",
        INNER.load(Ordering::Relaxed),
        0,
    );
    set_entry(vector::UD, 0, true);
    trap::with_hook(unmask, || probe!("ud2"));
    report.equal(
        "mask in a handler whose entry masks events",
        INNER.load(Ordering::Relaxed),
        1,
    );
    set_entry(vector::UD, 0, false);
    outer(report, "iret brings the mask back", 0, true);
    trap::with_hook(mask, || probe!("ud2"));
    outer(report, "iret without IF sets the mask", 1, false);
}

fn nest(context: &mut trap::Context) -> bool {
    INNER.store(trap::depth() as u64, Ordering::Relaxed);
    context.frame.rip += 2;
    if trap::depth() < 10 {
        let _ = probe!("ud2");
    }
    true
}

fn nesting(report: &mut Report) {
    trap::with_hook(nest, || probe!("ud2"));
    report.equal(
        "traps in handlers, ten deep",
        INNER.load(Ordering::Relaxed),
        10,
    );
}

/// Steps over `ud2` with flags that the kernel may not have, and some that it may.
fn set_flags(context: &mut trap::Context) -> bool {
    context.frame.rip += 2;
    context.frame.rflags |= flags::IOPL | flags::VM | flags::DF | flags::ID | flags::AC | 1;
    true
}

/// Flags that `iret` loads: its own half of them is forced, the rest is the guest's.
fn iret_flags(report: &mut Report) {
    let mut after = 0u64;
    let trap = trap::with_hook(
        set_flags,
        || probe!("ud2; pushfq; pop {f}; push 2; popfq"; f = out(reg) after),
    );
    report.equal("iret: to the code behind", trap.is_none(), true);
    report.equal(
        "iret: flags of the guest",
        after & (flags::DF | flags::ID | flags::AC | 1),
        flags::DF | flags::ID | flags::AC | 1,
    );
    report.equal(
        "iret: flags that are forced",
        after & (flags::IOPL | flags::VM | flags::IF),
        flags::IF,
    );
}
