//! What is particular to x86-64: registers, trap frames, descriptor limits, the layout of the address space.
//!
//! ABI: `public/arch-x86/xen.h`, `public/arch-x86/xen-x86_64.h`.

use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs};

abi_constants! {
    /// Code selector for 64-bit code, kernel and user alike.
    pub const FLAT_CS64: u16 = 0xe033 => "FLAT_RING3_CS64";
    /// Code selector for 32-bit code.
    pub const FLAT_CS32: u16 = 0xe023 => "FLAT_RING3_CS32";
    /// Data selector for 32-bit code.
    pub const FLAT_DS32: u16 = 0xe02b => "FLAT_RING3_DS32";
    /// Data selector for 64-bit code: none.
    pub const FLAT_DS64: u16 = 0 => "FLAT_RING3_DS64";
    /// Stack selector.
    pub const FLAT_SS: u16 = 0xe02b => "FLAT_RING3_SS64";
    /// First page of a descriptor table that the guest cannot fill.
    pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
    /// Bytes of a descriptor table that the guest can fill.
    pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
    /// Descriptors of a table that the guest can fill.
    pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;
    /// First address that belongs to the hypervisor in every address space.
    pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// First address behind those that belong to the hypervisor.
    pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
    /// Where a guest reads the machine-to-physical table: one `u64` for each mfn.
    pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// End of the window in which the machine-to-physical table may lie.
    pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
    /// Entries that fit the window of the machine-to-physical table.
    pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3;
    /// vCPUs whose [`VcpuInfo`](crate::xen::VcpuInfo) has a place in the shared info page.
    pub const LEGACY_MAX_VCPUS: usize = 32 => "XEN_LEGACY_MAX_VCPUS";
    /// Subleaf number of a CPUID leaf that has no subleaves.
    pub const CPUID_NO_SUBLEAF: u32 = 0xffff_ffff => "XEN_CPUID_NO_SUBLEAF";
}

/// First of the 512 slots of a root table that belongs to the hypervisor.
pub const HYPERVISOR_FIRST_SLOT: usize = 256;
/// Last slot of a root table that belongs to the hypervisor.
pub const HYPERVISOR_LAST_SLOT: usize = 271;
const _: () = assert!((HYPERVISOR_VIRT_START >> 39) as usize & 511 == HYPERVISOR_FIRST_SLOT);
const _: () = assert!(((HYPERVISOR_VIRT_END >> 39) as usize & 511) - 1 == HYPERVISOR_LAST_SLOT);

/// The bytes in front of `cpuid` by which a guest asks for the hypervisor's answer: `ud2` and the letters "xen".
#[doc(alias = "XEN_EMULATE_PREFIX")]
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];

/// What a machine-to-physical entry holds for a frame that belongs to no guest.
pub const INVALID_M2P_ENTRY: u64 = u64::MAX;

abi_enum! {
    /// Which base `set_segment_base` sets.
    pub enum SegmentBase: u32 {
        /// The FS base.
        Fs = 0 => "SEGBASE_FS",
        /// The GS base of the guest's user mode.
        GsUser = 1 => "SEGBASE_GS_USER",
        /// The GS base of the guest's kernel mode.
        GsKernel = 2 => "SEGBASE_GS_KERNEL",
        /// Loads the selector in bits 0-15 into GS for user mode.
        GsUserSelector = 3 => "SEGBASE_GS_USER_SEL",
    }
}

abi_flags! {
    /// State of a vCPU in [`VcpuGuestContext::flags`], and in [`IretContext::flags`].
    pub struct VgcfFlags: u64 {
        /// The FPU area is meant.
        const I387_VALID = 1 << 0 => "VGCF_i387_valid",
        /// The guest is in kernel mode.
        const IN_KERNEL = 1 << 2 => "VGCF_in_kernel",
        /// The failsafe callback masks events.
        const FAILSAFE_DISABLES_EVENTS = 1 << 3 => "VGCF_failsafe_disables_events",
        /// The syscall callback masks events.
        const SYSCALL_DISABLES_EVENTS = 1 << 4 => "VGCF_syscall_disables_events",
        /// The vCPU runs; otherwise it is down.
        const ONLINE = 1 << 5 => "VGCF_online",
        /// In an iret frame: rcx and r11 need not be restored.
        const IN_SYSCALL = 1 << 8 => "VGCF_in_syscall",
    }
}

abi_flags! {
    /// Emulated devices of a new domain; a paravirtual one has none.
    pub struct EmulationFlags: u32 {
        /// Local APIC.
        const LAPIC = 1 << 0 => "XEN_X86_EMU_LAPIC",
        /// High precision event timer.
        const HPET = 1 << 1 => "XEN_X86_EMU_HPET",
        /// Power management timer and ports.
        const PM = 1 << 2 => "XEN_X86_EMU_PM",
        /// Real-time clock.
        const RTC = 1 << 3 => "XEN_X86_EMU_RTC",
        /// I/O APIC.
        const IOAPIC = 1 << 4 => "XEN_X86_EMU_IOAPIC",
        /// Legacy interrupt controller.
        const PIC = 1 << 5 => "XEN_X86_EMU_PIC",
        /// VGA.
        const VGA = 1 << 6 => "XEN_X86_EMU_VGA",
        /// IOMMU.
        const IOMMU = 1 << 7 => "XEN_X86_EMU_IOMMU",
        /// Interval timer.
        const PIT = 1 << 8 => "XEN_X86_EMU_PIT",
        /// Interrupts of physical devices as event channels.
        const USE_PIRQ = 1 << 9 => "XEN_X86_EMU_USE_PIRQ",
        /// PCI configuration space.
        const VPCI = 1 << 10 => "XEN_X86_EMU_VPCI",
    }
}

abi_flags! {
    /// Other switches of a new domain.
    pub struct MiscFlags: u32 {
        /// Reads of unknown MSRs give zero instead of a fault.
        const MSR_RELAXED = 1 << 0 => "XEN_X86_MSR_RELAXED",
    }
}

/// Bits 0-1 of [`TrapInfo::flags`]: the least privileged level from which `int n` reaches the entry.
#[doc(alias = "TI_GET_DPL")]
pub const TRAP_DPL_MASK: u8 = 3;
/// Bit of [`TrapInfo::flags`]: delivery masks events.
#[doc(alias = "TI_GET_IF")]
pub const TRAP_MASKS_EVENTS: u8 = 4;

abi_structs! {
    /// The registers of a vCPU, in the order in which the hypervisor saves them on its stack.
    ///
    /// `cs` and `ss` are followed by bytes whose content means nothing; `error_code` and `entry_vector` belong to the
    /// hypervisor while it handles an entry.
    pub struct CpuUserRegs = "struct cpu_user_regs", 200 {
        /// r15.
        pub r15: u64,
        /// r14.
        pub r14: u64,
        /// r13.
        pub r13: u64,
        /// r12.
        pub r12: u64,
        /// rbp.
        pub rbp: u64,
        /// rbx.
        pub rbx: u64,
        /// r11.
        pub r11: u64,
        /// r10.
        pub r10: u64,
        /// r9.
        pub r9: u64,
        /// r8.
        pub r8: u64,
        /// rax.
        pub rax: u64,
        /// rcx.
        pub rcx: u64,
        /// rdx.
        pub rdx: u64,
        /// rsi.
        pub rsi: u64,
        /// rdi.
        pub rdi: u64,
        /// Error code of the exception, or 0.
        pub error_code: u32,
        /// Number of the exception or interrupt that entered the hypervisor.
        pub entry_vector: u32,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector.
        pub cs: u16,
        /// Nothing.
        pub _pad0: u16,
        /// The event mask at the time of the entry, as the guest sees it: 0 or 1.
        pub saved_upcall_mask: u8,
        /// Nothing.
        pub _pad1: [u8; 3],
        /// Flags.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u16,
        /// Nothing.
        pub _pad2: [u16; 3],
        /// es selector.
        pub es: u16,
        /// Nothing.
        pub _pad3: [u16; 3],
        /// ds selector.
        pub ds: u16,
        /// Nothing.
        pub _pad4: [u16; 3],
        /// fs selector.
        pub fs: u16,
        /// Nothing.
        pub _pad5: [u16; 3],
        /// gs selector.
        pub gs: u16,
        /// Nothing.
        pub _pad6: [u16; 3],
    }

    /// What the iret hypercall finds at the guest kernel's stack pointer.
    pub struct IretContext = "struct iret_context", 72 {
        /// rax.
        pub rax: u64,
        /// r11.
        pub r11: u64,
        /// rcx.
        pub rcx: u64,
        /// [`VgcfFlags::IN_SYSCALL`] or nothing.
        pub flags: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// Code selector in bits 0-15; its privilege level says whether to go to kernel or user mode.
        pub cs: u64,
        /// Flags; bit 9 becomes the inverted event mask.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector in bits 0-15.
        pub ss: u64,
    }

    /// One entry of a virtual interrupt table.
    pub struct TrapInfo = "struct trap_info", 16 {
        /// Number of the exception or interrupt.
        pub vector: u8,
        /// [`TRAP_DPL_MASK`] and [`TRAP_MASKS_EVENTS`].
        pub flags: u8,
        /// Code selector of the handler.
        pub cs: u16,
        /// Nothing.
        pub _pad0: u32,
        /// Virtual address of the handler; 0 ends a list.
        pub address: u64,
    }

    /// The FPU state of a vCPU in the format of `fxsave`.
    pub struct FpuContext = "struct vcpu_guest_context: fpu_ctxt", 512 {
        /// The bytes.
        pub x: [u8; 512],
    }

    /// The whole state of a paravirtual vCPU.
    pub struct VcpuGuestContext = "struct vcpu_guest_context", 5168 {
        /// FPU state.
        pub fpu_ctxt: FpuContext,
        /// [`VgcfFlags`].
        pub flags: u64,
        /// Registers.
        pub user_regs: CpuUserRegs,
        /// Interrupt table.
        pub trap_ctxt: [TrapInfo; 256],
        /// Linear address of the local descriptor table.
        pub ldt_base: u64,
        /// Its descriptors, 0-8192.
        pub ldt_ents: u64,
        /// Frames (mfn) of the global descriptor table; the last two belong to the hypervisor.
        pub gdt_frames: [u64; 16],
        /// Its descriptors, 0-7168.
        pub gdt_ents: u64,
        /// Stack selector of the guest kernel.
        pub kernel_ss: u64,
        /// Stack pointer on which the guest kernel is entered from user mode.
        pub kernel_sp: u64,
        /// Control registers; 3 names the kernel's root table, 1 the user's (both mfn << 12).
        pub ctrlreg: [u64; 8],
        /// Debug registers.
        pub debugreg: [u64; 8],
        /// Entry point for events.
        pub event_callback_eip: u64,
        /// Entry point for frames that cannot be restored.
        pub failsafe_callback_eip: u64,
        /// Entry point for `syscall` of 64-bit user code.
        pub syscall_callback_eip: u64,
        /// Bit map of [`VmAssist`](crate::xen::VmAssist).
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base of kernel mode.
        pub gs_base_kernel: u64,
        /// GS base of user mode.
        pub gs_base_user: u64,
    }

    /// The x86 part of a [`VcpuInfo`](crate::xen::VcpuInfo).
    pub struct ArchVcpuInfo = "struct arch_vcpu_info", 16 {
        /// Address of the vCPU's last page fault.
        pub cr2: u64,
        /// Nothing.
        pub pad: u64,
    }

    /// The x86 part of a [`SharedInfo`](crate::xen::SharedInfo), mostly written by the guest for its toolstack.
    pub struct ArchSharedInfo = "struct arch_shared_info", 48 {
        /// Entries of the guest's physical-to-machine list.
        pub max_pfn: u64,
        /// Frame (mfn) at the top of the three-level form of the list; 0 not yet, all ones not used.
        pub pfn_to_mfn_frame_list_list: u64,
        /// Why the last NMI came: [`NmiReason`](crate::nmi::NmiReason).
        pub nmi_reason: u64,
        /// Root (mfn << 12) of an address space in which `p2m_vaddr` is valid; 0 if the linear list is not announced.
        pub p2m_cr3: u64,
        /// Virtual address of the linear list.
        pub p2m_vaddr: u64,
        /// Odd while the guest changes the list's mapping.
        pub p2m_generation: u64,
    }

    /// The x86 part of the request to create a domain, and of a domain's description.
    pub struct ArchDomainConfig = "struct xen_arch_domainconfig", 8 {
        /// [`EmulationFlags`].
        pub emulation_flags: u32,
        /// [`MiscFlags`].
        pub misc_flags: u32,
    }

    /// One leaf of a CPUID policy.
    pub struct CpuidLeaf = "xen_cpuid_leaf_t", 24 {
        /// Leaf, the eax of the question.
        pub leaf: u32,
        /// Subleaf, the ecx of the question, or [`CPUID_NO_SUBLEAF`].
        pub subleaf: u32,
        /// eax of the answer.
        pub a: u32,
        /// ebx of the answer.
        pub b: u32,
        /// ecx of the answer.
        pub c: u32,
        /// edx of the answer.
        pub d: u32,
    }

    /// One model-specific register of a policy.
    pub struct MsrEntry = "xen_msr_entry_t", 16 {
        /// Number of the register.
        pub idx: u32,
        /// Zero.
        pub flags: u32,
        /// Value.
        pub val: u64,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    SegmentBase::CONSTANTS,
    VgcfFlags::CONSTANTS,
    EmulationFlags::CONSTANTS,
    MiscFlags::CONSTANTS,
];
