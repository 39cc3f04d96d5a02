//! The executable: how the image gets into memory, up to the first Rust function.
//!
//! `entry.S` holds the multiboot headers and the way from 32-bit protected mode to [`oxen_entry64`]; `trampoline.S` is what
//! the other CPUs start with; `oxen.ld` says where everything lies. The rest is the image's.
#![no_std]
#![no_main]
// UNSAFETY: start code; there is no other way to be entered by a boot loader.
#![allow(unsafe_code)]

use oxen_arch::Handover;

core::arch::global_asm!(include_str!("entry.S"), options(att_syntax));
core::arch::global_asm!(include_str!("trampoline.S"), options(att_syntax));

/// Takes over from the assembly: on the boot stack, identity-mapped below 4 GiB, the image at its linked address.
// SAFETY: no other symbol has this name; it is called once, by `entry.S`.
#[unsafe(no_mangle)]
extern "C" fn oxen_entry64(magic: u32, information: u32, image: u32, entry_tsc: u64) -> ! {
    // SAFETY: `entry.S` calls this once, with what the loader left in its registers, the address the image was found
    // at, and the first 4 GiB mapped onto themselves.
    let handover = unsafe { Handover::new(magic, information, image, entry_tsc) };
    oxen::start(handover)
}
