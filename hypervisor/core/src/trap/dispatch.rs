//! Exceptions of a guest: which are ours to handle, and which are its own.

use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::nmi::NmiReason;
use oxen_arch::registers::{ENTRY_RETURN, ENTRY_SYSCALL32};
use oxen_arch::{Cpu, PortWidth};

use super::Injection;
use super::crash::CrashReason;
use super::emulate;
use super::exception::{Exception, PageFaultCode, Vector};
use super::page_table_write;
use super::return_path::HostEnd;
use crate::descriptor;
use crate::domain::Capabilities;
use crate::domain::vcpu::{Callback, GuestMode};
use crate::host::Host;
use crate::hypercall::{self, CallCtx};

/// Why a guest does not go on after an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its domain ends.
    Domain(CrashReason),
    /// The host ends.
    Host(HostEnd),
}

/// The vector of page faults, as an entry without marks.
const PAGE_FAULT: u32 = Vector::PageFault.number() as u32;
/// Bytes of `int n`.
const INT_LENGTH: u64 = 2;
/// The vector that guests use for system calls by `int`, which has a gate of its own.
const SYSTEM_CALL: u8 = 0x80;
/// Bits of a selector error code: from outside the program, and of an entry of the interrupt table.
const CODE_EXTERNAL: u32 = 1 << 0;
const CODE_IDT: u32 = 1 << 1;

/// `syscall` of 64-bit code: a hypercall from kernel mode; from user mode nothing but the guest's own business (I17).
#[inline(always)]
pub fn syscall(ctx: &mut CallCtx<'_>) -> Option<Injection> {
    match ctx.vcpu.mode() {
        GuestMode::Kernel => {
            hypercall::from_registers(ctx);
            None
        }
        GuestMode::User => {
            let callback = ctx.state.callbacks.syscall;
            Some(user_syscall(ctx, callback))
        }
    }
}

/// Hands a `syscall` to the callback for it. Without one the instruction does not exist.
fn user_syscall(ctx: &mut CallCtx<'_>, callback: Callback) -> Injection {
    if callback.address == 0 {
        ctx.regs.rip = ctx
            .regs
            .rip
            .wrapping_sub(hypercall::continuation::SYSCALL_LENGTH);
        Injection::Exception(Exception::ud())
    } else {
        Injection::Syscall(callback)
    }
}

/// Handles the exception that guests cause all the time, a page fault of their own code: a write to a page table, which we
/// carry out, or the guest's own business. `None`: it is another one, which is left to [`exception`].
#[inline(always)]
pub fn page_fault(ctx: &mut CallCtx<'_>) -> Option<Result<(), Exception>> {
    // Not one that the CPU ran into by itself.
    if ctx.regs.entry_vector != PAGE_FAULT || ctx.regs.error_code & PageFaultCode::USER == 0 {
        return None;
    }
    Some(
        page_table_write::carry_out(ctx, ctx.cpu.fault_address())
            .unwrap_or_else(|| Err(own_page_fault(ctx))),
    )
}

/// Handles the exception that `entry_vector` names; returns what of it is left for the guest.
pub fn exception(ctx: &mut CallCtx<'_>) -> Result<Option<Injection>, Stop> {
    let number = ctx.regs.entry_vector & !ENTRY_RETURN;
    let is_of_return = ctx.regs.entry_vector & ENTRY_RETURN != 0;
    if number == ENTRY_SYSCALL32 {
        let callback = ctx.state.callbacks.syscall32;
        return Ok(Some(user_syscall(ctx, callback)));
    }
    if number == u32::from(SYSTEM_CALL) {
        return Ok(Some(system_call_gate(ctx)));
    }
    let vector = u8::try_from(number)
        .ok()
        .and_then(Vector::from_number)
        .ok_or(Stop::Domain(CrashReason::UnknownVector(number)))?;
    // The return loads selectors too.
    if vector == Vector::PageFault
        && let Some(handled) = descriptor::window_fault(ctx)
    {
        return Ok(handled.err().map(Injection::Exception));
    }
    let injected = match vector {
        // The guest has executed nothing, so there is nothing to emulate: doing so would keep a guest with registers that
        // cannot be loaded in here for as long as it likes.
        _ if is_of_return => Some(Exception::new(vector, ctx.regs.error_code)),
        Vector::GeneralProtection => return Ok(general_protection(ctx)),
        Vector::InvalidOpcode => emulate(ctx),
        // Of the CPU's own making: no write of the guest's.
        Vector::PageFault => Some(own_page_fault(ctx)),
        Vector::Debug => Some(debug(ctx)),
        Vector::DeviceNotAvailable => device_not_available(ctx),
        Vector::Nmi => {
            nmi(ctx.host, ctx.cpu);
            None
        }
        Vector::DoubleFault => return Err(Stop::Domain(CrashReason::DoubleFault)),
        Vector::MachineCheck => return Err(Stop::Host(HostEnd::MachineCheck)),
        _ => Some(Exception::new(vector, ctx.regs.error_code)),
    };
    Ok(injected.map(Injection::Exception))
}

/// `int n` of a vector whose gate the CPU keeps closed, an instruction that we emulate, or the guest's own fault.
fn general_protection(ctx: &mut CallCtx<'_>) -> Option<Injection> {
    let code = ctx.regs.error_code;
    if code & (CODE_EXTERNAL | CODE_IDT) == CODE_IDT {
        // The vector is in bits 3 to 10.
        let vector = (code >> 3) as u8;
        if may_interrupt(ctx, vector) {
            ctx.regs.rip = ctx.regs.rip.wrapping_add(INT_LENGTH);
            return Some(Injection::SoftInterrupt(vector));
        }
    }
    let injected = if code == 0 {
        emulate(ctx)
    } else {
        Some(Exception::gp(code))
    };
    injected.map(Injection::Exception)
}

/// `int 0x80`, which does not fault: every mode may use it, whatever level the table says, once there is an entry for it.
fn system_call_gate(ctx: &mut CallCtx<'_>) -> Injection {
    if ctx.state.traps.get(SYSTEM_CALL).address != 0 {
        Injection::SoftInterrupt(SYSTEM_CALL)
    } else {
        ctx.regs.rip = ctx.regs.rip.wrapping_sub(INT_LENGTH);
        Injection::Exception(Exception::gp((u32::from(SYSTEM_CALL) << 3) | CODE_IDT))
    }
}

/// Carries out an instruction that trapped, or says which exception the guest gets.
fn emulate(ctx: &mut CallCtx<'_>) -> Option<Exception> {
    let guest = emulate::Guest {
        mode: match ctx.vcpu.mode() {
            GuestMode::Kernel => emulate::Mode::Kernel,
            GuestMode::User => emulate::Mode::User,
        },
        has_64bit_code: ctx.state.tables.is_64bit_code(ctx.host.mem(), ctx.regs.cs),
        root: ctx.state.kernel_root().unwrap_or_default(),
        vcpu: ctx.vcpu.id,
        is_dom0: ctx.domain.capabilities.contains(Capabilities::HARDWARE),
        cpuid: &ctx.host.cpuid,
        msrs: &ctx.host.msrs,
        ports: &ctx.domain.ports,
    };
    emulate::emulate(ctx.cpu, &guest, &mut ctx.state.privileged, ctx.regs).err()
}

/// Whether the guest's table lets its current mode reach a vector by `int`. A kernel counts as level 1: level 0 is nobody.
fn may_interrupt(ctx: &CallCtx<'_>, vector: u8) -> bool {
    let level = match ctx.vcpu.mode() {
        GuestMode::Kernel => 1,
        GuestMode::User => 3,
    };
    ctx.state.traps.get(vector).dpl() >= level
}

fn own_page_fault(ctx: &CallCtx<'_>) -> Exception {
    Exception::pf(ctx.cpu.fault_address(), page_fault_code(ctx))
}

/// The error code of a page fault as the guest sees it. What the CPU calls user mode is, for the guest, its kernel too.
pub(crate) fn page_fault_code(ctx: &CallCtx<'_>) -> u32 {
    let hardware = ctx.regs.error_code & !PageFaultCode::USER;
    let mode = match ctx.vcpu.mode() {
        GuestMode::Kernel => 0,
        GuestMode::User => PageFaultCode::USER,
    };
    hardware | mode
}

/// A breakpoint register or a single step: DR6 says which, and the guest reads it by hypercall.
fn debug(ctx: &mut CallCtx<'_>) -> Exception {
    let status = ctx.cpu.read_dr6();
    ctx.state.privileged.record_debug_status(status);
    Exception::db()
}

/// An FPU instruction while CR0.TS is set, which only the guest can have set: FPU registers are always its own. Delivery
/// clears the flag. ABI: `public/arch-x86/xen.h`, `__HYPERVISOR_fpu_taskswitch`.
fn device_not_available(ctx: &mut CallCtx<'_>) -> Option<Exception> {
    let was_set = ctx.state.privileged.task_switched();
    ctx.state.privileged.set_task_switched(false);
    ctx.cpu.set_task_switched(false);
    was_set.then(Exception::nm)
}

/// Port and bits by which a PC tells why it raised an NMI, and by which the cause is switched off.
const NMI_STATUS: u16 = 0x61;
const NMI_SYSTEM_ERROR: u32 = 1 << 7;
const NMI_IO_CHECK: u32 = 1 << 6;
const NMI_WRITABLE: u32 = 0x0f;
const NMI_SYSTEM_ERROR_OFF: u32 = 1 << 2;
const NMI_IO_CHECK_OFF: u32 = 1 << 3;

/// Hands an NMI of the hardware to the domain that owns the hardware. Takes no lock, so it may come at any instruction.
pub fn nmi(host: &Host, cpu: &Cpu) {
    let status = cpu.port_in(NMI_STATUS, PortWidth::Byte);
    let (reason, off) = if status & NMI_SYSTEM_ERROR != 0 {
        (NmiReason::PCI_SERR, NMI_SYSTEM_ERROR_OFF)
    } else if status & NMI_IO_CHECK != 0 {
        (NmiReason::IO_ERROR, NMI_IO_CHECK_OFF)
    } else {
        (NmiReason::UNKNOWN, 0)
    };
    if off != 0 {
        cpu.port_out(NMI_STATUS, PortWidth::Byte, (status & NMI_WRITABLE) | off);
    }
    let Some(owner) = host.domains.get(DomId::DOM0) else {
        return;
    };
    if !owner.capabilities.contains(Capabilities::HARDWARE) {
        return;
    }
    if let Some(vcpu) = owner.vcpu(VcpuId::new(0)) {
        // The reason is a hint; without it the NMI is delivered all the same.
        let _ = owner.add_nmi_reason(host.mem(), reason.bits());
        vcpu.signals.send_nmi();
    }
}
