//! The guest's frames: where each pfn is in the machine, pfns that nothing uses, and windows to look at frames through.

use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::errno::Errno;

use crate::memory::{self, PAGE, Page, VIRT_BASE, physical_to_machine, pte, remap};
use crate::start_info;

/// An entry for the frame `mfn`, readable and writable.
pub const fn writable(mfn: u64) -> u64 {
    mfn << 12 | pte::P | pte::RW | pte::U | pte::A | pte::D
}

/// An entry for the frame `mfn`, readable.
pub const fn readable(mfn: u64) -> u64 {
    mfn << 12 | pte::P | pte::U | pte::A
}

/// The frame of a pfn, as the physical-to-machine list has it.
pub fn mfn_of(pfn: u64) -> u64 {
    physical_to_machine(pfn).expect("it is a pfn of the guest's")
}

/// Notes which frame a pfn has from now on.
pub fn set_mfn(pfn: u64, mfn: u64) {
    assert!(pfn < start_info().nr_pages, "no pfn of the guest's");
    let trap = memory::write(start_info().mfn_list + pfn * 8, mfn);
    assert!(trap.is_none(), "the p2m list is writable");
}

/// The pfn of an address in the guest's image.
pub fn pfn_at(va: u64) -> u64 {
    (va - VIRT_BASE) / PAGE
}

/// The very last pfns are left to [`unmapped_frame`](crate::page_tables::unmapped_frame).
static TAKEN: AtomicU64 = AtomicU64::new(1024);

/// Takes `count` pfns in a row that nothing maps, near the end of the guest's memory; returns the first.
pub fn take(count: u64) -> u64 {
    let taken = TAKEN.load(Ordering::Relaxed) + count;
    let first = start_info().nr_pages - taken;
    assert!(
        first > pfn_at(memory::end_of_mapping()),
        "no spare memory left"
    );
    TAKEN.store(taken, Ordering::Relaxed);
    first
}

/// An address at which any frame can be mapped. Its own frame has no other mapping meanwhile.
pub struct Window(Page);

impl Window {
    /// A window onto its own frame.
    pub const fn new() -> Self {
        Self(Page::new())
    }

    /// The address.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Maps by an entry, instead of what was there.
    pub fn set(&'static self, entry: u64) -> Result<u64, Errno> {
        remap(&self.0, entry)
    }

    /// Maps the window's own frame again.
    pub fn close(&'static self) {
        let entry = writable(mfn_of(pfn_at(self.address())));
        self.set(entry).expect("a window's own frame can be mapped");
    }

    /// Reads word number `index`.
    pub fn read(&self, index: usize) -> u64 {
        self.0.word(index).expect("the window is open")
    }

    /// Writes word number `index`.
    pub fn write(&self, index: usize, value: u64) {
        let trap = self.0.set_word(index, value);
        assert!(trap.is_none(), "the window is open for writing");
    }

    /// Whether the whole page reads as zeroes.
    pub fn is_zero(&self) -> bool {
        (0..512).all(|index| self.read(index) == 0)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}
