//! Page tables of the guest's own making: pages for them, changing them by hypercall, pinning, and a window to try
//! things in.
//!
//! [`Lab`] hangs a table of each level into the live root, for addresses that nothing else uses. What is tried there
//! harms nobody even if the hypervisor accepts what it should refuse.

use core::sync::atomic::{AtomicUsize, Ordering};

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuCommand, MmuUpdate, MmuextCommand, MmuextOp, UVMF_INVLPG, UVMF_LOCAL};
use guest_pv_drivers::hypercall::{self, Batch, foreigndom};

use crate::memory::{PAGE, Page, VIRT_BASE, physical_to_machine, pte, read, remap};
use crate::probe;
use crate::start_info;

const PAGES: usize = 160;

static POOL: [Page; PAGES] = [const { Page::new() }; PAGES];
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static FRAMES_TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Bits of an entry that leads to another table, or to a page that is only read.
pub const READ_ONLY: u64 = pte::P | pte::U | pte::A;
/// Bits of an entry that maps a writable page, or leads to a table, as Linux has them.
pub const WRITABLE: u64 = READ_ONLY | pte::RW | pte::D;

/// A page of zeroes that nobody else has, mapped writable.
pub fn page() -> &'static Page {
    let index = TAKEN.fetch_add(1, Ordering::Relaxed);
    POOL.get(index).expect("the pool of pages is large enough")
}

/// Gives the page back that was taken last, if it is plain and all zeroes again; else it stays taken.
pub fn release(page: &'static Page) {
    let last = TAKEN.load(Ordering::Relaxed) - 1;
    if core::ptr::eq(page, &raw const POOL[last])
        && is_plain(page)
        && (0..512).all(|index| page.word(index) == Ok(0))
    {
        TAKEN.store(last, Ordering::Relaxed);
    }
}

/// A frame of the guest's that nothing maps and that has no type: its mfn. It never comes back.
pub fn unmapped_frame() -> u64 {
    let before = FRAMES_TAKEN.fetch_add(1, Ordering::Relaxed) as u64;
    physical_to_machine(start_info().nr_pages - 1 - before).expect("the guest has more than that")
}

/// Maps a page of the kit's read-only.
pub fn protect(page: &'static Page) -> Result<u64, Errno> {
    remap(page, page.machine() | READ_ONLY)
}

/// Maps a page of the kit's writable.
pub fn unprotect(page: &'static Page) -> Result<u64, Errno> {
    remap(page, page.machine() | WRITABLE)
}

/// Takes a page of the kit's out of the kernel's mapping.
pub fn unmap(page: &'static Page) -> Result<u64, Errno> {
    remap(page, 0)
}

/// Whether a page can be written as any page can: it is no table and holds no other type. It is writable afterwards,
/// with the content that it had.
pub fn is_plain(page: &'static Page) -> bool {
    let Ok(old) = page.word(511) else {
        return unprotect(page).is_ok();
    };
    unprotect(page).is_ok()
        && page.set_word(511, !old).is_none()
        && page.word(511) == Ok(!old)
        && page.set_word(511, old).is_none()
}

/// A table, wherever it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where the guest reads it.
    pub address: u64,
    /// Its frame.
    pub mfn: u64,
}

impl Table {
    /// The table that a page is or will be.
    pub fn of(page: &'static Page) -> Self {
        Self {
            address: page.address(),
            mfn: page.mfn(),
        }
    }

    /// The root that the builder made.
    pub fn boot_root() -> Self {
        let address = start_info().pt_base;
        let mfn = physical_to_machine((address - VIRT_BASE) / PAGE);
        Self {
            address,
            mfn: mfn.expect("the root is in the p2m list"),
        }
    }

    /// The table of this level (1 to 4) through which the builder maps an address of the kernel's.
    pub fn of_kernel(level: usize, va: u64) -> Self {
        if level == 4 {
            return Self::boot_root();
        }
        let (entries, _) = crate::memory::walk(va);
        let mfn = (entries[3 - level] & pte::MFN) / PAGE;
        let pfn = crate::memory::machine_to_physical(mfn).expect("it is a table of the guest's");
        Self {
            address: VIRT_BASE + pfn * PAGE,
            mfn,
        }
    }

    /// One of its entries.
    pub fn entry(self, slot: usize) -> u64 {
        read(self.address + slot as u64 * 8).expect("tables are mapped")
    }

    /// The machine address of an entry.
    pub fn machine(self, slot: usize) -> u64 {
        self.mfn * PAGE + slot as u64 * 8
    }

    /// Changes an entry by `mmu_update`.
    ///
    /// # Safety
    ///
    /// Either the hypervisor refuses it, or whatever Rust knows to be at the addresses that change stays true.
    pub unsafe fn set(self, slot: usize, entry: u64) -> Result<u64, Errno> {
        // SAFETY: the caller answers for the change.
        unsafe { update(self.machine(slot), entry) }.result
    }
}

/// One `mmu_update` of the guest's own; `place` carries the command in its low bits.
///
/// # Safety
///
/// As for [`Table::set`].
pub unsafe fn update(place: u64, value: u64) -> Batch {
    let list = [MmuUpdate {
        ptr: place,
        val: value,
    }];
    // SAFETY: the caller answers for the change.
    unsafe { hypercall::mmu_update(&list, foreigndom(DomId::SELF, None)) }
}

/// One `mmu_update` with a command.
///
/// # Safety
///
/// As for [`Table::set`].
pub unsafe fn update_as(command: MmuCommand, place: u64, value: u64) -> Batch {
    // SAFETY: the caller answers for the change.
    unsafe { update(place | command as u64, value) }
}

/// One operation of `mmuext_op`.
///
/// # Safety
///
/// As for [`hypercall::mmuext_op`].
pub unsafe fn extended(command: MmuextCommand, arg1: u64, arg2: u64) -> Batch {
    let list = [operation(command, arg1, arg2)];
    // SAFETY: the caller answers for the operation.
    unsafe { hypercall::mmuext_op(&list, foreigndom(DomId::SELF, None)) }
}

/// An entry for a list of `mmuext_op`.
pub fn operation(command: MmuextCommand, arg1: u64, arg2: u64) -> MmuextOp {
    MmuextOp {
        cmd: command as u32,
        _pad0: 0,
        arg1,
        arg2,
    }
}

/// Pins a frame as a table of this level (1 to 4). Nothing that Rust knows of changes by that: a frame with a writable
/// mapping is refused.
pub fn pin(level: usize, mfn: u64) -> Result<u64, Errno> {
    let command = match level {
        1 => MmuextCommand::PinL1Table,
        2 => MmuextCommand::PinL2Table,
        3 => MmuextCommand::PinL3Table,
        _ => MmuextCommand::PinL4Table,
    };
    // SAFETY: see above.
    unsafe { extended(command, mfn, 0) }.result
}

/// Ends a pin.
pub fn unpin(mfn: u64) -> Result<u64, Errno> {
    // SAFETY: no mapping changes by that.
    unsafe { extended(MmuextCommand::UnpinTable, mfn, 0) }.result
}

/// The root of kernel mode, as the hypervisor shows it.
pub fn current_root() -> u64 {
    let root: u64;
    let trap = probe!("mov {root}, cr3"; root = out(reg) root);
    assert!(trap.is_none(), "CR3 can be read");
    root / PAGE
}

/// A table of each level below the root, for addresses from [`Lab::WINDOW`] on.
#[derive(Clone, Copy)]
pub struct Lab {
    pages: [&'static Page; 3],
}

impl Lab {
    /// The first address that the tables translate: slot 0 of each but the root's.
    pub const WINDOW: u64 = Self::ROOT_SLOT as u64 * (1 << 39);
    /// The slot of the root that leads here.
    pub const ROOT_SLOT: usize = 3;

    /// Makes the tables, empty but for the way down to the level-1 table, and hangs them into the live root.
    pub fn new() -> Result<Self, Errno> {
        let lab = Self {
            pages: [page(), page(), page()],
        };
        let [l1, l2, l3] = lab.pages;
        for (table, below) in [(l3, l2), (l2, l1)] {
            table.set_word(0, below.machine() | WRITABLE);
        }
        for table in lab.pages {
            protect(table)?;
        }
        // SAFETY: the addresses were nobody's.
        unsafe { Table::boot_root().set(Self::ROOT_SLOT, l3.machine() | WRITABLE) }?;
        Ok(lab)
    }

    /// The table of this level (1 to 4); the one of level 4 is the live root.
    pub fn table(&self, level: usize) -> Table {
        match self.pages.get(level - 1) {
            Some(page) => Table::of(page),
            None => Table::boot_root(),
        }
    }

    /// A slot that is free in the table of this level, number `index` of at least 8.
    pub fn free_slot(level: usize, index: usize) -> usize {
        if level == 4 {
            Self::ROOT_SLOT + 1 + index
        } else {
            1 + index
        }
    }

    /// The address that a slot of the level-1 table translates.
    pub fn address(slot: usize) -> u64 {
        Self::WINDOW + slot as u64 * PAGE
    }

    /// Maps something at a slot of the level-1 table. Nothing that Rust knows of is there.
    pub fn map(&self, slot: usize, entry: u64) -> Result<u64, Errno> {
        // SAFETY: Rust knows of nothing in the window.
        unsafe {
            hypercall::update_va_mapping(Self::address(slot), entry, UVMF_INVLPG | UVMF_LOCAL)
        }
    }

    /// Writes an entry of one of the tables, at a slot that translates no address of the kernel's.
    pub fn set(&self, level: usize, slot: usize, entry: u64) -> Result<u64, Errno> {
        assert!(level < 4 || (Self::ROOT_SLOT..256).contains(&slot));
        // SAFETY: Rust knows of nothing below.
        unsafe { self.table(level).set(slot, entry) }
    }
}
