//! Page tables of our own half, and the root template that every guest's root copies.
//!
//! INVARIANT: no page of ours is mapped writable and executable, in one mapping or in two: the image's text is absent from
//! the direct map. All mappings but the machine-to-physical table are for the supervisor alone.

use x86_64::structures::paging::mapper::{MappedFrame, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};

use super::layout;
use crate::boot::MfnRange;
use crate::boot_memory::BootMemory;

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
    /// Memory of a screen: written through a buffer that merges writes where the firmware set one up.
    Screen,
    /// Guests read it.
    GuestReadOnly,
}

impl Access {
    fn flags(self) -> PageTableFlags {
        let present = PageTableFlags::PRESENT;
        match self {
            Self::Text => present,
            Self::ReadOnly => present | PageTableFlags::NO_EXECUTE,
            Self::Data => present | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
            Self::Device | Self::Screen => {
                present
                    | PageTableFlags::WRITABLE
                    | PageTableFlags::NO_EXECUTE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
            Self::GuestReadOnly => present | PageTableFlags::NO_EXECUTE | PageTableFlags::USER_ACCESSIBLE,
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
        Some(Self { root: Maddr::new(root.start_address().as_u64()).mfn(), window, has_1gib_pages })
    }

    pub(super) fn root(&self) -> Mfn {
        self.root
    }

    /// Reaches the tables through another window from now on.
    pub(super) fn move_window(&mut self, window: u64) {
        self.window = window;
    }

    fn mapper(&mut self) -> OffsetPageTable<'_> {
        let root = (self.window + self.root.start().get()) as *mut PageTable;
        // SAFETY: the root is a table of ours, borrowed with `self`; the window shows it and all tables below it.
        unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(self.window)) }
    }

    /// Maps `len` bytes at `to` in the largest pages that fit. `None` if there is no memory for the tables.
    pub(super) fn map(&mut self, memory: &mut BootMemory, at: u64, to: Maddr, len: u64, access: Access) -> Option<()> {
        let mut done = 0;
        while done < len {
            let (at, to, left) = (at + done, to.get() + done, len - done);
            let fits = |size: u64| at.is_multiple_of(size) && to.is_multiple_of(size) && left >= size;
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

    fn map_page<S: PageSize>(&mut self, memory: &mut BootMemory, at: u64, to: u64, access: Access) -> Option<u64>
    where
        for<'a> OffsetPageTable<'a>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(VirtAddr::new(at));
        let frame = PhysFrame::<S>::containing_address(PhysAddr::new(to));
        // Upper levels allow everything: the last one decides.
        let tables = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
        let window = self.window;
        let mut mapper = self.mapper();
        // SAFETY: every caller maps what `layout` says, once.
        let mapped = unsafe {
            mapper.map_to_with_table_flags(page, frame, access.flags(), tables, &mut Tables(memory, window))
        };
        // Nothing was mapped there before: there is nothing to flush.
        mapped.ok()?.ignore();
        Some(S::SIZE)
    }

    /// Where `at` is mapped.
    pub(super) fn translate(&mut self, at: u64) -> Option<Maddr> {
        match self.mapper().translate(VirtAddr::new(at)) {
            TranslateResult::Mapped { frame, offset, .. } => {
                let start = match frame {
                    MappedFrame::Size4KiB(frame) => frame.start_address(),
                    MappedFrame::Size2MiB(frame) => frame.start_address(),
                    MappedFrame::Size1GiB(frame) => frame.start_address(),
                };
                Some(Maddr::new(start.as_u64() + offset))
            }
            _ => None,
        }
    }

    /// Maps RAM, all but the image, in the direct map.
    pub(super) fn map_direct(&mut self, memory: &mut BootMemory, ram: &MfnRange, image: &MfnRange) -> Option<()> {
        for part in [
            MfnRange { start: ram.start, end: ram.end.min(image.start) },
            MfnRange { start: ram.start.max(image.end), end: ram.end },
        ] {
            if part.start < part.end {
                let start = part.start.start();
                let len = part.end.start().get() - start.get();
                self.map(memory, layout::DIRECT_MAP + start.get(), start, len, Access::Data)?;
            }
        }
        Some(())
    }
}
