//! Interrupts that arrive: the one place where they are ended, and what is served below `core`.

use dom0_abi::arch::CpuUserRegs;

use super::apic;
use super::cpu::Cpu;
use super::entry::Handlers;
use crate::interrupts::{FLUSH_VECTOR, Interrupt, SPURIOUS_VECTOR};

/// Takes the interrupt of a vector: from a guest with these registers, or from the idle CPU.
pub(super) fn arrived<H: Handlers>(cpu: &Cpu, regs: Option<&mut CpuUserRegs>, vector: u8) {
    let what = Interrupt::of_vector(vector);
    if let Interrupt::Device(vector) = what {
        H::device(cpu, vector);
    }
    if vector != SPURIOUS_VECTOR {
        // Before the handler, which may sleep until the next one.
        apic::end_of_interrupt();
    }
    if vector == FLUSH_VECTOR {
        return cpu.serve_requests();
    }
    H::interrupt(cpu, regs, what);
}
