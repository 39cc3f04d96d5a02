//! Registers that the kit saves, and reading those that need an instruction.

use core::arch::asm;

/// The general registers but rsp, in the order in which the trap stubs save them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
}

/// The flags as `pushfq` shows them.
pub fn rflags() -> u64 {
    let flags: u64;
    // SAFETY: pushes and pops one word of the stack, below which nothing is kept (the target has no red zone).
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

/// The code selector.
pub fn cs() -> u16 {
    let selector: u16;
    // SAFETY: reads a selector.
    unsafe { asm!("mov {:x}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// The stack selector.
pub fn ss() -> u16 {
    let selector: u16;
    // SAFETY: reads a selector.
    unsafe { asm!("mov {:x}, ss", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// Bits of rflags.
pub mod flags {
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// String instructions go down.
    pub const DF: u64 = 1 << 10;
    /// I/O privilege level.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: no instruction breakpoint for one instruction.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// CPUID can be changed by this bit's toggling.
    pub const ID: u64 = 1 << 21;
}
