//! The end of a domain that cannot go on: why, and what the administrator gets to see of it.

use core::fmt;

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::sched::ShutdownReason;
use oxen_arch::memory::BadFrame;

use super::exception::Exception;
use crate::console::Out;
use crate::error;
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
    let (domain, vcpu) = (ctx.domain.id, ctx.vcpu.id);
    error!(ctx.host.out(ctx.cpu), "d{domain}v{vcpu} crashed: {reason}");
    registers(ctx);
    stack(ctx);
    let reason = ShutdownReason::Crash.get() as u8;
    ctx.host.shut_down(ctx.cpu, ctx.domain, reason);
}

fn registers(ctx: &CallCtx<'_>) {
    let out = ctx.host.out(ctx.cpu);
    show_registers(out, ctx.regs);
    error!(
        out,
        "  {:?} mode  cr2 {:016x}  cr3 {:016x}",
        ctx.vcpu.mode(),
        ctx.state.privileged.cr2(),
        ctx.state.kernel_root().unwrap_or_default().start().get()
    );
    error!(
        out,
        "  fs {:016x}  gs {:016x}  other gs {:016x}",
        ctx.cpu.fs_base(),
        ctx.cpu.gs_base(),
        ctx.cpu.user_gs_base()
    );
}

/// Shows the registers of a guest.
pub fn show_registers(out: Out<'_>, regs: &CpuUserRegs) {
    error!(
        out,
        "  rip {:04x}:{:016x}  rsp {:04x}:{:016x}  rflags {:08x}",
        regs.cs,
        regs.rip,
        regs.ss,
        regs.rsp,
        regs.rflags
    );
    error!(
        out,
        "  entered by {:#x}, error code {:04x}", regs.entry_vector, regs.error_code
    );
    let lines = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx)],
        [("rdx", regs.rdx), ("rsi", regs.rsi), ("rdi", regs.rdi)],
        [("rbp", regs.rbp), (" r8", regs.r8), (" r9", regs.r9)],
        [("r10", regs.r10), ("r11", regs.r11), ("r12", regs.r12)],
        [("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
    ];
    for [(a, a_value), (b, b_value), (c, c_value)] in lines {
        error!(
            out,
            "  {a} {a_value:016x}  {b} {b_value:016x}  {c} {c_value:016x}"
        );
    }
}

fn stack(ctx: &CallCtx<'_>) {
    let out = ctx.host.out(ctx.cpu);
    for line in (0..STACK_WORDS).step_by(4) {
        let at = ctx.regs.rsp.wrapping_add(line.wrapping_mul(8));
        match ctx.cpu.read_guest::<[u64; 4]>(GuestAddr::new(at)) {
            Ok([a, b, c, d]) => error!(
                out,
                "  stack {at:016x}: {a:016x} {b:016x} {c:016x} {d:016x}"
            ),
            Err(fault) => {
                error!(out, "  stack {at:016x}: {} cannot be read", fault.at);
                return;
            }
        }
    }
}
