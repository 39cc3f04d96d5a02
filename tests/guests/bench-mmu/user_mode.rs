//! User mode's way into the kernel and back.

use core::arch::global_asm;

use dom0_abi::arch::VgcfFlags;
use dom0_abi::callback::{CallbackRegister, CallbackType};
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;
use kit::registers::Registers;
use kit::user::{self, Left};
use kit::user_code;

use crate::{Bench, COUNT, Cost};

// The callback, which goes right back. In: rcx, r11, rip, cs, rflags, rsp, ss on the kernel's stack; for the iret
// hypercall rax, r11, rcx and flags stand in front of the last five.
global_asm!(
    ".text",
    ".type bench_syscall, @function",
    "bench_syscall:",
    "    pop rcx",
    "    pop r11",
    "    push {in_syscall}",
    "    push rcx",
    "    push r11",
    "    push rax",
    "    mov eax, {iret_number}",
    "    syscall",
    "    ud2",
    ".size bench_syscall, . - bench_syscall",
    in_syscall = const VgcfFlags::IN_SYSCALL.bits(),
    iret_number = const Hypercall::Iret as u32,
);

unsafe extern "C" {
    static bench_syscall: u8;
}

pub fn measure(bench: &mut Bench) {
    // Makes the user root, with the kit's callback.
    if let Err(refused) = user::run(user_code!("syscall"), &Registers::default()) {
        bench.report.skip("syscall-round-trip", refused);
        return;
    }
    let callback = CallbackRegister {
        kind: CallbackType::Syscall as u16,
        flags: 0,
        _pad0: 0,
        address: &raw const bench_syscall as u64,
    };
    // SAFETY: the address is that of the callback above.
    let registered = unsafe { hypercall::register_callback(&callback) };
    bench
        .report
        .equal("the callback of the round trip", registered, Ok(0));
    let code = user_code!(
        "mov ebx, edi",
        "lfence",
        "rdtsc",
        "shl rdx, 32",
        "lea rsi, [rdx + rax]",
        "2:",
        "syscall",
        "dec ebx",
        "jnz 2b",
        "lfence",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "sub rax, rsi",
        "ud2",
    );
    let [mut many, mut one] = [Cost::MAX; 2];
    for _ in 0..crate::ROUNDS {
        for (least, trips) in [(&mut many, COUNT + 1), (&mut one, 1)] {
            let Some(cost) = round_trips(bench, code, trips) else {
                return;
            };
            *least = least.min(cost);
        }
    }
    bench.report.check("syscall-round-trip", true, "");
    // With the first trip the ways to user mode and out of it fall away.
    let mut cost = many.minus(one);
    // The user's loop is two instructions, the kernel's part of it seven.
    cost.instructions = cost.instructions.saturating_sub(COUNT * 9);
    bench.print("syscall-round-trip", &cost, COUNT);
    if let Err(refused) = user::set_entries() {
        bench
            .report
            .check("the kit's callback again", false, refused);
    }
}

/// What so many round trips cost, with the way to user mode and out of it. `None`, and said, if it was left otherwise.
fn round_trips(bench: &mut Bench, code: &[u8], trips: u64) -> Option<Cost> {
    let given = Registers {
        rdi: trips,
        ..Registers::default()
    };
    let (counts, left) = bench.counters.around(|| user::run(code, &given));
    match left {
        Ok(Left::Trap(trap)) if trap.vector == kit::trap::vector::UD => Some(Cost {
            instructions: trap.registers.rax,
            counts,
        }),
        left => {
            let report = &mut bench.report;
            report.check("syscall-round-trip", false, format_args!("{left:x?}"));
            None
        }
    }
}
