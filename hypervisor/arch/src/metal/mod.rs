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
mod efi;
pub mod entry;
mod fault;
mod handover;
mod interrupt;
mod io_apic;
mod layout;
mod machine;
pub mod memory;
mod mtrr;
mod paging;
mod pci;
mod per_cpu;
mod power;
mod registers;
mod rtc;
mod screen;
mod segments;
mod serial;
mod smp;
mod time;
mod tlb;
mod trampoline;
mod twin;

pub use cpu::Cpu;
pub use handover::{Handover, HandoverError};
pub use machine::{Machine, StartError, StartOptions, start, tsc_now};
pub use serial::{SerialConfig, SerialLine, SerialParity, open as open_serial};
pub use smp::{CpuRefusal, CpuReport, StartedCpu};
pub use time::TimeSource;

pub(crate) use tlb::serve_requests;

/// What the panic handler uses: nothing here waits for a lock.
pub mod emergency {
    pub use super::backtrace::{Symbol, callers};
    pub use super::cpu::ControlRegisters;
    pub use super::power::{halt, reboot};
    pub use super::smp::stop_others;

    /// The CPU that calls; `None` as long as it is the first one and boots.
    pub fn cpu() -> Option<crate::CpuId> {
        super::per_cpu::current_index().map(crate::CpuId::new)
    }

    /// Writes to serial port and screen, whoever holds them.
    pub fn write(bytes: &[u8]) {
        super::serial::write_by_force(bytes);
        super::screen::write_by_force(bytes);
    }
}
