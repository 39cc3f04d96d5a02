//! The way back: what a vCPU is given before it executes anything, and whether it does.
//!
//! INVARIANT (I26): an injection is a value that is given away where it is delivered, so it is delivered once or the domain ends.
//! INVARIANT: every way to a guest ends in [`before_return`], with one look at what every entry has to look at: the vCPU's attention,
//! the CPU's NMI, the guest's own two bytes.

use core::fmt;

use dom0_abi::sched::ShutdownReason;
use dom0_abi::vcpu::Runstate;
use oxen_arch::{Cpu, Notes};

use super::bounce::{Bounce, bounce};
use super::crash::{self, CrashReason};
use super::exception::{Exception, Vector};
use super::{Injection, dispatch};
use crate::domain::Capabilities;
use crate::domain::shutdown::Reason;
use crate::domain::vcpu::{RunState, Vcpu};
use crate::event::send;
use crate::host::Host;
use crate::hypercall::CallCtx;
use crate::time::timers::Change;

/// What this CPU does next.
#[must_use = "a CPU that does not do this runs a guest that must not run"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Return to the guest, whose registers are complete.
    Guest,
    /// Ask the scheduler who runs: the vCPU does not go on now, or another one may have to run.
    Schedule,
    /// End the host.
    Shutdown(HostEnd),
}

/// Why the host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEnd {
    /// The domain that owns the hardware shut down.
    Hardware(Reason),
    /// The CPU reported that it, or memory, is broken.
    MachineCheck,
}

/// What is to become of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It halts. How power is switched off only AML knows, hence dom0, which does so before it gets here if it can.
    PowerOff,
    /// It starts again.
    Restart,
    /// It starts again; with `noreboot` it halts, so that somebody can look at what happened.
    RestartUnlessAsked,
}

impl HostEnd {
    /// What is to become of the machine.
    pub fn wish(self) -> Wish {
        let known = match self {
            Self::Hardware(reason) => reason.known(),
            Self::MachineCheck => None,
        };
        match known {
            Some(ShutdownReason::PowerOff) => Wish::PowerOff,
            Some(ShutdownReason::Reboot) => Wish::Restart,
            _ => Wish::RestartUnlessAsked,
        }
    }
}

impl fmt::Display for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware(reason) => match reason.known() {
                Some(ShutdownReason::Crash) => f.write_str("dom0 crashed"),
                _ => write!(f, "dom0 shut down ({reason})"),
            },
            Self::MachineCheck => f.write_str("machine check: the hardware reports an error"),
        }
    }
}

/// Delivers what the entry caused and what waits for the running vCPU, and says what its CPU does next. The registers of one that
/// does not go on are in its state from then on.
#[inline(always)]
pub fn before_return(ctx: &mut CallCtx<'_>, injection: Option<Injection>) -> Next {
    if !is_quiet(ctx.host, ctx.cpu, ctx.vcpu) {
        return deliver_and_decide(ctx, injection);
    }
    match injection {
        None => Next::Guest,
        Some(injection) => inject_alone(ctx, injection),
    }
}

/// Delivers what the entry caused to a vCPU for which nothing waits. Nothing does behind that either: a handler can only have more masked than
/// what it interrupts.
fn inject_alone(ctx: &mut CallCtx<'_>, injection: Injection) -> Next {
    match inject(ctx, injection) {
        Ok(()) => Next::Guest,
        Err(reason) => {
            crash::domain(ctx, reason);
            deliver_and_decide(ctx, None)
        }
    }
}

/// Whether nothing waits for the guest and nothing has happened to it: the common case. An event that arrives behind it finds the
/// vCPU as if it had left already.
#[inline(always)]
pub(crate) fn is_quiet(host: &Host, cpu: &Cpu, vcpu: &Vcpu) -> bool {
    !vcpu.signals.has_attention()
        && !cpu.has_notes()
        && !vcpu.upcall.read(host.mem()).is_deliverable()
}

#[inline(never)]
fn deliver_and_decide(ctx: &mut CallCtx<'_>, injection: Option<Injection>) -> Next {
    ctx.vcpu.signals.take_attention();
    let next = decide(ctx, injection);
    if next == Next::Guest {
        (ctx.host).enter_runstate(ctx.cpu, ctx.domain, ctx.vcpu, Runstate::Running);
    } else {
        ctx.state.regs = *ctx.regs;
    }
    // What is left waits for something else, and is looked at each time until that has come.
    if next != Next::Guest || ctx.vcpu.signals.has_nmi() {
        ctx.vcpu.signals.call_attention();
    }
    next
}

fn decide(ctx: &mut CallCtx<'_>, injection: Option<Injection>) -> Next {
    // Of one that arrives from here on the guest hears when it next comes in.
    if ctx.cpu.take_notes(Notes::NMI).contains(Notes::NMI) {
        dispatch::nmi(ctx.host, ctx.cpu);
    }
    if !ctx.domain.shutdown.is_down()
        && let Err(reason) = deliver(ctx, injection)
    {
        crash::domain(ctx, reason);
    }
    if let Some(reason) = ctx.domain.shutdown.reason() {
        return if ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
            Next::Shutdown(HostEnd::Hardware(reason))
        } else {
            // Whoever shut it down may not have come to this vCPU yet.
            ctx.host.stop_for_good(ctx.cpu, ctx.vcpu);
            Next::Schedule
        };
    }
    match ctx.state.run() {
        RunState::Running if !ctx.cpu.notes().contains(Notes::SCHEDULE) => Next::Guest,
        _ => Next::Schedule,
    }
}

/// First what this entry caused, then an NMI, then events. Each masks what would interrupt its handler, so there is at most
/// one of each.
fn deliver(ctx: &mut CallCtx<'_>, injection: Option<Injection>) -> Result<(), CrashReason> {
    if let Some(injection) = injection {
        inject(ctx, injection)?;
    }
    if ctx.state.run() != RunState::Running && !has_woken(ctx) {
        return Ok(());
    }
    if has_nmi(ctx) && ctx.vcpu.signals.take_nmi() {
        ctx.state.in_nmi = true;
        let entry = ctx.state.traps.get(Vector::Nmi.number());
        let how = Bounce {
            address: entry.address,
            error_code: None,
            masks_events: entry.masks_events(),
        };
        bounce(ctx, how)?;
    }
    if ctx.vcpu.upcall.read(ctx.host.mem()).is_deliverable() {
        let address = ctx.state.callbacks.event;
        if address == 0 {
            return Err(CrashReason::NoEventCallback);
        }
        let how = Bounce {
            address,
            error_code: None,
            masks_events: true,
        };
        bounce(ctx, how)?;
    }
    Ok(())
}

/// Whether an NMI can be delivered now. Without a handler it stays pending; registering one finds it.
fn has_nmi(ctx: &CallCtx<'_>) -> bool {
    let has_handler = || ctx.state.traps.get(Vector::Nmi.number()).address != 0;
    ctx.vcpu.signals.has_nmi() && !ctx.state.in_nmi && has_handler()
}

/// Ends the sleep of a vCPU that has a reason to run, and says whether it runs now.
#[inline(never)]
fn has_woken(ctx: &mut CallCtx<'_>) -> bool {
    wake(ctx);
    if let RunState::Blocked | RunState::Polling(_) = ctx.state.run() {
        // What it sleeps for and was brought before this is found here; who brings it behind this wakes it.
        ctx.host.is_about_to_sleep(ctx.vcpu);
        wake(ctx);
    }
    ctx.state.run() == RunState::Running
}

/// Ends its sleep if there is a reason to run.
fn wake(ctx: &mut CallCtx<'_>) {
    let upcall = ctx.vcpu.upcall.read(ctx.host.mem());
    let awake = match ctx.state.run() {
        RunState::Running | RunState::Offline => return,
        RunState::Blocked => upcall.is_deliverable(),
        RunState::Polling(_) if ctx.vcpu.signals.take_end_of_poll() => true,
        RunState::Polling(None) => {
            let is_over = || ctx.state.polled.end_poll(ctx.host, ctx.domain);
            upcall.is_deliverable() || ctx.vcpu.signals.take_new_event() && is_over()
        }
        RunState::Polling(Some(port)) => {
            // The port was checked when the poll began; one that has been closed since ends it.
            upcall.is_deliverable() || send::is_pending(ctx.host, ctx.domain, port) != Ok(false)
        }
    };
    if awake || has_nmi(ctx) {
        if let RunState::Polling(_) = ctx.state.run() {
            ctx.domain.events.pollers.leave(ctx.vcpu.id);
            ctx.host.change_timer(ctx.cpu, ctx.vcpu, Change::Poll(None));
        }
        ctx.vcpu.set_run(ctx.state, RunState::Running);
        ctx.host.kick(ctx.cpu, ctx.vcpu);
        ctx.host.sleep_ends(ctx.cpu, ctx.domain, ctx.vcpu);
    }
}

fn inject(ctx: &mut CallCtx<'_>, injection: Injection) -> Result<(), CrashReason> {
    let (vector, error_code, missing) = match injection {
        Injection::Syscall(callback) => {
            let how = Bounce {
                address: callback.address,
                error_code: None,
                masks_events: callback.masks_events,
            };
            return bounce(ctx, how);
        }
        Injection::SoftInterrupt(vector) => (vector, None, CrashReason::UnhandledInterrupt(vector)),
        Injection::Exception(exception) => {
            fault_address(ctx, exception)?;
            (
                exception.vector().number(),
                exception.error_code(),
                CrashReason::Unhandled(exception),
            )
        }
    };
    let entry = ctx.state.traps.get(vector);
    if entry.address == 0 {
        return Err(missing);
    }
    let how = Bounce {
        address: entry.address,
        error_code,
        masks_events: entry.masks_events(),
    };
    bounce(ctx, how)
}

/// Puts the address of a page fault where the guest looks for it: CR2, and the memory that it shares with us.
fn fault_address(ctx: &mut CallCtx<'_>, exception: Exception) -> Result<(), CrashReason> {
    if let Some(address) = exception.fault_address() {
        ctx.state.privileged.set_cr2(address);
        ctx.vcpu.upcall.set_fault_address(ctx.host.mem(), address)?;
    }
    Ok(())
}
