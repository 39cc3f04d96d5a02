//! The map of machine memory, from whatever firmware says to something that can be relied on.
//!
//! Firmware maps are unsorted, overlap, end in the middle of pages and at the end of the number space. The boot
//! allocator and the bits that let `PhysMem` touch a frame follow from this map, so a page counts as RAM only if
//! firmware calls every byte of it RAM and no byte of it anything else.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use dom0_abi::addr::{Mfn, PAGE_SHIFT, PAGE_SIZE};

use crate::boot::MfnRange;

/// No machine has memory from here on.
/// SPEC: Intel SDM volume 3, 4.1.4: physical addresses have at most 52 bits.
const MADDR_END: u64 = 1 << 52;
const PAGE: u64 = PAGE_SIZE as u64;

/// What a range of machine memory is. The numbers are those of the BIOS's `E820` call, which the ABI uses too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum MemoryKind {
    /// Ordinary memory.
    #[doc(alias = "E820_RAM")]
    Ram = 1,
    /// The firmware's or a device's.
    #[doc(alias = "E820_RESERVED")]
    Reserved = 2,
    /// Tables that nobody needs once they have been read.
    #[doc(alias = "E820_ACPI")]
    AcpiReclaimable = 3,
    /// The firmware's, to be kept across sleep.
    #[doc(alias = "E820_NVS")]
    AcpiNvs = 4,
    /// Broken or withheld.
    #[doc(alias = "E820_UNUSABLE")]
    Unusable = 5,
}

impl MemoryKind {
    /// Which of two claims about the same byte wins: the higher.
    const fn restriction(self) -> u8 {
        match self {
            Self::Ram => 0,
            Self::AcpiReclaimable => 1,
            Self::AcpiNvs => 2,
            Self::Reserved => 3,
            Self::Unusable => 4,
        }
    }
}

/// Bytes of one kind, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last.
    pub end: u64,
    /// What they are.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// The whole frames that it covers.
    pub const fn frames(&self) -> MfnRange {
        let start = self.start.saturating_add(PAGE - 1) >> PAGE_SHIFT;
        MfnRange::new(Mfn::new(start), Mfn::new(self.end >> PAGE_SHIFT))
    }

    const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl core::fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:#014x}-{:#014x} {:?}",
            self.start,
            self.end.saturating_sub(1),
            self.kind
        )
    }
}

/// The kinds of all memory that firmware spoke of. What no range covers is no memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryMap(ArrayVec<MemoryRange, { MemoryMap::CAPACITY }>);

impl MemoryMap {
    /// How many ranges fit.
    pub const CAPACITY: usize = 256;

    /// Makes the map without a range.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one range as firmware states it. If the map is full even when normalised, the outcome errs on the safe
    /// side: RAM is left out, and what is not RAM takes its bytes away from RAM.
    pub fn push(&mut self, range: MemoryRange) {
        if self.0.is_full() {
            self.normalise();
        }
        if self.0.try_push(range).is_err() && range.kind != MemoryKind::Ram {
            self.take_from_ram(range);
        }
    }

    /// Shrinks each RAM range to the larger of its parts beside `range`, in whole pages.
    fn take_from_ram(&mut self, range: MemoryRange) {
        let start = range.start & !(PAGE - 1);
        let end = range.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        for ram in self.0.iter_mut().filter(|ram| ram.kind == MemoryKind::Ram) {
            if range.is_empty() || ram.end <= start || end <= ram.start {
                continue;
            }
            if start.saturating_sub(ram.start) >= ram.end.saturating_sub(end) {
                ram.end = start.max(ram.start);
            } else {
                ram.start = end;
            }
        }
        self.0.retain(|range| !range.is_empty());
    }

    /// Makes the map sorted, page-rounded (RAM inwards, everything else outwards), free of overlaps (the more
    /// restrictive kind wins) and of neighbours of the same kind. Nothing above 52 address bits stays. If more ranges
    /// result than fit, all above the last that fits is left out.
    pub fn normalise(&mut self) {
        for range in &mut self.0 {
            range.start = range.start.min(MADDR_END);
            range.end = range.end.min(MADDR_END);
        }
        // By bytes first: two ranges of RAM that meet inside a page make that page RAM.
        self.resolve();
        for range in &mut self.0 {
            let (down, up) = (
                range.start & !(PAGE - 1),
                range.start.next_multiple_of(PAGE),
            );
            (range.start, range.end) = match range.kind {
                MemoryKind::Ram => (up, range.end & !(PAGE - 1)),
                _ => (down, range.end.next_multiple_of(PAGE)),
            };
        }
        self.resolve();
    }

    /// Replaces the ranges by ones that say the same about each byte, sorted, without overlap, merged.
    fn resolve(&mut self) {
        let mut resolved = ArrayVec::<MemoryRange, { Self::CAPACITY }>::new();
        let mut at = 0;
        loop {
            // The stretch from `at` to the next place where a range begins or ends is of one kind.
            let live = self.0.iter().filter(|range| !range.is_empty());
            let Some(end) = live
                .clone()
                .flat_map(|r| [r.start, r.end])
                .filter(|edge| *edge > at)
                .min()
            else {
                break;
            };
            let kind = live
                .filter(|r| r.start <= at && at < r.end)
                .map(|r| r.kind)
                .max_by_key(|k| k.restriction());
            if let Some(kind) = kind {
                match resolved.last_mut() {
                    Some(last) if last.end == at && last.kind == kind => last.end = end,
                    _ => {
                        if resolved
                            .try_push(MemoryRange {
                                start: at,
                                end,
                                kind,
                            })
                            .is_err()
                        {
                            break;
                        }
                    }
                }
            }
            at = end;
        }
        self.0 = resolved;
    }

    /// Withholds all RAM at and above the address `bytes`, as the option `mem=` asks for: it becomes unusable rather
    /// than a hole, because a hole invites the control domain to put a device there. Wants a normalised map and leaves
    /// one.
    pub fn limit(&mut self, bytes: u64) {
        let limit = bytes & !(PAGE - 1);
        let mut withheld = Self::new();
        for range in self
            .0
            .iter_mut()
            .filter(|range| range.kind == MemoryKind::Ram && range.end > limit)
        {
            let start = range.start.max(limit);
            withheld.push(MemoryRange {
                start,
                end: range.end,
                kind: MemoryKind::Unusable,
            });
            range.end = start;
        }
        self.0.retain(|range| !range.is_empty());
        for range in withheld.iter() {
            self.push(*range);
        }
        self.normalise();
    }

    /// The ranges, in ascending order if the map is normalised.
    pub fn iter(&self) -> core::slice::Iter<'_, MemoryRange> {
        self.0.iter()
    }

    /// The frames of RAM, in ascending order if the map is normalised.
    pub fn ram(&self) -> impl Iterator<Item = MfnRange> + Clone + '_ {
        self.iter()
            .filter(|range| range.kind == MemoryKind::Ram)
            .map(MemoryRange::frames)
    }

    /// How much RAM there is.
    pub fn ram_bytes(&self) -> u64 {
        self.ram()
            .fold(0, |sum, range| sum.saturating_add(range.bytes()))
    }

    /// One past the last frame of RAM; 0 without RAM.
    pub fn max_mfn(&self) -> Mfn {
        self.ram()
            .filter(|range| !range.is_empty())
            .map(|range| range.end)
            .max()
            .unwrap_or(Mfn::new(0))
    }
}

impl<'a> IntoIterator for &'a MemoryMap {
    type Item = &'a MemoryRange;
    type IntoIter = core::slice::Iter<'a, MemoryRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;
