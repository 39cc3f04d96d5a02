//! Frames in a row that are held: not free, and nobody's.

use core::fmt;
use core::mem;

use dom0_abi::addr::Mfn;
use oxen_arch::boot::MfnRange;

use super::Frames;

/// Frames in a row that whoever holds this has to itself. Dropping it frees them, so that no way out of a function
/// loses memory; [`Frames::assign`] and [`Frames::place`] pass them on.
#[must_use = "dropping the handle frees the frames"]
pub struct OwnedFrames<'f> {
    frames: &'f Frames,
    range: MfnRange,
}

impl<'f> OwnedFrames<'f> {
    pub(super) fn new(frames: &'f Frames, range: MfnRange) -> Self {
        Self { frames, range }
    }

    /// The first frame.
    pub fn start(&self) -> Mfn {
        self.range.start
    }

    /// The frames. The numbers are no proof of holding them: this handle has to outlive their use.
    pub fn range(&self) -> MfnRange {
        self.range
    }

    /// How many frames it holds.
    pub fn nr_frames(&self) -> u64 {
        self.range.len()
    }

    /// Takes the handle apart: the first `nr_frames` frames (or all), and the rest, which may be none.
    pub fn split(self, nr_frames: u64) -> (Self, Self) {
        let frames = self.frames;
        let (first, rest) = self.into_range().split(nr_frames);
        (Self::new(frames, first), Self::new(frames, rest))
    }

    /// Gives up the handle but not the frames. Whoever gets the range sees to it that they come back.
    pub(super) fn into_range(self) -> MfnRange {
        let range = self.range;
        mem::forget(self);
        range
    }
}

impl Drop for OwnedFrames<'_> {
    fn drop(&mut self) {
        self.frames.put(self.range, 0);
    }
}

impl fmt::Debug for OwnedFrames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedFrames").field(&self.range).finish()
    }
}
