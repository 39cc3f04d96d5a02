//! The storage behind the model machine's memory, as the memory bus sees it: no rights, only bytes.
//!
//! Frames come into being when they are first used, so that a machine of 20 GiB costs what is touched of it. Memory that
//! nobody wrote holds garbage, because real memory does, and what forgets to scrub shall be found.

use std::boxed::Box;
use std::sync::OnceLock;
use std::vec::Vec;

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};

use crate::boot::{MemoryMap, MfnRange};
use crate::frame_bits::FrameBits;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What every word of unwritten memory holds. As a page-table entry it is present and writable, to do the most harm.
pub(super) const GARBAGE: u64 = 0x5a5a_5a5a_5a5a_5a5b;
const WORDS: usize = PAGE_SIZE / 8;
const CHUNK: usize = 512;

type Frame = [AtomicU64; WORDS];
type Chunk = [OnceLock<Box<Frame>>];

/// All memory of a machine, and which of it may be accessed raw.
pub(super) struct Frames {
    chunks: Vec<OnceLock<Box<Chunk>>>,
    ram: Vec<MfnRange>,
    pub(super) bits: FrameBits<Vec<AtomicU64>>,
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
        };
        frames.ram.iter().for_each(|range| frames.bits.set(*range));
        frames
    }

    /// Whether there is memory behind this number at all.
    pub(super) fn is_ram(&self, mfn: Mfn) -> bool {
        self.ram.iter().any(|range| range.contains(mfn))
    }

    /// The word that holds the byte at `at`; `None` where there is no memory.
    pub(super) fn word(&self, at: Maddr) -> Option<&AtomicU64> {
        let mfn = at.mfn();
        if !self.is_ram(mfn) {
            return None;
        }
        let index = mfn.get() as usize;
        let chunk = self
            .chunks
            .get(index / CHUNK)?
            .get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let frame = chunk[index % CHUNK]
            .get_or_init(|| Box::new([const { AtomicU64::new(GARBAGE) }; WORDS]));
        frame.get(at.offset() / 8)
    }

    /// Reads bytes that do not cross the end of a frame. Where there is no memory all bits are ones.
    pub(super) fn read(&self, at: Maddr, into: &mut [u8]) {
        for (at, part) in words(at, into.len()) {
            let word = self
                .word(at)
                .map_or(u64::MAX, |word| word.load(Ordering::Relaxed))
                .to_le_bytes();
            let first = at.offset() % 8;
            into[part.clone()].copy_from_slice(&word[first..first + part.len()]);
        }
    }

    /// Writes bytes that do not cross the end of a frame. Where there is no memory they are lost.
    pub(super) fn write(&self, at: Maddr, from: &[u8]) {
        for (at, part) in words(at, from.len()) {
            let Some(word) = self.word(at) else { continue };
            let first = at.offset() % 8;
            let replace = |old: u64| {
                let mut bytes = old.to_le_bytes();
                bytes[first..first + part.len()].copy_from_slice(&from[part.clone()]);
                u64::from_le_bytes(bytes)
            };
            if part.len() == 8 {
                word.store(replace(0), Ordering::Relaxed);
            } else {
                // The other bytes of the word belong to somebody else.
                update(word, Ordering::Relaxed, replace);
            }
        }
    }

    /// Makes all frames of the range zeros.
    pub(super) fn zero(&self, range: MfnRange) {
        range
            .iter()
            .for_each(|mfn| self.write(mfn.start(), &[0; PAGE_SIZE]));
    }
}

/// Replaces a word by what `by` makes of it; returns the old one.
pub(super) fn update(word: &AtomicU64, order: Ordering, mut by: impl FnMut(u64) -> u64) -> u64 {
    match word.fetch_update(order, Ordering::Relaxed, |old| Some(by(old))) {
        Ok(old) | Err(old) => old,
    }
}

/// The words that hold `len` bytes from `at` on: the address of the first byte in each, and which of the bytes it holds.
fn words(at: Maddr, len: usize) -> impl Iterator<Item = (Maddr, core::ops::Range<usize>)> {
    let first = at.offset() % 8;
    (0..(first + len).div_ceil(8)).map(move |n| {
        let start = (n * 8).saturating_sub(first);
        let end = (n * 8 + 8 - first).min(len);
        (Maddr::new(at.get().wrapping_add(start as u64)), start..end)
    })
}
