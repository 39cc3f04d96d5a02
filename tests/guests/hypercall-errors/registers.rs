//! What a hypercall leaves of the registers and flags: all of them, but rax, and rcx and r11, which SYSCALL itself takes.
//!
//! The hypervisor may have more than one way for a call, and more than one way back: the same is asked of calls that succeed and
//! that fail, with flags for which SYSRET will do and with others.

use core::arch::global_asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuUpdate, UVMF_ALL, UVMF_INVLPG, UVMF_NONE};
use kit::Report;
use kit::memory::{PAGE, Page, leaf, pte, walk};
use kit::registers::{Registers, flags};
use kit::trap::{self, Context, vector};

static PAGE_OF_OURS: Page = Page::new();
/// Where the single step came to, or 0.
static STEPPED: AtomicU64 = AtomicU64::new(0);

// `call_with`: a C function: given registers, where to put those that come back, flags to set. Returns the flags that come back.
global_asm!(
    ".text",
    ".type call_with, @function",
    "call_with:",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    push rsi",
    "    pushfq",
    "    or [rsp], rdx",
    "    mov r15, [rdi + 0*8]",
    "    mov r14, [rdi + 1*8]",
    "    mov r13, [rdi + 2*8]",
    "    mov r12, [rdi + 3*8]",
    "    mov rbp, [rdi + 4*8]",
    "    mov rbx, [rdi + 5*8]",
    "    mov r11, [rdi + 6*8]",
    "    mov r10, [rdi + 7*8]",
    "    mov r9, [rdi + 8*8]",
    "    mov r8, [rdi + 9*8]",
    "    mov rax, [rdi + 10*8]",
    "    mov rcx, [rdi + 11*8]",
    "    mov rdx, [rdi + 12*8]",
    "    mov rsi, [rdi + 13*8]",
    "    mov rdi, [rdi + 14*8]",
    "    popfq",
    "    syscall",
    "call_with_returned:",
    "    xchg rdi, [rsp]",
    "call_with_stepped:",
    "    mov [rdi + 0*8], r15",
    "    mov [rdi + 1*8], r14",
    "    mov [rdi + 2*8], r13",
    "    mov [rdi + 3*8], r12",
    "    mov [rdi + 4*8], rbp",
    "    mov [rdi + 5*8], rbx",
    "    mov [rdi + 6*8], r11",
    "    mov [rdi + 7*8], r10",
    "    mov [rdi + 8*8], r9",
    "    mov [rdi + 9*8], r8",
    "    mov [rdi + 10*8], rax",
    "    mov [rdi + 11*8], rcx",
    "    mov [rdi + 12*8], rdx",
    "    mov [rdi + 13*8], rsi",
    "    pop rax",
    "    mov [rdi + 14*8], rax",
    "    pushfq",
    "    pop rax",
    "    push 2",
    "    popfq",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    ret",
    ".size call_with, . - call_with",
);

unsafe extern "C" {
    fn call_with(given: *const Registers, seen: *mut Registers, flags: u64) -> u64;
    static call_with_returned: u8;
    static call_with_stepped: u8;
}

/// Ends a single step, and notes where it came to.
fn step(context: &mut Context) -> bool {
    if context.trap.vector != vector::DB {
        return false;
    }
    STEPPED.store(context.frame.rip, Ordering::Relaxed);
    context.frame.rflags &= !flags::TF;
    true
}

pub fn check(report: &mut Report) {
    let (entries, levels) = walk(PAGE_OF_OURS.address());
    let mapped = levels == 4;
    report.check("a page is mapped by a table", mapped, levels);
    let table = entries[2] & pte::MFN;
    let at = table + ((PAGE_OF_OURS.address() / PAGE) & 511) * 8;
    let request = Cell::new(MmuUpdate {
        ptr: at,
        val: leaf(PAGE_OF_OURS.address()),
    });
    let requests = request.as_ptr().expose_provenance() as u64;
    let map = |flags| {
        let entry = leaf(PAGE_OF_OURS.address());
        (
            Hypercall::UpdateVaMapping.number(),
            [PAGE_OF_OURS.address(), entry, flags, 0, 0],
            0,
        )
    };
    let update = |count| {
        let foreign = u64::from(DomId::SELF.get());
        (
            Hypercall::MmuUpdate.number(),
            [requests, count, 0, foreign, 0],
            0,
        )
    };
    let calls = [
        (
            "xen_version",
            (Hypercall::XenVersion.number(), [0; 5], 0x4_0011),
        ),
        ("a number that does not exist", (63, [0; 5], -38_i64 as u64)),
        ("a mapping without a flush", map(UVMF_NONE)),
        ("a mapping with a flush of the page", map(UVMF_INVLPG)),
        (
            "a mapping with a flush for all",
            map(UVMF_INVLPG | UVMF_ALL),
        ),
        ("a list of one", update(1)),
        ("a list of none", update(0)),
    ];
    let kinds = [
        ("no flags", 0),
        (
            "carry, direction and identification",
            1 | flags::DF | flags::ID,
        ),
        ("alignment check", flags::AC),
        ("single step", flags::TF),
    ];
    for (call, (number, arguments, result)) in calls {
        for (kind, set) in kinds {
            one(
                report,
                format_args!("{call}, {kind}"),
                number,
                arguments,
                result,
                set,
            );
        }
    }
}

fn one(
    report: &mut Report,
    name: core::fmt::Arguments,
    number: u64,
    arguments: [u64; 5],
    result: u64,
    set: u64,
) {
    let mark = |number: u64| 0x0123_4567_0000_0000 | number << 8 | number;
    let [rdi, rsi, rdx, r10, r8] = arguments;
    let given = Registers {
        r15: mark(15),
        r14: mark(14),
        r13: mark(13),
        r12: mark(12),
        rbp: mark(5),
        rbx: mark(3),
        r11: mark(11),
        r10,
        r9: mark(9),
        r8,
        rax: number,
        rcx: mark(1),
        rdx,
        rsi,
        rdi,
    };
    let mut seen = Registers::default();
    STEPPED.store(0, Ordering::Relaxed);
    // SAFETY: the calls give Rust's memory no other content; registers and flags are put back.
    let flags = trap::with_hook(step, || unsafe { call_with(&given, &mut seen, set) });
    let returned = (&raw const call_with_returned).expose_provenance() as u64;
    let stepped = (&raw const call_with_stepped).expose_provenance() as u64;
    let kept = flags::DF | flags::ID | flags::AC | flags::IF | 1;
    let right = Registers {
        rax: result,
        rcx: returned,
        r11: seen.r11,
        ..given
    };
    report.equal(format_args!("{name}: registers"), seen, right);
    report.equal(
        format_args!("{name}: flags, in place and in r11"),
        (flags & kept, seen.r11 & (kept | flags::TF)),
        (set & kept | flags::IF, set | flags::IF),
    );
    // Behind the call, or behind the next instruction: it depends on the way back.
    let at = STEPPED.load(Ordering::Relaxed);
    let right = if set & flags::TF == 0 {
        at == 0
    } else {
        at == returned || at == stepped
    };
    report.check(
        format_args!("{name}: where a step ends"),
        right,
        format_args!("{at:#x}"),
    );
}
