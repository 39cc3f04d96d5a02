//! Memory of domains. ABI: `public/memory.h`.

use crate::handle::GuestHandle;
use crate::ids::DomId;
use crate::physdev::PciDevice;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs};

abi_constants! {
    /// Grant table resource: the table itself.
    pub const GRANT_TABLE_ID_SHARED: u32 = 0 => "XENMEM_resource_grant_table_id_shared";
    /// Grant table resource: the status array of version 2.
    pub const GRANT_TABLE_ID_STATUS: u32 = 1 => "XENMEM_resource_grant_table_id_status";
    /// All reserved regions, not those of one device.
    pub const RDM_ALL: u32 = 1 => "XENMEM_RDM_ALL";
}

/// Bit of the command from which on a continued `memory_op` says how far it came; callers leave those bits zero.
pub const CONTINUATION_SHIFT: u32 = 6;

abi_enum! {
    /// A command of `memory_op`: bits 0-5 of the number.
    pub enum MemoryCommand: u32 {
        /// Asks for frames: [`MemoryReservation`].
        IncreaseReservation = 0 => "XENMEM_increase_reservation",
        /// Gives frames back: [`MemoryReservation`].
        DecreaseReservation = 1 => "XENMEM_decrease_reservation",
        /// Returns the highest frame of RAM.
        MaximumRamPage = 2 => "XENMEM_maximum_ram_page",
        /// Returns the pages of a domain: [`MemoryDomain`].
        CurrentReservation = 3 => "XENMEM_current_reservation",
        /// Returns the pages that a domain may have: [`MemoryDomain`].
        MaximumReservation = 4 => "XENMEM_maximum_reservation",
        /// Tells the frames of the machine-to-physical table: [`MachphysMfnList`].
        MachphysMfnList = 5 => "XENMEM_machphys_mfn_list",
        /// Asks for frames at given pfns: [`MemoryReservation`].
        PopulatePhysmap = 6 => "XENMEM_populate_physmap",
        /// Translated guests: maps something: [`AddToPhysmap`].
        AddToPhysmap = 7 => "XENMEM_add_to_physmap",
        /// Tells the domain's memory map: [`MemoryMap`].
        MemoryMap = 9 => "XENMEM_memory_map",
        /// Tells the machine's memory map: [`MemoryMap`].
        MachineMemoryMap = 10 => "XENMEM_machine_memory_map",
        /// Exchanges frames for contiguous or lower ones: [`MemoryExchange`].
        Exchange = 11 => "XENMEM_exchange",
        /// Tells where the machine-to-physical table is: [`MachphysMapping`].
        MachphysMapping = 12 => "XENMEM_machphys_mapping",
        /// Sets a domain's memory map: [`ForeignMemoryMap`].
        SetMemoryMap = 13 => "XENMEM_set_memory_map",
        /// Returns the highest pfn of a domain: [`MemoryDomain`].
        MaximumGpfn = 14 => "XENMEM_maximum_gpfn",
        /// Translated guests: removes a map: [`RemoveFromPhysmap`].
        RemoveFromPhysmap = 15 => "XENMEM_remove_from_physmap",
        /// Populate on demand: sets the target: [`PodTarget`].
        SetPodTarget = 16 => "XENMEM_set_pod_target",
        /// Populate on demand: tells the target: [`PodTarget`].
        GetPodTarget = 17 => "XENMEM_get_pod_target",
        /// Returns the pages saved by sharing.
        GetSharingFreedPages = 18 => "XENMEM_get_sharing_freed_pages",
        /// Returns the pages that are shared.
        GetSharingSharedPages = 19 => "XENMEM_get_sharing_shared_pages",
        /// Memory paging.
        PagingOp = 20 => "XENMEM_paging_op",
        /// Memory access rights: [`MemAccessOp`].
        AccessOp = 21 => "XENMEM_access_op",
        /// Memory sharing.
        SharingOp = 22 => "XENMEM_sharing_op",
        /// Translated guests: maps several things: [`AddToPhysmapBatch`].
        AddToPhysmapBatch = 23 => "XENMEM_add_to_physmap_batch",
        /// Puts free pages aside for a domain: [`MemoryReservation`].
        ClaimPages = 24 => "XENMEM_claim_pages",
        /// The machine-to-physical table of 32-bit guests: [`MachphysMfnList`].
        MachphysCompatMfnList = 25 => "XENMEM_machphys_compat_mfn_list",
        /// Tells the virtual NUMA topology: [`VnumaTopologyInfo`].
        GetVnumainfo = 26 => "XENMEM_get_vnumainfo",
        /// Tells the regions that firmware reserves for devices: [`ReservedDeviceMemoryMap`].
        ReservedDeviceMemoryMap = 27 => "XENMEM_reserved_device_memory_map",
        /// Makes frames of the hypervisor that belong to a domain mappable: [`AcquireResource`].
        AcquireResource = 28 => "XENMEM_acquire_resource",
    }
}

abi_enum! {
    /// A kind of resource.
    pub enum ResourceType: u16 {
        /// Device model requests; hardware containers only.
        IoreqServer = 0 => "XENMEM_resource_ioreq_server",
        /// Grant table.
        GrantTable = 1 => "XENMEM_resource_grant_table",
        /// Trace buffer.
        VmtraceBuffer = 2 => "XENMEM_resource_vmtrace_buf",
    }
}

abi_enum! {
    /// What [`MemoryCommand::AddToPhysmap`] maps.
    #[doc(alias = "phys_map_space")]
    pub enum MapSpace: u32 {
        /// The shared info page.
        SharedInfo = 0 => "XENMAPSPACE_shared_info",
        /// A page of the grant table.
        GrantTable = 1 => "XENMAPSPACE_grant_table",
        /// A frame.
        Gmfn = 2 => "XENMAPSPACE_gmfn",
        /// Frames.
        GmfnRange = 3 => "XENMAPSPACE_gmfn_range",
        /// A frame of another domain.
        GmfnForeign = 4 => "XENMAPSPACE_gmfn_foreign",
        /// A device's registers; ARM only.
        DevMmio = 5 => "XENMAPSPACE_dev_mmio",
    }
}

abi_flags! {
    /// Which frames are asked for; bits 0-7 hold a number of address bits (0: any), bits 8-15 a node plus one.
    pub struct MemoryFlags: u32 {
        /// Populate on demand.
        const POPULATE_ON_DEMAND = 1 << 16 => "XENMEMF_populate_on_demand",
        /// From no other node.
        const EXACT_NODE_REQUEST = 1 << 17 => "XENMEMF_exact_node_request",
        /// The node is a virtual one.
        const VNODE = 1 << 18 => "XENMEMF_vnode",
    }
}

/// Bits of [`MemoryReservation::mem_flags`] that hold the number of address bits.
#[doc(alias = "XENMEMF_get_address_bits")]
pub const ADDRESS_BITS_MASK: u32 = 0xff;

abi_structs! {
    /// Some extents of a domain's memory.
    pub struct MemoryReservation = "struct xen_memory_reservation", 32 {
        /// First frame of each.
        pub extent_start: GuestHandle<u64>,
        /// Their number.
        pub nr_extents: u64,
        /// Binary logarithm of the pages in each.
        pub extent_order: u32,
        /// [`MemoryFlags`], address bits, node.
        pub mem_flags: u32,
        /// Domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: [u16; 3],
    }

    /// Argument of [`MemoryCommand::Exchange`].
    pub struct MemoryExchange = "struct xen_memory_exchange", 72 {
        /// In: what is given.
        pub input: MemoryReservation = "in",
        /// In: what is wanted, by pfn; out: what was got, by mfn.
        pub output: MemoryReservation = "out",
        /// In: 0; out: extents of the input that are gone.
        pub nr_exchanged: u64,
    }

    /// Argument of calls that only name a domain.
    pub struct MemoryDomain = "struct xen_memory_domain", 2 {
        /// Domain.
        pub domid: DomId,
    }

    /// Argument of [`MemoryCommand::MachphysMfnList`].
    pub struct MachphysMfnList = "struct xen_machphys_mfn_list", 24 {
        /// In: room in the list.
        pub max_extents: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: first frame (mfn) of each 2 MiB of the table.
        pub extent_start: GuestHandle<u64>,
        /// Out: their number.
        pub nr_extents: u32,
        /// Nothing.
        pub _pad1: u32,
    }

    /// Answer of [`MemoryCommand::MachphysMapping`].
    pub struct MachphysMapping = "struct xen_machphys_mapping", 24 {
        /// First virtual address.
        pub v_start: u64,
        /// Virtual address behind the last.
        pub v_end: u64,
        /// Highest mfn that can be looked up.
        pub max_mfn: u64,
    }

    /// Argument of [`MemoryCommand::AddToPhysmap`].
    pub struct AddToPhysmap = "struct xen_add_to_physmap", 24 {
        /// Domain.
        pub domid: DomId,
        /// Number of frames, for a range.
        pub size: u16,
        /// [`MapSpace`].
        pub space: u32,
        /// Which one.
        pub idx: u64,
        /// Where to.
        pub gpfn: u64,
    }

    /// Argument of [`MemoryCommand::AddToPhysmapBatch`].
    pub struct AddToPhysmapBatch = "struct xen_add_to_physmap_batch", 32 {
        /// Domain.
        pub domid: DomId,
        /// [`MapSpace`].
        pub space: u16,
        /// How many.
        pub size: u16,
        /// The domain whose frames they are, for some spaces.
        pub extra: u16 = "u",
        /// Which ones.
        pub idxs: GuestHandle<u64>,
        /// Where to.
        pub gpfns: GuestHandle<u64>,
        /// Out: an error of each.
        pub errs: GuestHandle<i32>,
    }

    /// Argument of [`MemoryCommand::RemoveFromPhysmap`].
    pub struct RemoveFromPhysmap = "struct xen_remove_from_physmap", 16 {
        /// Domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: [u16; 3],
        /// Where.
        pub gpfn: u64,
    }

    /// Argument of [`MemoryCommand::SetPodTarget`] and [`MemoryCommand::GetPodTarget`].
    pub struct PodTarget = "struct xen_pod_target", 40 {
        /// In: pages wanted.
        pub target_pages: u64,
        /// Out: pages of the domain.
        pub tot_pages: u64,
        /// Out: pages kept for it.
        pub pod_cache_pages: u64,
        /// Out: pages without a frame.
        pub pod_entries: u64,
        /// In: domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: [u16; 3],
    }

    /// Argument of [`MemoryCommand::AccessOp`].
    pub struct MemAccessOp = "struct xen_mem_access_op", 32 {
        /// What to do.
        pub op: u8,
        /// The rights.
        pub access: u8,
        /// Domain.
        pub domid: DomId,
        /// How many pages.
        pub nr: u32,
        /// The first.
        pub pfn: u64,
        /// Which ones.
        pub pfn_list: GuestHandle<u64>,
        /// The rights of each.
        pub access_list: GuestHandle<u8>,
    }

    /// One entry of a memory map, as the BIOS has it.
    pub struct E820Entry = "struct e820_entry", 20 {
        /// First byte.
        pub addr: [u8; 8],
        /// Bytes.
        pub size: [u8; 8],
        /// Kind: 1 RAM, 2 reserved, 3 ACPI tables, 4 ACPI storage, 5 unusable.
        pub kind: [u8; 4] = "type",
    }

    /// Argument of [`MemoryCommand::MemoryMap`] and [`MemoryCommand::MachineMemoryMap`].
    pub struct MemoryMap = "struct xen_memory_map", 16 {
        /// In: room for entries; out: entries.
        pub nr_entries: u32,
        /// Nothing.
        pub _pad0: u32,
        /// Out: the entries.
        pub buffer: GuestHandle<E820Entry>,
    }

    /// Argument of [`MemoryCommand::SetMemoryMap`].
    pub struct ForeignMemoryMap = "struct xen_foreign_memory_map", 24 {
        /// Domain.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: [u16; 3],
        /// Its map.
        pub map: MemoryMap,
    }

    /// One region that firmware reserves.
    pub struct ReservedDeviceMemory = "struct xen_reserved_device_memory", 16 {
        /// First frame.
        pub start_pfn: u64,
        /// Frames.
        pub nr_pages: u64,
    }

    /// Argument of [`MemoryCommand::ReservedDeviceMemoryMap`].
    pub struct ReservedDeviceMemoryMap = "struct xen_reserved_device_memory_map", 24 {
        /// In: [`RDM_ALL`] or 0.
        pub flags: u32,
        /// In: room for entries; out: entries.
        pub nr_entries: u32,
        /// Out: the entries.
        pub buffer: GuestHandle<ReservedDeviceMemory>,
        /// In: the device.
        pub pci: PciDevice = "dev.pci",
        /// Nothing.
        pub _pad0: u32,
    }

    /// Argument of [`MemoryCommand::AcquireResource`].
    pub struct AcquireResource = "struct xen_mem_acquire_resource", 32 {
        /// In: domain.
        pub domid: DomId,
        /// In: [`ResourceType`].
        pub kind: u16 = "type",
        /// In: which one of that type.
        pub id: u32,
        /// In: frames wanted, 0 to ask for the size; out: frames.
        pub nr_frames: u32,
        /// Zero.
        pub pad: u32,
        /// In: first frame of the resource.
        pub frame: u64,
        /// Out: frames (mfn).
        pub frame_list: GuestHandle<u64>,
    }

    /// One range of a virtual node's memory.
    pub struct Vmemrange = "struct xen_vmemrange", 24 {
        /// First byte.
        pub start: u64,
        /// Byte behind the last.
        pub end: u64,
        /// Zero.
        pub flags: u32,
        /// Node.
        pub nid: u32,
    }

    /// Argument of [`MemoryCommand::GetVnumainfo`].
    pub struct VnumaTopologyInfo = "struct xen_vnuma_topology_info", 40 {
        /// In: domain.
        pub domid: DomId,
        /// Zero.
        pub pad: u16,
        /// In: room for nodes; out: nodes.
        pub nr_vnodes: u32,
        /// In: room for vCPUs; out: vCPUs.
        pub nr_vcpus: u32,
        /// In: room for ranges; out: ranges.
        pub nr_vmemranges: u32,
        /// Out: distance of each pair of nodes.
        pub vdistance: GuestHandle<u32>,
        /// Out: node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32>,
        /// Out: the ranges.
        pub vmemrange: GuestHandle<Vmemrange>,
    }
}

impl E820Entry {
    /// Says that the bytes from `addr` on are of a kind.
    pub const fn new(addr: u64, size: u64, kind: u32) -> Self {
        Self {
            addr: addr.to_le_bytes(),
            size: size.to_le_bytes(),
            kind: kind.to_le_bytes(),
        }
    }

    /// First byte.
    pub const fn addr(&self) -> u64 {
        u64::from_le_bytes(self.addr)
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        u64::from_le_bytes(self.size)
    }

    /// Kind.
    pub const fn kind(&self) -> u32 {
        u32::from_le_bytes(self.kind)
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    MemoryCommand::CONSTANTS,
    ResourceType::CONSTANTS,
    MapSpace::CONSTANTS,
    MemoryFlags::CONSTANTS,
];
