//! Twins of roots, against CPUs on which user mode reads what only the supervisor may (Meltdown, XSA-254).
//!
//! A guest runs on the twin of its root. In the guest's slots it holds what the root holds; that is kept by `core`, at each
//! write to the root. Of ours it holds what an entry needs before it has loaded the root itself, and nothing that is secret:
//! text and constants of the image, the page of the IDT, the descriptor windows, the machine-to-physical table, and of each
//! CPU's area the record, the stacks of the interrupt stack table and the last page of the main stack. The stubs of
//! `entry` switch; nothing is copied then.

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};

use super::cpu::Cpu;
use super::machine::{ImageParts, Machine};
use super::paging::{Access, OwnHalf};
use super::{descriptors, layout};
use crate::boot::MfnRange;
use crate::boot_memory::BootMemory;

/// Our half of all twins, while boot builds it.
pub(super) struct Twin(OwnHalf);

impl Twin {
    /// Maps what twins show of an image that lies at `image`. `None` if there is no memory for the tables.
    pub(super) fn new(memory: &mut BootMemory, image: Maddr, parts: &ImageParts) -> Option<Self> {
        let mut half = OwnHalf::new(memory, 0, false)?;
        let maddr = |offset: u64| Maddr::new(image.get() + offset);
        for (start, end, access) in parts.mapped() {
            if matches!(access, Access::Text | Access::ReadOnly) {
                let at = layout::IMAGE + start;
                half.map(memory, at, maddr(start), end - start, access)?;
            }
        }
        let idt = descriptors::idt_page();
        let page = PAGE_SIZE as u64;
        let frame = maddr(idt - layout::IMAGE);
        half.map(memory, idt, frame, page, Access::ReadOnly)?;
        Some(Self(half))
    }

    /// Maps frames of a CPU's area.
    pub(super) fn map_data(
        &mut self,
        memory: &mut BootMemory,
        at: u64,
        frames: MfnRange,
    ) -> Option<()> {
        let start = frames.start.start();
        self.0.map(memory, at, start, frames.bytes(), Access::Data)
    }

    /// What a twin holds in our slots, where a root holds `full`.
    pub(super) fn root_entries(mut self, full: [u64; 16]) -> [u64; 16] {
        self.0.twin_entries(full)
    }
}

impl Cpu {
    /// Loads a root, as [`Self::load_root`], and makes guests run on its twin, whose slots 256 to 271 are
    /// `Machine::twin_entry`'s and whose others are the root's.
    pub fn load_roots(&self, root: Mfn, twin: Mfn) {
        self.load_root(root);
        self.local.entry_root.set(root.start().get());
        self.local.exit_root.set(twin.start().get());
    }
}

impl Machine {
    /// Whether guests are to run on twins of their roots.
    pub fn uses_twins(&self) -> bool {
        self.0.twin_entries.is_some()
    }

    /// What slot 256..=271 of each twin must hold; `None` for other slots, and where there are no twins.
    pub fn twin_entry(&self, slot: usize) -> Option<u64> {
        let entries = self.0.twin_entries.as_ref()?;
        entries
            .get(slot.checked_sub(*layout::OUR_SLOTS.start())?)
            .copied()
    }
}
