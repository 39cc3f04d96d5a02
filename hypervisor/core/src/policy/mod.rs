//! What a guest may see and touch of the machine: CPUID, model-specific registers, I/O ports,
//! addresses of devices.
//!
//! Each policy is a table that can print itself for the documentation, and what a table does not list is refused (I27).

pub mod cpuid;
pub mod io_memory;
pub mod msr;
pub mod ports;
