//! A set of CPUs.

use core::fmt;

use crate::boot::CpuId;

const WORDS: usize = 4;

/// A set of CPUs: one bit for each.
#[derive(Clone, Copy, Eq)]
pub struct CpuSet([u64; WORDS]);

impl PartialEq for CpuSet {
    /// Word by word: a comparison of memory, which the derived one is, takes twenty times as long to begin.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let words = self.0.iter().zip(other.0);
        words.fold(0, |any, (word, other)| any | word ^ other) == 0
    }
}

impl CpuSet {
    /// CPUs of this number and above are never in a set; the machine uses none of them.
    pub const CAPACITY: u32 = 64 * WORDS as u32;
    /// How many words a set has.
    pub const WORDS: usize = WORDS;
    /// The set without a CPU.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The set of one CPU.
    pub fn one(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Puts a CPU in.
    pub fn insert(&mut self, cpu: CpuId) {
        let (index, bit) = place(cpu);
        if let Some(word) = self.0.get_mut(index) {
            *word |= bit;
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        let (index, bit) = place(cpu);
        if let Some(word) = self.0.get_mut(index) {
            *word &= !bit;
        }
    }

    /// Whether a CPU is in it.
    pub fn contains(&self, cpu: CpuId) -> bool {
        let (index, bit) = place(cpu);
        self.0.get(index).is_some_and(|word| word & bit != 0)
    }

    /// Whether no CPU is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |any, word| any | word) == 0
    }

    /// The words, from the lowest CPU on, as somebody keeps them who shares a set.
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }

    /// The set of these words.
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        Self(words)
    }

    /// The CPUs that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, mask) in both.0.iter_mut().zip(other.0) {
            *word &= mask;
        }
        both
    }

    /// The first CPU from this number on, and from 0 on if there is none.
    pub fn first_from(&self, cpu: CpuId) -> Option<CpuId> {
        let (mut index, bit) = place(cpu);
        let mut wanted = bit.wrapping_neg();
        while let Some(word) = self.0.get(index) {
            if let Some(cpu) = lowest(index, word & wanted) {
                return Some(cpu);
            }
            (index, wanted) = (index + 1, u64::MAX);
        }
        self.first()
    }

    /// The CPU with the lowest number.
    #[inline]
    pub fn first(&self) -> Option<CpuId> {
        let mut words = self.0.iter().enumerate();
        words.find_map(|(at, word)| lowest(at, *word))
    }

    /// The CPUs that are in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, more) in both.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        both
    }

    /// Its CPUs, from the lowest number on.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let mut left = *self;
        // Nearly all sets have one CPU or none: chains of iterators over words would take longer than all that is done with it.
        core::iter::from_fn(move || {
            let cpu = left.first()?;
            left.remove(cpu);
            Some(cpu)
        })
    }
}

/// The CPU of the lowest bit of a word.
#[inline]
fn lowest(index: usize, word: u64) -> Option<CpuId> {
    (word != 0).then(|| CpuId::new((index as u32) << 6 | word.trailing_zeros()))
}

/// The word of a CPU, and its bit there.
const fn place(cpu: CpuId) -> (usize, u64) {
    ((cpu.get() / 64) as usize, 1 << (cpu.get() % 64))
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(CpuId::get)).finish()
    }
}
