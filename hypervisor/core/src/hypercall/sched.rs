//! `sched_op` and its older form: giving up the CPU, and shutting down.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::Port;
use dom0_abi::sched::{SchedCommand, SchedPoll, SchedShutdown};
use oxen_arch::memory::BadFrame;

use super::{CallCtx, HypercallResult, Reply};
use crate::domain::vcpu::RunState;
use crate::event::polled::MAX_POLLED;
use crate::event::send;
use crate::guest_access::GuestPtr;
use crate::time::timers::Change;

/// `ENOSYS`: no such command, or one that comes with the scheduler. ABI: `public/sched.h`, `SCHEDOP_*`.
#[inline(never)]
pub fn sched_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    match SchedCommand::try_from(command as u32).map_err(|_| Errno::ENOSYS)? {
        // Who yields goes on at once as long as each CPU has one vCPU.
        SchedCommand::Yield => Ok(Reply::DONE),
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
        SchedCommand::RemoteShutdown | SchedCommand::Watchdog | SchedCommand::PinOverride => {
            Err(Errno::ENOSYS)
        }
    }
}

/// The same with a number for an argument, and only three commands. ABI: `public/sched.h`, `sched_op_compat`.
#[inline(never)]
pub fn sched_op_compat(ctx: &mut CallCtx<'_>, command: i32, arg: u64) -> HypercallResult {
    match SchedCommand::try_from(command as u32) {
        Ok(SchedCommand::Yield) => Ok(Reply::DONE),
        Ok(SchedCommand::Block) => block(ctx),
        Ok(SchedCommand::Shutdown) => {
            ctx.host.shut_down(ctx.cpu, ctx.domain, arg as u8);
            Ok(Reply::DONE)
        }
        _ => Err(Errno::ENOSYS),
    }
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
    let _: [bool; 2] = [ctx.vcpu.take_end_of_poll(), ctx.vcpu.take_new_event()];
    if request.timeout != 0 {
        let end = Change::Poll(Some(request.timeout));
        ctx.host.change_timer(ctx.cpu, ctx.vcpu, end);
    }
    ctx.domain.events.pollers.enter(ctx.vcpu.id);
    // The way back to the guest looks at the ports once more: an event that comes from here on wakes it. Several are looked at only
    // when something has come.
    if is_several {
        ctx.vcpu.note_event();
    }
    let port = last.filter(|_| !is_several);
    ctx.vcpu.set_run(ctx.state, RunState::Polling(port));
    ctx.host.sleep_begins(ctx.cpu, ctx.vcpu);
    Ok(Reply::DONE)
}
