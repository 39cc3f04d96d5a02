//! Lock-free parts of the hypervisor, compiled once more with the atomics of a model checker in the place of their own.
//!
//! The sources are those of the hypervisor, included by path; nothing there knows of it. They may use `crate::sync`
//! (or `oxen_arch::sync`, the same here) and what else this crate root offers under the names of theirs, and they
//! make no atomic in a constant. A file with submodules must be a `mod.rs`, so that these are found from here too.
#![forbid(unsafe_code)]

extern crate self as oxen_arch;

#[path = "../../../hypervisor/core/src/budget.rs"]
pub mod budget;
pub mod domain;
pub mod event;
pub mod fifo;
pub mod frame;
pub mod grant;
#[path = "../../../hypervisor/core/src/irq/pirq.rs"]
pub mod irq;
#[path = "../../../hypervisor/arch/src/mem_word.rs"]
mod mem_word;
pub mod memory;
pub mod page_type;
#[path = "../../../hypervisor/core/src/sched/mod.rs"]
pub mod sched;
pub mod sync;
pub mod twin;
pub mod vcpu;

pub use memory::Machine;

/// What stands for `arch::boot`.
pub mod boot {
    pub use arch::CpuId;
    pub use arch::boot::MfnRange;
}

#[path = "../../../hypervisor/arch/src/tlb/mod.rs"]
pub mod tlb;
