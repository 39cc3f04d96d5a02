//! Where a CPU sees descriptor tables: a window of its own, at a fixed place for each CPU, in which pages are exchanged.
//!
//! | page of the window | what |
//! |---|---|
//! | 0-13 | the guest's pages of the GDT; where it has none, one read-only page of zeros |
//! | 14 | the hypervisor's page of the GDT |
//! | 15 | nothing |
//! | 16-31 | the guest's LDT; where no page is mapped, nothing: the fault brings it |
//!
//! The GDT register never changes. Guests cannot reach the window by an address, only by loading a selector, for which the
//! CPU reads (and marks as accessed) the descriptor with the rights of the supervisor.
//!
//! ABI: `public/arch-x86/xen.h`, `FIRST_RESERVED_GDT_PAGE`.
#![forbid(unsafe_code)]

use dom0_abi::addr::PAGE_SIZE;
use dom0_abi::arch::FIRST_RESERVED_GDT_PAGE;

use crate::boot::CpuId;

/// Pages of the GDT that a guest can fill.
pub const GDT_PAGES: usize = FIRST_RESERVED_GDT_PAGE;
/// Pages of an LDT.
pub const LDT_PAGES: usize = 16;
/// Descriptors in a page.
pub const PAGE_ENTRIES: usize = PAGE_SIZE / 8;

/// The last byte of the GDT: it ends with the hypervisor's page. It is the limit that Xen 4.17 has.
pub(crate) const GDT_LIMIT: u16 = ((GDT_PAGES + 1) * PAGE_SIZE - 1) as u16;

/// The hypervisor's descriptors as selectors 0xe000, 0xe008, … find them; all with the accessed bit, so that the CPU never
/// writes. ABI: `public/arch-x86/xen-x86_64.h`, `FLAT_RING3_*`.
pub(crate) const FLAT: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff, // 64-bit code, ring 0
    0x00cf_9300_0000_ffff, // data, ring 0
    0,
    0x00cf_fb00_0000_ffff, // 32-bit code, ring 3
    0x00cf_f300_0000_ffff, // data, ring 3
    0x00af_fb00_0000_ffff, // 64-bit code, ring 3
];

/// Pages of a window.
pub(crate) const WINDOW_PAGES: usize = 32;
/// The page of a window where the LDT begins.
pub(crate) const LDT_START: usize = WINDOW_PAGES - LDT_PAGES;

/// The window of CPU 0; the others follow.
const FIRST: u64 = 0xffff_8180_0000_0000;

/// The window of one CPU, as addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window(u64);

impl Window {
    /// The window of this CPU.
    pub(crate) const fn of(cpu: CpuId) -> Self {
        const SIZE: u64 = (WINDOW_PAGES * PAGE_SIZE) as u64;
        Self(FIRST.wrapping_add((cpu.get() as u64).wrapping_mul(SIZE)))
    }

    /// The address of a page.
    pub(crate) const fn page(self, index: usize) -> u64 {
        self.0
            .wrapping_add((index as u64).wrapping_mul(PAGE_SIZE as u64))
    }

    /// What of the tables is at an address.
    pub(crate) fn offset_of(self, address: u64) -> Option<TableOffset> {
        const TABLE: u64 = (LDT_PAGES * PAGE_SIZE) as u64;
        let offset = address.checked_sub(self.0)?;
        match offset / TABLE {
            0 => Some(TableOffset::Gdt(offset as u16)),
            1 => Some(TableOffset::Ldt((offset % TABLE) as u16)),
            _ => None,
        }
    }
}

/// A place in a descriptor table, as the number of bytes before it: a selector without its lower bits, and what of the
/// descriptor is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableOffset {
    /// In the GDT.
    Gdt(u16),
    /// In the LDT.
    Ldt(u16),
}

/// The data selectors of a guest, which stay in the CPU while the hypervisor runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DataSelectors {
    /// DS.
    pub ds: u16,
    /// ES.
    pub es: u16,
    /// FS.
    pub fs: u16,
    /// GS.
    pub gs: u16,
}

/// A selector could not be loaded; the null selector is loaded in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSelector;

/// The selector that GS of user mode gets when a guest asks for this one: a null selector as it is, any other with the
/// privilege level of a guest, so that none of the hypervisor's own segments can be loaded.
pub(crate) const fn user_selector(selector: u16) -> u16 {
    if is_null(selector) {
        selector
    } else {
        selector | 3
    }
}

/// Whether a selector names no segment.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_belongs_to_one_page_of_one_window() {
        for cpu in [0, 1, 7, 511] {
            let window = Window::of(CpuId::new(cpu));
            for page in 0..WINDOW_PAGES as u16 {
                for offset in [0, 1, 4095] {
                    let address = window.page(page.into()) + u64::from(offset);
                    let place = match page {
                        0..16 => TableOffset::Gdt(page * 4096 + offset),
                        _ => TableOffset::Ldt((page - 16) * 4096 + offset),
                    };
                    assert_eq!(window.offset_of(address), Some(place));
                    for other in [cpu + 1, cpu + 2] {
                        assert_eq!(Window::of(CpuId::new(other)).offset_of(address), None);
                    }
                }
            }
            for address in [window.page(0) - 1, window.page(WINDOW_PAGES), 0, u64::MAX] {
                assert_eq!(window.offset_of(address), None);
            }
        }
    }

    #[test]
    fn user_selectors() {
        for selector in 0..=u16::MAX {
            let user = user_selector(selector);
            if selector < 4 {
                assert_eq!(user, selector);
            } else {
                assert_eq!(user, selector | 3);
            }
        }
    }
}
