//! Block devices. ABI: `public/io/blkif.h`, the form of 64-bit guests.

use crate::ids::GrantRef;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs};

abi_constants! {
    /// Segments of a plain request.
    pub const MAX_SEGMENTS_PER_REQUEST: usize = 11 => "BLKIF_MAX_SEGMENTS_PER_REQUEST";
    /// Pages of segments of an indirect request.
    pub const MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8 => "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST";
    /// [`RequestDiscard::flag`]: the data must not be recoverable.
    pub const DISCARD_SECURE: u8 = 1 => "BLKIF_DISCARD_SECURE";
}

/// Bytes of a sector, whatever the disk's.
pub const SECTOR_SIZE: usize = 512;

abi_enum! {
    /// A request.
    pub enum BlockOp: u8 {
        /// Reads.
        Read = 0 => "BLKIF_OP_READ",
        /// Writes.
        Write = 1 => "BLKIF_OP_WRITE",
        /// Writes after all before it and before all behind it.
        WriteBarrier = 2 => "BLKIF_OP_WRITE_BARRIER",
        /// Writes caches back.
        FlushDiskCache = 3 => "BLKIF_OP_FLUSH_DISKCACHE",
        /// Taken.
        Reserved1 = 4 => "BLKIF_OP_RESERVED_1",
        /// Gives sectors up.
        Discard = 5 => "BLKIF_OP_DISCARD",
        /// Reads or writes many segments.
        Indirect = 6 => "BLKIF_OP_INDIRECT",
    }
}

abi_enum! {
    /// How a request ended.
    pub enum BlockStatus: i16 {
        /// It is not supported.
        NotSupported = -2 => "BLKIF_RSP_EOPNOTSUPP",
        /// It failed.
        Error = -1 => "BLKIF_RSP_ERROR",
        /// Done.
        Okay = 0 => "BLKIF_RSP_OKAY",
    }
}

abi_flags! {
    /// What a disk is.
    pub struct DiskFlags: u32 {
        /// A CD-ROM.
        const CDROM = 1 => "VDISK_CDROM",
        /// Removable.
        const REMOVABLE = 2 => "VDISK_REMOVABLE",
        /// Read-only.
        const READONLY = 4 => "VDISK_READONLY",
    }
}

abi_structs! {
    /// One piece of memory.
    pub struct Segment = "struct blkif_request_segment", 8 {
        /// Granted frame.
        pub gref: GrantRef,
        /// First sector of the frame, 0-7.
        pub first_sect: u8,
        /// Last sector of the frame, 0-7.
        pub last_sect: u8,
        /// Nothing.
        pub _pad0: u16,
    }

    /// A request.
    pub struct Request = "struct blkif_request", 112 {
        /// [`BlockOp`].
        pub operation: u8,
        /// Segments.
        pub nr_segments: u8,
        /// Disk.
        pub handle: u16,
        /// Nothing.
        pub _pad0: u32,
        /// Returned in the response.
        pub id: u64,
        /// First sector of the disk.
        pub sector_number: u64,
        /// The segments.
        pub seg: [Segment; 11],
    }

    /// A request to give sectors up, in the place of a [`Request`].
    pub struct RequestDiscard = "struct blkif_request_discard", 32 {
        /// [`BlockOp::Discard`].
        pub operation: u8,
        /// [`DISCARD_SECURE`] or 0.
        pub flag: u8,
        /// Disk.
        pub handle: u16,
        /// Nothing.
        pub _pad0: u32,
        /// Returned in the response.
        pub id: u64,
        /// First sector of the disk.
        pub sector_number: u64,
        /// Sectors.
        pub nr_sectors: u64,
    }

    /// A request with many segments, in the place of a [`Request`].
    pub struct RequestIndirect = "struct blkif_request_indirect", 64 {
        /// [`BlockOp::Indirect`].
        pub operation: u8,
        /// [`BlockOp::Read`] or [`BlockOp::Write`].
        pub indirect_op: u8,
        /// Segments.
        pub nr_segments: u16,
        /// Nothing.
        pub _pad0: u32,
        /// Returned in the response.
        pub id: u64,
        /// First sector of the disk.
        pub sector_number: u64,
        /// Disk.
        pub handle: u16,
        /// Nothing.
        pub _pad1: u16,
        /// Granted frames full of [`Segment`]s.
        pub indirect_grefs: [GrantRef; 8],
        /// Nothing.
        pub _pad2: u32,
    }

    /// A response.
    pub struct Response = "struct blkif_response", 16 {
        /// The request's.
        pub id: u64,
        /// The request's.
        pub operation: u8,
        /// Nothing.
        pub _pad0: u8,
        /// [`BlockStatus`].
        pub status: i16,
        /// Nothing.
        pub _pad1: u32,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    BlockOp::CONSTANTS,
    BlockStatus::CONSTANTS,
    DiskFlags::CONSTANTS,
];
