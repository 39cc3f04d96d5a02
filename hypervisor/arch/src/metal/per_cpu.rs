//! The record that each CPU keeps beside its stacks.

use core::cell::Cell;

use x86_64::structures::tss::TaskStateSegment;

use super::layout;
use super::segments::WindowEntries;
use crate::boot::CpuId;
#[cfg(feature = "counters")]
use crate::counters::Counts;
use crate::descriptor_window::Window;
use crate::seat::Seat;
use crate::sync::atomic::AtomicU32;
use crate::tlb::Pcid;

/// What a CPU knows about itself. The first fields are the entry stubs'.
#[repr(C)]
pub(super) struct CpuLocal {
    /// Where the registers of a guest end, as far as the stubs push them: the data selectors lie behind.
    guest_regs_end: u64,
    /// The guest's stack pointer, for two instructions.
    scratch: Cell<u64>,
    /// The root to load when a guest enters; 0 if the guest runs on it.
    pub(super) entry_root: Cell<u64>,
    /// The root to load when a guest is left for: the twin of `entry_root`, or 0.
    pub(super) exit_root: Cell<u64>,
    pub(super) id: u32,
    /// What the CPU works for.
    pub(super) seat: Seat,
    /// CR2 of the last page fault of a guest.
    pub(super) fault_address: Cell<u64>,
    /// The base of GS that guest user mode will have.
    pub(super) user_gs_base: Cell<u64>,
    /// The components that guest floating-point state now has (XCR0); 0 where the CPU has no XSAVE.
    pub(super) xcr0: Cell<u64>,
    /// The components that the vCPU here has ever had: those of its registers that are its own.
    pub(super) fpu_components: Cell<u64>,
    /// What the next way back to a guest has to see to: [`crate::registers::Notes`].
    pub(super) notes: AtomicU32,
    /// Where the CPU sees descriptor tables.
    pub(super) window_at: Window,
    /// The page-table entries of that.
    pub(super) window: WindowEntries,
    /// Descriptors of the LDT that is loaded.
    pub(super) ldt_entries: Cell<u16>,
    /// How many pages of the window's GDT and LDT, from the first on, may be a guest's: none behind them is.
    pub(super) gdt_pages: Cell<usize>,
    pub(super) ldt_pages: Cell<usize>,
    /// When this CPU has last slept until, by its time stamp counter.
    pub(super) awake_since: Cell<u64>,
    /// The PCIDs that may have translations, one bit for each.
    pub(super) live_pcids: Cell<u64>,
    /// The PCID of the root that is loaded.
    pub(super) pcid: Cell<Pcid>,
    /// What is to be added to the time-stamp counter for the clock.
    pub(super) clock_offset: Cell<u64>,
    pub(super) tss: TaskStateSegment,
    #[cfg(feature = "counters")]
    pub(super) counts: Counts,
}

/// Offset of the field that the SYSCALL stub takes its stack from.
pub(super) const GUEST_REGS_END: usize = core::mem::offset_of!(CpuLocal, guest_regs_end);
/// Offset of the field that the SYSCALL stub keeps the guest's stack pointer in.
pub(super) const SCRATCH: usize = core::mem::offset_of!(CpuLocal, scratch);
/// Offset of the field that the stubs take the root from which a guest's entry goes on with.
pub(super) const ENTRY_ROOT: usize = core::mem::offset_of!(CpuLocal, entry_root);
/// Offset of the field that the way out takes the guest's root from.
pub(super) const EXIT_ROOT: usize = core::mem::offset_of!(CpuLocal, exit_root);
/// Offset of the count of CR3 loads.
#[cfg(feature = "counters")]
pub(super) const CR3_WRITES: usize = core::mem::offset_of!(CpuLocal, counts) + Counts::CR3_WRITES;

const _: () = assert!(size_of::<CpuLocal>() <= 4096);

/// Bytes of the ABI's registers behind those that the stubs push: es, ds, fs, gs.
const DATA_SELECTORS: u64 = 32;

/// Where the area of CPU `index` begins.
pub(super) fn area(index: u32) -> u64 {
    layout::PER_CPU + u64::from(index) * layout::PER_CPU_STRIDE
}

/// The number of the CPU whose stack this is; `None` on the stack with which the first CPU boots.
#[inline(always)]
pub(super) fn current_index() -> Option<u32> {
    let index = current_area().checked_sub(layout::PER_CPU)? / layout::PER_CPU_STRIDE;
    (index < layout::MAX_CPUS as u64).then_some(index as u32)
}

/// Where the stack of CPU `index` ends for what the CPU starts with.
pub(super) fn stack_at_start(index: u32) -> u64 {
    area(index) + layout::MAIN_STACK.top() - layout::BOOT_STACK_ROOM
}

impl CpuLocal {
    /// The record of CPU `index`, with its stacks in the task state segment. `window`: where its descriptor window is mapped.
    pub(super) fn new(index: u32, window: WindowEntries) -> Self {
        let area = area(index);
        let guest_regs_end = area + layout::MAIN_STACK.top() - DATA_SELECTORS;
        let mut tss = TaskStateSegment::new();
        tss.privilege_stack_table[0] = x86_64::VirtAddr::new(guest_regs_end);
        for (index, stack) in layout::IST.iter().enumerate() {
            tss.interrupt_stack_table[index] = x86_64::VirtAddr::new(area + stack.top());
        }
        Self {
            guest_regs_end,
            scratch: Cell::new(0),
            entry_root: Cell::new(0),
            exit_root: Cell::new(0),
            id: index,
            seat: Seat::new(),
            fault_address: Cell::new(0),
            user_gs_base: Cell::new(0),
            xcr0: Cell::new(0),
            fpu_components: Cell::new(0),
            notes: AtomicU32::new(0),
            window_at: Window::of(CpuId::new(index)),
            window,
            ldt_entries: Cell::new(0),
            gdt_pages: Cell::new(0),
            ldt_pages: Cell::new(0),
            awake_since: Cell::new(0),
            live_pcids: Cell::new(0),
            pcid: Cell::new(Pcid::ZERO),
            clock_offset: Cell::new(0),
            tss,
            #[cfg(feature = "counters")]
            counts: Counts::new(),
        }
    }
}

/// The start of the per-CPU area that holds the stack of the running code.
#[inline(always)]
pub(super) fn current_area() -> u64 {
    let stack: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags))
    };
    stack & !(layout::PER_CPU_STRIDE - 1)
}
