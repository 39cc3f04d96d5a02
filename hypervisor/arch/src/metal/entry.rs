//! The ways into the hypervisor and out again.
//!
//! Every entry leaves the interrupted registers, in the layout of the ABI's `cpu_user_regs`, on the CPU's main stack, calls
//! one function of the image and goes back through [`restore_guest`]. A hypercall that needs no more of them than its arguments is
//! spared most of that (`syscall_entry`). Registers of a guest always lie at the same place, the
//! very top of that stack: a guest that enters has the whole stack for itself, since nothing of ours is ever left there.
//!
//! INVARIANT: the CPU's record is found from the stack pointer (`per_cpu`), never through GS: the base of GS is the guest's
//! from end to end. Only the SYSCALL stub, which arrives on the guest's stack, borrows it for three instructions.
//!
//! Registers take 168 bytes below a multiple of 16, so the stubs leave eight more before they call Rust. Without those that Rust
//! preserves, and one more, they take 112.
//!
//! INVARIANT: while a twin is loaded (`twin`), nothing is touched but what it maps: the stubs and `restore_guest`, the stacks of the
//! interrupt stack table, the last page of the main stack, the CPU's record, the descriptor tables.
//!
//! INVARIANT: #DB, NMI, #MC and #DF arrive on stacks of their own (XSA-260: a #DB held back by `mov ss` is taken on the
//! first instruction of the SYSCALL stub, still on the guest's stack). Coming from a guest they move to the main stack
//! at once; coming from the hypervisor they stay and return there.
//!
//! A guest's rbp ends the chain of frames: the stubs clear it before they call Rust. Only a hypercall at once is made with it, and what
//! is in a chain that it continues means nothing; whoever walks one stays within the stack (`backtrace`).

use core::arch::{asm, naked_asm};

use dom0_abi::arch::{CpuUserRegs, FLAT_CS32, FLAT_CS64, FLAT_SS};

use super::cpu::{self, Cpu};
use super::{fault, interrupt, layout, per_cpu, smp};
use crate::interrupts::Interrupt;
use crate::registers::{Attempt, ENTRY_SYSCALL, ENTRY_SYSCALL32, FORCED_FLAGS, GUEST_FLAGS};

/// What the image does on each kind of entry.
pub trait Handlers: 'static {
    /// The numbers (rax) for which [`Self::hypercall_at_once`] is worth trying, one bit for each. Of a number the lowest six bits are
    /// looked at.
    const STRAIGHT: u64;
    /// SYSCALL from 64-bit code of a guest, if all that it does is to take a number (rax) and arguments (rdi, rsi, rdx, r10) and to
    /// bring a result (rax). [`Attempt::NOTHING`]: it may be more; nothing was done, and [`Self::hypercall`] comes next. If it is not settled
    /// [`Self::rest_of_hypercall`] comes next.
    fn hypercall_at_once(cpu: &Cpu, number: u64, arguments: [u64; 4]) -> Attempt;
    /// What is left of SYSCALL, with its result in the registers.
    fn rest_of_hypercall(cpu: &Cpu, regs: &mut CpuUserRegs);
    /// SYSCALL from 64-bit code of a guest.
    fn hypercall(cpu: &Cpu, regs: &mut CpuUserRegs);
    /// An exception, a software interrupt or SYSCALL from 32-bit code ([`ENTRY_SYSCALL32`]) of a guest; which one is in
    /// `regs.entry_vector`.
    fn exception(cpu: &Cpu, regs: &mut CpuUserRegs);
    /// A device has interrupted, as this vector. The interrupt ends when this returns: a line that is held would come again then,
    /// unless it is closed. [`Self::interrupt`] comes next.
    fn device(cpu: &Cpu, vector: u8);
    /// A device, another CPU, the CPU's own timer. `regs` are those of the guest it interrupted, none if the CPU was idle. The
    /// interrupt has been ended.
    fn interrupt(cpu: &Cpu, regs: Option<&mut CpuUserRegs>, what: Interrupt);
    /// What a CPU does that has been started and has no work yet. The first CPU may not have got further than that.
    fn idle(cpu: &Cpu) -> !;
}

/// Flags that SYSRET does not load like `iretq`: it drops RF, and with TF it traps before the guest's first instruction, for
/// ever if that trap returns this way too.
const NOT_BY_SYSRET: u64 = 1 << 8 | 1 << 16;
/// The flags that must be those of [`FORCED_FLAGS`] for SYSRET: all that are not the guest's, and those.
const SYSRET_CHECKS: u32 = (!GUEST_FLAGS | NOT_BY_SYSRET) as u32;

/// Bytes from the start of the registers to the slot of RIP, which is where `iretq` starts to read.
const RIP: usize = core::mem::offset_of!(CpuUserRegs, rip);
const CS: usize = core::mem::offset_of!(CpuUserRegs, cs);
const RFLAGS: usize = core::mem::offset_of!(CpuUserRegs, rflags);
const RSP: usize = core::mem::offset_of!(CpuUserRegs, rsp);
const SS: usize = core::mem::offset_of!(CpuUserRegs, ss);
const RAX: usize = core::mem::offset_of!(CpuUserRegs, rax);
const ENTRY_VECTOR: usize = core::mem::offset_of!(CpuUserRegs, entry_vector);
/// Bytes from the start of the registers to the first of those that [`pop_last_registers`] loads.
const LAST_REGISTERS: usize = core::mem::offset_of!(CpuUserRegs, rdx);
/// Bytes of the registers that the straight way leaves where they are: those that Rust preserves, and r11.
const MISSING: usize = core::mem::offset_of!(CpuUserRegs, r10);
/// Bytes from the start of a guest's registers, in their place, to the roots in the CPU's record.
const ENTRY_ROOT: usize = layout::GUEST_REGS_FROM_TOP as usize + per_cpu::ENTRY_ROOT;
const EXIT_ROOT: usize = layout::GUEST_REGS_FROM_TOP as usize + per_cpu::EXIT_ROOT;
/// The same to the count of CR3 loads.
#[cfg(feature = "counters")]
const CR3_WRITES: usize = layout::GUEST_REGS_FROM_TOP as usize + per_cpu::CR3_WRITES;
/// What the CPU and the stubs push: everything up to the data selectors.
const PUSHED: usize = core::mem::offset_of!(CpuUserRegs, es);

/// Pushes what Rust does not preserve, but for r11, which comes next.
macro_rules! push_scratch_registers {
    () => {
        "
        push rdi
        push rsi
        push rdx
        push rcx
        push rax
        push r8
        push r9
        push r10
        "
    };
}

/// Pushes what Rust preserves, behind r11.
macro_rules! push_preserved_registers {
    () => {
        "
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        "
    };
}

macro_rules! push_registers {
    () => {
        concat!(
            push_scratch_registers!(),
            "push r11",
            push_preserved_registers!()
        )
    };
}

macro_rules! pop_first_registers {
    () => {
        "
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        pop r11
        pop r10
        pop r9
        pop r8
        pop rax
        pop rcx
        "
    };
}

macro_rules! pop_last_registers {
    () => {
        "
        pop rdx
        pop rsi
        pop rdi
        "
    };
}

/// Goes on with the hypervisor's own root, if the guest ran on a twin (`twin`). In: rsp at the guest's registers, in their
/// place, and all of them saved. What is seldom done is [`load_own_root`], out of the way.
macro_rules! enter_own_root {
    () => {
        enter_own_root!("0")
    };
    ($missing:literal) => {
        concat!(
            "cmp qword ptr [rsp + {entry_root} - ",
            $missing,
            "], 0
        jne 7f
        8:
        "
        )
    };
}

/// Counts a load of CR3, in a bench build.
#[cfg(feature = "counters")]
macro_rules! count_cr3_write {
    ($missing:literal) => {
        concat!("inc qword ptr [rsp + {cr3_writes} - ", $missing, "]")
    };
}
#[cfg(not(feature = "counters"))]
macro_rules! count_cr3_write {
    ($missing:literal) => {
        ""
    };
}

/// The rest of [`enter_own_root`], behind what never comes here.
macro_rules! load_own_root {
    () => {
        load_own_root!("0")
    };
    ($missing:literal) => {
        concat!(
            "
        7:
        mov rax, [rsp + {entry_root} - ",
            $missing,
            "]
        mov cr3, rax
        ",
            count_cr3_write!($missing),
            "
        jmp 8b
        "
        )
    };
}

/// The beginning of a SYSCALL stub: all registers but those that Rust preserves, and r11, which has the flags.
///
/// In: the guest's registers, RIP in rcx, RFLAGS in r11, the guest's stack; flags masked by FMASK. The CPU reports neither
/// CS nor SS: they are the flat ones by definition of the ABI.
macro_rules! syscall_begins {
    () => {
        concat!(
            "
        swapgs
        mov gs:[{scratch}], rsp
        mov rsp, gs:[{regs_end}]
        push {ss}
        push qword ptr gs:[{scratch}]
        swapgs
        push r11
        push {cs}
        push rcx
        push 0
        mov dword ptr [rsp + 4], {vector}
        ",
            push_scratch_registers!()
        )
    };
}

/// Completes registers that a SYSCALL stub has begun: r11, and what Rust preserves.
macro_rules! push_missing_registers {
    () => {
        concat!(
            "push [rsp + {rflags} - {missing}]",
            push_preserved_registers!()
        )
    };
}

/// Goes on at a label if SYSRET would not load rip and flags of a guest as `iretq` does: with TF, RF or flags that are not a guest's,
/// or a RIP that is not canonical (XSA-7: it would fault in ring 0, on the guest's stack). In: both where SYSRET takes them from,
/// rcx and r11. Takes rdx.
macro_rules! jump_unless_for_sysret {
    ($else:literal) => {
        concat!(
            // None of the flags that are checked is left, if those that are forced were set: they were no others' to borrow from.
            "lea edx, [r11 - {forced}]
        test edx, {checked}
        jne ",
            $else,
            "
        ",
            // Counted from where the upper half begins, past the last address to 0, canonical ones are the first 2^48.
            "mov rdx, {half}
        add rdx, rcx
        shr rdx, 48
        jne ",
            $else
        )
    };
}

/// Goes back to the guest by SYSRET. In: rsp at the slot of rdx, all other registers loaded.
macro_rules! sysret {
    () => {
        concat!(
            pop_last_registers!(),
            // rsp is at error code and vector; the stack pointer is the last register to load.
            "mov rsp, [rsp + {rsp_from_code}]
        sysretq"
        )
    };
}

/// SYSCALL from 64-bit code. First the straight way, on which nothing is saved that Rust preserves, and the guest goes on as
/// [`restore_guest`] would let it; then the general one.
// SAFETY: only ever reached through LSTAR, which `machine` loads; touches nothing of the guest's but its registers. What it leaves
// for the guest with are the registers that came, rax aside: those that Rust preserves have been preserved.
#[unsafe(naked)]
pub(super) extern "C" fn syscall_entry<H: Handlers>() {
    naked_asm!(
        syscall_begins!(),
        "mov rcx, rax",
        enter_own_root!("{missing}"),
        "mov rax, {straight}",
        "bt rax, rcx",
        "jnc 2f",
        "lea r8, [rsp + {cpu} - {missing}]",
        "mov r9, r10",
        "call {at_once}",
        // 0: nothing was done, 1: it is done, 2: there is more to see to.
        "dec edx",
        "jnz 5f",
        "cmp qword ptr [rsp + {exit_root} - {missing}], 0",
        "jne 3f",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rcx",
        // As in `restore_guest`; rsp is at the slot of rdx.
        "mov r11, [rsp + {rflags} - {last}]",
        jump_unless_for_sysret!("4f"),
        sysret!(),
        // The general way, from the beginning.
        "2:",
        push_missing_registers!(),
        "mov rdi, rsp",
        "xor ebp, ebp",
        "sub rsp, 8",
        "call {handler}",
        "5:",
        "js 2b",
        // The end of the general way, for what is done.
        "mov [rsp + {rax} - {missing}], rax",
        push_missing_registers!(),
        "mov rdi, rsp",
        "xor ebp, ebp",
        "sub rsp, 8",
        "call {rest}",
        // It is done, but the way back is another one: the registers are completed for that.
        "4:",
        "push rcx",
        "push rax",
        "push r8",
        "push r9",
        "push r10",
        "3:",
        "mov [rsp + {rax} - {missing}], rax",
        push_missing_registers!(),
        "jmp {restore}",
        load_own_root!("{missing}"),
        entry_root = const ENTRY_ROOT,
        exit_root = const EXIT_ROOT,
        #[cfg(feature = "counters")]
        cr3_writes = const CR3_WRITES,
        scratch = const per_cpu::SCRATCH,
        regs_end = const per_cpu::GUEST_REGS_END,
        ss = const FLAT_SS,
        cs = const FLAT_CS64,
        vector = const ENTRY_SYSCALL,
        straight = const H::STRAIGHT,
        missing = const MISSING,
        last = const LAST_REGISTERS,
        cpu = const layout::GUEST_REGS_FROM_TOP,
        rax = const RAX,
        rflags = const RFLAGS,
        checked = const SYSRET_CHECKS,
        half = const 1_u64 << 47,
        forced = const FORCED_FLAGS,
        rsp_from_code = const RSP - (RIP - 8),
        at_once = sym on_hypercall_at_once::<H>,
        handler = sym on_hypercall::<H>,
        rest = sym on_rest_of_hypercall::<H>,
        restore = sym restore_guest,
    )
}

/// SYSCALL from 32-bit code.
// SAFETY: only ever reached through CSTAR; touches nothing of the guest's but its registers.
#[unsafe(naked)]
pub(super) extern "C" fn syscall32_entry<H: Handlers>() {
    naked_asm!(
        syscall_begins!(),
        "push r11",
        push_preserved_registers!(),
        enter_own_root!(),
        "mov rdi, rsp",
        "xor ebp, ebp",
        "sub rsp, 8",
        "call {handler}",
        load_own_root!(),
        entry_root = const ENTRY_ROOT,
        #[cfg(feature = "counters")]
        cr3_writes = const CR3_WRITES,
        scratch = const per_cpu::SCRATCH,
        regs_end = const per_cpu::GUEST_REGS_END,
        ss = const FLAT_SS,
        cs = const FLAT_CS32,
        vector = const ENTRY_SYSCALL32,
        handler = sym on_guest_exception::<H>,
    )
}

/// An exception without an error code, or an interrupt: pushes a zero in its place.
// SAFETY: only ever reached through the IDT.
#[unsafe(naked)]
pub(super) extern "C" fn vector_entry<H: Handlers, const VECTOR: u8>() {
    naked_asm!(
        "push 0",
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {common}",
        vector = const VECTOR as u32,
        common = sym exception_common::<H>,
    )
}

/// An exception for which the CPU pushes an error code.
// SAFETY: only ever reached through the IDT.
#[unsafe(naked)]
pub(super) extern "C" fn vector_entry_with_code<H: Handlers, const VECTOR: u8>() {
    naked_asm!(
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {common}",
        vector = const VECTOR as u32,
        common = sym exception_common::<H>,
    )
}

/// An exception that arrives on a stack of its own.
// SAFETY: only ever reached through the IDT.
#[unsafe(naked)]
pub(super) extern "C" fn ist_entry<H: Handlers, const VECTOR: u8>() {
    naked_asm!(
        "push 0",
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {common}",
        vector = const VECTOR as u32,
        common = sym ist_common::<H>,
    )
}

/// The double fault: as [`ist_entry`], with the CPU's error code.
// SAFETY: only ever reached through the IDT.
#[unsafe(naked)]
pub(super) extern "C" fn ist_entry_with_code<H: Handlers, const VECTOR: u8>() {
    naked_asm!(
        "mov dword ptr [rsp + 4], {vector}",
        "jmp {common}",
        vector = const VECTOR as u32,
        common = sym ist_common::<H>,
    )
}

// SAFETY: only ever jumped to by the stubs above, with vector and error code pushed.
#[unsafe(naked)]
extern "C" fn exception_common<H: Handlers>() {
    naked_asm!(
        push_registers!(),
        "cld",
        "test byte ptr [rsp + {cs}], 3",
        "jz {own}",
        enter_own_root!(),
        // A guest's rbp ends the chain of frames; our own goes on.
        "xor ebp, ebp",
        "mov rdi, rsp",
        "sub rsp, 8",
        "call {handler}",
        load_own_root!(),
        cs = const CS,
        own = sym from_hypervisor::<H>,
        entry_root = const ENTRY_ROOT,
        #[cfg(feature = "counters")]
        cr3_writes = const CR3_WRITES,
        handler = sym on_guest_exception::<H>,
    )
}

/// An exception in the hypervisor, and the way back to where it was. It may have hit the stubs while a twin was loaded: then the
/// other root is loaded until it goes on there.
// SAFETY: only ever jumped to by the two around it, with complete registers of the hypervisor at rsp.
#[unsafe(naked)]
extern "C" fn from_hypervisor<H: Handlers>() {
    naked_asm!(
        "mov rdi, rsp",
        "mov rcx, rsp",
        "and rcx, {area}",
        "mov rax, cr3",
        "xor edx, edx",
        "cmp rax, [rcx + {exit_root}]",
        "jne 2f",
        "mov rdx, rax",
        "mov rax, [rcx + {entry_root}]",
        "mov cr3, rax",
        "2:",
        // The twin, or 0.
        "push rdx",
        "call {handler}",
        "pop rcx",
        // Other registers than those that came are a guest's, whose return faulted: an exception like any other.
        "cmp rax, rsp",
        "jne 4f",
        "test rcx, rcx",
        "jz 3f",
        "mov cr3, rcx",
        "3:",
        pop_first_registers!(),
        pop_last_registers!(),
        "add rsp, 8",
        "iretq",
        "4:",
        "mov rdi, rax",
        "lea rsp, [rax - 8]",
        "xor ebp, ebp",
        "call {guest}",
        area = const -(layout::PER_CPU_STRIDE as i64),
        entry_root = const layout::CPU_LOCAL_OFFSET as usize + per_cpu::ENTRY_ROOT,
        exit_root = const layout::CPU_LOCAL_OFFSET as usize + per_cpu::EXIT_ROOT,
        handler = sym on_own_exception::<H>,
        guest = sym on_guest_exception::<H>,
    )
}

// SAFETY: only ever jumped to by the stubs above, on one of the IST stacks, with vector and error code pushed.
#[unsafe(naked)]
extern "C" fn ist_common<H: Handlers>() {
    naked_asm!(
        push_registers!(),
        "cld",
        "test byte ptr [rsp + {cs}], 3",
        "jz 2f",
        // From a guest: on to the main stack, where a guest's registers belong.
        "mov rsi, rsp",
        "mov rdi, rsp",
        "and rdi, {area}",
        "add rdi, {regs}",
        "mov rsp, rdi",
        "mov ecx, {words}",
        "rep movsq",
        enter_own_root!(),
        "mov rdi, rsp",
        "xor ebp, ebp",
        "sub rsp, 8",
        "call {handler}",
        load_own_root!(),
        "2:",
        // It may have hit a stub, with a guest's rbp.
        "xor ebp, ebp",
        "jmp {own}",
        cs = const CS,
        own = sym from_hypervisor::<H>,
        entry_root = const ENTRY_ROOT,
        #[cfg(feature = "counters")]
        cr3_writes = const CR3_WRITES,
        area = const -(layout::PER_CPU_STRIDE as i64),
        regs = const layout::CPU_LOCAL_OFFSET - layout::GUEST_REGS_FROM_TOP,
        words = const PUSHED / 8,
        handler = sym on_guest_ist_exception::<H>,
    )
}

/// The way out to a guest, but for the short one of [`syscall_entry`]. The twin of its root is loaded first, if there is one; what follows touches nothing but this
/// text and the end of the main stack.
///
/// INVARIANT (I24): whatever a handler left in the registers, selectors are of ring 3 and flags are a guest's: SYSRET is taken only
/// if they are, and before `iretq` they are forced.
///
/// SYSRET is taken when it has the same effect as `iretq`: registers that came by SYSCALL (an NMI is over for the CPU only
/// with `iretq`), rcx and r11 as SYSRET wants them and fit for it, flat selectors.
///
/// `iretq` may fault, on selectors that the guest chose; the fault finds [`iretq_from_restore`] and is delivered to the
/// guest.
// SAFETY: jumped to with rsp at complete registers in the place of a guest's.
#[unsafe(naked)]
extern "C" fn restore_guest() {
    naked_asm!(
        "cmp qword ptr [rsp + {exit_root}], 0",
        "jne 4f",
        "2:",
        pop_first_registers!(),
        // From here on rsp is at the slot of rdx, which is free.
        "cmp dword ptr [rsp + {vector}], {syscall}",
        "jne 3f",
        "cmp rcx, [rsp + {rip}]",
        "jne 3f",
        "cmp r11, [rsp + {rflags}]",
        "jne 3f",
        "cmp word ptr [rsp + {cs}], {guest_cs}",
        "jne 3f",
        "cmp word ptr [rsp + {ss}], {guest_ss}",
        "jne 3f",
        jump_unless_for_sysret!("3f"),
        sysret!(),
        "3:",
        "and qword ptr [rsp + {rflags}], {own}",
        "or qword ptr [rsp + {rflags}], {forced}",
        "or byte ptr [rsp + {cs}], 3",
        "or byte ptr [rsp + {ss}], 3",
        pop_last_registers!(),
        "add rsp, 8",
        "jmp {iretq}",
        "4:",
        "mov rax, [rsp + {exit_root}]",
        "mov cr3, rax",
        count_cr3_write!("0"),
        "jmp 2b",
        exit_root = const EXIT_ROOT,
        #[cfg(feature = "counters")]
        cr3_writes = const CR3_WRITES,
        vector = const ENTRY_VECTOR - LAST_REGISTERS,
        syscall = const ENTRY_SYSCALL,
        rip = const RIP - LAST_REGISTERS,
        rflags = const RFLAGS - LAST_REGISTERS,
        cs = const CS - LAST_REGISTERS,
        ss = const SS - LAST_REGISTERS,
        checked = const SYSRET_CHECKS,
        half = const 1_u64 << 47,
        own = const GUEST_FLAGS,
        forced = const FORCED_FLAGS,
        guest_cs = const FLAT_CS64,
        guest_ss = const FLAT_SS,
        rsp_from_code = const RSP - (RIP - 8),
        iretq = sym iretq_from_restore,
    )
}

/// The `iretq` to guests, alone, so that a fault there is known by its address.
// SAFETY: as `restore_guest`.
#[unsafe(naked)]
pub(super) extern "C" fn iretq_from_restore() {
    naked_asm!("iretq")
}

/// Starts a guest: loads `regs` and never comes back.
// SAFETY (of callers): `regs` are at the top of this CPU's main stack and complete.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn enter_guest(regs: *mut CpuUserRegs) -> ! {
    naked_asm!("mov rsp, rdi", "jmp {restore}", restore = sym restore_guest)
}

/// Goes on with `next(argument)` on another stack.
// SAFETY (of callers): `top` is the end of a mapped, unused stack.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn switch_stack(
    top: u64,
    next: extern "C" fn(usize) -> !,
    argument: usize,
) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "xor ebp, ebp",
        "mov rdi, rdx",
        "call rsi",
        "ud2"
    )
}

/// Hands SYSCALL on, as it came. What it has come to is for [`syscall_entry`], in rax and rdx.
extern "C" fn on_hypercall_at_once<H: Handlers>(
    a: u64,
    b: u64,
    c: u64,
    number: u64,
    cpu: &Cpu,
    d: u64,
) -> Attempt {
    H::hypercall_at_once(cpu, number, [a, b, c, d])
}

/// Hands SYSCALL on, and goes back to the guest.
extern "C" fn on_hypercall<H: Handlers>(regs: *mut CpuUserRegs) -> ! {
    // SAFETY: the stub has just written these registers, at the top of this CPU's main stack, and nobody else refers to
    // them while the CPU is in the hypervisor.
    let (cpu, interrupted) = unsafe { (Cpu::of_guest(regs), &mut *regs) };
    H::hypercall(cpu, interrupted);
    // SAFETY: they are complete and in their place, and not used again.
    unsafe { leave_for_guest(regs) }
}

/// Hands the rest of SYSCALL on, and goes back to the guest.
extern "C" fn on_rest_of_hypercall<H: Handlers>(regs: *mut CpuUserRegs) -> ! {
    // SAFETY: as in `on_hypercall`.
    let (cpu, interrupted) = unsafe { (Cpu::of_guest(regs), &mut *regs) };
    H::rest_of_hypercall(cpu, interrupted);
    // SAFETY: as in `on_hypercall`.
    unsafe { leave_for_guest(regs) }
}

/// Sorts what came through the IDT from a guest, or by SYSCALL from its 32-bit code, and goes back to the guest.
extern "C" fn on_guest_exception<H: Handlers>(regs: *mut CpuUserRegs) -> ! {
    // A guest may have set AC.
    cpu::close_guest_memory();
    // SAFETY: as in `on_hypercall`.
    let (cpu, interrupted) = unsafe { (Cpu::of_guest(regs), &mut *regs) };
    let vector = interrupted.entry_vector;
    if vector == PAGE_FAULT {
        cpu.note_fault_address();
    }
    if vector != PAGE_FAULT && is_interrupt(vector) {
        interrupt::arrived::<H>(cpu, Some(interrupted), vector as u8);
    } else {
        H::exception(cpu, interrupted);
    }
    // SAFETY: as in `on_hypercall`.
    unsafe { leave_for_guest(regs) }
}

/// The same for what arrives on a stack of its own: an NMI may say that this CPU is to stop.
extern "C" fn on_guest_ist_exception<H: Handlers>(regs: *mut CpuUserRegs) -> ! {
    // SAFETY: as in `on_hypercall`.
    if unsafe { (*regs).entry_vector } == fault::NMI {
        smp::stop_if_asked();
    }
    on_guest_exception::<H>(regs)
}

/// Sorts what came through the IDT in the hypervisor; returns the registers to go on with.
extern "C" fn on_own_exception<H: Handlers>(regs: *mut CpuUserRegs) -> *mut CpuUserRegs {
    // It may have interrupted a copy, or the first instructions after a guest.
    cpu::close_guest_memory();
    let cpu = Cpu::current();
    // SAFETY: the stub has just written these registers, below everything in use on the stack.
    let interrupted = unsafe { &mut *regs };
    let vector = interrupted.entry_vector;
    if is_interrupt(vector) {
        interrupt::arrived::<H>(cpu, None, vector as u8);
        return regs;
    }
    match fault::in_hypervisor(cpu, interrupted) {
        fault::Resolution::Resume => regs,
        fault::Resolution::Unexpected => fault::unexpected(interrupted),
        fault::Resolution::GuestReturn => {
            if vector == PAGE_FAULT {
                cpu.note_fault_address();
            }
            // SAFETY: `in_hypervisor` has recognised the fault; `interrupted` is not used again.
            unsafe { fault::failed_return(regs) }
        }
    }
}

const PAGE_FAULT: u32 = 14;

/// Whether a vector is a device's or another CPU's: 0x80 is the one gate above the exceptions that a guest may call.
const fn is_interrupt(vector: u32) -> bool {
    matches!(vector, 32..=0x7f | 0x81..=0xff)
}

/// Gives up the stack and goes back to the guest: so what is in registers that calls preserve need not be saved on the way in.
///
/// # Safety
///
/// `regs` must be at the top of this CPU's main stack and complete, and nothing may refer to them or to the stack below.
#[inline(always)]
unsafe fn leave_for_guest(regs: *mut CpuUserRegs) -> ! {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "mov rsp, {regs}",
            "jmp {restore}",
            regs = in(reg) regs,
            restore = sym restore_guest,
            options(noreturn),
        )
    }
}
