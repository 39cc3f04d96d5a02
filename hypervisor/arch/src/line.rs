//! Frames by lines: what looks for the few words of a page table that are not 0 reads eight of them at a time.
#![forbid(unsafe_code)]

use core::ops::Range;

use dom0_abi::addr::PAGE_SIZE;

/// Words in a line of a frame: as many as the CPU's caches move at once.
pub const LINE: usize = 8;
/// Words in a frame.
pub const WORDS: usize = PAGE_SIZE / 8;

/// A line of a frame, as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The number of its first word.
    pub first: usize,
    /// The words.
    pub words: [u64; LINE],
}

impl Line {
    /// The first word from number `from` on that is not 0, and which it is.
    pub fn word_from(&self, from: usize) -> Option<(usize, u64)> {
        let mut numbered = (self.first..).zip(self.words);
        numbered.find(|&(index, word)| index >= from && word != 0)
    }

    /// Makes the words 0 whose numbers are below this one.
    #[inline(always)]
    pub fn keep_from(&mut self, number: usize) {
        if number > self.first {
            self.keep(number..self.end());
        }
    }

    /// Makes the words 0 whose numbers are not below this one.
    #[inline(always)]
    pub fn keep_below(&mut self, number: usize) {
        if number < self.end() {
            self.keep(self.first..number);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep(&mut self, numbers: Range<usize>) {
        for (number, word) in (self.first..self.end()).zip(&mut self.words) {
            if !numbers.contains(&number) {
                *word = 0;
            }
        }
    }

    /// The number of the first word behind the line.
    pub const fn end(&self) -> usize {
        self.first.wrapping_add(LINE)
    }
}
