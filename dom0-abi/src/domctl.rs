//! Control of domains by a toolstack. ABI: `public/domctl.h`.

use crate::arch::{ArchDomainConfig, CpuidLeaf, MsrEntry, VcpuGuestContext};
use crate::handle::GuestHandle;
use crate::ids::{DomId, DomainHandle, Port, VcpuId};
use crate::memory::Vmemrange;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};
use crate::xen::XenctlBitmap;

abi_constants! {
    /// Version of this interface.
    pub const INTERFACE_VERSION: u32 = 0x15 => "XEN_DOMCTL_INTERFACE_VERSION";
    /// Bits of [`GetDomainInfo::flags`] above which the shutdown reason stands.
    pub const SHUTDOWN_SHIFT: u32 = 16 => "XEN_DOMINF_shutdownshift";
    /// The shutdown reason, shifted down.
    pub const SHUTDOWN_MASK: u32 = 255 => "XEN_DOMINF_shutdownmask";
    /// [`GetDomainInfo::max_vcpu_id`] of a domain without vCPUs.
    pub const INVALID_MAX_VCPU_ID: u32 = u32::MAX => "XEN_INVALID_MAX_VCPU_ID";
    /// Bits of [`CreateDomain::grant_opts`] with the highest version of grant tables.
    pub const GRANT_VERSION_MASK: u32 = 0xf => "XEN_DOMCTL_GRANT_version_mask";
    /// Lowest bit of a frame's type.
    pub const PFINFO_SHIFT: u32 = 28 => "XEN_DOMCTL_PFINFO_LTAB_SHIFT";
    /// Frame type: no table.
    pub const PFINFO_NOTAB: u32 = 0 => "XEN_DOMCTL_PFINFO_NOTAB";
    /// Frame type: level-1 table.
    pub const PFINFO_L1TAB: u32 = 1 << 28 => "XEN_DOMCTL_PFINFO_L1TAB";
    /// Frame type: level-2 table.
    pub const PFINFO_L2TAB: u32 = 2 << 28 => "XEN_DOMCTL_PFINFO_L2TAB";
    /// Frame type: level-3 table.
    pub const PFINFO_L3TAB: u32 = 3 << 28 => "XEN_DOMCTL_PFINFO_L3TAB";
    /// Frame type: level-4 table.
    pub const PFINFO_L4TAB: u32 = 4 << 28 => "XEN_DOMCTL_PFINFO_L4TAB";
    /// Bits of the level.
    pub const PFINFO_LTABTYPE_MASK: u32 = 7 << 28 => "XEN_DOMCTL_PFINFO_LTABTYPE_MASK";
    /// Frame type: a pinned table.
    pub const PFINFO_LPINTAB: u32 = 1 << 31 => "XEN_DOMCTL_PFINFO_LPINTAB";
    /// Frame type: none of the domain's.
    pub const PFINFO_XTAB: u32 = 0xf << 28 => "XEN_DOMCTL_PFINFO_XTAB";
    /// Frame type: to be allocated only.
    pub const PFINFO_XALLOC: u32 = 0xe << 28 => "XEN_DOMCTL_PFINFO_XALLOC";
    /// Frame type: broken memory.
    pub const PFINFO_BROKEN: u32 = 0xd << 28 => "XEN_DOMCTL_PFINFO_BROKEN";
    /// Bits of a frame's type.
    pub const PFINFO_LTAB_MASK: u32 = 0xf << 28 => "XEN_DOMCTL_PFINFO_LTAB_MASK";
    /// [`AssignDevice::dev`]: a PCI function.
    pub const DEV_PCI: u32 = 0 => "XEN_DOMCTL_DEV_PCI";
    /// [`AssignDevice::flags`]: conflicts with memory that firmware reserves are accepted.
    pub const DEV_RDM_RELAXED: u32 = 1 => "XEN_DOMCTL_DEV_RDM_RELAXED";
    /// [`ShadowOp::mode`] of the last round: report what the hypervisor itself has mapped, too.
    pub const SHADOW_LOGDIRTY_FINAL: u32 = 1 => "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL";
    /// [`ShadowOp::mode`] of [`ShadowCommand::Enable`]: log writes.
    pub const SHADOW_ENABLE_LOG_DIRTY: u32 = 4 => "XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY";
}

abi_enum! {
    /// A command of `domctl`.
    pub enum DomctlCommand: u32 {
        /// Makes a domain: [`CreateDomain`].
        CreateDomain = 1 => "XEN_DOMCTL_createdomain",
        /// Takes a domain apart.
        DestroyDomain = 2 => "XEN_DOMCTL_destroydomain",
        /// Pauses a domain.
        PauseDomain = 3 => "XEN_DOMCTL_pausedomain",
        /// Ends a pause.
        UnpauseDomain = 4 => "XEN_DOMCTL_unpausedomain",
        /// Describes a domain: [`GetDomainInfo`].
        GetDomainInfo = 5 => "XEN_DOMCTL_getdomaininfo",
        /// Says where a vCPU may run: [`VcpuAffinity`].
        SetVcpuAffinity = 9 => "XEN_DOMCTL_setvcpuaffinity",
        /// Logs writes to a domain's memory: [`ShadowOp`].
        ShadowOp = 10 => "XEN_DOMCTL_shadow_op",
        /// Limits a domain's memory: [`MaxMem`].
        MaxMem = 11 => "XEN_DOMCTL_max_mem",
        /// Sets a vCPU's state: [`VcpuContext`].
        SetVcpuContext = 12 => "XEN_DOMCTL_setvcpucontext",
        /// Reads a vCPU's state: [`VcpuContext`].
        GetVcpuContext = 13 => "XEN_DOMCTL_getvcpucontext",
        /// Describes a vCPU: [`GetVcpuInfo`].
        GetVcpuInfo = 14 => "XEN_DOMCTL_getvcpuinfo",
        /// Makes a domain's vCPUs: [`MaxVcpus`].
        MaxVcpus = 15 => "XEN_DOMCTL_max_vcpus",
        /// Reads and sets scheduling parameters: [`SchedulerOp`].
        SchedulerOp = 16 => "XEN_DOMCTL_scheduler_op",
        /// Sets a domain's UUID: [`SetDomainHandle`].
        SetDomainHandle = 17 => "XEN_DOMCTL_setdomainhandle",
        /// Says whether a domain has a debugger: [`SetDebugging`].
        SetDebugging = 18 => "XEN_DOMCTL_setdebugging",
        /// Allows a physical interrupt: [`IrqPermission`].
        IrqPermission = 19 => "XEN_DOMCTL_irq_permission",
        /// Allows machine memory: [`IomemPermission`].
        IomemPermission = 20 => "XEN_DOMCTL_iomem_permission",
        /// Allows ports: [`IoportPermission`].
        IoportPermission = 21 => "XEN_DOMCTL_ioport_permission",
        /// Fills a hypercall page: [`HypercallInit`].
        HypercallInit = 22 => "XEN_DOMCTL_hypercall_init",
        /// Shifts a domain's wall clock: [`SetTimeOffset`].
        SetTimeOffset = 24 => "XEN_DOMCTL_settimeoffset",
        /// Tells where a vCPU may run: [`VcpuAffinity`].
        GetVcpuAffinity = 25 => "XEN_DOMCTL_getvcpuaffinity",
        /// Lets a suspended domain go on.
        ResumeDomain = 27 => "XEN_DOMCTL_resumedomain",
        /// Sends a signal to a vCPU: [`SendTrigger`].
        SendTrigger = 28 => "XEN_DOMCTL_sendtrigger",
        /// Names the port to be raised when the domain suspends: [`Subscribe`].
        Subscribe = 29 => "XEN_DOMCTL_subscribe",
        /// Hardware containers: reads the state.
        GetHvmContext = 33 => "XEN_DOMCTL_gethvmcontext",
        /// Hardware containers: sets the state.
        SetHvmContext = 34 => "XEN_DOMCTL_sethvmcontext",
        /// Sets a domain's word size: [`AddressSize`].
        SetAddressSize = 35 => "XEN_DOMCTL_set_address_size",
        /// Tells a domain's word size: [`AddressSize`].
        GetAddressSize = 36 => "XEN_DOMCTL_get_address_size",
        /// Gives a domain a device: [`AssignDevice`].
        AssignDevice = 37 => "XEN_DOMCTL_assign_device",
        /// Hardware containers: routes an interrupt.
        BindPtIrq = 38 => "XEN_DOMCTL_bind_pt_irq",
        /// Maps machine memory: [`MemoryMapping`].
        MemoryMapping = 39 => "XEN_DOMCTL_memory_mapping",
        /// Maps ports: [`IoportMapping`].
        IoportMapping = 40 => "XEN_DOMCTL_ioport_mapping",
        /// Sets the rest of a vCPU's state: [`ExtVcpuContext`].
        SetExtVcpuContext = 42 => "XEN_DOMCTL_set_ext_vcpucontext",
        /// Reads the rest of a vCPU's state: [`ExtVcpuContext`].
        GetExtVcpuContext = 43 => "XEN_DOMCTL_get_ext_vcpucontext",
        /// Tells whether a device could be given: [`AssignDevice`].
        TestAssignDevice = 45 => "XEN_DOMCTL_test_assign_device",
        /// Gives a domain power over another: [`SetTarget`].
        SetTarget = 46 => "XEN_DOMCTL_set_target",
        /// Takes a device away: [`AssignDevice`].
        DeassignDevice = 47 => "XEN_DOMCTL_deassign_device",
        /// Hardware containers: ends the routing of an interrupt.
        UnbindPtIrq = 48 => "XEN_DOMCTL_unbind_pt_irq",
        /// Tells the devices that must stay together.
        GetDeviceGroup = 50 => "XEN_DOMCTL_get_device_group",
        /// Single steps.
        DebugOp = 54 => "XEN_DOMCTL_debug_op",
        /// Hardware containers: reads a part of the state.
        GetHvmContextPartial = 55 => "XEN_DOMCTL_gethvmcontext_partial",
        /// Hardware containers: events.
        VmEventOp = 56 => "XEN_DOMCTL_vm_event_op",
        /// Memory sharing.
        MemSharingOp = 57 => "XEN_DOMCTL_mem_sharing_op",
        /// Tells how the time stamp counter is shown: [`TscInfo`].
        GetTscInfo = 59 => "XEN_DOMCTL_gettscinfo",
        /// Says how the time stamp counter is shown: [`TscInfo`].
        SetTscInfo = 60 => "XEN_DOMCTL_settscinfo",
        /// Tells the types of frames: [`GetPageFrameInfo3`].
        GetPageFrameInfo3 = 61 => "XEN_DOMCTL_getpageframeinfo3",
        /// Sets a vCPU's extended FPU state: [`VcpuExtState`].
        SetVcpuExtState = 62 => "XEN_DOMCTL_setvcpuextstate",
        /// Reads a vCPU's extended FPU state: [`VcpuExtState`].
        GetVcpuExtState = 63 => "XEN_DOMCTL_getvcpuextstate",
        /// Hardware containers: memory events.
        SetAccessRequired = 64 => "XEN_DOMCTL_set_access_required",
        /// Checks a translated domain's frame numbers.
        AuditP2m = 65 => "XEN_DOMCTL_audit_p2m",
        /// Sends a global virtual interrupt to another domain: [`SetVirqHandler`].
        SetVirqHandler = 66 => "XEN_DOMCTL_set_virq_handler",
        /// Marks a page as broken.
        SetBrokenPageP2m = 67 => "XEN_DOMCTL_set_broken_page_p2m",
        /// Says on which nodes a domain lives: [`NodeAffinity`].
        SetNodeAffinity = 68 => "XEN_DOMCTL_setnodeaffinity",
        /// Tells on which nodes a domain lives: [`NodeAffinity`].
        GetNodeAffinity = 69 => "XEN_DOMCTL_getnodeaffinity",
        /// Writes caches back; ARM only.
        CacheFlush = 71 => "XEN_DOMCTL_cacheflush",
        /// Reads a vCPU's MSRs: [`VcpuMsrs`].
        GetVcpuMsrs = 72 => "XEN_DOMCTL_get_vcpu_msrs",
        /// Sets a vCPU's MSRs: [`VcpuMsrs`].
        SetVcpuMsrs = 73 => "XEN_DOMCTL_set_vcpu_msrs",
        /// Sets the virtual NUMA topology: [`Vnuma`].
        SetVnumaInfo = 74 => "XEN_DOMCTL_setvnumainfo",
        /// Cache monitoring.
        PsrCmtOp = 75 => "XEN_DOMCTL_psr_cmt_op",
        /// Hardware containers: monitoring.
        MonitorOp = 77 => "XEN_DOMCTL_monitor_op",
        /// Cache allocation.
        PsrAlloc = 78 => "XEN_DOMCTL_psr_alloc",
        /// Resets a domain in place.
        SoftReset = 79 => "XEN_DOMCTL_soft_reset",
        /// Virtual serial line; ARM only.
        VuartOp = 81 => "XEN_DOMCTL_vuart_op",
        /// Tells a domain's CPUID and MSR policy: [`CpuPolicy`].
        GetCpuPolicy = 82 => "XEN_DOMCTL_get_cpu_policy",
        /// Sets a domain's CPUID and MSR policy: [`CpuPolicy`].
        SetCpuPolicy = 83 => "XEN_DOMCTL_set_cpu_policy",
        /// Traces a vCPU.
        VmtraceOp = 84 => "XEN_DOMCTL_vmtrace_op",
        /// Tells the size of the memory for shadow tables: [`PagingMempool`].
        GetPagingMempoolSize = 85 => "XEN_DOMCTL_get_paging_mempool_size",
        /// Sets the size of the memory for shadow tables: [`PagingMempool`].
        SetPagingMempoolSize = 86 => "XEN_DOMCTL_set_paging_mempool_size",
        /// Debugger: reads and writes memory: [`GdbsxMemio`].
        GdbsxGuestMemio = 1000 => "XEN_DOMCTL_gdbsx_guestmemio",
        /// Debugger: pauses a vCPU.
        GdbsxPauseVcpu = 1001 => "XEN_DOMCTL_gdbsx_pausevcpu",
        /// Debugger: ends a pause.
        GdbsxUnpauseVcpu = 1002 => "XEN_DOMCTL_gdbsx_unpausevcpu",
        /// Debugger: tells a domain's state.
        GdbsxDomStatus = 1003 => "XEN_DOMCTL_gdbsx_domstatus",
    }
}

abi_flags! {
    /// What a new domain is to be.
    pub struct CreateFlags: u32 {
        /// In a hardware container.
        const HVM = 1 << 0 => "XEN_DOMCTL_CDF_hvm",
        /// With hardware paging.
        const HAP = 1 << 1 => "XEN_DOMCTL_CDF_hap",
        /// Checked across sleep.
        const S3_INTEGRITY = 1 << 2 => "XEN_DOMCTL_CDF_s3_integrity",
        /// Without out-of-sync shadow tables.
        const OOS_OFF = 1 << 3 => "XEN_DOMCTL_CDF_oos_off",
        /// The domain of xenstore.
        const XS_DOMAIN = 1 << 4 => "XEN_DOMCTL_CDF_xs_domain",
        /// With an IOMMU context.
        const IOMMU = 1 << 5 => "XEN_DOMCTL_CDF_iommu",
        /// With nested virtualization.
        const NESTED_VIRT = 1 << 6 => "XEN_DOMCTL_CDF_nested_virt",
        /// With performance counters.
        const VPMU = 1 << 7 => "XEN_DOMCTL_CDF_vpmu",
    }
}

abi_flags! {
    /// What a domain is; the shutdown reason stands in bits 16-23.
    pub struct DomainFlags: u32 {
        /// Being taken apart.
        const DYING = 1 << 0 => "XEN_DOMINF_dying",
        /// In a hardware container.
        const HVM_GUEST = 1 << 1 => "XEN_DOMINF_hvm_guest",
        /// Shut down.
        const SHUTDOWN = 1 << 2 => "XEN_DOMINF_shutdown",
        /// Paused by its toolstack.
        const PAUSED = 1 << 3 => "XEN_DOMINF_paused",
        /// All vCPUs wait.
        const BLOCKED = 1 << 4 => "XEN_DOMINF_blocked",
        /// A vCPU runs.
        const RUNNING = 1 << 5 => "XEN_DOMINF_running",
        /// Has a debugger.
        const DEBUGGED = 1 << 6 => "XEN_DOMINF_debugged",
        /// The domain of xenstore.
        const XS_DOMAIN = 1 << 7 => "XEN_DOMINF_xs_domain",
        /// With hardware paging.
        const HAP = 1 << 8 => "XEN_DOMINF_hap",
    }
}

abi_flags! {
    /// Which affinity is meant.
    pub struct AffinityFlags: u32 {
        /// Where the vCPU may run.
        const HARD = 1 << 0 => "XEN_VCPUAFFINITY_HARD",
        /// Where it had better run.
        const SOFT = 1 << 1 => "XEN_VCPUAFFINITY_SOFT",
        /// Ends a temporary tie.
        const FORCE = 1 << 2 => "XEN_VCPUAFFINITY_FORCE",
    }
}

abi_enum! {
    /// A scheduler.
    pub enum SchedulerId: u32 {
        /// Credit.
        Credit = 5 => "XEN_SCHEDULER_CREDIT",
        /// Credit, second version.
        Credit2 = 6 => "XEN_SCHEDULER_CREDIT2",
        /// Fixed frames.
        Arinc653 = 7 => "XEN_SCHEDULER_ARINC653",
        /// Deadlines.
        Rtds = 8 => "XEN_SCHEDULER_RTDS",
        /// None: each vCPU has its CPU.
        Null = 9 => "XEN_SCHEDULER_NULL",
    }
}

abi_enum! {
    /// What [`SchedulerOp`] does.
    pub enum SchedulerCommand: u32 {
        /// Sets the domain's parameters.
        PutInfo = 0 => "XEN_DOMCTL_SCHEDOP_putinfo",
        /// Reads the domain's parameters.
        GetInfo = 1 => "XEN_DOMCTL_SCHEDOP_getinfo",
        /// Sets parameters of vCPUs.
        PutVcpuInfo = 2 => "XEN_DOMCTL_SCHEDOP_putvcpuinfo",
        /// Reads parameters of vCPUs.
        GetVcpuInfo = 3 => "XEN_DOMCTL_SCHEDOP_getvcpuinfo",
    }
}

abi_enum! {
    /// What [`ShadowOp`] does.
    pub enum ShadowCommand: u32 {
        /// Ends logging.
        Off = 0 => "XEN_DOMCTL_SHADOW_OP_OFF",
        /// Switches shadow tables on for a test.
        EnableTest = 1 => "XEN_DOMCTL_SHADOW_OP_ENABLE_TEST",
        /// Begins logging.
        EnableLogDirty = 2 => "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY",
        /// Reads the log and empties it.
        Clean = 11 => "XEN_DOMCTL_SHADOW_OP_CLEAN",
        /// Reads the log.
        Peek = 12 => "XEN_DOMCTL_SHADOW_OP_PEEK",
        /// Tells the memory for shadow tables.
        GetAllocation = 30 => "XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION",
        /// Sets the memory for shadow tables.
        SetAllocation = 31 => "XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION",
        /// Switches on what [`ShadowOp::mode`] says.
        Enable = 32 => "XEN_DOMCTL_SHADOW_OP_ENABLE",
    }
}

abi_enum! {
    /// A signal to a vCPU.
    pub enum Trigger: u32 {
        /// Non-maskable interrupt.
        Nmi = 0 => "XEN_DOMCTL_SENDTRIGGER_NMI",
        /// Reset.
        Reset = 1 => "XEN_DOMCTL_SENDTRIGGER_RESET",
        /// Init.
        Init = 2 => "XEN_DOMCTL_SENDTRIGGER_INIT",
        /// Power button.
        Power = 3 => "XEN_DOMCTL_SENDTRIGGER_POWER",
        /// Sleep button.
        Sleep = 4 => "XEN_DOMCTL_SENDTRIGGER_SLEEP",
    }
}

abi_structs! {
    /// Argument of `domctl`.
    pub struct Domctl = "struct xen_domctl", 144 {
        /// [`DomctlCommand`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// Domain.
        pub domain: DomId,
        /// Nothing.
        pub _pad: [u16; 3],
        /// The command's structure. See [`Self::variant`].
        pub u: [u8; 128],
    }

    /// Argument of [`DomctlCommand::CreateDomain`].
    pub struct CreateDomain = "struct xen_domctl_createdomain", 64 {
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: DomainHandle,
        /// [`CreateFlags`].
        pub flags: u32,
        /// IOMMU options.
        pub iommu_opts: u32,
        /// vCPUs.
        pub max_vcpus: u32,
        /// Highest port; as a signed number, negative for the most possible.
        pub max_evtchn_port: u32,
        /// Frames of its grant table; negative for the default.
        pub max_grant_frames: i32,
        /// Frames of records of what it maps; negative for the default.
        pub max_maptrack_frames: i32,
        /// [`GRANT_VERSION_MASK`].
        pub grant_opts: u32,
        /// Bytes of trace for each vCPU.
        pub vmtrace_size: u32,
        /// CPU pool.
        pub cpupool_id: u32,
        /// x86 options.
        pub arch: ArchDomainConfig,
    }

    /// Answer of [`DomctlCommand::GetDomainInfo`].
    pub struct GetDomainInfo = "struct xen_domctl_getdomaininfo", 112 {
        /// Domain: the next higher one if the one asked for does not exist.
        pub domain: DomId,
        /// Nothing.
        pub pad1: u16,
        /// [`DomainFlags`] and shutdown reason.
        pub flags: u32,
        /// Pages that it has.
        pub tot_pages: u64,
        /// Pages that it may have.
        pub max_pages: u64,
        /// Pages put aside for it.
        pub outstanding_pages: u64,
        /// Pages shared.
        pub shr_pages: u64,
        /// Pages paged out.
        pub paged_pages: u64,
        /// Frame (mfn) of the shared info page.
        pub shared_info_frame: u64,
        /// ns of CPU.
        pub cpu_time: u64,
        /// vCPUs that are up.
        pub nr_online_vcpus: u32,
        /// Highest vCPU.
        pub max_vcpu_id: u32,
        /// Security label.
        pub ssidref: u32,
        /// UUID.
        pub handle: DomainHandle,
        /// CPU pool.
        pub cpupool: u32,
        /// Bits of a guest physical address.
        pub gpaddr_bits: u8,
        /// Nothing.
        pub pad2: [u8; 7],
        /// x86 options.
        pub arch_config: ArchDomainConfig,
    }

    /// Argument of [`DomctlCommand::GetPageFrameInfo3`].
    pub struct GetPageFrameInfo3 = "struct xen_domctl_getpageframeinfo3", 16 {
        /// Frames.
        pub num: u64,
        /// In: the frames; out: their types.
        pub array: GuestHandle<u64>,
    }

    /// Argument of [`DomctlCommand::SetNodeAffinity`] and [`DomctlCommand::GetNodeAffinity`].
    pub struct NodeAffinity = "struct xen_domctl_nodeaffinity", 16 {
        /// Nodes.
        pub nodemap: XenctlBitmap,
    }

    /// Argument of [`DomctlCommand::SetVcpuAffinity`] and [`DomctlCommand::GetVcpuAffinity`].
    pub struct VcpuAffinity = "struct xen_domctl_vcpuaffinity", 40 {
        /// vCPU.
        pub vcpu: VcpuId,
        /// [`AffinityFlags`].
        pub flags: u32,
        /// Physical CPUs; after setting, those that count.
        pub cpumap_hard: XenctlBitmap,
        /// Physical CPUs; after setting, those that count.
        pub cpumap_soft: XenctlBitmap,
    }

    /// How much was logged.
    pub struct ShadowOpStats = "struct xen_domctl_shadow_op_stats", 8 {
        /// Faults.
        pub fault_count: u32,
        /// Pages.
        pub dirty_count: u32,
    }

    /// Argument of [`DomctlCommand::ShadowOp`].
    pub struct ShadowOp = "struct xen_domctl_shadow_op", 40 {
        /// In: [`ShadowCommand`].
        pub op: u32,
        /// In: flags of the command.
        pub mode: u32,
        /// MiB of shadow tables.
        pub mb: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: one bit for each pfn.
        pub dirty_bitmap: GuestHandle<u8>,
        /// In: bits that fit; out: bits.
        pub pages: u64,
        /// Out: counters.
        pub stats: ShadowOpStats,
    }

    /// Argument of [`DomctlCommand::MaxMem`].
    pub struct MaxMem = "struct xen_domctl_max_mem", 8 {
        /// KiB.
        pub max_memkb: u64,
    }

    /// Argument of [`DomctlCommand::SetVcpuContext`] and [`DomctlCommand::GetVcpuContext`].
    pub struct VcpuContext = "struct xen_domctl_vcpucontext", 16 {
        /// vCPU.
        pub vcpu: VcpuId,
        /// Nothing.
        pub _pad0: u32,
        /// State; nothing resets the vCPU.
        pub ctxt: GuestHandle<VcpuGuestContext>,
    }

    /// Argument of [`DomctlCommand::GetVcpuInfo`].
    pub struct GetVcpuInfo = "struct xen_domctl_getvcpuinfo", 24 {
        /// In: vCPU.
        pub vcpu: VcpuId,
        /// Out: it is up.
        pub online: u8,
        /// Out: it waits.
        pub blocked: u8,
        /// Out: it runs.
        pub running: u8,
        /// Nothing.
        pub _pad0: u8,
        /// Out: ns of CPU.
        pub cpu_time: u64,
        /// Out: physical CPU.
        pub cpu: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`DomctlCommand::MaxVcpus`].
    pub struct MaxVcpus = "struct xen_domctl_max_vcpus", 4 {
        /// vCPUs.
        pub max: u32,
    }

    /// Parameters of the credit schedulers.
    pub struct SchedCredit2 = "struct xen_domctl_sched_credit2", 4 {
        /// Share against others.
        pub weight: u16,
        /// Per cent of a CPU that it may have; 0 without limit.
        pub cap: u16,
    }

    /// Argument of [`DomctlCommand::SchedulerOp`].
    pub struct SchedulerOp = "struct xen_domctl_scheduler_op", 24 {
        /// [`SchedulerId`].
        pub sched_id: u32,
        /// [`SchedulerCommand`].
        pub cmd: u32,
        /// The scheduler's parameters, such as [`SchedCredit2`]. See [`Self::variant`].
        pub u: [u8; 16],
    }

    /// Argument of [`DomctlCommand::SetDomainHandle`].
    pub struct SetDomainHandle = "struct xen_domctl_setdomainhandle", 16 {
        /// UUID.
        pub handle: DomainHandle,
    }

    /// Argument of [`DomctlCommand::SetDebugging`].
    pub struct SetDebugging = "struct xen_domctl_setdebugging", 1 {
        /// 0 or 1.
        pub enable: u8,
    }

    /// Argument of [`DomctlCommand::IrqPermission`].
    pub struct IrqPermission = "struct xen_domctl_irq_permission", 8 {
        /// Physical interrupt of the caller.
        pub pirq: u32,
        /// 0 or 1.
        pub allow_access: u8,
        /// Nothing.
        pub pad: [u8; 3],
    }

    /// Argument of [`DomctlCommand::IomemPermission`].
    pub struct IomemPermission = "struct xen_domctl_iomem_permission", 24 {
        /// First frame.
        pub first_mfn: u64,
        /// Frames.
        pub nr_mfns: u64,
        /// 0 or 1.
        pub allow_access: u8,
        /// Nothing.
        pub _pad0: [u8; 7],
    }

    /// Argument of [`DomctlCommand::IoportPermission`].
    pub struct IoportPermission = "struct xen_domctl_ioport_permission", 12 {
        /// First port.
        pub first_port: u32,
        /// Ports.
        pub nr_ports: u32,
        /// 0 or 1.
        pub allow_access: u8,
        /// Nothing.
        pub _pad0: [u8; 3],
    }

    /// Argument of [`DomctlCommand::HypercallInit`].
    pub struct HypercallInit = "struct xen_domctl_hypercall_init", 8 {
        /// Frame (mfn).
        pub gmfn: u64,
    }

    /// Argument of [`DomctlCommand::SetTimeOffset`].
    pub struct SetTimeOffset = "struct xen_domctl_settimeoffset", 8 {
        /// Seconds.
        pub time_offset_seconds: i64,
    }

    /// Argument of [`DomctlCommand::SetAddressSize`] and [`DomctlCommand::GetAddressSize`].
    pub struct AddressSize = "struct xen_domctl_address_size", 4 {
        /// Bits: 32 or 64.
        pub size: u32,
    }

    /// Argument of [`DomctlCommand::SendTrigger`].
    pub struct SendTrigger = "struct xen_domctl_sendtrigger", 8 {
        /// [`Trigger`].
        pub trigger: u32,
        /// vCPU.
        pub vcpu: VcpuId,
    }

    /// Argument of [`DomctlCommand::AssignDevice`] and its relatives, for a PCI function.
    pub struct AssignDevice = "struct xen_domctl_assign_device", 24 {
        /// [`DEV_PCI`].
        pub dev: u32,
        /// [`DEV_RDM_RELAXED`] or 0.
        pub flags: u32,
        /// Segment, bus, device and function.
        pub machine_sbdf: u32 = "u.pci.machine_sbdf",
        /// Nothing.
        pub _pad0: [u32; 3],
    }

    /// Argument of [`DomctlCommand::MemoryMapping`].
    pub struct MemoryMapping = "struct xen_domctl_memory_mapping", 32 {
        /// First frame of the guest.
        pub first_gfn: u64,
        /// First frame of the machine.
        pub first_mfn: u64,
        /// Frames.
        pub nr_mfns: u64,
        /// 1 maps, 0 unmaps.
        pub add_mapping: u32,
        /// Nothing.
        pub padding: u32,
    }

    /// Argument of [`DomctlCommand::IoportMapping`].
    pub struct IoportMapping = "struct xen_domctl_ioport_mapping", 16 {
        /// First port of the guest.
        pub first_gport: u32,
        /// First port of the machine.
        pub first_mport: u32,
        /// Ports.
        pub nr_ports: u32,
        /// 1 maps, 0 unmaps.
        pub add_mapping: u32,
    }

    /// Argument of [`DomctlCommand::SetExtVcpuContext`] and [`DomctlCommand::GetExtVcpuContext`].
    pub struct ExtVcpuContext = "struct xen_domctl_ext_vcpucontext", 64 {
        /// vCPU.
        pub vcpu: VcpuId,
        /// Bytes of this structure.
        pub size: u32,
        /// Entry point for `syscall` of 32-bit user code.
        pub syscall32_callback_eip: u64,
        /// Entry point for `sysenter` of user code.
        pub sysenter_callback_eip: u64,
        /// Its code selector.
        pub syscall32_callback_cs: u16,
        /// Its code selector.
        pub sysenter_callback_cs: u16,
        /// It masks events.
        pub syscall32_disables_events: u8,
        /// It masks events.
        pub sysenter_disables_events: u8,
        /// Nothing.
        pub _pad0: u16,
        /// Machine check capabilities.
        pub mcg_cap: u64,
        /// Machine check control of bank 0.
        pub mci_ctl2_bank0: u64 = "vmce.mci_ctl2_bank0",
        /// Machine check control of bank 1.
        pub mci_ctl2_bank1: u64 = "vmce.mci_ctl2_bank1",
        /// Extended machine check control.
        pub mcg_ext_ctl: u64 = "vmce.mcg_ext_ctl",
    }

    /// Argument of [`DomctlCommand::SetTarget`].
    pub struct SetTarget = "struct xen_domctl_set_target", 2 {
        /// Domain.
        pub target: DomId,
    }

    /// Argument of [`DomctlCommand::GetCpuPolicy`] and [`DomctlCommand::SetCpuPolicy`].
    pub struct CpuPolicy = "struct xen_domctl_cpu_policy", 40 {
        /// Leaves.
        pub nr_leaves: u32,
        /// MSRs.
        pub nr_msrs: u32,
        /// The leaves.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// The MSRs.
        pub msrs: GuestHandle<MsrEntry>,
        /// Out: leaf that is refused.
        pub err_leaf: u32,
        /// Out: subleaf that is refused.
        pub err_subleaf: u32,
        /// Out: MSR that is refused.
        pub err_msr: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`DomctlCommand::Subscribe`].
    pub struct Subscribe = "struct xen_domctl_subscribe", 4 {
        /// Port of the domain.
        pub port: Port,
    }

    /// Argument of [`DomctlCommand::GetTscInfo`] and [`DomctlCommand::SetTscInfo`].
    pub struct TscInfo = "struct xen_domctl_tsc_info", 24 {
        /// 0 as suits, 1 emulated, 2 native.
        pub tsc_mode: u32,
        /// kHz that the guest sees.
        pub gtsc_khz: u32,
        /// Times that the domain was restored.
        pub incarnation: u32,
        /// Nothing.
        pub pad: u32,
        /// ns that the guest has seen pass.
        pub elapsed_nsec: u64,
    }

    /// Argument of [`DomctlCommand::GdbsxGuestMemio`].
    pub struct GdbsxMemio = "struct xen_domctl_gdbsx_memio", 40 {
        /// In: root entry to be used instead of the current.
        pub pgd3val: u64,
        /// In: guest virtual address.
        pub gva: u64,
        /// In: caller's virtual address.
        pub uva: u64,
        /// In: bytes.
        pub len: u32,
        /// In: 0 reads, 1 writes.
        pub gwr: u8,
        /// Nothing.
        pub _pad0: [u8; 3],
        /// Out: bytes not done.
        pub remain: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`DomctlCommand::SetVirqHandler`].
    pub struct SetVirqHandler = "struct xen_domctl_set_virq_handler", 4 {
        /// [`Virq`](crate::xen::Virq).
        pub virq: u32,
    }

    /// Argument of [`DomctlCommand::SetVcpuExtState`] and [`DomctlCommand::GetVcpuExtState`].
    pub struct VcpuExtState = "struct xen_domctl_vcpuextstate", 32 {
        /// vCPU.
        pub vcpu: VcpuId,
        /// Nothing.
        pub _pad0: u32,
        /// Parts of the state that exist.
        pub xfeature_mask: u64,
        /// Bytes; 0 asks for them.
        pub size: u64,
        /// Two words of XCR0 and its history, then the area of `xsave`.
        pub buffer: GuestHandle<u64>,
    }

    /// Argument of [`DomctlCommand::GetPagingMempoolSize`] and [`DomctlCommand::SetPagingMempoolSize`].
    pub struct PagingMempool = "struct xen_domctl_paging_mempool", 8 {
        /// Bytes.
        pub size: u64,
    }

    /// One MSR of a vCPU.
    pub struct VcpuMsr = "struct xen_domctl_vcpu_msr", 16 {
        /// Number.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
        /// Value.
        pub value: u64,
    }

    /// Argument of [`DomctlCommand::GetVcpuMsrs`] and [`DomctlCommand::SetVcpuMsrs`].
    pub struct VcpuMsrs = "struct xen_domctl_vcpu_msrs", 16 {
        /// vCPU.
        pub vcpu: VcpuId,
        /// MSRs.
        pub msr_count: u32,
        /// The MSRs; nothing asks for their number.
        pub msrs: GuestHandle<VcpuMsr>,
    }

    /// Argument of [`DomctlCommand::SetVnumaInfo`].
    pub struct Vnuma = "struct xen_domctl_vnuma", 48 {
        /// Nodes.
        pub nr_vnodes: u32,
        /// Ranges.
        pub nr_vmemranges: u32,
        /// vCPUs.
        pub nr_vcpus: u32,
        /// Zero.
        pub pad: u32,
        /// Distance of each pair of nodes.
        pub vdistance: GuestHandle<u32>,
        /// Node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32>,
        /// Physical node of each node.
        pub vnode_to_pnode: GuestHandle<u32>,
        /// The ranges.
        pub vmemrange: GuestHandle<Vmemrange>,
    }
}

union_bytes!(Domctl, 128);
union_bytes!(SchedulerOp, 16);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    DomctlCommand::CONSTANTS,
    CreateFlags::CONSTANTS,
    DomainFlags::CONSTANTS,
    AffinityFlags::CONSTANTS,
    SchedulerId::CONSTANTS,
    SchedulerCommand::CONSTANTS,
    ShadowCommand::CONSTANTS,
    Trigger::CONSTANTS,
];
