//! The boot allocator: takes frames for tables that live for ever out of the RAM of a normalised map, until the rest
//! goes to the frame allocator of `core`.
//!
//! INVARIANT: the free ranges are not empty and do not overlap; they hold no reserved frame, no frame that was handed
//! out, and nothing below 1 MiB. Frames are only ever taken away from them.
//!
//! The first MiB stays out for good: firmware uses more of it than it says, other CPUs start there, frame 0 is what a
//! page-table entry of zeros names, and it is 640 KiB at most.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use dom0_abi::addr::{Maddr, Mfn, PAGE_SHIFT};

use crate::boot::{MemoryMap, MfnRange};

/// The first frame that is ever handed out.
const FIRST: Mfn = Mfn::new((1 << 20) >> PAGE_SHIFT);

/// The frames that are still free. See the module.
#[derive(Clone, Debug)]
pub struct BootMemory {
    free: ArrayVec<MfnRange, { BootMemory::CAPACITY }>,
}

impl BootMemory {
    /// How many free ranges are kept apart. A cut that would make one more forgets the smallest: lost memory does no
    /// harm.
    pub const CAPACITY: usize = 256;

    /// Begins with all RAM of a normalised map.
    pub fn new(map: &MemoryMap) -> Self {
        let usable = MfnRange::new(FIRST, Mfn::new(u64::MAX));
        let ram = map
            .ram()
            .map(|ram| ram.intersection(usable))
            .filter(|ram| !ram.is_empty());
        Self {
            free: ram.take(Self::CAPACITY).collect(),
        }
    }

    /// Takes frames out that somebody already uses: the image, modules, the loader's data. They need not be free, nor
    /// RAM.
    pub fn reserve(&mut self, range: MfnRange) {
        let mut index = 0;
        while let Some(free) = self.free.get_mut(index) {
            let taken = free.intersection(range);
            if taken.is_empty() {
                index += 1;
                continue;
            }
            let before = MfnRange::new(free.start, taken.start);
            let after = MfnRange::new(taken.end, free.end);
            // The larger part stays in place, so that only the smaller one can find no room.
            let (larger, smaller) = if before.len() < after.len() {
                (after, before)
            } else {
                (before, after)
            };
            if larger.is_empty() {
                self.free.swap_remove(index);
                continue;
            }
            *free = larger;
            if !smaller.is_empty() {
                self.keep(smaller);
            }
            index += 1;
        }
    }

    /// Adds a free range. Without room the smallest of all is forgotten.
    fn keep(&mut self, part: MfnRange) {
        let Err(full) = self.free.try_push(part) else {
            return;
        };
        let part = full.element();
        if let Some(smallest) = self.free.iter_mut().min_by_key(|range| range.len())
            && smallest.len() < part.len()
        {
            *smallest = part;
        }
    }

    /// Takes `frames` neighbouring frames, the first at a multiple of `align_frames`, all below the address `below` if
    /// one is given. `None`, and nothing taken, if there is no such place.
    ///
    /// The highest place is taken: low memory is dear, because some devices and tables reach nothing else.
    pub fn alloc(
        &mut self,
        frames: u64,
        align_frames: u64,
        below: Option<Maddr>,
    ) -> Option<MfnRange> {
        let limit = MfnRange::new(FIRST, below.map_or(Mfn::new(u64::MAX), Maddr::mfn));
        let align = align_frames.max(1);
        let place = |free: &MfnRange| {
            let free = free.intersection(limit);
            let start = free.end.get().checked_sub(frames)? / align * align;
            (free.contains(Mfn::new(start)) && frames > 0).then_some(Mfn::new(start))
        };
        let start = self.free.iter().filter_map(place).max()?;
        let taken = MfnRange::of(start, frames)?;
        self.reserve(taken);
        Some(taken)
    }

    /// How many frames are left.
    pub fn free_frames(&self) -> u64 {
        self.free
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    /// Ends the allocator: everything left, in ascending order.
    pub fn into_free(mut self) -> ArrayVec<MfnRange, { BootMemory::CAPACITY }> {
        self.free.sort_unstable_by_key(|range| range.start);
        self.free
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::boot::{MemoryKind, MemoryRange};

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::new(Mfn::new(start), Mfn::new(end))
    }

    fn memory(ram: &[(u64, u64)]) -> BootMemory {
        let mut map = MemoryMap::new();
        for (start, end) in ram {
            map.push(MemoryRange {
                start: start << 12,
                end: end << 12,
                kind: MemoryKind::Ram,
            });
        }
        map.normalise();
        BootMemory::new(&map)
    }

    #[test]
    fn the_first_mib_is_never_handed_out() {
        let mut memory = memory(&[(0, 0xa0), (0xf0, 0x102)]);
        assert_eq!(memory.alloc(1, 1, Some(Maddr::new(1 << 20))), None);
        assert_eq!(memory.alloc(2, 1, None), Some(range(0x100, 0x102)));
        assert_eq!(memory.alloc(1, 1, None), None);
        assert!(memory.into_free().is_empty());
    }

    #[test]
    fn high_memory_goes_first_and_bounds_are_kept() {
        let mut memory = memory(&[(0x100, 0x8_0000), (0x10_0000, 0x18_0000)]);
        assert_eq!(memory.alloc(3, 1, None), Some(range(0x17_fffd, 0x18_0000)));
        assert_eq!(
            memory.alloc(0x200, 0x200, None),
            Some(range(0x17_fc00, 0x17_fe00))
        );
        assert_eq!(
            memory.alloc(1, 1, Some(Maddr::new(1 << 32))),
            Some(range(0x7_ffff, 0x8_0000))
        );
        assert_eq!(
            memory.alloc(1, 1, Some(Maddr::new(0x10_1fff))),
            Some(range(0x100, 0x101))
        );
        assert_eq!(memory.alloc(0, 1, None), None);
        assert_eq!(memory.alloc(u64::MAX, u64::MAX, None), None);
        let free: Vec<_> = memory.into_free().into_iter().collect();
        let expected = [
            range(0x101, 0x7_ffff),
            range(0x10_0000, 0x17_fc00),
            range(0x17_fe00, 0x17_fffd),
        ];
        assert_eq!(free, expected);
    }

    #[test]
    fn a_reservation_may_cross_several_ranges_and_holes() {
        let mut memory = memory(&[(0x100, 0x110), (0x120, 0x130), (0x140, 0x150)]);
        memory.reserve(range(0x108, 0x148));
        memory.reserve(range(0x108, 0x148));
        memory.reserve(range(0x14f, u64::MAX));
        let free: Vec<_> = memory.into_free().into_iter().collect();
        assert_eq!(free, [range(0x100, 0x108), range(0x148, 0x14f)]);
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "safe code, and hundreds of ranges take an interpreter too long"
    )]
    fn too_many_ranges_lose_the_smallest() {
        let mut memory = memory(&[(0x100, 0x10_0000)]);
        for n in 1..2 * BootMemory::CAPACITY as u64 {
            let start = 0x100 + n * 0x10;
            memory.reserve(range(start, start + 1));
        }
        let free = memory.into_free();
        assert_eq!(free.len(), BootMemory::CAPACITY);
        assert_eq!(
            free.last().map(|range| range.end),
            Some(Mfn::new(0x10_0000))
        );
        assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u64, u64),
        Alloc(u64, u64, Option<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..0x300u64, 0..0x40u64).prop_map(|(start, len)| Step::Reserve(start, start + len)),
            (0..0x20u64, 0..9u64, prop::option::of(0..0x30_0000u64))
                .prop_map(|(n, align, b)| Step::Alloc(n, align, b)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        #[cfg_attr(miri, ignore = "safe code, and the set takes an interpreter too long")]
        fn it_agrees_with_a_set_of_frames(
            ram in prop::collection::vec((0..0x300u64, 0..0x100u64), 0..8),
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let ram: Vec<_> = ram.into_iter().map(|(start, len)| (start, start + len)).collect();
            let mut memory = memory(&ram);
            let mut free: BTreeSet<u64> = ram.iter().flat_map(|(start, end)| *start..*end).filter(|mfn| *mfn >= 0x100).collect();
            for step in steps {
                match step {
                    Step::Reserve(start, end) => {
                        memory.reserve(range(start, end));
                        free.retain(|mfn| !(start..end).contains(mfn));
                    }
                    Step::Alloc(frames, align, below) => {
                        let fits = |start: u64| {
                            let mut wanted = start..start + frames;
                            frames > 0
                                && start.is_multiple_of(align.max(1))
                                && below.is_none_or(|below| (start + frames) <= below >> 12)
                                && wanted.all(|mfn| free.contains(&mfn))
                        };
                        let expected = (0..0x400).rev().find(|start| fits(*start));
                        let got = memory.alloc(frames, align, below.map(Maddr::new));
                        prop_assert_eq!(got.map(|got| (got.start.get(), got.len())), expected.map(|start| (start, frames)));
                        free.retain(|mfn| !got.is_some_and(|got| got.contains(Mfn::new(*mfn))));
                    }
                }
            }
            prop_assert_eq!(memory.free_frames(), free.len() as u64);
            let left: Vec<_> = memory.into_free().iter().flat_map(|range| range.iter()).map(Mfn::get).collect();
            prop_assert_eq!(left, free.into_iter().collect::<Vec<_>>());
        }
    }
}
