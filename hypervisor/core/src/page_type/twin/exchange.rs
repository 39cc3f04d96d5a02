//! The one way to change a slot of a root that has a twin.
//!
//! INVARIANT: once it has returned, neither page holds the old entry, so that what that referred to can be given back.
//! LOCK: that of the domain's frames (`frame::owners`): the order of writes to one slot has to be the same in both pages. To
//! store and look again until both agree is not enough: a CPU that comes late could put an entry back for a moment whose
//! references are gone, and another one run on it.

use oxen_arch::memory::BadFrame;

use super::of;
use crate::frame::Memory;
use crate::page_type::HeldType;
use crate::page_type::entry::Entry;

/// Exchanges entry `index` of a root in use, a guest's, in the root and in its twin, if it is `old`; else returns what it is.
#[cold]
pub fn exchange(
    memory: Memory<'_>,
    root: &HeldType,
    index: u16,
    old: Entry,
    new: Entry,
) -> Result<Result<u64, u64>, BadFrame> {
    let (mem, root, index) = (memory.mem(), root.mfn(), usize::from(index));
    let twin = of(memory.machine, memory.frames, root).ok_or(BadFrame)?;
    let both = || {
        let exchanged = mem.compare_exchange_u64(root.word(index), old.0, new.0)?;
        if exchanged.is_ok() {
            mem.store_u64(twin.word(index), new.0)?;
        }
        Ok(exchanged)
    };
    memory.frames.with_twin(root, both).unwrap_or(Err(BadFrame))
}
