//! The machine.

// UNSAFETY: hardware; every block says why it holds.
#![allow(unsafe_code)]

mod acpi;
mod apic;
mod backtrace;
#[cfg(feature = "counters")]
pub(crate) mod counters;
mod cpu;
mod descriptors;
pub mod entry;
mod fault;
mod handover;
mod layout;
mod machine;
pub mod memory;
mod paging;
mod per_cpu;
mod power;
mod screen;
mod segments;
mod serial;
mod time;
mod tlb;
mod twin;

pub use apic::SERIAL_VECTOR;
pub use cpu::Cpu;
pub use handover::{Handover, HandoverError};
pub use machine::{Machine, StartError, StartOptions, start, tsc_now};
pub use serial::{SerialConfig, SerialLine, SerialParity, open as open_serial};

/// What the panic handler uses: nothing here waits for a lock.
pub mod emergency {
    pub use super::backtrace::{Symbol, callers};
    pub use super::cpu::ControlRegisters;
    pub use super::power::{halt, reboot};

    /// Writes to serial port and screen, whoever holds them.
    pub fn write(bytes: &[u8]) {
        super::serial::write_by_force(bytes);
        super::screen::write_by_force(bytes);
    }
}
