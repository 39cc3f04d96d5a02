//! A row of words that grows and is looked up without a lock: a frame full of them, allocated with the first.
//!
//! INVARIANT: a word is 0 until it is added, and again when it was taken away; none that is there is. The frame stays until nobody looks
//! any more.

use dom0_abi::addr::Mfn;
use oxen_arch::memory::{MemWord, PhysMem};
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::budget::Budget;
use crate::frame::Memory;
use crate::page_type::Stop;

/// The most words that there can be: a frame full.
pub(super) const ROOM: u32 = 512;

/// The row.
#[derive(Debug)]
pub(super) struct Directory {
    /// The frame, or [`NO_FRAME`].
    frame: AtomicU64,
    count: AtomicU32,
}

const NO_FRAME: u64 = u64::MAX;

impl Directory {
    /// Without a word, and without a frame.
    pub(super) const fn new() -> Self {
        Self {
            frame: AtomicU64::new(NO_FRAME),
            count: AtomicU32::new(0),
        }
    }

    /// How many words there are.
    pub(super) fn count(&self) -> u32 {
        // ORDERING: pairs with `push`.
        self.count.load(Ordering::Acquire)
    }

    /// A word; `None` behind the last.
    #[inline(always)]
    pub(super) fn get(&self, mem: &PhysMem, index: u32) -> Option<u64> {
        Some(self.word(mem, index)?.load()).filter(|&word| word != 0)
    }

    /// Changes a word that there is. The caller sees to it that nobody else does.
    pub(super) fn set(&self, mem: &PhysMem, index: u32, value: u64) {
        debug_assert!(index < self.count() && value != 0);
        if let Some(word) = self.word(mem, index) {
            word.store(value);
        }
    }

    /// Sees to it that there is a frame for the words. Fails as [`Memory::clean_frame`].
    pub(super) fn prepare(&self, memory: Memory<'_>, budget: &mut Budget) -> Result<(), Stop> {
        if self.frame.load(Ordering::Acquire) != NO_FRAME {
            return Ok(());
        }
        let frame = memory.keep(memory.clean_frame(budget)?);
        // ORDERING: who finds the number finds the zeroes.
        let first =
            self.frame
                .compare_exchange(NO_FRAME, frame.get(), Ordering::AcqRel, Ordering::Acquire);
        if first.is_err() {
            memory.end_kept(frame);
        }
        Ok(())
    }

    /// Adds a word behind `count` others, not a 0. `false`, and nothing is changed: there are not so many, or too many, or no frame. No two
    /// CPUs add at the same time.
    pub(super) fn push(&self, mem: &PhysMem, count: u32, value: u64) -> bool {
        debug_assert_ne!(value, 0);
        let Some(word) = self.word(mem, count) else {
            return false;
        };
        if self.count() != count {
            return false;
        }
        word.store(value);
        self.count.store(count.saturating_add(1), Ordering::Release);
        true
    }

    /// Takes the last word away. Nobody looks up that one any more.
    pub(super) fn pop(&self, mem: &PhysMem) -> Option<u64> {
        let last = self.count().checked_sub(1)?;
        let word = self.word(mem, last)?;
        let value = word.load();
        word.store(0);
        self.count.store(last, Ordering::Release);
        Some(value)
    }

    /// Gives the frame back. There is no word, and nobody looks any more.
    pub(super) fn end(&self, memory: Memory<'_>) {
        debug_assert_eq!(self.count(), 0);
        let frame = self.frame.swap(NO_FRAME, Ordering::AcqRel);
        if frame != NO_FRAME {
            memory.end_kept(Mfn::new(frame));
        }
    }

    /// The place of a word. `None`: there is no frame, or no such place in it.
    #[inline(always)]
    fn word<'m>(&self, mem: &'m PhysMem, index: u32) -> Option<MemWord<'m>> {
        // No machine has a frame of the number that stands for none.
        let frame = Mfn::new(self.frame.load(Ordering::Acquire));
        mem.page(frame).ok()?.word(index as usize).ok()
    }
}
