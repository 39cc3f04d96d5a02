//! Descriptor tables of guests: GDT and LDT.
//!
//! | file | what |
//! |---|---|
//! | [`check`] | which descriptors are allowed, and as what |
//! | [`page`] | a page of descriptors becomes one that the CPU may use |
//! | [`tables`] | the tables of one vCPU, and what a selector names in them |
//! | `calls` | `set_gdt`, `update_descriptor`, the LDT of `mmuext_op` |
//! | `fault` | a selector leads to a page of the LDT that is not mapped yet |
//!
//! A table lies in frames of the guest's that have the type `Descriptors`: 512 descriptors each, all checked, which no guest
//! can write to but by a call that checks them. The CPU sees them through its window (`oxen_arch::descriptor_window`).
//!
//! INVARIANT (I1): a frame is in a CPU's window only while a [`tables::Tables`] holds a reference to its type; it leaves the
//! window before the reference ends.

mod calls;
pub mod check;
mod fault;
pub mod page;
pub mod tables;

#[cfg(test)]
mod tests;

pub use calls::{give_tables, set_gdt, set_ldt, set_user_gs_selector, update_descriptor};
pub use fault::window_fault;
pub use tables::Tables;
