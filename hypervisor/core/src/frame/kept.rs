//! Single frames that the hypervisor keeps for itself and finds by their numbers, which are in words of its own: what grows in
//! steps of a frame and is looked up without a lock.

use core::mem;

use dom0_abi::addr::Mfn;
use oxen_arch::boot::MfnRange;

use super::clean::CleanFrames;
use super::{Memory, Placement};
use crate::budget::Budget;
use crate::page_type::Stop;

impl<'m> Memory<'m> {
    /// Allocates a zeroed frame. `ENOMEM` and `EIO` as [`Self::alloc_clean`]; [`Stop::Again`]: the budget was spent.
    pub(crate) fn clean_frame(&self, budget: &mut Budget) -> Result<CleanFrames<'m>, Stop> {
        let frame = self.alloc_clean(0, Placement::Anywhere, budget)?;
        frame.ok_or(Stop::Again)
    }

    /// Leaves a single frame to the word that will hold its number. It has to come back by [`Self::end_kept`].
    pub(crate) fn keep(&self, frame: CleanFrames<'_>) -> Mfn {
        debug_assert_eq!(frame.range().len(), 1);
        let mfn = frame.start();
        mem::forget(frame);
        mfn
    }

    /// Frees a frame that was kept, once. No word holds its number any more.
    pub(crate) fn end_kept(&self, mfn: Mfn) {
        self.frames.put(MfnRange::one(mfn), 0);
    }
}
