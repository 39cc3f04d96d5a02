//! Control of the host by a toolstack. ABI: `public/sysctl.h`.

use crate::arch::{CpuidLeaf, MsrEntry};
use crate::domctl::GetDomainInfo;
use crate::handle::GuestHandle;
use crate::ids::DomId;
use crate::physdev::PciDevice;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};
use crate::xen::XenctlBitmap;

abi_constants! {
    /// Version of this interface.
    pub const INTERFACE_VERSION: u32 = 0x15 => "XEN_SYSCTL_INTERFACE_VERSION";
    /// A CPU of unknown core.
    pub const INVALID_CORE_ID: u32 = u32::MAX => "XEN_INVALID_CORE_ID";
    /// A CPU of unknown socket.
    pub const INVALID_SOCKET_ID: u32 = u32::MAX => "XEN_INVALID_SOCKET_ID";
    /// A CPU or device of unknown node.
    pub const INVALID_NODE_ID: u32 = u32::MAX => "XEN_INVALID_NODE_ID";
    /// A node without memory.
    pub const INVALID_MEM_SZ: u64 = u32::MAX as u64 => "XEN_INVALID_MEM_SZ";
    /// Two nodes of unknown distance.
    pub const INVALID_NODE_DIST: u32 = u32::MAX => "XEN_INVALID_NODE_DIST";
    /// An unknown device.
    pub const INVALID_DEV: u32 = u32::MAX - 1 => "XEN_INVALID_DEV";
    /// Any CPU pool.
    pub const CPUPOOL_ANY: u32 = u32::MAX => "XEN_SYSCTL_CPUPOOL_PAR_ANY";
    /// Shortest time slice that can be guaranteed, us.
    pub const RATELIMIT_MIN_US: u32 = 100 => "XEN_SYSCTL_SCHED_RATELIMIT_MIN";
    /// Longest time slice that can be guaranteed, us.
    pub const RATELIMIT_MAX_US: u32 = 500_000 => "XEN_SYSCTL_SCHED_RATELIMIT_MAX";
    /// [`SchedulerOp::cmd`]: sets.
    pub const SCHEDOP_PUTINFO: u32 = 0 => "XEN_SYSCTL_SCHEDOP_putinfo";
    /// [`SchedulerOp::cmd`]: reads.
    pub const SCHEDOP_GETINFO: u32 = 1 => "XEN_SYSCTL_SCHEDOP_getinfo";
}

abi_enum! {
    /// A command of `sysctl`.
    pub enum SysctlCommand: u32 {
        /// Reads the hypervisor's log: [`ReadConsole`].
        ReadConsole = 1 => "XEN_SYSCTL_readconsole",
        /// Trace buffers.
        TbufOp = 2 => "XEN_SYSCTL_tbuf_op",
        /// Describes the host: [`PhysInfo`].
        PhysInfo = 3 => "XEN_SYSCTL_physinfo",
        /// Names the scheduler: [`SchedId`].
        SchedId = 4 => "XEN_SYSCTL_sched_id",
        /// Counters of the hypervisor.
        PerfcOp = 5 => "XEN_SYSCTL_perfc_op",
        /// Lists domains: [`GetDomainInfoList`].
        GetDomainInfoList = 6 => "XEN_SYSCTL_getdomaininfolist",
        /// Types debug keys: [`DebugKeys`].
        DebugKeys = 7 => "XEN_SYSCTL_debug_keys",
        /// Tells how long CPUs were idle: [`GetCpuInfo`].
        GetCpuInfo = 8 => "XEN_SYSCTL_getcpuinfo",
        /// Tells the free memory: [`AvailHeap`].
        AvailHeap = 9 => "XEN_SYSCTL_availheap",
        /// Tells what power management did.
        GetPmstat = 10 => "XEN_SYSCTL_get_pmstat",
        /// Starts and stops CPUs: [`CpuHotplug`].
        CpuHotplug = 11 => "XEN_SYSCTL_cpu_hotplug",
        /// Controls power management.
        PmOp = 12 => "XEN_SYSCTL_pm_op",
        /// Takes pages out of use.
        PageOfflineOp = 14 => "XEN_SYSCTL_page_offline_op",
        /// Lock statistics.
        LockprofOp = 15 => "XEN_SYSCTL_lockprof_op",
        /// Tells the topology of CPUs: [`CpuTopoInfo`].
        CpuTopoInfo = 16 => "XEN_SYSCTL_cputopoinfo",
        /// Tells the nodes: [`NumaInfo`].
        NumaInfo = 17 => "XEN_SYSCTL_numainfo",
        /// CPU pools: [`CpupoolOp`].
        CpupoolOp = 18 => "XEN_SYSCTL_cpupool_op",
        /// Parameters of the scheduler: [`SchedulerOp`].
        SchedulerOp = 19 => "XEN_SYSCTL_scheduler_op",
        /// Coverage of the hypervisor's code.
        CoverageOp = 20 => "XEN_SYSCTL_coverage_op",
        /// Cache monitoring.
        PsrCmtOp = 21 => "XEN_SYSCTL_psr_cmt_op",
        /// Tells the nodes of devices: [`PciTopoInfo`].
        PciTopoInfo = 22 => "XEN_SYSCTL_pcitopoinfo",
        /// Cache allocation.
        PsrAlloc = 23 => "XEN_SYSCTL_psr_alloc",
        /// Tells how CPUID can be adjusted: [`CpuLevellingCaps`].
        GetCpuLevellingCaps = 25 => "XEN_SYSCTL_get_cpu_levelling_caps",
        /// Tells the features of CPUs: [`CpuFeatureset`].
        GetCpuFeatureset = 26 => "XEN_SYSCTL_get_cpu_featureset",
        /// Patches the running hypervisor.
        LivepatchOp = 27 => "XEN_SYSCTL_livepatch_op",
        /// Tells a CPUID and MSR policy: [`CpuPolicy`].
        GetCpuPolicy = 29 => "XEN_SYSCTL_get_cpu_policy",
    }
}

abi_flags! {
    /// What the host can do.
    pub struct PhysCaps: u32 {
        /// Hardware containers.
        const HVM = 1 << 0 => "XEN_SYSCTL_PHYSCAP_hvm",
        /// Paravirtual guests.
        const PV = 1 << 1 => "XEN_SYSCTL_PHYSCAP_pv",
        /// Devices behind an IOMMU.
        const DIRECTIO = 1 << 2 => "XEN_SYSCTL_PHYSCAP_directio",
        /// Hardware paging.
        const HAP = 1 << 3 => "XEN_SYSCTL_PHYSCAP_hap",
        /// Shadow paging.
        const SHADOW = 1 << 4 => "XEN_SYSCTL_PHYSCAP_shadow",
        /// Tables shared between hardware paging and IOMMU.
        const IOMMU_HAP_PT_SHARE = 1 << 5 => "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share",
        /// Tracing of vCPUs.
        const VMTRACE = 1 << 6 => "XEN_SYSCTL_PHYSCAP_vmtrace",
        /// Performance counters.
        const VPMU = 1 << 7 => "XEN_SYSCTL_PHYSCAP_vpmu",
        /// Grant tables, version 1.
        const GNTTAB_V1 = 1 << 8 => "XEN_SYSCTL_PHYSCAP_gnttab_v1",
        /// Grant tables, version 2.
        const GNTTAB_V2 = 1 << 9 => "XEN_SYSCTL_PHYSCAP_gnttab_v2",
    }
}

abi_enum! {
    /// What [`CpupoolOp`] does.
    pub enum CpupoolCommand: u32 {
        /// Makes a pool.
        Create = 1 => "XEN_SYSCTL_CPUPOOL_OP_CREATE",
        /// Removes a pool.
        Destroy = 2 => "XEN_SYSCTL_CPUPOOL_OP_DESTROY",
        /// Describes the first pool from a number on.
        Info = 3 => "XEN_SYSCTL_CPUPOOL_OP_INFO",
        /// Adds a CPU.
        AddCpu = 4 => "XEN_SYSCTL_CPUPOOL_OP_ADDCPU",
        /// Removes a CPU.
        RemoveCpu = 5 => "XEN_SYSCTL_CPUPOOL_OP_RMCPU",
        /// Moves a domain.
        MoveDomain = 6 => "XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN",
        /// Tells the CPUs of no pool.
        FreeInfo = 7 => "XEN_SYSCTL_CPUPOOL_OP_FREEINFO",
    }
}

abi_enum! {
    /// What [`CpuHotplug`] does.
    pub enum CpuHotplugCommand: u32 {
        /// Starts a CPU.
        Online = 0 => "XEN_SYSCTL_CPU_HOTPLUG_ONLINE",
        /// Stops a CPU.
        Offline = 1 => "XEN_SYSCTL_CPU_HOTPLUG_OFFLINE",
        /// Starts all second threads.
        SmtEnable = 2 => "XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE",
        /// Stops all second threads.
        SmtDisable = 3 => "XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE",
    }
}

abi_enum! {
    /// Whose features.
    pub enum FeaturesetIndex: u32 {
        /// The hardware's.
        Raw = 0 => "XEN_SYSCTL_cpu_featureset_raw",
        /// The host's.
        Host = 1 => "XEN_SYSCTL_cpu_featureset_host",
        /// A new paravirtual guest's.
        Pv = 2 => "XEN_SYSCTL_cpu_featureset_pv",
        /// A new guest's in a hardware container.
        Hvm = 3 => "XEN_SYSCTL_cpu_featureset_hvm",
        /// The most that a paravirtual guest can have.
        PvMax = 4 => "XEN_SYSCTL_cpu_featureset_pv_max",
        /// The most that a guest in a hardware container can have.
        HvmMax = 5 => "XEN_SYSCTL_cpu_featureset_hvm_max",
    }
}

abi_enum! {
    /// Whose policy.
    pub enum PolicyIndex: u32 {
        /// The hardware's.
        Raw = 0 => "XEN_SYSCTL_cpu_policy_raw",
        /// The host's.
        Host = 1 => "XEN_SYSCTL_cpu_policy_host",
        /// The most that a paravirtual guest can have.
        PvMax = 2 => "XEN_SYSCTL_cpu_policy_pv_max",
        /// The most that a guest in a hardware container can have.
        HvmMax = 3 => "XEN_SYSCTL_cpu_policy_hvm_max",
        /// A new paravirtual guest's.
        PvDefault = 4 => "XEN_SYSCTL_cpu_policy_pv_default",
        /// A new guest's in a hardware container.
        HvmDefault = 5 => "XEN_SYSCTL_cpu_policy_hvm_default",
    }
}

abi_flags! {
    /// How CPUID can be adjusted.
    pub struct LevellingCaps: u32 {
        /// It can be made to fault.
        const FAULTING = 1 << 0 => "XEN_SYSCTL_CPU_LEVELCAP_faulting",
        /// Leaf 1, ecx.
        const ECX = 1 << 1 => "XEN_SYSCTL_CPU_LEVELCAP_ecx",
        /// Leaf 1, edx.
        const EDX = 1 << 2 => "XEN_SYSCTL_CPU_LEVELCAP_edx",
        /// Leaf 0x80000001, ecx.
        const EXTD_ECX = 1 << 3 => "XEN_SYSCTL_CPU_LEVELCAP_extd_ecx",
        /// Leaf 0x80000001, edx.
        const EXTD_EDX = 1 << 4 => "XEN_SYSCTL_CPU_LEVELCAP_extd_edx",
        /// Leaf 13, subleaf 1, eax.
        const XSAVE_EAX = 1 << 5 => "XEN_SYSCTL_CPU_LEVELCAP_xsave_eax",
        /// Leaf 6, ecx.
        const THERMAL_ECX = 1 << 6 => "XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx",
        /// Leaf 7, eax.
        const L7S0_EAX = 1 << 7 => "XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax",
        /// Leaf 7, ebx.
        const L7S0_EBX = 1 << 8 => "XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx",
    }
}

abi_structs! {
    /// Argument of `sysctl`.
    pub struct Sysctl = "struct xen_sysctl", 136 {
        /// [`SysctlCommand`].
        pub cmd: u32,
        /// [`INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The command's structure. See [`Self::variant`].
        pub u: [u8; 128],
    }

    /// Argument of [`SysctlCommand::ReadConsole`].
    pub struct ReadConsole = "struct xen_sysctl_readconsole", 24 {
        /// In: 1 empties the log.
        pub clear: u8,
        /// In: 1 begins at `index`.
        pub incremental: u8,
        /// Nothing.
        pub pad0: u8,
        /// Nothing.
        pub pad1: u8,
        /// In: where to begin; out: where it ended.
        pub index: u32,
        /// Out: the text.
        pub buffer: GuestHandle<u8>,
        /// In: bytes that fit; out: bytes.
        pub count: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// Answer of [`SysctlCommand::PhysInfo`].
    pub struct PhysInfo = "struct xen_sysctl_physinfo", 112 {
        /// Threads of a core.
        pub threads_per_core: u32,
        /// Cores of a socket.
        pub cores_per_socket: u32,
        /// CPUs that run.
        pub nr_cpus: u32,
        /// Highest CPU.
        pub max_cpu_id: u32,
        /// Nodes.
        pub nr_nodes: u32,
        /// Highest node.
        pub max_node_id: u32,
        /// kHz.
        pub cpu_khz: u32,
        /// [`PhysCaps`].
        pub capabilities: u32,
        /// Zero on x86.
        pub arch_capabilities: u32,
        /// Nothing.
        pub pad: u32,
        /// Pages of RAM.
        pub total_pages: u64,
        /// Pages that are free.
        pub free_pages: u64,
        /// Free pages to be scrubbed.
        pub scrub_pages: u64,
        /// Free pages put aside.
        pub outstanding_pages: u64,
        /// Highest mfn.
        pub max_mfn: u64,
        /// CPUID: leaf 1 edx and ecx, leaf 0x80000001 edx and ecx, others.
        pub hw_cap: [u32; 8],
    }

    /// Answer of [`SysctlCommand::SchedId`].
    pub struct SchedId = "struct xen_sysctl_sched_id", 4 {
        /// [`SchedulerId`](crate::domctl::SchedulerId).
        pub sched_id: u32,
    }

    /// Argument of [`SysctlCommand::GetDomainInfoList`].
    pub struct GetDomainInfoList = "struct xen_sysctl_getdomaininfolist", 24 {
        /// In: where to begin.
        pub first_domain: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: entries that fit.
        pub max_domains: u32,
        /// Out: the entries.
        pub buffer: GuestHandle<GetDomainInfo>,
        /// Out: entries.
        pub num_domains: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`SysctlCommand::DebugKeys`].
    pub struct DebugKeys = "struct xen_sysctl_debug_keys", 16 {
        /// The keys.
        pub keys: GuestHandle<u8>,
        /// Their number.
        pub nr_keys: u32,
        /// Nothing.
        pub _pad0: u32,
    }

    /// One CPU of [`GetCpuInfo`].
    pub struct CpuInfo = "struct xen_sysctl_cpuinfo", 8 {
        /// ns.
        pub idletime: u64,
    }

    /// Argument of [`SysctlCommand::GetCpuInfo`].
    pub struct GetCpuInfo = "struct xen_sysctl_getcpuinfo", 24 {
        /// In: CPUs that fit.
        pub max_cpus: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: the CPUs.
        pub info: GuestHandle<CpuInfo>,
        /// Out: CPUs.
        pub nr_cpus: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Argument of [`SysctlCommand::AvailHeap`].
    pub struct AvailHeap = "struct xen_sysctl_availheap", 24 {
        /// In: fewest bits of the address; 0 for any.
        pub min_bitwidth: u32,
        /// In: most bits of the address; 0 for any.
        pub max_bitwidth: u32,
        /// In: node; -1 for any.
        pub node: i32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: bytes.
        pub avail_bytes: u64,
    }

    /// Argument of [`SysctlCommand::CpuHotplug`].
    pub struct CpuHotplug = "struct xen_sysctl_cpu_hotplug", 8 {
        /// CPU.
        pub cpu: u32,
        /// [`CpuHotplugCommand`].
        pub op: u32,
    }

    /// One CPU of [`CpuTopoInfo`].
    pub struct CpuTopo = "struct xen_sysctl_cputopo", 12 {
        /// Core.
        pub core: u32,
        /// Socket.
        pub socket: u32,
        /// Node.
        pub node: u32,
    }

    /// Argument of [`SysctlCommand::CpuTopoInfo`].
    pub struct CpuTopoInfo = "struct xen_sysctl_cputopoinfo", 16 {
        /// In: CPUs that fit; out: CPUs.
        pub num_cpus: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: the CPUs; nothing asks for their number.
        pub cputopo: GuestHandle<CpuTopo>,
    }

    /// One node of [`NumaInfo`].
    pub struct MemInfo = "struct xen_sysctl_meminfo", 16 {
        /// Bytes.
        pub memsize: u64,
        /// Bytes that are free.
        pub memfree: u64,
    }

    /// Argument of [`SysctlCommand::NumaInfo`].
    pub struct NumaInfo = "struct xen_sysctl_numainfo", 24 {
        /// In: nodes that fit; out: nodes.
        pub num_nodes: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: the nodes.
        pub meminfo: GuestHandle<MemInfo>,
        /// Out: distance of each pair of nodes.
        pub distance: GuestHandle<u32>,
    }

    /// Argument of [`SysctlCommand::CpupoolOp`].
    pub struct CpupoolOp = "struct xen_sysctl_cpupool_op", 40 {
        /// In: [`CpupoolCommand`].
        pub op: u32,
        /// Pool.
        pub cpupool_id: u32,
        /// [`SchedulerId`](crate::domctl::SchedulerId).
        pub sched_id: u32,
        /// In: domain.
        pub domid: u32,
        /// In: CPU.
        pub cpu: u32,
        /// Out: domains.
        pub n_dom: u32,
        /// Out: CPUs.
        pub cpumap: XenctlBitmap,
    }

    /// Parameters of the first credit scheduler.
    pub struct CreditSchedule = "struct xen_sysctl_credit_schedule", 12 {
        /// Time slice, ms.
        pub tslice_ms: u32,
        /// Time slice that is guaranteed, us.
        pub ratelimit_us: u32,
        /// How long a vCPU stays where its caches are, us.
        pub vcpu_migr_delay_us: u32,
    }

    /// Parameters of the second credit scheduler.
    pub struct Credit2Schedule = "struct xen_sysctl_credit2_schedule", 4 {
        /// Time slice that is guaranteed, us.
        pub ratelimit_us: u32,
    }

    /// Argument of [`SysctlCommand::SchedulerOp`].
    pub struct SchedulerOp = "struct xen_sysctl_scheduler_op", 32 {
        /// Pool.
        pub cpupool_id: u32,
        /// [`SchedulerId`](crate::domctl::SchedulerId).
        pub sched_id: u32,
        /// [`SCHEDOP_PUTINFO`] or [`SCHEDOP_GETINFO`].
        pub cmd: u32,
        /// Nothing.
        pub _pad0: u32,
        /// The scheduler's parameters, such as [`Credit2Schedule`]. See [`Self::variant`].
        pub u: [u8; 16],
    }

    /// Argument of [`SysctlCommand::PciTopoInfo`].
    pub struct PciTopoInfo = "struct xen_sysctl_pcitopoinfo", 24 {
        /// In: devices; out: devices done.
        pub num_devs: u32,
        /// Nothing.
        pub _pad0: u32,
        /// In: the devices.
        pub devs: GuestHandle<PciDevice>,
        /// Out: their nodes.
        pub nodes: GuestHandle<u32>,
    }

    /// Answer of [`SysctlCommand::GetCpuLevellingCaps`].
    pub struct CpuLevellingCaps = "struct xen_sysctl_cpu_levelling_caps", 4 {
        /// [`LevellingCaps`].
        pub caps: u32,
    }

    /// Argument of [`SysctlCommand::GetCpuFeatureset`].
    pub struct CpuFeatureset = "struct xen_sysctl_cpu_featureset", 16 {
        /// In: [`FeaturesetIndex`].
        pub index: u32,
        /// In: words that fit; out: words.
        pub nr_features: u32,
        /// Out: the words; nothing asks for their number.
        pub features: GuestHandle<u32>,
    }

    /// Argument of [`SysctlCommand::GetCpuPolicy`].
    pub struct CpuPolicy = "struct xen_sysctl_cpu_policy", 32 {
        /// In: [`PolicyIndex`].
        pub index: u32,
        /// In: leaves that fit; out: leaves.
        pub nr_leaves: u32,
        /// In: MSRs that fit; out: MSRs.
        pub nr_msrs: u32,
        /// Zero.
        pub _rsvd: u32,
        /// Out: the leaves; nothing asks for their number.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// Out: the MSRs; nothing asks for their number.
        pub msrs: GuestHandle<MsrEntry>,
    }
}

union_bytes!(Sysctl, 128);
union_bytes!(SchedulerOp, 16);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    SysctlCommand::CONSTANTS,
    PhysCaps::CONSTANTS,
    CpupoolCommand::CONSTANTS,
    CpuHotplugCommand::CONSTANTS,
    FeaturesetIndex::CONSTANTS,
    PolicyIndex::CONSTANTS,
    LevellingCaps::CONSTANTS,
];
