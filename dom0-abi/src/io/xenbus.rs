//! The states through which both ends of a device go. ABI: `public/io/xenbus.h`.

use crate::record::{Group, abi_enum};

abi_enum! {
    /// State of one end, as a decimal number in xenstore.
    #[doc(alias = "xenbus_state")]
    pub enum XenbusState: u32 {
        /// Not there.
        Unknown = 0 => "XenbusStateUnknown",
        /// Beginning.
        Initialising = 1 => "XenbusStateInitialising",
        /// Waiting for the other end or for scripts.
        InitWait = 2 => "XenbusStateInitWait",
        /// Waiting for the other end to connect.
        Initialised = 3 => "XenbusStateInitialised",
        /// Connected.
        Connected = 4 => "XenbusStateConnected",
        /// Ending.
        Closing = 5 => "XenbusStateClosing",
        /// Ended.
        Closed = 6 => "XenbusStateClosed",
        /// Changing.
        Reconfiguring = 7 => "XenbusStateReconfiguring",
        /// Changed.
        Reconfigured = 8 => "XenbusStateReconfigured",
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[XenbusState::CONSTANTS];
