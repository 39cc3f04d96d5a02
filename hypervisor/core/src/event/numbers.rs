//! Which port numbers of a domain are taken: a bit for each, and one for each word of bits, so that the lowest free number, which is
//! the one that callers get, and the next one that is taken are found by two looks.

use super::two_level::NR_PORTS;

const WORDS: usize = NR_PORTS as usize / 64;
const _: () = assert!(WORDS == 64, "one word says which words are full");

/// The numbers.
#[derive(Debug)]
pub struct Numbers {
    taken: [u64; WORDS],
    /// Words in which all are taken.
    full: u64,
    /// Words in which some are.
    used: u64,
}

impl Numbers {
    /// All are free but 0, which is no port.
    pub const fn new() -> Self {
        let mut taken = [0; WORDS];
        if let Some(first) = taken.first_mut() {
            *first = 1;
        }
        Self {
            taken,
            full: 0,
            used: 0,
        }
    }

    /// The lowest number that is free, if it is below `limit`.
    pub fn lowest_free(&self, limit: u32) -> Option<u32> {
        let index = (!self.full).trailing_zeros();
        let word = self.taken.get(index as usize)?;
        let number = index
            .wrapping_mul(64)
            .wrapping_add((!word).trailing_zeros());
        (number < limit).then_some(number)
    }

    /// Takes a number that is free.
    pub fn take(&mut self, number: u32) {
        let Some(word) = self.taken.get_mut((number / 64) as usize) else {
            return;
        };
        *word |= 1_u64.wrapping_shl(number);
        let index = 1_u64.wrapping_shl(number / 64);
        self.used |= index;
        if *word == u64::MAX {
            self.full |= index;
        }
    }

    /// Gives a number back.
    pub fn give_back(&mut self, number: u32) {
        let Some(word) = self.taken.get_mut((number / 64) as usize) else {
            return;
        };
        *word &= !1_u64.wrapping_shl(number);
        let index = 1_u64.wrapping_shl(number / 64);
        self.full &= !index;
        if *word & !no_port(number / 64) == 0 {
            self.used &= !index;
        }
    }

    /// The lowest number that is taken.
    pub fn lowest_taken(&self) -> Option<u32> {
        let index = self.used.trailing_zeros();
        let word = self.taken.get(index as usize)? & !no_port(index);
        Some(index.wrapping_mul(64).wrapping_add(word.trailing_zeros()))
    }
}

/// What of a word is no port: bit 0 of the first.
const fn no_port(index: u32) -> u64 {
    (index == 0) as u64
}
