//! The ELF notes by which the domain builder knows a PV kernel. ABI: `public/elfnote.h`.
//!
//! `hello` adds a note of its own for the hypercall page; all others issue `syscall` themselves.

use core::arch::global_asm;

use dom0_abi::elfnote::ElfNote;

global_asm!(
    ".macro xen_note_text type, text:vararg",
    "    .balign 4",
    "    .long 4, 8f - 7f, \\type",
    "    .asciz \"Xen\"",
    "7:  .asciz \\text",
    "8:  .balign 4",
    ".endm",
    ".macro xen_note_word type, word:vararg",
    "    .balign 4",
    "    .long 4, 8, \\type",
    "    .asciz \"Xen\"",
    "    .quad \\word",
    ".endm",
    ".section .note.Xen, \"a\", @note",
    "xen_note_text {guest_os}, \"oxen-guest\"",
    "xen_note_text {xen_version}, \"xen-3.0\"",
    "xen_note_text {loader}, \"generic\"",
    "xen_note_text {pae_mode}, \"yes\"",
    "xen_note_text {features}, \"!writable_page_tables|pae_pgdir_above_4gb\"",
    "xen_note_word {virt_base}, {base}",
    "xen_note_word {paddr_offset}, 0",
    "xen_note_word {entry}, guest_start",
    ".balign 4",
    ".long 4, 4, {supported_features}",
    ".asciz \"Xen\"",
    // Bit 0: writable page tables are not needed; 11: can be dom0; 15: RSDP anywhere.
    ".long 0x8801",
    ".previous",
    entry = const ElfNote::Entry as u32,
    virt_base = const ElfNote::VirtBase as u32,
    paddr_offset = const ElfNote::PaddrOffset as u32,
    xen_version = const ElfNote::XenVersion as u32,
    guest_os = const ElfNote::GuestOs as u32,
    loader = const ElfNote::Loader as u32,
    pae_mode = const ElfNote::PaeMode as u32,
    features = const ElfNote::Features as u32,
    supported_features = const ElfNote::SupportedFeatures as u32,
    base = const crate::memory::VIRT_BASE,
);
