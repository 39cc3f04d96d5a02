//! The frames of each domain, as lists: what a domain that ends has to give back.
//!
//! INVARIANT: every frame that is `Owned` is in one list of its owner. The list is `held` until the end of the domain came to
//! the frame, and `lingering` then: it has been given back, but somebody else still refers to it.
//! INVARIANT: a domain is charged for each frame in its lists, for those that a call has taken and may give back, and for
//! those that it is about to get.
//! INVARIANT: a domain has no more twins of roots (`twins`) than its share, and is charged for each.
//! LOCK: one for each domain, rank `Owners`.

use oxen_arch::Machine;
use oxen_arch::boot::MfnRange;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::{Rank, SpinLock};

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;

use super::table::{FrameIndex, Links, Table};
use super::word::{Effect, Event};
use crate::domain::table::MAX_DOMAINS;

#[derive(Default)]
struct Lists {
    held: Option<FrameIndex>,
    lingering: Option<FrameIndex>,
    /// Frames that the domain is charged for.
    count: u64,
    /// Roots of the domain that have a twin.
    twins: u64,
}

impl Lists {
    /// Takes a frame out of the list that it is in.
    fn unlink(&mut self, table: Table<'_>, index: FrameIndex) {
        let head = if self.held == Some(index) {
            &mut self.held
        } else {
            &mut self.lingering
        };
        table.unlink(head, index);
    }
}

/// Twins that every domain may have, and of how many of its frames one more may be the root: a process of a guest has two
/// roots, and takes twenty frames at the very least.
const FEW_TWINS: u64 = 16;
const FRAMES_PER_TWIN: u64 = 8;

/// When a domain is charged for frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paid {
    /// When it gets them.
    Now,
    /// Before, by a [`Charge`].
    Before,
}

/// The lists of all domains.
pub(super) struct Owners(BootSlice<SpinLock<Lists>>);

impl Owners {
    /// No domain has a frame; `None` if boot has no memory left for the table.
    pub(super) fn new(machine: &Machine) -> Option<Self> {
        let lists = |_| SpinLock::new(Rank::Owners, Lists::default());
        Some(Self(machine.boot_slice(MAX_DOMAINS, lists)?))
    }

    fn of(&self, owner: DomId) -> Option<&SpinLock<Lists>> {
        self.0.get(usize::from(owner.get()))
    }

    /// Whether a domain of this number can have frames.
    pub(super) fn can_own(&self, owner: DomId) -> bool {
        self.of(owner).is_some()
    }

    /// Takes a frame out of the domain's lists, which is charged for it no more.
    pub(super) fn remove(&self, table: Table<'_>, owner: DomId, index: FrameIndex) {
        if let Some(lists) = self.of(owner) {
            let mut lists = lists.lock();
            lists.unlink(table, index);
            lists.count = lists.count.saturating_sub(1);
        }
    }

    /// Makes private frames the domain's, with one reference each, that of their being allocated.
    pub(super) fn own(&self, table: Table<'_>, owner: DomId, frames: MfnRange, paid: Paid) {
        let index = |mfn: u64| FrameIndex::new(mfn).filter(|_| mfn < frames.end.get());
        let (Some(lists), Some(first)) = (self.of(owner), index(frames.start.get())) else {
            return;
        };
        // Under the lock as a whole: who gives a frame back as soon as it is the domain's has to find it in the list.
        let mut lists = lists.lock();
        let (mut previous, mut last) = (None, first);
        for mfn in frames.iter() {
            let (Some(this), Some(record)) = (index(mfn.get()), table.of(mfn)) else {
                break;
            };
            let next = index(mfn.get().saturating_add(1));
            record.set_links(Links { previous, next });
            let assigned = record.apply(Event::Assign(owner));
            debug_assert_eq!(assigned, Ok(Effect::None), "{mfn} was not private");
            (previous, last) = (Some(this), this);
        }
        let next = lists.held.replace(first);
        if let Some(record) = table.get(last) {
            record.set_links(Links {
                next,
                ..record.links()
            });
        }
        table.set_previous(next, Some(last));
        if paid == Paid::Now {
            lists.count = lists.count.saturating_add(frames.len());
        }
    }

    /// Takes a frame out of the domain's lists that it stays charged for.
    pub(super) fn unlist(&self, table: Table<'_>, owner: DomId, index: FrameIndex) {
        if let Some(lists) = self.of(owner) {
            lists.lock().unlink(table, index);
        }
    }

    /// Charges the domain for frames that it is to get, if it then has no more than `limit`.
    fn charge(&self, owner: DomId, nr_frames: u64, limit: u64) -> bool {
        let Some(lists) = self.of(owner) else {
            return false;
        };
        let mut lists = lists.lock();
        match lists.count.checked_add(nr_frames) {
            Some(count) if count <= limit => {
                lists.count = count;
                true
            }
            _ => false,
        }
    }

    fn discharge(&self, owner: DomId, nr_frames: u64) {
        if let Some(lists) = self.of(owner) {
            let mut lists = lists.lock();
            lists.count = lists.count.saturating_sub(nr_frames);
        }
    }

    /// Charges the domain for the twin of a root, unless it has as many as it may.
    pub(super) fn charge_twin(&self, owner: DomId) -> bool {
        let Some(lists) = self.of(owner) else {
            return false;
        };
        let mut lists = lists.lock();
        let limit = (lists.count / FRAMES_PER_TWIN).saturating_add(FEW_TWINS);
        let is_allowed = lists.twins < limit;
        if is_allowed {
            lists.twins = lists.twins.saturating_add(1);
        }
        is_allowed
    }

    pub(super) fn discharge_twin(&self, owner: DomId) {
        if let Some(lists) = self.of(owner) {
            let mut lists = lists.lock();
            debug_assert!(lists.twins > 0);
            lists.twins = lists.twins.saturating_sub(1);
        }
    }

    /// How many twins the domain is charged for.
    pub(super) fn twins(&self, owner: DomId) -> u64 {
        self.of(owner).map_or(0, |lists| lists.lock().twins)
    }

    /// Does something that no two CPUs do for the domain at the same time. `None`, and nothing done: no such domain.
    pub(super) fn one_by_one<R>(&self, owner: DomId, what: impl FnOnce() -> R) -> Option<R> {
        let _alone = self.of(owner)?.lock();
        Some(what())
    }

    /// The next frame that the end of the domain has not come to, which counts as one that it has come to from now on.
    pub(super) fn next_held(&self, table: Table<'_>, owner: DomId) -> Option<Mfn> {
        let mut lists = self.of(owner)?.lock();
        let index = lists.held?;
        lists.unlink(table, index);
        table.push(&mut lists.lingering, index);
        Some(index.mfn())
    }

    /// How many frames the domain is charged for.
    pub(super) fn count(&self, owner: DomId) -> u64 {
        self.of(owner).map_or(0, |lists| lists.lock().count)
    }

    /// Visits all frames in the lists of a domain.
    pub(super) fn walk(&self, table: Table<'_>, owner: DomId, mut visit: impl FnMut(Mfn)) {
        let Some(lists) = self.of(owner) else {
            return;
        };
        let lists = lists.lock();
        for mut next in [lists.held, lists.lingering] {
            // No list is longer than the table, whatever became of it.
            for _ in 0..table.end() {
                let Some(index) = next else { break };
                visit(index.mfn());
                next = table.get(index).and_then(|record| record.links().next);
            }
        }
    }
}

/// Frames that a domain is charged for and has not got yet. Dropping it ends the charge.
#[must_use = "dropping it ends the charge"]
pub struct Charge<'f> {
    owners: &'f Owners,
    owner: DomId,
    nr_frames: u64,
}

impl<'f> Charge<'f> {
    /// Takes up a charge of frames that are not in the domain's lists any more.
    pub(super) fn of_taken(owners: &'f Owners, owner: DomId, nr_frames: u64) -> Self {
        Self {
            owners,
            owner,
            nr_frames,
        }
    }

    /// The domain.
    pub(super) fn owner(&self) -> DomId {
        self.owner
    }

    /// So many of the frames are in the domain's lists now.
    pub(super) fn spend(&mut self, nr_frames: u64) {
        debug_assert!(nr_frames <= self.nr_frames);
        self.nr_frames = self.nr_frames.saturating_sub(nr_frames);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.nr_frames > 0 {
            self.owners.discharge(self.owner, self.nr_frames);
        }
    }
}

impl super::Frames {
    /// Charges a domain for frames that it is to get. `ENOMEM`: with them it would be charged for more than `limit`.
    pub fn charge(&self, owner: DomId, nr_frames: u64, limit: u64) -> Result<Charge<'_>, Errno> {
        if self.owners.charge(owner, nr_frames, limit) {
            Ok(Charge::of_taken(&self.owners, owner, nr_frames))
        } else {
            Err(Errno::ENOMEM)
        }
    }
}
