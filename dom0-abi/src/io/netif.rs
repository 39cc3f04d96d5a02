//! Network devices. ABI: `public/io/netif.h`.

use crate::ids::GrantRef;
use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

abi_constants! {
    /// Pieces of a packet that every backend takes.
    pub const NR_SLOTS_MIN: usize = 18 => "XEN_NETIF_NR_SLOTS_MIN";
    /// Bytes of a packet.
    pub const MAX_TX_SIZE: usize = 0xffff => "XEN_NETIF_MAX_TX_SIZE";
    /// [`ExtraInfo::flags`]: another one follows.
    pub const EXTRA_FLAG_MORE: u8 = 1 => "XEN_NETIF_EXTRA_FLAG_MORE";
}

abi_flags! {
    /// What is to be known of a packet sent.
    pub struct TxFlags: u16 {
        /// Its checksum is to be filled in.
        const CSUM_BLANK = 1 << 0 => "NETTXF_csum_blank",
        /// Its checksum is right.
        const DATA_VALIDATED = 1 << 1 => "NETTXF_data_validated",
        /// It goes on in the next request.
        const MORE_DATA = 1 << 2 => "NETTXF_more_data",
        /// An [`ExtraInfo`] follows.
        const EXTRA_INFO = 1 << 3 => "NETTXF_extra_info",
    }
}

abi_flags! {
    /// What is to be known of a packet received.
    pub struct RxFlags: u16 {
        /// Its checksum is right.
        const DATA_VALIDATED = 1 << 0 => "NETRXF_data_validated",
        /// Its checksum is to be filled in.
        const CSUM_BLANK = 1 << 1 => "NETRXF_csum_blank",
        /// It goes on in the next response.
        const MORE_DATA = 1 << 2 => "NETRXF_more_data",
        /// An [`ExtraInfo`] follows.
        const EXTRA_INFO = 1 << 3 => "NETRXF_extra_info",
        /// This response only tells the segment size of the next.
        const GSO_PREFIX = 1 << 4 => "NETRXF_gso_prefix",
    }
}

abi_enum! {
    /// What an [`ExtraInfo`] is about.
    pub enum ExtraType: u8 {
        /// Nothing.
        None = 0 => "XEN_NETIF_EXTRA_TYPE_NONE",
        /// Segmentation: [`ExtraGso`].
        Gso = 1 => "XEN_NETIF_EXTRA_TYPE_GSO",
        /// A multicast address wanted: its 6 bytes.
        McastAdd = 2 => "XEN_NETIF_EXTRA_TYPE_MCAST_ADD",
        /// A multicast address no longer wanted: its 6 bytes.
        McastDel = 3 => "XEN_NETIF_EXTRA_TYPE_MCAST_DEL",
        /// Hash of the connection: [`ExtraHash`].
        Hash = 4 => "XEN_NETIF_EXTRA_TYPE_HASH",
    }
}

abi_enum! {
    /// How a packet is to be segmented.
    pub enum GsoType: u8 {
        /// Not.
        None = 0 => "XEN_NETIF_GSO_TYPE_NONE",
        /// As TCP over IPv4.
        TcpV4 = 1 => "XEN_NETIF_GSO_TYPE_TCPV4",
        /// As TCP over IPv6.
        TcpV6 = 2 => "XEN_NETIF_GSO_TYPE_TCPV6",
    }
}

abi_enum! {
    /// How a request ended. In [`RxResponse::status`] a number from 0 on is a length instead.
    pub enum NetStatus: i16 {
        /// The packet was dropped.
        Dropped = -2 => "NETIF_RSP_DROPPED",
        /// It failed.
        Error = -1 => "NETIF_RSP_ERROR",
        /// Done.
        Okay = 0 => "NETIF_RSP_OKAY",
        /// The slot held no request.
        Null = 1 => "NETIF_RSP_NULL",
    }
}

abi_structs! {
    /// A piece of a packet to send; in the first piece `size` is the whole packet's.
    pub struct TxRequest = "struct netif_tx_request", 12 {
        /// Granted frame.
        pub gref: GrantRef,
        /// Bytes from its start.
        pub offset: u16,
        /// [`TxFlags`].
        pub flags: u16,
        /// Returned in the response.
        pub id: u16,
        /// Bytes.
        pub size: u16,
    }

    /// Something about a packet, in the place of a request or response behind its first.
    pub struct ExtraInfo = "struct netif_extra_info", 8 {
        /// [`ExtraType`].
        pub kind: u8 = "type",
        /// [`EXTRA_FLAG_MORE`] or 0.
        pub flags: u8,
        /// The type's structure. See [`Self::variant`].
        pub u: [u8; 6],
    }

    /// Variant of [`ExtraType::Gso`].
    pub struct ExtraGso = "struct netif_extra_info: u.gso", 6 {
        /// Bytes of a segment.
        pub size: u16,
        /// [`GsoType`].
        pub kind: u8 = "type",
        /// Nothing.
        pub pad: u8,
        /// Nothing yet.
        pub features: u16,
    }

    /// Variant of [`ExtraType::Hash`].
    pub struct ExtraHash = "struct netif_extra_info: u.hash", 6 {
        /// Bit number of the kind of connection.
        pub kind: u8 = "type",
        /// Algorithm.
        pub algorithm: u8,
        /// Value, little endian.
        pub value: [u8; 4],
    }

    /// A response to a [`TxRequest`].
    pub struct TxResponse = "struct netif_tx_response", 4 {
        /// The request's.
        pub id: u16,
        /// [`NetStatus`].
        pub status: i16,
    }

    /// A frame for what is received.
    pub struct RxRequest = "struct netif_rx_request", 8 {
        /// Returned in the response.
        pub id: u16,
        /// Nothing.
        pub pad: u16,
        /// Granted frame.
        pub gref: GrantRef,
    }

    /// A piece of a packet received.
    pub struct RxResponse = "struct netif_rx_response", 8 {
        /// The request's.
        pub id: u16,
        /// Bytes from the start of the frame.
        pub offset: u16,
        /// [`RxFlags`].
        pub flags: u16,
        /// Bytes, or a negative [`NetStatus`].
        pub status: i16,
    }
}

union_bytes!(ExtraInfo, 6);

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    TxFlags::CONSTANTS,
    RxFlags::CONSTANTS,
    ExtraType::CONSTANTS,
    GsoType::CONSTANTS,
    NetStatus::CONSTANTS,
];
