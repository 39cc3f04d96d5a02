//! Twins of roots, as far as it matters whose frames they are. What they are for is `page_type::twin`'s.
//!
//! A twin is the hypervisor's frame: it is in no domain's list, nobody can refer to it, and its owner word says which root it
//! belongs to. So what a frame is taken for follows from its record, and a number that was read out of a guest's page never
//! decides it. The domain that has the root is charged for the twin, and has no more of them than its share: it could make
//! every frame of its own a root.
//!
//! INVARIANT: the root of a twin is an L4 table, in use or about to be undone, and a domain's. So the domain that was charged is
//! found by it.
//! LOCK: none; charges are under the domain's in `owners`.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::boot::MfnRange;

use super::word::Event;
use super::{Frames, Kind, Memory, Placement};

impl Frames {
    /// Whether a frame is the twin of this root.
    pub(crate) fn is_twin(&self, mfn: Mfn, of: Mfn) -> bool {
        let kind = self.table().of(mfn).map(|record| record.word().kind());
        kind == Some(Kind::Twin { root: of })
    }

    /// For how many twins of roots a domain is charged: a frame each, beside those of [`Self::count_of`].
    pub fn twins_of(&self, owner: DomId) -> u64 {
        self.owners.twins(owner)
    }

    /// Does something to a root and its twin that no other CPU does meanwhile. `None`, and nothing done: it is no domain's.
    pub(crate) fn with_twin<R>(&self, root: Mfn, what: impl FnOnce() -> R) -> Option<R> {
        self.owners.one_by_one(self.owner_of_root(root)?, what)
    }

    /// Who has the root, which may have been given back already.
    fn owner_of_root(&self, root: Mfn) -> Option<DomId> {
        match self.table().of(root)?.word().kind() {
            Kind::Owned { owner, .. } => Some(owner),
            _ => None,
        }
    }
}

impl Memory<'_> {
    /// Makes a frame the twin of a root in the caller's hands, once `fill` has filled it, and charges the root's domain for it.
    /// Fails as `fill`; `ENOMEM`: there is no frame but the [`RESERVE`](super::RESERVE), or the domain has as many twins as it may. There is no
    /// twin then.
    pub(crate) fn new_twin(
        &self,
        root: Mfn,
        fill: impl FnOnce(Mfn) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let frames = self.frames;
        let owner = frames.owner_of_root(root).ok_or(Errno::EINVAL)?;
        if !frames.owners.charge_twin(owner) {
            return Err(Errno::ENOMEM);
        }
        self.filled_twin(root, fill)
            .inspect_err(|_| frames.owners.discharge_twin(owner))
    }

    fn filled_twin(
        &self,
        root: Mfn,
        fill: impl FnOnce(Mfn) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if !self.frames.can_spare(1) {
            return Err(Errno::ENOMEM);
        }
        let held = self.alloc(0, Placement::Anywhere)?;
        let twin = held.start();
        fill(twin)?;
        self.frames.event(twin, Event::Pair(root))?;
        held.into_range();
        Ok(())
    }

    /// Frees the twin of a root that nobody uses any more. CPUs may remember what they have walked through it: its stamp says
    /// since when they do not.
    pub(crate) fn free_twin(&self, twin: Mfn, root: Mfn) {
        let parted = self.frames.event(twin, Event::Part(root));
        debug_assert!(parted.is_ok(), "{twin} is not the twin of {root}");
        if parted.is_ok() {
            self.leave(twin);
            self.frames.put(MfnRange::one(twin), 0);
            if let Some(owner) = self.frames.owner_of_root(root) {
                self.frames.owners.discharge_twin(owner);
            }
        }
    }
}
