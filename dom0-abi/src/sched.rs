//! Giving up the CPU and shutting down. ABI: `public/sched.h`.

use crate::handle::GuestHandle;
use crate::ids::{DomId, Port};
use crate::record::{Group, abi_enum, abi_structs};

abi_enum! {
    /// A command of `sched_op`.
    pub enum SchedCommand: u32 {
        /// Lets others run.
        Yield = 0 => "SCHEDOP_yield",
        /// Unmasks events and sleeps until one comes.
        Block = 1 => "SCHEDOP_block",
        /// Ends the domain: [`SchedShutdown`].
        Shutdown = 2 => "SCHEDOP_shutdown",
        /// Sleeps until one of some ports is pending: [`SchedPoll`].
        Poll = 3 => "SCHEDOP_poll",
        /// Declares another domain shut down: [`SchedRemoteShutdown`].
        RemoteShutdown = 4 => "SCHEDOP_remote_shutdown",
        /// Sets the reason to be reported, without shutting down: [`SchedShutdown`].
        ShutdownCode = 5 => "SCHEDOP_shutdown_code",
        /// Sets a watchdog: [`SchedWatchdog`].
        Watchdog = 6 => "SCHEDOP_watchdog",
        /// Ties the vCPU to a physical CPU for a while: [`SchedPinOverride`].
        PinOverride = 7 => "SCHEDOP_pin_override",
    }
}

abi_enum! {
    /// Why a domain shut down.
    pub enum ShutdownReason: u32 {
        /// It is finished.
        PowerOff = 0 => "SHUTDOWN_poweroff",
        /// It wants to start again.
        Reboot = 1 => "SHUTDOWN_reboot",
        /// It is ready to be saved.
        Suspend = 2 => "SHUTDOWN_suspend",
        /// It crashed.
        Crash = 3 => "SHUTDOWN_crash",
        /// Its watchdog went off.
        Watchdog = 4 => "SHUTDOWN_watchdog",
        /// It wants to be reset in place.
        SoftReset = 5 => "SHUTDOWN_soft_reset",
    }
}

abi_structs! {
    /// Argument of [`SchedCommand::Shutdown`].
    pub struct SchedShutdown = "struct sched_shutdown", 4 {
        /// [`ShutdownReason`].
        pub reason: u32,
    }

    /// Argument of [`SchedCommand::Poll`].
    pub struct SchedPoll = "struct sched_poll", 24 {
        /// Ports.
        pub ports: GuestHandle<Port>,
        /// Their number, 0-128.
        pub nr_ports: u32,
        /// Nothing.
        pub _pad0: u32,
        /// System time in ns at which to give up; 0 never.
        pub timeout: u64,
    }

    /// Argument of [`SchedCommand::RemoteShutdown`].
    pub struct SchedRemoteShutdown = "struct sched_remote_shutdown", 8 {
        /// Domain.
        pub domain_id: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// [`ShutdownReason`].
        pub reason: u32,
    }

    /// Argument of [`SchedCommand::Watchdog`].
    pub struct SchedWatchdog = "struct sched_watchdog", 8 {
        /// Which one; 0 for a new one.
        pub id: u32,
        /// Seconds from now; 0 ends it.
        pub timeout: u32,
    }

    /// Argument of [`SchedCommand::PinOverride`].
    pub struct SchedPinOverride = "struct sched_pin_override", 4 {
        /// Physical CPU; negative ends it.
        pub pcpu: i32,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[SchedCommand::CONSTANTS, ShutdownReason::CONSTANTS];
