//! Grant tables, version 1: how a domain lets another one use frames of its own.
//!
//! | file | what |
//! |---|---|
//! | `op` | `grant_table_op`: commands and their lists |
//! | `entry` | the granter's entry, and the active one, as pure functions |
//! | `table` | the table of a domain, and its pins: who uses which grant |
//! | `track`, `handle`, `handles` | the word of a handle; handles and stacks of free ones; the handles of a domain |
//! | `directory` | a row of words that grows and is looked up without a lock |
//! | `map`, `unmap`, `copy`, `queries` | the commands |
//! | `end` | the end of a domain's grants |
//!
//! The entry by which a mapper reaches a granted frame is `mmu::granted`'s. It holds what any entry with its bits holds, and nobody
//! needs to know that a grant is behind it. The grant has a pin beside that, in its active entry, for each part of each map, and while
//! it has any, one general reference to the frame. `docs/grants.md` has the whole picture.
//!
//! INVARIANT (I19): each part of a map is ended once, by whoever moves it to "about to end" in the word of its handle; the granter is
//! told when no CPU of the mapper's can reach the frame any more.
//! INVARIANT (I20): the granter's entry is looked at once for each use, and marked by compare-exchange against what was looked at; the
//! frame is that of the active entry as long as there is a pin.
//! INVARIANT (I21): a frame with a pin is not free and not another domain's, and its domain stays.
//! INVARIANT: there are no transitive grants, and none of less than a frame: both are of version 2.

mod copy;
mod directory;
pub mod end;
pub mod entry;
mod handle;
mod handles;
mod map;
mod op;
mod queries;
pub mod table;
pub mod track;
mod unmap;

#[cfg(test)]
mod tests;

pub use handle::FreeHandles;
pub use op::grant_table_op;
pub use table::{GrantTable, Limits};
