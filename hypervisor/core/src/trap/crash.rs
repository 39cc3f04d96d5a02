//! The end of a domain that cannot go on: why, and what the administrator gets to see of it.

use core::fmt;

use dom0_abi::addr::GuestAddr;
use dom0_abi::sched::ShutdownReason;
use oxen_arch::memory::BadFrame;

use super::exception::{Exception, Vector};
use crate::hypercall::CallCtx;

/// Why a domain cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashReason {
    /// There is no handler for an exception.
    Unhandled(Exception),
    /// There is no handler for a software interrupt, or it is that of the null address.
    UnhandledInterrupt(u8),
    /// An event is to be delivered, and there is no callback.
    NoEventCallback,
    /// A frame cannot be written to the kernel's stack; the first byte that cannot.
    Stack(GuestAddr),
    /// The frame of an `iret` cannot be read.
    IretFrame(GuestAddr),
    /// A return to user mode without a root for it.
    NoUserRoot,
    /// An exception while another was being delivered to ring 3.
    DoubleFault,
    /// An exception that no guest can cause.
    UnknownVector(u32),
    /// The memory that the vCPU shares with the hypervisor is gone.
    SharedMemory,
}

impl From<BadFrame> for CrashReason {
    fn from(_: BadFrame) -> Self {
        Self::SharedMemory
    }
}

impl fmt::Display for CrashReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhandled(exception) => {
                write!(f, "unhandled {}", exception.vector())?;
                if let Some(code) = exception.error_code() {
                    write!(f, " [{code:04x}]")?;
                }
                if let Some(address) = exception.fault_address() {
                    write!(f, " at {address:#x}")?;
                }
                Ok(())
            }
            Self::UnhandledInterrupt(vector) => write!(f, "unhandled int {vector:#x}"),
            Self::NoEventCallback => f.write_str("unhandled event: no callback is registered"),
            Self::Stack(at) => write!(f, "the kernel's stack cannot be written at {at}"),
            Self::IretFrame(at) => write!(f, "the iret frame at {at} cannot be read"),
            Self::NoUserRoot => f.write_str("iret to user mode without page tables for it"),
            Self::DoubleFault => f.write_str("double fault"),
            Self::UnknownVector(vector) => write!(f, "unexpected exception {vector:#x}"),
            Self::SharedMemory => f.write_str("the vCPU's shared memory is gone"),
        }
    }
}

/// Words of the guest's stack that are shown, four in a line.
const STACK_WORDS: u64 = 16;

/// Shows the state of the running vCPU and shuts its domain down.
pub fn domain(ctx: &mut CallCtx<'_>, reason: CrashReason) {
    let (domain, vcpu, host) = (ctx.domain.id, ctx.vcpu.id, ctx.host);
    host.report(format_args!("d{domain}v{vcpu} crashed: {reason}"));
    registers(ctx);
    stack(ctx);
    ctx.domain.shutdown.enter(ShutdownReason::Crash.get() as u8);
}

fn registers(ctx: &CallCtx<'_>) {
    let (regs, host) = (&*ctx.regs, ctx.host);
    host.report(format_args!(
        "  rip {:04x}:{:016x}  rflags {:08x}  {:?} mode",
        regs.cs, regs.rip, regs.rflags, ctx.state.mode
    ));
    host.report(format_args!(
        "  rsp {:04x}:{:016x}  cr2 {:016x}  error code {:04x}",
        regs.ss,
        regs.rsp,
        ctx.state.privileged.cr2(),
        regs.error_code
    ));
    let lines = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
        [("rsi", regs.rsi), ("rdi", regs.rdi), ("rbp", regs.rbp), (" r8", regs.r8)],
        [(" r9", regs.r9), ("r10", regs.r10), ("r11", regs.r11), ("r12", regs.r12)],
        [("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15), (" fs", ctx.cpu.fs_base())],
    ];
    for [a, b, c, d] in lines {
        host.report(format_args!(
            "  {} {:016x}  {} {:016x}  {} {:016x}  {} {:016x}",
            a.0, a.1, b.0, b.1, c.0, c.1, d.0, d.1
        ));
    }
    let cr3 = ctx.state.root.start().get();
    host.report(format_args!(
        "  cr3 {cr3:016x}  gs {:016x}  kernel or user gs {:016x}",
        ctx.cpu.gs_base(),
        ctx.cpu.user_gs_base()
    ));
}

fn stack(ctx: &CallCtx<'_>) {
    ctx.host.report(format_args!("  stack:"));
    for line in (0..STACK_WORDS).step_by(4) {
        let at = ctx.regs.rsp.wrapping_add(line.wrapping_mul(8));
        match ctx.cpu.read_guest::<[u64; 4]>(GuestAddr::new(at)) {
            Ok([a, b, c, d]) => {
                ctx.host
                    .report(format_args!("    {a:016x} {b:016x} {c:016x} {d:016x}"));
            }
            Err(fault) => {
                ctx.host
                    .report(format_args!("    {} cannot be read", fault.at));
                return;
            }
        }
    }
}

/// The reason that an exception has no handler.
pub const fn unhandled(vector: Vector) -> CrashReason {
    CrashReason::Unhandled(Exception::new(vector, 0))
}
