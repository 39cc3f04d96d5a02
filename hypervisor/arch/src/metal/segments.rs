//! Segments of guests: the pages of the descriptor window, and loads of selectors that a guest chose.
//!
//! INVARIANT: an entry of the window has its accessed and dirty bits set from the start, so that the CPU never writes it, and
//! what this CPU remembers of it is dropped before the page can become anything else.

use core::arch::asm;
use core::cell::Cell;

use dom0_abi::addr::{GuestAddr, Mfn};

use super::cpu::Cpu;
use super::descriptors;
use super::fault::fixup;
use crate::descriptor_window::{
    BadSelector, DataSelectors, GDT_PAGES, LDT_PAGES, LDT_START, TableOffset, WINDOW_PAGES,
    is_null, user_selector,
};
use crate::sync::atomic::{AtomicU64, Ordering};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What the entries of a window have in common.
const COMMON: u64 = PRESENT | ACCESSED | NO_EXECUTE;

/// The entry for a page of a guest's descriptors. Writable, for the CPU alone: it sets the accessed bit of a descriptor
/// when it loads it, and guests see that bit as they would on bare hardware.
const fn guest_entry(frame: Mfn) -> u64 {
    frame.start().get() & ADDRESS | COMMON | WRITABLE | DIRTY
}

/// The entry for the page of zeros.
const fn zeros_entry(frame: Mfn) -> u64 {
    frame.start().get() & ADDRESS | COMMON
}

/// The page-table entries of a CPU's window, in the page table of our half that holds them.
pub(super) struct WindowEntries {
    entries: &'static [AtomicU64; WINDOW_PAGES],
    /// The page of zeros.
    zeros: Mfn,
}

impl WindowEntries {
    /// Those of a window that shows no table of a guest yet, before anything is loaded from it.
    pub(super) fn new(entries: &'static [AtomicU64; WINDOW_PAGES], zeros: Mfn) -> Self {
        for entry in entries.iter().take(GDT_PAGES) {
            entry.store(zeros_entry(zeros), Ordering::Relaxed);
        }
        Self { entries, zeros }
    }
}

impl Cpu {
    /// Maps a page of the guest's GDT; `None` for one that it does not have, which reads as zeros. Does nothing if that is
    /// what is mapped. There are `GDT_PAGES` of them.
    ///
    /// The frame must hold nothing but descriptors that `core` has checked, as long as it is mapped: that is what it keeps
    /// by page types.
    pub fn map_gdt_page(&self, index: usize, frame: Option<Mfn>) {
        if index < GDT_PAGES {
            let zeros = self.local.window.zeros;
            self.set_window_entry(index, frame.map_or(zeros_entry(zeros), guest_entry));
            note_page(&self.local.gdt_pages, index, frame);
        }
    }

    /// Maps a page of the guest's LDT, of which there are `LDT_PAGES`, or unmaps it. As [`Self::map_gdt_page`].
    pub fn map_ldt_page(&self, index: usize, frame: Option<Mfn>) {
        if index < LDT_PAGES {
            self.set_window_entry(LDT_START + index, frame.map_or(0, guest_entry));
            note_page(&self.local.ldt_pages, index, frame);
        }
    }

    /// How many pages of the GDT, from the first on, may be a guest's: none behind them is. Those that are unmapped from the last one on are
    /// not counted any more.
    pub fn gdt_pages(&self) -> usize {
        self.local.gdt_pages.get()
    }

    /// The same for the LDT.
    pub fn ldt_pages(&self) -> usize {
        self.local.ldt_pages.get()
    }

    fn set_window_entry(&self, page: usize, entry: u64) {
        let Some(place) = self.local.window.entries.get(page) else {
            return;
        };
        let before = place.load(Ordering::Relaxed);
        if before == entry {
            return;
        }
        place.store(entry, Ordering::Relaxed);
        // What is not present is never cached.
        if before & PRESENT != 0 {
            self.flush_page(GuestAddr::new(self.local.window_at.page(page)));
        }
    }

    /// Loads an LDT of so many descriptors, 8192 at most, in the window; none if it is 0.
    pub fn load_ldt(&self, nr_entries: u16) {
        if self.local.ldt_entries.replace(nr_entries) != nr_entries {
            descriptors::load_ldt(&self.local, nr_entries);
        }
    }

    /// What of the tables the window shows at an address; `None` if the address is not in this CPU's window.
    pub fn table_offset_of(&self, address: u64) -> Option<TableOffset> {
        self.local.window_at.offset_of(address)
    }

    /// Loads the selector of GS for user mode, and sets the base that is kept for user mode to the one that comes with it.
    /// A selector that cannot be loaded counts as 0. The base that GS has now stays.
    pub fn load_user_gs_selector(&self, selector: u16) {
        let selector = user_selector(selector);
        let kept = self.gs_base();
        // Loading a null selector leaves the base alone on some CPUs (AMD before Zen 2).
        let base = if load_gs(selector) && !is_null(selector) {
            self.gs_base()
        } else {
            0
        };
        self.local.user_gs_base.set(base);
        // It was there a moment ago, so it is canonical.
        let _ = self.set_gs_base(kept);
    }

    /// The data selectors of the guest.
    pub fn read_selectors(&self) -> DataSelectors {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        // SAFETY: reads registers.
        unsafe {
            asm!("mov {0:e}, ds", "mov {1:e}, es", "mov {2:e}, fs", "mov {3:e}, gs",
                out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        }
        DataSelectors { ds, es, fs, gs }
    }

    /// Loads data selectors, as many as can be; the others become 0 and the result says so. What FS and GS then have as
    /// base is to be loaded after this.
    pub fn load_selectors(&self, selectors: &DataSelectors) -> Result<(), BadSelector> {
        let loaded = [
            load_ds(selectors.ds),
            load_es(selectors.es),
            load_fs(selectors.fs),
            load_gs(selectors.gs),
        ];
        if loaded.contains(&false) {
            Err(BadSelector)
        } else {
            Ok(())
        }
    }
}

/// Keeps the count of pages when this one is mapped or unmapped.
fn note_page(pages: &Cell<usize>, index: usize, frame: Option<Mfn>) {
    let count = pages.get();
    match frame {
        Some(_) if index >= count => pages.set(index + 1),
        None if index + 1 == count => pages.set(index),
        _ => {}
    }
}

macro_rules! selector_loads {
    ($($name:ident $register:literal;)*) => {$(
        #[doc = concat!("Loads ", $register, "; 0 if that cannot be, and then the result is false.")]
        fn $name(selector: u16) -> bool {
            let failed: u32;
            // SAFETY: the hypervisor uses no data segment, and a guest may have any that its tables let ring 3 have (those of
            // ring 0 are flat, and do not survive the return). A load that the CPU refuses faults and goes on at 3; the
            // null selector can always be loaded.
            unsafe {
                asm!(
                    concat!("2: mov ", $register, ", {selector:e}"),
                    "jmp 4f",
                    "3: mov {failed:e}, 1",
                    "xor {selector:e}, {selector:e}",
                    concat!("mov ", $register, ", {selector:e}"),
                    "4:",
                    fixup!("2b", "3b"),
                    selector = inout(reg) u32::from(selector) => _,
                    failed = inout(reg) 0_u32 => failed,
                    options(nostack),
                );
            }
            failed == 0
        }
    )*};
}

selector_loads! {
    load_ds "ds";
    load_es "es";
    load_fs "fs";
    load_gs "gs";
}
