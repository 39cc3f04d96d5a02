//! The hypercalls by which guests change their page tables, and the changes themselves.
//!
//! | file | what |
//! |---|---|
//! | `update` | one entry of a table in use is replaced |
//! | `walk` | from an address to its L1 entry |
//! | `list` | calls that have a list of requests |
//! | `owners` | whose tables and pages a call is about |
//! | `granted` | entries that lead to granted frames |
//! | `flush` | which CPUs forget what, when a guest asks |
//! | `mmu_update`, `mmuext_op`, `update_va_mapping` | the hypercalls |
//! | `trapped` | entries that a guest writes to as if they were memory |
//!
//! INVARIANT: guest page tables are read and written through our own mapping of their frames, never through the guest's
//! (XSA-286).
//! INVARIANT (I9): a change that is refused leaves the entry, all counts and the TLB as they were.

pub(crate) mod flush;
pub(crate) mod granted;
mod list;
mod mmu_update;
mod mmuext_op;
pub(crate) mod owners;
pub mod trapped;
pub(crate) mod update;
mod update_va_mapping;
mod walk;

pub(crate) use list::with_undone;
pub use mmu_update::mmu_update;
pub(crate) use mmu_update::{is_one_of_own, mmu_update_at_once};
pub use mmuext_op::mmuext_op;
pub(crate) use mmuext_op::root;
pub(crate) use update_va_mapping::{is_nobody_elses, update_va_mapping_at_once};
pub use update_va_mapping::{update_va_mapping, update_va_mapping_otherdomain};
pub(crate) use walk::l1_entry;
