//! What stands for `arch::memory`, and for the machine that has it.

pub use crate::mem_word::MemWord;
pub use arch::memory::BadFrame;
use dom0_abi::addr::{Maddr, Mfn, PAGE_SHIFT};

use crate::sync::atomic::{AtomicU64, Ordering};

/// What boot gives: a slice that stays.
pub type BootSlice<T> = Box<[T]>;

/// A machine of so many frames. Of each there is one word, whichever is asked for.
pub struct Machine {
    frames: Box<[AtomicU64]>,
}

impl Machine {
    /// All words are 0.
    pub fn of(count: usize) -> Self {
        Self {
            frames: (0..count).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// As `Machine::boot_slice`.
    pub fn boot_slice<T>(&self, count: usize, make: impl Fn(usize) -> T) -> Option<BootSlice<T>> {
        Some((0..count).map(make).collect())
    }

    fn word(&self, at: Maddr) -> Result<&AtomicU64, BadFrame> {
        let frame = usize::try_from(at.get() >> PAGE_SHIFT).map_err(|_| BadFrame)?;
        self.frames.get(frame).ok_or(BadFrame)
    }

    /// As `PhysMem::load_u64`.
    pub fn load_u64(&self, at: Maddr) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.load(Ordering::SeqCst))
    }

    /// As `PhysMem::store_u64`.
    pub fn store_u64(&self, at: Maddr, value: u64) -> Result<(), BadFrame> {
        self.word(at)?.store(value, Ordering::SeqCst);
        Ok(())
    }

    /// As `PhysMem::compare_exchange_u64`.
    pub fn compare_exchange_u64(
        &self,
        at: Maddr,
        current: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadFrame> {
        let word = self.word(at)?;
        Ok(word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst))
    }
}

/// What stands for the memory that domains share with us: a few words, by their addresses.
pub struct PhysMem {
    words: Box<[(Maddr, AtomicU64)]>,
}

/// As the hypervisor's.
#[derive(Clone, Copy)]
pub struct MemPage<'m> {
    mem: &'m PhysMem,
    mfn: Mfn,
}

impl<'m> MemPage<'m> {
    /// As the hypervisor's.
    pub fn word(self, index: usize) -> Result<MemWord<'m>, BadFrame> {
        self.mem.word(self.mfn.at(index * 8)).map(MemWord)
    }
}

impl PhysMem {
    /// These words, which are 0.
    pub fn of(words: impl IntoIterator<Item = Maddr>) -> Self {
        Self {
            words: words
                .into_iter()
                .map(|at| (at, AtomicU64::new(0)))
                .collect(),
        }
    }

    /// As the hypervisor's; of its words there are those that were made.
    pub fn page(&self, mfn: Mfn) -> Result<MemPage<'_>, BadFrame> {
        Ok(MemPage { mem: self, mfn })
    }

    fn word(&self, at: Maddr) -> Result<&AtomicU64, BadFrame> {
        let found = self.words.iter().find(|(place, _)| *place == at);
        found.map(|(_, word)| word).ok_or(BadFrame)
    }

    /// As the hypervisor's.
    pub fn load_u64(&self, at: Maddr) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.load(Ordering::SeqCst))
    }

    /// As the hypervisor's; the byte has the word to itself.
    pub fn store_u8(&self, at: Maddr, value: u8) -> Result<(), BadFrame> {
        self.word(at)?.swap(value.into(), Ordering::SeqCst);
        Ok(())
    }

    /// As the hypervisor's.
    pub fn fetch_or_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.fetch_or(value, Ordering::SeqCst))
    }

    /// As the hypervisor's.
    pub fn fetch_and_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.fetch_and(value, Ordering::SeqCst))
    }

    /// As the hypervisor's; the two bytes have the word to themselves.
    pub fn load_u16(&self, at: Maddr) -> Result<u16, BadFrame> {
        Ok(self.load_u64(at)? as u16)
    }

    /// As the hypervisor's; the two bytes have the word to themselves.
    pub fn store_u16(&self, at: Maddr, value: u16) -> Result<(), BadFrame> {
        self.word(at)?.swap(value.into(), Ordering::SeqCst);
        Ok(())
    }

    /// As the hypervisor's; a half has the word to itself.
    pub fn load_u32(&self, at: Maddr) -> Result<u32, BadFrame> {
        Ok(self.load_u64(at)? as u32)
    }

    /// As the hypervisor's; a half has the word to itself.
    pub fn store_u32(&self, at: Maddr, value: u32) -> Result<(), BadFrame> {
        self.word(at)?.swap(value.into(), Ordering::SeqCst);
        Ok(())
    }

    /// As the hypervisor's.
    pub fn fetch_or_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        Ok(self.fetch_or_u64(at, value.into())? as u32)
    }

    /// As the hypervisor's.
    pub fn fetch_and_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        Ok(self.fetch_and_u64(at, value.into())? as u32)
    }

    /// As the hypervisor's.
    pub fn compare_exchange_u32(
        &self,
        at: Maddr,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, BadFrame> {
        let (word, order) = (self.word(at)?, Ordering::SeqCst);
        let exchanged = word.compare_exchange(current.into(), new.into(), order, order);
        Ok(exchanged.map(|old| old as u32).map_err(|old| old as u32))
    }

    /// As the hypervisor's, and as the exchange of a guest.
    pub fn swap_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.swap(value, Ordering::SeqCst))
    }
}
