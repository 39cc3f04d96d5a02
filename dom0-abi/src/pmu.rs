//! Virtual performance counters: numbers only. ABI: `public/pmu.h`.

use crate::record::{Group, abi_enum};

abi_enum! {
    /// A command of `xenpmu_op`.
    pub enum PmuCommand: u32 {
        /// Reads the mode.
        ModeGet = 0 => "XENPMU_mode_get",
        /// Sets the mode.
        ModeSet = 1 => "XENPMU_mode_set",
        /// Reads the features.
        FeatureGet = 2 => "XENPMU_feature_get",
        /// Sets the features.
        FeatureSet = 3 => "XENPMU_feature_set",
        /// Begins on a vCPU.
        Init = 4 => "XENPMU_init",
        /// Ends on a vCPU.
        Finish = 5 => "XENPMU_finish",
        /// Sets the interrupt's entry.
        LvtpcSet = 6 => "XENPMU_lvtpc_set",
        /// Writes cached registers.
        Flush = 7 => "XENPMU_flush",
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[PmuCommand::CONSTANTS];
