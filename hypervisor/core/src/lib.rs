//! The logic of the hypervisor.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod address_space;
pub mod audit;
pub mod budget;
pub mod cmdline;
pub mod console;
pub mod descriptor;
pub mod domain;
pub mod event;
pub mod frame;
pub mod grant;
pub mod guest_access;
pub mod host;
pub mod hypercall;
pub mod irq;
pub mod memory_op;
pub mod mmu;
pub mod page_type;
pub mod policy;
pub mod sched;
pub mod switch;
pub mod time;
pub mod trap;
pub mod version;

#[cfg(all(test, feature = "counters"))]
mod cost;
#[cfg(test)]
mod testing;
