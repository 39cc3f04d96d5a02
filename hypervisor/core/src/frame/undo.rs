//! Page tables whose entries are still to be given back.
//!
//! Nobody can know beforehand that a reference is the last one, and what follows is long: so dropping it only puts the table
//! here, and the same vCPU takes it out again and works on it in bounded steps (`page_type::undo`) before the next request of its list, the
//! next call of its batch, or its return. Each vCPU has a queue of its own: what others take out of use is no reason for it to wait. Who
//! needs a table out of another's queue may work on that queue too.
//!
//! INVARIANT: what is queued is in the state `Undoing`, in one queue, and linked by its type word. A frame in that state
//! that is in no queue is in the hands of one CPU. A queue counts both, so it is empty when all that was put into it is undone: not
//! earlier, when somebody else has the rest in his hands.
//! LOCK: rank `Undo`.

use dom0_abi::addr::Mfn;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};
use oxen_arch::sync::{Rank, SpinLock};

use super::Frames;
use super::table::FrameIndex;
use super::type_word::{Level, PageType, TypeEvent, TypeState};
use crate::budget::Budget;

/// The queue of a vCPU, or of a domain's beginning and end; its frames may be other domains'.
#[derive(Debug)]
pub struct UndoQueue {
    head: SpinLock<Option<FrameIndex>>,
    /// How many tables are in it, or out of it and not undone yet: to be read without the lock, since at the end of each call somebody wants
    /// to know.
    left: AtomicU32,
    /// What was done for its owner deep down, where nobody has a budget at hand, in units; it only grows, and wraps.
    work: AtomicU32,
}

/// Steps that are taken where no budget is at hand, each noted when it is done ([`UndoQueue::note`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A table has come into the queue.
    Queued,
    /// A frame has become free.
    Freed,
    /// A frame that was something else has been made ready for a new use.
    Claimed,
    /// So many other CPUs have forgotten translations: they were interrupted and waited for.
    Shootdown(usize),
    /// Caches have given up a frame.
    CacheFlushed,
    /// A root has got its twin.
    Twinned,
    /// A root has lost it.
    Parted,
}

impl Work {
    /// What it costs beside what its caller is charged, in units of the budget.
    const fn units(self) -> u32 {
        match self {
            Self::Queued => 4,
            Self::Freed => 5,
            Self::Claimed => 7,
            Self::Shootdown(cpus) => (cpus as u32).saturating_mul(Budget::OTHER_CPU),
            Self::CacheFlushed => 3,
            Self::Twinned => 25,
            Self::Parted => 8,
        }
    }
}

/// Work that was noted and that somebody who goes on in a loop has to pay for: all of the queue's, so he may pay for what somebody else
/// does with that too, but never too little.
#[derive(Debug)]
pub(crate) struct Unpaid<'q> {
    queue: &'q UndoQueue,
    seen: u32,
}

impl<'q> Unpaid<'q> {
    /// From now on.
    pub(crate) fn new(queue: &'q UndoQueue) -> Self {
        Self {
            queue,
            seen: queue.work.load(Ordering::Relaxed),
        }
    }

    /// Pays for what was noted since the last time; whether that was anything, as when a table has come into the queue.
    #[inline(always)]
    pub(crate) fn pay(&mut self, budget: &mut Budget) -> bool {
        let now = self.queue.work.load(Ordering::Relaxed);
        let is_something = now != self.seen;
        if is_something {
            budget.pay(now.wrapping_sub(self.seen));
            self.seen = now;
        }
        is_something
    }
}

/// A table out of the queue: in the hands of whoever has this. It has to be [put back](UndoQueue::put_back) or
/// [undone](UndoQueue::note_undone).
#[must_use = "a table that is neither put back nor undone is lost"]
#[derive(Debug)]
pub(crate) struct ToUndo {
    pub(crate) mfn: Mfn,
    pub(crate) level: Level,
    /// So many of its entries hold references.
    pub(crate) progress: u16,
}

impl UndoQueue {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            head: SpinLock::new(Rank::Undo, None),
            left: AtomicU32::new(0),
            work: AtomicU32::new(0),
        }
    }

    /// Notes a step for whoever pays.
    pub(crate) fn note(&self, work: Work) {
        self.work.fetch_add(work.units(), Ordering::Relaxed);
    }

    /// Whether all that the caller has put into it is undone; others may add to it.
    pub fn is_empty(&self) -> bool {
        // ORDERING: what the caller itself has put in it sees. Pairs with `note_undone`: what another CPU has undone can be seen behind this.
        self.left.load(Ordering::Acquire) == 0
    }

    /// Puts a frame in that is in the state `Undoing` and in nobody else's hands.
    pub(crate) fn push(&self, frames: &Frames, mfn: Mfn, progress: u16) {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.link(frames, mfn, progress);
    }

    /// Puts a table in that was taken out and is not undone yet.
    pub(crate) fn put_back(&self, frames: &Frames, table: ToUndo) {
        self.link(frames, table.mfn, table.progress);
    }

    /// Says that a table that was taken out is undone: nothing of what it held is held by it.
    pub(crate) fn note_undone(&self) {
        self.left.fetch_sub(1, Ordering::Release);
    }

    fn link(&self, frames: &Frames, mfn: Mfn, progress: u16) {
        let mut head = self.head.lock();
        let queued = frames.type_event(mfn, TypeEvent::Queue(progress, *head));
        debug_assert!(queued.is_ok(), "{mfn} is queued in another state");
        *head = FrameIndex::new(mfn.get());
        self.note(Work::Queued);
    }

    /// Visits what is in it.
    pub(crate) fn visit(&self, frames: &Frames, mut visit: impl FnMut(Mfn)) {
        let mut next = *self.head.lock();
        // No queue is longer than the table, whatever became of it.
        for _ in 0..frames.end().get() {
            let Some(index) = next else { break };
            visit(index.mfn());
            next = match frames.type_state(index.mfn()) {
                Some(TypeState::Undoing { next, .. }) => next,
                _ => None,
            };
        }
    }

    /// Takes one out. `None`: the rest, if there is any, is in the hands of others.
    pub(crate) fn pop(&self, frames: &Frames) -> Option<ToUndo> {
        let mut head = self.head.lock();
        let mfn = (*head)?.mfn();
        match frames.type_state(mfn)? {
            TypeState::Undoing {
                ty: PageType::Table(level),
                progress,
                next,
            } => {
                *head = next;
                Some(ToUndo {
                    mfn,
                    level,
                    progress,
                })
            }
            _ => None,
        }
    }
}

impl Default for UndoQueue {
    fn default() -> Self {
        Self::new()
    }
}
