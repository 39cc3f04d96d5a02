//! Non-maskable interrupts. ABI: `public/nmi.h`.

use crate::record::{Group, abi_enum, abi_flags, abi_structs};

abi_enum! {
    /// A command of `nmi_op`.
    pub enum NmiCommand: u32 {
        /// Sets the entry point: [`NmiCallback`].
        RegisterCallback = 0 => "XENNMI_register_callback",
        /// Clears it.
        UnregisterCallback = 1 => "XENNMI_unregister_callback",
    }
}

abi_flags! {
    /// Why the last NMI came.
    pub struct NmiReason: u64 {
        /// I/O check.
        const IO_ERROR = 1 << 0 => "XEN_NMIREASON_io_error",
        /// PCI system error.
        const PCI_SERR = 1 << 1 => "XEN_NMIREASON_pci_serr",
        /// Unknown.
        const UNKNOWN = 1 << 2 => "XEN_NMIREASON_unknown",
    }
}

abi_structs! {
    /// Argument of [`NmiCommand::RegisterCallback`].
    pub struct NmiCallback = "struct xennmi_callback", 16 {
        /// Virtual address.
        pub handler_address: u64,
        /// Nothing.
        pub pad: u64,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[NmiCommand::CONSTANTS, NmiReason::CONSTANTS];
