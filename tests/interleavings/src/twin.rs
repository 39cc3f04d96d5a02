//! What stands for `page_type::twin`; the step that writes to both pages is the hypervisor's own.

use dom0_abi::addr::Mfn;

use crate::frame::Frames;
use crate::memory::Machine;

#[path = "../../../hypervisor/core/src/page_type/twin/exchange.rs"]
mod inner;

pub use inner::exchange;

/// The twin of a root: the frame behind it.
fn of(_: &Machine, frames: &Frames, root: Mfn) -> Option<Mfn> {
    let twin = Mfn::new(root.get() + 1);
    (twin < frames.end()).then_some(twin)
}
