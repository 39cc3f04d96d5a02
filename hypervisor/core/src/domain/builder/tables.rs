//! Writes the first page tables of a domain: 4 KiB pages only, tables taken from a run of frames as they are needed.
//!
//! INVARIANT: the run is exhausted exactly when everything is mapped that the layout counted; a table frame is mapped
//! read-only or not at all, which is the caller's choice of [`Protection`] for each page.

use dom0_abi::addr::{Mfn, PAGE_SHIFT};
use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use oxen_arch::Machine;
use oxen_arch::boot::MfnRange;
use oxen_arch::memory::{BadFrame, PhysMem};

use crate::page_type::entry::bits::{
    ACCESSED, DIRTY, FRAME, GUEST_KERNEL, PRESENT, USER, WRITABLE,
};

const UPPER: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
const READ_ONLY: u64 = PRESENT | USER | ACCESSED | DIRTY | GUEST_KERNEL;

/// What the guest may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protection {
    /// Read, write and run.
    Writable,
    /// Read and run.
    ReadOnly,
}

/// The tables of one address space under construction.
pub(super) struct Tables<'m> {
    mem: &'m PhysMem,
    root: Mfn,
    unused: MfnRange,
}

impl<'m> Tables<'m> {
    /// Starts an address space whose tables come from `frames`: the first becomes the root. The root has the
    /// hypervisor's slots and nothing else.
    pub fn new(machine: &'m Machine, frames: MfnRange) -> Result<Self, BadFrame> {
        let mut tables = Self {
            mem: machine.mem(),
            root: frames.start,
            unused: frames,
        };
        let root = tables.take()?;
        for slot in HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT {
            let entry = machine.root_entry(slot).unwrap_or(0);
            tables
                .mem
                .store_u64(root.at(slot.saturating_mul(8)), entry)?;
        }
        Ok(tables)
    }

    /// The root.
    pub fn root(&self) -> Mfn {
        self.root
    }

    /// Takes further tables from `frames`. What is left of those before is not used any more.
    pub fn continue_with(&mut self, frames: MfnRange) {
        self.unused = frames;
    }

    /// Maps one page, which is not mapped yet. Fails if there is no frame left for a table.
    pub fn map(&mut self, va: u64, page: Mfn, protection: Protection) -> Result<(), BadFrame> {
        let mut table = self.root;
        for shift in [PAGE_SHIFT + 27, PAGE_SHIFT + 18, PAGE_SHIFT + 9] {
            let at = table.at(entry_offset(va, shift));
            let entry = self.mem.load_u64(at)?;
            table = if entry & PRESENT == 0 {
                let new = self.take()?;
                self.mem.store_u64(at, new.start().get() | UPPER)?;
                new
            } else {
                Mfn::new((entry & FRAME) >> PAGE_SHIFT)
            };
        }
        let flags = match protection {
            Protection::Writable => READ_ONLY | WRITABLE,
            Protection::ReadOnly => READ_ONLY,
        };
        let at = table.at(entry_offset(va, PAGE_SHIFT));
        self.mem.store_u64(at, page.start().get() | flags)
    }

    /// The next frame, empty.
    fn take(&mut self) -> Result<Mfn, BadFrame> {
        if self.unused.is_empty() {
            return Err(BadFrame);
        }
        let table = self.unused.start;
        self.unused.start = table.checked_add(1).ok_or(BadFrame)?;
        self.mem.zero_frame(table)?;
        Ok(table)
    }
}

/// Where in its table the entry for `va` is; an entry covers `1 << shift` bytes.
fn entry_offset(va: u64, shift: u32) -> usize {
    let slot = va.checked_shr(shift).unwrap_or(0) & 511;
    // Below 4096.
    (slot as usize).wrapping_mul(8)
}
