//! The guest's frames: where each pfn is in the machine, pfns that nothing uses, and windows to look at frames through.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::errno::Errno;

use crate::memory::{self, PAGE, Page, VIRT_BASE, pte, remap};
use crate::start_info;

/// An entry for the frame `mfn`, readable and writable.
pub const fn writable(mfn: u64) -> u64 {
    mfn << 12 | pte::P | pte::RW | pte::U | pte::A | pte::D
}

/// An entry for the frame `mfn`, readable.
pub const fn readable(mfn: u64) -> u64 {
    mfn << 12 | pte::P | pte::U | pte::A
}

fn p2m(pfn: u64) -> *mut u64 {
    assert!(pfn < start_info().nr_pages, "no pfn of the guest's");
    ptr::with_exposed_provenance_mut((start_info().mfn_list + pfn * 8) as usize)
}

/// The frame of a pfn, as the physical-to-machine list has it.
pub fn mfn_of(pfn: u64) -> u64 {
    // SAFETY: the builder maps an entry for each pfn, and only `set_mfn` writes them.
    unsafe { p2m(pfn).read_volatile() }
}

/// Notes which frame a pfn has from now on.
pub fn set_mfn(pfn: u64, mfn: u64) {
    // SAFETY: as for `mfn_of`; nobody holds a reference to the list.
    unsafe { p2m(pfn).write_volatile(mfn) }
}

/// The pfn of an address in the guest's image.
pub fn pfn_at(va: u64) -> u64 {
    (va - VIRT_BASE) / PAGE
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Takes `count` pfns in a row that nothing maps, from the end of the guest's memory down; returns the first.
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
        // SAFETY: see `place`.
        unsafe { self.place(index).read_volatile() }
    }

    /// Writes word number `index`.
    pub fn write(&self, index: usize, value: u64) {
        // SAFETY: see `place`.
        unsafe { self.place(index).write_volatile(value) }
    }

    /// The address of a word; accessing it is sound because nobody has a reference into a window, and harmless because a
    /// trap that no check expects ends the guest.
    fn place(&self, index: usize) -> *mut u64 {
        assert!(index < 512, "a page has 512 words");
        ptr::with_exposed_provenance_mut((self.address() + index as u64 * 8) as usize)
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
