//! Kernel mode and user mode of a guest. Both are ring 3 of the CPU; what differs is the root and which GS base is in use.

use dom0_abi::addr::Mfn;
use oxen_arch::{Cpu, NotCanonical};

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
        swap_gs(ctx.cpu);
    }
}

/// Goes from kernel mode to user mode, on this root.
pub fn enter_user(ctx: &mut CallCtx<'_>, root: Mfn) {
    if ctx.vcpu.mode() == GuestMode::Kernel {
        ctx.vcpu.set_mode(GuestMode::User);
        address_space::load(ctx, root, GuestMode::User);
        swap_gs(ctx.cpu);
    }
}

fn swap_gs(cpu: &Cpu) {
    let (in_use, kept) = (cpu.gs_base(), cpu.user_gs_base());
    // Bases that a CPU holds are canonical, so neither is refused.
    let _: Result<(), NotCanonical> = cpu.set_gs_base(kept);
    let _: Result<(), NotCanonical> = cpu.set_user_gs_base(in_use);
}
