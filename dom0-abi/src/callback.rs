//! Entry points of the guest kernel. ABI: `public/callback.h`.

use crate::record::{Group, abi_enum, abi_flags, abi_structs};

abi_enum! {
    /// A command of `callback_op`.
    pub enum CallbackCommand: u32 {
        /// Sets an entry point: [`CallbackRegister`].
        Register = 0 => "CALLBACKOP_register",
        /// Clears an entry point: [`CallbackUnregister`].
        Unregister = 1 => "CALLBACKOP_unregister",
    }
}

abi_enum! {
    /// What an entry point is for.
    pub enum CallbackType: u16 {
        /// Events.
        Event = 0 => "CALLBACKTYPE_event",
        /// Frames that cannot be restored.
        Failsafe = 1 => "CALLBACKTYPE_failsafe",
        /// `syscall` of 64-bit user code.
        Syscall = 2 => "CALLBACKTYPE_syscall",
        /// Earlier number of [`CallbackType::Sysenter`].
        SysenterDeprecated = 3 => "CALLBACKTYPE_sysenter_deprecated",
        /// Non-maskable interrupts.
        Nmi = 4 => "CALLBACKTYPE_nmi",
        /// `sysenter` of user code.
        Sysenter = 5 => "CALLBACKTYPE_sysenter",
        /// `syscall` of 32-bit user code.
        Syscall32 = 7 => "CALLBACKTYPE_syscall32",
    }
}

abi_flags! {
    /// How to enter.
    pub struct CallbackFlags: u16 {
        /// With events masked.
        const MASK_EVENTS = 1 << 0 => "CALLBACKF_mask_events",
    }
}

abi_structs! {
    /// Argument of [`CallbackCommand::Register`].
    pub struct CallbackRegister = "struct callback_register", 16 {
        /// [`CallbackType`].
        pub kind: u16 = "type",
        /// [`CallbackFlags`].
        pub flags: u16,
        /// Nothing.
        pub _pad0: u32,
        /// Virtual address.
        pub address: u64,
    }

    /// Argument of [`CallbackCommand::Unregister`].
    pub struct CallbackUnregister = "struct callback_unregister", 4 {
        /// [`CallbackType`].
        pub kind: u16 = "type",
        /// Nothing.
        pub _pad0: u16,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    CallbackCommand::CONSTANTS,
    CallbackType::CONSTANTS,
    CallbackFlags::CONSTANTS,
];
