//! The frames of each domain, as lists: what a domain that ends has to give back.
//!
//! INVARIANT: every frame that is `Owned` is in one list of its owner. The list is `held` until the end of the domain came to
//! the frame, and `lingering` then: it has been given back, but somebody else still refers to it.
//! LOCK: one for each domain, rank `Owners`.

use oxen_arch::Machine;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::{Rank, SpinLock};

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;

use super::table::{FrameIndex, Links, Table};
use crate::domain::table::MAX_DOMAINS;

#[derive(Default)]
struct Lists {
    held: Option<FrameIndex>,
    lingering: Option<FrameIndex>,
    /// Frames in both.
    count: u64,
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

    /// Puts frames into the domain's list.
    pub(super) fn add(&self, table: Table<'_>, owner: DomId, frames: impl Iterator<Item = Mfn>) {
        let Some(lists) = self.of(owner) else {
            return;
        };
        let mut lists = lists.lock();
        for index in frames.filter_map(|mfn| FrameIndex::new(mfn.get())) {
            push(table, &mut lists.held, index);
            lists.count = lists.count.saturating_add(1);
        }
    }

    /// Takes a frame out of the domain's lists.
    pub(super) fn remove(&self, table: Table<'_>, owner: DomId, index: FrameIndex) {
        if let Some(lists) = self.of(owner) {
            let mut lists = lists.lock();
            unlink(table, &mut lists, index);
            lists.count = lists.count.saturating_sub(1);
        }
    }

    /// The next frame that the end of the domain has not come to, which counts as one that it has come to from now on.
    pub(super) fn next_held(&self, table: Table<'_>, owner: DomId) -> Option<Mfn> {
        let mut lists = self.of(owner)?.lock();
        let index = lists.held?;
        unlink(table, &mut lists, index);
        push(table, &mut lists.lingering, index);
        Some(index.mfn())
    }

    /// How many frames the domain has, with those that it gave back and that are still referred to.
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

fn push(table: Table<'_>, head: &mut Option<FrameIndex>, index: FrameIndex) {
    let next = head.replace(index);
    if let Some(record) = table.get(index) {
        record.set_links(Links {
            previous: None,
            next,
        });
    }
    if let Some(record) = next.and_then(|next| table.get(next)) {
        record.set_links(Links {
            previous: Some(index),
            ..record.links()
        });
    }
}

fn unlink(table: Table<'_>, lists: &mut Lists, index: FrameIndex) {
    let Some(record) = table.get(index) else {
        return;
    };
    let Links { previous, next } = record.links();
    match previous.and_then(|previous| table.get(previous)) {
        Some(record) => record.set_links(Links {
            next,
            ..record.links()
        }),
        None if lists.held == Some(index) => lists.held = next,
        None => lists.lingering = next,
    }
    if let Some(record) = next.and_then(|next| table.get(next)) {
        record.set_links(Links {
            previous,
            ..record.links()
        });
    }
}
