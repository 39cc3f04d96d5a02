//! Segments of the model CPU: the descriptor window, and what loading a data selector does.
//!
//! SPEC: Intel SDM volume 2, MOV; volume 3, 3.4.5 (descriptors), 5.6 (privilege), figure 8-4.

use std::vec::Vec;

use dom0_abi::addr::Mfn;

use super::cpu::Cpu;
use super::frames::Frames;
use super::processor::Processor;
use crate::descriptor_window::{
    BadSelector, DataSelectors, FLAT, GDT_LIMIT, GDT_PAGES, LDT_PAGES, LDT_START, PAGE_ENTRIES,
    TableOffset, Window, is_null, user_selector,
};
use crate::sync::atomic::Ordering;

/// Descriptor pages that a CPU has mapped.
#[derive(Default)]
pub(super) struct MappedPages {
    gdt: [Option<Mfn>; GDT_PAGES],
    ldt: [Option<Mfn>; LDT_PAGES],
}

/// What the CPU raises when a data selector cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentFault {
    /// #GP with this error code.
    GeneralProtection(u32),
    /// #NP with this error code.
    NotPresent(u32),
    /// #PF with error code 0, a read with the rights of the supervisor. The address is in CR2.
    PageFault,
}

impl Processor {
    /// What a data selector stands for at a privilege level: the base of its segment. Marks the descriptor as accessed.
    fn load_data_selector(
        &mut self,
        frames: &Frames,
        window: Window,
        selector: u16,
        level: u16,
    ) -> Result<u64, SegmentFault> {
        const ACCESSED: u64 = 1 << 40;
        if is_null(selector) {
            return Ok(0);
        }
        let code = u32::from(selector & !3);
        let refused = SegmentFault::GeneralProtection(code);
        let offset = u32::from(selector & !7);
        let is_local = selector & 4 != 0;
        let limit = if is_local {
            u32::from(self.registers.ldt_entries) * 8
        } else {
            u32::from(GDT_LIMIT) + 1
        };
        if offset + 7 >= limit {
            return Err(refused);
        }
        let index = usize::from(selector >> 3);
        let (page, entry) = (index / PAGE_ENTRIES, index % PAGE_ENTRIES);
        let frame = if is_local {
            let Some(frame) = self.pages.ldt[page] else {
                self.registers.fault_address = window.page(LDT_START) + u64::from(offset);
                return Err(SegmentFault::PageFault);
            };
            Some(frame)
        } else {
            self.pages.gdt.get(page).copied().flatten()
        };
        let word = frame.map(|frame| {
            frames
                .word(frame.at(entry * 8))
                .expect("a mapped page is RAM")
        });
        let descriptor = match word {
            Some(word) => word.load(Ordering::SeqCst),
            None if page < GDT_PAGES => 0,
            None => FLAT.get(entry).copied().unwrap_or(0),
        };
        let kind = descriptor >> 40 & 0x1f;
        let is_code = kind & 0x18 == 0x18;
        let is_readable = kind & 0x10 != 0 && (!is_code || kind & 2 != 0);
        let is_conforming = is_code && kind & 4 != 0;
        let dpl = (descriptor >> 45 & 3) as u16;
        if !is_readable || (!is_conforming && dpl < level.max(selector & 3)) {
            return Err(refused);
        }
        if descriptor >> 47 & 1 == 0 {
            return Err(SegmentFault::NotPresent(code));
        }
        if let Some(word) = word.filter(|_| descriptor & ACCESSED == 0) {
            word.fetch_or(ACCESSED, Ordering::SeqCst);
        }
        Ok(descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24)
    }
}

/// Segments of guests.
impl Cpu {
    fn window(&self) -> Window {
        Window::of(self.id())
    }

    /// Maps a page of the guest's GDT; `None` for one that it does not have. There are `GDT_PAGES` of them.
    pub fn map_gdt_page(&self, index: usize, frame: Option<Mfn>) {
        if let Some(page) = self.processor().pages.gdt.get_mut(index) {
            *page = frame;
        }
    }

    /// Maps a page of the guest's LDT, of which there are `LDT_PAGES`, or unmaps it.
    pub fn map_ldt_page(&self, index: usize, frame: Option<Mfn>) {
        if let Some(page) = self.processor().pages.ldt.get_mut(index) {
            *page = frame;
        }
    }

    /// How many pages of the GDT, from the first on, may be a guest's: none behind them is.
    pub fn gdt_pages(&self) -> usize {
        count(&self.processor().pages.gdt)
    }

    /// The same for the LDT.
    pub fn ldt_pages(&self) -> usize {
        count(&self.processor().pages.ldt)
    }

    /// Loads an LDT of so many descriptors, 8192 at most; none if it is 0.
    pub fn load_ldt(&self, nr_entries: u16) {
        self.processor().registers.ldt_entries = nr_entries.min(8192);
    }

    /// What of the tables the window shows at an address; `None` if the address is not in this CPU's window.
    pub fn table_offset_of(&self, address: u64) -> Option<TableOffset> {
        self.window().offset_of(address)
    }

    /// Loads the selector of GS for user mode, and sets the base that is kept for user mode to the one that comes with it.
    /// A selector that cannot be loaded counts as 0. The base that GS has now stays.
    pub fn load_user_gs_selector(&self, selector: u16) {
        let selector = user_selector(selector);
        let loaded = self.load_data_selector(selector, 0);
        let mut processor = self.processor();
        processor.registers.selectors.gs = if loaded.is_ok() { selector } else { 0 };
        processor.registers.user_gs_base = loaded.unwrap_or(0);
    }

    /// The data selectors of the guest.
    pub fn read_selectors(&self) -> DataSelectors {
        self.processor().registers.selectors
    }

    /// Loads data selectors, as many as can be; the others become 0 and the result says so. The bases of FS and GS are to
    /// be loaded after this: loading a null selector leaves them alone here, as it does on some CPUs.
    pub fn load_selectors(&self, selectors: &DataSelectors) -> Result<(), BadSelector> {
        let load = |selector| self.load_data_selector(selector, 0);
        let bases = [selectors.ds, selectors.es, selectors.fs, selectors.gs].map(load);
        let kept = |selector, base: Result<u64, _>| base.map_or(0, |_| selector);
        let mut processor = self.processor();
        let registers = &mut processor.registers;
        registers.selectors = DataSelectors {
            ds: kept(selectors.ds, bases[0]),
            es: kept(selectors.es, bases[1]),
            fs: kept(selectors.fs, bases[2]),
            gs: kept(selectors.gs, bases[3]),
        };
        if !is_null(registers.selectors.fs) {
            registers.fs_base = bases[2].unwrap_or(0);
        }
        if !is_null(registers.selectors.gs) {
            registers.gs_base = bases[3].unwrap_or(0);
        }
        if bases.iter().all(Result::is_ok) {
            Ok(())
        } else {
            Err(BadSelector)
        }
    }

    fn load_data_selector(&self, selector: u16, level: u16) -> Result<u64, SegmentFault> {
        self.processor()
            .load_data_selector(&self.parts.frames, self.window(), selector, level)
    }

    /// What the guest sees when it executes `mov gs, selector`: the base that it has then.
    pub fn guest_loads_gs(&self, selector: u16) -> Result<u64, SegmentFault> {
        let base = self.load_data_selector(selector, 3)?;
        let mut processor = self.processor();
        processor.registers.selectors.gs = selector;
        processor.registers.gs_base = base;
        Ok(base)
    }

    /// The guest's frames that the window shows, once for each page.
    pub fn descriptor_pages(&self) -> Vec<Mfn> {
        let processor = self.processor();
        let MappedPages { gdt, ldt } = &processor.pages;
        gdt.iter().chain(ldt).flatten().copied().collect()
    }
}

/// The number of the last page that is mapped, and one.
fn count(pages: &[Option<Mfn>]) -> usize {
    let last = pages.iter().rposition(Option::is_some);
    last.map_or(0, |last| last + 1)
}
