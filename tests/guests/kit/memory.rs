//! The guest's address space as the domain builder made it: what is mapped, what is not, where tables are.

use core::ptr;

pub use dom0_abi::arch::HYPERVISOR_VIRT_START;
use dom0_abi::arch::{HYPERVISOR_VIRT_END, MACH2PHYS_VIRT_START};
use dom0_abi::errno::Errno;
use dom0_abi::xen::{UVMF_INVLPG, UVMF_LOCAL};
use guest_pv_drivers::hypercall;

use crate::probe;
use crate::single::Single;
use crate::start_info;
use crate::trap::{Trap, vector};

/// Where pfn 0 is mapped, as the ELF notes say.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// An address that nothing maps: the initial page tables hold the top of the address space alone.
pub const UNMAPPED: u64 = 0x1000;
/// An address that no page table can map.
pub const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// The machine-to-physical table: readable, not writable.
pub const READ_ONLY_OF_HYPERVISOR: u64 = MACH2PHYS_VIRT_START;
/// The last page that is the hypervisor's own.
pub const LAST_OF_HYPERVISOR: u64 = HYPERVISOR_VIRT_END - PAGE;
const _: () = assert!(HYPERVISOR_VIRT_START == MACH2PHYS_VIRT_START);

/// Bits of a page-table entry.
#[allow(missing_docs)]
pub mod pte {
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const PWT: u64 = 1 << 3;
    pub const PCD: u64 = 1 << 4;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PSE: u64 = 1 << 7;
    pub const PAT: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
    pub const MFN: u64 = 0x000f_ffff_ffff_f000;
}

unsafe extern "C" {
    static guest_image_start: u8;
    static guest_image_end: u8;
}

/// The addresses of the guest's image, end exclusive.
pub fn image() -> (u64, u64) {
    (
        &raw const guest_image_start as u64,
        &raw const guest_image_end as u64,
    )
}

/// The end of what the builder mapped: the first address behind the image whose page is not there.
///
/// The page before it belongs to the spare memory that the builder leaves behind the boot stack; it is writable, and
/// nobody uses it.
pub fn end_of_mapping() -> u64 {
    let mut va = image().1.next_multiple_of(PAGE);
    while read(va).is_ok() {
        va += PAGE;
    }
    va
}

/// Reads eight bytes that may not be there; the error is #PF's error code.
pub fn read(va: u64) -> Result<u64, u64> {
    let value: u64;
    match probe!("mov {value}, [{va}]"; va = in(reg) va, value = out(reg) value) {
        None => Ok(value),
        Some(trap) if trap.vector == vector::PF => Err(trap.error.unwrap_or(u64::MAX)),
        Some(_) => Err(u64::MAX),
    }
}

/// Writes eight bytes that may not be writable, and returns the trap if they are not. The place must be none that Rust
/// knows of.
pub fn write(va: u64, value: u64) -> Option<Trap> {
    probe!("mov [{va}], {value}"; va = in(reg) va, value = in(reg) value)
}

/// Entry `mfn` of the machine-to-physical table.
pub fn machine_to_physical(mfn: u64) -> Option<u64> {
    read(MACH2PHYS_VIRT_START.wrapping_add(mfn.wrapping_mul(8))).ok()
}

/// The mfn of one of the guest's frames, by the p2m list.
pub fn physical_to_machine(pfn: u64) -> Option<u64> {
    if pfn >= start_info().nr_pages {
        return None;
    }
    read(start_info().mfn_list + pfn * 8).ok()
}

/// The page-table entry of each level that translates `va`, level 4 first, and how many there are: the last is the one
/// of level 1, or the first that leads to no table of the guest's.
pub fn walk(va: u64) -> ([u64; 4], usize) {
    let mut entries = [0; 4];
    let mut table = start_info().pt_base;
    for (level, place) in entries.iter_mut().enumerate() {
        let slot = va >> (39 - 9 * level) & 511;
        // SAFETY: `table` is a page-table page, which the builder maps.
        let entry = unsafe {
            ptr::with_exposed_provenance::<u64>((table + slot * 8) as usize).read_volatile()
        };
        *place = entry;
        let below = machine_to_physical((entry & pte::MFN) / PAGE);
        // A table of the hypervisor's has no pfn.
        let Some(pfn) = below.filter(|&pfn| entry & pte::P != 0 && pfn < start_info().nr_pages)
        else {
            return (entries, level + 1);
        };
        table = VIRT_BASE + pfn * PAGE;
    }
    (entries, 4)
}

/// The level-1 entry of an address that is mapped.
pub fn leaf(va: u64) -> u64 {
    walk(va).0[3]
}

/// A page that checks may do anything with.
#[repr(C, align(4096))]
pub struct Page(Single<[u8; PAGE as usize]>);

impl Page {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self(Single::new([0; PAGE as usize]))
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// Its frame, whether it is mapped or not.
    pub fn mfn(&self) -> u64 {
        let pfn = (self.address() - VIRT_BASE) / PAGE;
        physical_to_machine(pfn).expect("the image is in the p2m list")
    }

    /// Its machine address.
    pub fn machine(&self) -> u64 {
        self.mfn() * PAGE
    }

    /// One of its 512 words; where it is not mapped, the error code of the fault.
    pub fn word(&self, index: usize) -> Result<u64, u64> {
        read(self.address() + index as u64 * 8)
    }

    /// Writes one of its words, and returns the trap if it may not.
    pub fn set_word(&self, index: usize, value: u64) -> Option<Trap> {
        write(self.address() + index as u64 * 8, value)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// Maps a page of the guest anew by `update_va_mapping`, with a flush of that address.
pub fn remap(page: &'static Page, entry: u64) -> Result<u64, Errno> {
    // SAFETY: Rust sees the page as a cell that is only ever reached through a raw pointer.
    unsafe { hypercall::update_va_mapping(page.address(), entry, UVMF_INVLPG | UVMF_LOCAL) }
}

static SHARED_INFO: Page = Page::new();

/// The address of the shared info page, mapped for the purpose. The error is that of a hypervisor without
/// `update_va_mapping`.
pub fn shared_info() -> Result<u64, Errno> {
    remap(
        &SHARED_INFO,
        start_info().shared_info | pte::P | pte::RW | pte::U | pte::A | pte::D,
    )?;
    Ok(SHARED_INFO.address())
}
