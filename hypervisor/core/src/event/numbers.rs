//! Which port numbers of a domain are taken: a bit for each, and one for each word of bits, so that the lowest free number, which is
//! the one that callers get, and the next one that is taken are found by a few looks.
//!
//! They come in blocks of as many as the two-level form has. Of those beyond the first, which the FIFO form alone has, each lies in a frame of its
//! own, which is there as soon as one of its numbers is taken and stays.

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::FIFO_NR_CHANNELS;
use oxen_arch::memory::FrameBox;

use super::two_level::NR_PORTS;
use crate::budget::Budget;
use crate::domain::teardown::FRAME;
use crate::frame::Memory;

const WORDS: usize = NR_PORTS as usize / 64;
const _: () = assert!(WORDS == 64, "one word says which words are full");
/// Blocks beyond the first.
pub const MORE: usize = (FIFO_NR_CHANNELS / NR_PORTS) as usize - 1;
const _: () = assert!(MORE < 32, "one word says which blocks are full");

/// The numbers of a block.
#[derive(Debug)]
pub struct Numbers {
    taken: [u64; WORDS],
    /// Words in which all are taken.
    full: u64,
    /// Words in which some are.
    used: u64,
    /// What of the first word is no port, and taken for ever.
    none: u64,
}

impl Numbers {
    /// All are free but 0, which is no port.
    pub const fn first() -> Self {
        let mut numbers = Self::new();
        if let Some(first) = numbers.taken.first_mut() {
            *first = 1;
        }
        numbers.none = 1;
        numbers
    }

    /// All are free.
    pub const fn new() -> Self {
        Self {
            taken: [0; WORDS],
            full: 0,
            used: 0,
            none: 0,
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

    /// Whether a number is free.
    pub fn is_free(&self, number: u32) -> bool {
        let word = self.taken.get((number / 64) as usize);
        word.is_some_and(|word| word & 1_u64.wrapping_shl(number) == 0)
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
        let none = self.no_port(number / 64);
        let Some(word) = self.taken.get_mut((number / 64) as usize) else {
            return;
        };
        *word &= !1_u64.wrapping_shl(number);
        let index = 1_u64.wrapping_shl(number / 64);
        self.full &= !index;
        if *word & !none == 0 {
            self.used &= !index;
        }
    }

    /// The lowest number that is taken.
    pub fn lowest_taken(&self) -> Option<u32> {
        let index = self.used.trailing_zeros();
        let word = self.taken.get(index as usize)? & !self.no_port(index);
        Some(index.wrapping_mul(64).wrapping_add(word.trailing_zeros()))
    }

    /// What of a word is no port.
    const fn no_port(&self, index: u32) -> u64 {
        if index == 0 { self.none } else { 0 }
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self::new()
    }
}

/// The numbers of a domain.
#[derive(Debug)]
pub struct AllNumbers {
    first: Numbers,
    more: Option<FrameBox<More>>,
}

/// Those beyond the first block.
#[derive(Debug)]
struct More {
    blocks: [Option<FrameBox<Numbers>>; MORE],
    /// Blocks in which all are taken.
    full: u32,
    /// Blocks in which some are.
    used: u32,
}

/// In which block beyond the first a number is, if in any, and which it is there.
const fn split(number: u32) -> (Option<usize>, u32) {
    (
        ((number / NR_PORTS) as usize).checked_sub(1),
        number % NR_PORTS,
    )
}

const fn join(block: u32, number: u32) -> u32 {
    block
        .wrapping_add(1)
        .wrapping_mul(NR_PORTS)
        .wrapping_add(number)
}

impl AllNumbers {
    /// All are free but 0, which is no port.
    pub const fn new() -> Self {
        Self {
            first: Numbers::first(),
            more: None,
        }
    }

    /// The lowest number that is free, if it is below `limit`.
    pub fn lowest_free(&self, limit: u32) -> Option<u32> {
        if let Some(number) = self.first.lowest_free(NR_PORTS) {
            return (number < limit).then_some(number);
        }
        let full = self.more.as_ref().map_or(0, |more| more.full);
        let block = (!full).trailing_zeros();
        let numbers = self.block(block as usize);
        let number = match numbers {
            Some(numbers) => numbers.lowest_free(NR_PORTS)?,
            None => 0,
        };
        let number = join(block, number);
        (number < limit.min(FIFO_NR_CHANNELS)).then_some(number)
    }

    /// Whether a number is free.
    pub fn is_free(&self, number: u32) -> bool {
        match split(number) {
            (None, rest) => self.first.is_free(rest),
            (Some(block), rest) => match self.block(block) {
                Some(numbers) => numbers.is_free(rest),
                None => number < FIFO_NR_CHANNELS,
            },
        }
    }

    /// Takes a number that is free. `ENOMEM`: there is no frame to note it in.
    pub fn take(&mut self, number: u32, memory: Memory<'_>) -> Result<(), Errno> {
        let (Some(block), rest) = split(number) else {
            self.first.take(number);
            return Ok(());
        };
        let more = match &mut self.more {
            Some(more) => more,
            empty => {
                let more = More {
                    blocks: [const { None }; MORE],
                    full: 0,
                    used: 0,
                };
                empty.insert(place(memory, more)?)
            }
        };
        let numbers = more.blocks.get_mut(block).ok_or(Errno::ENOMEM)?;
        let numbers = match numbers {
            Some(numbers) => numbers,
            empty => empty.insert(place(memory, Numbers::new())?),
        };
        numbers.take(rest);
        let is_full = numbers.lowest_free(NR_PORTS).is_none();
        let bit = 1_u32.wrapping_shl(block as u32);
        more.used |= bit;
        if is_full {
            more.full |= bit;
        }
        Ok(())
    }

    /// Gives a number back.
    pub fn give_back(&mut self, number: u32) {
        let (Some(block), rest) = split(number) else {
            return self.first.give_back(number);
        };
        let Some(more) = &mut self.more else {
            return;
        };
        if let Some(Some(numbers)) = more.blocks.get_mut(block) {
            numbers.give_back(rest);
            let is_empty = numbers.lowest_taken().is_none();
            let bit = 1_u32.wrapping_shl(block as u32);
            more.full &= !bit;
            if is_empty {
                more.used &= !bit;
            }
        }
    }

    /// The lowest number that is taken.
    pub fn lowest_taken(&self) -> Option<u32> {
        if let Some(number) = self.first.lowest_taken() {
            return Some(number);
        }
        let block = self.more.as_ref()?.used.trailing_zeros();
        let number = self.block(block as usize)?.lowest_taken()?;
        Some(join(block, number))
    }

    fn block(&self, block: usize) -> Option<&Numbers> {
        self.more.as_ref()?.blocks.get(block)?.as_deref()
    }

    /// Gives the frames back, as far as the budget goes; `true`: all of them. Nobody asks for numbers any more.
    pub fn clear(&mut self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        let blocks = self.more.iter_mut().flat_map(|more| &mut more.blocks);
        for block in blocks.filter(|block| block.is_some()) {
            if !budget.take(FRAME) {
                return false;
            }
            if let Some(numbers) = block.take() {
                memory.unplace(numbers);
            }
        }
        if self.more.is_some() && !budget.take(FRAME) {
            return false;
        }
        if let Some(more) = self.more.take() {
            memory.unplace(more);
        }
        true
    }
}

impl Default for AllNumbers {
    fn default() -> Self {
        Self::new()
    }
}

/// Moves something into a frame of its own. `ENOMEM`: there is none to spare. Out of line: it passes through the stack.
#[inline(never)]
pub(super) fn place<T>(memory: Memory<'_>, value: T) -> Result<FrameBox<T>, Errno> {
    if !memory.frames.can_spare(1) {
        return Err(Errno::ENOMEM);
    }
    memory.place(value).map_err(|_| Errno::ENOMEM)
}
