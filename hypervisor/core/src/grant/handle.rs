//! A handle, and the free handles of a vCPU: words that CPUs change at the same time, without a lock.
//!
//! The free ones are a stack that begins in the vCPU and goes on from word to word.

use core::iter;

use oxen_arch::memory::MemWord;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};

use super::track::{Parts, Track};

/// No handle's number.
const NONE: u32 = u32::MAX;

/// The free handles of a vCPU: the first of them, and above it a number that changes each time one is taken.
#[derive(Debug)]
pub struct FreeHandles(AtomicU64);

/// A handle with its word, for one operation.
#[derive(Clone, Copy, Debug)]
pub struct Handle<'m> {
    number: u32,
    word: MemWord<'m>,
}

impl<'m> Handle<'m> {
    /// The handle of a number, whose word this is.
    #[inline(always)]
    pub(super) fn new(number: u32, word: MemWord<'m>) -> Self {
        Self { number, word }
    }

    /// Its number.
    pub(super) fn number(self) -> u32 {
        self.number
    }

    /// Makes it a map. It was taken, and is none.
    #[inline(always)]
    pub(super) fn set(self, track: Track) {
        self.word.store(track.0);
    }

    /// What it is the name of. `None`: it is no map.
    #[inline(always)]
    pub(super) fn track(self) -> Option<Track> {
        Some(Track(self.word.load())).filter(|track| track.is_used())
    }

    /// Begins to end parts of a map that is this. `false`: it is another one by now, or none, or the parts are not mapped.
    #[inline(always)]
    pub(super) fn begin_end(self, track: Track, parts: Parts) -> bool {
        let new = track.ending(parts);
        new.is_some_and(|new| self.word.compare_exchange(track.0, new.0).is_ok())
    }

    /// Makes parts mapped again whose end was begun.
    pub(super) fn undo_end(self, parts: Parts) {
        self.update(|track| track.restored(parts));
    }

    /// Makes it no map: it is not free either, and nobody uses it again. Of a domain that ends.
    pub(super) fn forget(self) {
        self.word.store(Track::free(NONE).0);
    }

    /// Ends parts of a map whose end was begun when it was this. `true`: these were the last, and it is no map any more.
    #[inline(always)]
    pub(super) fn end(self, track: Track, parts: Parts) -> bool {
        let alone = track.ending(parts).map(|ending| ending.ended(parts));
        // No other part is mapped, or about to end: nobody else changes the word, and it is not looked at again.
        let is_alone = alone.is_some_and(|rest| !rest.is_used());
        is_alone || !self.update(|track| track.ended(parts)).is_used()
    }

    fn update(self, new: impl Fn(Track) -> Track) -> Track {
        let mut old = Track(self.word.load());
        loop {
            let new = new(old);
            match self.word.compare_exchange(old.0, new.0) {
                Ok(_) => return new,
                Err(now) => old = Track(now),
            }
        }
    }
}

impl FreeHandles {
    /// None.
    pub fn new() -> Self {
        Self(AtomicU64::new(NONE.into()))
    }

    /// Takes one. `find` gives the handle of a number, if there is one.
    #[inline(always)]
    pub(super) fn pop<'m>(&self, find: impl Fn(u32) -> Option<Handle<'m>>) -> Option<Handle<'m>> {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            // None there is has the number that stands for none.
            let handle = find(top as u32)?;
            // If another CPU takes it first this is anything, and the number above has changed.
            let next = Track(handle.word.load()).next();
            let number = (top >> 32).wrapping_add(1);
            let new = number << 32 | u64::from(next);
            match self
                .0
                .compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(handle),
                Err(now) => top = now,
            }
        }
    }

    /// Puts one in that was taken, or never used.
    #[inline(always)]
    pub(super) fn push(&self, handle: Handle<'_>) {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            handle.set(Track::free(top as u32));
            let new = top & !u64::from(u32::MAX) | u64::from(handle.number);
            match self
                .0
                .compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// All of them, while nothing moves.
    pub(super) fn iter<'m>(
        &self,
        find: impl Fn(u32) -> Option<Handle<'m>>,
    ) -> impl Iterator<Item = Handle<'m>> {
        let first = find(self.0.load(Ordering::Acquire) as u32);
        iter::successors(first, move |handle| find(Track(handle.word.load()).next()))
    }
}

impl Default for FreeHandles {
    fn default() -> Self {
        Self::new()
    }
}
