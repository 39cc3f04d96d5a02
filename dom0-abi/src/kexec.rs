//! A kernel for the case of a crash: numbers and the one question that a kernel asks at boot.
//! ABI: `public/kexec.h`.

use crate::record::{Group, abi_enum, abi_structs};

abi_enum! {
    /// A command of `kexec_op`.
    pub enum KexecCommand: u64 {
        /// Starts the loaded kernel.
        Kexec = 0 => "KEXEC_CMD_kexec",
        /// Loads a kernel, old form.
        LoadV1 = 1 => "KEXEC_CMD_kexec_load_v1",
        /// Unloads a kernel, old form.
        UnloadV1 = 2 => "KEXEC_CMD_kexec_unload_v1",
        /// Tells where something is in machine memory: [`KexecRange`].
        GetRange = 3 => "KEXEC_CMD_kexec_get_range",
        /// Loads a kernel.
        Load = 4 => "KEXEC_CMD_kexec_load",
        /// Unloads a kernel.
        Unload = 5 => "KEXEC_CMD_kexec_unload",
        /// Tells whether a kernel is loaded.
        Status = 6 => "KEXEC_CMD_kexec_status",
    }
}

abi_enum! {
    /// What [`KexecRange`] asks for.
    pub enum KexecRangeKind: i32 {
        /// Memory put aside for the kernel.
        Crash = 0 => "KEXEC_RANGE_MA_CRASH",
        /// The hypervisor.
        Hypervisor = 1 => "KEXEC_RANGE_MA_XEN",
        /// The registers of a CPU.
        Cpu = 2 => "KEXEC_RANGE_MA_CPU",
        /// The hypervisor's heap.
        Heap = 3 => "KEXEC_RANGE_MA_XENHEAP",
        /// The memory map of EFI.
        EfiMemmap = 5 => "KEXEC_RANGE_MA_EFI_MEMMAP",
        /// Notes for debuggers.
        Vmcoreinfo = 6 => "KEXEC_RANGE_MA_VMCOREINFO",
    }
}

abi_structs! {
    /// Argument of [`KexecCommand::GetRange`].
    pub struct KexecRange = "xen_kexec_range_t", 24 {
        /// In: [`KexecRangeKind`].
        pub range: i32,
        /// In: which one of that kind.
        pub nr: i32,
        /// Out: bytes.
        pub size: u64,
        /// Out: machine address.
        pub start: u64,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[KexecCommand::CONSTANTS, KexecRangeKind::CONSTANTS];
