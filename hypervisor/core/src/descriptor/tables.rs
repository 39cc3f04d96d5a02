//! The descriptor tables of one vCPU.

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::arch::FLAT_CS64;
use oxen_arch::Cpu;
use oxen_arch::descriptor_window::{GDT_PAGES, LDT_PAGES, PAGE_ENTRIES};
use oxen_arch::memory::PhysMem;

use super::check::is_64bit_code;
use crate::frame::Memory;
use crate::page_type::{HeldType, TypeRef};

/// The pages of a GDT, in their order.
pub(super) type Pages = ArrayVec<HeldType, GDT_PAGES>;

/// The tables of a vCPU, with the references to the frames they lie in.
#[derive(Debug)]
pub struct Tables {
    pub(super) gdt: Pages,
    /// The first pages of a GDT that `set_gdt` has not finished with.
    pub(super) next_gdt: Pages,
    pub(super) ldt: Ldt,
}

/// A local descriptor table, which lies at an address of the guest's and is found page by page.
#[derive(Debug)]
pub(super) struct Ldt {
    /// Where it is, if it has entries: the start of a page, an address that can be a guest's.
    pub(super) base: GuestAddr,
    /// How many descriptors it has.
    pub(super) entries: u16,
    /// What was found of it.
    pub(super) pages: [Option<HeldType>; LDT_PAGES],
}

/// A place in one of the guest's tables, within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the GDT.
    Gdt { page: usize, entry: usize },
    /// In the LDT.
    Ldt { page: usize, entry: usize },
}

impl Tables {
    /// A guest that has none: only the flat segments, which are the hypervisor's.
    pub const EMPTY: Self = Self {
        gdt: ArrayVec::new_const(),
        next_gdt: ArrayVec::new_const(),
        ldt: Ldt {
            base: GuestAddr::new(0),
            entries: 0,
            pages: [const { None }; LDT_PAGES],
        },
    };

    /// Makes these the tables that a CPU sees, which is about to run their vCPU. Pages that neither this vCPU nor the last one has are not
    /// looked at: mostly that is all but one.
    pub fn load(&self, cpu: &Cpu) {
        self.load_gdt(cpu);
        // Without an LDT none of its pages was found.
        let own = match self.ldt.entries {
            0 => 0,
            _ => LDT_PAGES,
        };
        for index in (0..cpu.ldt_pages().max(own)).rev() {
            let page = self.ldt.pages.get(index).and_then(Option::as_ref);
            cpu.map_ldt_page(index, page.map(HeldType::mfn));
        }
        cpu.load_ldt(self.ldt.entries);
    }

    pub(super) fn load_gdt(&self, cpu: &Cpu) {
        for index in (0..cpu.gdt_pages().max(self.gdt.len())).rev() {
            cpu.map_gdt_page(index, self.gdt.get(index).map(HeldType::mfn));
        }
    }

    /// Gives all frames back. No CPU may see the tables any more, or run the vCPU before it sees others.
    pub fn release(&mut self, memory: Memory<'_>) {
        self.ldt.entries = 0;
        let local = self.ldt.pages.iter_mut().filter_map(Option::take);
        let global = self.gdt.drain(..).chain(self.next_gdt.drain(..));
        for held in global.chain(local) {
            drop(TypeRef::from_held(memory, held));
        }
    }

    /// The frames to which references are held, once for each.
    pub fn frames(&self) -> impl Iterator<Item = Mfn> {
        let local = self.ldt.pages.iter().flatten();
        let all = self.gdt.iter().chain(&self.next_gdt).chain(local);
        all.map(HeldType::mfn)
    }

    /// Where a selector leads to: the one place where a selector meets the limits of the tables (XSA-298). `None`: it is
    /// beyond them.
    pub(super) fn locate(&self, selector: u16) -> Option<Place> {
        const LOCAL: u16 = 4;
        let index = usize::from(selector >> 3);
        let (page, entry) = (index / PAGE_ENTRIES, index % PAGE_ENTRIES);
        if selector & LOCAL != 0 {
            (index < usize::from(self.ldt.entries)).then_some(Place::Ldt { page, entry })
        } else {
            (page < self.gdt.len()).then_some(Place::Gdt { page, entry })
        }
    }

    /// The descriptor that a selector names in the guest's tables, as far as they are mapped.
    pub fn descriptor(&self, mem: &PhysMem, selector: u16) -> Option<u64> {
        let (held, entry) = match self.locate(selector)? {
            Place::Gdt { page, entry } => (self.gdt.get(page)?, entry),
            Place::Ldt { page, entry } => (self.ldt.pages.get(page)?.as_ref()?, entry),
        };
        mem.load_u64(held.mfn().word(entry)).ok()
    }

    /// Whether a code selector names 64-bit code. What the CPU runs was read from the same place, some time ago.
    pub fn is_64bit_code(&self, mem: &PhysMem, selector: u16) -> bool {
        selector | 3 == FLAT_CS64 || self.descriptor(mem, selector).is_some_and(is_64bit_code)
    }
}
