//! The `iret` hypercall: the way back from a bounce.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::{FLAT_CS32, FLAT_CS64, FLAT_SS, IretContext, VgcfFlags};
use dom0_abi::xen::VmAssist;

use super::crash::{self, CrashReason};
use super::{flags, mode};
use crate::guest_access::GuestPtr;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::HeldType;

/// Loads the frame at the caller's stack pointer. There is no caller left to report an error to: one that cannot be carried
/// out ends the domain. ABI: `public/arch-x86/xen-x86_64.h`, `iret_context`.
#[inline(never)]
pub fn iret(ctx: &mut CallCtx<'_>) -> HypercallResult {
    if let Err(reason) = load(ctx) {
        crash::domain(ctx, reason);
    }
    Ok(Reply::ContextLeft)
}

fn load(ctx: &mut CallCtx<'_>) -> Result<(), CrashReason> {
    let at = GuestAddr::new(ctx.regs.rsp);
    let frame: IretContext = GuestPtr::new(at)
        .read(ctx.cpu)
        .map_err(|_| CrashReason::IretFrame(at))?;
    if frame.cs & 3 == 3 {
        let root = ctx.state.user_root.as_ref().map(HeldType::mfn);
        mode::enter_user(ctx, root.ok_or(CrashReason::NoUserRoot)?);
    }
    if ctx.domain.assists.contains(VmAssist::ArchitecturalIopl) {
        // Two bits are never out of range.
        let _ = ctx.state.privileged.set_iopl(flags::iopl(frame.rflags));
    }
    let regs = &mut *ctx.regs;
    regs.rax = frame.rax;
    regs.rip = frame.rip;
    regs.cs = frame.cs as u16 | 3;
    regs.rflags = flags::for_guest(frame.rflags);
    regs.rsp = frame.rsp;
    regs.ss = frame.ss as u16 | 3;
    if frame.flags & VgcfFlags::IN_SYSCALL.bits() == 0 {
        regs.r11 = frame.r11;
        regs.rcx = frame.rcx;
    } else {
        // What SYSRET leaves behind, whichever instruction the way out takes in the end.
        regs.r11 = regs.rflags;
        regs.rcx = regs.rip;
        regs.cs = if regs.cs == FLAT_CS32 {
            FLAT_CS32
        } else {
            FLAT_CS64
        };
        regs.ss = FLAT_SS;
    }
    let mask = u8::from(frame.rflags & flags::IF == 0);
    ctx.vcpu.upcall.set_mask(ctx.host.mem(), mask)?;
    ctx.state.in_nmi = false;
    Ok(())
}
