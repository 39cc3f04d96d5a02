//! What frames are used as, and what makes that safe: page tables and descriptors are checked before the CPU uses them, and
//! nobody can write to what has been checked.
//!
//! | file | what |
//! |---|---|
//! | [`entry`] | what the bits of a page-table entry may be |
//! | [`hold`] | what an entry refers to: the references that live outside Rust |
//! | [`refs`] | references to a type |
//! | [`promote`] | how a frame gets a type |
//! | [`undo`] | how it loses one |
//! | `twin` | what a root has besides where user mode can read what is the supervisor's |
//!
//! The states of one frame and the ways between them are in `frame::type_word`; `docs/page-types.md` has the whole picture.
//!
//! INVARIANT (I1): a frame that is a page table, or descriptors, has no writable mapping: both are types, and writable entries
//! hold a reference to the type `Writable`.
//! INVARIANT (I3, I4): every entry of a table in use, below the progress of a parked one and below that of one being undone
//! holds exactly what [`hold::Hold::from_entry`] reads out of it. No table holds anything else.
//! INVARIANT: an entry of level n leads to a table of level n-1 of the same domain and to nothing else. So there are no
//! circles, no table refers to one of its own level, and no path is longer than four (XSA-240).

pub mod entry;
pub mod hold;
pub mod promote;
pub mod refs;
pub(crate) mod twin;
pub mod undo;

pub use crate::frame::type_word::{ENTRIES, Level, PageType};
pub(crate) use refs::UsedL1;
pub use refs::{HeldType, TypeRef};

use dom0_abi::errno::Errno;

/// Why something was not done. Nothing has changed then, but for work that need not be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It cannot be done.
    Refused(Errno),
    /// It was not finished: the budget is spent, or another CPU is at the same frame. It can be gone on with by trying again.
    Again,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}
