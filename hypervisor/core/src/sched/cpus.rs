//! Sets of CPUs that several CPUs change.

use core::array;

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};
use oxen_arch::tlb::CpuSet;

/// A set of CPUs, each bit of which changes for itself.
#[derive(Debug)]
pub(super) struct AtomicCpuSet([AtomicU64; CpuSet::WORDS]);

impl AtomicCpuSet {
    pub(super) fn new(set: &CpuSet) -> Self {
        let mut words = set.words().iter();
        Self(array::from_fn(|_| {
            AtomicU64::new(words.next().copied().unwrap_or(0))
        }))
    }

    /// The whole set. Words of different moments, if others change it at the same time.
    pub(super) fn load(&self) -> CpuSet {
        let mut words = [0; CpuSet::WORDS];
        for (word, from) in words.iter_mut().zip(&self.0) {
            *word = from.load(Ordering::Acquire);
        }
        CpuSet::from_words(words)
    }

    /// Replaces the whole set, word by word, where it is another one.
    pub(super) fn store(&self, set: &CpuSet) {
        for (word, &new) in self.0.iter().zip(set.words()) {
            if word.load(Ordering::Relaxed) != new {
                word.store(new, Ordering::Release);
            }
        }
    }

    /// The word of a CPU, and its bit there.
    fn place(&self, cpu: CpuId) -> Option<(&AtomicU64, u64)> {
        let bit = 1 << (cpu.get() % u64::BITS);
        Some((self.0.get((cpu.get() / u64::BITS) as usize)?, bit))
    }

    pub(super) fn contains(&self, cpu: CpuId) -> bool {
        let place = self.place(cpu);
        place.is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Puts a CPU in, if it is not.
    pub(super) fn insert(&self, cpu: CpuId) {
        if let Some((word, bit)) = self.place(cpu)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Takes a CPU out; whether it was in. Of several that take the same one out, one is told so.
    pub(super) fn remove(&self, cpu: CpuId) -> bool {
        self.place(cpu).is_some_and(|(word, bit)| {
            word.load(Ordering::Relaxed) & bit != 0
                && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
        })
    }
}
