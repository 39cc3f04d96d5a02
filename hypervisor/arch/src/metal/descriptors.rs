//! Descriptor tables: GDT, TSS, LDT register, IDT.
//!
//! The pages of the GDT that a guest cannot fill are the hypervisor's (ABI: `public/arch-x86/xen.h`,
//! `FIRST_RESERVED_GDT_PAGE`). One is enough. Each CPU has its own, in its descriptor window, so that it finds its TSS and
//! its LDT under the same selectors as any other.

use dom0_abi::addr::PAGE_SIZE;
use dom0_abi::arch::FIRST_RESERVED_GDT_PAGE;
use x86_64::instructions::tables;
use x86_64::registers::segmentation::{CS, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::entry::{self, Handlers};
use super::layout;
use super::per_cpu::CpuLocal;
use crate::descriptor_window::{FLAT, GDT_LIMIT, LDT_START, Window};
use crate::sync::Once;

/// Selector of our code. SYSCALL wants the data segment right behind it.
pub(super) const CODE: u16 = 0xe008;
pub(super) const DATA: u16 = 0xe010;
/// SYSRET wants 32-bit code, data and 64-bit code in this order. ABI: `public/arch-x86/xen-x86_64.h`, `FLAT_RING3_*`.
pub(super) const GUEST_CODE32: u16 = 0xe023;
/// Of this CPU.
const TSS: u16 = 0xe040;
/// Of the guest that this CPU runs.
const LDT: u16 = 0xe050;

/// Writes descriptors of this CPU's, in our page of its GDT, from `selector` on.
fn write(window: Window, selector: u16, descriptors: &[u64]) {
    let page = window.page(FIRST_RESERVED_GDT_PAGE) as *mut u64;
    let first = usize::from(selector) % PAGE_SIZE / 8;
    for (index, descriptor) in descriptors.iter().enumerate() {
        // SAFETY: the page of a CPU that runs is mapped and writable, and nobody else's; all selectors that are passed are
        // near its start. The CPU reads it only when a selector is loaded.
        unsafe { page.add(first + index).write_volatile(*descriptor) };
    }
}

/// Fills our page of the GDT and loads GDT, code and stack segment and TSS of a CPU.
pub(super) fn load_gdt(local: &'static CpuLocal) {
    let Descriptor::SystemSegment(low, high) = Descriptor::tss_segment(&local.tss) else {
        return;
    };
    write(local.window_at, 0xe000, &FLAT);
    write(local.window_at, TSS, &[low, high]);
    let pointer = DescriptorTablePointer {
        limit: GDT_LIMIT,
        base: VirtAddr::new(local.window_at.page(0)),
    };
    // SAFETY: the window is mapped for ever; the selectors name the descriptors above.
    unsafe {
        tables::lgdt(&pointer);
        CS::set_reg(SegmentSelector(CODE));
        SS::set_reg(SegmentSelector(DATA));
        tables::load_tss(SegmentSelector(TSS));
        lldt(0);
    }
}

/// Loads an LDT of so many descriptors, in this CPU's window; none if it is 0.
pub(super) fn load_ldt(local: &CpuLocal, nr_entries: u16) {
    let Some(limit) = (u32::from(nr_entries) * 8).checked_sub(1) else {
        // SAFETY: takes the LDT away.
        unsafe { lldt(0) };
        return;
    };
    write(
        local.window_at,
        LDT,
        &ldt_descriptor(local.window_at.page(LDT_START), limit.min(0xffff)),
    );
    // SAFETY: the descriptor has just been written. Where the table's pages are not mapped, the CPU faults when it loads a
    // selector, which is foreseen wherever a guest's selectors are loaded.
    unsafe { lldt(LDT) };
}

/// SPEC: Intel SDM volume 3, figure 8-4.
fn ldt_descriptor(base: u64, limit: u32) -> [u64; 2] {
    const PRESENT_LDT: u64 = 0x82;
    let limit = u64::from(limit);
    let low = limit & 0xffff
        | (base & 0xff_ffff) << 16
        | PRESENT_LDT << 40
        | (limit >> 16) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// # Safety
///
/// The selector must be 0 or that of an LDT whose pages hold checked descriptors or are not mapped.
unsafe fn lldt(selector: u16) {
    // SAFETY: as the caller promises.
    unsafe { core::arch::asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags)) };
}

/// The table, with its page to itself: twins of roots map it.
#[repr(C, align(4096))]
struct IdtPage(InterruptDescriptorTable);

static IDT: Once<IdtPage> = Once::new();

/// Loads the table of all entries; `H` is what they call.
pub(super) fn load_idt<H: Handlers>() {
    let idt = IDT.call_once(|| IdtPage(idt::<H>()));
    idt.0.load();
}

/// The address of the page that the table fills.
pub(super) fn idt_page() -> u64 {
    const _: () = assert!(size_of::<IdtPage>() == PAGE_SIZE);
    IDT.as_mut_ptr() as u64
}

/// Calls `$set` with every vector that has no error code and no stack of its own.
macro_rules! plain_vectors {
    ($idt:ident, $handlers:ident: $($vector:literal)*) => {
        $(
            // SAFETY: the stub expects exactly what the CPU pushes for a vector without an error code.
            unsafe { $idt[$vector].set_handler_addr(address(entry::vector_entry::<$handlers, $vector>)) };
        )*
    };
}

fn address(entry: extern "C" fn()) -> VirtAddr {
    VirtAddr::new(entry as *const () as u64)
}

fn idt<H: Handlers>() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    // SAFETY: each stub expects what the CPU pushes for its vector, on the stack that the IST index names.
    unsafe {
        idt.divide_error
            .set_handler_addr(address(entry::vector_entry::<H, 0>));
        idt.debug
            .set_handler_addr(address(entry::ist_entry::<H, 1>))
            .set_stack_index(layout::IST_DEBUG);
        idt.non_maskable_interrupt
            .set_handler_addr(address(entry::ist_entry::<H, 2>))
            .set_stack_index(layout::IST_NMI);
        // `int3` and `int 4` are what a guest may execute by itself.
        idt.breakpoint
            .set_handler_addr(address(entry::vector_entry::<H, 3>))
            .set_privilege_level(PrivilegeLevel::Ring3);
        idt.overflow
            .set_handler_addr(address(entry::vector_entry::<H, 4>))
            .set_privilege_level(PrivilegeLevel::Ring3);
        idt.bound_range_exceeded
            .set_handler_addr(address(entry::vector_entry::<H, 5>));
        idt.invalid_opcode
            .set_handler_addr(address(entry::vector_entry::<H, 6>));
        idt.device_not_available
            .set_handler_addr(address(entry::vector_entry::<H, 7>));
        idt.double_fault
            .set_handler_addr(address(entry::ist_entry_with_code::<H, 8>))
            .set_stack_index(layout::IST_DOUBLE_FAULT);
        idt.invalid_tss
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 10>));
        idt.segment_not_present
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 11>));
        idt.stack_segment_fault
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 12>));
        idt.general_protection_fault
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 13>));
        idt.page_fault
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 14>));
        idt.x87_floating_point
            .set_handler_addr(address(entry::vector_entry::<H, 16>));
        idt.alignment_check
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 17>));
        idt.machine_check
            .set_handler_addr(address(entry::ist_entry::<H, 18>))
            .set_stack_index(layout::IST_MACHINE_CHECK);
        idt.simd_floating_point
            .set_handler_addr(address(entry::vector_entry::<H, 19>));
        idt.virtualization
            .set_handler_addr(address(entry::vector_entry::<H, 20>));
        idt.cp_protection_exception
            .set_handler_addr(address(entry::vector_entry_with_code::<H, 21>));
        idt[0x80]
            .set_handler_addr(address(entry::vector_entry::<H, 0x80>))
            .set_privilege_level(PrivilegeLevel::Ring3);
    }
    plain_vectors! { idt, H:
        0x20 0x21 0x22 0x23 0x24 0x25 0x26 0x27 0x28 0x29 0x2a 0x2b 0x2c 0x2d 0x2e 0x2f
        0x30 0x31 0x32 0x33 0x34 0x35 0x36 0x37 0x38 0x39 0x3a 0x3b 0x3c 0x3d 0x3e 0x3f
        0x40 0x41 0x42 0x43 0x44 0x45 0x46 0x47 0x48 0x49 0x4a 0x4b 0x4c 0x4d 0x4e 0x4f
        0x50 0x51 0x52 0x53 0x54 0x55 0x56 0x57 0x58 0x59 0x5a 0x5b 0x5c 0x5d 0x5e 0x5f
        0x60 0x61 0x62 0x63 0x64 0x65 0x66 0x67 0x68 0x69 0x6a 0x6b 0x6c 0x6d 0x6e 0x6f
        0x70 0x71 0x72 0x73 0x74 0x75 0x76 0x77 0x78 0x79 0x7a 0x7b 0x7c 0x7d 0x7e 0x7f
        0x81 0x82 0x83 0x84 0x85 0x86 0x87 0x88 0x89 0x8a 0x8b 0x8c 0x8d 0x8e 0x8f
        0x90 0x91 0x92 0x93 0x94 0x95 0x96 0x97 0x98 0x99 0x9a 0x9b 0x9c 0x9d 0x9e 0x9f
        0xa0 0xa1 0xa2 0xa3 0xa4 0xa5 0xa6 0xa7 0xa8 0xa9 0xaa 0xab 0xac 0xad 0xae 0xaf
        0xb0 0xb1 0xb2 0xb3 0xb4 0xb5 0xb6 0xb7 0xb8 0xb9 0xba 0xbb 0xbc 0xbd 0xbe 0xbf
        0xc0 0xc1 0xc2 0xc3 0xc4 0xc5 0xc6 0xc7 0xc8 0xc9 0xca 0xcb 0xcc 0xcd 0xce 0xcf
        0xd0 0xd1 0xd2 0xd3 0xd4 0xd5 0xd6 0xd7 0xd8 0xd9 0xda 0xdb 0xdc 0xdd 0xde 0xdf
        0xe0 0xe1 0xe2 0xe3 0xe4 0xe5 0xe6 0xe7 0xe8 0xe9 0xea 0xeb 0xec 0xed 0xee 0xef
        0xf0 0xf1 0xf2 0xf3 0xf4 0xf5 0xf6 0xf7 0xf8 0xf9 0xfa 0xfb 0xfc 0xfd 0xfe 0xff
    }
    idt
}
