//! What the scheduler decides, done: contexts of vCPUs are saved and loaded, timers set, CPUs interrupted.
//!
//! A CPU asks the scheduler on its way back to a guest, if it has a note to do so ([`Notes::SCHEDULE`]) or if its vCPU does not go on,
//! and when it has nothing to do. The note is made by its interrupts and by whoever wakes or stops a vCPU on the CPU itself.
//!
//! INVARIANT: when the scheduler is told that a vCPU is saved, its registers are in its state, and from the CPU nothing leads to its
//! domain: another root and other descriptor tables are loaded, no translation is left.
//! INVARIANT: a CPU leaves a vCPU only between entries of it: nobody on that CPU uses what its seat keeps.

mod context;
mod tables;
#[cfg(test)]
mod tests;
mod wake;

use dom0_abi::arch::CpuUserRegs;
use dom0_abi::vcpu::Runstate;
use oxen_arch::{Cpu, Notes};

pub use tables::SchedulerTables;

use crate::address_space::{self, Before};
use crate::descriptor::Tables;
use crate::domain::table::DomainRef;
use crate::domain::vcpu::Vcpu;
use crate::domain::{Capabilities, Domain};
use crate::host::Host;
use crate::sched::{Ask, Rest, VcpuIndex};
use crate::time::timers::{Change, FIRST_PERIOD};
use crate::trap::dispatch;
use crate::trap::entry::look_again;
use crate::trap::return_path::Next;

/// Asks the scheduler what this CPU does, and begins to do so. `regs` become those of the vCPU that runs from now on. If nobody does, the CPU
/// has slept until something happened.
pub fn next(host: &Host, cpu: &Cpu, regs: &mut CpuUserRegs) -> Next {
    let ask = match cpu.take_notes(Notes::SCHEDULE | Notes::YIELD) {
        notes if notes.contains(Notes::YIELD) => Ask::Yield,
        _ => Ask::Again,
    };
    let now = host.time.now(cpu);
    let Ok(decision) = host.scheduler().pick(cpu.id(), ask, now) else {
        debug_assert!(false, "every CPU has a record");
        return idle(host, cpu);
    };
    host.interrupt_to_ask(cpu, &decision.kicks, now);
    let left = decision.leave.and_then(|_| leave(host, cpu));
    let has_left = left.is_some();
    let next = match decision.run {
        Some(vcpu) if !has_left && runs(host, cpu, vcpu) => Doing::Same,
        Some(vcpu) => {
            let before = if has_left {
                Before::Guest
            } else {
                Before::Idle
            };
            match enter(host, cpu, vcpu, regs, before) {
                Some(()) => Doing::Other,
                None => {
                    debug_assert!(false, "{vcpu:?} is to run and cannot");
                    host.interrupt_to_ask_if(cpu, host.scheduler().down(vcpu, now), now);
                    Doing::Nothing
                }
            }
        }
        None => Doing::Nothing,
    };
    if has_left && next == Doing::Nothing {
        cpu.load_idle_root();
        Tables::EMPTY.load(cpu);
    }
    drop(left);
    host.ask_at(cpu, decision.next_event);
    if let Some(vcpu) = decision.leave {
        // If that comes into this CPU's queue there is a later word on when to ask.
        let kicks = host.scheduler().saved(vcpu, now);
        host.interrupt_to_ask_if(cpu, kicks, now);
    }
    match next {
        Doing::Same | Doing::Other => look_again(host, cpu, regs),
        Doing::Nothing => idle(host, cpu),
    }
}

/// What a CPU does after a decision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It goes on with its vCPU.
    Same,
    /// It begins with another one, whose context is loaded.
    Other,
    Nothing,
}

fn runs(host: &Host, cpu: &Cpu, vcpu: VcpuIndex) -> bool {
    let running = host.domains.running(cpu);
    running.is_some_and(|running| running.both().1.index == vcpu)
}

/// Sleeps until something has happened, unless it has already.
fn idle(host: &Host, cpu: &Cpu) -> Next {
    if !cpu.has_notes() {
        host.arm(cpu);
        cpu.wait_for_interrupt();
    }
    if cpu.take_notes(Notes::NMI).contains(Notes::NMI) {
        dispatch::nmi(host, cpu);
    }
    Next::Schedule
}

/// Ends running the vCPU of this CPU: saves what of it is in the CPU. Its root and tables are still loaded; what keeps their domain is
/// returned.
fn leave<'h>(host: &'h Host, cpu: &Cpu) -> Option<DomainRef<'h>> {
    {
        let running = host.domains.running(cpu)?;
        let (domain, vcpu) = running.both();
        let mut state = vcpu.lock();
        context::save(cpu, vcpu.mode(), &mut state);
        drop(state);
        // Told while its memory can be reached.
        host.enter_runstate(cpu, domain, vcpu, runstate(host, vcpu));
    }
    if let Some(pcpu) = host.pcpu(cpu) {
        pcpu.runs_nothing();
    }
    host.domains.leave(cpu)
}

/// What a vCPU is that does not run.
fn runstate(host: &Host, vcpu: &Vcpu) -> Runstate {
    match host.scheduler().rest(vcpu.index) {
        Rest::Waits => Runstate::Runnable,
        Rest::Sleeps => Runstate::Blocked,
        Rest::StandsStill => Runstate::Offline,
    }
}

/// Begins to run a vCPU on this CPU, which keeps none any more: loads its context and leaves its registers in `regs`. `before`: whose
/// root is loaded. `None`, and nothing is loaded: there is no such vCPU, or it has nothing to run on.
fn enter(
    host: &Host,
    cpu: &Cpu,
    vcpu: VcpuIndex,
    regs: &mut CpuUserRegs,
    before: Before,
) -> Option<()> {
    let (domain, id) = host.vcpu_numbers.get(vcpu)?;
    let domain = host.domains.get(domain)?;
    let target = domain.vcpu(id).filter(|target| target.index == vcpu)?;
    let pcpu = host.pcpu(cpu)?;
    let last_cpu = target.last_cpu();
    {
        let (state, mode) = (target.lock(), target.mode());
        let root = state.loaded_root(mode)?;
        if !host.domains.run(cpu, &domain, id) {
            return None;
        }
        pcpu.runs(domain.id, id);
        target.runs_on(cpu.id());
        if last_cpu.is_some_and(|last| last != cpu.id()) {
            // Another CPU has run it since this one did, if this one ever did.
            address_space::forget_of(host, cpu, domain.id, id);
        }
        address_space::enter(host, cpu, (domain.id, id), (root, mode), before);
        context::load(cpu, mode, &state);
        *regs = state.regs;
    }
    // Whatever has come meanwhile is looked at before it goes on.
    target.signals.call_attention();
    host.tell_time(cpu, target);
    match last_cpu {
        None => begins(host, cpu, &domain, target),
        Some(last) if last != cpu.id() => host.bring_timers(cpu, target),
        Some(_) => {}
    }
    Some(())
}

/// What happens when a vCPU runs for the first time.
fn begins(host: &Host, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu) {
    host.change_timer(cpu, vcpu, Change::Periodic(Some(FIRST_PERIOD)));
    if domain.capabilities.contains(Capabilities::CONSOLE) {
        host.console.dom0_starts();
    }
}
