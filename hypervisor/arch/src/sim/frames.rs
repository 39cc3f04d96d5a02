//! The storage behind the model machine's memory, as the memory bus sees it: no rights, only bytes.
//!
//! Frames come into being when they are first used, so that a machine of 20 GiB costs what is touched of it. Memory that
//! nobody wrote holds garbage, because real memory does, and what forgets to scrub shall be found.

use core::ops::Range;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::vec::Vec;

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};
use dom0_abi::arch::INVALID_M2P_ENTRY;

use crate::boot::{MemoryMap, MfnRange};
use crate::frame_bits::FrameBits;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What every word of unwritten memory holds. As a page-table entry it is present and writable, to do the most harm.
pub(super) const GARBAGE: u64 = 0x5a5a_5a5a_5a5a_5a5b;
const WORDS: usize = PAGE_SIZE / 8;
const CHUNK: usize = 512;

pub(super) type Frame = [AtomicU64; WORDS];
type Chunk = [OnceLock<Box<Frame>>];

/// All memory of a machine, and which of it may be accessed raw.
pub(super) struct Frames {
    chunks: Vec<OnceLock<Box<Chunk>>>,
    ram: Vec<MfnRange>,
    pub(super) bits: FrameBits<Vec<AtomicU64>>,
    /// Where the machine-to-physical table lives.
    m2p: OnceLock<MfnRange>,
    /// How often the caches were rid of a frame.
    pub(super) cache_flushes: Mutex<BTreeMap<Mfn, u64>>,
}

impl Frames {
    /// Makes the memory that a normalised map describes; all of it may be accessed.
    pub(super) fn new(map: &MemoryMap) -> Self {
        let max_mfn = map.max_mfn();
        let chunks = (max_mfn.get() as usize).div_ceil(CHUNK);
        let words = FrameBits::<Vec<AtomicU64>>::words_for(max_mfn).expect("the map fits the host");
        let frames = Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            ram: map.ram().collect(),
            bits: FrameBits::new((0..words).map(|_| AtomicU64::new(0)).collect()),
            m2p: OnceLock::new(),
            cache_flushes: Mutex::default(),
        };
        frames.ram.iter().for_each(|range| frames.bits.set(*range));
        frames
    }

    /// Whether there is memory behind this number at all.
    pub(super) fn is_ram(&self, mfn: Mfn) -> bool {
        self.ram.iter().any(|range| range.contains(mfn))
    }

    /// Makes frames that nobody has used the machine-to-physical table.
    pub(super) fn set_m2p(&self, range: MfnRange) {
        assert!(self.m2p.set(range).is_ok(), "there is one such table");
    }

    /// The frames of the machine-to-physical table.
    pub(super) fn m2p(&self) -> MfnRange {
        self.m2p.get().copied().unwrap_or(MfnRange::EMPTY)
    }

    /// Whether it is one of them.
    pub(super) fn is_m2p(&self, mfn: Mfn) -> bool {
        self.m2p().contains(mfn)
    }

    /// The frame's words; `None` where there is no memory.
    pub(super) fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        if !self.is_ram(mfn) {
            return None;
        }
        let index = mfn.get() as usize;
        let chunk = self
            .chunks
            .get(index / CHUNK)?
            .get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let make = || {
            if self.is_m2p(mfn) {
                // As boot leaves it: no frame has an entry.
                Box::new([const { AtomicU64::new(INVALID_M2P_ENTRY) }; WORDS])
            } else {
                Box::new([const { AtomicU64::new(GARBAGE) }; WORDS])
            }
        };
        Some(chunk.get(index % CHUNK)?.get_or_init(make))
    }

    /// The word that holds the byte at `at`; `None` where there is no memory.
    pub(super) fn word(&self, at: Maddr) -> Option<&AtomicU64> {
        self.frame(at.mfn())?.get(at.offset() / 8)
    }

    /// Reads bytes that do not cross the end of a frame. Where there is no memory all bits are ones.
    pub(super) fn read(&self, at: Maddr, into: &mut [u8]) {
        let Some(frame) = self.frame(at.mfn()) else {
            return into.fill(0xff);
        };
        for (word, first, part) in words(frame, at.offset(), into.len()) {
            let bytes = word.load(Ordering::Relaxed).to_le_bytes();
            into[part.clone()].copy_from_slice(&bytes[first..first + part.len()]);
        }
    }

    /// Writes bytes that do not cross the end of a frame. Where there is no memory they are lost.
    pub(super) fn write(&self, at: Maddr, from: &[u8]) {
        let Some(frame) = self.frame(at.mfn()) else {
            return;
        };
        for (word, first, part) in words(frame, at.offset(), from.len()) {
            let part = &from[part];
            if let Ok(whole) = part.try_into() {
                word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
                continue;
            }
            // The other bytes of the word belong to somebody else.
            update(word, Ordering::Relaxed, |old| {
                let mut bytes = old.to_le_bytes();
                bytes[first..first + part.len()].copy_from_slice(part);
                u64::from_le_bytes(bytes)
            });
        }
    }

    /// Makes all frames of the range zeros.
    pub(super) fn zero(&self, range: MfnRange) {
        range.iter().for_each(|mfn| self.zero_frame(mfn));
    }

    /// Makes a frame zeros.
    pub(super) fn zero_frame(&self, mfn: Mfn) {
        for word in self.frame(mfn).into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Replaces a word by what `by` makes of it; returns the old one.
pub(super) fn update(word: &AtomicU64, order: Ordering, mut by: impl FnMut(u64) -> u64) -> u64 {
    match word.fetch_update(order, Ordering::Relaxed, |old| Some(by(old))) {
        Ok(old) | Err(old) => old,
    }
}

/// The words of a frame that hold `len` bytes from an offset on; of each the first byte that is meant, and which of the
/// bytes it holds.
fn words(
    frame: &Frame,
    offset: usize,
    len: usize,
) -> impl Iterator<Item = (&AtomicU64, usize, Range<usize>)> {
    let lead = offset % 8;
    frame[offset / 8..]
        .iter()
        .take((lead + len).div_ceil(8))
        .enumerate()
        .map(move |(n, word)| {
            let start = (n * 8).saturating_sub(lead);
            let end = (n * 8 + 8 - lead).min(len);
            (word, if n == 0 { lead } else { 0 }, start..end)
        })
}
