//! General references to frames of domains.

use core::fmt;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;

use super::Frames;
use super::word::{Event, Refused};

/// A general reference: as long as it exists, the frame is neither free nor another domain's, even if its domain gives
/// it back meanwhile. Dropping it ends the reference, and frees the frame if it was the last.
#[must_use = "dropping the reference ends it"]
pub struct FrameRef<'f> {
    frames: &'f Frames,
    mfn: Mfn,
}

impl<'f> FrameRef<'f> {
    pub(super) fn acquire(frames: &'f Frames, mfn: Mfn, owner: DomId) -> Result<Self, Errno> {
        frames.apply(mfn, Event::Acquire(owner))?;
        Ok(Self { frames, mfn })
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }
}

impl Drop for FrameRef<'_> {
    fn drop(&mut self) {
        let released = self.frames.apply(self.mfn, Event::Release);
        debug_assert_eq!(
            released,
            Ok(()),
            "{} lost a reference that somebody holds",
            self.mfn
        );
    }
}

impl fmt::Debug for FrameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FrameRef").field(&self.mfn).finish()
    }
}

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotPrivate | Refused::NotOwned | Refused::NoReference => Self::EINVAL,
            Refused::TooManyReferences => Self::EBUSY,
        }
    }
}
