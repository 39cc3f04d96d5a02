//! All hardware and all unsafe code of the hypervisor, behind one surface with two backends: `metal`, the machine, and
//! `sim`, which lets the rest of the hypervisor run as an ordinary process.
//!
//! The surface is described in `docs/architecture.md`. The backend is chosen by the target and by nothing else. What a
//! wrong answer would make unsound and needs no hardware (the memory map, the boot allocator, the bits that say which
//! frames may be accessed) is the same source for both, contains no unsafe code, and is tested on the host.
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

pub mod boot;
pub mod boot_memory;
mod calendar;
pub mod clock;
pub mod counters;
#[cfg(any(test, target_os = "none"))]
mod cpu_features;
pub mod descriptor_window;
pub mod fpu;
pub mod frame_bits;
pub mod guest_range;
pub mod interrupts;
mod line;
pub mod lines;
mod mem_word;
pub mod memory_map;
pub mod paging_facts;
pub mod registers;
pub mod scratch;
pub mod seat;
pub mod slot;
pub mod sync;
pub mod tlb;
pub mod write_once;

#[cfg(target_os = "none")]
#[path = "metal/mod.rs"]
mod backend;
#[cfg(not(target_os = "none"))]
#[path = "sim/mod.rs"]
mod backend;

pub use backend::*;
pub use boot::CpuId;
pub use calendar::CalendarTime;
pub use clock::ClockTime;
pub use descriptor_window::{BadSelector, DataSelectors, TableOffset};
pub use fpu::FpuArea;
pub use guest_range::GuestFault;
pub use interrupts::{Interrupt, Ipi, SERIAL_VECTOR};
pub use lines::{LineMode, Message, PciFunction, Target};
pub use paging_facts::PagingFacts;
pub use registers::{BadXcr0, CpuidResult, DebugRegisters, NotCanonical, Notes, PortWidth};
