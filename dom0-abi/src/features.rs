//! Features that the hypervisor announces and kernels ask for by ELF note. ABI: `public/features.h`.

use crate::record::{Group, abi_constants, abi_enum};

abi_constants! {
    /// Groups of 32 features that exist.
    pub const NR_SUBMAPS: u32 = 1 => "XENFEAT_NR_SUBMAPS";
}

abi_enum! {
    /// One feature: the number of its bit.
    pub enum Feature: u32 {
        /// Page tables need not be read-only.
        WritablePageTables = 0 => "XENFEAT_writable_page_tables",
        /// Descriptor tables need not be read-only.
        WritableDescriptorTables = 1 => "XENFEAT_writable_descriptor_tables",
        /// The hypervisor translates frame numbers.
        AutoTranslatedPhysmap = 2 => "XENFEAT_auto_translated_physmap",
        /// The kernel runs in ring 0.
        SupervisorModeKernel = 3 => "XENFEAT_supervisor_mode_kernel",
        /// Roots may lie above 4 GiB.
        PaePgdirAbove4gb = 4 => "XENFEAT_pae_pgdir_above_4gb",
        /// `mmu_update` can keep accessed and dirty bits.
        MmuPtUpdatePreserveAd = 5 => "XENFEAT_mmu_pt_update_preserve_ad",
        /// `mmuext_op` can clear and copy pages.
        HighmemAssist = 6 => "XENFEAT_highmem_assist",
        /// Grant maps honour the software bits that the guest asks for.
        GnttabMapAvailBits = 7 => "XENFEAT_gnttab_map_avail_bits",
        /// Hardware containers: events by vector.
        HvmCallbackVector = 8 => "XENFEAT_hvm_callback_vector",
        /// Hardware containers: the time structure can be trusted.
        HvmSafePvclock = 9 => "XENFEAT_hvm_safe_pvclock",
        /// Hardware containers: interrupts of physical devices as events.
        HvmPirqs = 10 => "XENFEAT_hvm_pirqs",
        /// The kernel can be, and the domain is, the control domain.
        Dom0 = 11 => "XENFEAT_dom0",
        /// Memory can be asked for by virtual node.
        MemoryOpVnodeSupported = 13 => "XENFEAT_memory_op_vnode_supported",
        /// ARM calling convention.
        ArmSmcccSupported = 14 => "XENFEAT_ARM_SMCCC_supported",
        /// The ACPI root pointer may lie anywhere.
        LinuxRsdpUnrestricted = 15 => "XENFEAT_linux_rsdp_unrestricted",
        /// Guest frames are not machine frames.
        NotDirectMapped = 16 => "XENFEAT_not_direct_mapped",
        /// Guest frames are machine frames.
        DirectMapped = 17 => "XENFEAT_direct_mapped",
    }
}

impl Feature {
    /// The feature's bit in its group of 32.
    pub const fn bit(self) -> u32 {
        1 << (self.get() % 32)
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[VALUES, Feature::CONSTANTS];
