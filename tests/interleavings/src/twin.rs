//! What stands for `page_type::twin`; the step that writes to both pages is the hypervisor's own.

use dom0_abi::addr::Mfn;

use crate::frame::{Frames, Memory};
use crate::memory::{BadFrame, Machine};
use crate::page_type::HeldType;
use crate::page_type::entry::Entry;

#[path = "../../../hypervisor/core/src/page_type/twin/exchange.rs"]
mod inner;

/// The twin of a root: the frame behind it.
fn of(_: &Machine, frames: &Frames, root: Mfn) -> Option<Mfn> {
    let twin = Mfn::new(root.get() + 1);
    (twin < frames.end()).then_some(twin)
}

/// As `twin::exchange`.
pub fn exchange(
    memory: Memory<'_>,
    root: &HeldType,
    index: u16,
    old: Entry,
    new: Entry,
) -> Result<Result<u64, u64>, BadFrame> {
    inner::exchange(memory, root, index, old, new)
}
