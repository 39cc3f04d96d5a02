//! Virtual CPUs. ABI: `public/vcpu.h`.

use crate::handle::GuestHandle;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs};
use crate::xen::VcpuTimeInfo;

abi_constants! {
    /// Bit of [`VcpuRunstateInfo::state_entry_time`]: the structure is being written.
    pub const RUNSTATE_UPDATE: u64 = 1 << 63 => "XEN_RUNSTATE_UPDATE";
}

abi_enum! {
    /// A command of `vcpu_op`.
    pub enum VcpuCommand: u32 {
        /// Gives a vCPU its first state: [`VcpuGuestContext`](crate::arch::VcpuGuestContext).
        Initialise = 0 => "VCPUOP_initialise",
        /// Starts a vCPU.
        Up = 1 => "VCPUOP_up",
        /// Stops a vCPU.
        Down = 2 => "VCPUOP_down",
        /// Returns 1 if the vCPU is up, 0 if it is down.
        IsUp = 3 => "VCPUOP_is_up",
        /// Reads the run state: [`VcpuRunstateInfo`].
        GetRunstateInfo = 4 => "VCPUOP_get_runstate_info",
        /// Names the place where the run state is to be kept: [`VcpuRegisterRunstateMemoryArea`].
        RegisterRunstateMemoryArea = 5 => "VCPUOP_register_runstate_memory_area",
        /// Starts the periodic timer: [`VcpuSetPeriodicTimer`].
        SetPeriodicTimer = 6 => "VCPUOP_set_periodic_timer",
        /// Stops the periodic timer.
        StopPeriodicTimer = 7 => "VCPUOP_stop_periodic_timer",
        /// Sets the one-shot timer: [`VcpuSetSingleshotTimer`].
        SetSingleshotTimer = 8 => "VCPUOP_set_singleshot_timer",
        /// Stops the one-shot timer.
        StopSingleshotTimer = 9 => "VCPUOP_stop_singleshot_timer",
        /// Moves the vCPU's [`VcpuInfo`](crate::xen::VcpuInfo): [`VcpuRegisterVcpuInfo`].
        RegisterVcpuInfo = 10 => "VCPUOP_register_vcpu_info",
        /// Sends a non-maskable interrupt.
        SendNmi = 11 => "VCPUOP_send_nmi",
        /// Names the physical CPU of a tied vCPU: [`VcpuGetPhysid`].
        GetPhysid = 12 => "VCPUOP_get_physid",
        /// Names the place where a copy of the time is to be kept: [`VcpuRegisterTimeMemoryArea`].
        RegisterVcpuTimeMemoryArea = 13 => "VCPUOP_register_vcpu_time_memory_area",
    }
}

abi_enum! {
    /// What a vCPU does, seen by the scheduler.
    pub enum Runstate: u32 {
        /// It runs.
        Running = 0 => "RUNSTATE_running",
        /// It could run.
        Runnable = 1 => "RUNSTATE_runnable",
        /// It waits for an event.
        Blocked = 2 => "RUNSTATE_blocked",
        /// It is down or paused.
        Offline = 3 => "RUNSTATE_offline",
    }
}

abi_flags! {
    /// How the one-shot timer treats its deadline.
    pub struct SingleshotFlags: u32 {
        /// A deadline in the past is an error.
        const FUTURE = 1 << 0 => "VCPU_SSHOTTMR_future",
    }
}

abi_structs! {
    /// Where a vCPU's time went.
    pub struct VcpuRunstateInfo = "struct vcpu_runstate_info", 48 {
        /// [`Runstate`].
        pub state: u32,
        /// Nothing.
        pub _pad0: u32,
        /// System time in ns of the last change, and [`RUNSTATE_UPDATE`].
        pub state_entry_time: u64,
        /// ns in each [`Runstate`].
        pub time: [u64; 4],
    }

    /// Argument of [`VcpuCommand::RegisterRunstateMemoryArea`].
    pub struct VcpuRegisterRunstateMemoryArea = "struct vcpu_register_runstate_memory_area", 8 {
        /// Place.
        pub addr: GuestHandle<VcpuRunstateInfo>,
    }

    /// Argument of [`VcpuCommand::SetPeriodicTimer`].
    pub struct VcpuSetPeriodicTimer = "struct vcpu_set_periodic_timer", 8 {
        /// ns.
        pub period_ns: u64,
    }

    /// Argument of [`VcpuCommand::SetSingleshotTimer`].
    pub struct VcpuSetSingleshotTimer = "struct vcpu_set_singleshot_timer", 16 {
        /// System time in ns.
        pub timeout_abs_ns: u64,
        /// [`SingleshotFlags`].
        pub flags: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`VcpuCommand::RegisterVcpuInfo`].
    pub struct VcpuRegisterVcpuInfo = "struct vcpu_register_vcpu_info", 16 {
        /// Frame (mfn).
        pub mfn: u64,
        /// Bytes from the start of the frame.
        pub offset: u32,
        /// Nothing.
        pub rsvd: u32,
    }

    /// Answer of [`VcpuCommand::GetPhysid`].
    pub struct VcpuGetPhysid = "struct vcpu_get_physid", 8 {
        /// APIC identifier in bits 0-31, ACPI identifier in bits 32-63.
        pub phys_id: u64,
    }

    /// Argument of [`VcpuCommand::RegisterVcpuTimeMemoryArea`].
    pub struct VcpuRegisterTimeMemoryArea = "struct vcpu_register_time_memory_area", 8 {
        /// Place.
        pub addr: GuestHandle<VcpuTimeInfo>,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    VcpuCommand::CONSTANTS,
    Runstate::CONSTANTS,
    SingleshotFlags::CONSTANTS,
];
