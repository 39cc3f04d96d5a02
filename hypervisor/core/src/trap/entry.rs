//! What the image's handlers call, one function for each way into the hypervisor, and the loop that each of them ends in.
//!
//! Each locks the vCPU that this CPU runs, handles the entry, and gives the lock back before the guest goes on or the CPU
//! sleeps: an interrupt that ends the sleep may need the vCPU.

use dom0_abi::arch::CpuUserRegs;
use oxen_arch::registers::AtOnce;
use oxen_arch::{Cpu, Interrupt, Ipi, Notes, SERIAL_VECTOR};

use super::dispatch::{self, Stop};
use super::return_path::{Next, before_return};
use super::{Injection, crash};
use crate::host::Host;
use crate::hypercall::{self, CallCtx, at_once};
use crate::switch;

/// `syscall` of 64-bit guest code. Returns when there is a guest to return to, with its registers in `regs`.
pub fn hypercall(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) {
    let next = handle_hypercall(host, cpu, regs);
    settle(host, cpu, regs, next);
}

/// What is left of a `syscall` that was made at once, whose result is in `regs`. Returns as [`hypercall`] does.
pub fn rest_of_hypercall(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) {
    let next = handle_rest_of_hypercall(host, cpu, regs);
    settle(host, cpu, regs, next);
}

/// An exception of a guest. Returns as [`hypercall`] does.
#[inline(always)]
pub fn exception(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) {
    let next = handle_exception(host, cpu, regs);
    settle(host, cpu, regs, next);
}

/// An interrupt of a device, another CPU or the timer. Returns as [`hypercall`] does if it came from a guest, and at once if the CPU
/// was in the hypervisor, asleep in the loop at the end of an earlier entry.
pub fn interrupt(host: &Host, cpu: &Cpu, regs: Option<&mut CpuUserRegs>, what: Interrupt) {
    match what {
        Interrupt::Device(SERIAL_VECTOR) => host.serial_interrupt(cpu, regs.as_deref()),
        // Its domain has been told.
        Interrupt::Device(_) => {}
        Interrupt::Ipi(Ipi::Call) => host.called(cpu),
        Interrupt::Timer => host.timer_fired(cpu),
        Interrupt::Ipi(Ipi::Reschedule) => cpu.note(Notes::SCHEDULE),
        // The vCPU looks on its way back.
        Interrupt::Ipi(Ipi::Event) => {}
    }
    if let Some(regs) = regs {
        let next = look_again(host, cpu, regs);
        settle(host, cpu, regs, next);
    }
}

/// What a CPU does that is up and has not run anything: waits until there is a guest to go to, and leaves its registers in `regs`.
pub fn begin(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) {
    settle(host, cpu, regs, Next::Schedule);
}

/// Handles a `syscall` up to the decision what comes next, with the straight way first: as the entry stub does, which has the arguments
/// in registers.
pub fn handle_syscall(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    let arguments = [regs.rdi, regs.rsi, regs.rdx, regs.r10];
    match at_once::hypercall(host, cpu, regs.rax, arguments) {
        Some(AtOnce { result, is_settled }) => {
            regs.rax = result;
            if is_settled {
                Next::Guest
            } else {
                handle_rest_of_hypercall(host, cpu, regs)
            }
        }
        None => handle_hypercall(host, cpu, regs),
    }
}

/// Handles a `syscall` the general way up to the decision what comes next.
#[inline(always)]
pub fn handle_hypercall(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    with_running(host, cpu, regs, |ctx| {
        let injection = dispatch::syscall(ctx);
        before_return(ctx, injection)
    })
}

/// Handles what is left of a `syscall` that was made at once, up to the decision what comes next.
fn handle_rest_of_hypercall(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    with_running(host, cpu, regs, |ctx| {
        hypercall::settle_at_once(ctx);
        before_return(ctx, None)
    })
}

/// Handles an exception up to the decision what comes next.
#[inline(always)]
pub fn handle_exception(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    with_running(host, cpu, regs, |ctx| match dispatch::page_fault(ctx) {
        Some(Ok(())) => before_return(ctx, None),
        Some(Err(exception)) => before_return(ctx, Some(Injection::Exception(exception))),
        None => handle_other_exception(ctx),
    })
}

#[inline(never)]
fn handle_other_exception(ctx: &mut CallCtx<'_>) -> Next {
    match dispatch::exception(ctx) {
        Ok(injection) => before_return(ctx, injection),
        Err(Stop::Domain(reason)) => {
            crash::domain(ctx, reason);
            before_return(ctx, None)
        }
        Err(Stop::Host(end)) => Next::Shutdown(end),
    }
}

/// Decides anew what comes next: something may have happened to the running vCPU.
pub fn look_again(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    with_running(host, cpu, regs, |ctx| before_return(ctx, None))
}

/// Does what comes next until that is a return to the guest.
#[inline(always)]
pub fn settle(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs, next: Next) {
    if next != Next::Guest {
        settle_slowly(host, cpu, regs, next);
    }
}

#[cold]
#[inline(never)]
fn settle_slowly(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs, mut next: Next) {
    loop {
        match next {
            Next::Guest => return,
            Next::Schedule => next = switch::next(host, cpu, regs),
            Next::Shutdown(end) => host.end(cpu, end),
        }
    }
}

/// Calls `handle` with the vCPU that this CPU runs; a CPU that runs none asks for one.
#[inline(always)]
fn with_running(
    host: &Host,
    cpu: &Cpu,
    regs: &mut CpuUserRegs,
    handle: impl FnOnce(&mut CallCtx<'_>) -> Next,
) -> Next {
    let Some(running) = host.domains.running(cpu) else {
        return Next::Schedule;
    };
    let (domain, vcpu) = running.both();
    let mut state = vcpu.lock();
    handle(&mut CallCtx {
        host,
        cpu,
        domain,
        vcpu,
        state: &mut state,
        regs,
        budget: host.entry_budget(),
        in_multicall: false,
        rest: None,
    })
}
