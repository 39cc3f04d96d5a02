//! The ways a guest kernel can end: on each, the hypervisor names the domain and what happened, ends it and lives on.
//!
//! The command line says which way; what the log must show is in `guests.toml`. No verdict line appears: a guest that
//! gets past its end prints a failure.
#![no_std]
#![no_main]
// UNSAFETY: ends in the middle of things.
#![allow(unsafe_code)]

use core::arch::asm;

use dom0_abi::arch::HYPERVISOR_VIRT_START;
use dom0_abi::sched::ShutdownReason;
use guest_pv_drivers::hypercall;
use kit::memory::{NON_CANONICAL, PAGE, UNMAPPED};
use kit::{Report, println, start_info};

kit::guest!("crash", main);

fn main(report: &mut Report) {
    let line = &start_info().cmd_line;
    let end = line.iter().position(|&byte| byte == 0).unwrap_or(0);
    match &line[..end] {
        b"unhandled" => {
            // SAFETY: no handler is left, which is the point.
            let cleared = unsafe { hypercall::set_trap_table(&[]) };
            report.equal("trap table cleared", cleared, Ok(0));
            // SAFETY: does not return.
            unsafe { asm!("ud2") }
        }
        // A trap's frame has nowhere to go.
        b"stack-unmapped" => fault_with_stack(UNMAPPED + PAGE),
        b"stack-not-canonical" => fault_with_stack(NON_CANONICAL),
        b"stack-read-only" => fault_with_stack(start_info().pt_base + PAGE),
        // The hypervisor could write there; it must not.
        b"stack-in-hypervisor" => fault_with_stack(HYPERVISOR_VIRT_START + (4 << 39)),
        // SAFETY: does not return.
        b"iret-from-nowhere" => unsafe {
            asm!("mov rsp, {}", "mov eax, 23", "syscall", in(reg) UNMAPPED)
        },
        b"shutdown" => hypercall::shutdown(ShutdownReason::Crash),
        other => println!("no such end: {:x?}", other),
    }
    report.check("the guest is over", false, "it goes on");
}

fn fault_with_stack(rsp: u64) {
    // SAFETY: does not return.
    unsafe { asm!("mov rsp, {}", "ud2", in(reg) rsp) }
}
