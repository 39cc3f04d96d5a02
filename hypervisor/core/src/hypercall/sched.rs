//! `sched_op` and its older form: giving up the CPU, and shutting down.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port, VcpuId};
use dom0_abi::sched::{
    SchedCommand, SchedPinOverride, SchedPoll, SchedRemoteShutdown, SchedShutdown, SchedWatchdog,
};
use oxen_arch::memory::BadFrame;
use oxen_arch::{CpuId, Notes};

use super::{CallCtx, HypercallResult, Reply};
use crate::domain::Capabilities;
use crate::domain::vcpu::RunState;
use crate::event::polled::MAX_POLLED;
use crate::event::send;
use crate::guest_access::GuestPtr;
use crate::time::timers::{Change, WATCHDOGS};

/// `ENOSYS`: no such command; `EFAULT`: the argument cannot be read. ABI: `public/sched.h`, `SCHEDOP_*`.
#[inline(never)]
pub fn sched_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    match SchedCommand::try_from(command as u32).map_err(|_| Errno::ENOSYS)? {
        SchedCommand::Yield => Ok(yields(ctx)),
        SchedCommand::Block => block(ctx),
        SchedCommand::Shutdown => {
            let request: SchedShutdown = GuestPtr::new(arg).read(ctx.cpu)?;
            (ctx.host).shut_down(ctx.cpu, ctx.domain, request.reason as u8);
            Ok(Reply::DONE)
        }
        SchedCommand::ShutdownCode => {
            let request: SchedShutdown = GuestPtr::new(arg).read(ctx.cpu)?;
            ctx.domain.shutdown.latch(request.reason as u8);
            Ok(Reply::DONE)
        }
        SchedCommand::Poll => poll(ctx, GuestPtr::new(arg).read(ctx.cpu)?),
        SchedCommand::RemoteShutdown => remote_shutdown(ctx, GuestPtr::new(arg).read(ctx.cpu)?),
        SchedCommand::Watchdog => watchdog(ctx, GuestPtr::new(arg).read(ctx.cpu)?),
        SchedCommand::PinOverride => pin_override(ctx, GuestPtr::new(arg).read(ctx.cpu)?),
    }
}

/// The same with a number for an argument, and only three commands. ABI: `public/sched.h`, `sched_op_compat`.
#[inline(never)]
pub fn sched_op_compat(ctx: &mut CallCtx<'_>, command: i32, arg: u64) -> HypercallResult {
    match SchedCommand::try_from(command as u32) {
        Ok(SchedCommand::Yield) => Ok(yields(ctx)),
        Ok(SchedCommand::Block) => block(ctx),
        Ok(SchedCommand::Shutdown) => {
            ctx.host.shut_down(ctx.cpu, ctx.domain, arg as u8);
            Ok(Reply::DONE)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Lets others run that wait for this CPU, if there are any.
fn yields(ctx: &CallCtx<'_>) -> Reply {
    if !ctx.host.scheduler().is_alone(ctx.cpu.id()) {
        ctx.cpu.note(Notes::SCHEDULE | Notes::YIELD);
    }
    Reply::DONE
}

/// Unmasks events and sleeps. The way back to the guest looks for pending events after this, so none is missed.
fn block(ctx: &mut CallCtx<'_>) -> HypercallResult {
    ctx.vcpu
        .upcall
        .set_mask(ctx.host.mem(), 0)
        .map_err(|BadFrame| Errno::EFAULT)?;
    ctx.vcpu.set_run(ctx.state, RunState::Blocked);
    ctx.host.sleep_begins(ctx.cpu, ctx.vcpu);
    Ok(Reply::DONE)
}

/// Sleeps until one of some ports is pending, masked or not.
///
/// `EINVAL`: too many ports, or no such port. `EFAULT`: a port number could not be read. With no port it is any that becomes pending. An
/// event that can be delivered ends the sleep too, as does the time, in ns of system time, if one is given. ABI: `public/sched.h`,
/// `SCHEDOP_poll`.
#[doc(alias = "SCHEDOP_poll")]
fn poll(ctx: &mut CallCtx<'_>, request: SchedPoll) -> HypercallResult {
    if request.nr_ports as usize > MAX_POLLED {
        return Err(Errno::EINVAL);
    }
    let ports = GuestPtr::from(request.ports);
    let polled = &mut ctx.state.polled;
    polled.clear();
    let mut last: Option<Port> = None;
    for index in 0..request.nr_ports {
        ctx.budget.pay(1);
        let port = ports.element(u64::from(index)).read(ctx.cpu)?;
        if send::is_pending(ctx.host, ctx.domain, port)? {
            return Ok(Reply::DONE);
        }
        last = Some(port);
        if request.nr_ports > 1 && !polled.add(port) {
            return Err(Errno::EINVAL);
        }
    }
    // The timer would end the sleep as soon as it begins.
    if request.timeout != 0 && request.timeout <= ctx.host.time.now(ctx.cpu) {
        return Ok(Reply::DONE);
    }
    let is_several = polled.count() > 0;
    // What ended the last one.
    let _: [bool; 2] = [
        ctx.vcpu.signals.take_end_of_poll(),
        ctx.vcpu.signals.take_new_event(),
    ];
    if request.timeout != 0 {
        let end = Change::Poll(Some(request.timeout));
        ctx.host.change_timer(ctx.cpu, ctx.vcpu, end);
    }
    ctx.domain.events.pollers.enter(ctx.vcpu.id);
    // The way back to the guest looks at the ports once more: an event that comes from here on wakes it. Several are looked at only
    // when something has come.
    if is_several {
        ctx.vcpu.signals.note_event();
    }
    let port = last.filter(|_| !is_several);
    ctx.vcpu.set_run(ctx.state, RunState::Polling(port));
    ctx.host.sleep_begins(ctx.cpu, ctx.vcpu);
    Ok(Reply::DONE)
}

/// Shuts another domain down. `EPERM`: the caller controls no other domains, or means itself; `ESRCH`: there is none of this number.
fn remote_shutdown(ctx: &CallCtx<'_>, request: SchedRemoteShutdown) -> HypercallResult {
    let is_self = [ctx.domain.id, DomId::SELF].contains(&request.domain_id);
    if is_self || !ctx.is_control() {
        return Err(Errno::EPERM);
    }
    let other = ctx.host.domains.get(request.domain_id);
    let other = other.ok_or(Errno::ESRCH)?;
    ctx.host.shut_down(ctx.cpu, &other, request.reason as u8);
    Ok(Reply::DONE)
}

/// Sets, sets anew or ends a timer that shuts the caller's domain down. They run with the timers of the domain's first vCPU.
///
/// Returns the number of a new one. `ENOSPC`: there is no more; `EINVAL`: there is none of this number, or a new one without a time.
fn watchdog(ctx: &CallCtx<'_>, request: SchedWatchdog) -> HypercallResult {
    const NANOSECONDS: u64 = 1_000_000_000;
    let first = ctx.domain.vcpu(VcpuId::new(0)).ok_or(Errno::EINVAL)?;
    let now = ctx.host.time.now(ctx.cpu);
    let span = u64::from(request.timeout).saturating_mul(NANOSECONDS);
    let time = (request.timeout != 0).then(|| now.saturating_add(span));
    let index = match (request.id.checked_sub(1), time) {
        (Some(index), _) => Some(index as usize).filter(|&index| first.timers.has_watchdog(index)),
        (None, None) => None,
        (None, Some(_)) => {
            let free = (0..WATCHDOGS).find(|&index| !first.timers.has_watchdog(index));
            Some(free.ok_or(Errno::ENOSPC)?)
        }
    };
    let index = index.ok_or(Errno::EINVAL)?;
    let change = Change::Watchdog(index, time);
    ctx.host.change_timer(ctx.cpu, first, change);
    Ok(Reply::Value(match request.id {
        0 => (index as u64).saturating_add(1),
        _ => 0,
    }))
}

/// Lets the caller run on one CPU alone, whatever its affinity is, or ends that.
///
/// `EPERM`: the caller's domain does not own the hardware; `EINVAL`: no such CPU is up, or there is nothing to end; `EBUSY`: it is pinned
/// to another one.
fn pin_override(ctx: &CallCtx<'_>, request: SchedPinOverride) -> HypercallResult {
    if !ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
        return Err(Errno::EPERM);
    }
    let scheduler = ctx.host.scheduler();
    let wanted = u32::try_from(request.pcpu).ok().map(CpuId::new);
    match (scheduler.pin_override(ctx.vcpu.index), wanted) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(pinned), Some(wanted)) if pinned != wanted => return Err(Errno::EBUSY),
        _ => {}
    }
    let now = ctx.host.time.now(ctx.cpu);
    let kicks = scheduler.set_pin_override(ctx.vcpu.index, wanted, now);
    // What runs is never in between.
    let kicks = kicks.map_err(|_| Errno::EINVAL)?;
    ctx.host.interrupt_to_ask(ctx.cpu, &kicks, now);
    Ok(Reply::DONE)
}
