//! Where everything of ours lies in the address space: slots 256 to 271 of every root.
//!
//! | slot | start | what |
//! |---|---|---|
//! | 256 | `0xffff800000000000` | machine-to-physical table: guests read, we write through the direct map |
//! | 257 | `0xffff808000000000` | the image; from 1 GiB on, the per-CPU areas |
//! | 259 | `0xffff818000000000` | descriptor windows (`descriptor_window`) |
//! | 260 | `0xffff820000000000` | devices |
//! | 261 | `0xffff828000000000` | nothing ([`SPARE_SLOT`]) |
//! | 262-271 | `0xffff830000000000` | direct map: all RAM but the image |

use dom0_abi::addr::PAGE_SIZE;
use dom0_abi::arch::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};

use crate::paging_facts::SPARE_SLOT;

/// The first byte of our half. ABI: `public/arch-x86/xen-x86_64.h`, `HYPERVISOR_VIRT_START`.
pub(crate) const OURS_START: u64 = HYPERVISOR_VIRT_START;
/// The first byte behind our half. ABI: `public/arch-x86/xen-x86_64.h`, `HYPERVISOR_VIRT_END`.
pub(crate) const OURS_END: u64 = HYPERVISOR_VIRT_END;
/// The slots of a root that are ours.
pub(crate) const OUR_SLOTS: core::ops::RangeInclusive<usize> = 256..=271;

/// The machine-to-physical table, eight bytes a frame.
pub(crate) const M2P: u64 = OURS_START;

/// Where `boot/oxen.ld` links the image.
pub(crate) const IMAGE: u64 = 0xffff_8080_0000_0000;

/// The per-CPU areas, one behind the other. Each is aligned to its size, so that code on any of a CPU's stacks finds the
/// area from its stack pointer alone.
pub(crate) const PER_CPU: u64 = IMAGE + (1 << 30);
pub(crate) const PER_CPU_STRIDE: u64 = 256 << 10;

/// A stack of a per-CPU area: its first page (the one below is never mapped) and its number of pages.
pub(crate) struct Stack {
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

impl Stack {
    const fn new(first_page: u64, pages: u64) -> Self {
        Self { first_page, pages }
    }

    /// Where the stack ends, as an offset into the per-CPU area.
    pub(crate) const fn top(&self) -> u64 {
        (self.first_page + self.pages) * PAGE_SIZE as u64
    }
}

/// The stacks that the interrupt stack table names, in its order.
pub(crate) const IST: [Stack; 4] = [
    Stack::new(1, 2),
    Stack::new(4, 2),
    Stack::new(7, 2),
    Stack::new(10, 2),
];
pub(crate) const IST_NMI: u16 = 0;
pub(crate) const IST_MACHINE_CHECK: u16 = 1;
pub(crate) const IST_DOUBLE_FAULT: u16 = 2;
pub(crate) const IST_DEBUG: u16 = 3;
/// The stack that everything else runs on. The guest's registers lie at its very top.
pub(crate) const MAIN_STACK: Stack = Stack::new(13, 16);
/// The CPU's own record, right behind the main stack.
pub(crate) const CPU_LOCAL_OFFSET: u64 = MAIN_STACK.top();
/// Bytes from the end of the main stack back to the registers that a guest was interrupted with.
pub(crate) const GUEST_REGS_FROM_TOP: u64 = 200;

/// Bytes at the top of the main stack that boot leaves free: room for a guest's registers, a multiple of 16.
pub(crate) const BOOT_STACK_ROOM: u64 = 256;

/// The most CPUs that are used.
pub(crate) const MAX_CPUS: usize = 512;

/// Registers and memory of devices.
pub(crate) const DEVICES: u64 = 0xffff_8200_0000_0000;

/// All RAM but the image.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8300_0000_0000;
/// RAM beyond this is not used.
pub(crate) const DIRECT_MAP_SIZE: u64 = OURS_END - DIRECT_MAP;

const _: () = assert!(CPU_LOCAL_OFFSET + PAGE_SIZE as u64 <= PER_CPU_STRIDE);
const _: () = assert!(PER_CPU.is_multiple_of(PER_CPU_STRIDE));
const _: () = assert!(slot_of(DEVICES) < SPARE_SLOT && SPARE_SLOT < slot_of(DIRECT_MAP));

const fn slot_of(at: u64) -> usize {
    (at >> 39 & 511) as usize
}
