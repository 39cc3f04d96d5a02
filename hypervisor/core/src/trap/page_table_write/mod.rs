//! Writes of a guest's kernel to page tables, as if they were memory.
//!
//! A page table is mapped read-only, so such a write traps. Here the instruction is decoded ([`decode`]), its result is
//! computed ([`apply`]), and the entry is replaced with the checks of `mmu_update`.

pub mod apply;
pub mod decode;
