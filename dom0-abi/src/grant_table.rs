//! Grant tables. ABI: `public/grant_table.h`. Version 1 of the table; of version 2 only what a negotiation needs.

use crate::handle::GuestHandle;
use crate::ids::{DomId, GrantRef};
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

abi_constants! {
    /// First entries, which survive a change of version.
    pub const NR_RESERVED_ENTRIES: u32 = 8 => "GNTTAB_NR_RESERVED_ENTRIES";
    /// Entry of the console page.
    pub const RESERVED_CONSOLE: u32 = 0 => "GNTTAB_RESERVED_CONSOLE";
    /// Entry of the xenstore page.
    pub const RESERVED_XENSTORE: u32 = 1 => "GNTTAB_RESERVED_XENSTORE";
    /// Bits of an entry's flags that hold its [`GrantType`].
    pub const GTF_TYPE_MASK: u16 = 3 => "GTF_type_mask";
    /// Bits of a map request's flags that go to the software bits of the page-table entry.
    pub const GNTMAP_GUEST_AVAIL_MASK: u32 = !0 << 16 => "GNTMAP_guest_avail_mask";
}

/// Entries of version 1 in a frame of a grant table.
pub const ENTRIES_PER_FRAME: usize = 512;

abi_enum! {
    /// What an entry of a grant table allows.
    pub enum GrantType: u16 {
        /// Nothing.
        Invalid = 0 => "GTF_invalid",
        /// Access to a frame.
        PermitAccess = 1 => "GTF_permit_access",
        /// The transfer of a frame to the granter.
        AcceptTransfer = 2 => "GTF_accept_transfer",
        /// Version 2: access to what somebody else granted.
        Transitive = 3 => "GTF_transitive",
    }
}

abi_flags! {
    /// The other bits of an entry's flags. Bits 2 and 3 of a transfer mean [`TransferFlags`].
    pub struct GrantFlags: u16 {
        /// Reading only.
        const READONLY = 1 << 2 => "GTF_readonly",
        /// Set by the hypervisor: somebody can read.
        const READING = 1 << 3 => "GTF_reading",
        /// Set by the hypervisor: somebody can write.
        const WRITING = 1 << 4 => "GTF_writing",
        /// Cacheability of maps.
        const PWT = 1 << 5 => "GTF_PWT",
        /// Cacheability of maps.
        const PCD = 1 << 6 => "GTF_PCD",
        /// Cacheability of maps.
        const PAT = 1 << 7 => "GTF_PAT",
        /// Version 2: access to a part of the frame.
        const SUB_PAGE = 1 << 8 => "GTF_sub_page",
    }
}

abi_flags! {
    /// How far a transfer is.
    pub struct TransferFlags: u16 {
        /// It is under way.
        const COMMITTED = 1 << 2 => "GTF_transfer_committed",
        /// It is done.
        const COMPLETED = 1 << 3 => "GTF_transfer_completed",
    }
}

abi_enum! {
    /// A command of `grant_table_op`.
    #[doc(alias = "grant_table_op")]
    pub enum GrantTableCommand: u32 {
        /// Maps granted frames: [`MapGrantRef`].
        MapGrantRef = 0 => "GNTTABOP_map_grant_ref",
        /// Ends maps: [`UnmapGrantRef`].
        UnmapGrantRef = 1 => "GNTTABOP_unmap_grant_ref",
        /// Tells the frames of a table: [`SetupTable`].
        SetupTable = 2 => "GNTTABOP_setup_table",
        /// Prints a table: [`DumpTable`].
        DumpTable = 3 => "GNTTABOP_dump_table",
        /// Gives frames away: [`Transfer`].
        Transfer = 4 => "GNTTABOP_transfer",
        /// Copies between granted frames: [`GrantCopy`].
        Copy = 5 => "GNTTABOP_copy",
        /// Tells the size of a table: [`QuerySize`].
        QuerySize = 6 => "GNTTABOP_query_size",
        /// Ends maps and moves other pages in their place: [`UnmapAndReplace`].
        UnmapAndReplace = 7 => "GNTTABOP_unmap_and_replace",
        /// Chooses the version of the table: [`SetVersion`].
        SetVersion = 8 => "GNTTABOP_set_version",
        /// Version 2: tells the frames of the status array: [`GetStatusFrames`].
        GetStatusFrames = 9 => "GNTTABOP_get_status_frames",
        /// Tells the version of a table: [`GetVersion`].
        GetVersion = 10 => "GNTTABOP_get_version",
        /// Swaps two entries: [`SwapGrantRef`].
        SwapGrantRef = 11 => "GNTTABOP_swap_grant_ref",
        /// Writes caches back: [`CacheFlush`].
        CacheFlush = 12 => "GNTTABOP_cache_flush",
    }
}

abi_flags! {
    /// How to map; bits 16-31 are [`GNTMAP_GUEST_AVAIL_MASK`].
    pub struct MapFlags: u32 {
        /// For devices.
        const DEVICE_MAP = 1 << 0 => "GNTMAP_device_map",
        /// For CPUs.
        const HOST_MAP = 1 << 1 => "GNTMAP_host_map",
        /// For reading.
        const READONLY = 1 << 2 => "GNTMAP_readonly",
        /// For the guest's user mode too.
        const APPLICATION_MAP = 1 << 3 => "GNTMAP_application_map",
        /// The address is the machine address of a level-1 entry, not a virtual one.
        const CONTAINS_PTE = 1 << 4 => "GNTMAP_contains_pte",
    }
}

abi_flags! {
    /// Which ends of a copy are grants.
    pub struct CopyFlags: u16 {
        /// The source.
        const SOURCE_GREF = 1 << 0 => "GNTCOPY_source_gref",
        /// The destination.
        const DEST_GREF = 1 << 1 => "GNTCOPY_dest_gref",
    }
}

abi_flags! {
    /// What to do with caches.
    pub struct CacheFlags: u32 {
        /// Write back.
        const CLEAN = 1 << 0 => "GNTTAB_CACHE_CLEAN",
        /// Drop.
        const INVAL = 1 << 1 => "GNTTAB_CACHE_INVAL",
        /// The place is a grant.
        const SOURCE_GREF = 1 << 31 => "GNTTAB_CACHE_SOURCE_GREF",
    }
}

abi_enum! {
    /// How one operation ended.
    #[doc(alias = "grant_status")]
    pub enum GrantStatus: i16 {
        /// Done.
        Okay = 0 => "GNTST_okay",
        /// Some error.
        GeneralError = -1 => "GNTST_general_error",
        /// No such domain.
        BadDomain = -2 => "GNTST_bad_domain",
        /// No such grant, or not for this.
        BadGntref = -3 => "GNTST_bad_gntref",
        /// No such map.
        BadHandle = -4 => "GNTST_bad_handle",
        /// Nothing can be mapped at the address.
        BadVirtAddr = -5 => "GNTST_bad_virt_addr",
        /// Not the device address of the map.
        BadDevAddr = -6 => "GNTST_bad_dev_addr",
        /// The IOMMU is full.
        NoDeviceSpace = -7 => "GNTST_no_device_space",
        /// Not allowed.
        PermissionDenied = -8 => "GNTST_permission_denied",
        /// Not a frame for this.
        BadPage = -9 => "GNTST_bad_page",
        /// The copy crosses a frame.
        BadCopyArg = -10 => "GNTST_bad_copy_arg",
        /// The frame's address is too high.
        AddressTooBig = -11 => "GNTST_address_too_big",
        /// Not now.
        Eagain = -12 => "GNTST_eagain",
        /// No map is left.
        NoSpace = -13 => "GNTST_no_space",
    }
}

abi_structs! {
    /// An entry of a grant table, version 1.
    pub struct GrantEntryV1 = "struct grant_entry_v1", 8 {
        /// [`GrantType`] and [`GrantFlags`].
        pub flags: u16,
        /// Domain that is allowed.
        pub domid: DomId,
        /// Frame.
        pub frame: u32,
    }

    /// One operation of [`GrantTableCommand::MapGrantRef`].
    pub struct MapGrantRef = "struct gnttab_map_grant_ref", 32 {
        /// In: where to map.
        pub host_addr: u64,
        /// In: [`MapFlags`].
        pub flags: u32,
        /// In: the granter's reference.
        pub grant_ref: GrantRef = "ref",
        /// In: the granter.
        pub dom: DomId,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Out: name of the map.
        pub handle: u32,
        /// Out: machine address.
        pub dev_bus_addr: u64,
    }

    /// One operation of [`GrantTableCommand::UnmapGrantRef`].
    pub struct UnmapGrantRef = "struct gnttab_unmap_grant_ref", 24 {
        /// In: where it is mapped for CPUs, or 0.
        pub host_addr: u64,
        /// In: where it is mapped for devices, or 0.
        pub dev_bus_addr: u64,
        /// In: name of the map.
        pub handle: u32,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad0: u16,
    }

    /// Argument of [`GrantTableCommand::SetupTable`].
    pub struct SetupTable = "struct gnttab_setup_table", 24 {
        /// In: domain.
        pub dom: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: frames asked for; the table grows to as many.
        pub nr_frames: u32,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad1: [u16; 3],
        /// Out: the frames (mfn).
        pub frame_list: GuestHandle<u64>,
    }

    /// Argument of [`GrantTableCommand::DumpTable`].
    pub struct DumpTable = "struct gnttab_dump_table", 4 {
        /// In: domain.
        pub dom: DomId,
        /// Out: [`GrantStatus`].
        pub status: i16,
    }

    /// One operation of [`GrantTableCommand::Transfer`].
    pub struct Transfer = "struct gnttab_transfer", 24 {
        /// In: frame to give away (mfn).
        pub mfn: u64,
        /// In: who gets it.
        pub domid: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// In: the reference that accepts it.
        pub grant_ref: GrantRef = "ref",
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad1: [u16; 3],
    }

    /// One end of a [`GrantCopy`].
    pub struct CopyPtr = "struct gnttab_copy_ptr", 16 {
        /// Grant reference (low 32 bits), or frame.
        pub u: u64,
        /// Domain.
        pub domid: DomId,
        /// Bytes from the start of the frame.
        pub offset: u16,
        /// Nothing.
        pub _pad0: u32,
    }

    /// One operation of [`GrantTableCommand::Copy`].
    pub struct GrantCopy = "struct gnttab_copy", 40 {
        /// In: from where.
        pub source: CopyPtr,
        /// In: to where.
        pub dest: CopyPtr,
        /// In: bytes.
        pub len: u16,
        /// In: [`CopyFlags`].
        pub flags: u16,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad0: u16,
    }

    /// Argument of [`GrantTableCommand::QuerySize`].
    pub struct QuerySize = "struct gnttab_query_size", 16 {
        /// In: domain.
        pub dom: DomId,
        /// Nothing.
        pub _pad0: u16,
        /// Out: frames of the table.
        pub nr_frames: u32,
        /// Out: frames that it can have.
        pub max_nr_frames: u32,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad1: u16,
    }

    /// One operation of [`GrantTableCommand::UnmapAndReplace`].
    pub struct UnmapAndReplace = "struct gnttab_unmap_and_replace", 24 {
        /// In: where it is mapped.
        pub host_addr: u64,
        /// In: whose entry goes there instead.
        pub new_addr: u64,
        /// In: name of the map.
        pub handle: u32,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad0: u16,
    }

    /// Argument of [`GrantTableCommand::SetVersion`].
    pub struct SetVersion = "struct gnttab_set_version", 4 {
        /// In: version wanted, 1 or 2; out: version in use.
        pub version: u32,
    }

    /// Argument of [`GrantTableCommand::GetStatusFrames`].
    pub struct GetStatusFrames = "struct gnttab_get_status_frames", 16 {
        /// In: frames asked for.
        pub nr_frames: u32,
        /// In: domain.
        pub dom: DomId,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Out: the frames.
        pub frame_list: GuestHandle<u64>,
    }

    /// Argument of [`GrantTableCommand::GetVersion`].
    pub struct GetVersion = "struct gnttab_get_version", 8 {
        /// In: domain.
        pub dom: DomId,
        /// Nothing.
        pub pad: u16,
        /// Out: version.
        pub version: u32,
    }

    /// One operation of [`GrantTableCommand::SwapGrantRef`].
    pub struct SwapGrantRef = "struct gnttab_swap_grant_ref", 12 {
        /// In: one.
        pub ref_a: GrantRef,
        /// In: the other.
        pub ref_b: GrantRef,
        /// Out: [`GrantStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad0: u16,
    }

    /// One operation of [`GrantTableCommand::CacheFlush`].
    pub struct CacheFlush = "struct gnttab_cache_flush", 16 {
        /// In: machine address, or grant reference as a `u32`. See [`Self::variant`].
        pub u: [u8; 8] = "a",
        /// In: bytes from the start of the frame.
        pub offset: u16,
        /// In: bytes.
        pub length: u16,
        /// In: [`CacheFlags`].
        pub op: u32,
    }
}

union_bytes!(CacheFlush, 8);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    GrantType::CONSTANTS,
    GrantFlags::CONSTANTS,
    TransferFlags::CONSTANTS,
    GrantTableCommand::CONSTANTS,
    MapFlags::CONSTANTS,
    CopyFlags::CONSTANTS,
    CacheFlags::CONSTANTS,
    GrantStatus::CONSTANTS,
];
