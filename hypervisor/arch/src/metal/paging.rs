//! Page tables of our own half, and the root template that every guest's root copies.
//!
//! INVARIANT: no page of ours is mapped writable and executable, in one mapping or in two: the image's text is absent from
//! the direct map. All mappings but the machine-to-physical table are for the supervisor alone.

use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};

use super::layout;
use crate::boot::{CpuId, MfnRange};
use crate::boot_memory::BootMemory;
use crate::descriptor_window::Window;

/// What may be done with a mapping.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Read and execute.
    Text,
    /// Read.
    ReadOnly,
    /// Read and write.
    Data,
    /// Registers of a device: read and write, never cached.
    Device,
    /// Guests read it.
    GuestReadOnly,
}

impl Access {
    pub(super) fn flags(self) -> PageTableFlags {
        let present = PageTableFlags::PRESENT;
        match self {
            Self::Text => present,
            Self::ReadOnly => present | PageTableFlags::NO_EXECUTE,
            Self::Data => present | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
            Self::Device => {
                present
                    | PageTableFlags::WRITABLE
                    | PageTableFlags::NO_EXECUTE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
            Self::GuestReadOnly => {
                present | PageTableFlags::NO_EXECUTE | PageTableFlags::USER_ACCESSIBLE
            }
        }
    }
}

/// The tables of our half while boot builds them, reached through a window onto physical memory.
pub(super) struct OwnHalf {
    root: Mfn,
    window: u64,
    has_1gib_pages: bool,
}

struct Tables<'a>(&'a mut BootMemory, u64);

// SAFETY: `BootMemory` hands each frame out once.
unsafe impl FrameAllocator<Size4KiB> for Tables<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frames = self.0.alloc(1, 1, Some(Maddr::new(1 << 32)))?;
        let start = frames.start.start();
        // SAFETY: below 4 GiB, which the window shows whichever it is, and nobody else's.
        unsafe { super::memory::zero((self.1 + start.get()) as *mut u8, PAGE_SIZE) };
        PhysFrame::from_start_address(PhysAddr::new(start.get())).ok()
    }
}

impl OwnHalf {
    /// An empty root. `window` is where physical memory below 4 GiB is mapped now.
    pub(super) fn new(memory: &mut BootMemory, window: u64, has_1gib_pages: bool) -> Option<Self> {
        let root = Tables(memory, window).allocate_frame()?;
        Some(Self {
            root: Maddr::new(root.start_address().as_u64()).mfn(),
            window,
            has_1gib_pages,
        })
    }

    /// A frame of zeros, for a mapping.
    pub(super) fn zeroed_frame(&mut self, memory: &mut BootMemory) -> Option<Maddr> {
        let frame = Tables(memory, self.window).allocate_frame()?;
        Some(Maddr::new(frame.start_address().as_u64()))
    }

    /// Gives every slot of ours a table, so that all roots share whatever is mapped later.
    pub(super) fn fill_slots(&mut self, memory: &mut BootMemory) -> Option<()> {
        for slot in layout::OUR_SLOTS {
            if self.table()[slot].is_unused() {
                let table = Tables(memory, self.window).allocate_frame()?;
                self.table()[slot]
                    .set_frame(table, PageTableFlags::PRESENT | PageTableFlags::WRITABLE);
            }
        }
        Some(())
    }

    /// What the slots of ours hold.
    pub(super) fn root_entries(&mut self) -> [u64; 16] {
        let table = self.table();
        core::array::from_fn(|index| {
            let entry = &table[*layout::OUR_SLOTS.start() + index];
            entry.addr().as_u64() | entry.flags().bits()
        })
    }

    /// Switches this CPU to the new tables.
    ///
    /// # Safety
    ///
    /// Everything that is in use must be mapped in them at the same address.
    pub(super) unsafe fn load(&self) {
        if let Ok(root) = PhysFrame::from_start_address(PhysAddr::new(self.root.start().get())) {
            // SAFETY: as the caller promises.
            unsafe { Cr3::write(root, Cr3Flags::empty()) };
        }
    }

    /// What the slots of ours hold in a twin of a root that holds `full` there: the machine-to-physical table and descriptor
    /// windows as they are, and what these tables map of the image and the per-CPU areas.
    pub(super) fn twin_entries(&mut self, full: [u64; 16]) -> [u64; 16] {
        let first = layout::OURS_START;
        let slot = |at: u64| ((at - first) >> 39) as usize;
        let mut entries = self.root_entries();
        for shared in [layout::M2P, Window::of(CpuId::BOOT).page(0)] {
            entries[slot(shared)] = full[slot(shared)];
        }
        entries
    }

    /// The root: our half and nothing else.
    pub(super) fn root(&self) -> Mfn {
        self.root
    }

    fn table(&mut self) -> &mut PageTable {
        // SAFETY: the root is a table of ours, borrowed with `self`, and the window shows it.
        unsafe { &mut *((self.window + self.root.start().get()) as *mut PageTable) }
    }

    fn mapper(&mut self) -> OffsetPageTable<'_> {
        let window = VirtAddr::new(self.window);
        // SAFETY: the window shows the root and all tables below it.
        unsafe { OffsetPageTable::new(self.table(), window) }
    }

    /// Maps `len` bytes at `to` in the largest pages that fit. `None` if there is no memory for the tables.
    pub(super) fn map(
        &mut self,
        memory: &mut BootMemory,
        at: u64,
        to: Maddr,
        len: u64,
        access: Access,
    ) -> Option<()> {
        let mut done = 0;
        while done < len {
            let (at, to, left) = (at + done, to.get() + done, len - done);
            let fits =
                |size: u64| at.is_multiple_of(size) && to.is_multiple_of(size) && left >= size;
            done += if self.has_1gib_pages && fits(Size1GiB::SIZE) {
                self.map_page::<Size1GiB>(memory, at, to, access)?
            } else if fits(Size2MiB::SIZE) {
                self.map_page::<Size2MiB>(memory, at, to, access)?
            } else {
                self.map_page::<Size4KiB>(memory, at, to, access)?
            };
        }
        Some(())
    }

    fn map_page<S: PageSize>(
        &mut self,
        memory: &mut BootMemory,
        at: u64,
        to: u64,
        access: Access,
    ) -> Option<u64>
    where
        for<'a> OffsetPageTable<'a>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(VirtAddr::new(at));
        let frame = PhysFrame::<S>::containing_address(PhysAddr::new(to));
        // Upper levels allow everything: the last one decides.
        let tables =
            PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
        let window = self.window;
        let mut mapper = self.mapper();
        // SAFETY: every caller maps what `layout` says, once.
        let mapped = unsafe {
            mapper.map_to_with_table_flags(
                page,
                frame,
                access.flags(),
                tables,
                &mut Tables(memory, window),
            )
        };
        // Nothing was mapped there before: there is nothing to flush.
        mapped.ok()?.ignore();
        Some(S::SIZE)
    }

    /// The page table that an address is mapped by, if it is, in a page of the smallest size.
    pub(super) fn page_table_of(&mut self, at: u64) -> Option<Maddr> {
        let window = self.window;
        let at = VirtAddr::new(at);
        let mut table = self.table();
        let mut found = None;
        for index in [at.p4_index(), at.p3_index(), at.p2_index()] {
            let frame = table[index].frame().ok()?.start_address();
            found = Some(Maddr::new(frame.as_u64()));
            // SAFETY: a table of ours, which the window shows, borrowed with `self`.
            table = unsafe { &mut *((window + frame.as_u64()) as *mut PageTable) };
        }
        found
    }

    /// Maps RAM, all but the image, in the direct map.
    pub(super) fn map_direct(
        &mut self,
        memory: &mut BootMemory,
        ram: MfnRange,
        image: MfnRange,
    ) -> Option<()> {
        for part in [
            MfnRange {
                start: ram.start,
                end: ram.end.min(image.start),
            },
            MfnRange {
                start: ram.start.max(image.end),
                end: ram.end,
            },
        ] {
            if part.start < part.end {
                let start = part.start.start();
                let len = part.end.start().get() - start.get();
                self.map(
                    memory,
                    layout::DIRECT_MAP + start.get(),
                    start,
                    len,
                    Access::Data,
                )?;
            }
        }
        Some(())
    }
}
