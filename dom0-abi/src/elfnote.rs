//! Notes by which a kernel image says how it wants to be loaded. ABI: `public/elfnote.h`.

use crate::record::{Group, abi_enum};

/// Owner of the notes.
pub const OWNER: &[u8] = b"Xen";

abi_enum! {
    /// Type of a note. "Number" notes hold 4 or 8 bytes, the others text.
    pub enum ElfNote: u32 {
        /// Text to be printed.
        Info = 0 => "XEN_ELFNOTE_INFO",
        /// Number: virtual address of the entry point.
        Entry = 1 => "XEN_ELFNOTE_ENTRY",
        /// Number: virtual address of the page to be filled with hypercall stubs.
        HypercallPage = 2 => "XEN_ELFNOTE_HYPERCALL_PAGE",
        /// Number: virtual address of pfn 0.
        VirtBase = 3 => "XEN_ELFNOTE_VIRT_BASE",
        /// Number: what to subtract from the addresses in the program headers.
        PaddrOffset = 4 => "XEN_ELFNOTE_PADDR_OFFSET",
        /// Version of the ABI.
        XenVersion = 5 => "XEN_ELFNOTE_XEN_VERSION",
        /// Name of the system.
        GuestOs = 6 => "XEN_ELFNOTE_GUEST_OS",
        /// Version of the system.
        GuestVersion = 7 => "XEN_ELFNOTE_GUEST_VERSION",
        /// Kind of loader.
        Loader = 8 => "XEN_ELFNOTE_LOADER",
        /// 32-bit kernels: use of three-level tables.
        PaeMode = 9 => "XEN_ELFNOTE_PAE_MODE",
        /// Features that the kernel supports or needs, as text.
        Features = 10 => "XEN_ELFNOTE_FEATURES",
        /// Whether to load the symbol table.
        BsdSymtab = 11 => "XEN_ELFNOTE_BSD_SYMTAB",
        /// Number: lowest address that the hypervisor may use.
        HvStartLow = 12 => "XEN_ELFNOTE_HV_START_LOW",
        /// Pairs of numbers: mask and value that tell a present entry of a level-1 table.
        L1MfnValid = 13 => "XEN_ELFNOTE_L1_MFN_VALID",
        /// Number: whether the kernel survives a cancelled suspend.
        SuspendCancel = 14 => "XEN_ELFNOTE_SUSPEND_CANCEL",
        /// Number: virtual address where the physical-to-machine list is to be mapped.
        InitP2m = 15 => "XEN_ELFNOTE_INIT_P2M",
        /// Number: whether the kernel takes a RAM disk that is not mapped.
        ModStartPfn = 16 => "XEN_ELFNOTE_MOD_START_PFN",
        /// Number: bit map of features that the kernel supports.
        SupportedFeatures = 17 => "XEN_ELFNOTE_SUPPORTED_FEATURES",
        /// Number: physical address of the entry point in a hardware container.
        Phys32Entry = 18 => "XEN_ELFNOTE_PHYS32_ENTRY",
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[ElfNote::CONSTANTS];
