//! A word of memory that is looked at and changed: the same for both backends, and under the model checker.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicU64, Ordering};

/// A word of memory, for one operation that is made of a few accesses: not to be kept, since its frame may be taken for an
/// object by whoever has it alone.
#[derive(Clone, Copy, Debug)]
pub struct MemWord<'m>(pub(crate) &'m AtomicU64);

impl MemWord<'_> {
    /// Loads it.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Stores into it. Who loads it finds what was stored elsewhere before; what comes behind may be seen earlier.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Replaces `current` by `new`; the error is what was there instead.
    #[inline(always)]
    pub fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// Sets bits; returns what was there.
    #[inline(always)]
    pub fn fetch_or(&self, value: u64) -> u64 {
        self.0.fetch_or(value, Ordering::SeqCst)
    }

    /// Clears the bits that `value` lacks; returns what was there.
    #[inline(always)]
    pub fn fetch_and(&self, value: u64) -> u64 {
        self.0.fetch_and(value, Ordering::SeqCst)
    }
}
