//! The structures that every guest shares with the hypervisor, and the calls that belong to no subsystem.
//!
//! ABI: `public/xen.h`.

use crate::arch::{ArchSharedInfo, ArchVcpuInfo};
use crate::handle::GuestHandle;
use crate::ids::Port;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

abi_constants! {
    /// Number of virtual interrupts, unassigned ones included.
    pub const NR_VIRQS: u32 = 24;
    /// Bytes of a guest's command line, the final zero included.
    pub const MAX_GUEST_CMDLINE: usize = 1024;
    /// `update_va_mapping`: no flush.
    pub const UVMF_NONE: u64 = 0;
    /// `update_va_mapping`: flush all translations.
    pub const UVMF_TLB_FLUSH: u64 = 1;
    /// `update_va_mapping`: flush the one translation.
    pub const UVMF_INVLPG: u64 = 2;
    /// `update_va_mapping`: which bits say what to flush.
    pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
    /// `update_va_mapping`: flush on the calling CPU; with an address in the other bits, on the vCPUs of that bit map.
    pub const UVMF_LOCAL: u64 = 0;
    /// `update_va_mapping`: flush wherever the domain runs.
    pub const UVMF_ALL: u64 = 1 << 2;
    /// The last of the hypercall numbers that are left to the architecture. On x86 it means nothing.
    pub const HYPERCALL_ARCH_7: u64 = 55 => "__HYPERVISOR_arch_7";
}

/// How [`StartInfo::magic`] begins; the rest is zero.
pub const START_INFO_MAGIC: &[u8] = b"xen-3.0-x86_64p";

/// Bit 31 of the count of `mmu_update` and `mmuext_op`: the call goes on where it was interrupted.
#[doc(alias = "MMU_UPDATE_PREEMPTED")]
pub const MMU_COUNT_PREEMPTED: u32 = 1 << 31;

/// Which bits of [`MmuUpdate::ptr`] hold the [`MmuCommand`].
pub const MMU_COMMAND_MASK: u64 = 3;

abi_enum! {
    /// A virtual interrupt.
    #[doc(alias = "virq")]
    pub enum Virq: u32 {
        /// The timer of the vCPU went off; one for each vCPU.
        Timer = 0 => "VIRQ_TIMER",
        /// The guest is asked to print its state; one for each vCPU.
        Debug = 1 => "VIRQ_DEBUG",
        /// Input on the hypervisor's console.
        Console = 2 => "VIRQ_CONSOLE",
        /// A domain shut down, crashed or went away.
        DomExc = 3 => "VIRQ_DOM_EXC",
        /// The trace buffer has records.
        TraceBuffer = 4 => "VIRQ_TBUF",
        /// A domain paused for its debugger.
        Debugger = 6 => "VIRQ_DEBUGGER",
        /// A sample of the profiler; one for each vCPU.
        Xenoprof = 7 => "VIRQ_XENOPROF",
        /// Output on the hypervisor's console.
        ConsoleRing = 8 => "VIRQ_CON_RING",
        /// A physical CPU came or went.
        PcpuState = 9 => "VIRQ_PCPU_STATE",
        /// A memory event.
        MemEvent = 10 => "VIRQ_MEM_EVENT",
        /// A message between domains.
        Argo = 11 => "VIRQ_ARGO",
        /// Memory runs out.
        NoMemory = 12 => "VIRQ_ENOMEM",
        /// A performance counter overflowed; one for each vCPU.
        Pmu = 13 => "VIRQ_XENPMU",
        /// A machine check was logged.
        MachineCheck = 16 => "VIRQ_MCA",
    }
}

impl Virq {
    /// Whether each vCPU has its own; the others exist once in a domain and are bound on vCPU 0 first.
    pub const fn is_per_vcpu(self) -> bool {
        matches!(self, Self::Timer | Self::Debug | Self::Xenoprof | Self::Pmu)
    }
}

abi_enum! {
    /// What one entry of `mmu_update` does.
    pub enum MmuCommand: u64 {
        /// Writes a page-table entry.
        Normal = 0 => "MMU_NORMAL_PT_UPDATE",
        /// Writes the machine-to-physical entry of a frame.
        MachPhys = 1 => "MMU_MACHPHYS_UPDATE",
        /// Writes a page-table entry but keeps its accessed and dirty bits.
        PreserveAd = 2 => "MMU_PT_UPDATE_PRESERVE_AD",
        /// Writes a page-table entry with a machine frame even for a translated guest.
        NoTranslate = 3 => "MMU_PT_UPDATE_NO_TRANSLATE",
    }
}

abi_enum! {
    /// What one entry of `mmuext_op` does.
    #[doc(alias = "mmuext_cmd")]
    pub enum MmuextCommand: u32 {
        /// Validates a frame as a level-1 table and keeps it one.
        PinL1Table = 0 => "MMUEXT_PIN_L1_TABLE",
        /// Validates a frame as a level-2 table and keeps it one.
        PinL2Table = 1 => "MMUEXT_PIN_L2_TABLE",
        /// Validates a frame as a level-3 table and keeps it one.
        PinL3Table = 2 => "MMUEXT_PIN_L3_TABLE",
        /// Validates a frame as a level-4 table and keeps it one.
        PinL4Table = 3 => "MMUEXT_PIN_L4_TABLE",
        /// Ends a pin.
        UnpinTable = 4 => "MMUEXT_UNPIN_TABLE",
        /// Loads a root for kernel mode.
        NewBasePtr = 5 => "MMUEXT_NEW_BASEPTR",
        /// Flushes all translations of this CPU.
        TlbFlushLocal = 6 => "MMUEXT_TLB_FLUSH_LOCAL",
        /// Flushes one translation of this CPU.
        InvlpgLocal = 7 => "MMUEXT_INVLPG_LOCAL",
        /// Flushes all translations of the given vCPUs.
        TlbFlushMulti = 8 => "MMUEXT_TLB_FLUSH_MULTI",
        /// Flushes one translation of the given vCPUs.
        InvlpgMulti = 9 => "MMUEXT_INVLPG_MULTI",
        /// Flushes all translations wherever the domain runs.
        TlbFlushAll = 10 => "MMUEXT_TLB_FLUSH_ALL",
        /// Flushes one translation wherever the domain runs.
        InvlpgAll = 11 => "MMUEXT_INVLPG_ALL",
        /// Writes back and drops this CPU's caches.
        FlushCache = 12 => "MMUEXT_FLUSH_CACHE",
        /// Sets the local descriptor table.
        SetLdt = 13 => "MMUEXT_SET_LDT",
        /// Loads a root for user mode.
        NewUserBasePtr = 15 => "MMUEXT_NEW_USER_BASEPTR",
        /// Fills a frame with zeroes.
        ClearPage = 16 => "MMUEXT_CLEAR_PAGE",
        /// Copies a frame.
        CopyPage = 17 => "MMUEXT_COPY_PAGE",
        /// Writes back and drops the caches of all CPUs.
        FlushCacheGlobal = 18 => "MMUEXT_FLUSH_CACHE_GLOBAL",
        /// Allows a large page to be mapped as one.
        MarkSuper = 19 => "MMUEXT_MARK_SUPER",
        /// Takes that back.
        UnmarkSuper = 20 => "MMUEXT_UNMARK_SUPER",
    }
}

abi_enum! {
    /// A command of `console_io`.
    pub enum ConsoleIoCommand: u32 {
        /// Writes bytes.
        Write = 0 => "CONSOLEIO_write",
        /// Reads what was typed.
        Read = 1 => "CONSOLEIO_read",
    }
}

abi_enum! {
    /// A command of `vm_assist`.
    pub enum VmAssistCommand: u32 {
        /// Switches the behaviour on.
        Enable = 0 => "VMASST_CMD_enable",
        /// Switches the behaviour off.
        Disable = 1 => "VMASST_CMD_disable",
    }
}

abi_enum! {
    /// A behaviour that `vm_assist` switches: the number of its bit in `vm_assist` maps.
    pub enum VmAssist: u32 {
        /// 32-bit guests: full 4 GiB segments.
        FourGbSegments = 0 => "VMASST_TYPE_4gb_segments",
        /// 32-bit guests: a trap whenever that is used.
        FourGbSegmentsNotify = 1 => "VMASST_TYPE_4gb_segments_notify",
        /// Writes to page tables are emulated.
        WritablePagetables = 2 => "VMASST_TYPE_writable_pagetables",
        /// 32-bit guests: roots above 4 GiB.
        PaeExtendedCr3 = 3 => "VMASST_TYPE_pae_extended_cr3",
        /// The I/O privilege level is kept in the guest's flags.
        ArchitecturalIopl = 4 => "VMASST_TYPE_architectural_iopl",
        /// Writes of the run state are announced in its time stamp.
        RunstateUpdateFlag = 5 => "VMASST_TYPE_runstate_update_flag",
        /// User mode does not see the machine-to-physical table.
        M2pStrict = 32 => "VMASST_TYPE_m2p_strict",
    }
}

abi_flags! {
    /// What [`StartInfo::flags`] says about the domain; bits 8-15 carry power management options.
    pub struct StartFlags: u32 {
        /// The domain is privileged.
        const PRIVILEGED = 1 << 0 => "SIF_PRIVILEGED",
        /// The domain is the first.
        const INITDOMAIN = 1 << 1 => "SIF_INITDOMAIN",
        /// [`StartInfo::mod_start`] is a list of modules.
        const MULTIBOOT_MOD = 1 << 2 => "SIF_MULTIBOOT_MOD",
        /// [`StartInfo::mod_start`] is a pfn.
        const MOD_START_PFN = 1 << 3 => "SIF_MOD_START_PFN",
        /// The toolstack understands a linear physical-to-machine list.
        const VIRT_P2M_4TOOLS = 1 << 4 => "SIF_VIRT_P2M_4TOOLS",
        /// Power management options.
        const PM_MASK = 0xff << 8 => "SIF_PM_MASK",
    }
}

abi_flags! {
    /// What [`VcpuTimeInfo::flags`] says.
    pub struct TimeFlags: u8 {
        /// All vCPUs agree on the time.
        const TSC_STABLE = 1 << 0 => "XEN_PVCLOCK_TSC_STABLE_BIT",
        /// The guest was stopped.
        const GUEST_STOPPED = 1 << 1 => "XEN_PVCLOCK_GUEST_STOPPED",
    }
}

abi_enum! {
    /// What kind of screen [`Dom0VgaConsoleInfo`] describes.
    pub enum VideoType: u8 {
        /// Text: [`TextMode3`].
        TextMode3 = 0x03 => "XEN_VGATYPE_TEXT_MODE_3",
        /// A framebuffer that the BIOS set up: [`VesaLfb`].
        VesaLfb = 0x23 => "XEN_VGATYPE_VESA_LFB",
        /// A framebuffer that EFI set up: [`VesaLfb`].
        EfiLfb = 0x70 => "XEN_VGATYPE_EFI_LFB",
    }
}

abi_structs! {
    /// One entry of `mmu_update`.
    pub struct MmuUpdate = "struct mmu_update", 16 {
        /// Machine address of the entry, with the [`MmuCommand`] in bits 0-1.
        pub ptr: u64,
        /// New content; for [`MmuCommand::MachPhys`] the pfn.
        pub val: u64,
    }

    /// One entry of `mmuext_op`.
    pub struct MmuextOp = "struct mmuext_op", 24 {
        /// [`MmuextCommand`].
        pub cmd: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Frame (mfn), or linear address.
        pub arg1: u64,
        /// Number of descriptors (low 32 bits), guest address of a vCPU bit map, or source frame (mfn).
        pub arg2: u64,
    }

    /// One call of a multicall.
    pub struct MulticallEntry = "struct multicall_entry", 64 {
        /// Number of the hypercall.
        pub op: u64,
        /// What it returned, sign-extended.
        pub result: u64,
        /// Arguments.
        pub args: [u64; 6],
    }

    /// Time as one vCPU sees it: ns since boot = `system_time` + scaled TSC difference. Torn while `version` is odd.
    pub struct VcpuTimeInfo = "struct vcpu_time_info", 32 {
        /// Raised before and after each change.
        pub version: u32,
        /// Nothing.
        pub pad0: u32,
        /// Time stamp counter at the last change.
        pub tsc_timestamp: u64,
        /// ns since boot at the last change.
        pub system_time: u64,
        /// ns per shifted tick, times 2^32.
        pub tsc_to_system_mul: u32,
        /// Binary shift of the tick count before the multiplication; negative to the right.
        pub tsc_shift: i8,
        /// [`TimeFlags`].
        pub flags: u8,
        /// Nothing.
        pub pad1: [u8; 2],
    }

    /// What a vCPU shares with the hypervisor.
    pub struct VcpuInfo = "struct vcpu_info", 64 {
        /// An event is to be delivered: 0 or 1.
        pub evtchn_upcall_pending: u8,
        /// Events are not to be delivered: 0 or 1.
        pub evtchn_upcall_mask: u8,
        /// Nothing.
        pub _pad0: [u8; 6],
        /// Which words of [`SharedInfo::evtchn_pending`] to look at, one bit each.
        pub evtchn_pending_sel: u64,
        /// Page fault address.
        pub arch: ArchVcpuInfo,
        /// Time.
        pub time: VcpuTimeInfo,
    }

    /// The page that a domain shares with the hypervisor.
    pub struct SharedInfo = "struct shared_info", 3136 {
        /// The first 32 vCPUs, as long as they have not registered another place.
        pub vcpu_info: [VcpuInfo; 32],
        /// Two-level events: one bit for each port that is pending.
        pub evtchn_pending: [u64; 64],
        /// Two-level events: one bit for each port that is masked.
        pub evtchn_mask: [u64; 64],
        /// Odd while the wall clock changes.
        pub wc_version: u32,
        /// Seconds since 1970 at boot, low half.
        pub wc_sec: u32,
        /// ns of that second.
        pub wc_nsec: u32,
        /// Seconds, high half.
        pub wc_sec_hi: u32,
        /// Kept by the guest for its toolstack.
        pub arch: ArchSharedInfo,
    }

    /// The console of a guest: page and port.
    pub struct ConsoleDomU = "struct start_info: console.domU", 16 {
        /// Frame (mfn) of the console page.
        pub mfn: u64,
        /// Port.
        pub evtchn: Port,
        /// Nothing.
        pub _pad0: u32,
    }

    /// The console of the control domain: where in the start info page its [`Dom0VgaConsoleInfo`] is.
    pub struct ConsoleDom0 = "struct start_info: console.dom0", 8 {
        /// Bytes from the start of the page.
        pub info_off: u32,
        /// Bytes; 0 without a screen.
        pub info_size: u32,
    }

    /// What a kernel finds in rsi when it starts.
    pub struct StartInfo = "struct start_info", 1168 {
        /// [`START_INFO_MAGIC`].
        pub magic: [u8; 32],
        /// Pages of the domain.
        pub nr_pages: u64,
        /// Machine address of the [`SharedInfo`].
        pub shared_info: u64,
        /// [`StartFlags`].
        pub flags: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Frame (mfn) of the xenstore page; 0 for the control domain.
        pub store_mfn: u64,
        /// Port of xenstore; 0 for the control domain.
        pub store_evtchn: Port,
        /// Nothing.
        pub _pad1: u32,
        /// [`ConsoleDom0`] in its first eight bytes for the control domain.
        pub console: ConsoleDomU,
        /// Virtual address of the root table.
        pub pt_base: u64,
        /// Frames of the initial page tables.
        pub nr_pt_frames: u64,
        /// Virtual address of the physical-to-machine list.
        pub mfn_list: u64,
        /// Initial RAM disk: virtual address, or pfn with [`StartFlags::MOD_START_PFN`].
        pub mod_start: u64,
        /// Its bytes.
        pub mod_len: u64,
        /// Command line, ended by zero.
        pub cmd_line: [u8; 1024],
        /// First pfn of the physical-to-machine list and its page tables.
        pub first_p2m_pfn: u64,
        /// Their number.
        pub nr_p2m_frames: u64,
    }

    /// One module of a list of modules.
    pub struct MultibootModList = "struct xen_multiboot_mod_list", 16 {
        /// First byte.
        pub mod_start: u32,
        /// Last byte.
        pub mod_end: u32,
        /// Address of the command line.
        pub cmdline: u32,
        /// Zero.
        pub pad: u32,
    }

    /// A text screen.
    pub struct TextMode3 = "struct dom0_vga_console_info: u.text_mode_3", 10 {
        /// Pixels.
        pub font_height: u16,
        /// Column of the cursor.
        pub cursor_x: u16,
        /// Row of the cursor.
        pub cursor_y: u16,
        /// Rows.
        pub rows: u16,
        /// Columns.
        pub columns: u16,
    }

    /// A linear framebuffer.
    pub struct VesaLfb = "struct dom0_vga_console_info: u.vesa_lfb", 36 {
        /// Pixels.
        pub width: u16,
        /// Pixels.
        pub height: u16,
        /// Bytes.
        pub bytes_per_line: u16,
        /// Bits.
        pub bits_per_pixel: u16,
        /// Machine address, low half.
        pub lfb_base: u32,
        /// Units of 64 KiB.
        pub lfb_size: u32,
        /// Lowest bit of red.
        pub red_pos: u8,
        /// Bits of red.
        pub red_size: u8,
        /// Lowest bit of green.
        pub green_pos: u8,
        /// Bits of green.
        pub green_size: u8,
        /// Lowest bit of blue.
        pub blue_pos: u8,
        /// Bits of blue.
        pub blue_size: u8,
        /// Lowest unused bit.
        pub rsvd_pos: u8,
        /// Unused bits.
        pub rsvd_size: u8,
        /// VESA capabilities.
        pub gbl_caps: u32,
        /// VESA mode attributes.
        pub mode_attrs: u16,
        /// Nothing.
        pub pad: u16,
        /// Machine address, high half.
        pub ext_lfb_base: u32,
    }

    /// The screen as the boot loader left it, behind the [`StartInfo`] of the control domain.
    pub struct Dom0VgaConsoleInfo = "struct dom0_vga_console_info", 40 {
        /// [`VideoType`].
        pub video_type: u8,
        /// Nothing.
        pub _pad0: [u8; 3],
        /// [`TextMode3`] or [`VesaLfb`]; see [`Self::variant`].
        pub u: [u8; 36],
    }

    /// A bit map in a guest's memory.
    pub struct XenctlBitmap = "struct xenctl_bitmap", 16 {
        /// Its bytes.
        pub bitmap: GuestHandle<u8>,
        /// Its bits.
        pub nr_bits: u32,
        /// Nothing.
        pub _pad0: u32,
    }
}

union_bytes!(Dom0VgaConsoleInfo, 36);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    Virq::CONSTANTS,
    MmuCommand::CONSTANTS,
    MmuextCommand::CONSTANTS,
    ConsoleIoCommand::CONSTANTS,
    VmAssistCommand::CONSTANTS,
    VmAssist::CONSTANTS,
    StartFlags::CONSTANTS,
    TimeFlags::CONSTANTS,
    VideoType::CONSTANTS,
];
