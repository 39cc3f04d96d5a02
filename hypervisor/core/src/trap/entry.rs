//! What the image's handlers call, one function for each way into the hypervisor, and the loop that each of them ends in.
//!
//! Each locks the vCPU that this CPU runs, handles the entry, and gives the lock back before the guest goes on or the CPU
//! sleeps: an interrupt that ends the sleep may need the vCPU.

use dom0_abi::arch::CpuUserRegs;
use dom0_abi::ids::VcpuId;
use oxen_arch::registers::AtOnce;
use oxen_arch::{BadSelector, BadXcr0, Cpu, DataSelectors, Interrupt, Ipi, NotCanonical};

use super::dispatch::{self, Stop};
use super::return_path::{Next, before_return};
use super::{Injection, crash};
use crate::address_space;
use crate::descriptor::Tables;
use crate::domain::Capabilities;
use crate::domain::table::DomainRef;
use crate::host::Host;
use crate::hypercall::{self, CallCtx, at_once};
use crate::time::timers::{Change, FIRST_PERIOD};

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
        Interrupt::Device(_) => host.interrupt(cpu, regs.as_deref()),
        Interrupt::Ipi(Ipi::Call) => host.called(cpu),
        // Whoever has sent it has noted why, where the CPU looks again.
        Interrupt::Timer => host.timer_fired(cpu),
        Interrupt::Ipi(_) => {}
    }
    if let Some(regs) = regs {
        let next = look_again(host, cpu, regs);
        settle(host, cpu, regs, next);
    }
}

/// Begins to run a vCPU on this CPU, which ran none: loads its context and leaves its registers in `regs`. Returns when
/// there is a guest to return to, or at once with [`Next::Idle`] if this vCPU does not exist or the CPU has one already.
pub fn start(
    host: &Host,
    cpu: &Cpu,
    domain: &DomainRef<'_>,
    vcpu: VcpuId,
    regs: &mut CpuUserRegs,
) -> Next {
    let Some(target) = domain.vcpu(vcpu) else {
        return Next::Idle;
    };
    let Some(pcpu) = host.pcpu(cpu) else {
        return Next::Idle;
    };
    let is_first;
    {
        let state = target.lock();
        let Some(root) = state.kernel_root() else {
            return Next::Idle;
        };
        if !host.domains.run(cpu, domain, vcpu) {
            return Next::Idle;
        }
        pcpu.runs(domain.id, vcpu);
        is_first = target.last_cpu().is_none();
        let is_new_here = target.last_cpu() != Some(cpu.id());
        target.runs_on(cpu.id());
        address_space::enter(host, cpu, domain.id, vcpu, root, is_new_here);
        state.tables.load(cpu);
        let selectors = DataSelectors {
            ds: state.regs.ds,
            es: state.regs.es,
            fs: state.regs.fs,
            gs: state.regs.gs,
        };
        // Those that cannot be loaded are 0 now.
        let _: Result<(), BadSelector> = cpu.load_selectors(&selectors);
        // What a vCPU holds was checked when it was set.
        let _: Result<(), NotCanonical> = cpu.set_fs_base(state.bases.fs);
        let _: Result<(), NotCanonical> = cpu.set_gs_base(state.bases.gs_kernel);
        let _: Result<(), NotCanonical> = cpu.set_user_gs_base(state.bases.gs_user);
        let _: Result<(), BadXcr0> = cpu.set_xcr0(state.privileged.xcr0());
        cpu.load_guest_cr4(state.privileged.cr4_for_hardware());
        cpu.load_tsc_aux(state.privileged.tsc_aux());
        cpu.restore_fpu(&state.fpu);
        cpu.set_task_switched(state.privileged.task_switched());
        cpu.load_debug_registers(state.privileged.debug_registers());
        *regs = state.regs;
    }
    host.tell_time(cpu, target);
    if is_first {
        host.change_timer(cpu, target, Change::Periodic(Some(FIRST_PERIOD)));
    }
    if domain.capabilities.contains(Capabilities::CONSOLE) {
        host.console.dom0_starts();
    }
    look_again(host, cpu, regs)
}

/// Ends running a vCPU on this CPU: its registers are in its state already. Nothing of its domain is reached from here any
/// more, by no translation and no descriptor table.
pub fn stop(host: &Host, cpu: &Cpu) {
    if let Some(pcpu) = host.pcpu(cpu) {
        pcpu.runs_nothing();
    }
    host.domains.leave(cpu);
    cpu.load_idle_root();
    Tables::EMPTY.load(cpu);
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
            Next::Idle => cpu.wait_for_interrupt(),
            Next::Shutdown(end) => host.end(cpu, end),
        }
        next = look_again(host, cpu, regs);
    }
}

/// Calls `handle` with the vCPU that this CPU runs; a CPU that runs none has nothing to do.
#[inline(always)]
fn with_running(
    host: &Host,
    cpu: &Cpu,
    regs: &mut CpuUserRegs,
    handle: impl FnOnce(&mut CallCtx<'_>) -> Next,
) -> Next {
    let Some(running) = host.domains.running(cpu) else {
        return Next::Idle;
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
