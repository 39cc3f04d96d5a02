//! Faults inside the hypervisor: those that are foreseen, and the end.
//!
//! Foreseen are the instructions that [`fixup`] registers, each with the address to go on at, and the one `iretq`. There is
//! no other recovery: anything else is a bug of ours and panics.

use dom0_abi::arch::CpuUserRegs;

use super::cpu::Cpu;
use super::{entry, layout, per_cpu, smp};
use crate::registers::{ENTRY_RETURN, Notes};

/// Registers the label `$at` of an `asm!` block as an instruction that may fault, and `$then` as where to go on.
macro_rules! fixup {
    ($at:literal, $then:literal) => {
        concat!(
            ".pushsection .fixups, \"a\"\n.balign 8\n.quad ",
            $at,
            ", ",
            $then,
            "\n.popsection"
        )
    };
}
pub(super) use fixup;

/// What becomes of a fault inside the hypervisor.
pub(super) enum Resolution {
    /// Nothing foresaw it.
    Unexpected,
    /// Goes on where the interrupted registers now say.
    Resume,
    /// It was the return to a guest that faulted: [`failed_return`] finds the guest's registers.
    GuestReturn,
}

#[repr(C)]
struct Fixup {
    at: u64,
    then: u64,
}

unsafe extern "C" {
    static image_fixups_start: Fixup;
    static image_fixups_end: Fixup;
}

fn fixups() -> &'static [Fixup] {
    let (start, end) = (&raw const image_fixups_start, &raw const image_fixups_end);
    let count = (end as usize).saturating_sub(start as usize) / size_of::<Fixup>();
    // SAFETY: the linker script puts the two symbols around the section, which holds nothing but what `fixup!` emits.
    unsafe { core::slice::from_raw_parts(start, count) }
}

const DEBUG: u32 = 1;
pub(super) const NMI: u32 = 2;
const MACHINE_CHECK: u32 = 18;
/// #NP, #SS, #GP, #PF, #AC: all that `iretq` can raise.
const IRETQ_FAULTS: [u32; 5] = [11, 12, 13, 14, 17];

/// Resolves a fault whose registers are those of the hypervisor, if it was foreseen.
pub(super) fn in_hypervisor(cpu: &Cpu, regs: &mut CpuUserRegs) -> Resolution {
    match regs.entry_vector {
        // Held back by `mov ss`, or a guest's watchpoint on memory that we touch for it: nothing of ours.
        DEBUG => return Resolution::Resume,
        NMI => {
            smp::stop_if_asked();
            cpu.note(Notes::NMI);
            return Resolution::Resume;
        }
        MACHINE_CHECK => return Resolution::Unexpected,
        _ => {}
    }
    if regs.rip == entry::iretq_from_restore as *const () as u64
        && IRETQ_FAULTS.contains(&regs.entry_vector)
    {
        return Resolution::GuestReturn;
    }
    if let Some(fixup) = fixups().iter().find(|fixup| fixup.at == regs.rip) {
        regs.rip = fixup.then;
        return Resolution::Resume;
    }
    Resolution::Unexpected
}

/// The end after a fault of the hypervisor's own that nothing foresaw. Apart from the handler of exceptions, so that
/// `cargo xtask check` can tell this one panic from any other that a guest might reach.
#[cold]
#[inline(never)]
pub(super) fn unexpected(regs: &CpuUserRegs) -> ! {
    if regs.entry_vector == MACHINE_CHECK {
        panic!("machine check in the hypervisor\n{}", Registers(regs));
    }
    let address: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags))
    };
    panic!(
        "vector {} (error code {:#x}, cr2 {:#x}) in the hypervisor\n{}",
        regs.entry_vector,
        regs.error_code,
        address,
        Registers(regs)
    )
}

/// Puts a guest's registers together again whose `iretq` faulted, with the fault as their exception.
///
/// `restore_guest` had loaded the general registers, which are therefore in the fault's own frame; what `iretq` was to load is
/// still at the top of the stack. The two frames overlap, so both are read before anything is written, and by pointers: a
/// reference to one would promise that writing the other leaves it alone.
///
/// # Safety
///
/// `fault` must be the frame of a fault of [`entry::iretq_from_restore`] on this CPU, and nothing may refer to either frame.
pub(super) unsafe fn failed_return(fault: *const CpuUserRegs) -> *mut CpuUserRegs {
    const GUEST_REGS: u64 = layout::CPU_LOCAL_OFFSET - layout::GUEST_REGS_FROM_TOP;
    // The area is aligned to its size, in which the place lies.
    let guest = (per_cpu::current_area() | GUEST_REGS) as *mut CpuUserRegs;
    // SAFETY: `iretq` runs with its operands in this CPU's only place for a guest's registers; both frames are the caller's.
    unsafe {
        let (general, target) = (fault.read_volatile(), guest.read_volatile());
        guest.write_volatile(CpuUserRegs {
            r15: general.r15,
            r14: general.r14,
            r13: general.r13,
            r12: general.r12,
            rbp: general.rbp,
            rbx: general.rbx,
            r11: general.r11,
            r10: general.r10,
            r9: general.r9,
            r8: general.r8,
            rax: general.rax,
            rcx: general.rcx,
            rdx: general.rdx,
            rsi: general.rsi,
            rdi: general.rdi,
            error_code: general.error_code,
            entry_vector: general.entry_vector | ENTRY_RETURN,
            ..target
        });
    }
    guest
}

/// Prints registers as a panic shows them.
pub(super) struct Registers<'a>(pub(super) &'a CpuUserRegs);

impl core::fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let r = self.0;
        writeln!(f, "  rip {}", super::backtrace::Symbol(r.rip))?;
        writeln!(f, "  cs {:04x}  rflags {:016x}", r.cs, r.rflags)?;
        writeln!(f, "  rsp {:016x}  ss {:04x}", r.rsp, r.ss)?;
        writeln!(
            f,
            "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        writeln!(
            f,
            "  rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}",
            r.rsi, r.rdi, r.rbp, r.r8
        )?;
        writeln!(
            f,
            "  r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}",
            r.r9, r.r10, r.r11, r.r12
        )?;
        write!(
            f,
            "  r13 {:016x}  r14 {:016x}  r15 {:016x}",
            r.r13, r.r14, r.r15
        )
    }
}
