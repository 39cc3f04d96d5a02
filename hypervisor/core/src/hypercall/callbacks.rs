//! `callback_op`, `set_callbacks`, `nmi_op`: the entry points of a guest kernel.

use dom0_abi::addr::GuestAddr;
use dom0_abi::callback::{
    CallbackCommand, CallbackFlags, CallbackRegister, CallbackType, CallbackUnregister,
};
use dom0_abi::errno::Errno;
use dom0_abi::ids::VcpuId;
use dom0_abi::nmi::{NmiCallback, NmiCommand};
use oxen_arch::guest_range::is_canonical;

use super::{CallCtx, HypercallResult, Reply};
use crate::domain::trap_table::TrapEntry;
use crate::domain::vcpu::Callback;
use crate::guest_access::GuestPtr;
use crate::trap::exception::Vector;

/// Registers and unregisters callbacks.
///
/// `ENOSYS`: no such command, or no callback of that kind here. `EFAULT`: the argument could not be read. `EINVAL`: the
/// address is not canonical, or the callback cannot be unregistered. On any failure nothing has changed.
/// ABI: `public/callback.h`.
#[inline(never)]
pub fn callback_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    match CallbackCommand::try_from(command as u32).map_err(|_| Errno::ENOSYS)? {
        CallbackCommand::Register => {
            let request: CallbackRegister = GuestPtr::new(arg).read(ctx.cpu)?;
            let masks_events = request.flags & CallbackFlags::MASK_EVENTS.bits() != 0;
            register(ctx, request.kind, request.address, masks_events)
        }
        CallbackCommand::Unregister => {
            let request: CallbackUnregister = GuestPtr::new(arg).read(ctx.cpu)?;
            match known(request.kind)? {
                CallbackType::Nmi => {
                    ctx.state.traps.set(Vector::Nmi.number(), TrapEntry::NONE);
                    Ok(Reply::DONE)
                }
                _ => Err(Errno::EINVAL),
            }
        }
    }
}

/// Registers three callbacks at once. An address that is not canonical leaves its callback as it was, and the call
/// succeeds nevertheless. ABI: `public/xen.h`, `__HYPERVISOR_set_callbacks`.
#[inline(never)]
pub fn set_callbacks(
    ctx: &mut CallCtx<'_>,
    event: u64,
    failsafe: u64,
    syscall: u64,
) -> HypercallResult {
    for (kind, address) in [
        (CallbackType::Event, event),
        (CallbackType::Failsafe, failsafe),
        (CallbackType::Syscall, syscall),
    ] {
        // The ABI has no way to say which of the three was refused.
        let _: HypercallResult = register(ctx, kind.get(), address, false);
    }
    Ok(Reply::DONE)
}

/// Registers or unregisters the entry point for NMIs.
///
/// Errors as for [`callback_op`]. ABI: `public/nmi.h`.
#[inline(never)]
pub fn nmi_op(ctx: &mut CallCtx<'_>, command: u32, arg: GuestAddr) -> HypercallResult {
    match NmiCommand::try_from(command).map_err(|_| Errno::ENOSYS)? {
        NmiCommand::RegisterCallback => {
            let request: NmiCallback = GuestPtr::new(arg).read(ctx.cpu)?;
            register(ctx, CallbackType::Nmi.get(), request.handler_address, true)
        }
        NmiCommand::UnregisterCallback => {
            ctx.state.traps.set(Vector::Nmi.number(), TrapEntry::NONE);
            Ok(Reply::DONE)
        }
    }
}

/// Decodes a kind that exists for 64-bit guests.
fn known(kind: u16) -> Result<CallbackType, Errno> {
    match CallbackType::try_from(kind) {
        Ok(CallbackType::SysenterDeprecated) | Err(_) => Err(Errno::ENOSYS),
        Ok(kind) => Ok(kind),
    }
}

fn register(ctx: &mut CallCtx<'_>, kind: u16, address: u64, masks_events: bool) -> HypercallResult {
    if !is_canonical(address) {
        return Err(Errno::EINVAL);
    }
    let callback = Callback {
        address,
        masks_events,
    };
    let callbacks = &mut ctx.state.callbacks;
    match known(kind)? {
        CallbackType::Event => callbacks.event = address,
        CallbackType::Failsafe => callbacks.failsafe = callback,
        CallbackType::Syscall => callbacks.syscall = callback,
        CallbackType::Syscall32 => callbacks.syscall32 = callback,
        CallbackType::Sysenter => callbacks.sysenter = callback,
        CallbackType::Nmi => {
            ctx.state
                .traps
                .set(Vector::Nmi.number(), TrapEntry::for_nmi(address));
            resend_nmi(ctx);
        }
        CallbackType::SysenterDeprecated => return Err(Errno::ENOSYS),
    }
    Ok(Reply::DONE)
}

/// Sends an NMI once more whose reason is still there: it came before there was a handler.
fn resend_nmi(ctx: &CallCtx<'_>) {
    let reason = ctx.domain.nmi_reason(ctx.host.mem());
    if ctx.vcpu.id == VcpuId::new(0) && reason.is_ok_and(|reason| reason != 0) {
        ctx.vcpu.signals.send_nmi();
    }
}
