//! The xenstore page and its messages. ABI: `public/io/xs_wire.h`.

use crate::record::{Group, abi_constants, abi_enum, abi_flags, abi_structs};

abi_constants! {
    /// Bytes of each ring.
    pub const RING_SIZE: usize = 1024 => "XENSTORE_RING_SIZE";
    /// Bytes that may follow a message's header; more breaks the connection.
    pub const PAYLOAD_MAX: usize = 4096 => "XENSTORE_PAYLOAD_MAX";
    /// Bytes of an absolute path, the final zero included.
    pub const ABS_PATH_MAX: usize = 3072 => "XENSTORE_ABS_PATH_MAX";
    /// Bytes of a relative path, the final zero included.
    pub const REL_PATH_MAX: usize = 2048 => "XENSTORE_REL_PATH_MAX";
}

abi_enum! {
    /// What a message is.
    #[doc(alias = "xsd_sockmsg_type")]
    pub enum MessageType: u32 {
        /// Commands to the daemon.
        Control = 0 => "XS_CONTROL",
        /// Lists children.
        Directory = 1 => "XS_DIRECTORY",
        /// Reads a value.
        Read = 2 => "XS_READ",
        /// Reads permissions.
        GetPerms = 3 => "XS_GET_PERMS",
        /// Watches a path.
        Watch = 4 => "XS_WATCH",
        /// Ends a watch.
        Unwatch = 5 => "XS_UNWATCH",
        /// Begins a transaction.
        TransactionStart = 6 => "XS_TRANSACTION_START",
        /// Ends a transaction.
        TransactionEnd = 7 => "XS_TRANSACTION_END",
        /// Tells of a new domain.
        Introduce = 8 => "XS_INTRODUCE",
        /// Tells that a domain is gone.
        Release = 9 => "XS_RELEASE",
        /// Asks for a domain's path.
        GetDomainPath = 10 => "XS_GET_DOMAIN_PATH",
        /// Writes a value.
        Write = 11 => "XS_WRITE",
        /// Makes a node.
        Mkdir = 12 => "XS_MKDIR",
        /// Removes a node.
        Rm = 13 => "XS_RM",
        /// Sets permissions.
        SetPerms = 14 => "XS_SET_PERMS",
        /// To the guest: something watched changed.
        WatchEvent = 15 => "XS_WATCH_EVENT",
        /// To the guest: the name of an error.
        Error = 16 => "XS_ERROR",
        /// Asks whether a domain is known.
        IsDomainIntroduced = 17 => "XS_IS_DOMAIN_INTRODUCED",
        /// Tells that a domain goes on.
        Resume = 18 => "XS_RESUME",
        /// Gives a domain power over another.
        SetTarget = 19 => "XS_SET_TARGET",
        /// Ends all watches.
        ResetWatches = 21 => "XS_RESET_WATCHES",
        /// Lists a part of many children.
        DirectoryPart = 22 => "XS_DIRECTORY_PART",
    }
}

abi_flags! {
    /// What the daemon can do.
    pub struct ServerFeatures: u32 {
        /// The guest may connect anew.
        const RECONNECTION = 1 => "XENSTORE_SERVER_FEATURE_RECONNECTION",
        /// Errors are told.
        const ERROR = 2 => "XENSTORE_SERVER_FEATURE_ERROR",
    }
}

abi_enum! {
    /// State of the connection.
    pub enum ConnectionState: u32 {
        /// It works.
        Connected = 0 => "XENSTORE_CONNECTED",
        /// It is being made anew.
        Reconnect = 1 => "XENSTORE_RECONNECT",
    }
}

abi_enum! {
    /// Why a connection broke.
    pub enum ConnectionError: u32 {
        /// It did not.
        None = 0 => "XENSTORE_ERROR_NONE",
        /// Communication failed.
        Comm = 1 => "XENSTORE_ERROR_COMM",
        /// An index was wrong.
        RingIndex = 2 => "XENSTORE_ERROR_RINGIDX",
        /// A message was wrong.
        Protocol = 3 => "XENSTORE_ERROR_PROTO",
    }
}

abi_structs! {
    /// Header of a message.
    pub struct Message = "struct xsd_sockmsg", 16 {
        /// [`MessageType`].
        pub kind: u32 = "type",
        /// Number of the request, repeated in the answer.
        pub req_id: u32,
        /// Transaction, or 0.
        pub tx_id: u32,
        /// Bytes that follow.
        pub len: u32,
    }

    /// Two rings of bytes. Indices run freely; their remainder by the ring's size is the place.
    pub struct StoreInterface = "struct xenstore_domain_interface", 2076 {
        /// From the guest.
        pub req: [u8; 1024],
        /// To the guest.
        pub rsp: [u8; 1024],
        /// Read from the guest.
        pub req_cons: u32,
        /// Written by the guest.
        pub req_prod: u32,
        /// Read by the guest.
        pub rsp_cons: u32,
        /// Written for the guest.
        pub rsp_prod: u32,
        /// [`ServerFeatures`].
        pub server_features: u32,
        /// [`ConnectionState`].
        pub connection: u32,
        /// [`ConnectionError`].
        pub error: u32,
    }
}

/// The records of this module's constants.
pub const CONSTANTS: &[Group] = &[
    VALUES,
    MessageType::CONSTANTS,
    ServerFeatures::CONSTANTS,
    ConnectionState::CONSTANTS,
    ConnectionError::CONSTANTS,
];
