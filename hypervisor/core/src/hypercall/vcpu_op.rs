//! `vcpu_op` and `set_timer_op`: timers of vCPUs, and where they are told of time and events.

use dom0_abi::addr::{GuestAddr, Maddr, Mfn, PAGE_SIZE};
use dom0_abi::errno::Errno;
use dom0_abi::ids::VcpuId;
use dom0_abi::sched::ShutdownReason;
use dom0_abi::vcpu::{
    VcpuCommand, VcpuGetPhysid, VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea,
    VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};
use dom0_abi::xen::VcpuInfo;
use oxen_arch::memory::BadFrame;

use super::continuation::Continuation;
use super::{CallCtx, HypercallResult, Reply};
use crate::domain::Capabilities;
use crate::domain::initialise::initialise;
use crate::domain::vcpu::Vcpu;
use crate::guest_access::GuestPtr;
use crate::page_type::{Stop, TypeRef};
use crate::time::timers::{Change, SHORTEST_PERIOD};

/// How far a timer of [`set_timer_op`] may be away; 13 days.
const FARTHEST: u64 = 1 << 50;
/// When it fires that is farther away, or negative: such times have been seen from guests that count wrongly, and must not let them sleep for ever.
const INSTEAD: u64 = 100_000_000;

/// Sets the caller's timer that fires once, or ends it with 0. Never fails.
/// ABI: `public/xen.h`, `HYPERVISOR_set_timer_op`.
#[inline(never)]
pub fn set_timer_op(ctx: &mut CallCtx<'_>, deadline: u64) -> HypercallResult {
    let now = ctx.host.time.now(ctx.cpu);
    let is_sensible = deadline.cast_signed() >= 0 && deadline.saturating_sub(now) < FARTHEST;
    let time = match deadline {
        0 => {
            ctx.host.change_timer(ctx.cpu, ctx.vcpu, Change::Once(None));
            return Ok(Reply::DONE);
        }
        deadline if is_sensible => deadline,
        _ => now.saturating_add(INSTEAD),
    };
    (ctx.host).set_once(ctx.cpu, ctx.domain, ctx.vcpu, now, time);
    Ok(Reply::DONE)
}

/// `ENOENT`: the caller's domain has no such vCPU; `ENOSYS`: no such command; `EFAULT`: the argument cannot be read. ABI: `public/vcpu.h`, `VCPUOP_*`.
#[inline(never)]
pub fn vcpu_op(
    ctx: &mut CallCtx<'_>,
    command: i32,
    vcpu: VcpuId,
    arg: GuestAddr,
) -> HypercallResult {
    let domain = ctx.domain;
    let target = domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    match VcpuCommand::try_from(command as u32).map_err(|_| Errno::ENOSYS)? {
        VcpuCommand::IsUp => Ok(Reply::Value(is_up(ctx, target).into())),
        VcpuCommand::GetRunstateInfo => {
            let info = target.runstate.info(ctx.host.time.now(ctx.cpu));
            GuestPtr::new(arg).write(ctx.cpu, &info)?;
            Ok(Reply::DONE)
        }
        VcpuCommand::RegisterRunstateMemoryArea => {
            let area: VcpuRegisterRunstateMemoryArea = GuestPtr::new(arg).read(ctx.cpu)?;
            target.areas.set_runstate(can_be_guests(area.addr.addr())?);
            if is_own(ctx, target) {
                ctx.host.tell_runstate(ctx.cpu, ctx.domain, target);
            }
            Ok(Reply::DONE)
        }
        VcpuCommand::RegisterVcpuTimeMemoryArea => {
            let area: VcpuRegisterTimeMemoryArea = GuestPtr::new(arg).read(ctx.cpu)?;
            let at = can_be_guests(area.addr.addr())?;
            target.areas.set_time(at);
            if is_own(ctx, target) {
                ctx.host.copy_time(ctx.cpu, at);
            }
            Ok(Reply::DONE)
        }
        VcpuCommand::SetPeriodicTimer => {
            let timer: VcpuSetPeriodicTimer = GuestPtr::new(arg).read(ctx.cpu)?;
            if timer.period_ns < SHORTEST_PERIOD || timer.period_ns.cast_signed() < 0 {
                return Err(Errno::EINVAL);
            }
            change(ctx, target, Change::Periodic(Some(timer.period_ns)))
        }
        VcpuCommand::StopPeriodicTimer => change(ctx, target, Change::Periodic(None)),
        VcpuCommand::SetSingleshotTimer => set_singleshot(ctx, target, arg),
        VcpuCommand::StopSingleshotTimer => {
            own(ctx, target)?;
            change(ctx, target, Change::Once(None))
        }
        VcpuCommand::RegisterVcpuInfo => {
            let place: VcpuRegisterVcpuInfo = GuestPtr::new(arg).read(ctx.cpu)?;
            register_vcpu_info(ctx, target, place)
        }
        VcpuCommand::SendNmi => {
            target.signals.send_nmi();
            ctx.host.kick(ctx.cpu, target);
            Ok(Reply::DONE)
        }
        VcpuCommand::GetPhysid => {
            let id = physical_id(ctx, target).ok_or(Errno::EINVAL)?;
            GuestPtr::new(arg).write(ctx.cpu, &id)?;
            Ok(Reply::DONE)
        }
        VcpuCommand::Initialise => match initialise(ctx, target, GuestPtr::new(arg)) {
            Ok(()) => Ok(Reply::DONE),
            Err(Stop::Refused(errno)) => Err(errno),
            Err(Stop::Again) => {
                let command = command as u32;
                ctx.goes_on(Continuation::VcpuOp { command, vcpu, arg })
            }
        },
        VcpuCommand::Up => up(ctx, target),
        VcpuCommand::Down => Ok(down(ctx, target)),
    }
}

/// What firmware calls the CPU that a vCPU is tied to. `None`: it may run on several, or the machine is none of its domain's business.
fn physical_id(ctx: &CallCtx<'_>, target: &Vcpu) -> Option<VcpuGetPhysid> {
    if !ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
        return None;
    }
    let cpu = ctx.host.scheduler().only_cpu(target.index)?;
    let id = ctx.host.machine.physical_id(cpu)?;
    Some(VcpuGetPhysid {
        phys_id: u64::from(id.acpi) << 32 | u64::from(id.apic),
    })
}

/// Lets a vCPU go on from where it was stopped, or begin. `EINVAL`: nobody has said where it begins.
fn up(ctx: &CallCtx<'_>, target: &Vcpu) -> HypercallResult {
    if !target.is_initialised() {
        return Err(Errno::EINVAL);
    }
    ctx.host.bring_up(ctx.cpu, target);
    Ok(Reply::DONE)
}

/// Stops a vCPU. A domain of which no vCPU is up has shut down.
fn down(ctx: &CallCtx<'_>, target: &Vcpu) -> Reply {
    let mut others = ctx.domain.vcpus().filter(|vcpu| vcpu.id != target.id);
    if others.any(|vcpu| is_up(ctx, vcpu)) {
        ctx.host.bring_down(ctx.cpu, target);
    } else {
        let reason = ShutdownReason::PowerOff.get() as u8;
        ctx.host.shut_down(ctx.cpu, ctx.domain, reason);
    }
    Reply::DONE
}

fn is_own(ctx: &CallCtx<'_>, target: &Vcpu) -> bool {
    target.id == ctx.vcpu.id
}

fn own(ctx: &CallCtx<'_>, target: &Vcpu) -> Result<(), Errno> {
    is_own(ctx, target).then_some(()).ok_or(Errno::EINVAL)
}

fn is_up(ctx: &CallCtx<'_>, target: &Vcpu) -> bool {
    !ctx.host.scheduler().is_down(target.index)
}

fn can_be_guests(at: GuestAddr) -> Result<GuestAddr, Errno> {
    let can_be = GuestPtr::<u8>::new(at).can_be_guests();
    can_be.then_some(at).ok_or(Errno::EFAULT)
}

fn change(ctx: &CallCtx<'_>, target: &Vcpu, change: Change) -> HypercallResult {
    ctx.host.change_timer(ctx.cpu, target, change);
    Ok(Reply::DONE)
}

/// A time that has passed fires at once, whatever the flags want: who asks for an error then would race with time. `EINVAL`: another vCPU's.
fn set_singleshot(ctx: &CallCtx<'_>, target: &Vcpu, arg: GuestAddr) -> HypercallResult {
    own(ctx, target)?;
    let timer: VcpuSetSingleshotTimer = GuestPtr::new(arg).read(ctx.cpu)?;
    let now = ctx.host.time.now(ctx.cpu);
    (ctx.host).set_once(ctx.cpu, ctx.domain, target, now, timer.timeout_abs_ns);
    Ok(Reply::DONE)
}

/// Moves a vCPU's `vcpu_info`. The guest is told of an event then, and finds every word of ports to be looked at: nothing that came
/// meanwhile is missed.
///
/// `ENXIO`: it does not fit into the page, or is not aligned to 8 bytes; `EINVAL`: the page is not the domain's to write; the vCPU has moved it
/// already, or is another one that is up.
fn register_vcpu_info(
    ctx: &mut CallCtx<'_>,
    target: &Vcpu,
    place: VcpuRegisterVcpuInfo,
) -> HypercallResult {
    let offset = place.offset as usize;
    let last = PAGE_SIZE.saturating_sub(size_of::<VcpuInfo>());
    if offset > last || !offset.is_multiple_of(8) {
        return Err(Errno::ENXIO);
    }
    if !is_own(ctx, target) && is_up(ctx, target) {
        return Err(Errno::EINVAL);
    }
    let page = match TypeRef::writable(ctx.memory(), Mfn::new(place.mfn), ctx.domain.id) {
        Ok(page) => page,
        // Somebody is about to make it something else, or was: it is no page to write for now.
        Err(Stop::Again | Stop::Refused(_)) => return Err(Errno::EINVAL),
    };
    let info = page.mfn().at(offset);
    if let Err(second) = target.hold_info(page.into_held()) {
        drop(TypeRef::from_held(ctx.memory(), second));
        return Err(Errno::EINVAL);
    }
    move_info(ctx, target, info).map_err(|BadFrame| Errno::EINVAL)?;
    if is_own(ctx, target) {
        ctx.host.tell_time(ctx.cpu, target);
    }
    Ok(Reply::DONE)
}

fn move_info(ctx: &CallCtx<'_>, target: &Vcpu, info: Maddr) -> Result<(), BadFrame> {
    let mem = ctx.host.mem();
    let mut content: VcpuInfo = mem.read(target.upcall.location())?;
    content.evtchn_pending_sel = u64::MAX;
    content.evtchn_upcall_pending = 1;
    mem.write(info, &content)?;
    target.upcall.move_to(mem, info)
}
