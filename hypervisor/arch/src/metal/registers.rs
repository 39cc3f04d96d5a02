//! Registers of devices anywhere in the machine's address space, one at a time through one window.
//!
//! LOCK: rank `Devices`: there is one window. INVARIANT: it shows something only while the lock is held, and every use begins with forgetting
//! what this CPU knows of it, so it does not matter what the others do.

use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::addr::{Maddr, PAGE_SIZE};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::structures::paging::PageTableFlags;

use super::layout;
use super::paging::Access;
use crate::sync::{Once, Rank, SpinLock};

/// Where the window is: behind the HPET.
pub(super) const WINDOW: u64 = layout::DEVICES + (66 << 30);

/// The entry that maps the window.
static ENTRY: Once<&'static AtomicU64> = Once::new();
static LOCK: SpinLock<()> = SpinLock::new(Rank::Devices, ());

/// Makes the window usable.
///
/// # Safety
///
/// `table` must be the page table of the window, seen for ever, and nobody else's.
pub(super) unsafe fn init(table: *mut AtomicU64) {
    let index = WINDOW as usize / PAGE_SIZE % 512;
    // SAFETY: as the caller promises; the index is within a table.
    let entry = unsafe { &*table.add(index) };
    entry.store(0, Ordering::Relaxed);
    ENTRY.call_once(|| entry);
}

/// Calls `act` with the address at which the register can be accessed now. `None`: there is no window yet, or the address is not a
/// multiple of four.
fn with_mapped<R>(register: Maddr, act: impl FnOnce(*mut u32) -> R) -> Option<R> {
    let entry = ENTRY.get().filter(|_| register.get().is_multiple_of(4))?;
    let (frame, offset) = (register.get() & !0xfff, register.get() & 0xfff);
    let _lock = LOCK.lock();
    let flags = Access::Device.flags() | PageTableFlags::ACCESSED | PageTableFlags::DIRTY;
    entry.store(frame | flags.bits(), Ordering::SeqCst);
    tlb::flush(VirtAddr::new(WINDOW));
    let result = act((WINDOW | offset) as *mut u32);
    entry.store(0, Ordering::SeqCst);
    tlb::flush(VirtAddr::new(WINDOW));
    Some(result)
}

/// Reads a register. The caller knows that no RAM is there.
pub(super) fn read(register: Maddr) -> Option<u32> {
    // SAFETY: mapped, aligned, and no memory of anybody's; what reading does to a device is its domain's business.
    with_mapped(register, |at| unsafe { at.read_volatile() })
}

/// Writes a register. The caller knows that no RAM is there.
pub(super) fn write(register: Maddr, value: u32) -> Option<()> {
    // SAFETY: as above.
    with_mapped(register, |at| unsafe { at.write_volatile(value) })
}
