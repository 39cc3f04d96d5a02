//! The page below 1 MiB that other CPUs start in (`boot/src/trampoline.S`).
//!
//! Nobody ever has memory below 1 MiB from us. So the page is borrowed: what was in it is zeros afterwards.

use core::ptr;

use dom0_abi::addr::{Maddr, PAGE_SIZE};

use super::memory;
use crate::boot::{BootModule, MfnRange};
use crate::memory_map::MemoryMap;
use crate::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_parameters: u8;
    static ap_trampoline_end: u8;
}

/// What the code in the page reads, at its end.
#[repr(C)]
struct Parameters {
    /// The first page tables, which map the page onto itself.
    low_root: AtomicU64,
    /// The hypervisor's own.
    root: AtomicU64,
    /// What to call, with stack and root.
    entry: AtomicU64,
    /// Where the stack of the next CPU ends; 0 if none is to come, or one has.
    stack: AtomicU64,
}

/// The page, with the code in it.
pub(super) struct Trampoline {
    page: Maddr,
    parameters: &'static Parameters,
}

impl Trampoline {
    /// Puts the code into the highest page of RAM below 640 KiB that holds no module. `None` if there is no such page.
    pub(super) fn new(
        map: &MemoryMap,
        modules: &[BootModule],
        low_root: Maddr,
        root: Maddr,
        entry: u64,
    ) -> Option<Self> {
        // Not the first one, which is firmware's own (its interrupt vectors).
        let low = MfnRange::new(Maddr::new(0x1000).mfn(), Maddr::new(0xa_0000).mfn());
        let is_free = |frame: &dom0_abi::addr::Mfn| {
            !modules
                .iter()
                .any(|module| module.frames().contains(*frame))
        };
        let usable = map.ram().map(|ram| ram.intersection(low));
        let page = usable.flat_map(MfnRange::iter).filter(is_free).last()?;
        let page = page.start();
        let code = &raw const ap_trampoline;
        let len = (&raw const ap_trampoline_end as usize).wrapping_sub(code as usize);
        let offset = (&raw const ap_trampoline_parameters as usize).wrapping_sub(code as usize);
        let at = memory::direct(page);
        // SAFETY: a page of RAM, hence in the direct map, that nobody uses: the allocators leave all of the first MiB out, and
        // what the loader left there has been read. The code fits, since it is some 200 bytes; the parameters lie in it, aligned
        // as the assembler was told.
        let parameters = unsafe {
            ptr::copy_nonoverlapping(code, at, len);
            &*at.add(offset).cast::<Parameters>()
        };
        parameters.low_root.store(low_root.get(), Ordering::Relaxed);
        parameters.root.store(root.get(), Ordering::Relaxed);
        parameters.entry.store(entry, Ordering::Relaxed);
        Some(Self { page, parameters })
    }

    /// Where CPUs begin.
    pub(super) fn page(&self) -> Maddr {
        self.page
    }

    /// Lets one CPU come, and have this stack.
    pub(super) fn offer(&self, stack: u64) {
        // ORDERING: Release: whoever takes it sees all that was prepared for it.
        self.parameters.stack.store(stack, Ordering::Release);
    }

    /// Whether a CPU has come.
    pub(super) fn is_taken(&self) -> bool {
        self.parameters.stack.load(Ordering::Acquire) == 0
    }

    /// Lets none come any more; whether one had.
    pub(super) fn withdraw(&self) -> bool {
        self.parameters.stack.swap(0, Ordering::AcqRel) == 0
    }

    /// Gives the page up.
    pub(super) fn clear(self) {
        // SAFETY: as in `new`. A CPU that comes later than it was waited for has been told to wait for a start, or is broken.
        unsafe { memory::zero(memory::direct(self.page), PAGE_SIZE) };
    }
}
