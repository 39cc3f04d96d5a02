//! Where everything goes in a new domain's memory: pure arithmetic on what the kernel, the initrd and the size say.
//!
//! What is mapped at the start is one run of pfns from 0 at VIRT_BASE: kernel, an initrd or p2m list that must be mapped,
//! start_info, page tables, boot stack, and spare pages, which Linux uses. Behind it, unmapped: the initrd, the p2m list
//! that is mapped at INIT_P2M, with the tables of that mapping, and the rest. ABI: `public/xen.h`, "Start-of-day memory
//! layout".

use dom0_abi::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn};
use dom0_abi::arch::HYPERVISOR_VIRT_END;

use super::error::BuildError;

/// Entries of a p2m list in a page.
pub const P2M_ENTRIES: u64 = PAGE_SIZE as u64 / 8;

/// The end of the mapping is a multiple of this ...
const MAPPING_STEP: u64 = 4 << 20;
/// ... and leaves at least this behind the boot stack.
const LEAST_SPARE: u64 = 512 << 10;

/// The first address that is not canonical.
const LOWER_HALF_END: u64 = 0x0000_8000_0000_0000;

/// More pages than any machine has frames; below this no sum in this file overflows.
const MOST_PAGES: u64 = 1 << 40;

/// Neighbouring pfns, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PfnRange {
    /// The first.
    pub start: Pfn,
    /// The one behind the last.
    pub end: Pfn,
}

impl PfnRange {
    /// How many there are.
    pub fn len(self) -> u64 {
        self.end.get().saturating_sub(self.start.get())
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `pfn` is among them.
    pub fn contains(self, pfn: Pfn) -> bool {
        self.start <= pfn && pfn < self.end
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Pfn> {
        (self.start.get()..self.end.get()).map(Pfn::new)
    }
}

/// What a layout follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The address of pfn 0; a multiple of a page.
    pub virt_base: u64,
    /// The guest's own address behind the last byte of the kernel.
    pub kernel_end: u64,
    /// Pages that the domain gets.
    pub nr_pages: u64,
    /// Where to map the p2m list; `None`: inside the initial mapping.
    pub init_p2m: Option<u64>,
    /// Bytes of the initrd.
    pub initrd: Option<u64>,
    /// The initrd must lie inside the initial mapping.
    pub initrd_mapped: bool,
}

/// Where the p2m list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum P2mPlace {
    /// Inside the initial mapping.
    Mapped(PfnRange),
    /// Behind it, mapped at an address of its own.
    Apart {
        /// That address.
        va: u64,
        /// The list.
        list: PfnRange,
        /// The tables that only its mapping has. They follow the list.
        tables: PfnRange,
    },
}

/// Where everything is. Regions do not overlap and lie below `nr_pages`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Pages of the domain.
    pub nr_pages: u64,
    /// The address of pfn 0.
    pub virt_base: u64,
    /// What is mapped there, from pfn 0 on.
    pub mapped: PfnRange,
    /// The initrd; inside `mapped` or behind it.
    pub initrd: Option<PfnRange>,
    /// The p2m list.
    pub p2m: P2mPlace,
    /// The page of start_info and the record of the screen.
    pub start_info: Pfn,
    /// The page tables of the initial mapping, the root first.
    pub tables: PfnRange,
    /// The page whose end is the first stack pointer.
    pub stack: Pfn,
    /// The first pfn of which nothing is said here: ordinary memory up to `nr_pages`.
    pub rest: Pfn,
}

impl Layout {
    /// Lays out a domain. The error says what does not fit.
    pub fn new(needs: &Needs) -> Result<Self, BuildError> {
        let nr_pages = needs.nr_pages;
        if nr_pages == 0 || nr_pages > MOST_PAGES {
            return Err(BuildError::TooLarge(nr_pages));
        }
        let kernel_pages = pages(needs.kernel_end);
        let initrd_pages = needs.initrd.map(pages);
        let kernel_does_not_fit = |needed| BuildError::KernelDoesNotFit { needed, nr_pages };
        let initrd_does_not_fit = |initrd| BuildError::InitrdDoesNotFit { initrd, nr_pages };
        if kernel_pages > nr_pages {
            return Err(kernel_does_not_fit(kernel_pages));
        }
        if let Some(initrd) = initrd_pages.filter(|initrd| *initrd > nr_pages) {
            return Err(initrd_does_not_fit(initrd));
        }
        let list_pages = nr_pages.div_ceil(P2M_ENTRIES);

        let mut cursor = Cursor(kernel_pages);
        let mut initrd = match initrd_pages {
            Some(count) if needs.initrd_mapped => Some(cursor.take(count)),
            _ => None,
        };
        let p2m_mapped = match needs.init_p2m {
            None => Some(cursor.take(list_pages)),
            Some(_) => None,
        };
        let start_info = cursor.take(1).start;
        let (tables, stack, mapped) = Self::solve_tables(needs.virt_base, cursor)?;
        if mapped.len() > nr_pages {
            return Err(match initrd {
                Some(initrd) => initrd_does_not_fit(initrd.len()),
                None => kernel_does_not_fit(mapped.len()),
            });
        }

        let mut cursor = Cursor(mapped.end.get());
        if let (None, Some(count)) = (initrd, initrd_pages) {
            let range = cursor.take(count);
            if range.end.get() > nr_pages {
                return Err(initrd_does_not_fit(count));
            }
            initrd = Some(range);
        }
        let p2m = match (p2m_mapped, needs.init_p2m) {
            (Some(list), _) => P2mPlace::Mapped(list),
            (None, va) => {
                let va = va.unwrap_or_default();
                let window = Span::of_pages(va, list_pages)?;
                let mapping = Span::of_pages(needs.virt_base, mapped.len())?;
                if window.overlaps(mapping) {
                    return Err(window.refused());
                }
                let list = cursor.take(list_pages);
                let tables = cursor.take(window.tables_beside(mapping));
                if tables.end.get() > nr_pages {
                    let p2m = list.len().saturating_add(tables.len());
                    return Err(BuildError::P2mDoesNotFit { p2m, nr_pages });
                }
                P2mPlace::Apart { va, list, tables }
            }
        };
        Ok(Self {
            nr_pages,
            virt_base: needs.virt_base,
            mapped,
            initrd,
            p2m,
            start_info,
            tables,
            stack,
            rest: Pfn::new(cursor.0),
        })
    }

    /// Finds how many tables map a range that holds these tables too: the mapping grows with its tables, so their number
    /// is raised until it maps all. Returns tables, stack and the whole mapping.
    fn solve_tables(
        virt_base: u64,
        before: Cursor,
    ) -> Result<(PfnRange, Pfn, PfnRange), BuildError> {
        let mut nr_tables = 0;
        loop {
            let mut cursor = Cursor(before.0);
            let tables = cursor.take(nr_tables);
            let stack = cursor.take(1).start;
            let used = Span::of_pages(virt_base, cursor.0)?;
            let rounded = used.end.checked_next_multiple_of(MAPPING_STEP);
            let end = rounded.and_then(|end| {
                if end.saturating_sub(used.end) < LEAST_SPARE {
                    end.checked_add(MAPPING_STEP)
                } else {
                    Some(end)
                }
            });
            let mapping = Span::new(virt_base, end.ok_or(used.refused())?)?;
            let needed = mapping.tables();
            if needed <= nr_tables {
                let mapped = Cursor(0).take(mapping.end.saturating_sub(virt_base) >> PAGE_SHIFT);
                return Ok((tables, stack, mapped));
            }
            nr_tables = needed;
        }
    }

    /// Where pfn `pfn` is in the initial mapping; means nothing for one that is not mapped.
    pub fn va(&self, pfn: Pfn) -> u64 {
        self.virt_base
            .wrapping_add(pfn.get().wrapping_shl(PAGE_SHIFT))
    }

    /// The address of the p2m list.
    pub fn p2m_va(&self) -> u64 {
        match self.p2m {
            P2mPlace::Mapped(list) => self.va(list.start),
            P2mPlace::Apart { va, .. } => va,
        }
    }

    /// The pages that hold the p2m list.
    pub fn p2m_list(&self) -> PfnRange {
        match self.p2m {
            P2mPlace::Mapped(list) | P2mPlace::Apart { list, .. } => list,
        }
    }

    /// The initrd, if it is not mapped.
    pub fn initrd_behind(&self) -> Option<PfnRange> {
        self.initrd.filter(|initrd| initrd.start >= self.mapped.end)
    }
}

/// How many pages hold `bytes`.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

/// The next pfn that is free. Sums stay below 2^53: each term is a number of pages of at most 2^52.
#[derive(Clone, Copy)]
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, count: u64) -> PfnRange {
        let start = self.0;
        self.0 = start.saturating_add(count);
        PfnRange {
            start: Pfn::new(start),
            end: Pfn::new(self.0),
        }
    }
}

/// Addresses that a guest may map: canonical and not the hypervisor's. `end` exclusive, above `start`.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    fn new(start: u64, end: u64) -> Result<Self, BuildError> {
        let is_guests = end <= LOWER_HALF_END || start >= HYPERVISOR_VIRT_END;
        if start < end && is_guests {
            Ok(Self { start, end })
        } else {
            Err(BuildError::AddressSpace { start, end })
        }
    }

    fn of_pages(start: u64, count: u64) -> Result<Self, BuildError> {
        let end = count
            .checked_mul(PAGE_SIZE as u64)
            .and_then(|len| start.checked_add(len));
        Self::new(start, end.unwrap_or(0))
    }

    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn refused(self) -> BuildError {
        let Self { start, end } = self;
        BuildError::AddressSpace { start, end }
    }

    /// The first and the last table of one level that the range needs, by number; one covers `1 << shift` bytes.
    fn slots(self, shift: u32) -> (u64, u64) {
        let last = self.end.saturating_sub(1);
        (
            self.start.checked_shr(shift).unwrap_or(0),
            last.checked_shr(shift).unwrap_or(0),
        )
    }

    /// How many tables of all four levels map the range.
    fn tables(self) -> u64 {
        TABLE_SHIFTS
            .iter()
            .map(|shift| self.slots(*shift))
            .fold(1, |sum: u64, (first, last)| {
                sum.saturating_add(last.saturating_sub(first).saturating_add(1))
            })
    }

    /// How many tables it needs beside those that `other`, which it does not overlap, has.
    fn tables_beside(self, other: Self) -> u64 {
        TABLE_SHIFTS.iter().fold(0, |sum: u64, shift| {
            let (first, last) = self.slots(*shift);
            let (other_first, other_last) = other.slots(*shift);
            let all = last.saturating_sub(first).saturating_add(1);
            let shared = last
                .min(other_last)
                .saturating_add(1)
                .saturating_sub(first.max(other_first));
            sum.saturating_add(all.saturating_sub(shared))
        })
    }
}

/// What an L1, an L2 and an L3 cover.
const TABLE_SHIFTS: [u32; 3] = [PAGE_SHIFT + 9, PAGE_SHIFT + 18, PAGE_SHIFT + 27];

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
