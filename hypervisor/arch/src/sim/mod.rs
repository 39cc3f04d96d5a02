//! The machine as an ordinary process: memory, page-table walker, an adversarial model TLB per CPU, registers, a clock
//! and devices that remember what was written to them, all in safe code.
//!
//! INVARIANT: there are no statics here. All state hangs off one [`Machine`], of which a process may have many, each
//! with several CPUs that several threads drive at once.
#![forbid(unsafe_code)]

mod config;
mod cpu;
mod frames;
mod interrupts;
mod lines;
mod machine;
pub mod memory;
mod processor;
mod rng;
mod segments;
mod shootdown;
mod stop;
mod tlb;
mod walk;

pub use config::SimConfig;
pub use cpu::Cpu;
pub use interrupts::SentIpi;
pub use machine::Machine;
pub use processor::{CpuRegisters, Invpcid, PortAccess};
pub use segments::SegmentFault;
pub use shootdown::CachedFrames;
pub use stop::{Stop, catch_stop};

#[cfg(test)]
mod tests;
