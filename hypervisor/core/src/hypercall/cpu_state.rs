//! `stack_switch`, `fpu_taskswitch`, `set_segment_base`, `set_debugreg`, `get_debugreg`: registers of the calling vCPU.

use dom0_abi::arch::SegmentBase;
use dom0_abi::errno::Errno;
use oxen_arch::NotCanonical;

use super::continuation::Continuation;
use super::{CallCtx, HypercallResult, Reply};
use crate::descriptor;
use crate::domain::vcpu::KernelStack;

/// Sets the stack on which the kernel is entered from user mode. Nothing is checked here: the frame is, when it is
/// written. ABI: `public/arch-x86/xen.h`, `__HYPERVISOR_stack_switch`.
#[inline(never)]
pub fn stack_switch(ctx: &mut CallCtx<'_>, ss: u64, sp: u64) -> HypercallResult {
    ctx.state.kernel_stack = KernelStack {
        ss: ss as u16 | 3,
        sp,
    };
    Ok(Reply::DONE)
}

/// Sets or clears CR0.TS. ABI: `public/arch-x86/xen.h`, `__HYPERVISOR_fpu_taskswitch`.
#[inline(never)]
pub fn fpu_taskswitch(ctx: &mut CallCtx<'_>, set: i32) -> HypercallResult {
    ctx.state.privileged.set_task_switched(set != 0);
    ctx.cpu.set_task_switched(set != 0);
    Ok(Reply::DONE)
}

/// Sets a segment base, or the GS selector of user mode.
///
/// `EINVAL`: no such base, or the address is not canonical; nothing has changed. A selector is never refused: guests
/// cannot handle that. ABI: `public/arch-x86/xen-x86_64.h`, `SEGBASE_*`.
#[inline(never)]
pub fn set_segment_base(ctx: &mut CallCtx<'_>, which: u32, base: u64) -> HypercallResult {
    let loaded = match SegmentBase::try_from(which).map_err(|_| Errno::EINVAL)? {
        SegmentBase::Fs => ctx.cpu.set_fs_base(base),
        // The caller is in kernel mode, so the base of user mode is the one that is put aside.
        SegmentBase::GsUser => ctx.cpu.set_user_gs_base(base),
        SegmentBase::GsKernel => ctx.cpu.set_gs_base(base),
        SegmentBase::GsUserSelector => {
            // The other bits are not looked at.
            if descriptor::set_user_gs_selector(ctx, base as u16).is_err() {
                return ctx.goes_on(Continuation::SetSegmentBase { which, base });
            }
            Ok(())
        }
    };
    // XSA-193: loading it all the same would fault in the hypervisor.
    loaded.map_err(|NotCanonical| Errno::EINVAL)?;
    Ok(Reply::DONE)
}

/// Writes a debug register; the CPU's own follow. Errors are those of the register's validator.
/// ABI: `public/arch-x86/xen.h`, `__HYPERVISOR_set_debugreg`.
#[inline(never)]
pub fn set_debugreg(ctx: &mut CallCtx<'_>, register: i32, value: u64) -> HypercallResult {
    let number = u32::try_from(register).map_err(|_| Errno::ENODEV)?;
    ctx.state.privileged.set_debug_register(number, value)?;
    ctx.cpu
        .load_debug_registers(ctx.state.privileged.debug_registers());
    Ok(Reply::DONE)
}

/// Reads a debug register. Errors are those of the register's validator, and cannot be told from a value.
/// ABI: `public/arch-x86/xen.h`, `__HYPERVISOR_get_debugreg`.
#[inline(never)]
pub fn get_debugreg(ctx: &mut CallCtx<'_>, register: i32) -> HypercallResult {
    let number = u32::try_from(register).map_err(|_| Errno::ENODEV)?;
    Ok(Reply::Value(ctx.state.privileged.debug_register(number)?))
}
