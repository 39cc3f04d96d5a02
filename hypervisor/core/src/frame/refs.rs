//! General references to frames of domains.

use core::fmt;
use core::mem;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;

use super::word::{Event, Kind, Refused};
use super::{Frames, Memory};

/// A general reference: as long as it exists, the frame is neither free nor another domain's, even if its domain gives
/// it back meanwhile. Dropping it ends the reference, and frees the frame if it was the last.
#[must_use = "dropping the reference ends it"]
pub struct FrameRef<'m> {
    memory: Memory<'m>,
    mfn: Mfn,
}

impl<'m> FrameRef<'m> {
    #[inline]
    pub(super) fn acquire(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Self, Errno> {
        let record = memory.frames.record(mfn).ok_or(Errno::EINVAL)?;
        record.acquire(owner)?;
        Ok(Self { memory, mfn })
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Leaves the reference to what is not a Rust value: an entry of a page table, the type of the frame.
    pub(crate) fn into_raw(self) -> Mfn {
        let mfn = self.mfn;
        mem::forget(self);
        mfn
    }

    /// Ends a reference that was left by [`Self::into_raw`] and may be the last one.
    #[cold]
    #[inline(never)]
    pub(crate) fn end_last(memory: &Memory<'_>, mfn: Mfn) {
        let released = memory.apply(mfn, Event::Release);
        debug_assert_eq!(
            released,
            Ok(()),
            "{mfn} lost a reference that somebody holds"
        );
    }

    /// Takes back a reference that was left by [`Self::into_raw`], once.
    pub(crate) fn from_raw(memory: Memory<'m>, mfn: Mfn) -> Self {
        Self { memory, mfn }
    }
}

impl Drop for FrameRef<'_> {
    #[inline]
    fn drop(&mut self) {
        let record = self.memory.frames.record(self.mfn);
        if !record.is_some_and(|record| record.release_one_of_many()) {
            Self::end_last(&self.memory, self.mfn);
        }
    }
}

impl fmt::Debug for FrameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FrameRef").field(&self.mfn).finish()
    }
}

impl Frames {
    /// Whether the frame is the domain's, or was and is still referred to.
    pub(crate) fn is_or_was_of(&self, mfn: Mfn, domain: DomId) -> bool {
        let kind = self.table().of(mfn).map(|record| record.word().kind());
        matches!(kind, Some(Kind::Owned { owner, .. }) if owner == domain)
    }

    /// Whether the domain that the frame was of has given it back.
    pub(crate) fn is_given_back(&self, mfn: Mfn) -> bool {
        let kind = self.table().of(mfn).map(|record| record.word().kind());
        matches!(
            kind,
            Some(Kind::Owned {
                is_allocated: false,
                ..
            })
        )
    }
}

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotPrivate | Refused::NotOwned | Refused::NoReference | Refused::NotTwin => {
                Self::EINVAL
            }
            Refused::TooManyReferences | Refused::InUse => Self::EBUSY,
        }
    }
}
