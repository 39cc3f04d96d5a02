//! Kernel mode and user mode of a guest. Both are ring 3 of the CPU; what differs is the root and which GS base is in use.

use dom0_abi::addr::Mfn;

use crate::address_space;
use crate::domain::vcpu::GuestMode;
use crate::hypercall::CallCtx;

/// Goes to kernel mode, if the guest is not there.
pub fn enter_kernel(ctx: &mut CallCtx<'_>) {
    if ctx.vcpu.mode() == GuestMode::User {
        ctx.vcpu.set_mode(GuestMode::Kernel);
        // A vCPU that runs has one.
        if let Some(root) = ctx.state.kernel_root() {
            address_space::load(ctx, root, GuestMode::Kernel);
        }
        ctx.cpu.swap_gs_bases();
    }
}

/// Goes from kernel mode to user mode, on this root.
pub fn enter_user(ctx: &mut CallCtx<'_>, root: Mfn) {
    if ctx.vcpu.mode() == GuestMode::Kernel {
        ctx.vcpu.set_mode(GuestMode::User);
        address_space::load(ctx, root, GuestMode::User);
        ctx.cpu.swap_gs_bases();
    }
}
