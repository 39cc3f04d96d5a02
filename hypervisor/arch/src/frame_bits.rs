//! One bit per frame: whether its raw bytes may be accessed. This is what makes `PhysMem` safe.
//!
//! INVARIANT: the bit of a frame is set only while no object of the hypervisor lives in the frame and the frame is RAM.
//! Whoever puts an object into frames first takes their bits by [`FrameBits::take`], of which at most one caller can
//! win, and gives them back when the object is gone.
//!
//! The bits alone do not stop an access that was checked before they were taken and is still going on; a backend on
//! which that would be unsound waits for such accesses after taking.
#![forbid(unsafe_code)]

use core::ops::Deref;

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};

use crate::boot::MfnRange;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The access was refused: the frame is not RAM, holds an object of the hypervisor, or the bytes cross its end or are
/// not aligned as the operation wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadFrame;

/// The bits, over whatever storage the backend has: words that are zero at first, so that nothing may be accessed.
#[derive(Debug)]
pub struct FrameBits<S> {
    words: S,
}

impl<S: Deref<Target = [AtomicU64]>> FrameBits<S> {
    /// How many words of storage the frames below `max_mfn` need; `None` if memory cannot hold so many.
    pub fn words_for(max_mfn: Mfn) -> Option<usize> {
        usize::try_from(max_mfn.get().div_ceil(64)).ok()
    }

    /// Wraps storage. Frames behind its end have no bit and are never accessible.
    pub const fn new(words: S) -> Self {
        Self { words }
    }

    /// Whether the frame may be accessed.
    #[inline]
    pub fn test(&self, mfn: Mfn) -> bool {
        // ORDERING: pairs with `set`: who sees the bit sees the frame as its last owner left it.
        self.word(mfn)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Checks an access of `len` bytes at `at`: one frame, and accessible.
    #[inline]
    pub fn check(&self, at: Maddr, len: usize) -> Result<(), BadFrame> {
        let within = at
            .offset()
            .checked_add(len)
            .is_some_and(|end| end <= PAGE_SIZE);
        if within && self.test(at.mfn()) {
            Ok(())
        } else {
            Err(BadFrame)
        }
    }

    /// Checks an access of `len` bytes at `at` that must be aligned to its length, a power of two.
    #[inline]
    pub fn check_aligned(&self, at: Maddr, len: usize) -> Result<(), BadFrame> {
        // So aligned, no number crosses the end of a frame: its length divides the frame's.
        let fits = len.is_power_of_two() && len <= PAGE_SIZE && at.offset() & (len - 1) == 0;
        if fits && self.test(at.mfn()) {
            Ok(())
        } else {
            Err(BadFrame)
        }
    }

    /// Makes the frames of the range accessible, as far as they have bits.
    pub fn set(&self, range: MfnRange) {
        for (index, mask) in masks(range) {
            if let Some(word) = self.words.get(index) {
                // ORDERING: pairs with `test` and `take`.
                word.fetch_or(mask, Ordering::Release);
            } else {
                break;
            }
        }
    }

    /// Makes the frames of the range inaccessible if all of them are accessible, and says whether it did so. Of several
    /// callers that want the same frame one wins.
    pub fn take(&self, range: MfnRange) -> bool {
        for (index, mask) in masks(range) {
            // ORDERING: pairs with `set`: the winner sees the frames as their last owner left them.
            let update = |word: u64| (word & mask == mask).then_some(word & !mask);
            let word = self.words.get(index);
            if word.is_none_or(|word| {
                word.fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .is_err()
            }) {
                // What was taken up to here was accessible before.
                let first = range.start.get();
                let here = (index as u64).saturating_mul(64).max(first);
                self.set(MfnRange::new(range.start, Mfn::new(here)));
                return false;
            }
        }
        true
    }

    #[inline]
    fn word(&self, mfn: Mfn) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(mfn.get() / 64).ok()?;
        Some((self.words.get(index)?, 1 << (mfn.get() % 64)))
    }
}

/// The words that a range touches, each with the bits that belong to the range.
fn masks(range: MfnRange) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (range.start.get(), range.end.get());
    let words = if range.is_empty() {
        0..0
    } else {
        start / 64..end.div_ceil(64)
    };
    words.filter_map(move |word| {
        let first = word.checked_mul(64)?;
        let below = |frame: u64| match frame.saturating_sub(first) {
            0 => 0,
            bits @ 1..=63 => u64::MAX >> (64 - bits),
            _ => u64::MAX,
        };
        Some((usize::try_from(word).ok()?, below(end) & !below(start)))
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const FRAMES: u64 = 300;

    fn bits() -> FrameBits<Vec<AtomicU64>> {
        let words = FrameBits::<Vec<AtomicU64>>::words_for(Mfn::new(FRAMES)).unwrap();
        FrameBits::new((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::new(Mfn::new(start), Mfn::new(end))
    }

    #[test]
    fn accesses_stay_in_one_accessible_frame() {
        let bits = bits();
        assert_eq!(bits.check(Maddr::new(0x5000), 1), Err(BadFrame));
        bits.set(range(5, 7));
        assert_eq!(bits.check(Maddr::new(0x5000), 4096), Ok(()));
        assert_eq!(bits.check(Maddr::new(0x5000), 4097), Err(BadFrame));
        assert_eq!(bits.check(Maddr::new(0x5fff), 1), Ok(()));
        assert_eq!(
            bits.check(Maddr::new(0x5fff), 2),
            Err(BadFrame),
            "both frames are accessible, but it crosses"
        );
        assert_eq!(bits.check(Maddr::new(0x5001), usize::MAX), Err(BadFrame));
        assert_eq!(bits.check(Maddr::new(u64::MAX), 1), Err(BadFrame));
        assert_eq!(bits.check_aligned(Maddr::new(0x5004), 8), Err(BadFrame));
        assert_eq!(bits.check_aligned(Maddr::new(0x5008), 8), Ok(()));
        assert_eq!(bits.check_aligned(Maddr::new(0x5008), 0), Err(BadFrame));
    }

    #[test]
    fn ranges_without_end_are_harmless() {
        let bits = bits();
        bits.set(range(10, u64::MAX));
        assert!(!bits.test(Mfn::new(9)) && bits.test(Mfn::new(10)) && bits.test(Mfn::new(319)));
        assert!(!bits.test(Mfn::new(320)) && !bits.test(Mfn::new(u64::MAX)));
        assert!(
            !bits.take(range(10, u64::MAX)),
            "frames behind the end cannot be taken"
        );
        assert!(bits.test(Mfn::new(10)) && bits.test(Mfn::new(319)));
        assert!(bits.take(range(7, 3)), "nothing to take");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_agrees_with_a_list_of_facts(
            steps in prop::collection::vec((any::<bool>(), 0..FRAMES, 0..FRAMES), 0..40),
        ) {
            let bits = bits();
            let mut facts = [false; FRAMES as usize];
            for (set, start, end) in steps {
                let slice = facts.get_mut(start as usize..end as usize).unwrap_or_default();
                if set {
                    bits.set(range(start, end));
                    slice.fill(true);
                } else {
                    let all = slice.iter().all(|fact| *fact);
                    prop_assert_eq!(bits.take(range(start, end)), all);
                    if all {
                        slice.fill(false);
                    }
                }
                for (mfn, fact) in facts.iter().enumerate() {
                    prop_assert_eq!(bits.test(Mfn::new(mfn as u64)), *fact);
                }
            }
        }
    }
}
