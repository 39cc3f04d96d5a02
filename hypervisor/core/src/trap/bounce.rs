//! Entering the guest's kernel: the frame on its stack, and the registers that its handler begins with.
//!
//! INVARIANT (I26): a bounce writes the whole frame and then changes the registers, or does neither and the domain ends.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::{FLAT_CS64, FLAT_SS};
use dom0_abi::xen::VmAssist;

use super::crash::CrashReason;
use super::flags;
use super::mode;
use crate::domain::vcpu::GuestMode;
use crate::hypercall::CallCtx;

/// How to enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounce {
    /// Where. Not 0: whoever finds no handler reports that.
    pub address: u64,
    /// The word between the registers and the instruction pointer, for exceptions that have one.
    pub error_code: Option<u32>,
    /// Whether events are masked from here on.
    pub masks_events: bool,
}

/// Stacks are aligned to this before anything is pushed.
const STACK_ALIGNMENT: u64 = 16;

/// Enters the guest's kernel.
///
/// The frame is, from low addresses up: rcx, r11, the error code if there is one, rip, cs with the event mask in bits
/// 32-39, rflags, rsp, ss. An interrupted kernel goes on on its own stack, and sees privilege level 0 in cs.
/// Fails if the frame cannot be written, wholly, where the guest may write; the registers are as before then, but the
/// domain cannot go on. ABI: `public/arch-x86/xen-x86_64.h`, "Guest entry".
pub fn bounce(ctx: &mut CallCtx<'_>, bounce: Bounce) -> Result<(), CrashReason> {
    let upcall = ctx.vcpu.upcall.read(ctx.host.mem());
    let (top, cs) = match ctx.vcpu.mode() {
        GuestMode::Kernel => (ctx.regs.rsp, ctx.regs.cs & !3),
        GuestMode::User => (ctx.state.kernel_stack.sp, ctx.regs.cs),
    };
    let shown_iopl = if ctx.domain.assists.contains(VmAssist::ArchitecturalIopl) {
        ctx.state.privileged.iopl()
    } else {
        0
    };
    let cs = u64::from(cs) | u64::from(upcall.mask()) << 32;
    let rflags = flags::as_shown(ctx.regs.rflags, upcall.mask() == 0, shown_iopl);
    let (rip, rsp, ss) = (ctx.regs.rip, ctx.regs.rsp, u64::from(ctx.regs.ss));
    let (rcx, r11) = (ctx.regs.rcx, ctx.regs.r11);

    // The stack is the kernel's, so it is looked up through the kernel's root.
    mode::enter_kernel(ctx);
    let top = top & !(STACK_ALIGNMENT.wrapping_sub(1));
    let stack = match bounce.error_code {
        Some(code) => push(ctx, top, [rcx, r11, code.into(), rip, cs, rflags, rsp, ss])?,
        None => push(ctx, top, [rcx, r11, rip, cs, rflags, rsp, ss])?,
    };
    if bounce.masks_events {
        ctx.vcpu.upcall.set_mask(ctx.host.mem(), 1)?;
    }
    ctx.regs.rip = bounce.address;
    ctx.regs.cs = FLAT_CS64;
    ctx.regs.rflags = flags::for_handler(ctx.regs.rflags);
    ctx.regs.rsp = stack;
    ctx.regs.ss = FLAT_SS;
    Ok(())
}

/// Writes a frame that ends at `top`, and returns where it begins.
fn push<const WORDS: usize>(
    ctx: &CallCtx<'_>,
    top: u64,
    frame: [u64; WORDS],
) -> Result<u64, CrashReason> {
    let start = top.wrapping_sub(size_of_val(&frame) as u64);
    // XSA-215: the range of the whole frame is checked, not the stack pointer alone.
    match ctx.cpu.write_guest(GuestAddr::new(start), &frame) {
        Ok(()) => Ok(start),
        Err(fault) => Err(CrashReason::Stack(fault.at)),
    }
}
